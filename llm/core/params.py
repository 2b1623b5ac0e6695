"""Load sections of params.yaml as typed, frozen objects; report every wrong key or value in one line.

>>> class Demo(Section):
...     steps: int
>>> check(Demo, {"steps": 3}, "demo", "params.yaml")
Demo(steps=3)
>>> check(Demo, {"stesp": 3}, "demo", "params.yaml")
Traceback (most recent call last):
...
llm.core.errors.UserError: params.yaml: demo.steps: required key is missing; demo.stesp: unknown key

The class of a section is defined in the package that uses it, so that a new key of finetuning changes no file that
pretraining depends on.
"""

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from llm.core.errors import UserError

# New names of keys since the last version; to be deleted in the next one.
RENAMES = {
    "share": "subset_fraction",
    "from": "pretrained",
    "whitespace": "keep_whitespace (true or false)",
    "clean_share": "final_no_dropout_fraction",
    "muon_rate": "muon_lr",
    "adamw_rate": "adamw_lr",
    "clip_norm": "max_grad_norm",
    "warmup_share": "warmup_fraction",
    "decay_share": "decay_fraction",
    "final_share": "final_lr_fraction",
    "average": "weight_averaging",
    "average_share": "ema_half_life_fraction and tail_fraction",
    "evals": "n_evals",
    "stop_after_evals": "early_stopping_patience",
    "keep": "checkpoint_selection",
    "seeds": "n_seeds",
    "weights": "base (the folder of the weights)",
    "too_long": "on_overflow",
    "learn": "loss_on",
    "rates": "learning_rates",
    "search_share": "lr_search_fraction",
    "other_rate_ratio": "adamw_lr_ratio",
    "layer_rate_decay": "layerwise_lr_decay",
}


def _check_encoding(name: str) -> str:
    try:
        "".encode(name)  # refuses codecs that encode no text, such as base64, too
    except LookupError:
        raise ValueError(f"expected an encoding that Python supports, such as latin-1, got {name}") from None
    return name


Share = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]
EncodingName = Annotated[str, AfterValidator(_check_encoding)]


class Section(BaseModel):
    """A part of params.yaml: strict types, frozen, unknown keys refused."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)


def read(path: Path) -> dict[str, Any]:
    """Read a params file as YAML 1.2, in which `3e-4` is a number and `off` is text; UserError if it is not valid."""
    try:
        content = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: expected a params file, it is missing") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: expected UTF-8 text, got another byte at {error.start}") from None
    except YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", error)
        line = f" line {mark.line + 1}:" if mark else ""
        raise UserError(f"{path}:{line} expected valid YAML, {' '.join(str(problem).split())}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected keys with values, got {describe(content)}")
    return content


def find(content: dict[str, Any], key: str, path: Path) -> Any:
    """Return the value under a dotted key such as `finetune.tasks.library`; UserError if it is missing."""
    value: Any = content
    for depth, part in enumerate(parts := key.split("."), start=1):
        if not isinstance(value, dict) or part not in value:
            raise UserError(f"{path}: {'.'.join(parts[:depth])}: required key is missing")
        value = value[part]
    return value


def load(path: Path, key: str, kind: Any) -> Any:
    """Return the value under `key`, validated as `kind`: a Section or any type that pydantic supports."""
    return check(kind, find(read(path), key, path), key, path)


def check(kind: Any, value: Any, key: str, path: Path | str) -> Any:
    """Validate a plain value as `kind`; UserError lists all problems in one line."""
    if overlong := [f"{where}: expected a number below 2⁶³, got {number}" for where, number in _overlong(value, key)]:
        raise UserError(f"{path}: {'; '.join(overlong)}")
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        problems = "; ".join(_explain(dict(problem), key, value) for problem in error.errors(include_url=False))
        raise UserError(f"{path}: {problems}") from None


def _overlong(value: Any, key: str) -> Iterator[tuple[str, str]]:
    """Yield the integers that do not fit into 64 bits, with their keys."""
    if isinstance(value, dict | list):
        for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _overlong(inner, f"{key}.{name}".removeprefix("."))
    elif isinstance(value, int) and abs(value) >= 1 << 63:
        yield key, describe(value)


def describe(value: Any) -> str:
    """Describe a value and its type: `text 'abc'`, `true`, `3`, `null`; long values are truncated."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, dict):
        keys = ", ".join(map(str, value)) or "(none)"
        return f"a mapping with the keys {keys if keys.isprintable() else repr(keys)}"
    text = str(value)
    text = text if len(text) <= 60 else text[:57] + "..."
    return f"text {text!r}" if isinstance(value, str) else text


def _explain(problem: dict[str, Any], key: str, content: Any) -> str:
    where = ".".join([*filter(None, [key]), *_keys(problem, content)])
    match problem["type"]:
        case "missing":
            return f"{where}: required key is missing"
        case "extra_forbidden":
            new = RENAMES.get(where.rpartition(".")[2])
            return f"{where}: renamed to {new}" if new else f"{where}: unknown key"
        case "value_error":
            # The message of one of our own checks across fields, which names its keys.
            return f"{where}: {problem['ctx']['error']}"
        case "union_tag_not_found" | "union_tag_invalid":
            tag = problem["ctx"]["discriminator"].strip("'")
            if tag not in problem["input"]:
                return f"{where}.{tag}: required key is missing"
            expected = problem["ctx"]["expected_tags"].replace(", ", " or ")
            return f"{where}.{tag}: expected {expected}, got {describe(problem['input'][tag])}"
    expected = re.sub(r"^\w+ should (be (a valid )?|have |match )?| after validation, not \d+$", "", problem["msg"])
    return f"{where}: expected {expected}, got {describe(problem['input'])}"


def _keys(problem: dict[str, Any], content: Any) -> list[str]:
    """Return the keys that lead to a problem; pydantic also names the branch of a union, which is not a key."""
    keys: list[str] = []
    for part in problem["loc"]:
        with suppress(KeyError, IndexError, TypeError):
            content = content[part]
            keys.append(str(part))
    return [*keys, str(problem["loc"][-1])] if problem["type"] == "missing" else keys
