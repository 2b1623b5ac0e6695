"""Greedy answers of a model to held-out prompts, and their figures against references.

"It runs fast." for "it runs"   →   token F1 0.67, exact match 0, chrF 47.4
"""

import re
from collections import Counter
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from llm.model.generate import generate, greedy
from llm.model.gpt import GPT
from llm.tokens.special import END_OF_TEXT, IM_END
from llm.tokens.tokenizer import Tokenizer

T = TypeVar("T")
ANSWER_TOKENS = 128


def spread(rows: Sequence[T], n: int) -> list[T]:
    """Return up to `n` of the rows, evenly spaced from the first.

    >>> spread("abcdefg", 3)
    ['a', 'c', 'e']
    """
    n = min(n, len(rows))
    return [rows[number * len(rows) // n] for number in range(n)]


def answer(model: GPT, prompt: list[int], tokenizer: Tokenizer, max_new_tokens: int = ANSWER_TOKENS) -> str:
    """Return the greedy answer to a prompt's ids, within the context."""
    stop = frozenset({tokenizer.special[IM_END], tokenizer.special[END_OF_TEXT]})
    room = model.config.context_length - len(prompt) + 1
    return tokenizer.decode(generate(model, prompt, min(max_new_tokens, room), greedy, stop)).strip()


def score_answers(answers: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Return token F1 and exact match, means from 0 to 1, and chrF of the whole, from 0 to 100."""
    import sacrebleu

    pairs = list(zip(answers, references, strict=True))
    return {
        "token_f1": round(float(np.mean([token_f1(*pair) for pair in pairs])), 5),
        "exact_match": round(float(np.mean([answer.strip() == reference.strip() for answer, reference in pairs])), 5),
        # Character n-grams up to 6, recall twice as heavy as precision (Popović 2015, W15-3049).
        "chrf": round(sacrebleu.corpus_chrf(list(answers), [list(references)]).score, 3),
    }


def token_f1(answer: str, reference: str) -> float:
    """Return the harmonic mean of precision and recall over words (SQuAD, arXiv:1606.05250), ignoring case.

    >>> round(token_f1("It runs fast.", "it runs"), 2)  # precision 2/4, recall 2/2
    0.67
    """
    ours, theirs = (Counter(re.findall(r"\w+|[^\w\s]", text.lower())) for text in (answer, reference))
    if not ours or not theirs:
        return float(ours == theirs)
    return 2 * (ours & theirs).total() / (ours.total() + theirs.total())
