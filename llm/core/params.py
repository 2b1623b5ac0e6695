"""`params.yaml` in, one typed and frozen section out; a wrong key or value becomes one line.

    >>> class Demo(Section):
    ...     steps: int
    >>> check(Demo, {"steps": 3}, "demo", "params.yaml")
    Demo(steps=3)
    >>> check(Demo, {"stesp": 3}, "demo", "params.yaml")
    Traceback (most recent call last):
    ...
    llm.core.errors.UserError: params.yaml: demo.steps: wanted a value, it is missing; demo.stesp: no such key

Each section's class stands in the room that it is for, so that a new knob for finetuning does not change a
file that pretraining depends on. This module only loads and explains.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from llm.core.errors import UserError
from llm.core.renames import find_renames

Share = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]


def _known_encoding(name: str) -> str:
    try:
        "".encode(name)  # codecs that are no encoding of text, such as base64, are refused here too
    except LookupError:
        raise ValueError(f"wanted an encoding that Python knows, such as latin-1, given {name}") from None
    return name


EncodingName = Annotated[str, AfterValidator(_known_encoding)]


class Section(BaseModel):
    """A part of params.yaml: strict types, frozen, and no key that it does not know."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)


def read(path: Path) -> dict[str, Any]:
    """Read a params file as YAML 1.2 (so `3e-4` is a number and `off` is text).

    Raises UserError if it is missing, is not YAML, repeats a key or is no mapping.
    """
    try:
        content = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: wanted a params file, there is none") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: wanted UTF-8 text, byte {error.start} is none") from None
    except MarkedYAMLError as error:
        line = f" line {error.problem_mark.line + 1}:" if error.problem_mark else ""
        problem = " ".join(str(error.problem).split())
        raise UserError(f"{path}:{line} wanted YAML, {problem}") from None
    except YAMLError as error:
        raise UserError(f"{path}: wanted YAML, {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: wanted keys with values, given {describe(content)}")
    return content


def find(content: dict[str, Any], key: str, path: Path) -> Any:
    """The value under a dotted key, `finetune.tasks.library` say; UserError where there is none."""
    value: Any = content
    for depth, part in enumerate(parts := key.split("."), start=1):
        if not isinstance(value, dict) or part not in value:
            here = ".".join(parts[:depth])
            raise UserError(f"{path}: {here}: wanted a value, it is missing")
        value = value[part]
    return value


def load(path: Path, key: str, kind: Any) -> Any:
    """The value under `key`, checked against `kind`: a Section or any type that pydantic knows."""
    return check(kind, find(read(path), key, path), key, path)


def check(kind: Any, value: Any, key: str, path: Path | str) -> Any:
    """Make a `kind` of a plain value, or raise a UserError that lists all that is wrong with it in one line."""
    if renames := list(find_renames(value, key)):
        raise UserError(f"{path}: {'; '.join(renames)}")
    if overlong := [f"{where}: expected a number below 2⁶³, got {number}" for where, number in _overlong(value, key)]:
        raise UserError(f"{path}: {'; '.join(overlong)}")
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        problems = "; ".join(_explain(dict(problem), key, value) for problem in error.errors(include_url=False))
        raise UserError(f"{path}: {problems}") from None


def _overlong(value: Any, key: str) -> Iterator[tuple[str, str]]:
    """The whole numbers that no library counts with, with their keys."""
    if isinstance(value, dict | list):
        for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _overlong(inner, f"{key}.{name}".removeprefix("."))
    elif isinstance(value, int) and abs(value) >= 1 << 63:
        yield key, describe(value)


def describe(value: Any) -> str:
    """A value and what it is, in words: `text 'abc'`, `true`, `3`, `nothing`; long ones cut."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f"text {value if len(value) <= 60 else value[:57] + '...'!r}"
    if isinstance(value, dict):
        return f"a mapping with the keys {', '.join(map(str, value)) or '(none)'}"
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _explain(problem: dict[str, Any], key: str, content: Any) -> str:
    where = ".".join([*filter(None, [key]), *_keys(problem, content)])
    match problem["type"]:
        case "missing":
            return f"{where}: wanted a value, it is missing"
        case "extra_forbidden":
            return f"{where}: no such key"
        case "value_error":
            # A sentence from one of our own cross-field checks, which names its keys itself.
            return f"{where}: {problem['ctx']['error']}"
        case "union_tag_not_found" | "union_tag_invalid":
            tag = problem["ctx"]["discriminator"].strip("'")
            if tag not in problem["input"]:
                return f"{where}.{tag}: wanted a value, it is missing"
            wanted = problem["ctx"]["expected_tags"].replace(", ", " or ")
            return f"{where}.{tag}: wanted {wanted}, given {describe(problem['input'][tag])}"
    wanted = re.sub(r"^\w+ should (be (a valid )?|have |match )?| after validation, not \d+$", "", problem["msg"])
    return f"{where}: wanted {wanted}, given {describe(problem['input'])}"


def _keys(problem: dict[str, Any], content: Any) -> list[str]:
    """The keys that lead to a problem. Pydantic names the branch of a tagged union too; the file has no such key."""
    keys: list[str] = []
    branch_of: Any = None  # the mapping whose branch was named last
    for depth, part in enumerate(problem["loc"], start=1):
        if isinstance(content, dict) and content is not branch_of and content.get("kind") == part:
            branch_of = content
            continue
        is_there = part in content if isinstance(content, dict) else isinstance(content, list) and isinstance(part, int)
        if is_there:
            content = content[part]
        if is_there or (problem["type"] == "missing" and depth == len(problem["loc"])):
            keys.append(str(part))
    return keys
