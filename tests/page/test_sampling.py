"""Temperature, top-k and top-p leave what `llm.model.generate` leaves, and a seed decides the text."""

import random

import numpy as np
import pytest
import torch

from llm.model.generate import SamplingParams, filtered

DRAW = random.Random(1)
LOGITS = [round(DRAW.gauss(0, 3), 1) for _ in range(200)]  # with ties


@pytest.fixture(scope="module")
def opened(open_page, exported_folder):
    return open_page(exported_folder)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("top_k", [None, 1, 7, 40, 1000])
@pytest.mark.parametrize("top_p", [None, 0.0, 0.4, 0.95, 1.0])
def test_the_same_ids_have_the_same_probabilities(opened, temperature, top_k, top_p):
    options = {"temperature": temperature, "topK": top_k, "topP": top_p}
    got = opened.run("(logits, options) => candidates(Float32Array.from(logits), options)", LOGITS, options)
    expected = filtered(torch.tensor(LOGITS), SamplingParams(temperature, top_k, top_p)).softmax(-1)
    p = np.zeros(len(LOGITS))
    p[[one["id"] for one in got]] = [one["p"] for one in got]
    assert np.allclose(p, expected, atol=1e-6)
    assert [one["p"] for one in got] == sorted((one["p"] for one in got), reverse=True)


def test_temperature_0_is_greedy_and_the_first_of_equals(opened):
    script = "(logits) => candidates(Float32Array.from(logits), {temperature: 0})"
    assert opened.run(script, [1, 3, 3, 2]) == [{"id": 1, "p": 1}]


def test_ids_are_as_frequent_as_they_are_probable(opened):
    script = """(logits) => {
        const random = new Random(1), choices = candidates(Float32Array.from(logits)), counts = [0, 0, 0];
        for (let n = 0; n < 20000; n++) counts[pick(choices, random.next())] += 1;
        return counts; }"""
    counts = opened.run(script, list(np.log([0.2, 0.5, 0.3])))
    assert np.allclose(np.array(counts) / 20000, [0.2, 0.5, 0.3], atol=0.015)


def test_a_seed_decides_the_text(opened):
    script = """async (seed) => { const ids = [];
        for await (const id of tested.generate([0, 70], {seed, maxTokens: 20, topK: 50})) ids.push(id);
        return ids; }"""
    texts = [tuple(opened.run(script, seed)) for seed in (1, 1, 2, 3)]
    assert texts[0] == texts[1]
    assert len({*texts}) == 3
