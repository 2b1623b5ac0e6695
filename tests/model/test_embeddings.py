import torch
from hypothesis import given
from hypothesis import strategies as st

from llm.model.embeddings import nearest


@given(st.integers(0, 2**32), st.integers(2, 9), st.integers(1, 12), st.data())
def test_the_nearest_are_those_of_a_slow_search(seed, n, top, data):
    embedding = torch.randn(n, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    token = data.draw(st.integers(0, n - 1))
    cosines = {
        other: float(row @ embedding[token] / (row.norm() * embedding[token].norm()))
        for other, row in enumerate(embedding)
        if other != token
    }
    expected = sorted(cosines, key=lambda other: -cosines[other])[:top]
    found = nearest(embedding, token, top)
    assert [other for other, _ in found] == expected
    assert all(abs(cosine - cosines[other]) < 1e-9 for other, cosine in found)
