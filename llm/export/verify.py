"""Load an export as its users will, with Transformers, and measure how far it is from our own model."""

from dataclasses import dataclass
from pathlib import Path

import torch

from llm.model.gpt import GPT
from llm.text.tokenizer import Tokenizer

MOST_LOGIT_DIFFERENCE = 1e-4  # where no logit is above 20

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
    """The largest difference of logits and the largest of ours, and how many texts had other token ids."""

    max_logit_difference: float
    max_logit: float
    texts_with_other_ids: int
    texts: int

    @property
    def most(self) -> float:
        """The largest difference that rounding explains."""
        return most_logit_difference(self.max_logit)

    @property
    def agrees(self) -> bool:
        """Whether Transformers has the same model and the same tokenizer."""
        return self.max_logit_difference <= self.most and self.texts_with_other_ids == 0


def most_logit_difference(max_logit: float) -> float:
    """The largest difference that rounding explains: float32 has seven digits, so larger logits differ by more.

    >>> most_logit_difference(5.0), most_logit_difference(40.0)
    (0.0001, 0.0002)
    """
    return MOST_LOGIT_DIFFERENCE * max(1.0, max_logit / 20)


@torch.no_grad()
def compare_with_transformers(folder: Path, model: GPT, seed: int) -> Parity:
    """Full contexts of random tokens through both models in float32, and hostile texts through both tokenizers."""
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()  # a hostile text may be longer than the context
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    config = model.config
    drawn = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, config.vocab_size, (4, config.context_length), generator=drawn)
    ours = model.float().cpu()(ids)
    difference = (ours - theirs(ids).logits).abs().max().item()
    their_tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer = Tokenizer.load(folder / "tokenizer.json")
    # Theirs would take <|endoftext|> in a text for the special token, unless told that it is ordinary text.
    other = sum(
        their_tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True) != tokenizer.encode(text)
        for text in HOSTILE_TEXTS
    )
    return Parity(difference, ours.abs().max().item(), other, len(HOSTILE_TEXTS))
