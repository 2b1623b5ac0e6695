r"""Messages as the token ids that training, evaluation and everybody's chat program agree on: ChatML.

    <|im_start|>user\n…<|im_end|>\\n<|im_start|>assistant\n…<|im_end|>

The markers are single tokens, put in as ids: the same characters inside a message are ordinary text.
"""

from llm.text.tokenizer import IM_END, IM_START, Tokenizer

# The same in Jinja, for `tokenizer.apply_chat_template` and llama.cpp. A test holds the two together.
TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)


def prompt_ids(tokenizer: Tokenizer, user: str) -> list[int]:
    """A user's message and the opening of the answer."""
    start, end = tokenizer.special[IM_START], tokenizer.special[IM_END]
    asked = [start, *tokenizer.encode(f"user\n{user}"), end, *tokenizer.encode("\n")]
    return [*asked, start, *tokenizer.encode("assistant\n")]


def user_message(instruction: str, given: str | None) -> str:
    """An instruction and its input, if there is one, as one message."""
    return f"{instruction}\n\n{given}" if given else instruction
