r"""Raw text in, prepared text out: what every later figure (bytes, bits per byte) refers to.

>>> normalise("A\r\nB\rC")
'A\nB\nC'
>>> normalise("e\u0301")  # two code points for é become one
'é'
"""

import hashlib
import unicodedata


def normalise(text: str) -> str:
    """Unix newlines, Unicode's composed form (NFC), no byte-order mark."""
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    return unicodedata.normalize("NFC", text)


def document_id(text: str) -> str:
    """A name for a text: 32 hexadecimal digits of its sha256. Equal texts have equal names."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:32]
