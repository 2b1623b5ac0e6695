import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from llm.core.errors import UserError
from llm.model.weights import load_model, read_safetensors, save_model
from llm.train.checkpoint import Checkpoint


@pytest.fixture(params=[False, True], ids=["untied", "tied"])
def model(request, draw_gpt, config):
    return draw_gpt(**config.model_dump() | {"tie_embeddings": request.param})


@pytest.fixture
def saved(tmp_path, draw_gpt, config):
    save_model(tmp_path / "model", draw_gpt(**config.model_dump()))
    return tmp_path / "model"


def _refused(folder):
    with pytest.raises(UserError) as caught:
        load_model(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)
    return str(caught.value)


def test_a_loaded_model_is_the_saved_one(model, tmp_path):
    save_model(tmp_path / "model", model)
    loaded = load_model(tmp_path / "model")
    assert loaded.config == model.config
    weights, expected = dict(loaded.named_parameters()), dict(model.named_parameters())
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weight, expected[name]) for name, weight in weights.items())
    ids = torch.tensor([[1, 2, 3]])
    assert torch.equal(loaded(ids), model(ids))


def test_a_tied_head_is_written_once_and_still_tied_when_it_is_read(model, tmp_path):
    save_model(tmp_path / "model", model)
    written = load_file(tmp_path / "model" / "model.safetensors")
    assert sum(weight.numel() for weight in written.values()) == model.n_parameters()
    loaded = load_model(tmp_path / "model")
    assert (loaded.head.weight is loaded.embedding.weight) == model.config.tie_embeddings


def test_the_same_model_is_written_as_the_same_bytes(draw_gpt, config, tmp_path):
    for name in ("first", "second"):
        save_model(tmp_path / name, draw_gpt(**config.model_dump()))
    for file in ("model.safetensors", "config.json"):
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes()


def test_weights_of_another_precision_are_written_in_float32(model, tmp_path):
    save_model(tmp_path / "model", model.bfloat16())
    written = load_file(tmp_path / "model" / "model.safetensors")
    assert {weight.dtype for weight in written.values()} == {torch.float32}


def test_missing_misshapen_and_unknown_weights_are_all_named(saved):
    weights = load_file(saved / "model.safetensors")
    weights.pop("norm.weight")
    weights["blocks.1.attention.key.weight"] = torch.zeros(60, 30)
    weights["blocks.9.extra"] = torch.zeros(1)
    save_file(weights, saved / "model.safetensors")
    message = _refused(saved)
    assert "norm.weight: expected (60,), got none" in message
    assert "blocks.1.attention.key.weight: expected (30, 60), got (60, 30)" in message
    assert "blocks.9.extra: expected no such tensor, got" in message


def test_a_file_of_wholly_other_weights_is_refused_in_a_short_line(saved):
    save_file({f"other.{number}": torch.zeros(1) for number in range(50)}, saved / "model.safetensors")
    assert len(_refused(saved)) < 500


@pytest.mark.parametrize("share", [0, 0.0001, 0.01, 0.5, 0.9999])
def test_weights_that_were_cut_short_are_refused(saved, share):
    path = saved / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    assert "expected a safetensors file" in _refused(saved)


def test_weights_that_are_not_there_are_refused(saved):
    (saved / "model.safetensors").unlink()
    assert "No such file" in _refused(saved)
    with pytest.raises(UserError, match="No such file"):
        read_safetensors(saved / "model.safetensors")


@pytest.mark.parametrize("content", [None, b"", b"{", b"\xff\xfe", b"[]", b"{}"])
def test_a_config_that_is_none_is_refused(saved, content):
    (saved / "config.json").unlink()
    if content is not None:
        (saved / "config.json").write_bytes(content)
    assert "config.json" in _refused(saved)


def test_a_config_of_another_shape_is_refused_with_the_weights_that_do_not_fit(saved):
    content = json.loads((saved / "config.json").read_text(encoding="utf-8"))
    (saved / "config.json").write_text(json.dumps(content | {"d_ff": 41}), encoding="utf-8")
    assert "feed_forward.gate.weight: expected (41, 60), got (43, 60)" in _refused(saved)


STATE = {"step": 7, "text": "x", "none": None, "rows": [{"loss": 0.5}], "weights": {"a": torch.arange(3.0)}}


def test_a_run_that_has_not_begun_has_no_state(tmp_path):
    assert Checkpoint(tmp_path / "scratch").load() is None


def test_a_state_is_read_as_it_was_kept_and_the_last_one_counts(tmp_path):
    Checkpoint(tmp_path / "scratch").save({"step": 3})
    Checkpoint(tmp_path / "scratch").save(STATE)
    kept = Checkpoint(tmp_path / "scratch").load()
    assert torch.equal(kept.pop("weights")["a"], torch.arange(3.0))
    assert kept == {key: value for key, value in STATE.items() if key != "weights"}


def test_a_save_that_fails_leaves_the_old_state(tmp_path):
    state = Checkpoint(tmp_path)
    state.save({"step": 3})
    with pytest.raises(Exception, match="pickle"):
        state.save({"step": 4, "not to be kept": lambda: None})
    assert state.load() == {"step": 3}


class _Code:
    """What would run as code when a pickle of it is read."""

    ran = False

    def __reduce__(self):
        return _run, ()


def _run():
    _Code.ran = True


def test_a_state_is_never_run_as_code(tmp_path):
    state = Checkpoint(tmp_path)
    torch.save({"step": _Code()}, state.path)
    with pytest.raises(Exception, match="weights_only"):
        state.load()
    assert not _Code.ran


@pytest.mark.parametrize("share", [0, 0.0001, 0.01, 0.3, 0.5, 0.9, 0.99, 0.9999])
def test_a_state_that_was_cut_short_is_told_of_and_passed_over(tmp_path, capsys, share):
    state = Checkpoint(tmp_path)
    state.save(STATE | {"weights": {"a": torch.arange(9999.0)}})
    whole = state.path.read_bytes()
    state.path.write_bytes(whole[: int(share * len(whole))])
    assert state.load() is None
    assert capsys.readouterr().err == f"{state.path}: is damaged, so the run begins anew\n"


@settings(max_examples=50, deadline=None)
@given(content=st.binary(max_size=200))
def test_a_state_of_any_other_bytes_is_passed_over(tmp_path_factory, content):
    state = Checkpoint(tmp_path_factory.mktemp("state"))
    state.path.write_bytes(content)
    assert state.load() is None


def test_a_full_disk_is_what_the_system_says_and_no_error_of_torch(tmp_path):
    state = Checkpoint(tmp_path)
    state.path.with_suffix(".part").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device"):
        state.save({"weights": torch.zeros(100_000)})
