"""What systems and metrics are called in reports; the words are in glossary.toml."""

import tomllib
from pathlib import Path
from typing import NamedTuple

SHORT, LONG = 25, 50  # tokens of a verbatim continuation
QUALITY = ("texts", "words", "real_words", "distinct_3grams", "repetition_flagged", "sections_parsed")


class Title(NamedTuple):
    """A name for readers, with a sentence that explains it."""

    name: str
    note: str = ""


TITLES = {
    key: Title(*words)
    for key, words in tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8")).items()
}


def title(name: str) -> Title:
    """Return the title of a system or metric; an unknown name gets blanks for its underscores.

    >>> title("macro_f1").name, title("a_new_one").name
    ('macro-F1', 'a new one')
    """
    return TITLES.get(name) or Title(name.replace("_", " "))
