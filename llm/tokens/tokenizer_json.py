"""Analyze the content of a tokenizer.json: which tokenizers give the same ids as the library's own."""

from typing import Any

from llm.tokens.bpe import ALPHABET, PATTERNS, parts_of, to_bytes


def special_ids(content: dict[str, Any]) -> dict[str, int]:
    """Return the ids of the special tokens."""
    return {token["content"]: token["id"] for token in content["added_tokens"] if token["special"]}


def components(component: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Flatten a normalizer, pre-tokenizer or decoder of a tokenizer.json: the parts of a Sequence, or itself."""
    if component is None:
        return []
    if component["type"] != "Sequence":
        return [component]
    inside = next(value for key, value in component.items() if key != "type")
    return [part for nested in inside for part in components(nested)]


def is_byte_level(content: dict[str, Any]) -> bool:
    """Return whether texts are split without loss and the model gets all bytes of the pieces, and only those.

    An added token that is not special may strip the whitespace beside it, so it counts as a loss.
    """
    return (
        _has_plain_bytes(content["model"])
        and _splits_without_loss(components(content["pre_tokenizer"]))
        and not components(content["normalizer"])
        and [part["type"] for part in components(content["decoder"])] == ["ByteLevel"]
        and all(token["special"] for token in content["added_tokens"])
    )


def _has_plain_bytes(model: dict[str, Any]) -> bool:
    if model["type"] != "BPE" or not ALPHABET.keys() <= model["vocab"].keys():
        return False
    return not (model["dropout"] or model["continuing_subword_prefix"] or model["end_of_word_suffix"])


def _splits_without_loss(splits: list[dict[str, Any]]) -> bool:
    kinds = [part["type"] for part in splits]
    changes = any(part.get("add_prefix_space") or part.get("behavior") == "Removed" for part in splits)
    return not changes and set(kinds) <= {"ByteLevel", "Split", "Digits"} and kinds.count("ByteLevel") == 1


def split_expression(content: dict[str, Any]) -> str | None:
    """Return the one regular expression that splits a text, or None where something else does."""
    match components(content["pre_tokenizer"]):
        case [{"type": "ByteLevel", "use_regex": True}]:
            return PATTERNS["gpt2"]
        case [
            {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "use_regex": False},
        ]:
            return expression
    return None


def token_ranks(content: dict[str, Any]) -> dict[bytes, int]:
    """Return the id of each token's bytes, special tokens left out."""
    special = special_ids(content)
    return {to_bytes(name): token for name, token in content["model"]["vocab"].items() if name not in special}


def merges_in_order(content: dict[str, Any]) -> bool:
    """Return whether the merge with the lowest id, which tiktoken takes, is always the first in the list.

    It is when merges are listed in the order of what they make, and the two `parts_of` each token are a listed pair:
    two neighbors in any text are merged as they would be with nothing around them, so no other pair that makes the
    token ever occurs. A token of more than two parts is found as a whole piece only: that is `ignore_merges`, which
    tiktoken always has.
    """
    model = content["model"]
    try:
        ranks = token_ranks(content)
        made = [model["vocab"][first + second] for first, second in model["merges"]]
        listed = {(to_bytes(first), to_bytes(second)) for first, second in model["merges"]}
    except KeyError:
        return False
    if made != sorted(made) or not set(made) <= set(ranks.values()):
        return False
    parts = [tuple(parts_of(token, ranks)) for token in ranks if len(token) > 1]
    return all(pair in listed if len(pair) == 2 else model["ignore_merges"] for pair in parts)
