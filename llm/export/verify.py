"""Load an export as its users will, with Transformers, and measure how far it is from our own model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llm.model.gpt import GPT
from llm.text.tokenizer import Tokenizer

MOST_LOGIT_DIFFERENCE = 1e-4  # where no logit is above 20
N_TEXTS, N_CONTINUATIONS, N_NEW_TOKENS = 4, 20, 32

# Texts that meet every rule of the split pattern, and what ordinary text seldom has.
HOSTILE_TEXTS = (
    "def f(x):\n    return x  # it's 100% of 2024's\r\n\r\n\t\ttabs",
    "Žluťoučký kůň, 你好，世界！ 🙂👩‍👩‍👧 e\u0301 \u200b\u202e",
    "<|endoftext|> <|im_start|>user\nhello<|im_end|>",
    "   leading, trailing   \n\n\n  ",
    "".join(map(chr, range(1, 256))),
)


@dataclass(frozen=True)
class Parity:
    """The largest difference of logits and the largest of ours, texts with other ids, prompts that go on otherwise."""

    max_logit_difference: float
    max_logit: float
    texts_with_other_ids: int
    texts: int
    other_continuations: int
    continuations: int

    @property
    def most(self) -> float:
        """The largest difference that rounding explains."""
        return most_logit_difference(self.max_logit)

    @property
    def agrees(self) -> bool:
        """Whether Transformers has the same model and the same tokenizer."""
        others = self.texts_with_other_ids + self.other_continuations
        return self.max_logit_difference <= self.most and others == 0


def most_logit_difference(max_logit: float) -> float:
    """The largest difference that rounding explains: float32 has seven digits, so larger logits differ by more.

    >>> most_logit_difference(5.0), most_logit_difference(40.0)
    (0.0001, 0.0002)
    """
    return MOST_LOGIT_DIFFERENCE * max(1.0, max_logit / 20)


@torch.no_grad()
def compare_with_transformers(folder: Path, model: GPT, seed: int, text: str = "") -> Parity:
    """Full contexts of random tokens and greedy continuations through both models in float32.

    Hostile texts, and a `text` as a whole where one is given, go through both tokenizers. A continuation is another
    one where a token is not our likeliest; what the difference that rounding explains can turn around is a tie.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    hush()
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    config, ours = model.config, model.float().cpu()
    drawn = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, config.vocab_size, (N_TEXTS, config.context_length), generator=drawn)
    openings, n_new = draw_openings(model, drawn)
    logits = ours(ids)
    difference, largest = (logits - theirs(ids).logits).abs().max().item(), logits.abs().max().item()
    theirs.generation_config.eos_token_id = None  # all of the tokens are wanted
    asked = {"attention_mask": torch.ones_like(openings), "do_sample": False, "max_new_tokens": n_new}
    new = theirs.generate(openings, **asked)[:, openings.shape[1] :]
    other = count_other_continuations(ours, openings, new, most_logit_difference(largest))
    their_tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    tokenizer = Tokenizer.load(folder / "tokenizer.json")
    texts = [*HOSTILE_TEXTS, *([text] if text else [])]
    # Theirs would take <|endoftext|> in a text for the special token, unless told that it is ordinary text.
    plain = {"add_special_tokens": False, "split_special_tokens": True}
    other_ids = sum(their_tokenizer.encode(text, **plain) != tokenizer.encode(text) for text in texts)
    return Parity(difference, largest, other_ids, len(texts), other, len(openings))


def draw_openings(model: GPT, generator: torch.Generator) -> tuple[Tensor, int]:
    """Random tokens (N_CONTINUATIONS, T) that a model goes on from, and how many new ones fit behind them."""
    config = model.config
    shape = (N_CONTINUATIONS, min(4, config.context_length))
    openings = torch.randint(0, config.vocab_size, shape, generator=generator)
    return openings, min(N_NEW_TOKENS, config.context_length - openings.shape[1] + 1)


@torch.no_grad()
def count_other_continuations(model: GPT, openings: Tensor, new: Tensor, most: float) -> int:
    """How many of the continuations (B, new) of openings (B, T) are not the model's greedy ones.

    A token that is no further behind the likeliest than two differences of `most` is a tie.
    """
    logits = model(torch.cat([openings, new[:, :-1]], dim=1))[:, -new.shape[1] :]  # (B, new, V)
    behind = logits.amax(dim=-1) - logits.gather(-1, new[..., None])[..., 0]
    return int((behind > 2 * most).any(dim=-1).sum())


def hush() -> None:
    """Have Transformers say what is wrong, and nothing else."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()  # a hostile text may be longer than the context
