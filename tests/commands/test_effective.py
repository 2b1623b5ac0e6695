"""`llm params` prints a valid params file of the same meaning, in which nothing that a rule gives is null."""

import re
import shutil
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from llm.commands.check import check_params
from llm.commands.effective import effective_params
from llm.core import params
from llm.core.derived import RULES, fill
from llm.core.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "params.yaml"


@pytest.fixture(scope="module")
def printed() -> str:
    return effective_params(SHIPPED)


def test_it_is_a_params_file_of_the_same_meaning(printed: str, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(printed)
    checked, again = (fill(check_params(of).model_dump()) for of in (SHIPPED, path))
    assert checked == again
    assert effective_params(path).count("# default") == 0


def test_derived_values_name_their_source(printed: str, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(printed)
    for key, rule in RULES.items():
        value = params.find(params.read(path), key, path)
        assert re.search(rf"^ +{key.split('.')[-1]}: {value} +# derived from {rule.source}$", printed, re.M), key
    assert printed.count("# derived from") == len(RULES) + len(params.read(SHIPPED)["finetune"]["tasks"])


def test_every_default_is_documented(printed: str) -> None:
    page = (ROOT / "docs" / "params.md").read_text(encoding="utf-8").partition("## Defaults")[2]
    rows = re.findall(r"^\| `(?:[\w.]+\.)?(\w+)` \| `([^`]+)` \|", page, re.M)
    found = re.findall(r"^ *(\w+): (\S+) +# default$", printed, re.M)
    assert len(found) > 30
    assert set(found) - set(rows) <= {("system", "null")}  # of the columns of conversations: docs/finetuning.md
    assert dict(rows)["zero_shot"] == "null"
    stated = {
        "split_column",
        "on_error",
        "zero_shot",
        "input_column",
    }  # by the tasks that there are, or of dpo
    assert {name for name, value in set(rows) - set(found)} <= stated


def test_a_shape_may_be_that_of_given_weights(
    exported_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = params.read(SHIPPED)
    content["model"] |= {"d_model": None, "n_layers": None, "n_heads": None, "n_kv_heads": None, "d_ff": None}
    monkeypatch.chdir(tmp_path)
    path = Path("params.yaml")
    for given, message in ((None, "model.d_model: expected integer, got null"), ("data/given/base", "data/given/base")):
        content["pretrain"]["init_from"] = given
        YAML(typ="safe", pure=True).dump(content, path)
        with pytest.raises(UserError, match=message):
            effective_params(path)
    shutil.copytree(exported_folder, "data/given/base")
    assert re.search(r"d_model: 24 +# derived from pretrain.init_from", effective_params(path))
