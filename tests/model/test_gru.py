import pytest
import torch

from llm.model.gpt import GPT
from llm.model.gru import gru_step, run_gru

# B sequences, T positions, D width, R numbers of state.
B, T, D, R = 2, 11, 7, 5


@pytest.fixture
def weights():
    generator = torch.Generator().manual_seed(1)
    shapes = {"x": (B, T, D), "state": (B, R), "given": (3 * R, D), "recurrent": (3 * R, R)}
    return {name: torch.randn(*shape, generator=generator).requires_grad_() for name, shape in shapes.items()}


def _slowly(x, state, given, recurrent):
    states = []
    for t in range(T):
        state = gru_step(x[:, t] @ given.T, state, recurrent)
        states.append(state)
    return torch.stack(states, dim=1), state


def test_all_steps_at_once_are_the_steps_one_by_one(weights):
    torch.testing.assert_close(run_gru(**weights), _slowly(**weights))


def test_their_gradients_are_the_same(weights):
    gradients = [
        torch.autograd.grad(run(**weights)[0].square().sum(), list(weights.values())) for run in (run_gru, _slowly)
    ]
    torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-4)


def test_gates_mix_the_old_state_and_the_candidate():
    state, recurrent = torch.tensor([[0.3, -0.4]]), torch.zeros(6, 2)
    far = 100.0
    stays = gru_step(torch.tensor([[0.0, 0.0, far, far, 1.0, 2.0]]), state, recurrent)
    torch.testing.assert_close(stays, state)
    goes = gru_step(torch.tensor([[0.0, 0.0, -far, -far, 1.0, 2.0]]), state, recurrent)
    torch.testing.assert_close(goes, torch.tensor([[1.0, 2.0]]).tanh())


def test_a_gru_has_as_many_weights_as_a_model_that_attends(config):
    shape = {"n_kv_heads": 6, "positions": None}
    attends, recurs = (GPT(config.model_copy(update=shape | {"family": family})) for family in ("llama", "gru"))
    assert recurs.n_parameters() == attends.n_parameters()


def test_in_bfloat16_a_gru_stays_close(draw_gpt):
    model = draw_gpt(family="gru")
    ids = torch.arange(20)[None]
    exact = model(ids)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = model.head(model.run_blocks(model.embedding(ids).bfloat16()))
    torch.testing.assert_close(low.float(), exact, atol=0.3, rtol=0.1)
    assert low.dtype == torch.bfloat16
