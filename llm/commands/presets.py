"""Edit params.yaml and keep its comments and layout; apply a preset.

A preset is a difference from `presets/default.yaml`, which is applied first and so undoes an earlier preset. It sets
the size of the model and of the run, never the user's data.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from llm.core import params
from llm.core.errors import UserError
from llm.report.metrics import flatten


@contextmanager
def edited(target: Path) -> Iterator[Any]:
    """Yield the content of a params file, and write it back by rename if the block changed it.

    Comments, quotes and indents stay, new lists are on one line; an error or a full disk leaves the file intact.
    """
    before, yaml = params.read(target), YAML()
    yaml.representer.add_representer(type(None), lambda of, _: of.represent_scalar("tag:yaml.org,2002:null", "null"))
    yaml.preserve_quotes, yaml.width, yaml.default_flow_style = True, 200, None
    yaml.indent(mapping=2, sequence=4, offset=2)
    content = yaml.load(target.read_text(encoding="utf-8"))
    yield content
    if content == before:
        return
    ends = "\r\n" if b"\r\n" in target.read_bytes() else "\n"
    part = target.resolve().with_name(f"{target.name}.part")
    try:
        with part.open("w", encoding="utf-8", newline=ends) as file:
            yaml.dump(content, file)
        part.replace(target.resolve())
    finally:
        part.unlink(missing_ok=True)


def apply_preset(preset: Path, target: Path) -> list[str]:
    """Write a preset's values into a params file; return `key: old → new` for each change.

    UserError for an unknown preset, or a key that the file does not have. A task that it does not have is left out.
    """
    if not preset.is_file():
        known = ", ".join(sorted(path.stem for path in preset.parent.glob("*.yaml"))) or "none"
        raise UserError(f"preset: expected one of {known}, got {preset.stem}")
    before = flatten(params.read(target))
    with edited(target) as content:
        for path in (preset.with_name("default.yaml"), preset):
            for key, value in flatten(params.read(path)).items() if path.is_file() else ():
                set_key(content, key, value, path)
        return [f"{key}: {before[key]} → {new}" for key, new in flatten(content).items() if new != before[key]]


def set_key(content: Any, key: str, value: Any, preset: Path) -> None:
    """Set a dotted key of a params file's content; a task that it does not have is left out.

    UserError for another key that it does not have.
    """
    *above, last = key.split(".")
    if above[:2] == ["finetune", "tasks"] and above[2] not in content["finetune"]["tasks"]:
        return
    if key not in flatten(content):
        raise UserError(f"{preset}: {key}: unknown key, or one of another depth")
    section = params.find(content, ".".join(above), preset) if above else content
    if isinstance(value, list) and isinstance(section[last], list):
        section[last][:] = value  # the same object keeps its style and comment
    else:
        section[last] = value
