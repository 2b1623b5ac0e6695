"""The tokens around a text: for our ids, and for the tokenizer.json that others load.

    to be continued     <|endoftext|> ids
    to be classified    ids <|endoftext|>
    two of these        ids <|eos|> ids <|endoftext|>

Every document of the training text stands behind an <|endoftext|>, so a text that is to be continued begins with one.
Of a text that is to be classified, the last token's hidden state is scored: the only position that has seen all of the
row, and always the same token.
"""

import json
from collections.abc import Mapping, Sequence

import tokenizers
from tokenizers import processors

from llm.tokens.special import END_OF_TEXT, EOS


def with_bos(library: tokenizers.Tokenizer, begin: str = END_OF_TEXT) -> tokenizers.Tokenizer:
    """Return the tokenizer with a post-processor that puts `begin` before each text; every client runs it."""
    begun = tokenizers.Tokenizer.from_str(library.to_str())
    begun.post_processor = processors.TemplateProcessing(
        single=f"{begin}:0 $A:0",
        pair=f"{begin}:0 $A:0 {begin}:1 $B:1",
        special_tokens=[(begin, library.token_to_id(begin))],
    )
    return begun


def min_tokens(n_texts: int) -> int:
    """The tokens of a row of one or two texts that keeps a token of each."""
    return 2 * n_texts


def classifier_ids(texts: Sequence[Sequence[int]], special: Mapping[str, int], max_tokens: int) -> list[int]:
    """The ids of one or two texts with their frame, at most `max_tokens`.

    A text is cut at its end; of two the longer one is cut first, as "longest_first" of `tokenizers` does it.

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


def with_classifier_template(library: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """The tokenizer with what puts the frame around a text or a pair of them, as `frame` does; every client runs it."""
    framed = tokenizers.Tokenizer.from_str(library.to_str())
    framed.post_processor = processors.TemplateProcessing(
        single=f"$A:0 {END_OF_TEXT}:0",
        pair=f"$A:0 {EOS}:0 $B:0 {END_OF_TEXT}:0",
        special_tokens=[(name, library.token_to_id(name)) for name in (END_OF_TEXT, EOS)],
    )
    return framed


def has_classifier_template(library: tokenizers.Tokenizer) -> bool:
    """Whether a tokenizer puts this frame around a text."""
    return _post_processor(library) == _post_processor(with_classifier_template(library))


def _post_processor(library: tokenizers.Tokenizer) -> object:
    return json.loads(library.to_str())["post_processor"]
