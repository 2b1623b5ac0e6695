"""A params file becomes typed sections; invalid input is one line with the file, the key, what was expected and got."""

from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from llm.core import params
from llm.core.errors import UserError
from llm.core.params import Section
from llm.corpus.params import PrepareParams
from llm.model.config import ModelParams
from llm.tokens.params import TokenizeParams

SHIPPED = params.read(Path(__file__).resolve().parents[2] / "params.yaml")


class Training(Section):
    steps: Annotated[int, Field(ge=1)]
    rate: float
    shuffle: bool
    keep: Literal["last", "best"]
    names: list[str]


TRAINING = {"steps": 10, "rate": 0.1, "shuffle": True, "keep": "last", "names": ["a"]}


def refusal(kind: Any, value: Any, key: str) -> str:
    with pytest.raises(UserError) as error:
        params.check(kind, value, key, "params.yaml")
    return str(error.value).removeprefix(f"params.yaml: {key}").lstrip(".: ")


def changed(section: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A section with other values under dotted keys."""
    content: dict[str, Any] = {**section}
    for key, value in changes.items():
        first, _, rest = key.partition(".")
        content[first] = changed(content[first], {rest: value}) if rest else value
    return content


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": "10"}, "steps: expected integer, got text '10'"),
        ({"steps": True}, "steps: expected integer, got true"),
        ({"steps": None}, "steps: expected integer, got null"),
        ({"steps": 0}, "steps: expected greater than or equal to 1, got 0"),
        ({"rate": "fast"}, "rate: expected number, got text 'fast'"),
        ({"rate": float("nan")}, "rate: expected a finite number, got nan"),
        ({"rate": "x" * 500}, f"rate: expected number, got text '{'x' * 57}...'"),
        ({"rate": 1 << 64}, "rate: expected a number below 2⁶³, got 18446744073709551616"),
        ({"shuffle": 1}, "shuffle: expected boolean, got 1"),
        ({"keep": "lats"}, "keep: expected 'last' or 'best', got text 'lats'"),
        ({"names": "a"}, "names: expected list, got text 'a'"),
        ({"names": ["a", 3]}, "names.1: expected string, got 3"),
        ({"names": [[1 << 63]]}, "names.0.0: expected a number below 2⁶³, got 9223372036854775808"),
        ({"stesp": 10}, "stesp: unknown key"),
    ],
)
def test_a_wrong_value_is_one_line(changes: dict[str, Any], message: str) -> None:
    assert refusal(Training, TRAINING | changes, "training") == message


def test_several_problems_are_one_line() -> None:
    value = {("stesp" if key == "steps" else key): value for key, value in TRAINING.items()}
    message = "steps: required key is missing; training.stesp: unknown key"
    assert refusal(Training, value, "training") == message
    assert "expected" in refusal(Training, 3, "training")


FILES = {"name": "books", "kind": "files", "globs": ["data/raw/*.txt"]}
NEAR = "clean.near_duplicates"
NO_ENCODING = "expected an encoding that Python supports, such as latin-1, got"


@pytest.mark.parametrize(
    ("section", "changes", "message"),
    [
        ("model", {"d_model": 65}, "expected d_model divisible by n_heads, got d_model 65 and n_heads 3"),
        ("prepare", {"sources": [FILES, FILES | {"name": 3}]}, "sources.1.name: expected string, got 3"),
        ("prepare", {"sources": [FILES | {"glob": []}]}, "sources.0.glob: unknown key"),
        ("prepare", {"sources": [{"name": "a", "kind": "files"}]}, "sources.0.globs: required key is missing"),
        ("prepare", {"sources": [{"name": "a"}]}, "sources.0.kind: required key is missing"),
        ("prepare", {"sources": [FILES | {"kind": "file"}]}, "sources.0.kind: expected 'python' or 'docstrings' or"),
        ("prepare", {"sources": [FILES, FILES]}, "expected a name of its own for each source, got books, books"),
        ("prepare", {"sources": [FILES | {"encoding": "base64"}]}, f"sources.0.encoding: {NO_ENCODING} base64"),
        ("prepare", {"sources": [FILES | {"encoding": 7}]}, "sources.0.encoding: expected string, got 7"),
        ("prepare", {"sources": [FILES | {"encoding": {"*": "x"}}]}, f"sources.0.encoding.*: {NO_ENCODING} x"),
        ("prepare", {"sources": [FILES | {"separator": ""}]}, "sources.0.separator: expected at least 1 character"),
        ("prepare", {f"{NEAR}.bands": 12}, f"{NEAR}: expected permutations divisible by bands, got 128 and 12"),
        (
            "prepare",
            {"clean.repetition": {"top_ngram_chars": {"two": 0.2}}},
            "clean.repetition: expected the length of an n-gram, 1 to 99, got two",
        ),
        (
            "prepare",
            {f"{NEAR}.action": "group", "split.method": "position"},
            "expected near_duplicates.action drop: with split.method position",
        ),
        ("tokenize", {"kind": "word", "pretrained": "data/given/a"}, "pretrained: expected kind bpe"),
        ("tokenize", {"kind": "char", "dropout": 0.1}, "dropout: expected kind bpe"),
        ("tokenize", {"vocab_size": 262}, "vocab_size: expected at least 300 for bpe, 256 bytes included, got 262"),
    ],
)
def test_a_section_refuses_impossible_values(section: str, changes: dict[str, Any], message: str) -> None:
    kind = {"model": ModelParams, "prepare": PrepareParams, "tokenize": TokenizeParams}[section]
    assert message in refusal(kind, changed(SHIPPED[section], changes), section)


def test_values_are_read_as_yaml_1_2(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("rate: 3e-4\nswitch: off\nanswer: no\ncount: 012\nexact: true\n")
    expected = {"rate": 3e-4, "switch": "off", "answer": "no", "count": 12, "exact": True}
    assert params.read(tmp_path / "params.yaml") == expected


def test_a_section_is_found_under_a_dotted_key(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("all:\n  training: {steps: 10, rate: 1e-1, shuffle: true, keep: last, names: [a]}\n")
    assert params.load(path, "all.training", Training).model_dump() == TRAINING
    assert params.load(path, "all.training.steps", int) == 10
    for key in ("sample", "all.sample", "all.training.steps.a", "all.training.names.0"):
        with pytest.raises(UserError, match=rf"^{path}: {key}: required key is missing$"):
            params.load(path, key, Training)


UNREADABLE = [
    (b"model:\n  width: 1\n  width: 2\n", ' line 3: expected valid YAML, found duplicate key "width"'),
    (b"model: [1, 2\n", " line "),
    (b"seed: !!python/name:os.system 1\n", " line "),
    (b"", " expected keys with values, got null"),
    (b"seed: \xff\n", " expected UTF-8 text, got another byte at 6"),
    (None, " expected a params file, it is missing"),
]


@pytest.mark.parametrize(("content", "message"), UNREADABLE)
def test_an_unreadable_file_is_one_line(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as error:
        params.read(path)
    assert str(error.value).startswith(f"{path}:{message}")
    assert "\n" not in str(error.value)
