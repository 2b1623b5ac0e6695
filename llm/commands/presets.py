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

TASKS = "finetune.tasks."


def apply_preset(preset: Path, target: Path) -> list[str]:
    """Write a preset's values into a params file; return `key: old → new` for each change.

    UserError for an unknown preset, or a key that the file does not have.
    """
    if not preset.is_file():
        known = ", ".join(sorted(path.stem for path in preset.parent.glob("*.yaml"))) or "none"
        raise UserError(f"preset: expected one of {known}, got {preset.stem}")
    layers = [path for path in (preset.with_name("default.yaml"), preset) if path.is_file()]
    before = flatten(params.read(target))
    yaml = _round_trip_yaml()
    content = yaml.load(target.read_text(encoding="utf-8"))
    for path in layers:
        _merge(content, params.read(path), "", path)
    after = flatten(content)
    changes = [f"{key}: {before[key]} → {after[key]}" for key in after if after[key] != before[key]]
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
    yaml.representer.add_representer(
        type(None), lambda representer, _: representer.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    yaml.preserve_quotes = True
    yaml.width = 200
    yaml.indent(mapping=2, sequence=4, offset=2)
    return yaml


def _merge(content: Any, values: dict[str, Any], prefix: str, preset: Path) -> None:
    for key, value in values.items():
        name = f"{prefix}{key}"
        if key not in content and prefix == TASKS:
            continue  # the user has other tasks
        if key not in content:
            raise UserError(f"{preset}: {name}: unknown key")
        old = content[key]
        if isinstance(value, dict) != isinstance(old, dict):
            expected = "keys with values" if isinstance(old, dict) else "one value"
            raise UserError(f"{preset}: {name}: expected {expected}, got {params.describe(value)}")
        if isinstance(value, dict):
            _merge(old, value, f"{name}.", preset)
        elif isinstance(value, list) and isinstance(old, list):
            old[:] = value  # the same object keeps its style and comment
        elif old != value:
            content[key] = value
