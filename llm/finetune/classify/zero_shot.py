r"""Zero-shot classification: the base's log-probability of each label's words after a text.

    template "{text}\n# package: {label}", text "def loads(s): …", labels json, email
    <|endoftext|> def loads(s): …\n# package:   read once   ─┬─  json    log-probability -2.1
                                                             └─  email   log-probability -7.4

A label's score is the sum over its tokens. Some words are likely after anything: the setting also has the accuracy when
the score after an empty text is subtracted (Holtzman et al. 2021, arXiv:2104.08315).
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
from llm.finetune.classify.measures import Scored, SystemPredictions
from llm.model.gpt import GPT
from llm.model.kv_cache import KVCache
from llm.tokens.tokenizer import Tokenizer

LABEL = "{label}"
ROWS_AT_ONCE = 256  # a row of the batch is one label after one text


class Template(NamedTuple):
    """Text before each text of a row, and between the last text and the label."""

    befores: list[str]
    after: str

    def fill(self, texts: list[str]) -> str:
        r"""Return the prompt; whitespace at its end belongs to the label.

        >>> Template(["", " / "], "\n# about ").fill(["rain", "snow"])
        'rain / snow\n# about'
        """
        return ("".join(before + text for before, text in zip(self.befores, texts, strict=True)) + self.after).rstrip()


def read_template(template: str, n_texts: int) -> Template:
    r"""Parse a template; UserError unless it has the fields of `n_texts` texts and the label, each once and in order.

    >>> read_template("{text}\n# package: {label}", 1)
    Template(befores=[''], after='\n# package: ')
    """
    fields = [*(["{text}"] if n_texts == 1 else [f"{{text_{number + 1}}}" for number in range(n_texts)]), LABEL]
    parts, rest = [], template
    for field in fields:
        part, found, rest = rest.partition(field)
        if not found or any(other in part for other in fields):
            raise UserError(f"zero_shot: expected {', '.join(fields)}, each once, in order, got {template!r}")
        parts.append(part)
    if rest:
        raise UserError(f"zero_shot: expected {LABEL} at the end, got {template!r}")
    return Template(parts[:-1], parts[-1])


def zero_shot(
    model: GPT, tokenizer: Tokenizer, prepared: Prepared, template: str, machine: Machine
) -> SystemPredictions:
    """Return the labels' log-probabilities in nats after the filled template, for each row of val and test.

    `{text}`, or `{text_1}` and `{text_2}`, are a row's texts, truncated where they do not fit the context. UserError
    for a template without these fields or too long for the context, and for a label without tokens.
    """
    val, test = prepared.rows["val"], prepared.rows["test"]
    n_texts = len(val.texts[0])
    parsed = read_template(template, n_texts)
    labels = [_label_ids(tokenizer, parsed, label) for label in prepared.labels]
    room = model.config.context_length - max(map(len, labels))
    found, n_truncated = {}, 0
    for split, rows in (("val", val), ("test", test)):
        prompts = [_prompt_ids(tokenizer, parsed, texts, room) for texts in rows.texts]
        n_truncated += sum(is_truncated for _, is_truncated in prompts)
        found[split] = Scored(rows.labels, score_labels(model, [ids for ids, _ in prompts], labels, machine))
    empty, _ = _prompt_ids(tokenizer, parsed, [""] * n_texts, room)
    corrected = Scored(test.labels, found["test"].scores - score_labels(model, [empty], labels, machine))
    setting = {
        "template": template,
        "truncated": n_truncated,
        "accuracy_less_empty_text": round(float(corrected.is_right().mean()), 4),
    }
    return SystemPredictions(found["val"], found["test"], setting)


@torch.no_grad()
def score_labels(
    model: GPT, prompts: list[list[int]], labels: list[list[int]], machine: Machine
) -> NDArray[np.float32]:
    """Return log-probabilities (N, L) in nats of L labels after N prompts, all as ids, none empty.

    A prompt is read once for all labels; prompts of one length are batched.
    """
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
            batch = numbers[at : at + at_once]
            ids = torch.tensor([prompts[number] for number in batch], device=machine.device)
            with machine.autocast():
                scores[batch] = _score_batch(model, ids, padded, is_label).cpu().numpy()
    return scores


def _score_batch(model: GPT, prompts: Tensor, labels: Tensor, is_label: Tensor) -> Tensor:
    """Return (B, L) of prompts (B, P) and labels (L, T), padded where `is_label` (L, T) is false."""
    B, L = len(prompts), len(labels)
    cache = KVCache(model.config.n_layers)
    if prompts.shape[1] > 1:
        model.run_blocks(model.embedding(prompts[:, :-1]), cache)
    scores = torch.empty(B * L, device=prompts.device)
    for at in range(0, B * L, ROWS_AT_ONCE):
        row = torch.arange(at, min(at + ROWS_AT_ONCE, B * L), device=prompts.device)
        prompt, label = row // L, row % L  # (R,)
        # Input: the prompt's last token, and all tokens of the label but the last.
        ids = torch.cat([prompts[prompt, -1:], labels[label, :-1]], dim=1)  # (R, T)
        hidden = model.run_blocks(model.embedding(ids), cache.select(prompt))
        counts = is_label[label]
        logits = model.head(hidden[counts]).float()
        nats = torch.zeros(ids.shape, device=prompts.device)
        nats[counts] = -nn.functional.cross_entropy(logits, labels[label][counts], reduction="none")
        scores[row] = nats.sum(dim=1)
    return scores.view(B, L)


def _label_ids(tokenizer: Tokenizer, template: Template, label: str) -> list[int]:
    """Return a label's ids after the template; UserError for none."""
    kept = template.after.rstrip()
    before, whole = tokenizer.encode(kept), tokenizer.encode(template.after + label)
    n = len(before)
    # A token across both, as in "(json", is not the label's: the label is then encoded by itself.
    ids = whole[n:] if whole[:n] == before else tokenizer.encode(template.after[len(kept) :] + label)
    if not ids:
        raise UserError(f"zero_shot: expected labels that the base's tokenizer can encode, or null, got {label!r}")
    return ids


def _prompt_ids(tokenizer: Tokenizer, template: Template, texts: list[str], room: int) -> tuple[list[int], bool]:
    """Return at most `room` ids of a filled template, and whether a text was truncated, the longest first.

    UserError where the template alone does not fit.
    """
    texts, is_truncated = list(texts), False
    while len(ids := [tokenizer.bos_id, *tokenizer.encode(template.fill(texts))]) > room:
        n_tokens, longest = max((len(tokenizer.encode(text)), number) for number, text in enumerate(texts))
        if not n_tokens:
            raise UserError(
                f"zero_shot: expected a template that leaves room for a text, got one of {len(ids)} tokens; {room} fit "
                "the base's context beside the longest label"
            )
        # By characters: the ids of a truncated text may differ from the first ids of the text.
        text, kept = texts[longest], max(n_tokens - (len(ids) - room), 0)
        texts[longest], is_truncated = text[: len(text) * kept // n_tokens], True
    return ids, is_truncated
