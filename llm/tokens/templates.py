"""Add the special tokens around a text, to our ids and to the tokenizer.json that others load.

    to continue         <|endoftext|> ids
    to classify         ids <|endoftext|>
    a pair of them      ids <|eos|> ids <|endoftext|>

In training each document follows an <|endoftext|>, so a prompt begins with one. A classifier reads the hidden state of
the last token: the only position that attends to the whole row, and always the same token.
"""

import json
from collections.abc import Mapping, Sequence

import tokenizers
from tokenizers import processors

from llm.tokens.special import END_OF_TEXT, EOS


def with_bos(library: tokenizers.Tokenizer, bos: str = END_OF_TEXT) -> tokenizers.Tokenizer:
    """Return the tokenizer with a post-processor that puts `bos` before each text; every client runs it."""
    return _with_template(library, f"{bos}:0 $A:0", f"{bos}:0 $A:0 {bos}:1 $B:1", bos)


def with_classifier_template(library: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """Return the tokenizer with a post-processor that adds what `classifier_ids` adds."""
    pair = f"$A:0 {EOS}:0 $B:0 {END_OF_TEXT}:0"
    return _with_template(library, f"$A:0 {END_OF_TEXT}:0", pair, END_OF_TEXT, EOS)


def _with_template(library: tokenizers.Tokenizer, single: str, pair: str, *special: str) -> tokenizers.Tokenizer:
    copy = tokenizers.Tokenizer.from_str(library.to_str())
    ids = [(name, library.token_to_id(name)) for name in special]
    copy.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=ids)
    return copy


def has_classifier_template(library: tokenizers.Tokenizer) -> bool:
    """Return whether a tokenizer has the post-processor of `with_classifier_template`."""
    own, expected = (json.loads(each.to_str()) for each in (library, with_classifier_template(library)))
    return bool(own["post_processor"] == expected["post_processor"])


def min_tokens(n_texts: int) -> int:
    """Return the length of a row of one or two texts that keeps a token of each."""
    return 2 * n_texts


def classifier_ids(texts: Sequence[Sequence[int]], special: Mapping[str, int], max_tokens: int) -> list[int]:
    """Return the ids of one or two texts with their special tokens, at most `max_tokens`.

    A text is truncated at its end; of two the longer one first, as `tokenizers` does with "longest_first".

    >>> classifier_ids([[7, 8, 9]], {"<|endoftext|>": 0}, 3)
    [7, 8, 0]
    >>> classifier_ids([[7], [8, 9, 9, 9]], {"<|endoftext|>": 0, "<|eos|>": 3}, 5)
    [7, 3, 8, 9, 0]
    """
    assert max_tokens >= min_tokens(len(texts)), "room for a token of each text"
    room = max_tokens - len(texts)
    end = special[END_OF_TEXT]
    if len(texts) == 1:
        return [*texts[0][:room], end]
    first, second = texts
    if len(first) + len(second) > room:
        shorter = min(len(first), len(second), room // 2)
        n_first = shorter if len(first) <= len(second) else room - shorter
        first, second = first[:n_first], second[: room - n_first]
    return [*first, special[EOS], *second, end]
