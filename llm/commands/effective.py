"""Print params.yaml with every value that the stages use.

    sample:                            sample:
      context_length: 256      ──►       context_length: 256
      stride: null                       stride: 256                  # derived from sample.context_length
                                         align_to_documents: false    # default

The result is a valid params file with the same meaning.
"""

import io
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq

from llm.commands.check import SHAPE, check_params
from llm.core import params
from llm.core.derived import RULES, fill
from llm.finetune.params import with_defaults

COLUMN = 50  # of the comments


def effective_params(path: Path) -> str:
    """Return the params as YAML; comments mark derived values, and defaults of keys that the file lacks."""
    content, checked = params.read(path), check_params(path)
    values = fill(checked.model_dump())
    values["finetune"]["defaults"] = content["finetune"]["defaults"]
    values = {section: values[section] for section in content}  # in the order of the file
    stated = content | {"finetune": with_defaults(content["finetune"])}
    yaml = YAML()
    yaml.representer.add_representer(type(None), lambda of, _: of.represent_scalar("tag:yaml.org,2002:null", "null"))
    yaml.width, yaml.default_flow_style = 4096, None
    text = io.StringIO()
    yaml.dump(_commented(values, stated, ""), text)
    return text.getvalue()


def _commented(values: dict[str, Any], stated: Any, prefix: str) -> CommentedMap:
    """Return a mapping with a comment beside each value that the file does not state."""
    commented = CommentedMap()
    for name, value in values.items():
        key, given = f"{prefix}{name}", stated.get(name) if isinstance(stated, dict) else None
        if isinstance(value, dict):
            commented[name] = _commented(value, given, f"{key}.")
        else:
            commented[name] = _flow(value) if isinstance(value, list) else value
            if comment := _comment(key, value, given, is_stated=isinstance(stated, dict) and name in stated):
                commented.yaml_add_eol_comment(comment, name, column=COLUMN)
    return commented


def _comment(key: str, value: Any, given: Any, is_stated: bool) -> str | None:
    section, _, last = key.rpartition(".")
    if given is None and key in RULES:
        return f"derived from {RULES[key].source}"
    if given is None and section == "model" and last in SHAPE:
        return "derived from pretrain.init_from"
    if value is None and last == "max_tokens" and section.startswith("finetune.tasks."):
        return "derived from the rows of train when the task runs"
    return None if is_stated else "default"


def _flow(values: list[Any]) -> CommentedSeq:
    sequence = CommentedSeq(values)
    sequence.fa.set_flow_style()
    return sequence
