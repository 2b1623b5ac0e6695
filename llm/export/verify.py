"""Compare an export with our model, as its users load it: with Transformers.

What must agree is what a user sees: the ids of a text with the token that it begins with, the greedy continuation of
a prompt, and the mean divergence of the next token. The largest difference of a logit grows with the size of logits,
also where no generated text changes, and is only reported.
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
from llm.model.config import ModelConfig
from llm.model.gpt import GPT
from llm.tokens.templates import classifier_ids
from llm.tokens.tokenizer import Tokenizer

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


class Bounds(NamedTuple):
    """The mean divergence in nats, and the distance of two exchanged choices, that rounding explains."""

    divergence: float
    tie: float  # where no logit is above 20


FLOAT32 = Bounds(1e-6, 1e-3)  # between two programs that compute in float32


class Chat(NamedTuple):
    """A conversation, and the ids of our own template up to the answer."""

    messages: list[dict[str, str]]
    ids: list[int]


class Generation(NamedTuple):
    """A prompt, a client's greedy text that begins with it, and the tokens that may end it early."""

    prompt: list[int]
    whole: list[int]
    ends: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Parity:
    """The differences of a client from our model."""

    client: str
    max_difference: float  # of logits, or in llama.cpp of log-probabilities
    divergence: float  # mean, in nats
    tokenization_mismatches: int
    texts: int
    generation_mismatches: int
    continuations: int
    max_divergence: float = FLOAT32.divergence  # that rounding explains
    bits_per_byte_lost: float | None = None  # of a text, where one is given

    @property
    def agrees(self) -> bool:
        """Whether the client has the same model and the same tokenizer; not where the divergence is NaN."""
        mismatches = self.tokenization_mismatches + self.generation_mismatches
        return self.divergence <= self.max_divergence and mismatches == 0

    def figures(self, where: Path) -> dict[str, float]:
        """Return the metrics of a stage; UserError for a client that does not agree."""
        if not self.agrees:
            raise UserError(
                f"{where}: expected the same token ids and greedy texts in {self.client} and a mean divergence of at "
                f"most {self.max_divergence:g} nats, got {self.tokenization_mismatches} of {self.texts} texts with "
                f"other ids, {self.generation_mismatches} of {self.continuations} other texts and "
                f"{self.divergence:.2g} nats"
            )
        kind = "logprob" if self.client == "llama.cpp" else "logit"
        return {
            f"max_{kind}_difference": float(f"{self.max_difference:.3g}"),
            "mean_divergence": float(f"{self.divergence:.3g}"),
            "tokenization_mismatches": self.tokenization_mismatches,
            "generation_mismatches": self.generation_mismatches,
            "continuations": self.continuations,
        }


@torch.no_grad()
def compare(
    client: str,
    model: GPT,
    logits: Tensor,
    theirs: Sequence[Tensor],
    *,
    ids: Sequence[tuple[list[int], list[int]]] = (),
    generations: Sequence[Generation] = (),
    n_new: int = 0,
    bounds: Bounds = FLOAT32,
) -> Parity:
    """Compare our logits (..., V) with each of a client's, ours and its ids of texts, and its `n_new` greedy tokens."""
    tie = tie_of(logits, bounds.tie)
    return Parity(
        client,
        max_difference=torch.stack([(logits - other).abs().max() for other in theirs]).max().item(),
        divergence=torch.stack([divergence(logits, other) for other in theirs]).max().item(),
        tokenization_mismatches=sum(own != other for own, other in ids),
        texts=len(ids),
        generation_mismatches=sum(is_mismatch(model, generation, n_new, tie) for generation in generations),
        continuations=len(generations),
        max_divergence=bounds.divergence,
    )


def divergence(ours: Tensor, theirs: Tensor) -> Tensor:
    """Return the mean Kullback-Leibler divergence in nats of `theirs` from `ours`, logits (..., V) both.

    >>> round(divergence(torch.tensor([0.5, 0.5]).log(), torch.tensor([0.25, 0.75]).log()).item(), 4)
    0.1438
    """
    own, other = (logits.double().log_softmax(dim=-1) for logits in (ours, theirs))
    return (own.exp() * (own - other)).sum(dim=-1).mean()


def tie_of(logits: Tensor, tie: float = FLOAT32.tie) -> float:
    """Return the distance of two logits that rounding may exchange, given logits (..., V): they have seven digits."""
    return tie * max(1.0, logits.abs().max().item() / 20)


@torch.no_grad()
def is_mismatch(model: GPT, generation: Generation, n_new: int, tie: float) -> bool:
    """Return whether a text is not its prompt and `n_new` greedy tokens, but for ties; an end may come earlier."""
    prompt, whole, ends = generation
    new = whole[len(prompt) :]
    is_cut = not new or (len(new) < n_new and new[-1] not in ends)
    if is_cut or whole[: len(prompt)] != prompt or not ends.isdisjoint(new[:-1]):
        return True
    logits = model(torch.tensor([whole[:-1]]))[0, -len(new) :]  # (new, V)
    behind = logits.amax(dim=-1) - logits[range(len(new)), new]
    return bool((behind > tie).any())


def draw_tokens(config: ModelConfig, seed: int) -> tuple[Tensor, Tensor, int]:
    """Return random texts (N_TEXTS, T), prompts (N_CONTINUATIONS, P), and how many tokens fit after these."""
    generator = torch.Generator().manual_seed(seed)
    n_tokens, context = config.vocab_size, config.context_length
    length = min(context, MAX_POSITIONS, max(MAX_LOGITS // (N_TEXTS * n_tokens), 32))
    texts = torch.randint(0, n_tokens, (N_TEXTS, length), generator=generator)
    prompts = torch.randint(0, n_tokens, (N_CONTINUATIONS, min(4, context)), generator=generator)
    return texts, prompts, min(N_NEW_TOKENS, context - prompts.shape[1] + 1)


@torch.no_grad()
def compare_with_transformers(folder: Path, model: GPT, seed: int, text: str = "", chat: Chat | None = None) -> Parity:
    """Compare logits of random tokens, greedy texts, and ids of hostile texts, `text` and `chat`, in float32."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

    silence_transformers()
    theirs: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    their_tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    # On a machine with a GPU, a pipeline moves the model there.
    generate: Any = pipeline("text-generation", model=theirs, tokenizer=their_tokenizer, device="cpu")
    ours, tokenizer = model.float().cpu(), open_tokenizer(folder)
    random, prompts, n_new = draw_tokens(model.config, seed)
    generations = []
    for prompt in PROMPTS:
        prompt_ids = tokenizer.prompt(prompt)
        if len(prompt_ids) + n_new <= model.config.context_length:
            (found,) = generate(prompt, do_sample=False, max_new_tokens=n_new, return_tensors=True)
            generations.append(Generation(prompt_ids, found["generated_token_ids"], tokenizer.eos_ids))
    theirs.generation_config.eos_token_id = None  # random tokens are continued to the last
    options = {"attention_mask": torch.ones_like(prompts), "do_sample": False, "max_new_tokens": n_new}
    generations += map(Generation, prompts.tolist(), theirs.generate(prompts, **options).tolist())
    ids = [
        # `split_special_tokens`: <|endoftext|> in a text is ordinary text.
        ([*tokenizer.prefix_ids, *tokenizer.encode(text)], their_tokenizer.encode(text, split_special_tokens=True))
        for text in (*HOSTILE_TEXTS, *PROMPTS, *([text] if text else []))
    ]
    if chat is not None:
        chat_ids = their_tokenizer.apply_chat_template(chat.messages, add_generation_prompt=True, return_dict=False)
        ids.append((chat.ids, chat_ids))
    logits = [theirs(random).logits]
    return compare("Transformers", ours, ours(random), logits, ids=ids, generations=generations, n_new=n_new)


@torch.no_grad()
def compare_classifier_with_transformers(
    folder: Path, model: Classifier, tokenizer: Tokenizer, info: ClassifierInfo, seed: int, text: str = ""
) -> Parity:
    """Compare the scores of random texts of several lengths in one batch, and the ids of texts, in float32."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    silence_transformers()
    theirs = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    their_tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    config, pad = model.trunk.config, tokenizer.pad
    context = min(config.context_length, MAX_POSITIONS)
    generator = torch.Generator().manual_seed(seed)
    random = torch.randint(0, config.vocab_size - 1, (N_TEXTS, context), generator=generator)
    random += random >= pad  # every token but that one
    lengths = torch.linspace(1, context, N_TEXTS).long()
    is_text = torch.arange(context) < lengths[:, None]  # (B, T)
    random[~is_text] = pad
    scores = model.float().cpu().eval()(random, lengths), theirs(random, attention_mask=is_text.long()).logits
    if info.is_multilabel:  # each label is a yes or no: a softmax of its score and 0
        ours, others = (torch.stack([of, torch.zeros_like(of)], dim=-1) for of in scores)
    else:
        ours, others = scores
    ids = [
        (
            classifier_ids([tokenizer.encode(text)], tokenizer.special, info.max_tokens),
            their_tokenizer(text, truncation=True)["input_ids"],
        )
        for text in (*HOSTILE_TEXTS, *([text] if text else []))
    ]
    return compare("Transformers", model.trunk, ours, [others], ids=ids)


def silence_transformers() -> None:
    """Turn off Transformers' progress bars and warnings: a hostile text may be longer than the context."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
