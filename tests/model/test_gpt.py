import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from llm.model.functions import next_token_loss
from llm.model.gpt import GPT, uniform_loss
from llm.model.kv_cache import KVCache

B, T = 3, 11
# The default, and one change of it at a time.
KINDS = {
    "qwen3": {},
    "llama": {"family": "llama"},
    "gpt2": {"family": "gpt2", "n_kv_heads": 6},
    "gru": {"family": "gru"},
    "causal": {"attention": "causal"},
    "multi_head": {"attention": "multi_head"},
    "no positions": {"positions": "none"},
    "sinusoidal": {"positions": "sinusoidal"},
    "learned": {"positions": "learned"},
}
FAR_SEEING = {"simplified": {"attention": "simplified"}, "trainable": {"attention": "trainable"}}
every_kind = pytest.mark.parametrize("kind", KINDS)
every_kind_at_all = pytest.mark.parametrize("kind", [*KINDS, *FAR_SEEING])


@pytest.fixture
def kind():
    return "qwen3"


@pytest.fixture
def shape(config, kind):
    return config.model_copy(update=(KINDS | FAR_SEEING)[kind])


@pytest.fixture
def model(draw_gpt, shape):
    return draw_gpt(**shape.model_dump())


def _ids(config, length=T):
    return torch.randint(config.vocab_size, (B, length), generator=torch.Generator().manual_seed(1))


@every_kind
@torch.no_grad()
def test_changing_the_future_leaves_past_logits(model, config):
    ids = _ids(config)
    before = model(ids)
    ids[:, 7:] = (ids[:, 7:] + 1) % config.vocab_size
    after = model(ids)
    torch.testing.assert_close(after[:, :7], before[:, :7])
    assert (after[:, 7:] - before[:, 7:]).abs().amax(dim=-1).min() > 1e-3
    assert model.config.is_causal


@pytest.mark.parametrize("kind", FAR_SEEING)
@torch.no_grad()
def test_the_first_two_rungs_see_the_future(model, config):
    ids = _ids(config)
    before = model(ids)
    ids[:, 7:] = (ids[:, 7:] + 1) % config.vocab_size
    assert (model(ids) - before)[:, :7].abs().amax(dim=-1).min() > 1e-4
    assert not model.config.is_causal
    with pytest.raises(AssertionError, match="not causal"):
        model.run_blocks(model.embedding(ids[:, :1]), KVCache(model.config.n_layers))


@every_kind_at_all
@torch.no_grad()
def test_sequences_of_a_batch_do_not_see_each_other(model, config):
    ids = _ids(config)
    alone = torch.cat([model(row[None]) for row in ids])
    torch.testing.assert_close(model(ids), alone)


@torch.no_grad()
@every_kind
def test_a_text_read_in_pieces_has_the_hidden_states_of_one(model, config):
    x = model.embedding(_ids(config))
    whole = model.run_blocks(x)
    for room in (0, config.context_length):
        cache = KVCache(model.config.n_layers, room)
        pieces = [model.run_blocks(x[:, a:b], cache) for a, b in ((0, 1), (1, 5), (5, 6), (6, 7), (7, T))]
        torch.testing.assert_close(torch.cat(pieces, dim=1), whole)
        assert cache.length == T


@torch.no_grad()
@every_kind
def test_rows_of_a_cache_continue_on_their_own(model, config):
    x = model.embedding(_ids(config))
    model.run_blocks(x[:, :7], cache := KVCache(model.config.n_layers))
    rows = torch.tensor([2, 0, 0])
    continued = model.run_blocks(x[rows, 7:], cache.select(rows))
    torch.testing.assert_close(continued, model.run_blocks(x)[rows, 7:])


@torch.no_grad()
@pytest.mark.parametrize("kind", ["no positions", "sinusoidal", "learned", "qwen3"])
def test_only_without_positions_order_does_not_matter(draw_gpt, config, kind):
    model = draw_gpt(**config.model_dump() | KINDS[kind] | {"n_layers": 1})
    ids = _ids(config)
    swapped = ids[:, [1, 0, *range(2, T)]]
    moved = (model(swapped) - model(ids))[:, 2:].abs().max()
    assert (moved < 1e-4) == (kind == "no positions")


def test_more_tokens_than_the_context_are_refused(model, config):
    full = config.context_length
    assert model(_ids(config, full)).isfinite().all()
    with pytest.raises(AssertionError, match="context"):
        model(_ids(config, full + 1))
    model.run_blocks(model.embedding(_ids(config, full)), cache := KVCache(config.n_layers))
    with pytest.raises(AssertionError, match="context"):
        model.run_blocks(model.embedding(_ids(config, 1)), cache)


@every_kind_at_all
@pytest.mark.parametrize("tied", [False, True])
def test_a_fresh_model_starts_near_the_uniform_loss(shape, tied):
    shape = shape.model_copy(update={"tie_embeddings": tied})
    ids = _ids(shape)
    loss = next_token_loss(GPT(shape, torch.Generator().manual_seed(1))(ids[:, :-1]), ids[:, 1:])
    assert abs(loss.item() - uniform_loss(shape.vocab_size)) < 0.1


@every_kind_at_all
def test_fresh_weights_depend_on_the_generator_alone(shape):
    def draw(seed):
        return dict(GPT(shape, torch.Generator().manual_seed(seed)).named_parameters())

    first, second, other = draw(1), draw(1), draw(2)
    assert all(torch.equal(weight, second[name]) for name, weight in first.items())
    differ = {name for name, weight in first.items() if not torch.equal(weight, other[name])}
    drawn = {name for name, weight in first.items() if weight.ndim == 2 and weight.any()}
    assert differ == drawn
    undrawn = {name for name, weight in first.items() if weight.ndim == 2} - drawn
    assert {name.split(".", 2)[2] for name in undrawn} <= {
        "attention.out.weight",
        "feed_forward.down.weight",
    }
    assert {"embedding.weight", "head.weight", "blocks.1.feed_forward.up.weight"} <= differ


@every_kind_at_all
@pytest.mark.parametrize("tied", [False, True])
def test_every_weight_takes_part(draw_gpt, shape, tied):
    model = draw_gpt(**shape.model_dump() | {"tie_embeddings": tied})
    model(_ids(shape, shape.context_length)).logsumexp(dim=-1).sum().backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in model.parameters())


@pytest.mark.parametrize("kind", ["qwen3", "gpt2", "gru", "trainable", "simplified"])
def test_block_weights_have_blocks_in_their_names(model):
    inside = {f"blocks.{name}" for name, _ in model.blocks.named_parameters()}
    assert inside
    assert {name for name, _ in model.named_parameters() if "blocks" in name.split(".")} == inside


@every_kind_at_all
@pytest.mark.parametrize("tied", [False, True])
def test_a_token_costs_as_much_arithmetic_as_torch_counts(draw_gpt, shape, tied):
    model = draw_gpt(**shape.model_dump() | {"tie_embeddings": tied})
    ids = _ids(shape, shape.context_length)
    with FlopCounterMode(display=False) as counter:
        model(ids).sum().backward()
    # The state that a GRU begins with is no one's output: its gradient is not computed.
    d_state = 40
    spared = 2 * shape.n_layers * B * d_state * 3 * d_state if shape.family == "gru" else 0
    assert model.flops_per_token() * ids.numel() == counter.get_total_flops() + spared


def test_learned_and_sinusoidal_positions_are_added(draw_gpt, config):
    x = torch.randn(B, T, config.d_model, generator=torch.Generator().manual_seed(1))
    plain, learned, waves = (
        draw_gpt(**config.model_dump() | {"positions": kind}) for kind in ("none", "learned", "sinusoidal")
    )
    for model in (learned, waves):
        model.blocks, model.norm = plain.blocks, plain.norm
    torch.testing.assert_close(learned.run_blocks(x), plain.run_blocks(x + learned.positions(torch.arange(T))))
    root = config.d_model**0.5
    torch.testing.assert_close(waves.run_blocks(x), plain.run_blocks(root * x + waves.waves[:T]))


def test_a_loss_is_the_mean_over_the_targets_that_count():
    # Two places with probability 1/2 and 1/4 for the target, and one that does not count.
    logits = torch.tensor([[[1, 1], [1, 3], [9, 1]]]).float().log()
    target = torch.tensor([[0, 0, -100]])
    assert next_token_loss(logits, target).item() == pytest.approx(1.5 * uniform_loss(2))
