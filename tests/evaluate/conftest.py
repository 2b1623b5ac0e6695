"""Fixtures of the tests of evaluation."""

from collections.abc import Callable

import numpy as np
import pytest

from llm.evaluate.measure import HeldOut
from llm.tokens.tokenizer import Tokenizer
from llm.tokens.windows import WindowsInfo


@pytest.fixture(scope="session")
def tokenizer(small_tokenizer_file) -> Tokenizer:
    return Tokenizer.load(small_tokenizer_file)


@pytest.fixture(scope="session")
def hold_out() -> Callable[..., HeldOut]:
    """Makes a split of documents of ids by source/path; every token has two bytes, the end of text has none."""

    def hold_out(documents, name="test", found=(), lossless=True):
        stream = np.array([0, *(token for ids in documents.values() for token in [*ids, 0])], dtype=np.uint16)
        info = WindowsInfo(320, 0, 1, 17, 17, "cross", {}, [], lossless)
        sources, paths = zip(*(key.split("/") for key in documents), strict=True)
        n_bytes = np.array([2 * len(ids) for ids in documents.values()])
        token_bytes = np.array([0] + [2] * 319)
        return HeldOut(
            name, stream, info, list(sources), list(paths), n_bytes, token_bytes, 3, np.isin(stream, list(found))
        )

    return hold_out
