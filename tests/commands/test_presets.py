"""Presets set a few keys of a params file and leave all the rest as it was."""

import re
import shutil
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from llm.commands.check import check_params
from llm.commands.presets import apply_preset
from llm.core import params
from llm.core.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
DEFAULT = ROOT / "presets" / "default.yaml"
OTHERS = sorted(set((ROOT / "presets").glob("*.yaml")) - {DEFAULT})

FILE = """\
# All knobs.
seed: 1                # of every draw

model:
  width: 64            # of the hidden states
  rates: [0.1, 2e-2]   # each is tried
name: "mine"           # quoted
globs: ["*"]
"""


@pytest.fixture
def shipped(tmp_path: Path) -> Path:
    return Path(shutil.copy(ROOT / "params.yaml", tmp_path / "params.yaml"))


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "params.yaml"
    path.write_text(FILE)
    return path


def write_preset(folder: Path, text: str) -> Path:
    path = folder / "presets" / "other.yaml"
    path.parent.mkdir()
    path.write_text(text)
    return path


def comments(path: Path) -> list[str]:
    return re.findall(r"#.*", path.read_text())


def leaves(value: object, key: str = "") -> set[str]:
    match value:
        case dict():
            return {leaf for name, inner in value.items() for leaf in leaves(inner, f"{key}.{name}")}
    return {key}


@pytest.mark.parametrize("preset", [DEFAULT, *OTHERS], ids=lambda path: path.stem)
def test_every_preset_passes_the_check(preset: Path, shipped: Path) -> None:
    for earlier in (preset, *OTHERS):  # whatever was applied before
        apply_preset(earlier, shipped)
        apply_preset(preset, shipped)
        check_params(shipped)


@pytest.mark.parametrize("preset", OTHERS, ids=lambda path: path.stem)
def test_default_after_another_preset_gives_the_shipped_file_back_to_the_byte(preset: Path, shipped: Path) -> None:
    assert apply_preset(preset, shipped)
    apply_preset(DEFAULT, shipped)
    assert shipped.read_bytes() == (ROOT / "params.yaml").read_bytes(), (
        "presets/default.yaml has to hold the values of params.yaml for every key that a preset changes"
    )


def test_default_names_every_key_that_another_preset_names_and_no_other() -> None:
    changed = set().union(*(leaves(params.read(preset)) for preset in OTHERS))
    assert leaves(params.read(DEFAULT)) == changed


def test_the_gpu_preset_has_about_124_million_parameters(shipped: Path) -> None:
    import torch

    from llm.model.config import ModelConfig
    from llm.model.gpt import GPT

    apply_preset(ROOT / "presets" / "gpu.yaml", shipped)
    checked = check_params(shipped)
    shape = checked.model.model_dump() | {"vocab_size": checked.tokenize.vocab_size}
    with torch.device("meta"):
        gpt = GPT(ModelConfig(**shape, context_length=checked.sample.context_length))
    assert sum(weight.numel() for weight in gpt.parameters()) == pytest.approx(124e6, rel=0.01)


def test_a_preset_changes_its_keys_and_nothing_else(target: Path, tmp_path: Path) -> None:
    apply_preset(write_preset(tmp_path, "model:\n  width: 128\n"), target)
    assert target.read_text() == FILE.replace("width: 64 ", "width: 128")


def test_lists_keep_their_comment_and_how_they_are_written(target: Path, tmp_path: Path) -> None:
    before = comments(target)
    preset = "seed: 2\nmodel:\n  rates:  # of the preset\n    - 0.5  # also\nglobs: ['a', 'b']\n"
    apply_preset(write_preset(tmp_path, preset), target)
    assert comments(target) == before
    assert "rates: [0.5] " in target.read_text()
    assert params.read(target) == {
        "seed": 2,
        "model": {"width": 64, "rates": [0.5]},
        "name": "mine",
        "globs": ["a", "b"],
    }


def test_changes_are_told_as_old_and_new(target: Path, tmp_path: Path) -> None:
    preset = write_preset(tmp_path, "seed: 1\nmodel:\n  width: 32\n  rates: [0.5]\n")
    assert apply_preset(preset, target) == ["model.width: 64 → 32", "model.rates: [0.1, 0.02] → [0.5]"]


def test_a_preset_applied_twice_changes_nothing_the_second_time(target: Path, tmp_path: Path) -> None:
    preset = write_preset(tmp_path, "seed: 7\nglobs: ['x']\n")
    assert apply_preset(preset, target)
    once = target.read_bytes()
    assert apply_preset(preset, target) == []
    assert target.read_bytes() == once


def test_an_unknown_preset_is_told_which_there_are(target: Path, tmp_path: Path) -> None:
    folder = write_preset(tmp_path, "seed: 7\n").parent
    (folder / "huge.yaml").write_text("seed: 8\n")
    with pytest.raises(UserError, match=r"^preset: expected one of huge, other, got tinny$"):
        apply_preset(folder / "tinny.yaml", target)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("seed: 2\nmodel:\n  widht: 3\n", "model.widht: no such key in the params file"),
        ("seed: 2\nmodel:\n  width:\n    first: 3\n", "model.width: wanted one value, given a mapping"),
        ("seed: 2\nmodel: big\n", "model: expected keys with values, got text 'big'"),
        ("seed: 2\nmodel: [\n", "expected valid YAML"),
    ],
)
def test_a_preset_that_does_not_fit_leaves_the_file_as_it_was(
    text: str, sentence: str, target: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=re.escape(sentence)) as error:
        apply_preset(write_preset(tmp_path, text), target)
    assert "other.yaml" in str(error.value) and "\n" not in str(error.value)
    assert target.read_text() == FILE


def test_no_preset_touches_what_is_the_users_data() -> None:
    keys = set().union(*(leaves(params.read(preset)) for preset in (DEFAULT, *OTHERS)))
    sections = {key.split(".")[1] for key in keys}
    assert not sections & {"prepare", "label", "seed", "export"}
    assert {key for key in keys if key.startswith((".tokenize", ".sample"))} <= {
        ".tokenize.vocab_size",
        ".sample.context_length",
        ".sample.stride",
    }
    tasks = {key.split(".", 4)[-1] for key in keys if key.startswith(".finetune.tasks")}
    assert {key.split(".")[0] for key in tasks} == {"max_tokens", "training"}


@pytest.mark.parametrize("preset", [DEFAULT, *OTHERS], ids=lambda path: path.stem)
def test_a_users_sources_split_and_tasks_stay_as_they_are(preset: Path, shipped: Path) -> None:
    yaml = YAML()
    content = yaml.load(shipped)
    content["prepare"]["share"] = 0.5
    content["prepare"]["split"] |= {"method": "position", "val": 0.2, "test": 0.3}
    content["finetune"]["tasks"] = {"mine": content["finetune"]["tasks"]["library"]}
    yaml.dump(content, shipped)
    before = params.read(shipped)
    apply_preset(preset, shipped)
    after = params.read(shipped)
    assert after["prepare"] == before["prepare"]
    assert after["label"] == before["label"]
    assert after["finetune"] == before["finetune"]


def test_a_full_disk_leaves_the_params_as_they_were(shipped: Path) -> None:
    before = shipped.read_bytes()
    shipped.with_name("params.yaml.part").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device"):
        apply_preset(OTHERS[-1], shipped)
    assert shipped.read_bytes() == before
    assert not shipped.with_name("params.yaml.part").exists()
