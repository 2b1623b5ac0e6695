"""A conversation as the ids that a finetuned model continues: every message, and the opening of the answer."""

from collections.abc import Iterable
from pathlib import Path

from llm.finetune.chat import TEMPLATE
from llm.text.tokenizer import IM_END, IM_START, Tokenizer

Message = tuple[str, str]  # role and content


def can_chat(folder: Path) -> bool:
    """Whether a Hugging Face folder has the chat template that finetuning writes."""
    file = folder / "chat_template.jinja"
    return file.is_file() and file.read_text(encoding="utf-8").strip() == TEMPLATE


def conversation_ids(tokenizer: Tokenizer, messages: Iterable[Message]) -> list[int]:
    """What `TEMPLATE` makes of the messages; for one of the user's it is `llm.finetune.chat.prompt_ids`."""
    start, end = tokenizer.special[IM_START], tokenizer.special[IM_END]
    ids: list[int] = []
    for role, content in messages:
        ids += [start, *tokenizer.encode(f"{role}\n{content}"), end, *tokenizer.encode("\n")]
    return [*ids, start, *tokenizer.encode("assistant\n")]
