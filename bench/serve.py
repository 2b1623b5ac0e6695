"""Measure a server under load: tokens per second, and the latency of one client and of many.

    python -m bench.serve [--clients 200] [--quick] [--slots 32] [--model models/export/hf]

All clients stream a completion of up to 64 tokens at the same time. `first` is the time to the first piece of text,
`end` to the last, in milliseconds; a stream that ends early is lost. The last lines are the longest pause between two
pieces of one stream, alone and while another client sends prompts that are far too long.
"""

import argparse
import asyncio
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

EXPORT = Path("models/export/hf")
N_TOKENS, QUICK_TOKENS, N_ALONE, QUICK_ALONE = 64, 16, 10, 2
LONG_PROMPTS = {"1.9 MB": 1_900_000, "10 MB": 10_000_000}  # characters: within what the server reads, and beyond
PROMPTS = ["def main(", "import ", "class ", "# The ", "    return "]


@dataclass(frozen=True)
class Answer:
    """Seconds to the first piece and to the end, and the number of tokens."""

    first: float
    end: float
    n_tokens: int


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.serve", allow_abbrev=False)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--slots", type=int, default=32)
    parser.add_argument("--model", type=Path, default=EXPORT)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_TOKENS} tokens a text")
    args = parser.parse_args()
    missing = [name for name in ("fastapi", "uvicorn") if importlib.util.find_spec(name) is None]
    if missing or not (args.model / "config.json").exists():
        print(f"none: {f'{missing[0]} is not installed (make extras)' if missing else f'no model in {args.model}'}")
        return
    n_tokens, n_alone = (QUICK_TOKENS, QUICK_ALONE) if args.quick else (N_TOKENS, N_ALONE)
    print(f"{args.model}, up to {n_tokens} tokens a text, {args.slots} slots, {os.cpu_count()} cores")
    print(f"{'':<14}{'tokens/s':>10}{'first: median':>16}{'95%':>8}{'end: median':>14}{'95%':>8}{'lost':>7}")
    command = [sys.executable, "-m", "llm", "serve", str(args.model), "--port", "0", "--slots", str(args.slots)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout
            address = server.stdout.readline().split(" on ")[1].split("/v1")[0]
            asyncio.run(measure(address, args.model.resolve().name, args.clients, n_alone, n_tokens))
        finally:
            server.terminate()


async def measure(address: str, model: str, n_clients: int, n_alone: int, n_tokens: int) -> None:
    where = urlsplit(address)
    assert where.hostname and where.port
    ask = [
        (where.hostname, where.port, {"model": model, "prompt": PROMPTS[n % len(PROMPTS)], "seed": n})
        for n in range(n_clients)
    ]
    await complete(*ask[0], n_tokens)  # the first is slower than all others
    began = time.perf_counter()
    alone = [await complete(*ask[n % n_clients], n_tokens) for n in range(n_alone)]
    report("1 client", alone, time.perf_counter() - began)
    began = time.perf_counter()
    crowd = await asyncio.gather(*(complete(*client, n_tokens) for client in ask))
    report(f"{n_clients} clients", list(crowd), time.perf_counter() - began)
    await measure_pauses(*ask[0], 8 * n_tokens)


async def measure_pauses(host: str, port: int, asked: dict[str, object], n_tokens: int) -> None:
    """Print the longest pause of a stream in milliseconds, alone and beside long prompts."""
    for name, n_chars in {"alone": 0, **LONG_PROMPTS}.items():
        pauses: list[float] = []
        stream = asyncio.create_task(complete(host, port, asked, n_tokens, pauses))
        while not pauses and not stream.done():
            await asyncio.sleep(0.001)
        while n_chars and not stream.done():
            status = await post(host, port, json.dumps(asked | {"prompt": "word " * (n_chars // 5)}).encode())
            name = f"{name.partition(':')[0]}: {status}"  # noqa: PLW2901 (what the server answered)
        await stream
        print(f"  longest pause, {name:<12}{max(pauses, default=float('nan')) * 1000:>8,.0f}")


async def post(host: str, port: int, body: bytes) -> int:
    """Request a completion; return the status."""
    reader, writer = await asyncio.open_connection(host, port)
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n"
    writer.write(f"{head}Content-Type: application/json\r\n\r\n".encode() + body)
    status = int((await reader.readline()).split()[1])
    writer.close()
    return status


async def complete(
    host: str, port: int, asked: dict[str, object], n_tokens: int, pauses: list[float] | None = None
) -> Answer | None:
    """Stream a completion; return None if it ends early. Pauses between pieces are added to `pauses`."""
    streamed = {"max_tokens": n_tokens, "stream": True, "stream_options": {"include_usage": True}}
    body = json.dumps(asked | streamed).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n"
    began, first, used = time.perf_counter(), 0.0, 0
    last = 0.0
    try:
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(f"{head}Content-Type: application/json\r\n\r\n".encode() + body)
        while line := await reader.readline():
            if not line.startswith(b"data: "):
                continue
            if line.startswith(b"data: [DONE]"):
                writer.close()
                return Answer(first, time.perf_counter() - began, used)
            chunk = json.loads(line.removeprefix(b"data: "))
            now = time.perf_counter() - began
            first = first or now
            if pauses is not None and last:
                pauses.append(now - last)
            last = now
            used = chunk["usage"]["completion_tokens"] if chunk["usage"] else 0
    except OSError:
        pass
    return None


def report(name: str, answers: list[Answer | None], seconds: float) -> None:
    ended = [answer for answer in answers if answer]
    columns = [f"{sum(answer.n_tokens for answer in ended) / seconds:>10,.0f}"]
    for times, width in (([answer.first for answer in ended], 16), ([answer.end for answer in ended], 14)):
        percentiles = statistics.quantiles(times, n=20, method="inclusive") if len(times) > 1 else [float("nan")] * 19
        columns += [f"{percentiles[9] * 1000:>{width},.0f}", f"{percentiles[18] * 1000:>8,.0f}"]
    print(f"  {name:<12}{''.join(columns)}{len(answers) - len(ended):>7}")


if __name__ == "__main__":
    main()
