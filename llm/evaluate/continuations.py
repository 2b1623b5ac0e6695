"""Continue held-out text: the texts that `llm.evaluate.quality` measures, and a page of the first of them.

stretches of a split ──► prompts ──drawn at one temperature, with a KV cache, all rows at once──► continuations
"""

from collections.abc import Iterable

import numpy as np
import torch

from llm.evaluate.bootstrap import Row
from llm.evaluate.measure import HeldOut
from llm.evaluate.params import QualityParams
from llm.evaluate.quality import SHORTEST, Stretches, cut_alike, decode_after, draw_stretches, measure_quality
from llm.evaluate.samples import continue_rows, row_sampler, write_continuations
from llm.model.gpt import GPT
from llm.tokens.tokenizer import Tokenizer

N_SHOWN = 20


def continue_held_out(
    model: GPT, tokenizer: Tokenizer, held_out: list[HeldOut], params: QualityParams, train: Iterable[str], seed: int
) -> tuple[Row, str]:
    """Continue stretches of the last split; return the figures, and a page of the first texts in the order drawn.

    Where nothing can be continued, both say why. The same model, splits, params and seed give the same.
    """
    n_given = min(params.prompt_tokens, model.config.context_length)
    if not params.texts:
        return _skip("evaluate.quality.texts is 0")
    if model.sees_the_future:
        return _skip("the model's attention sees what it predicts, so it cannot write")
    if not held_out:
        return _skip("no text was held out")
    text, rng = held_out[-1], np.random.default_rng(seed)
    drawn = draw_stretches(text.stream, text.end_of_text, n_given, params.new_tokens, params.texts, rng)
    if not len(drawn.places):
        least = n_given + min(SHORTEST, params.new_tokens)
        return _skip(f"no document of {text.name} has {least} tokens (evaluate.quality.prompt_tokens is {n_given})")
    stretches = [text.stream[at : at + n].tolist() for at, n in zip(drawn.places, drawn.n_tokens, strict=True)]
    prompts, true = [ids[:n_given] for ids in stretches], [ids[n_given:] for ids in stretches]
    draw = row_sampler(params.temperature, torch.Generator().manual_seed(seed))
    given = torch.tensor(prompts, device=model.embedding.weight.device)
    rows = continue_rows(model, given, params.new_tokens, draw, stop=text.end_of_text).tolist()
    cut = [cut_alike(row, ids, text.end_of_text) for row, ids in zip(rows, true, strict=True)]
    written, goes_on = (
        [decode_after(tokenizer, prompt, ids) for prompt, ids in zip(prompts, side, strict=True)]
        for side in zip(*cut, strict=True)
    )
    figures = {
        "split": text.name,
        "texts": len(rows),
        "prompt_tokens": n_given,
        "mean_tokens": round(float(np.mean([len(own) for own, _ in cut])), 2),
        "ended_sooner": round(
            float(np.mean([len(own) < len(ids) for (own, _), ids in zip(cut, true, strict=True)])), 5
        ),
        "temperature": params.temperature,
        **measure_quality(written, goes_on, drawn.documents, train, rng),
    }
    opening = (
        f"The first {min(N_SHOWN, len(rows))} of {len(rows)} places of {text.name}, in the order drawn: {n_given} "
        f"tokens of a document, and behind │ up to {params.new_tokens} that the model wrote at temperature "
        f"{params.temperature}."
    )
    whole = [
        (name, *decode_after(tokenizer, prompt, cut_alike(row, row, text.end_of_text)[0]))
        for name, prompt, row in zip(_names(text, drawn), prompts, rows[:N_SHOWN], strict=False)
    ]
    return figures, write_continuations(opening, whole)


def _skip(reason: str) -> tuple[Row, str]:
    return {"skipped": reason}, write_continuations(f"There are none: {reason}.", [])


def _names(text: HeldOut, drawn: Stretches) -> list[str]:
    """Return the document of each stretch and the token of it at which the stretch begins."""
    begins = np.flatnonzero(text.stream == text.end_of_text)[drawn.documents] + 1
    places = zip(drawn.documents.tolist(), (drawn.places - begins).tolist(), strict=True)
    return [f"{text.sources[document]}/{text.paths[document]}, token {at}" for document, at in places]
