r"""What the base makes of a task before it has seen a label: how likely it holds each label's words after the text.

    template "{text}\n# package: {label}", text "def loads(s): …", labels json, email
    <|endoftext|> def loads(s): …\n# package:   read once   ─┬─  json    log-probability -2.1
                                                             └─  email   log-probability -7.4

A label's score is the sum over its tokens. Some words are likely after anything: the setting says what accuracy would
be if the score that a label has after an empty text were taken off (Holtzman et al. 2021, arXiv:2104.08315).
"""

from collections import defaultdict
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from llm.core.device import Machine
from llm.core.errors import UserError
from llm.finetune.classify.classifier import Prepared
from llm.finetune.classify.measures import Rival, Scored
from llm.model.gpt import GPT, Past
from llm.tokens.tokenizer import Tokenizer

LABEL = "{label}"
ROWS_AT_ONCE = 256  # a row of the batch is one label after one text


class Question(NamedTuple):
    """A template in parts: what stands before each text, and what stands between the last of them and the label."""

    befores: list[str]
    after: str

    def fill(self, texts: list[str]) -> str:
        r"""All that the label stands behind; whitespace at its end is taken for the label's beginning.

        >>> Question(["", " / "], "\n# about ").fill(["rain", "snow"])
        'rain / snow\n# about'
        """
        return ("".join(before + text for before, text in zip(self.befores, texts, strict=True)) + self.after).rstrip()


def read_template(template: str, n_texts: int) -> Question:
    r"""A template's parts. UserError where it has not got the places of `n_texts` texts, each once and in order.

    >>> read_template("{text}\n# package: {label}", 1)
    Question(befores=[''], after='\n# package: ')
    """
    places = ["{text}"] if n_texts == 1 else [f"{{text_{number}}}" for number in range(1, n_texts + 1)]
    befores, rest = [], template
    for place in [*places, LABEL]:
        before, found, rest = rest.partition(place)
        if not found or any(other in before for other in [*places, LABEL]):
            raise UserError(f"zero_shot: wanted {', '.join([*places, LABEL])}, each once, in order, given {template!r}")
        befores.append(before)
    if rest:
        raise UserError(f"zero_shot: wanted nothing behind {LABEL}, given {template!r}")
    return Question(befores[:-1], befores[-1])


def zero_shot(model: GPT, tokenizer: Tokenizer, prepared: Prepared, template: str, machine: Machine) -> Rival:
    """The labels' log-probabilities after the template of each row of val and test, in nats; one label a row.

    `{text}`, or `{text_1}` and `{text_2}`, are a row's texts; they are cut at their end where template and the longest
    label would not fit the model's context. UserError for a template without those places, one that does not fit, and
    a label that the tokenizer has no tokens for.
    """
    val, test = prepared.rows["val"], prepared.rows["test"]
    n_texts = len(val.texts[0])
    question = read_template(template, n_texts)
    labels = [_label_ids(tokenizer, question, label) for label in prepared.labels]
    room = model.config.context_length - max(map(len, labels))
    empty, _ = _prompt_ids(tokenizer, question, [""] * n_texts, room)
    found, n_cut = {}, 0
    for split, rows in (("val", val), ("test", test)):
        prompts = [_prompt_ids(tokenizer, question, texts, room) for texts in rows.texts]
        n_cut += sum(is_cut for _, is_cut in prompts)
        found[split] = Scored(rows.labels, score_labels(model, [ids for ids, _ in prompts], labels, machine))
    without_text = score_labels(model, [empty], labels, machine)
    corrected = Scored(test.labels, found["test"].scores - without_text)
    setting = {
        "template": template,
        "rows_cut_to_context": n_cut,
        "accuracy_less_empty_text": round(float(corrected.is_right().mean()), 4),
    }
    return Rival(found["val"], found["test"], setting)


@torch.no_grad()
def score_labels(
    model: GPT, prompts: list[list[int]], labels: list[list[int]], machine: Machine
) -> NDArray[np.float32]:
    """Log-probabilities (N, L) in nats of each of L labels after each of N prompts, all as ids, none empty.

    A prompt is read once for all labels; prompts of one length are read together.
    """
    assert not model.sees_the_future, "a past that would change with the label"
    lengths = torch.tensor([len(label) for label in labels])
    padded = pad_sequence([torch.tensor(label) for label in labels], batch_first=True)  # (L, T)
    is_label = torch.arange(padded.shape[1]) < lengths[:, None]
    padded, is_label = padded.to(machine.device), is_label.to(machine.device)
    scores = np.zeros((len(prompts), len(labels)), dtype=np.float32)
    by_length: dict[int, list[int]] = defaultdict(list)
    for number, prompt in enumerate(prompts):
        by_length[len(prompt)].append(number)
    at_once = max(1, ROWS_AT_ONCE // len(labels))
    for numbers in by_length.values():
        for at in range(0, len(numbers), at_once):
            some = numbers[at : at + at_once]
            ids = torch.tensor([prompts[number] for number in some], device=machine.device)
            with machine.autocast():
                scores[some] = _score_batch(model, ids, padded, is_label).cpu().numpy()
    return scores


def _score_batch(model: GPT, prompts: Tensor, labels: Tensor, is_label: Tensor) -> Tensor:
    """(B, L) of prompts (B, P) and labels (L, T), which end where `is_label` (L, T) does."""
    B, L = len(prompts), len(labels)
    past = model.run_blocks(model.embedding(prompts[:, :-1]))[1] if prompts.shape[1] > 1 else None
    scores = torch.empty(B * L, device=prompts.device)
    for at in range(0, B * L, ROWS_AT_ONCE):
        row = torch.arange(at, min(at + ROWS_AT_ONCE, B * L), device=prompts.device)
        owner, label = row // L, row % L  # (R,)
        # A row reads the prompt's last token and all of the label's but the last.
        read = torch.cat([prompts[owner, -1:], labels[label, :-1]], dim=1)  # (R, T)
        mine = past and Past(past.length, [tuple(kept[owner] for kept in layer) for layer in past.layers])
        hidden, _ = model.run_blocks(model.embedding(read), mine)
        counts = is_label[label]
        logits = model.head(hidden[counts]).float()
        nats = torch.zeros(read.shape, device=prompts.device)
        nats[counts] = -nn.functional.cross_entropy(logits, labels[label][counts], reduction="none")
        scores[row] = nats.sum(dim=1)
    return scores.view(B, L)


def _label_ids(tokenizer: Tokenizer, question: Question, label: str) -> list[int]:
    """A label's ids behind the template; UserError where there are none."""
    kept = question.after.rstrip()
    before, whole = tokenizer.encode(kept), tokenizer.encode(question.after + label)
    n = len(before)
    # A token of both, as "(json" may be, is none of the label's: it then begins anew.
    ids = whole[n:] if whole[:n] == before else tokenizer.encode(question.after[len(kept) :] + label)
    if not ids:
        raise UserError(f"zero_shot: wanted labels that the base's tokenizer has tokens for, or null, given {label!r}")
    return ids


def _prompt_ids(tokenizer: Tokenizer, question: Question, texts: list[str], room: int) -> tuple[list[int], bool]:
    """At most `room` ids of a filled template behind the end of another text, and whether a text was cut for that.

    The longest text is cut first. UserError where the template does not even fit without a text.
    """
    texts, is_cut = list(texts), False
    while len(ids := [tokenizer.bos_id, *tokenizer.encode(question.fill(texts))]) > room:
        n_tokens, longest = max((len(tokenizer.encode(text)), number) for number, text in enumerate(texts))
        if not n_tokens:
            raise UserError(
                f"zero_shot: wanted a template that leaves room for a text, given one of {len(ids)} tokens where "
                f"{room} fit the base's context beside the longest label"
            )
        # Characters, not ids: those of a cut text may be other ones.
        text, kept = texts[longest], max(n_tokens - (len(ids) - room), 0)
        texts[longest], is_cut = text[: len(text) * kept // n_tokens], True
    return ids, is_cut
