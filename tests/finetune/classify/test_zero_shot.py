"""A label's score is what the model's own logits say of its words, however it is batched and however long the text."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.core.device import Machine
from llm.core.errors import UserError
from llm.evaluate.likelihood import score_continuations
from llm.finetune.classify.classifier import Prepared, Rows
from llm.finetune.classify.zero_shot import zero_shot
from llm.tokens.tokenizer import Tokenizer
from llm.tokens.words import train_words

TEMPLATE = "{text}\n# about {label}"


def _rows(texts: list[list[str]], labels: list[int]) -> Rows:
    return Rows([[7]] * len(texts), texts, np.array(labels, dtype=np.int64))


def _prepared(*texts: list[str], labels: tuple[str, ...] = ("rain", "the river")) -> Prepared:
    rows = {"train": _rows([], []), "val": _rows([*texts], [0] * len(texts)), "test": _rows([*texts], [1] * len(texts))}
    return Prepared(rows, list(labels), {}, 32)


@torch.no_grad()
def _slow(model, prompt: list[int], label: list[int]) -> float:
    """All of it read at once, a label at a time."""
    of_all = model(torch.tensor([prompt + label])).log_softmax(dim=-1)[0, len(prompt) - 1 : -1]
    return float(of_all.gather(1, torch.tensor(label)[:, None]).sum())


@pytest.mark.parametrize("shape", [{}, {"family": "gpt2", "attention": "multi_head"}, {"family": "gru"}], ids=str)
def test_scores_are_the_models_own_log_probabilities(draw_gpt, monkeypatch, shape):
    model, drawn = draw_gpt(**shape), np.random.default_rng(1)
    labels = [drawn.integers(6, 320, length).tolist() for length in (1, 4, 2)]
    prompts = [drawn.integers(6, 320, length).tolist() for length in (5, 1, 30, 5, 5)]
    slow = [[_slow(model, prompt, label) for label in labels] for prompt in prompts]
    for at_once in (256, 6, 2):
        monkeypatch.setattr("llm.evaluate.likelihood.CONTINUATIONS_AT_ONCE", at_once)
        np.testing.assert_allclose(score_continuations(model, prompts, labels), slow, atol=1e-4)


def test_the_label_stands_behind_the_filled_template(draw_gpt, tokenizer, plain_cpu):
    model, texts = draw_gpt(), ["the rain falls", "a {label}", "walk the path", "déjà vu"]
    found = zero_shot(model, tokenizer, _prepared(*([text] for text in texts)), TEMPLATE, plain_cpu)
    for text, scores in zip(texts, found.test.scores, strict=True):
        prompt = [tokenizer.bos_id, *tokenizer.encode(f"{text}\n# about")]
        slow = [_slow(model, prompt, tokenizer.encode(f" {label}")) for label in ("rain", "the river")]
        np.testing.assert_allclose(scores, slow, atol=1e-4)
    assert (found.val.actual.tolist(), found.test.actual.tolist()) == ([0] * 4, [1] * 4)
    empty = zero_shot(model, tokenizer, _prepared([""]), TEMPLATE, plain_cpu).test.scores
    right = (found.test.scores - empty).argmax(axis=1) == 1
    figures = {"truncated": 0, "accuracy_less_empty_text": round(float(right.mean()), 4)}
    assert found.setting == {"template": TEMPLATE} | figures


@given(st.lists(st.text("the rain\nfalls é", max_size=300), min_size=1, max_size=2))
@settings(max_examples=25, deadline=None)
def test_a_long_text_is_cut_at_its_end_until_all_fits(draw_gpt, tokenizer, texts):
    template = "{text}\n# about {label}" if len(texts) == 1 else "{text_1} / {text_2}\n# about {label}"
    machine = replace(Machine.find(), device="cpu", matmul_dtype="float32")
    model = draw_gpt(context_length=32)
    found = zero_shot(model, tokenizer, _prepared(texts), template, machine)
    assert np.isfinite(found.test.scores).all()
    whole = template.removesuffix(" {label}").replace("{text}", texts[0]).replace("{text_1}", texts[0])
    whole = whole.replace("{text_2}", texts[-1])
    room = 32 - len(tokenizer.encode(" the river"))
    fits = 1 + len(tokenizer.encode(whole)) <= room
    assert found.setting["truncated"] == 2 * (not fits)


@pytest.mark.parametrize(
    ("template", "label", "line"),
    [
        ("{label}", "rain", r"expected \{text\}, \{label\}, each once, in order, got '\{label\}'"),
        ("{text} {text} {label}", "rain", r"expected \{text\}, \{label\}, each once, in order, got"),
        ("{text_1} {label}", "rain", r"expected \{text\}, \{label\}, each once, in order, got"),
        ("{text} " + "y z " * 30 + "{label}", "rain", "expected a template that leaves room .* tokens"),
        (TEMPLATE, " ", "expected labels that .* can encode, or null, got ' '"),
    ],
)
def test_an_unsuitable_template_or_label_is_refused(draw_gpt, tmp_path, plain_cpu, template, label, line):
    train_words(["the rain falls"], 100, 1, keep_whitespace=False).save(str(tmp_path / "tokenizer.json"))
    prepared = _prepared(["rain"], labels=("rain", label))
    with pytest.raises(UserError, match=f"^zero_shot: {line}"):
        zero_shot(draw_gpt(), Tokenizer.load(tmp_path / "tokenizer.json"), prepared, template, plain_cpu)


def test_a_token_of_template_and_label_together_is_no_part_of_the_prompt(draw_gpt, tokenizer, plain_cpu):
    # "t" + "he" is one token behind a space.
    assert len(tokenizer.encode(" the")) == 1
    found = zero_shot(draw_gpt(), tokenizer, _prepared(["x"], labels=("he", "rain")), "{text} t{label}", plain_cpu)
    prompt = [tokenizer.bos_id, *tokenizer.encode("x t")]
    np.testing.assert_allclose(
        found.test.scores[0], [_slow(draw_gpt(), prompt, tokenizer.encode(of)) for of in ("he", "rain")], atol=1e-4
    )
