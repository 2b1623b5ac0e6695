r"""Messages as token ids in ChatML, equal in training, evaluation and any chat program.

    <|endoftext|><|im_start|>system\n…<|im_end|>\n<|im_start|>user\n…<|im_end|>\n<|im_start|>assistant\n…<|im_end|>\n

The markers are single tokens, inserted as ids: the same characters inside a message are ordinary text.
"""

from collections.abc import Iterable
from itertools import takewhile
from typing import NamedTuple

from llm.export.verify import Chat
from llm.tokens.special import IM_END, IM_START
from llm.tokens.tokenizer import Tokenizer

# The same in Jinja, for `tokenizer.apply_chat_template` and llama.cpp; a test compares the two.
TEMPLATE = (
    "{{- bos_token -}}"
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)


class Message(NamedTuple):
    """Text of a role: system, user or assistant."""

    role: str
    content: str


def turn_ids(tokenizer: Tokenizer, message: tuple[str, str]) -> tuple[list[int], ...]:
    """Return the ids of one message (role, content): the line of its role, the content, the end marker, a line end."""
    role, content = message
    # Encoded as one text: the first tokens of the content may depend on the line before it.
    whole, opening = tokenizer.encode(f"{role}\n{content}"), tokenizer.encode(f"{role}\n")
    n_same = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(whole, opening, strict=False))))
    start, end = tokenizer.special[IM_START], tokenizer.special[IM_END]
    return [start, *whole[:n_same]], whole[n_same:], [end], tokenizer.encode("\n")


def conversation_ids(tokenizer: Tokenizer, messages: Iterable[tuple[str, str]]) -> list[int]:
    """Return the ids of messages (role, content) and of the opening of the next answer."""
    if tokenizer.encode_chat is not None:
        return tokenizer.encode_chat(list(messages))
    turns = [token for message in messages for part in turn_ids(tokenizer, message) for token in part]
    return [tokenizer.bos_id, *turns, *turn_ids(tokenizer, ("assistant", ""))[0]]


def chat_to_verify(tokenizer: Tokenizer) -> Chat:
    """Return a conversation to compare clients of an export with, and its ids."""
    turns = [("system", "Be brief."), ("user", "Name a river.\n"), ("assistant", "déjà vu"), ("user", " And 2 more?")]
    messages = [{"role": role, "content": content} for role, content in turns]
    return Chat(messages, conversation_ids(tokenizer, turns))
