import pytest
import torch

from llm.model.config import ModelConfig
from llm.model.functions import causal_softmax, next_token_loss
from llm.model.gpt import GPT
from llm.model.positions import rotate
from llm.train.optimizers import Optimizer
from llm.train.params import OptimizerParams

T, VOCABULARY = 46, 307
SHAPE = {"family": "qwen3", "attention": "grouped", "positions": None, "d_model": 192, "n_layers": 3, "n_heads": 3}
SHAPE |= {"n_kv_heads": 3, "d_ff": 64, "dropout": 0.0, "rope_theta": 10000.0, "norm_eps": 1e-6}
SHAPE |= {"tie_embeddings": True, "vocab_size": VOCABULARY, "context_length": T}
KINDS = {
    "qwen3": {},
    "llama": {"family": "llama"},
    "untied": {"tie_embeddings": False},
    "six heads": {"n_heads": 6, "n_kv_heads": 6},
    "one key head": {"n_kv_heads": 1},
    "one head": {"attention": "causal"},
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def _fresh(init=None, seed=1, **changes):
    return GPT(ModelConfig(**SHAPE | changes), torch.Generator().manual_seed(seed), init)


def _ids(seed=2, batch=5, length=T):
    return torch.randint(VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(seed))


def _looks(model, layer, x):
    """The attention weights (B, H, T, S) of a layer that gets x (B, T, D), by the textbook."""
    block = model.blocks[layer]
    attention, normed = block.attention, block.attention_norm(x)
    q, k = (
        norm(linear(normed).unflatten(-1, (-1, attention.head_dim))).transpose(1, 2)
        for norm, linear in ((attention.query_norm, attention.query), (attention.key_norm, attention.key))
    )
    k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
    q, k = rotate(q, model.cos[:T], model.sin[:T]), rotate(k, model.cos[:T], model.sin[:T])
    return causal_softmax(q @ k.mT / attention.head_dim**0.5, None)


@every_kind
@torch.no_grad()
def test_the_first_heads_attend_1_2_and_3_tokens_back(kind):
    model = _fresh(**KINDS[kind])
    looks = _looks(model, 0, model.embedding(_ids()))
    for head in range(min(3, looks.shape[1])):
        nearest = looks[:, head, head + 1 :].argmax(dim=-1)
        assert (nearest == torch.arange(T - head - 1)).float().mean() > 0.95
        back = looks[:, head].diagonal(-head - 1, dim1=-2, dim2=-1)
        assert back.mean() > 0.4  # the rest is with the neighbours, not spread over 46 positions


@torch.no_grad()
def test_random_weights_look_nowhere():
    model = _fresh("random")
    x = model.embedding(_ids())
    assert torch.equal(model.run_blocks(x), model.norm(x))
    assert _looks(model, 0, x).diagonal(-1, dim1=-2, dim2=-1).mean() < 0.3


def test_null_takes_it_where_the_model_can_have_it():
    def same(first, second):
        return all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))

    assert same(_fresh(), _fresh("previous_token_heads"))
    assert not same(_fresh(), _fresh("random"))
    for changes in ({"positions": "learned"}, {"family": "gpt2"}, {"positions": "none"}, {"family": "gru"}):
        assert same(_fresh(**changes), _fresh("random", **changes))


@pytest.mark.parametrize("changes", [{}, {"n_layers": 1}, {"d_model": 6, "context_length": 2}], ids=str)
def test_narrow_short_and_shallow_models_have_finite_logits(changes):
    model = _fresh(**changes)
    assert model(_ids(length=model.config.context_length)).isfinite().all()


def test_it_learns_to_repeat_in_fewer_steps():
    def loss_after(init):
        model = _fresh(init, n_layers=2, d_model=96, vocab_size=24)
        rates = OptimizerParams(kind="muon", muon_lr=0.02, adamw_lr=0.003, weight_decay=0.0, max_grad_norm=10.0)
        optimizer = Optimizer(model, rates, torch.float32, "cpu")
        for step in range(31):
            half = _ids(seed=100 + step, batch=16, length=T // 2) % 24
            ids = half.repeat(1, 2)
            loss = next_token_loss(model(ids[:, :-1])[:, T // 2 :], ids[:, T // 2 + 1 :])
            loss.backward()
            optimizer.step(step, 1.0)
        return loss.item()

    assert loss_after("previous_token_heads") < loss_after("random") - 0.5
