"""Load an export as its users will, with Transformers, and measure how far it is from our own model.

What has to agree is what a user sees: the ids of a text, with the token that it begins with; the greedy continuation of
a prompt; and the mean divergence of the next token's distribution. The largest difference of a logit is reported only:
it grows with the size of logits, also where nothing that is generated changes.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from llm.core.errors import UserError
from llm.export.hf.base import open_tokenizer
from llm.export.hf.classifier import ClassifierInfo
from llm.export.hf.possible import why_native
from llm.model.classifier import Classifier
from llm.model.gpt import GPT
from llm.tokens.templates import classifier_ids
from llm.tokens.tokenizer import Tokenizer

MOST_DIVERGENCE = 1e-6  # nats, of two programs that compute in float32
TIE_NATS = 1e-3  # what float32 can turn around in a greedy choice, where no logit is above 20
N_TEXTS, N_CONTINUATIONS, N_NEW_TOKENS = 4, 20, 32
# The most positions of a random text, and the most logits of all texts at a time: a base may have a context of 32,768
# tokens and a vocabulary of 150,000.
MOST_POSITIONS, MOST_LOGITS = 1024, 1 << 24

# Prompts that are continued greedily, as a user types them; a text may be begun with nothing.
PROMPTS = ("import ", "def f(x):\n    ", "The ", "", "1, 2, 3, ")
# Texts that meet every rule of the split pattern, and what ordinary text seldom has.
HOSTILE_TEXTS = (
    "def f(x):\n    return x  # it's 100% of 2024's\r\n\r\n\t\ttabs",
    "Žluťoučký kůň, 你好，世界！ 🙂👩‍👩‍👧 e\u0301 \u200b\u202e",
    "<|endoftext|> <|im_start|>user\nhello<|im_end|>",
    "   leading, trailing   \n\n\n  ",
    "".join(map(chr, range(1, 256))),
)


class Chat(NamedTuple):
    """A conversation, and the ids that our own template makes of it up to the answer."""

    messages: list[dict[str, str]]
    ids: list[int]


@dataclass(frozen=True)
class Parity:
    """How far another program is from our model.

    The largest difference of logits and the mean Kullback-Leibler divergence in nats; texts with other ids, of how
    many; prompts that are continued otherwise, of how many.
    """

    max_logit_difference: float
    divergence: float
    tokenization_mismatches: int
    texts: int
    generation_mismatches: int
    continuations: int

    def agrees(self, most_divergence: float = MOST_DIVERGENCE) -> bool:
        """Whether the program has the same model and the same tokenizer; NaN is no agreement."""
        others = self.tokenization_mismatches + self.generation_mismatches
        return self.divergence <= most_divergence and others == 0

    def figures(self) -> dict[str, float]:
        """What a stage records."""
        return {
            "max_logit_difference": float(f"{self.max_logit_difference:.3g}"),
            "mean_divergence": float(f"{self.divergence:.3g}"),
            "tokenization_mismatches": self.tokenization_mismatches,
            "generation_mismatches": self.generation_mismatches,
            "continuations": self.continuations,
        }

    def describe(self, client: str, most_divergence: float = MOST_DIVERGENCE) -> str:
        """What was expected of a client and what it gave, in one line."""
        return (
            f"expected the same token ids and greedy texts in {client} and a mean divergence of at most "
            f"{most_divergence:g} nats, got {self.tokenization_mismatches} of {self.texts} texts with other ids, "
            f"{self.generation_mismatches} of {self.continuations} other texts and {self.divergence:.2g} nats"
        )


def divergence(ours: Tensor, theirs: Tensor) -> Tensor:
    """Return the mean Kullback-Leibler divergence in nats of `theirs` from `ours`, logits (..., V) both.

    >>> round(divergence(torch.tensor([0.5, 0.5]).log(), torch.tensor([0.25, 0.75]).log()).item(), 4)
    0.1438
    """
    own, other = (logits.double().log_softmax(dim=-1) for logits in (ours, theirs))
    return (own.exp() * (own - other)).sum(dim=-1).mean()


def random_texts(model: GPT, generator: torch.Generator) -> Tensor:
    """Random tokens (N_TEXTS, T) whose logits fit in memory: whole contexts where those are short."""
    config = model.config
    fitting = max(MOST_LOGITS // (N_TEXTS * config.vocab_size), 32)
    length = min(config.context_length, MOST_POSITIONS, fitting)
    return torch.randint(0, config.vocab_size, (N_TEXTS, length), generator=generator)


def verify_transformers(folder: Path, model: GPT, seed: int, chat: Chat | None = None) -> dict[str, Any]:
    """Return how far Transformers is from a model that was written into a folder, for a stage to record.

    UserError where it reads another model or other ids; why it was `skipped`, for a model that it has no architecture
    for.
    """
    if reason := why_native(model.config):
        print(f"export: Transformers skipped: {reason}", file=sys.stderr)
        return {"skipped": reason}
    parity = compare_with_transformers(folder, model, seed, chat=chat)
    if not parity.agrees():
        raise UserError(f"{folder}: {parity.describe('Transformers')}")
    return parity.figures()


@torch.no_grad()
def compare_with_transformers(folder: Path, model: GPT, seed: int, text: str = "", chat: Chat | None = None) -> Parity:
    """Random tokens, greedy continuations of them and of prompts, and texts, through both in float32.

    Hostile texts, and a `text` as a whole where one is given, go through both tokenizers; a `chat` through the
    template. A continuation is another one where a token is not our likeliest; what rounding can turn around is a tie.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

    hush()
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    their_tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    ours, tokenizer = model.float().cpu(), open_tokenizer(folder)
    drawn = torch.Generator().manual_seed(seed)
    ids = random_texts(model, drawn)
    openings, n_new = draw_openings(model, drawn)
    logits, their_logits = ours(ids), theirs(ids).logits
    tie = tie_of(logits)
    write = pipeline("text-generation", model=theirs, tokenizer=their_tokenizer)
    others = 0
    written = [prompt for prompt in PROMPTS if len(tokenizer.prompt(prompt)) + n_new <= model.config.context_length]
    for prompt in written:
        asked = tokenizer.prompt(prompt)
        found: Any = write(prompt, do_sample=False, max_new_tokens=n_new, return_tensors=True)
        whole = list(found[0]["generated_token_ids"])
        others += is_other_continuation(ours, asked, whole, n_new, tokenizer.eos_ids, tie)
    theirs.generation_config.eos_token_id = None  # all of the tokens are wanted
    given = {"attention_mask": torch.ones_like(openings), "do_sample": False, "max_new_tokens": n_new}
    new = theirs.generate(openings, **given)[:, openings.shape[1] :]
    others += count_other_continuations(ours, openings, new, tie)
    texts = [*HOSTILE_TEXTS, *PROMPTS, *([text] if text else [])]
    # Theirs would take <|endoftext|> in a text for the special token, unless told that it is ordinary text.
    other_ids = sum(
        their_tokenizer.encode(text, split_special_tokens=True) != [*tokenizer.prefix_ids, *tokenizer.encode(text)]
        for text in texts
    )
    if chat is not None:
        asked_ids = their_tokenizer.apply_chat_template(chat.messages, add_generation_prompt=True, return_dict=False)
        other_ids += asked_ids != chat.ids
    return Parity(
        (logits - their_logits).abs().max().item(),
        divergence(logits, their_logits).item(),
        other_ids,
        len(texts) + (chat is not None),
        others,
        len(openings) + len(written),
    )


@torch.no_grad()
def compare_classifier_with_transformers(
    folder: Path, model: Classifier, tokenizer: Tokenizer, info: ClassifierInfo, seed: int, text: str = ""
) -> Parity:
    """Scores of random texts of several lengths in one batch through both models in float32; nothing goes on.

    Hostile texts, and a `text` as a whole where one is given, go through both tokenizers, with their frame and the cut
    at the classifier's `max_tokens`.
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    hush()
    theirs = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    config, pad = model.trunk.config, tokenizer.pad
    drawn = torch.Generator().manual_seed(seed)
    context = min(config.context_length, MOST_POSITIONS)
    ids = torch.randint(0, config.vocab_size - 1, (N_TEXTS, context), generator=drawn)
    ids += ids >= pad  # every token but that one
    lengths = torch.linspace(1, context, N_TEXTS).long()
    is_text = torch.arange(context) < lengths[:, None]  # (B, T)
    ids[~is_text] = pad
    ours = model.float().cpu().eval()(ids, lengths)
    others = theirs(ids, attention_mask=is_text.long()).logits
    # A label that is a yes or no of its own is one of two.
    pair = [torch.stack([of, torch.zeros_like(of)], dim=-1) if info.is_multilabel else of for of in (ours, others)]
    their_tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    texts = [*HOSTILE_TEXTS, *([text] if text else [])]
    other_ids = sum(
        their_tokenizer(text, truncation=True)["input_ids"]
        != classifier_ids([tokenizer.encode(text)], tokenizer.special, info.max_tokens)
        for text in texts
    )
    return Parity((ours - others).abs().max().item(), divergence(*pair).item(), other_ids, len(texts), 0, 0)


def draw_openings(model: GPT, generator: torch.Generator) -> tuple[Tensor, int]:
    """Random tokens (N_CONTINUATIONS, T) that a model goes on from, and how many new ones fit behind them."""
    config = model.config
    shape = (N_CONTINUATIONS, min(4, config.context_length))
    openings = torch.randint(0, config.vocab_size, shape, generator=generator)
    return openings, min(N_NEW_TOKENS, config.context_length - openings.shape[1] + 1)


def tie_of(logits: Tensor, tie: float = TIE_NATS) -> float:
    """How far behind the likeliest token another one is that rounding may put before it: logits have seven digits."""
    return tie * max(1.0, logits.abs().max().item() / 20)


@torch.no_grad()
def count_other_continuations(model: GPT, openings: Tensor, new: Tensor, tie: float) -> int:
    """How many of the continuations (B, new) of openings (B, T) are not the model's greedy ones, but for ties."""
    logits = model(torch.cat([openings, new[:, :-1]], dim=1))[:, -new.shape[1] :]  # (B, new, V)
    behind = logits.amax(dim=-1) - logits.gather(-1, new[..., None])[..., 0]
    return int((behind > tie).any(dim=-1).sum())


def is_other_continuation(
    model: GPT, asked: Sequence[int], whole: Sequence[int], n_new: int, ends: frozenset[int], tie: float
) -> bool:
    """Whether `whole` is not `asked` and up to `n_new` greedy tokens behind it, of which one in `ends` is the last."""
    new = list(whole[len(asked) :])
    if list(whole[: len(asked)]) != list(asked) or not new:
        return True
    if not ends.isdisjoint(new[:-1]) or (len(new) < n_new and new[-1] not in ends):
        return True
    return count_other_continuations(model, torch.tensor([asked]), torch.tensor([new]), tie) > 0


def hush() -> None:
    """Have Transformers say what is wrong, and nothing else."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()  # a hostile text may be longer than the context
