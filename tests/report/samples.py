"""What stages write, small: the details and metrics that reports are made of."""

from typing import Any

MODEL = {
    "bits_per_byte": 1.25,
    "bits_per_byte_low": 1.125,
    "bits_per_byte_high": 1.5,
    "nats_per_token": 2.5,
    "perplexity": 12.1825,
    "tokens": 4321,
    "accuracy": 0.4375,
    "calibration_error": 0.03125,
    "best_baseline": "xz_given_train",
    "bits_per_byte_difference": -0.16,
    "bits_per_byte_difference_low": -0.2,
    "bits_per_byte_difference_high": -0.12,
    "verdict": "better, outside of chance",
}
SPLIT = {
    "documents": 13,
    "bytes": 98765,
    "model": MODEL,
    "baselines": [
        {"baseline": "xz_given_train", "bits_per_byte": 1.41, "difference": -0.16}
        | {"difference_low": -0.2, "difference_high": -0.12},
        {"baseline": "bzip2", "bits_per_byte": 1.9, "difference": -0.65},
    ],
    "sources": [
        {"source": "code & more", "documents": 12, "bytes": 90000, "tokens": 4000, "bits_per_byte": 1.2}
        | {"bits_per_byte_low": 1.1, "bits_per_byte_high": 1.3},
        {"source": "prose", "documents": 1, "bytes": 8765, "tokens": 321, "bits_per_byte": 2.2},
    ],
    "positions": [
        {"from": 1, "to": 1, "targets": 3, "nats_per_token": 4.5},
        {"from": 3, "to": 4, "targets": 6, "nats_per_token": 3.5},
    ],
    "context": [
        {"context": 8, "fraction": 0.5, "windows": 7, "nats_per_token": 2.625, "more": 0.125}
        | {"more_low": 0.0625, "more_high": 0.25},
        {"context": 16, "fraction": 1.0, "windows": 7, "nats_per_token": 2.5, "more": 0.0},
    ],
    "calibration": [{"from": 0.3, "to": 0.4, "count": 55, "confidence": 0.375, "accuracy": 0.25}],
    "contamination": {
        "ngram": 13,
        "window_fraction": 0.5,
        "token_fraction": 0.25,
        "found": {"tokens": 9, "bytes": 30, "nats_per_token": 1.0, "bits_per_byte": 0.75},
        "not_found": {"tokens": 9, "bytes": 0, "nats_per_token": 1.0, "bits_per_byte": None},
    },
    "hardest": [{"document": "code/a|<b>.py", "bytes": 1234, "bits_per_byte": 3.75}],
    "easiest": [{"document": "code/c.py", "bytes": 4321, "bits_per_byte": 0.5}],
}
OTHER = SPLIT | {
    "model": MODEL | {"bits_per_byte": 1.75},
    "positions": [{"from": 1, "to": 1, "targets": 3, "nats_per_token": 4.25}],
}
QUALITY = {
    "split": "test",
    "prompt_tokens": 47,
    "new_tokens": 199,
    "mean_tokens": 187.25,
    "ended_sooner": 0.035,
    "temperature": 0.65,
    "model": {"texts": 196, "words": 12345, "sections": 5, "distinct_3grams": 0.5}
    | {"real_words": 0.9, "real_words_low": 0.875, "real_words_high": 0.9375},
    "true_text": {"texts": 196, "words": 12346, "sections": 25, "real_words": 0.96, "distinct_3grams": 0.625}
    | {"sections_parsed": 0.75},
    "ratio": {"real_words": 0.9375, "distinct_3grams": 0.8},
}
TOKENS = {"tokens": ["<i>", "\tx & y\n", "</pre>"], "nats": [8.5, 0.25, 2.5]}
EVALUATE: dict[str, Any] = {
    "splits": {"val": SPLIT, "test": OTHER},
    "quality": QUALITY,
    "prompts_from": "test",
    "sample_tokens": 30,
    "samples": [
        {"prompt": "<i>", "text": "\tx & y\n```</pre>", "method": method, "greedy": method == "greedy", "ended": True}
        | {"prompt_tokens": 1, **TOKENS}
        for method in ("greedy", "temperature 0.7, top 50")
    ],
    "passage": {"split": "test", "document": "a/<b>.py", "text": "<i>\tx & y\n</pre>", **TOKENS},
    "continuations": [{"document": "code/d.py", "token": 17, "prompt": "def ", "text": "f(): pass"}],
}
RECALL = {"prefixes": 200, "verbatim_25": 0.015, "verbatim_50": 0.005, "mean_verbatim_tokens": 2.055}
RUNS = {"texts": 10, "median_run": 10.5, "longest_run": 45, "copied": 2}
MEMORISE: dict[str, Any] = {
    "train": {"model": RECALL},
    "test": {"model": RECALL | {"verbatim_25": 0.0}},
    "generations": {"model": RUNS, "true_text": RUNS | {"texts": 13, "copied": 3}},
    "copies": False,
    "prefix_tokens": 64,
    "sample_tokens": 30,
    "sees_the_future": False,
    "recalled": [{"tokens": 50, "document": "a|b.py", "text": "import\tthis `x`\n" * 9}],
    "samples": [
        {"prompt": "def f", "method": "greedy", "tokens": 30}
        | {"run": {"tokens": 9, "document": "c.py", "text": "return"}},
        {"prompt": "def f", "method": "temperature 1", "tokens": 0, "run": None},
    ],
}


def rows_of(page: str) -> dict[str, list[str]]:
    """The cells of every table row of Markdown, by its first cell."""
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| ")]
    return {cells[0]: cells[1:] for cells in rows}
