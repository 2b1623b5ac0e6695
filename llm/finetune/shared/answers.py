"""A model's greedy answers to held-out prompts, beside the reference: figures, and a page to be read.

"It runs fast." where "it runs" is wanted   →   token F1 0.67, exact match 0, chrF 47.4
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np

from llm.finetune.data.messages import Conversation
from llm.finetune.shared.chat import prompt_ids
from llm.model.generate import generate, greedy
from llm.model.gpt import GPT
from llm.tokens.special import END_OF_TEXT, IM_END
from llm.tokens.tokenizer import Tokenizer

T = TypeVar("T")


def spread(rows: Sequence[T], n: int) -> list[T]:
    """Up to `n` of the rows, evenly spread, the first among them.

    >>> spread("abcdefg", 3)
    ['a', 'c', 'e']
    """
    n = min(n, len(rows))
    return [rows[number * len(rows) // n] for number in range(n)]


def answer(model: GPT, user: str, tokenizer: Tokenizer, max_new_tokens: int) -> str:
    """The greedy answer to a user's message."""
    return answer_ids(model, prompt_ids(tokenizer, user), tokenizer, max_new_tokens)


def answer_ids(model: GPT, prompt: list[int], tokenizer: Tokenizer, max_new_tokens: int) -> str:
    """The greedy answer to the ids of a conversation and of an answer's opening; it ends where the context does."""
    stop = frozenset({tokenizer.special[IM_END], tokenizer.special[END_OF_TEXT]})
    room = model.config.context_length - len(prompt) + 1
    return tokenizer.decode(generate(model, prompt, min(max_new_tokens, room), greedy, stop)).strip()


def score_answers(answers: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Token F1 and exact match, means from 0 to 1, and chrF of all of them, from 0 to 100."""
    import sacrebleu

    pairs = list(zip(answers, references, strict=True))
    return {
        "token_f1": round(float(np.mean([token_f1(*pair) for pair in pairs])), 5),
        "exact_match": round(float(np.mean([given.strip() == wanted.strip() for given, wanted in pairs])), 5),
        # Character n-grams up to 6, recall twice as heavy as precision (Popović 2015, W15-3049).
        "chrf": round(sacrebleu.corpus_chrf(list(answers), [list(references)]).score, 3),
    }


def token_f1(given: str, wanted: str) -> float:
    """The harmonic mean of precision and recall of words, each as often as it stands there (SQuAD, arXiv:1606.05250).

    Case is of no account; a sign of punctuation is a word of its own.

    >>> round(token_f1("It runs fast.", "it runs"), 2)  # 2 of 4 words are right, 2 of 2 are found
    0.67
    """
    ours, theirs = (Counter(re.findall(r"\w+|[^\w\s]", text.lower())) for text in (given, wanted))
    if not ours or not theirs:
        return float(ours == theirs)
    n_same = (ours & theirs).total()
    return 2 * n_same / (ours.total() + theirs.total())


def show_answers(prompts: Sequence[Conversation], answers: Mapping[str, Sequence[str]]) -> str:
    """Prompts, each with what every heading of `answers` has to say to it, as Markdown."""
    parts = [f"# Answers to {len(prompts)} held-out prompts"]
    for number, prompt in enumerate(prompts):
        parts += ["", f"## Prompt {number + 1}"]
        for role, content in prompt:
            parts += ["", *([f"{role}:", ""] if len(prompt) > 1 else []), *_fence(content)]
        for title, texts in answers.items():
            parts += ["", f"**{title}**", "", *_fence(texts[number])]
    return "\n".join(parts) + "\n"


def _fence(text: str) -> list[str]:
    # A fence is longer than any in the text.
    marks = "`" * max(4, 1 + max(map(len, re.findall("`+", text)), default=0))
    return [f"{marks}text", text, marks]
