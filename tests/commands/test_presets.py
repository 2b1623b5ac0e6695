"""Presets set a few keys of a params file and leave everything else as it was."""

import re
import shutil
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from llm.commands.check import check_params
from llm.commands.presets import apply_preset
from llm.core import params
from llm.core.errors import UserError
from llm.report.metrics import flatten

ROOT = Path(__file__).resolve().parents[2]
DEFAULT = ROOT / "presets" / "default.yaml"
OTHERS = sorted(set((ROOT / "presets").glob("*.yaml")) - {DEFAULT})
# Besides, a plan changes these.
PLANNED = {"tokenize.dropout", "tokenize.segmentations", "model.dropout", "pretrain.optimizer.weight_decay"}

FILE = """\
# All settings.
seed: 1                # of every generator

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


@pytest.mark.parametrize("preset", OTHERS, ids=lambda path: path.stem)
def test_every_preset_is_valid_and_default_undoes_it(preset: Path, shipped: Path) -> None:
    for earlier in OTHERS:  # in any order
        apply_preset(earlier, shipped)
        apply_preset(preset, shipped)
        check_params(shipped)
    found, before = params.read(shipped), params.read(ROOT / "params.yaml")
    assert [name for name in ("prepare", "label") if found[name] != before[name]] == []  # of the user
    assert apply_preset(DEFAULT, shipped)
    assert shipped.read_bytes() == (ROOT / "params.yaml").read_bytes(), (
        "presets/default.yaml needs the values of params.yaml for every key that a preset changes"
    )


def test_default_has_the_keys_of_the_other_presets_and_no_user_data() -> None:
    keys = set().union(*(flatten(params.read(preset)) for preset in OTHERS))
    assert set(flatten(params.read(DEFAULT))) == keys | PLANNED
    assert not {key.split(".")[0] for key in keys} & {"prepare", "label", "seed", "export"}
    allowed = {"tokenize.vocab_size", "sample.context_length", "sample.stride"}
    assert {key for key in keys if key.startswith(("tokenize", "sample"))} <= allowed
    assert {key.split(".")[3] for key in keys if key.startswith("finetune.tasks")} <= {"max_tokens", "training"}


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


PRESET = "seed: 1\nmodel:\n  width: 128\n  rates:  # of the preset\n    - 0.5  # also\nglobs: ['a', 'b']\n"


def test_a_preset_changes_its_keys_and_keeps_comments_and_style(target: Path, tmp_path: Path) -> None:
    preset = write_preset(tmp_path, PRESET)
    assert apply_preset(preset, target) == [
        "model.width: 64 → 128",
        "model.rates: [0.1, 0.02] → [0.5]",
        "globs: ['*'] → ['a', 'b']",
    ]
    changed = FILE.replace("width: 64 ", "width: 128").replace("[0.1, 2e-2]  ", "[0.5]        ")
    assert re.sub(" +", " ", target.read_text()) == re.sub(" +", " ", changed.replace('["*"]', "[a, b]"))
    once = target.read_bytes()
    assert apply_preset(preset, target) == []
    assert target.read_bytes() == once


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 2\nmodel:\n  widht: 3\n", "model.widht: unknown key"),
        ("seed: 2\nmodel:\n  width:\n    first: 3\n", "model.width.first: unknown key"),
        ("seed: 2\nmodel: [\n", "line "),
    ],
)
def test_a_preset_that_does_not_fit_changes_nothing(text: str, message: str, target: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"other\.yaml.* {re.escape(message)}") as error:
        apply_preset(write_preset(tmp_path, text), target)
    assert "\n" not in str(error.value)
    assert target.read_text() == FILE
    with pytest.raises(UserError, match=r"^preset: expected one of other, got tinny$"):
        apply_preset(tmp_path / "presets/tinny.yaml", target)


def test_a_task_that_the_user_does_not_have_is_left_out(shipped: Path) -> None:
    content = params.read(shipped)
    content["finetune"]["tasks"] = {"mine": content["finetune"]["tasks"]["library"]}
    YAML().dump(content, shipped)
    apply_preset(OTHERS[-1], shipped)
    assert params.read(shipped)["finetune"]["tasks"] == content["finetune"]["tasks"]


def test_a_full_disk_leaves_the_params_intact(shipped: Path) -> None:
    before = shipped.read_bytes()
    shipped.with_name("params.yaml.part").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device"):
        apply_preset(OTHERS[-1], shipped)
    assert shipped.read_bytes() == before
    assert not shipped.with_name("params.yaml.part").exists()
