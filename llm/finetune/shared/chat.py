r"""Messages as the token ids that training, evaluation and everybody's chat program agree on: ChatML.

    <|endoftext|><|im_start|>system\n…<|im_end|>\n<|im_start|>user\n…<|im_end|>\n<|im_start|>assistant\n…<|im_end|>\n

A conversation begins as every text does; then any number of turns, a system message or none. The markers are single
tokens, put in as ids: the same characters inside a message are ordinary text.
"""

from collections.abc import Iterable
from itertools import takewhile
from typing import NamedTuple

from llm.export.verify import Chat
from llm.tokens.special import IM_END, IM_START
from llm.tokens.tokenizer import Tokenizer

# The same in Jinja, for `tokenizer.apply_chat_template` and llama.cpp. A test holds the two together.
TEMPLATE = (
    "{{- bos_token -}}"
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)


class Message(NamedTuple):
    """Who speaks (system, user or assistant), and what is said."""

    role: str
    content: str


class Turn(NamedTuple):
    """A message as ids: its opening up to the line's end, what is said, the marker that ends it, and a line's end."""

    opening: list[int]
    content: list[int]
    end: list[int]
    rest: list[int]


def turn_ids(tokenizer: Tokenizer, message: tuple[str, str]) -> Turn:
    """The ids of one message (role, content) in its frame; all four parts together are what `TEMPLATE` makes of it."""
    role, content = message
    # A tokenizer may see what is said otherwise without the line before it, so both are encoded as one text.
    whole, opening = tokenizer.encode(f"{role}\n{content}"), tokenizer.encode(f"{role}\n")
    n_same = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(whole, opening, strict=False))))
    start, end = tokenizer.special[IM_START], tokenizer.special[IM_END]
    return Turn([start, *whole[:n_same]], whole[n_same:], [end], tokenizer.encode("\n"))


def conversation_ids(tokenizer: Tokenizer, messages: Iterable[tuple[str, str]]) -> list[int]:
    """All messages (role, content), and the opening of the answer to them: what a model continues."""
    if tokenizer.encode_chat is not None:
        return tokenizer.encode_chat(list(messages))
    turns = [token for message in messages for part in turn_ids(tokenizer, message) for token in part]
    return [tokenizer.bos_id, *turns, *turn_ids(tokenizer, ("assistant", "")).opening]


def prompt_ids(tokenizer: Tokenizer, user: str) -> list[int]:
    """A user's message and the opening of the answer."""
    return conversation_ids(tokenizer, [("user", user)])


def chat_to_verify(tokenizer: Tokenizer) -> Chat:
    """Return a conversation for the clients of an export, and its ids as training has them."""
    said = [("system", "Be brief."), ("user", "Name a river.\n"), ("assistant", "déjà vu"), ("user", " And 2 more?")]
    messages = [{"role": role, "content": content} for role, content in said]
    return Chat(messages, conversation_ids(tokenizer, said))
