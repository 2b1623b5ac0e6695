"""Measure generation speed: ours beside Transformers and llama.cpp (f32, f16, q8_0), on two threads and on one.

    python -m bench.generate [--quick]

A prompt of 32 tokens, then 224 by greedy decoding, from models/export/hf, or, without one, from
random weights of params.yaml's shape. All rows have the same weights: the GGUF files are written here.
`first` is the time to the first token in milliseconds. Each row runs in processes of its own, which take turns; `same`
counts the tokens before the first that differs from ours.
"""

import argparse
import importlib
import importlib.util
import itertools
import json
import math
import os
import socket
import statistics
import sysconfig
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from bench.train import default_shape, start_child
from llm.export.formats import Format

EXPORT = Path("models/export/hf")
OURS, THEIRS = "ours", "Transformers"
LLAMA_CPP: dict[str, Format] = {"llama.cpp f32": "gguf-f32", "llama.cpp f16": "gguf-f16", "llama.cpp q8_0": "gguf-q8_0"}
N_TURNS, N_TEXTS, N_TOKENS, QUICK_TOKENS, N_FIRST, PROMPT_TOKENS = 3, 3, 224, 32, 10, 32

Writer = Callable[[int], list[int]]  # how many tokens → their ids


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.generate", allow_abbrev=False)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_TOKENS} tokens, one turn")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(measure(**json.loads(args.child))), flush=True)
        os._exit(0)  # a server of llama.cpp that is taken down now and then waits for ever
    n_turns, n_tokens = (1, QUICK_TOKENS) if args.quick else (N_TURNS, N_TOKENS)
    rows = list(itertools.product((2, 1), (OURS, THEIRS, *LLAMA_CPP)))
    runs: dict[tuple[int, str], list[dict[str, Any]]] = {row: [] for row in rows}
    with tempfile.TemporaryDirectory() as place:
        files, prompt, context = prepare(Path(place))
        n_tokens = min(n_tokens, context - len(prompt) - 1)  # llama.cpp keeps a place free
        for _, (threads, whose) in tqdm(list(itertools.product(range(n_turns), rows)), unit=" runs"):
            path, reason = files[whose]
            job = {"whose": whose, "path": path, "prompt": prompt, "n_tokens": n_tokens, "threads": threads}
            threaded = {"OMP_NUM_THREADS": str(threads)}
            runs[threads, whose].append({"failed": reason} if reason else start_child("bench.generate", job, threaded))
    weights = EXPORT if has_export() else "random weights of params.yaml's shape"
    print(f"{weights}, {len(prompt)} + {n_tokens} tokens, torch {torch.__version__}, median of {n_turns} × {N_TEXTS}")
    report(runs)


def prepare(place: Path) -> tuple[dict[str, tuple[str, str | None]], list[int], int]:
    """Return the files of each row, or the reason why it has none; a prompt; the model's context."""
    from llm.core.errors import UserError
    from llm.export.gguf import write_gguf
    from llm.export.hf.folder import read_folder, write_folder
    from llm.tokens.bpe import train_bpe
    from llm.tokens.tokenizer import Tokenizer

    text = Path(sysconfig.get_path("stdlib"), "argparse.py").read_text(encoding="utf-8")
    folder = EXPORT
    if not has_export():
        folder = place / "export"
        train_bpe([text], default_shape().model["vocab_size"]).save(str(place / "tokenizer.json"))
        write_folder(folder, drawn_model(), place / "tokenizer.json")
    model, tokenizer = read_folder(folder), Tokenizer.load(folder / "tokenizer.json")
    files: dict[str, tuple[str, str | None]] = {OURS: (str(folder), None), THEIRS: (str(folder), None)}
    for row, format_ in LLAMA_CPP.items():
        files[row] = ("", "the package xllamacpp is not installed (make extras)")
        if importlib.util.find_spec("xllamacpp") is not None:
            try:
                files[row] = (str(write_gguf(place / "gguf", model, folder / "tokenizer.json", format_)), None)
            except UserError as error:
                files[row] = ("", str(error))
    context = model.config.context_length
    return files, tokenizer.encode(text)[: min(PROMPT_TOKENS, context // 4)], context


def has_export() -> bool:
    """Return whether there is an export that Transformers can load."""
    return (EXPORT / "config.json").exists()


def drawn_model() -> Any:
    """Return a model with random weights, also where initial weights are zero."""
    from llm.model.config import ModelConfig
    from llm.model.gpt import GPT

    drawn = torch.Generator().manual_seed(1)
    gpt = GPT(ModelConfig(**default_shape().model), drawn)
    with torch.no_grad():
        for weight in gpt.parameters():
            if not weight.any():
                weight.normal_(0.0, 0.05, generator=drawn)
    return gpt


def measure(whose: str, path: str, prompt: list[int], n_tokens: int, threads: int) -> dict[str, Any]:
    """Return the seconds to the first token and of whole texts after a warm-up, and the ids."""
    make = {OURS: our_writer, THEIRS: their_writer}.get(whose, llama_cpp_writer)
    write = make(path, prompt, threads)
    write(n_tokens // 4)
    write(1)
    first = [timed(write, 1)[0] for _ in range(N_FIRST)]
    whole = [timed(write, n_tokens) for _ in range(N_TEXTS)]
    return {"first": first, "seconds": [seconds for seconds, _ in whole], "ids": whole[0][1]}


def timed(write: Writer, n_tokens: int) -> tuple[float, list[int]]:
    began = time.perf_counter()
    ids = write(n_tokens)
    seconds = time.perf_counter() - began
    assert len(ids) == n_tokens
    return seconds, ids


def our_writer(path: str, prompt: list[int], threads: int) -> Writer:
    from llm.export.hf.folder import read_folder
    from llm.model.generate import generate, greedy

    torch.set_num_threads(threads)
    gpt = read_folder(Path(path))
    return lambda n_tokens: list(generate(gpt, prompt, n_tokens, greedy))


def their_writer(path: str, prompt: list[int], threads: int) -> Writer:
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(threads)
    model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, local_files_only=True)
    model.eval()
    model.generation_config.eos_token_id = None  # never stop early
    given = torch.tensor([prompt])
    words = {"attention_mask": torch.ones_like(given), "do_sample": False}
    return lambda n_tokens: model.generate(given, max_new_tokens=n_tokens, **words)[0, len(prompt) :].tolist()


def llama_cpp_writer(path: str, prompt: list[int], threads: int) -> Writer:
    xllamacpp: Any = importlib.import_module("xllamacpp")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    params = xllamacpp.CommonParams()
    params.model.path, params.port, params.verbosity = path, port, -1
    params.n_ctx, params.n_parallel = 0, 1  # a context of 0 is the model's own
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    server = xllamacpp.Server(params)

    def write(n_tokens: int) -> list[int]:
        assert server  # it serves as long as somebody holds it
        asked = {"prompt": prompt, "n_predict": n_tokens, "temperature": 0.0, "ignore_eos": True}
        body = json.dumps(asked | {"cache_prompt": False, "return_tokens": True}).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{port}/completion", body)
        with urllib.request.urlopen(request) as answer:  # noqa: S310 (our own server)
            tokens: list[int] = json.load(answer)["tokens"]
        return tokens

    return write


def report(runs: dict[tuple[int, str], list[dict[str, Any]]]) -> None:
    print(f"{'':<28}{'tokens/s':>10}{'× Transformers':>16}{'first':>9}{'same':>8}")
    for (threads, whose), found in runs.items():
        name = f"{threads} thread{'s' if threads > 1 else ' '}  {whose}"
        if reason := next((run["failed"] for run in found if "failed" in run), None):
            print(f"  {name:<26}     none: {reason}")
            continue
        ids, ours = found[0]["ids"], runs[threads, OURS][0].get("ids", [])
        same = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(ids, ours, strict=False)))
        seconds, ratio = median(found, "seconds"), median(runs[threads, THEIRS], "seconds") / median(found, "seconds")
        first = median(found, "first") * 1000
        print(f"  {name:<26}{len(ids) / seconds:>10,.0f}{ratio:>16.2f}{first:>9.1f}{same:>8}")


def median(found: list[dict[str, Any]], key: str) -> float:
    """Return the median over all runs, or NaN where one failed."""
    failed = any("failed" in run for run in found)
    return math.nan if failed else statistics.median(of for run in found for of in run[key])


if __name__ == "__main__":
    main()
