"""What the model writes after fixed prompts, greedy and sampled, as text to be read side by side."""

import torch

from llm.evaluate.params import EvaluateParams
from llm.model.generate import generate, greedy, sampler
from llm.model.gpt import GPT
from llm.text.tokenizer import Tokenizer


def write_samples(model: GPT, tokenizer: Tokenizer, params: EvaluateParams, seed: int) -> str:
    """Two continuations of every prompt, as Markdown. The same model, params and seed give the same text."""
    parts = ["# Samples", "", f"Up to {params.sample_tokens} tokens after each prompt (marked by │)."]
    for number, prompt in enumerate(params.prompts):
        ids = [tokenizer.end_of_text, *tokenizer.encode(prompt)]
        drawn = sampler(params.temperature, params.top_k, torch.Generator().manual_seed(seed + number))
        ways = {"greedy": greedy, f"temperature {params.temperature}, top {params.top_k}": drawn}
        for name, choose in ways.items():
            new = generate(model, ids, params.sample_tokens, choose, stop=frozenset({tokenizer.end_of_text}))
            parts += ["", f"## `{prompt.strip()}`, {name}", "", "````text", f"{prompt}│{tokenizer.decode(new)}", "````"]
    return "\n".join(parts) + "\n"
