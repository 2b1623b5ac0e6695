from dataclasses import replace
from functools import partial

import pytest
import torch

from llm.model.gpt import next_token_loss
from llm.train.language import COMPILE_FROM_FLOPS, LanguageLoss, compile_options, pays_to_compile, split_loss

B, T = 3, 11


@pytest.fixture
def model(draw_gpt, config):
    return draw_gpt(**config.model_dump())


@pytest.fixture
def batch(config):
    windows = torch.randint(config.vocab_size, (B, T + 1), generator=torch.Generator().manual_seed(1))
    return windows[:, :-1], windows[:, 1:].clone()


def _gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters()}


def test_the_loss_and_its_gradients_are_those_of_the_models_logits(model, batch, plain_cpu):
    loss = LanguageLoss(model, plain_cpu, compiled=False)(*batch)
    expected = next_token_loss(model(batch[0]), batch[1])
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(_gradients(model, loss), _gradients(model, expected))


def test_targets_of_minus_100_do_not_count(model, batch, plain_cpu):
    ids, target = batch
    loss = LanguageLoss(model, plain_cpu, compiled=False)
    target[:, 5:] = -100
    torch.testing.assert_close(loss(ids, target), loss(ids[:, :5], target[:, :5]))


def test_in_bfloat16_the_loss_is_close_and_weights_and_gradients_stay_float32(model, batch, plain_cpu):
    exact = LanguageLoss(model, plain_cpu, compiled=False)(*batch)
    low = LanguageLoss(model, replace(plain_cpu, matmul_dtype="bfloat16"), compiled=False)(*batch)
    assert low != exact
    torch.testing.assert_close(low, exact, atol=0.1, rtol=0)
    assert {gradient.dtype for gradient in _gradients(model, low).values()} == {torch.float32}
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("micro_batch_size", [1, 2])
def test_parts_of_a_batch_add_up_to_its_loss_and_gradients_whatever_counts_in_each(
    model, batch, plain_cpu, micro_batch_size
):
    ids, target = batch
    target[0, 1:], target[2, 5:] = -100, -100  # 1, 11 and 5 targets count
    loss = LanguageLoss(model, plain_cpu, compiled=False)
    whole = loss(ids, target)
    parts = list(split_loss(loss, ids, target, micro_batch_size))
    assert len(parts) == -(-B // micro_batch_size)
    torch.testing.assert_close(sum(parts), whole)
    torch.testing.assert_close(_gradients(model, sum(parts)), _gradients(model, whole))


def test_a_batch_in_one_part_is_the_batch_to_the_bit(model, batch, plain_cpu):
    loss = LanguageLoss(model, plain_cpu, compiled=False)
    (part,) = split_loss(loss, *batch, B)
    assert torch.equal(part, loss(*batch))


def test_each_part_of_a_batch_is_made_when_it_is_asked_for_and_drops_other_elements(draw_gpt, config, batch, plain_cpu):
    model = draw_gpt(**config.model_dump() | {"dropout": 0.5})
    loss = LanguageLoss(model, plain_cpu, compiled=False)
    asked = []

    def keys(part):
        asked.append(part)
        return model.dropout_keys(1, part)

    same_rows = (tensor[:1].expand(B, -1) for tensor in batch)
    parts = split_loss(loss, *same_rows, 1, keys)
    losses = {next(parts).item()}
    assert asked == [0]
    losses |= {part.item() for part in parts}
    assert asked == [0, 1, 2]
    assert len(losses) == B


# Dynamo asks every tensor for its gradient and hides the warning, unless warnings are errors.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_training_and_validation_share_one_graph_whose_loss_is_the_uncompiled_one(model, batch, plain_cpu, monkeypatch):
    from torch._dynamo.testing import CompileCounter

    counter = CompileCounter()  # it counts the graphs and runs them as they are: no compiler is needed
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=counter, fullgraph=True))
    compiled, plain = (LanguageLoss(model, plain_cpu, compiled=choice) for choice in (True, False))
    for _ in range(2):
        _gradients(model.train(), compiled(*batch))
        model.eval()
        torch.testing.assert_close(compiled(*batch), plain(*batch))
    assert counter.frame_count == 1


def test_on_a_gpu_no_reduction_is_tuned_by_timing(plain_cpu):
    assert compile_options(plain_cpu) is None
    # What torch does not have is left out, so this also says that the option is still called so.
    assert compile_options(replace(plain_cpu, device="cuda")) == {"deterministic": True}


@pytest.mark.parametrize(
    ("choice", "flops", "expected"),
    [
        ("always", 1.0, True),
        ("never", 100 * COMPILE_FROM_FLOPS, False),
        ("auto", 0.9 * COMPILE_FROM_FLOPS, False),
        ("auto", 1.1 * COMPILE_FROM_FLOPS, True),
    ],
)
def test_a_run_is_compiled_where_it_is_wanted_and_a_compiler_is_there(plain_cpu, capsys, choice, flops, expected):
    assert pays_to_compile(choice, flops, replace(plain_cpu, compiler=True)) == expected
    assert capsys.readouterr().err == ""
    assert not pays_to_compile(choice, flops, replace(plain_cpu, compiler=False))
    assert ("no C++ compiler" in capsys.readouterr().err) == expected
