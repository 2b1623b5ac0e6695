import pytest
import torch

from llm.model.dropout import N_OFFSETS, block_masks, draw_noise, dropout, noise_at

B, T = 3, 11


@pytest.fixture
def shape(config):
    return config.model_copy(update={"dropout": 0.2})


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_zeroes_its_share_and_keeps_the_mean(config, rate):
    noise = draw_noise(config.model_copy(update={"dropout": rate}))
    dropped = dropout(torch.ones(40, 100, 100), rate, noise_at(noise, 1, 2))
    assert (dropped == 0).float().mean().item() == pytest.approx(rate, abs=0.01)
    torch.testing.assert_close(dropped[dropped != 0].unique(), torch.tensor([1 / (1 - rate)]))
    # No position of the batch has much more or less of it than chance gives.
    spread = (rate * (1 - rate) / 40) ** 0.5
    assert (dropped == 0).float().mean(dim=0).std().item() == pytest.approx(spread, rel=0.1)


def test_sequences_places_and_steps_drop_independent_elements(shape):
    noise = draw_noise(shape)
    x = torch.ones(B, 100, 100)
    kept = [
        dropout(x, 0.2, mask)
        for step in (1, 2)
        for layer in (0, 1)
        for mask in block_masks(noise_at(noise, 5, step), layer, B)
    ]
    rows = torch.cat([(part != 0).flatten(1) for part in kept]).float()
    assert len(rows) == 2 * 2 * 3 * B
    assert (torch.corrcoef(rows) - torch.eye(len(rows))).abs().max() < 0.06


def test_noise_is_a_function_of_shape_seed_and_step(shape):
    noise = draw_noise(shape)
    assert noise_at(noise, 1, 2).shape == noise_at(noise, 1, 3).shape  # one graph for all steps
    assert torch.equal(noise, draw_noise(shape))
    assert set(noise.unique().tolist()) == {0, 1}
    places = {noise_at(noise, seed, step).storage_offset() for _ in range(2) for seed in (1, 2) for step in (1, 2, 3)}
    assert len(places) == 2 * 3
    assert max(places) < N_OFFSETS


def test_the_last_place_still_has_bits_for_a_large_model(config):
    shape = config.model_copy(update={"dropout": 0.5, "n_layers": 48})
    mask = block_masks(noise_at(draw_noise(shape), 1, 2), 47, 500)[2]
    assert dropout(torch.ones(500, shape.context_length, shape.d_model), 0.5, mask).any()


@pytest.mark.parametrize(
    "kind", [{}, {"family": "gpt2"}, {"family": "gru"}, {"attention": "causal"}, {"attention": "multi_head"}]
)
def test_a_model_drops_by_seed_and_step_alone(draw_gpt, shape, kind):
    model = draw_gpt(**shape.model_dump() | kind)
    x = torch.randn(B, T, shape.d_model, generator=torch.Generator().manual_seed(1))

    def read(*keys):
        return model.run_blocks(x, dropout_keys=model.dropout_keys(*keys))

    assert torch.equal(read(1, 2), read(1, 2))
    whole = model.run_blocks(x)
    for other in ((1, 3), (2, 2)):
        assert (read(*other) - read(1, 2)).abs().max() > 1e-2
        assert (read(*other) - whole).abs().max() > 1e-2


@pytest.mark.parametrize("family", ["qwen3", "gru"])
def test_each_of_a_blocks_places_is_dropped_at(draw_gpt, shape, monkeypatch, family):
    model = draw_gpt(**shape.model_dump() | {"family": family})
    x = torch.randn(B, T, shape.d_model, generator=torch.Generator().manual_seed(1))
    outs = []
    for only in (0, 1, 2, None):
        masks = [None if number != only else draw_noise(shape) for number in range(3)]
        monkeypatch.setattr("llm.model.gpt.block_masks", lambda *_, masks=masks: masks)
        outs.append(model.run_blocks(x))
    changed = [bool((out - outs[-1]).abs().max() > 1e-3) for out in outs[:-1]]
    assert changed == [family != "gru", True, True]  # a GRU has no attention weights
