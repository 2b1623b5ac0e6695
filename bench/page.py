"""Measure the page of an export in Chromium: its size and speed, and how far it is from PyTorch.

    python -m bench.page [--model models/export/hf] [--turns 5]

Speeds are the best of several turns: a browser shares the machine. `rounded` is the same model in PyTorch with its
weights in float16, as in the page; the difference to it is that of sums in float32. The texts are beginnings of
held-out documents, and the 20 prompts are the first tokens of these.
"""

import argparse
import copy
import importlib.util
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from llm.core.tables import iterate_rows
from llm.export.hf.base import open_model
from llm.model.generate import generate, greedy
from llm.model.gpt import GPT
from llm.page.build import build_page
from llm.page.passages import read_passages

EXPORT, TEST = Path("models/export/hf"), Path("data/corpus/test.parquet")
N_TEXTS, N_PROMPTS, PROMPT_TOKENS, N_NEW, N_DOCUMENTS = 4, 20, 12, 100, 200
LOAD = """async () => { const start = performance.now(); globalThis.model = await Model.load(document);
    return performance.now() - start; }"""
READ = """async (ids) => { const start = performance.now(), trace = await model.read(ids), read = performance.now();
    const bits = await trace.losses();
    return [read - start, performance.now() - read]; }"""
LOGITS = "async (ids) => { const t = await model.read(ids); return ids.map((_, at) => Array.from(t.logits(at))); }"
WRITE = """async ([ids, options]) => { const start = performance.now(), found = [];
    for await (const id of model.generate(ids, options)) found.push(id);
    return [found, found.length / (performance.now() - start) * 1000]; }"""
WAYS = {
    "greedy": {"temperature": 0},
    "temperature 0.8, top-k 50": {"temperature": 0.8, "topK": 50},
    "temperature 0.8, top-p 0.9": {"temperature": 0.8, "topP": 0.9},
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.page", allow_abbrev=False)
    parser.add_argument("--model", type=Path, default=EXPORT)
    parser.add_argument("--turns", type=int, default=5)
    args = parser.parse_args()
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if importlib.util.find_spec("playwright") is None or chromium is None or not (args.model / "config.json").exists():
        print("none: expected Playwright (make extras), Chromium and an export")
        return
    content, figures = build_page(args.model, "bench", [[text] for text in read_passages(TEST)])
    print(f"{args.model}: {figures['weights']:,} weights, a page of {figures['bytes']:,} bytes")
    texts = [row["text"] for row in iterate_rows(TEST, ["text"])]
    with tempfile.TemporaryDirectory() as place, opened(Path(place), content, chromium) as page:
        print(
            f"Chromium {page.context.browser.version}, best of {args.turns}; loading takes {page.evaluate(LOAD):.0f} ms"
        )
        report_speed(page, args.turns)
        report_parity(page, args.model, texts[:: max(1, len(texts) // N_DOCUMENTS)])


@contextmanager
def opened(place: Path, content: str, chromium: str) -> Iterator[Any]:
    """Open a page from a file."""
    from playwright.sync_api import sync_playwright

    (place / "model.html").write_text(content, encoding="utf-8")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto((place / "model.html").as_uri())
        yield page
        browser.close()


def report_speed(page: Any, turns: int) -> None:
    context, vocab_size = page.evaluate("[model.config.context_length, model.config.vocab_size]")
    ids = [7 + 37 * number % (vocab_size - 7) for number in range(context)]
    times = [page.evaluate(READ, ids) for _ in range(turns)]
    read, losses = (min(of) for of in zip(*times, strict=True))
    print(f"  {context} tokens: read in {read:.0f} ms, their losses in {losses:.0f} ms")
    for name, options in WAYS.items():
        speeds = [page.evaluate(WRITE, [ids[:8], options | {"maxTokens": context - 8}])[1] for _ in range(turns)]
        print(f"  writes {max(speeds):,.0f} tokens/s, {name}")


@torch.no_grad()
def report_parity(page: Any, folder: Path, texts: list[str]) -> None:
    model, tokenizer = open_model(folder)
    rounded = copy.deepcopy(model)
    for weight in rounded.parameters():
        weight.copy_(weight.half().float())
    ids = [page.evaluate("(text) => model.tokenizer.ids(text)", text) for text in texts]
    n_other = sum(own != tokenizer.encode(text) for own, text in zip(ids, texts, strict=True))
    print(f"  other token ids: {n_other} of {len(texts)} documents, {sum(map(len, ids)):,} tokens")
    windows = [[*tokenizer.prefix_ids, *of][: model.config.context_length] for of in ids[:N_TEXTS]]
    prompts = [[*tokenizer.prefix_ids, *of[:PROMPT_TOKENS]] for of in ids[:N_PROMPTS]]
    logits = [torch.tensor(page.evaluate(LOGITS, window)) for window in windows]
    written = [page.evaluate(WRITE, [prompt, {"temperature": 0, "maxTokens": N_NEW}])[0] for prompt in prompts]
    for name, reference in (("rounded", rounded), ("float32", model)):
        difference, largest = compare_logits(reference, windows, logits)
        print(f"  logits: largest difference to {name} {difference:.2g} of at most {largest:.1f}")
        n_other = count_other_texts(reference, prompts, written, tokenizer.eos_ids)
        print(f"  greedy: {n_other} of {len(prompts)} continuations of {N_NEW} tokens other than {name}")


def compare_logits(model: GPT, windows: list[list[int]], logits: list[torch.Tensor]) -> tuple[float, float]:
    """Return the largest difference to a model's logits, and the largest of these."""
    expected = [model(torch.tensor([window]))[0] for window in windows]
    difference = max(float((a - b).abs().max()) for a, b in zip(logits, expected, strict=True))
    return difference, max(float(of.abs().max()) for of in expected)


def count_other_texts(model: GPT, prompts: list[list[int]], written: list[list[int]], ends: frozenset[int]) -> int:
    """Return how many prompts a model continues otherwise."""
    theirs = [[*generate(model, prompt, N_NEW, greedy, ends)] for prompt in prompts]
    return sum(a != b for a, b in zip(written, theirs, strict=True))


if __name__ == "__main__":
    main()
