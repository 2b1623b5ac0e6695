"""How fast text is written, a token at a time: ours beside Transformers and llama.cpp, on two threads and on one.

    python -m bench.generate [--quick]

256 tokens after one <|endoftext|>, the likeliest each time, in float32, from models/export; where there is none,
from drawn weights of params.yaml's shape. llama.cpp takes the GGUF file of the export, in that file's precision.
Each row runs in processes of its own, which take turns; `same` counts the tokens before the first other than ours.
"""

import argparse
import importlib
import importlib.util
import itertools
import json
import socket
import statistics
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tqdm import tqdm

from bench.train import default_shape, start_child, transformers_twin

if TYPE_CHECKING:
    from llm.model.gpt import GPT

EXPORT = Path("models/export")
OURS, THEIRS, LLAMA_CPP = "ours", "Transformers", "llama.cpp"
N_TURNS, N_TEXTS, N_TOKENS, QUICK_TOKENS, WARMUP_TOKENS = 3, 3, 256, 32, 8
FIRST = 0  # <|endoftext|>

Writer = Callable[[int], list[int]]  # how many tokens → their ids


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.generate", allow_abbrev=False)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_TOKENS} tokens, one turn")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        print(json.dumps(measure(**json.loads(given.child))))
        return
    n_turns, n_tokens = (1, QUICK_TOKENS) if given.quick else (N_TURNS, N_TOKENS)
    n_tokens = min(n_tokens, our_model().config.context_length - 1)  # llama.cpp keeps a place free
    rows = list(itertools.product((2, 1), (OURS, THEIRS, LLAMA_CPP)))
    runs: dict[tuple[int, str], list[dict[str, Any]]] = {row: [] for row in rows}
    for _, (threads, whose) in tqdm(list(itertools.product(range(n_turns), rows)), unit=" runs"):
        reason = why_missing() if whose == LLAMA_CPP else None
        job = {"whose": whose, "n_tokens": n_tokens, "threads": threads}
        found = {"failed": reason} if reason else start_child("bench.generate", job, {"OMP_NUM_THREADS": str(threads)})
        runs[threads, whose].append(found)
    weights = EXPORT if has_export() else "drawn weights of params.yaml's shape"
    print(f"{weights}, {n_tokens} tokens, torch {torch.__version__}, median of {n_turns} × {N_TEXTS} texts")
    report(runs)


def why_missing() -> str | None:
    """What llama.cpp's rows lack, if anything."""
    if importlib.util.find_spec("xllamacpp") is None:
        return "the library xllamacpp is not installed"
    return None if any(EXPORT.glob("gguf/*.gguf")) else f"no GGUF file in {EXPORT}/gguf"


def has_export() -> bool:
    return (EXPORT / "config.json").exists()


def measure(whose: str, n_tokens: int, threads: int) -> dict[str, Any]:
    """Seconds that some texts of `n_tokens` take after a short warm-up, and their ids."""
    write = {OURS: our_writer, THEIRS: their_writer, LLAMA_CPP: llama_cpp_writer}[whose](threads)
    write(WARMUP_TOKENS)
    seconds = []
    for _ in range(N_TEXTS):
        began = time.perf_counter()
        ids = write(n_tokens)
        seconds.append(time.perf_counter() - began)
        assert len(ids) == n_tokens
    return {"seconds": seconds, "ids": ids}


def our_writer(threads: int) -> Writer:
    from llm.model.generate import generate, greedy

    torch.set_num_threads(threads)
    gpt = our_model()
    return lambda n_tokens: list(generate(gpt, [FIRST], n_tokens, greedy))


def our_model() -> "GPT":
    """The export, or a model whose weights are all drawn, also those that begin at zero."""
    if has_export():
        from llm.export.huggingface import read_folder

        return read_folder(EXPORT)
    from llm.model.config import ModelConfig
    from llm.model.gpt import GPT

    drawn = torch.Generator().manual_seed(1)
    gpt = GPT(ModelConfig(**default_shape().model), drawn)
    with torch.no_grad():
        for weight in gpt.parameters():
            if not weight.any():
                weight.normal_(0.0, 0.05, generator=drawn)
    return gpt


def their_writer(threads: int) -> Writer:
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(threads)
    if has_export():
        model: Any = AutoModelForCausalLM.from_pretrained(EXPORT, dtype=torch.float32, local_files_only=True)
    else:
        model = transformers_twin(our_model())
    model.eval()
    model.generation_config.eos_token_id = None  # all of the tokens are wanted
    prompt = torch.tensor([[FIRST]])
    words = {"attention_mask": torch.ones_like(prompt), "do_sample": False}
    return lambda n_tokens: model.generate(prompt, max_new_tokens=n_tokens, **words)[0, 1:].tolist()


def llama_cpp_writer(threads: int) -> Writer:
    xllamacpp: Any = importlib.import_module("xllamacpp")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    params = xllamacpp.CommonParams()
    params.model.path = str(max(EXPORT.glob("gguf/*.gguf"), key=lambda file: "f32" in file.name))
    params.port, params.n_ctx, params.n_parallel = port, 2 * N_TOKENS, 1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    server = xllamacpp.Server(params)

    def write(n_tokens: int) -> list[int]:
        assert server  # it serves as long as somebody holds it
        asked = {"prompt": [FIRST], "n_predict": n_tokens, "temperature": 0.0, "ignore_eos": True}
        body = json.dumps(asked | {"cache_prompt": False, "return_tokens": True}).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{port}/completion", body)
        with urllib.request.urlopen(request) as answer:  # noqa: S310 (our own server)
            tokens: list[int] = json.load(answer)["tokens"]
        return tokens

    return write


def report(runs: dict[tuple[int, str], list[dict[str, Any]]]) -> None:
    print(f"{'':<26}{'tokens/s':>10}{'× Transformers':>16}{'same':>8}")
    seconds = {
        row: statistics.median(second for run in found for second in run["seconds"])
        for row, found in runs.items()
        if not any("failed" in run for run in found)
    }
    for (threads, whose), found in runs.items():
        name = f"{threads} thread{'s' if threads > 1 else ' '}  {whose}"
        if (threads, whose) not in seconds:
            print(f"  {name:<24}     none: {next(run['failed'] for run in found if 'failed' in run)}")
            continue
        ids, ours, theirs = found[0]["ids"], runs[threads, OURS][0].get("ids", []), seconds.get((threads, THEIRS))
        same = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(ids, ours, strict=False)))
        speed = seconds[threads, whose]
        ratio = f"{theirs / speed:.2f}" if theirs else "–"
        print(f"  {name:<24}{len(ids) / speed:>10,.0f}{ratio:>16}{same:>8}")


if __name__ == "__main__":
    main()
