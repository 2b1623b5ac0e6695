"""The page of a finetuned model begins with rows of its test split."""

import pytest
from ruamel.yaml import YAML

from llm.page.finetuned import task_passages
from tests.conftest import PARAMS
from tests.finetune.conftest import rows_of


@pytest.fixture
def settings(tmp_path):
    """A function that writes params.yaml with one task of a kind, and the rows of the task."""

    def write(kind: str, **changes: object):
        rows_of(kind).to_csv(tmp_path / "rows.csv", index=False)
        task = {"kind": kind, "base": "base", "data": str(tmp_path / "rows.csv")} | PARAMS[kind]
        own = {key: of for key, of in PARAMS["task"].items() if key not in ("base", "data")}
        content = {"seed": 1, "finetune": {"defaults": own, "tasks": {"topics": task | changes}}}
        YAML().dump(content, tmp_path / "params.yaml")
        return tmp_path / "params.yaml"

    return write


@pytest.mark.parametrize("kind", ["classify", "instruct", "dpo"])
def test_texts_and_questions_are_of_the_test_split(settings, kind):
    assert task_passages("topics", settings(kind)) == [["of rain 12"], ["of sun 14"], ["of river 28"]]


def test_a_pair_of_texts_stays_a_pair(settings):
    passages = task_passages("topics", settings("classify", text_columns=["text", "other"]))
    assert passages[0] == ["of rain 12", "river it is"]
    assert {len(row) for row in passages} == {2}


def test_another_model_has_no_rows(settings):
    assert task_passages("hf", settings("classify")) == []
