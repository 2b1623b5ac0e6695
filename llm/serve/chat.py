"""The chat template of a Hugging Face folder: whether there is one, and how a foreign one encodes messages.

Our own template is written as ids (`llm.finetune.shared.chat`), so that a marker inside a message is ordinary text.
Other templates are rendered by Transformers, as its clients do.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from llm.core.errors import UserError
from llm.export.hf.folder import CHAT_TEMPLATE
from llm.export.hf.tensors import read_object
from llm.finetune.shared.chat import TEMPLATE
from llm.serve.errors import RequestError

Message = tuple[str, str]  # role and content


class TemplateError(RequestError, UserError):
    """Messages that a folder's template refuses, such as a system message."""


def can_chat(folder: Path) -> bool:
    """Return whether a Hugging Face folder has a chat template."""
    return _template(folder) is not None


def foreign_template(folder: Path) -> Callable[[list[Message]], list[int]] | None:
    """Return a function that encodes messages by the folder's own template; None where that is ours, or missing."""
    if (template := _template(folder)) is None or template.strip() == TEMPLATE:
        return None
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)

    def encode(messages: list[Message]) -> list[int]:
        turns = [{"role": role, "content": content} for role, content in messages]
        try:
            ids: list[int] = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
        except Exception as error:  # a template may raise anything
            reason = " ".join(str(error).split())
            raise TemplateError(f"expected messages that {folder.name}'s chat template takes, got: {reason}") from None
        return ids

    return encode


def _template(folder: Path) -> str | None:
    """Read a folder's Jinja template: a file of its own, or in older folders a part of tokenizer_config.json."""
    file, config = folder / CHAT_TEMPLATE, folder / "tokenizer_config.json"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    template = read_object(config).get("chat_template") if config.is_file() else None
    return template if isinstance(template, str) else None
