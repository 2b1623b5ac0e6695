"""Fixtures of the tests of evaluation."""

import numpy as np
import pytest

from llm.evaluate.measure import HeldOut
from llm.tokens.windows import WindowsInfo


@pytest.fixture(scope="session")
def hold_out():
    """A maker of a split of documents of ids by source/path; a token has two bytes, an end of text none."""

    def hold_out(documents, name="test", found=()):
        stream = np.array([0, *(token for ids in documents.values() for token in [*ids, 0])], dtype=np.uint16)
        info = WindowsInfo(320, 0, 1, 17, 17, "cross", {}, [], True)
        sources = [path.partition("/")[0] for path in documents]
        n_bytes = np.array([2 * len(ids) for ids in documents.values()])
        token_bytes, is_found = np.array([0] + [2] * 319), np.isin(stream, list(found))
        return HeldOut(name, stream, info, sources, [*documents], n_bytes, token_bytes, 3, is_found)

    return hold_out
