r"""Zero-shot classification: the base's log-probability of each label's words after a text.

    template "{text}\n# package: {label}", text "def loads(s): …", labels json, email
    <|endoftext|> def loads(s): …\n# package:   read once   ─┬─  json    log-probability -2.1
                                                             └─  email   log-probability -7.4

A label's score is the sum over its tokens. Some words are likely after anything: the setting also has the accuracy when
the score after an empty text is subtracted (Holtzman et al. 2021, arXiv:2104.08315).
"""

import re

import numpy as np
from numpy.typing import NDArray

from llm.core.device import Machine
from llm.core.errors import UserError
from llm.evaluate.likelihood import score_continuations
from llm.finetune.classify.classifier import Prepared
from llm.finetune.classify.measures import Scored, SystemPredictions
from llm.model.gpt import GPT
from llm.tokens.tokenizer import Tokenizer

FIELD = re.compile(r"\{(?:text(?:_[12])?|label)\}")


def zero_shot(
    model: GPT, tokenizer: Tokenizer, prepared: Prepared, template: str, machine: Machine
) -> SystemPredictions:
    """Return the labels' log-probabilities in nats after the filled template, for each row of val and test.

    Texts that do not fit the context are truncated. UserError for an unsuitable template, and a label without tokens.
    """
    val, test = prepared.rows["val"], prepared.rows["test"]
    n_texts = len(val.texts[0])
    fields = ["{text}", "{label}"] if n_texts == 1 else ["{text_1}", "{text_2}", "{label}"]
    if FIELD.findall(template) != fields:
        raise UserError(f"zero_shot: expected {', '.join(fields)}, each once, in order, got {template!r}")
    labels = [_label_ids(tokenizer, template, label) for label in prepared.labels]
    room = model.config.context_length - max(map(len, labels))

    def score(rows: list[list[str]]) -> tuple[NDArray[np.float32], int]:
        prompts = [_prompt_ids(tokenizer, template, texts, room) for texts in rows]
        with machine.autocast():
            scores = score_continuations(model, [ids for ids, _ in prompts], labels)
        return scores, sum(is_truncated for _, is_truncated in prompts)

    (val_scores, n_val), (test_scores, n_test) = score(val.texts), score(test.texts)
    corrected = Scored(test.labels, test_scores - score([[""] * n_texts])[0])
    accuracy = round(float(corrected.is_right().mean()), 4)
    setting = {"template": template, "truncated": n_val + n_test, "accuracy_less_empty_text": accuracy}
    return SystemPredictions(Scored(val.labels, val_scores), Scored(test.labels, test_scores), setting)


def fill(template: str, texts: list[str]) -> str:
    r"""Return the prompt; whitespace at its end belongs to the label.

    >>> fill("{text_1} / {text_2}\n# about {label}", ["rain", "snow"])
    'rain / snow\n# about'
    """
    values = iter([*texts, ""])
    return FIELD.sub(lambda _: next(values), template).rstrip()


def _label_ids(tokenizer: Tokenizer, template: str, label: str) -> list[int]:
    after = FIELD.split(template)[-2]
    kept = after.rstrip()
    before, whole = tokenizer.encode(kept), tokenizer.encode(after + label)
    n = len(before)
    # A token across both, as in "(json", is not the label's: the label is then encoded by itself.
    ids = whole[n:] if whole[:n] == before else tokenizer.encode(after[len(kept) :] + label)
    if not ids:
        raise UserError(f"zero_shot: expected labels that the base's tokenizer can encode, or null, got {label!r}")
    return ids


def _prompt_ids(tokenizer: Tokenizer, template: str, texts: list[str], room: int) -> tuple[list[int], bool]:
    """Return at most `room` ids of a filled template, and whether a text was truncated, the longest first."""
    texts, is_truncated = list(texts), False
    while len(ids := [tokenizer.bos_id, *tokenizer.encode(fill(template, texts))]) > room:
        n_tokens, longest = max((len(tokenizer.encode(text)), number) for number, text in enumerate(texts))
        if not n_tokens:
            problem = f"got one of {len(ids)} tokens; {room} fit the base's context beside the longest label"
            raise UserError(f"zero_shot: expected a template that leaves room for a text, {problem}")
        # By characters: the ids of a truncated text may differ from the first ids of the text.
        text, kept = texts[longest], max(n_tokens - (len(ids) - room), 0)
        texts[longest], is_truncated = text[: len(text) * kept // n_tokens], True
    return ids, is_truncated
