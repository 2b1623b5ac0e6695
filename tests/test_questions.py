"""Documents agree with the project: links, commands, params, experiments and Python blocks."""

import doctest
import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from typer.main import get_command

from llm.__main__ import app
from llm.commands.check import check_params
from llm.commands.effective import effective_params
from llm.core import params

ROOT = Path(__file__).resolve().parents[1]
PARAMS = params.read(ROOT / "params.yaml")
STAGES = params.read(ROOT / "dvc.yaml")["stages"]
COMMANDS: dict[str, Any] = get_command(app).commands
EFFECTIVE = YAML(typ="safe").load(effective_params(ROOT / "params.yaml"))
PAGES = ["README.md", "docs/params.md", "docs/questions.md", "docs/text.md"]
every_document = pytest.mark.parametrize("document", PAGES)


def _find(pattern: str, document: str) -> list[Any]:
    return re.findall(pattern, (ROOT / document).read_text(encoding="utf-8"))


def _is_key(key: str, value: Any) -> bool:
    """Whether a dotted name leads to a value in params, through any entry of a list."""
    for part in key.split("."):
        if isinstance(value, list):
            return any(isinstance(entry, dict) and part in entry for entry in value)
        if not isinstance(value, dict) or part not in value:
            return False
        value = value[part]
    return True


@every_document
def test_every_relative_link_has_a_target(document):
    links = [link for link in _find(r"\]\(([^)\s]+)\)", document) if "://" not in link]
    assert links
    folder = (ROOT / document).parent
    assert [link for link in links if not (folder / link.partition("#")[0]).exists()] == []


@every_document
def test_every_command_and_its_options_exist(document):
    named = _find(r"python -m llm ([a-z][a-z-]*)((?: --?[a-z-]+| [^\s`#]+)*)", document)
    assert named
    for name, words in named:
        options = {option for parameter in COMMANDS[name].params for option in parameter.opts}
        assert [word for word in re.findall(r"(?<= )--[a-z-]+", words) if word not in options] == [], name


@every_document
def test_every_param_in_backticks_exists(document):
    named = set(_find(rf"`((?:{'|'.join(PARAMS)})(?:\.[a-z_]+)+)(?:[=: ][^`]*)?`", document))
    files = {name for name in named if name.endswith((".json", ".py", ".safetensors", ".yaml"))}
    assert sorted(name for name in named - files if not _is_key(name, EFFECTIVE)) == []


@every_document
def test_every_experiment_has_valid_params_and_targets(document, tmp_path):
    for experiment in (found.replace("'", "") for found in _find(r"dvc exp run ([^`\n#]+)", document)):
        content = params.read(ROOT / "params.yaml")
        for key, value in re.findall(r"-S ([\w.]+)=(\S+)", experiment):
            assert _is_key(key, PARAMS), key
            above, _, last = key.rpartition(".")
            section = params.find(content, above, Path()) if above else content
            section[last] = YAML(typ="safe").load(value)
        YAML(typ="safe").dump(content, tmp_path / "params.yaml")
        check_params(tmp_path / "params.yaml")  # raises
        targets = re.sub(r"-S \S+|--temp|[…|]", "", experiment).split()
        assert [target for target in targets if target not in STAGES] == [], experiment


def _blocks() -> list[Any]:
    text = (ROOT / "docs/questions.md").read_text(encoding="utf-8")
    found = re.finditer(r"```pycon\n(.*?)```", text, flags=re.DOTALL)
    return [pytest.param(block[1], id=f"line {text[: block.start()].count(chr(10)) + 1}") for block in found]


@pytest.mark.parametrize("block", _blocks())
def test_every_python_block_has_its_output(block):
    examples = doctest.DocTestParser().get_doctest(block, {}, "questions.md", "docs/questions.md", 0)
    printed: list[str] = []
    results = doctest.DocTestRunner(verbose=False).run(examples, out=printed.append)
    assert results.attempted
    assert results.failed == 0, "".join(printed)


def test_every_question_is_unique_and_its_answer_links_to_code():
    _, *answers = re.split(r"(?m)^### ", (ROOT / "docs/questions.md").read_text(encoding="utf-8"))
    questions = [answer.partition("\n")[0] for answer in answers]
    assert len(set(questions)) == len(questions) > 20
    assert [question for question in questions if not question.endswith("?")] == []
    assert [question for question, answer in zip(questions, answers, strict=True) if "](../" not in answer] == []
