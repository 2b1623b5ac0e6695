"""Presets: a few keys of params.yaml set at once, its comments kept."""

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from llm import params
from llm.errors import UserError


def apply_preset(preset: Path, target: Path) -> list[str]:
    """Write a preset's values into a params file; returns `key: old → new` for each that changed.

    UserError for a preset that does not exist (the ones that do are named) or names a key that the file lacks.
    """
    if not preset.is_file():
        known = ", ".join(sorted(path.stem for path in preset.parent.glob("*.yaml"))) or "none"
        raise UserError(f"preset: wanted one of {known}, given {preset.stem}")
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 200
    yaml.indent(mapping=2, sequence=4, offset=2)
    for path in (preset, target):
        params.read(path)  # explains what is wrong with the file, if something is
    content = yaml.load(target.read_text(encoding="utf-8"))
    changes: list[str] = []
    _merge(content, yaml.load(preset.read_text(encoding="utf-8")), "", preset, changes)
    if changes:
        with target.open("w", encoding="utf-8") as file:
            yaml.dump(content, file)
    return changes


def _merge(content: Any, values: dict[str, Any], prefix: str, preset: Path, changes: list[str]) -> None:
    for key, value in values.items():
        name = f"{prefix}{key}"
        if key not in content:
            raise UserError(f"{preset}: {name}: no such key in the params file")
        old = content[key]
        if isinstance(value, dict) != isinstance(old, dict):
            wanted = "keys with values" if isinstance(old, dict) else "one value"
            raise UserError(f"{preset}: {name}: wanted {wanted}, given {params.describe(value)}")
        if isinstance(value, dict):
            _merge(old, value, f"{name}.", preset, changes)
        elif _are_alike(old, value):
            for place, (item, new) in enumerate(zip(old, value, strict=True)):
                _merge(item, new, f"{name}[{place}].", preset, changes)
        elif old != value:
            changes.append(f"{name}: {old} → {value}")
            # A list keeps its object, and with it how it is written and the comment behind it.
            if isinstance(value, list) and isinstance(old, list):
                old[:] = value
            else:
                content[key] = value


def _are_alike(old: Any, new: Any) -> bool:
    """Whether both are lists of as many mappings, to be merged one by one."""
    lists = isinstance(old, list) and isinstance(new, list) and len(old) == len(new)
    return lists and all(isinstance(item, dict) for item in [*old, *new])
