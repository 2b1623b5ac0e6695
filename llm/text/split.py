"""Which part of the text is held out: whole documents by a hash of their text, or the end of each document.

>>> split_of("00000000000000000000000000000000", val=0.05, test=0.05)
'val'
>>> cut("abcdefghij", val=0.1, test=0.2)
{'train': 'abcdefg', 'val': 'h', 'test': 'ij'}
"""


def split_of(doc_id: str, val: float, test: float) -> str:
    """The split of a document, from its id alone: adding a document moves no other one."""
    place = int(doc_id[:16], 16) / 16**16
    return "val" if place < val else "test" if place < val + test else "train"


def is_chosen(doc_id: str, share: float) -> bool:
    """Whether a document is among the `share` that is kept; independent of its split, as it is of all other ones.

    >>> is_chosen("ffffffffffffffff3000000000000000", share=0.25)
    True
    """
    return int(doc_id[16:], 16) / 16**16 < share


def cut(text: str, val: float, test: float) -> dict[str, str]:
    """Cut one text into up to three, in its order: the first part trains, the end is held out.

    The shares are of characters. A part that comes out empty is left out.
    """
    first = len(text) - round(len(text) * (val + test))
    second = len(text) - round(len(text) * test)
    parts = {"train": text[:first], "val": text[first:second], "test": text[second:]}
    return {split: part for split, part in parts.items() if part}
