"""A params file of the last version is refused with its new names, and every new name exists."""

import re
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest

from llm.commands.check import check_params
from llm.core import params
from llm.core.errors import UserError
from llm.core.renames import RENAMES
from llm.finetune.params import with_defaults

ROOT = Path(__file__).resolve().parents[2]

# The lines of the last version's params.yaml that have another name now, each with its old values.
OLD = """\
prepare: {share: 1.0}
tokenize: {whitespace: keep, from: null}
pretrain:
  clean_share: 0.2
  init: look_back
  optimizer: {muon_rate: 0.02, adamw_rate: 0.006, clip_norm: 10.0}
  schedule: {decay_share: 0.5, final_share: 0.0}
  average: null
  average_share: 0.1
  stop_after_evals: null
  keep: last
finetune:
  seeds: 1
  tasks:
    library:
      weights: model.safetensors
      too_long: drop
      learn: all
      training:
        rates: [0.016]
        search_share: 0.15
        other_rate_ratio: 0.3
        layer_rate_decay: 1.0
        clip_norm: 10.0
        warmup_share: 0.1
        decay_share: 0.6
        evals: 4
        stop_after_evals: null
    docstring: {kind: prefer, base: models/export, too_long: cut, learn: answers}
"""


def keys_of(content: Any, key: str = "") -> list[str]:
    """Every dotted key of nested mappings."""
    if not isinstance(content, dict):
        return []
    return [
        path
        for name, value in content.items()
        for path in (f"{key}.{name}".removeprefix("."), *keys_of(value, f"{key}.{name}".removeprefix(".")))
    ]


def test_an_old_params_file_is_refused_with_every_new_name(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text(OLD)
    with pytest.raises(UserError) as error:
        check_params(file)
    said = str(error.value)
    assert said.startswith(f"{file}: ") and "\n" not in said
    for old, new in RENAMES.items():
        key, _, value = old.partition("=")
        pattern = re.escape(key).replace(r"\*", r"[\w.]+")
        assert re.search(rf"{pattern}: {f'{value} is ' if value else ''}renamed to {re.escape(new)}", said), old


@pytest.mark.parametrize("old", [old for old in RENAMES if "=" not in old])
def test_a_new_key_is_in_params_yaml_and_its_old_one_is_not(old: str) -> None:
    content = params.read(ROOT / "params.yaml")
    keys = keys_of(content | {"finetune": with_defaults(content["finetune"])})
    new = ".".join([*old.split(".")[:-1], RENAMES[old].split()[0]])
    assert any(fnmatchcase(key, new) for key in keys)
    assert not any(fnmatchcase(key, old) for key in keys)


@pytest.mark.parametrize("old", [old for old in RENAMES if "=" in old])
def test_a_new_value_is_one_that_its_key_allows(old: str) -> None:
    value = old.partition("=")[2]
    allowed = "".join(path.read_text() for path in [*ROOT.glob("llm/*/params.py"), ROOT / "llm/commands/check.py"])
    assert f'"{RENAMES[old]}"' in allowed
    assert f'"{value}"' not in allowed
