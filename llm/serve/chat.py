"""A conversation as the ids that a finetuned model continues: the template that it was trained with.

Our own template is written as ids, so that a marker inside a message is ordinary text. A template of others is
rendered by Transformers, as its clients do it.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from llm.core.errors import UserError
from llm.export.hf.folder import CHAT_TEMPLATE
from llm.export.hf.tensors import read_object
from llm.finetune.shared.chat import TEMPLATE, conversation_ids
from llm.serve.errors import RequestError

__all__ = ["Message", "can_chat", "conversation_ids"]

Message = tuple[str, str]  # role and content


class TemplateError(RequestError, UserError):
    """Messages that a folder's template refuses."""


def can_chat(folder: Path) -> bool:
    """Whether a Hugging Face folder has a chat template, ours or one of others."""
    return _template(folder) is not None


def conversation_of_others(folder: Path) -> Callable[[list[Message]], list[int]] | None:
    """Return what makes ids of messages by the folder's own template; None where that is ours, or there is none.

    What it returns raises TemplateError for messages that the template refuses, such as a system message.
    """
    if (template := _template(folder)) is None or template.strip() == TEMPLATE:
        return None
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)

    def to_ids(messages: list[Message]) -> list[int]:
        asked = [{"role": role, "content": content} for role, content in messages]
        try:
            ids: list[int] = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=False)
        except Exception as error:  # a template of others may raise what it likes
            reason = " ".join(str(error).split())
            raise TemplateError(f"expected messages that {folder.name}'s chat template takes, got: {reason}") from None
        return ids

    return to_ids


def _template(folder: Path) -> str | None:
    """The Jinja of a folder: a file of its own, or in older folders a part of tokenizer_config.json."""
    file, config = folder / CHAT_TEMPLATE, folder / "tokenizer_config.json"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    given = read_object(config).get("chat_template") if config.is_file() else None
    return given if isinstance(given, str) else None
