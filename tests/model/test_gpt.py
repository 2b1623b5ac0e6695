import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from llm.model.gpt import GPT, next_token_loss, uniform_loss

B, T = 3, 11


@pytest.fixture
def model(draw_gpt, config):
    return draw_gpt(**config.model_dump())


def _ids(config, length=T):
    return torch.randint(config.vocab_size, (B, length), generator=torch.Generator().manual_seed(1))


def test_every_position_of_every_sequence_gets_logits_over_the_vocabulary(model, config):
    assert model(_ids(config)).shape == (B, T, config.vocab_size)


@torch.no_grad()
def test_changing_the_future_leaves_the_past_logits_as_they_were(model, config):
    ids = _ids(config)
    before = model(ids)
    ids[:, 7:] = (ids[:, 7:] + 1) % config.vocab_size
    after = model(ids)
    torch.testing.assert_close(after[:, :7], before[:, :7])
    assert (after[:, 7:] - before[:, 7:]).abs().amax(dim=-1).min() > 1e-3


@torch.no_grad()
def test_every_position_depends_on_the_first_token(model, config):
    ids = _ids(config)
    before = model(ids)
    ids[:, 0] = (ids[:, 0] + 1) % config.vocab_size
    assert (model(ids) - before).abs().amax(dim=-1).min() > 1e-4


@torch.no_grad()
def test_sequences_of_a_batch_do_not_see_each_other(model, config):
    ids = _ids(config)
    alone = torch.cat([model(row[None]) for row in ids])
    torch.testing.assert_close(model(ids), alone)


@torch.no_grad()
@pytest.mark.parametrize("cut", [1, 5, T - 1])
def test_a_text_read_in_two_pieces_has_the_hidden_states_of_one(model, config, cut):
    x = model.embedding(_ids(config))
    whole, _ = model.run_blocks(x)
    first, past = model.run_blocks(x[:, :cut])
    second, _ = model.run_blocks(x[:, cut:], past)
    torch.testing.assert_close(torch.cat([first, second], dim=1), whole)


def test_more_tokens_than_the_context_are_refused(model, config):
    full = config.context_length
    assert model(_ids(config, full)).isfinite().all()
    with pytest.raises(AssertionError, match="context"):
        model(_ids(config, full + 1))
    _, past = model.run_blocks(model.embedding(_ids(config, full)))
    with pytest.raises(AssertionError, match="context"):
        model.run_blocks(model.embedding(_ids(config, 1)), past)


@pytest.mark.parametrize("tied", [False, True])
def test_a_fresh_model_starts_near_the_uniform_loss(config, tied):
    config = config.model_copy(update={"tie_embeddings": tied})
    ids = _ids(config)
    loss = next_token_loss(GPT(config, torch.Generator().manual_seed(1))(ids[:, :-1]), ids[:, 1:])
    assert abs(loss.item() - uniform_loss(config.vocab_size)) < 0.1


@torch.no_grad()
def test_fresh_blocks_pass_their_input_on(config):
    model = GPT(config, torch.Generator().manual_seed(1))
    x = model.embedding(_ids(config))
    assert torch.equal(model.run_blocks(x)[0], model.norm(x))


def test_fresh_weights_depend_on_the_generator_alone(config):
    def draw(seed):
        return dict(GPT(config, torch.Generator().manual_seed(seed)).named_parameters())

    first, second, other = draw(1), draw(1), draw(2)
    assert all(torch.equal(weight, second[name]) for name, weight in first.items())
    differ = {name for name, weight in first.items() if not torch.equal(weight, other[name])}
    drawn = {name for name, weight in first.items() if weight.ndim == 2 and weight.any()}
    assert differ == drawn
    assert {"embedding.weight", "head.weight", "blocks.1.attention.key.weight"} <= differ


@pytest.mark.parametrize("tied", [False, True])
def test_every_weight_takes_part(draw_gpt, config, tied):
    model = draw_gpt(**config.model_dump() | {"tie_embeddings": tied})
    model(_ids(config)).logsumexp(dim=-1).sum().backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in model.parameters())


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("shape", [{}, {"n_layers": 3, "n_kv_heads": 2, "d_ff": 31, "vocab_size": 53}])
def test_there_are_as_many_weights_as_transformers_counts(config, tied, shape):
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = config.model_copy(update={"tie_embeddings": tied} | shape)
    with torch.device("meta"):
        theirs = Qwen3ForCausalLM(
            Qwen3Config(
                vocab_size=config.vocab_size,
                hidden_size=config.d_model,
                intermediate_size=config.d_ff,
                num_hidden_layers=config.n_layers,
                num_attention_heads=config.n_heads,
                num_key_value_heads=config.n_kv_heads,
                head_dim=config.head_dim,
                max_position_embeddings=config.context_length,
                tie_word_embeddings=config.tie_embeddings,
                bos_token_id=0,
                eos_token_id=0,
                pad_token_id=0,
            )
        )
    assert GPT(config).n_parameters() == theirs.num_parameters()


@pytest.mark.parametrize("tied", [False, True])
def test_a_token_costs_as_much_arithmetic_as_torch_counts(draw_gpt, config, tied):
    model = draw_gpt(**config.model_dump() | {"tie_embeddings": tied})
    ids = _ids(config, config.context_length)
    with FlopCounterMode(display=False) as counter:
        model(ids).sum().backward()
    assert model.flops_per_token() * ids.numel() == counter.get_total_flops()


def test_knowing_nothing_costs_the_uniform_loss():
    target = torch.tensor([[1, 2, 0], [4, 4, 3]])
    assert next_token_loss(torch.zeros(2, 3, 5), target).item() == pytest.approx(uniform_loss(5))


def test_a_loss_is_the_mean_over_the_targets_that_count():
    # Two places with probability 1/2 and 1/4 for the target, and one that does not count.
    logits = torch.tensor([[[1, 1], [1, 3], [9, 1]]]).float().log()
    target = torch.tensor([[0, 0, -100]])
    assert next_token_loss(logits, target).item() == pytest.approx(1.5 * uniform_loss(2))
