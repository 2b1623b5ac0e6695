"""Each kernel computes its torch function, and the gradients of it, in float32 and bfloat16."""

import pytest
import torch

from llm.model import functions, kernels
from llm.model.functions import add_rms_norm, causal_softmax, head_loss, head_scores, rms_norm, swiglu

pytestmark = pytest.mark.skipif(kernels.library() is None, reason="no C compiler with OpenMP")

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])


def _draw(*shape, seed=0, scale=2.0):
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _hidden(n_queries, n_keys):
    """Keys of another text: the first ones, to the later queries of the first of two rows."""
    hidden = torch.zeros(2, 1, n_queries, n_keys, dtype=torch.bool)
    hidden[0, 0, n_queries // 2 :, : n_keys // 2] = True
    return hidden


TARGET = torch.tensor([3, -100, 0, 36, 5])
CASES = {
    "rms_norm": (rms_norm, [_draw(3, 5, 37)], [1 + _draw(37, seed=1)], [1e-6]),
    "rms_norm of one row": (rms_norm, [_draw(1, 1)], [_draw(1, seed=1)], [0.1]),
    "rms_norm of columns": (rms_norm, [_draw(48, 6).T], [_draw(48, seed=1)], [1e-6]),
    "add_rms_norm": (add_rms_norm, [_draw(4, 3, 64), _draw(4, 3, 64, seed=1)], [_draw(64, seed=2)], [1e-6]),
    "causal_softmax": (causal_softmax, [_draw(2, 3, 19, 19)], [], [None]),
    "causal_softmax of a part": (causal_softmax, [_draw(2, 3, 5, 33, scale=9.0)], [], [None]),
    "causal_softmax of the last": (causal_softmax, [_draw(2, 3, 1, 16)], [], [None]),
    "causal_softmax of two texts": (causal_softmax, [_draw(2, 3, 18, 18)], [], [_hidden(18, 18)]),
    "causal_softmax of groups": (causal_softmax, [_draw(2, 3, 2, 6, 9)], [], [_hidden(6, 9)[:, None]]),
    "swiglu": (swiglu, [_draw(3, 7, 13, scale=5.0), _draw(3, 7, 13, seed=1)], [], []),
    "swiglu of large values": (swiglu, [torch.tensor([-1e4, -100.0, 0.0, 100.0]), torch.ones(4)], [], []),
    "head_loss": (head_loss, [_draw(1, 5, 24)], [_draw(37, 24, seed=1)], [TARGET[None]]),
    "head_loss of one": (head_loss, [_draw(1, 24)], [_draw(300, 24, seed=1)], [torch.tensor([299])]),
}


def _run(function, tensors, weights, rest, dtype):
    """Values and gradients: activations in `dtype`, weights in float32, as in training."""
    given = [tensor.detach().to(dtype).requires_grad_() for tensor in tensors]
    kept = [weight.clone().requires_grad_() for weight in weights]
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        result = function(*given, *kept, *rest)
    outs = result if isinstance(result, tuple) else (result,)
    sum((out.float() * _draw(*out.shape, seed=9)).sum() for out in outs).backward()
    assert [tensor.grad.dtype for tensor in (*given, *kept)] == [dtype] * len(given) + [torch.float32] * len(kept)
    return [*outs, *(tensor.grad for tensor in (*given, *kept))]


@DTYPES
@pytest.mark.parametrize("name", CASES)
def test_a_kernel_computes_its_function(name, dtype, monkeypatch):
    function, tensors, weights, rest = CASES[name]
    monkeypatch.setattr(functions, "LOGITS_AT_ONCE", 80)  # so that the head's loss is in parts
    got = _run(function, tensors, weights, rest, dtype)
    torch_s = _run(function.__wrapped__, tensors, weights, rest, dtype)
    exact = _run(function.__wrapped__, [t.to(dtype).float() for t in tensors], weights, rest, torch.float32)
    for kernel, other, truth in zip(got, torch_s, exact, strict=True):
        assert kernel.shape == truth.shape
        assert kernel.dtype == other.dtype
        size = truth.float().abs().max() + 1e-6
        error = (kernel.float() - truth.float()).abs().max() / size
        rounding = (other.float() - truth.float()).abs().max() / size
        assert error <= (1e-5 if dtype == torch.float32 else max(0.006, 1.5 * rounding))


@DTYPES
def test_scores_of_the_head(dtype, monkeypatch):
    monkeypatch.setattr(functions, "LOGITS_AT_ONCE", 80)
    hidden, weight, target = _draw(3, 5, 24).to(dtype), _draw(37, 24, seed=1), torch.arange(15).view(3, 5)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        target[0] = (hidden[0] @ weight.to(dtype).T).argmax(-1)
        got, expected = head_scores(hidden, weight, target), head_scores.__wrapped__(hidden, weight, target)
    assert got[2][0].all()
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def test_a_prediction_by_hand():
    # Of four tokens with 1/2, 1/4, 1/8 and 1/8, the third and then the first came.
    weight = torch.tensor([4.0, 2.0, 1.0, 1.0]).log()[:, None]
    for scores in (head_scores, head_scores.__wrapped__):
        nats, top, is_top = scores(torch.ones(1, 2, 1), weight, torch.tensor([[2, 0]]))
        torch.testing.assert_close(nats, torch.tensor([[8.0, 2.0]]).log())
        torch.testing.assert_close(top, torch.tensor([[0.5, 0.5]]))
        assert is_top.tolist() == [[False, True]]


def test_of_equal_logits_the_first_is_the_top():
    hidden, weight = torch.ones(4, 1), torch.tensor([[0.0], [2.0], [2.0], [1.0]])
    for scores in (head_scores, head_scores.__wrapped__):
        _, top, is_top = scores(hidden, weight, torch.arange(4))
        assert is_top.tolist() == [False, True, False, False]
        torch.testing.assert_close(top, weight.flatten().softmax(0)[[1, 1, 1, 1]])


@pytest.mark.parametrize("function", [head_loss, head_scores])
def test_a_target_outside_of_the_vocabulary_is_refused(function):
    with pytest.raises(AssertionError):
        function(_draw(2, 8), _draw(5, 8), torch.tensor([1, 5]))


def test_masked_weights_are_exactly_zero():
    weights = causal_softmax(_draw(2, 1, 18, 18), _hidden(18, 18))
    assert not weights.triu(1).any()
    assert not weights.masked_select(_hidden(18, 18)).any()
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 1, 18))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_so(bad):
    x = _draw(2, 8)
    x[1, 3] = bad
    assert not rms_norm(x, torch.ones(8), 1e-6)[1].isfinite().all()
    assert rms_norm(x, torch.ones(8), 1e-6)[0].isfinite().all()
    assert not causal_softmax(x[None, 1:], None).isfinite().all() or bad == float("inf")
    assert not head_loss(x, _draw(5, 8), torch.tensor([1, 2])).isfinite()


def test_a_loss_without_targets_is_not_a_number():
    loss = head_loss(_draw(2, 8).requires_grad_(), _draw(5, 8), torch.tensor([-100, -100]))
    assert loss.isnan()


@DTYPES
def test_equal_inputs_give_equal_bytes(dtype):
    for function, tensors, weights, rest in CASES.values():
        first, second = (_run(function, tensors, weights, rest, dtype) for _ in range(2))
        assert all(map(torch.equal, first, second))
