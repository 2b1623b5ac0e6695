"""Presets: a few keys of params.yaml set at once, its comments kept.

Each is a difference from `presets/default.yaml`, which is applied first: what an earlier preset set is undone. A preset
is about the size of the model and of the run, never about the user's data.
"""

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from llm.core import params
from llm.core.errors import UserError

TASKS = "finetune.tasks."


def apply_preset(preset: Path, target: Path) -> list[str]:
    """Write a preset's values into a params file; returns `key: old → new` for each that changed.

    UserError for a preset that does not exist (the ones that do are named) or names a key that the file lacks.
    """
    if not preset.is_file():
        known = ", ".join(sorted(path.stem for path in preset.parent.glob("*.yaml"))) or "none"
        raise UserError(f"preset: expected one of {known}, got {preset.stem}")
    yaml = YAML()
    # As written in the file; ruamel.yaml itself writes nothing for null.
    yaml.representer.add_representer(
        type(None), lambda representer, _: representer.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    yaml.preserve_quotes = True
    yaml.width = 200
    yaml.indent(mapping=2, sequence=4, offset=2)
    default = preset.with_name("default.yaml")
    layers = [path for path in (default, preset) if path.is_file()]
    for path in (*layers, target):
        params.read(path)  # explains what is wrong with the file, if something is
    content = yaml.load(target.read_text(encoding="utf-8"))
    before = _flatten(params.read(target))
    for path in layers:
        _merge(content, yaml.load(path.read_text(encoding="utf-8")), "", path)
    after = _flatten(content)
    changes = [f"{key}: {before[key]} → {after[key]}" for key in after if after[key] != before[key]]
    if changes:
        # By rename, so that a full disk leaves the params as they were.
        part = target.resolve().with_name(f"{target.name}.part")
        try:
            with part.open("w", encoding="utf-8") as file:
                yaml.dump(content, file)
            part.replace(target.resolve())
        finally:
            part.unlink(missing_ok=True)
    return changes


def _flatten(content: Any, prefix: str = "") -> dict[str, Any]:
    """Every value of nested mappings, by its dotted key."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _merge(content: Any, values: dict[str, Any], prefix: str, preset: Path) -> None:
    for key, value in values.items():
        name = f"{prefix}{key}"
        if key not in content and prefix == TASKS:
            continue  # the user's params have other tasks
        if key not in content:
            raise UserError(f"{preset}: {name}: no such key in the params file")
        old = content[key]
        if isinstance(value, dict) != isinstance(old, dict):
            wanted = "keys with values" if isinstance(old, dict) else "one value"
            raise UserError(f"{preset}: {name}: wanted {wanted}, given {params.describe(value)}")
        if isinstance(value, dict):
            _merge(old, value, f"{name}.", preset)
        elif old != value:
            # A list keeps its object, and with it how it is written and the comment behind it.
            if isinstance(value, list) and isinstance(old, list):
                old[:] = value
            else:
                content[key] = value
