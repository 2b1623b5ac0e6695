r"""A tokenizer.json as tokenizer.js reads it; NoPageError for one whose ids it would not give.

"(?i:'s|'t)| ?\p{L}+|\s++(?![\s\S])"    Oniguruma
"'(?:[sSſ]|[tT])| ?\p{L}+|\p{White_Space}+(?![…])"    JavaScript, with the flag v
"""

import json
import re
from collections.abc import Iterable
from typing import Any

import tokenizers

from llm.page.errors import NoPageError
from llm.tokens.bpe import PATTERNS
from llm.tokens.special import SPECIAL_TOKENS
from llm.tokens.tokenizer import Tokenizer
from llm.tokens.tokenizer_json import is_byte_level, split_expression
from llm.tokens.words import train_chars, train_words

WORD = r"[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}¹²³¼½¾]"  # \w of Oniguruma; JavaScript's has ASCII alone
SPACE, NOT_SPACE = r"\p{White_Space}", r"\P{White_Space}"  # JavaScript's \s has U+FEFF, and lacks U+0085
EITHER_CASE = {"s": "[sSſ]"}  # the one letter of a contraction that Unicode has a third form of


def describe_tokenizer(library: tokenizers.Tokenizer, tokenizer: Tokenizer, ends: Iterable[int]) -> dict[str, Any]:
    """Return the data of the class Tokenizer of tokenizer.js, for ids below `tokenizer.vocab_size`."""
    content = json.loads(library.to_str())
    model, special = content["model"], sorted(tokenizer.special.values())
    n_tokens = tokenizer.vocab_size
    tokens = [str(library.id_to_token(token)) for token in range(n_tokens)]
    pattern, keep_gaps = _splitting(content)
    return {
        "tokens": tokens,
        "special": [token for token in special if token < n_tokens and token != tokenizer.unk_id],
        "merges": _merges(model) if model["type"] == "BPE" else None,
        "ignore_merges": bool(model.get("ignore_merges")),
        "pattern": pattern,
        "keep_gaps": keep_gaps,
        "joint": "" if content["decoder"] else " ",
        "unk": tokenizer.unk_id,
        "prefix": tokenizer.prefix_ids or [tokenizer.bos_id],
        "ends": sorted(ends),
    }


def _merges(model: dict[str, Any]) -> list[int]:
    """Return left, right and what they make of each merge, one after the other."""
    ids = model["vocab"]
    return [ids[part] for left, right in model["merges"] for part in (left, right, left + right)]


def _splitting(content: dict[str, Any]) -> tuple[str, bool]:
    """Return the split pattern in JavaScript, and whether text between its matches is kept."""
    if is_byte_level(content):
        expression = split_expression(content)
        if expression is not None and expression in PATTERNS.values():
            return to_javascript(expression), True
        raise NoPageError(f"tokenize.pattern: expected {', '.join(PATTERNS)}, which the page can run, got another one")
    for own, keep_gaps in _word_splitters():
        if content["pre_tokenizer"] == own and content["model"]["type"] == "WordLevel" and not content["normalizer"]:
            return to_javascript(own["pattern"]["Regex"]), keep_gaps
    got = content["model"]["type"]
    raise NoPageError(f"tokenizer.json: expected byte-level BPE, words or characters as made here, got another {got}")


def _word_splitters() -> list[tuple[dict[str, Any], bool]]:
    """Return the pre-tokenizers of our word and character vocabularies."""
    size = len(SPECIAL_TOKENS) + 2
    kept, dropped = (train_words([""], size, 1, keep_whitespace=keep) for keep in (True, False))
    chars = train_chars([""], size, 1)
    made = [(kept, True), (dropped, False), (chars, True)]
    return [(json.loads(library.to_str())["pre_tokenizer"], keep_gaps) for library, keep_gaps in made]


def to_javascript(expression: str) -> str:
    r"""Return a split pattern of ours in JavaScript's spelling, for the flag v.

    >>> to_javascript(r"(?i:'s|'ll)|\s++(?![\s\S])")
    "(?:'[sSſ]|'[lL][lL])|\\p{White_Space}+(?![\\p{White_Space}\\P{White_Space}])"
    """
    expression = re.sub(r"\(\?i:([^)]*)\)", lambda found: f"(?:{_in_either_case(found[1])})", expression)
    expression = expression.replace("++", "+")  # of whitespace before what is no whitespace: nothing to give back
    return expression.replace(r"\s", SPACE).replace(r"\S", NOT_SPACE).replace(r"\w", WORD)


def _in_either_case(letters: str) -> str:
    return re.sub("[a-z]", lambda found: EITHER_CASE.get(found[0], f"[{found[0]}{found[0].upper()}]"), letters)
