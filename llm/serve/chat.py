"""A conversation as the ids that a finetuned model continues: the template that it was trained with."""

from pathlib import Path

from llm.finetune.chat import TEMPLATE, conversation_ids

__all__ = ["Message", "can_chat", "conversation_ids"]

Message = tuple[str, str]  # role and content


def can_chat(folder: Path) -> bool:
    """Whether a Hugging Face folder has the chat template that finetuning writes."""
    file = folder / "chat_template.jinja"
    return file.is_file() and file.read_text(encoding="utf-8").strip() == TEMPLATE
