"""Apply a preset: set a few keys of params.yaml, and keep its comments.

A preset is a difference from `presets/default.yaml`, which is applied first and so undoes an earlier preset. It sets
the size of the model and of the run, never the user's data.
"""

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from llm.core import params
from llm.core.errors import UserError
from llm.report.metrics import flatten


def apply_preset(preset: Path, target: Path) -> list[str]:
    """Write a preset's values into a params file; return `key: old → new` for each change.

    UserError for an unknown preset, or a key that the file does not have.
    """
    if not preset.is_file():
        known = ", ".join(sorted(path.stem for path in preset.parent.glob("*.yaml"))) or "none"
        raise UserError(f"preset: expected one of {known}, got {preset.stem}")
    before, yaml = flatten(params.read(target)), _round_trip_yaml()
    content = yaml.load(target.read_text(encoding="utf-8"))
    for path in (preset.with_name("default.yaml"), preset):
        for key, value in flatten(params.read(path)).items() if path.is_file() else ():
            _set(content, key, value, path)
    changes = [f"{key}: {before[key]} → {new}" for key, new in flatten(content).items() if new != before[key]]
    if changes:
        # By rename, so that a full disk leaves the file intact.
        part = target.resolve().with_name(f"{target.name}.part")
        try:
            with part.open("w", encoding="utf-8") as file:
                yaml.dump(content, file)
            part.replace(target.resolve())
        finally:
            part.unlink(missing_ok=True)
    return changes


def _round_trip_yaml() -> YAML:
    """Return a reader and writer that keeps comments, quotes, `null` and the indents of params.yaml."""
    yaml = YAML()
    yaml.representer.add_representer(type(None), lambda of, _: of.represent_scalar("tag:yaml.org,2002:null", "null"))
    yaml.preserve_quotes, yaml.width = True, 200
    yaml.indent(mapping=2, sequence=4, offset=2)
    return yaml


def _set(content: Any, key: str, value: Any, preset: Path) -> None:
    """Set a dotted key; UserError if the file does not have it. A task that the user does not have is left out."""
    *above, last = key.split(".")
    if above[:2] == ["finetune", "tasks"] and above[2] not in content["finetune"]["tasks"]:
        return
    if key not in flatten(content):
        raise UserError(f"{preset}: {key}: unknown key, or one of another depth")
    for name in above:
        content = content[name]
    if isinstance(value, list) and isinstance(content[last], list):
        content[last][:] = value  # the same object keeps its style and comment
    elif content[last] != value:
        content[last] = value
