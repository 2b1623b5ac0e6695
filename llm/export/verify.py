"""Compare an export with our model, as its users load it: with Transformers.

What must agree is what a user sees: the ids of a text with the token that it begins with; the greedy continuation of
a prompt; and the mean divergence of the next token's distribution. The largest difference of a logit is only reported:
it grows with the size of logits, also where no generated text changes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from llm.core.errors import UserError
from llm.export.hf.base import open_tokenizer
from llm.export.hf.classifier import ClassifierInfo
from llm.model.classifier import Classifier
from llm.model.gpt import GPT
from llm.tokens.templates import classifier_ids
from llm.tokens.tokenizer import Tokenizer

MAX_DIVERGENCE = 1e-6  # nats, between two programs that compute in float32
TIE_NATS = 1e-3  # rounding in float32 can exchange two choices this close, where no logit is above 20
N_TEXTS, N_CONTINUATIONS, N_NEW_TOKENS = 4, 20, 32
# Limits for a base with a context of 32,768 tokens and a vocabulary of 150,000.
MAX_POSITIONS, MAX_LOGITS = 1024, 1 << 24

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
    """A conversation, and the ids of our own template up to the answer."""

    messages: list[dict[str, str]]
    ids: list[int]


@dataclass(frozen=True)
class Parity:
    """The differences of a client from our model.

    The divergence is the mean Kullback-Leibler divergence in nats, and `max_divergence` the largest that rounding
    explains. `bits_per_byte_lost` is of a text, where one is given.
    """

    client: str
    max_difference: float  # of logits, or in llama.cpp of log-probabilities
    divergence: float
    tokenization_mismatches: int
    texts: int
    generation_mismatches: int
    continuations: int
    max_divergence: float = MAX_DIVERGENCE
    bits_per_byte_lost: float | None = None

    @property
    def agrees(self) -> bool:
        """Whether the client has the same model and the same tokenizer; not where the divergence is NaN."""
        mismatches = self.tokenization_mismatches + self.generation_mismatches
        return self.divergence <= self.max_divergence and mismatches == 0

    def figures(self) -> dict[str, float]:
        """Return the metrics of a stage."""
        kind = "logprob" if self.client == "llama.cpp" else "logit"
        return {
            f"max_{kind}_difference": float(f"{self.max_difference:.3g}"),
            "mean_divergence": float(f"{self.divergence:.3g}"),
            "tokenization_mismatches": self.tokenization_mismatches,
            "generation_mismatches": self.generation_mismatches,
            "continuations": self.continuations,
        }

    def describe(self) -> str:
        """Return the sentence for a client that does not agree."""
        return (
            f"expected the same token ids and greedy texts in {self.client} and a mean divergence of at most "
            f"{self.max_divergence:g} nats, got {self.tokenization_mismatches} of {self.texts} texts with other ids, "
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
    """Return random tokens (N_TEXTS, T) whose logits fit in memory; T is a short model's whole context."""
    config = model.config
    fitting = max(MAX_LOGITS // (N_TEXTS * config.vocab_size), 32)
    length = min(config.context_length, MAX_POSITIONS, fitting)
    return torch.randint(0, config.vocab_size, (N_TEXTS, length), generator=generator)


def random_prompts(model: GPT, generator: torch.Generator) -> tuple[Tensor, int]:
    """Return random tokens (N_CONTINUATIONS, T) to continue, and how many new ones fit after them."""
    config = model.config
    shape = (N_CONTINUATIONS, min(4, config.context_length))
    prompts = torch.randint(0, config.vocab_size, shape, generator=generator)
    return prompts, min(N_NEW_TOKENS, config.context_length - prompts.shape[1] + 1)


def verify_transformers(folder: Path, model: GPT, seed: int, chat: Chat | None = None) -> dict[str, Any]:
    """Return the figures of `compare_with_transformers`; UserError where it loads another model or gives other ids."""
    parity = compare_with_transformers(folder, model, seed, chat=chat)
    if not parity.agrees:
        raise UserError(f"{folder}: {parity.describe()}")
    return parity.figures()


@torch.no_grad()
def compare_with_transformers(folder: Path, model: GPT, seed: int, text: str = "", chat: Chat | None = None) -> Parity:
    """Compare the logits of random tokens, greedy continuations of them and of prompts, and ids of texts, in float32.

    The texts are hostile ones, and a `text` as a whole where one is given; a `chat` goes through the template.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

    silence_transformers()
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    their_tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    ours, tokenizer = model.float().cpu(), open_tokenizer(folder)
    generator = torch.Generator().manual_seed(seed)
    ids = random_texts(model, generator)
    random, n_new = random_prompts(model, generator)
    logits, their_logits = ours(ids), theirs(ids).logits
    tie = tie_of(logits)
    generate: Any = pipeline("text-generation", model=theirs, tokenizer=their_tokenizer)
    prompts = {prompt: tokenizer.prompt(prompt) for prompt in PROMPTS}
    prompts = {prompt: of for prompt, of in prompts.items() if len(of) + n_new <= model.config.context_length}
    mismatches = 0
    for prompt, prompt_ids in prompts.items():
        found = generate(prompt, do_sample=False, max_new_tokens=n_new, return_tensors=True)
        whole = list(found[0]["generated_token_ids"])
        mismatches += is_generation_mismatch(ours, prompt_ids, whole, n_new, tokenizer.eos_ids, tie)
    theirs.generation_config.eos_token_id = None  # random tokens are continued to the last
    options = {"attention_mask": torch.ones_like(random), "do_sample": False, "max_new_tokens": n_new}
    mismatches += count_mismatches(ours, random, theirs.generate(random, **options)[:, random.shape[1] :], tie)
    texts = [*HOSTILE_TEXTS, *PROMPTS, *([text] if text else [])]
    # `split_special_tokens`: <|endoftext|> in a text is ordinary text.
    other_ids = sum(
        their_tokenizer.encode(text, split_special_tokens=True) != [*tokenizer.prefix_ids, *tokenizer.encode(text)]
        for text in texts
    )
    if chat is not None:
        chat_ids = their_tokenizer.apply_chat_template(chat.messages, add_generation_prompt=True, return_dict=False)
        other_ids += chat_ids != chat.ids
    return Parity(
        "Transformers",
        (logits - their_logits).abs().max().item(),
        divergence(logits, their_logits).item(),
        other_ids,
        len(texts) + (chat is not None),
        mismatches,
        len(random) + len(prompts),
    )


@torch.no_grad()
def compare_classifier_with_transformers(
    folder: Path, model: Classifier, tokenizer: Tokenizer, info: ClassifierInfo, seed: int, text: str = ""
) -> Parity:
    """Compare the scores of random texts of several lengths in one batch, and ids of texts, in float32.

    The ids are those of hostile texts, and of a `text` where one is given, with their frame and truncated.
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    silence_transformers()
    theirs = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    config, pad = model.trunk.config, tokenizer.pad
    generator = torch.Generator().manual_seed(seed)
    context = min(config.context_length, MAX_POSITIONS)
    ids = torch.randint(0, config.vocab_size - 1, (N_TEXTS, context), generator=generator)
    ids += ids >= pad  # every token but that one
    lengths = torch.linspace(1, context, N_TEXTS).long()
    is_text = torch.arange(context) < lengths[:, None]  # (B, T)
    ids[~is_text] = pad
    ours = model.float().cpu().eval()(ids, lengths)
    others = theirs(ids, attention_mask=is_text.long()).logits
    # One of several labels is a yes or no: a softmax of its score and 0.
    pair = [torch.stack([of, torch.zeros_like(of)], dim=-1) if info.is_multilabel else of for of in (ours, others)]
    their_tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    texts = [*HOSTILE_TEXTS, *([text] if text else [])]
    other_ids = sum(
        their_tokenizer(text, truncation=True)["input_ids"]
        != classifier_ids([tokenizer.encode(text)], tokenizer.special, info.max_tokens)
        for text in texts
    )
    difference = (ours - others).abs().max().item()
    return Parity("Transformers", difference, divergence(*pair).item(), other_ids, len(texts), 0, 0)


def tie_of(logits: Tensor, tie: float = TIE_NATS) -> float:
    """Return the distance of two logits that rounding may exchange, given logits (..., V): they have seven digits."""
    return tie * max(1.0, logits.abs().max().item() / 20)


@torch.no_grad()
def count_mismatches(model: GPT, prompts: Tensor, new: Tensor, tie: float) -> int:
    """Count the continuations (B, new) of prompts (B, T) with a token that is not the likeliest, but for ties."""
    logits = model(torch.cat([prompts, new[:, :-1]], dim=1))[:, -new.shape[1] :]  # (B, new, V)
    behind = logits.amax(dim=-1) - logits.gather(-1, new[..., None])[..., 0]
    return int((behind > tie).any(dim=-1).sum())


def is_generation_mismatch(
    model: GPT, prompt: Sequence[int], whole: Sequence[int], n_new: int, ends: frozenset[int], tie: float
) -> bool:
    """Return whether `whole` is not the prompt and `n_new` greedy tokens, or fewer of which the last is in `ends`."""
    new = list(whole[len(prompt) :])
    if list(whole[: len(prompt)]) != list(prompt) or not new:
        return True
    if not ends.isdisjoint(new[:-1]) or (len(new) < n_new and new[-1] not in ends):
        return True
    return count_mismatches(model, torch.tensor([prompt]), torch.tensor([new]), tie) > 0


def silence_transformers() -> None:
    """Turn off Transformers' progress bars and warnings: a hostile text may be longer than the context."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
