import re

import numpy as np
import pytest
import torch

from llm.evaluate.continuations import N_SHOWN, continue_held_out
from llm.evaluate.measure import HeldOut
from llm.evaluate.params import QualityParams
from llm.evaluate.samples import continue_rows, likeliest, row_sampler
from llm.tokens.tokenizer import Tokenizer

PARAMS = QualityParams(texts=25, prompt_tokens=5, new_tokens=20, temperature=0.7)
SHAPES = {
    "grouped": {},
    "gpt2": {"family": "gpt2"},
    "gru": {"family": "gru"},
    "a context that is soon full": {"context_length": 9},
    "a context shorter than the prompt": {"context_length": 4},
}


@pytest.fixture
def held_out():
    """Makes a split of documents of ids."""

    def make(documents, name="test"):
        stream = np.array([0, *(token for ids in documents for token in [*ids, 0])], dtype=np.uint16)
        paths = [f"{number}.py" for number in range(len(documents))]
        nothing = np.zeros(0, dtype=np.int64)
        return HeldOut(name, stream, 0, ["s"] * len(paths), paths, nothing, nothing, 13, nothing.astype(bool))

    return make


@pytest.fixture
def tokenizer(small_tokenizer_file):
    return Tokenizer.load(small_tokenizer_file)


@pytest.fixture
def ender(draw_gpt, tokenizer):
    """A model that ends every text at once."""
    model = draw_gpt(tie_embeddings=False)
    with torch.no_grad():
        model.norm.weight.zero_()
        model.norm.weight[0] = 1
        model.head.weight.zero_()
        model.embedding.weight[:, 0] = 50
        model.head.weight[tokenizer.end_of_text, 0] = 50
    return model


def _texts(page):
    return re.findall(r"^## (\d+): `(.*?), token (\d+)`\n\n````text\n(.*?)│(.*?)\n````$", page, flags=re.M | re.S)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_any_model_that_writes_is_measured_and_the_same_seed_gives_the_same(draw_gpt, tokenizer, held_out, shape):
    model = draw_gpt(**shape)
    documents = [tokenizer.encode("the river runs and the rain falls, " * 40) for _ in range(4)]
    given = [held_out([[9]], "val"), held_out(documents)]
    first, again, other = (
        continue_held_out(model, tokenizer, given, PARAMS, ["the river"], seed) for seed in (1, 1, 2)
    )
    assert first == again != other
    figures, page = first
    n_given = min(5, model.config.context_length)
    assert (figures["split"], figures["texts"], figures["prompt_tokens"]) == ("test", 25, n_given)
    assert figures["true"]["real_words"] < 1
    shown = _texts(page)
    assert [number for number, *_ in shown] == [str(number + 1) for number in range(N_SHOWN)]
    for _, path, token, prompt, _ in shown:
        ids = documents[int(path.removeprefix("s/").removesuffix(".py"))]
        assert prompt == tokenizer.decode(ids[int(token) : int(token) + n_given])
    assert len({written for *_, written in shown}) > 1


@pytest.mark.parametrize(
    ("reason", "texts", "shape", "documents"),
    [
        ("evaluate.quality.texts is 0", 0, {}, [[9] * 99]),
        ("the model's attention sees what it predicts", 25, {"attention": "trainable"}, [[9] * 99]),
        ("no text was held out", 25, {}, None),
        ("no document of test has 21 tokens", 25, {}, [[9] * 20, []]),
    ],
)
def test_where_nothing_can_be_continued_figures_and_page_say_why(
    draw_gpt, tokenizer, held_out, reason, texts, shape, documents
):
    splits = [] if documents is None else [held_out(documents)]
    params = PARAMS.model_copy(update={"texts": texts})
    figures, page = continue_held_out(draw_gpt(**shape), tokenizer, splits, params, [], 1)
    assert figures["skipped"].startswith(reason)
    assert reason in page
    assert _texts(page) == []


def test_a_model_that_ends_its_texts_at_once_ended_all_of_them_sooner(ender, tokenizer, held_out):
    figures, page = continue_held_out(ender, tokenizer, [held_out([[9] * 99])], PARAMS, [], 1)
    assert (figures["texts"], figures["mean_tokens"], figures["ended_sooner"]) == (4, 0, 1)
    assert [written for *_, written in _texts(page)] == [""] * 4


def test_bytes_that_are_no_character_do_no_harm(draw_gpt, tokenizer, held_out):
    ids = [id_ for id_ in range(320) if tokenizer.decode([id_]) == "\ufffd"] * 3
    figures, page = continue_held_out(draw_gpt(), tokenizer, [held_out([ids])], PARAMS, [], 1)
    assert figures["true"]["repetition_flagged"] is not None
    assert "│" in page


def test_what_is_drawn_follows_the_probabilities():
    logits = torch.tensor([[0.5, 0.0, 0.2, 0.3]]).log().expand(8000, 4)
    drawn = row_sampler(1.0, torch.Generator().manual_seed(1))(logits)
    assert drawn.shape == (8000, 1)
    shares = torch.bincount(drawn[:, 0], minlength=4) / 8000
    assert shares.tolist() == pytest.approx([0.5, 0.0, 0.2, 0.3], abs=0.02)
    cold = row_sampler(0.01, torch.Generator().manual_seed(1))(logits)
    assert (cold == likeliest(logits)).all()


def test_a_row_that_ended_stays_ended_and_the_others_write_on(draw_gpt):
    model = draw_gpt(seed=3)
    ids = torch.randint(320, (60, 5), generator=torch.Generator().manual_seed(1))
    free = continue_rows(model, ids, 12)
    stop = int(free[:, 3].mode().values)
    stopped = continue_rows(model, ids, 12, stop=stop)
    ended = (free == stop).cumsum(dim=1) > 0
    assert ended.any()
    assert torch.equal(stopped, free.masked_fill(ended, stop))
