"""The language model's loss: in micro-batches, in bfloat16, compiled."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from llm.model.functions import next_token_loss
from llm.train.language import COMPILE_FROM_FLOPS, LanguageLoss, compile_options, should_compile, split_loss

B, T = 3, 11


@pytest.fixture
def model(draw_gpt, config):
    return draw_gpt(**config.model_dump())


@pytest.fixture
def loss(model, plain_cpu):
    return LanguageLoss(model, plain_cpu, compiled=False)


@pytest.fixture
def batch(config):
    windows = torch.randint(config.vocab_size, (B, T + 1), generator=torch.Generator().manual_seed(1))
    return windows[:, :-1], windows[:, 1:].clone()


def _gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters()}


def test_loss_and_gradients_are_those_of_the_logits(model, loss, batch):
    expected = next_token_loss(model(batch[0]), batch[1])
    torch.testing.assert_close(loss(*batch), expected)
    torch.testing.assert_close(_gradients(model, loss(*batch)), _gradients(model, expected))


def test_targets_of_minus_100_are_ignored(loss, batch):
    ids, target = batch
    target[:, 5:] = -100
    torch.testing.assert_close(loss(ids, target), loss(ids[:, :5], target[:, :5]))


def test_in_bfloat16_weights_and_gradients_stay_float32(model, loss, batch, plain_cpu):
    low = LanguageLoss(model, replace(plain_cpu, matmul_dtype="bfloat16"), compiled=False)(*batch)
    assert low != loss(*batch)
    torch.testing.assert_close(low, loss(*batch), atol=0.1, rtol=0)
    assert {gradient.dtype for gradient in _gradients(model, low).values()} == {torch.float32}
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("micro_batch_size", [1, 2, B])
def test_micro_batches_add_up_to_the_batch(model, loss, batch, micro_batch_size):
    ids, target = batch
    target[0, 1:], target[2, 5:] = -100, -100  # 1, 11 and 5 targets
    whole = loss(ids, target)
    parts = list(split_loss(loss, ids, target, micro_batch_size))
    assert len(parts) == -(-B // micro_batch_size)
    torch.testing.assert_close(sum(parts), whole)
    torch.testing.assert_close(_gradients(model, sum(parts)), _gradients(model, whole))
    assert micro_batch_size < B or torch.equal(parts[0], whole)


def test_micro_batches_are_lazy_and_have_their_own_dropout(draw_gpt, config, batch, plain_cpu):
    model = draw_gpt(**config.model_dump() | {"dropout": 0.5})
    numbers = []

    def keys(number):
        numbers.append(number)
        return model.dropout_keys(1, number)

    same_rows = (tensor[:1].expand(B, -1) for tensor in batch)
    parts = split_loss(LanguageLoss(model, plain_cpu, compiled=False), *same_rows, 1, keys)
    losses = {next(parts).item()}
    assert numbers == [0]
    losses |= {part.item() for part in parts}
    assert numbers == [0, 1, 2]
    assert len(losses) == B


# Dynamo reads every tensor's gradient and hides the warning, unless warnings are errors.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_training_and_validation_share_one_graph(model, loss, batch, plain_cpu, monkeypatch):
    from torch._dynamo.testing import CompileCounter

    counter = CompileCounter()  # it counts the graphs and runs them as they are: no compiler is needed
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=counter, fullgraph=True))
    compiled = LanguageLoss(model, plain_cpu, compiled=True)
    for _ in range(2):
        _gradients(model.train(), compiled(*batch))
        model.eval()
        torch.testing.assert_close(compiled(*batch), loss(*batch))
    assert counter.frame_count == 1


def test_on_a_gpu_no_reduction_is_tuned_by_timing(plain_cpu):
    assert compile_options(plain_cpu) is None
    # An option that torch does not have is left out, so this also holds its name.
    assert compile_options(replace(plain_cpu, device="cuda")) == {"deterministic": True}


@pytest.mark.parametrize(
    ("choice", "work", "expected"),
    [("always", 0.1, True), ("never", 100, False), ("auto", 0.9, False), ("auto", 1.1, True)],
)
def test_a_long_run_on_a_gpu_is_compiled_if_there_is_a_compiler(plain_cpu, capsys, choice, work, expected):
    flops = work * COMPILE_FROM_FLOPS
    gpu = replace(plain_cpu, device="cuda")
    assert should_compile(choice, flops, replace(gpu, compiler=True)) == expected
    assert not should_compile(choice, flops, replace(plain_cpu, compiler=True))
    assert capsys.readouterr().err == ""
    assert not should_compile(choice, flops, replace(gpu, compiler=False))
    assert ("no C++ compiler" in capsys.readouterr().err) == expected
