"""The documents are held to the project: links, commands, knobs, experiments and Python blocks."""

import doctest
import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from typer.main import get_command

from llm.__main__ import app
from llm.commands.check import check_params

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = ["README.md", "docs/questions.md", "docs/text.md"]
PARAMS: dict[str, Any] = YAML(typ="safe").load((ROOT / "params.yaml").read_text(encoding="utf-8"))
COMMANDS: dict[str, Any] = get_command(app).commands


def _find(pattern: str, document: str) -> list[str]:
    return re.findall(pattern, (ROOT / document).read_text(encoding="utf-8"))


def _is_key(key: str) -> bool:
    """Whether a dotted name leads to a value in params.yaml; behind a list stands what one of its entries has."""
    value: Any = PARAMS
    for part in key.split("."):
        if isinstance(value, list):
            return any(isinstance(entry, dict) and part in entry for entry in value)
        if not isinstance(value, dict) or part not in value:
            return False
        value = value[part]
    return True


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_relative_link_points_to_something(document):
    links = [link for link in _find(r"\]\(([^)\s]+)\)", document) if "://" not in link]
    folder = (ROOT / document).parent
    assert links
    assert [link for link in links if not (folder / link.partition("#")[0]).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_and_its_options_exist(document):
    named = _find(r"python -m llm ([a-z][a-z-]*)((?: --?[a-z-]+| [^\s`#]+)*)", document)
    assert named
    assert [name for name, _ in named if name not in COMMANDS] == []
    for name, words in named:
        options = {option for parameter in COMMANDS[name].params for option in parameter.opts}
        assert [word for word in re.findall(r"(?<= )--[a-z-]+", words) if word not in options] == [], name


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_knob_in_backticks_stands_in_params_yaml(document):
    sections = "|".join(PARAMS)
    named = _find(rf"`((?:{sections})(?:\.[a-z_]+)+)(?:[=: ][^`]*)?`", document)
    files = {name for name in named if name.endswith((".json", ".py", ".safetensors", ".yaml"))}
    assert sorted(name for name in {*named} - files if not _is_key(name)) == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_experiment_has_knobs_and_values_that_are_right(document, tmp_path):
    stages = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    experiments = [found.replace("'", "") for found in _find(r"dvc exp run ([^`\n#]+)", document)]
    for experiment in experiments:
        content = YAML(typ="safe").load((ROOT / "params.yaml").read_text(encoding="utf-8"))
        for key, value in re.findall(r"-S ([\w.]+)=(\S+)", experiment):
            assert _is_key(key), key
            *sections, last = key.split(".")
            inside = content
            for section in sections:
                inside = inside[section]
            inside[last] = YAML(typ="safe").load(value)
        YAML(typ="safe").dump(content, tmp_path / "params.yaml")
        check_params(tmp_path / "params.yaml")  # raises
        targets = re.sub(r"-S \S+|--temp|[…|]", "", experiment).split()
        assert [target for target in targets if target not in stages] == [], experiment


def _blocks() -> list[Any]:
    text = (ROOT / "docs/questions.md").read_text(encoding="utf-8")
    found = re.finditer(r"```pycon\n(.*?)```", text, flags=re.DOTALL)
    return [pytest.param(block[1], id=f"line {text[: block.start()].count(chr(10)) + 1}") for block in found]


@pytest.mark.parametrize("block", _blocks())
def test_every_python_block_says_what_it_says(block):
    examples = doctest.DocTestParser().get_doctest(block, {}, "questions.md", "docs/questions.md", 0)
    said: list[str] = []
    runner = doctest.DocTestRunner(verbose=False)
    runner.run(examples, out=said.append)
    assert examples.examples
    assert runner.summarize(verbose=False).failed == 0, "".join(said)


def test_every_question_stands_once_and_its_answer_names_the_code():
    _, *answers = re.split(r"(?m)^### ", (ROOT / "docs/questions.md").read_text(encoding="utf-8"))
    questions = [answer.partition("\n")[0] for answer in answers]
    assert len(questions) > 20
    assert [question for question in questions if not question.endswith("?")] == []
    assert len(set(questions)) == len(questions)
    assert [question for question, answer in zip(questions, answers, strict=True) if "](../" not in answer] == []
