"""Compare a GGUF file with our model: token ids, log-probabilities and continuations of llama.cpp.

The package `xllamacpp`, which is llama.cpp, is optional: `make extras`.
"""

import atexit
import json
import multiprocessing
import os
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from math import inf, log
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llm.core.errors import UserError
from llm.export.formats import missing_package
from llm.export.gguf import FILES
from llm.export.verify import (
    FLOAT32,
    HOSTILE_TEXTS,
    MAX_POSITIONS,
    N_CONTINUATIONS,
    N_NEW_TOKENS,
    PROMPTS,
    Bounds,
    Chat,
    Generation,
    Parity,
    compare,
)
from llm.model.gpt import GPT
from llm.tokens.special import IM_END
from llm.tokens.tokenizer import Tokenizer

N_PROMPTS = 8
N_SCORED, SCORED_CONTEXT = 200, 64  # tokens of a text, and tokens before each
MAX_CHARACTERS = 50_000  # of a text in one request, which may have a megabyte

# Beside verify's: runs, digits, capitals, rare whitespace, letters of few bytes and of many.
MORE_TEXTS = (
    "",
    " ",
    "\n" * 40 + "\t" * 40 + " " * 300 + "x",
    "0123456789 1234,567.89e-10 ٣٤٥ ⅷ ² ½ 四五",
    "IT'S I'LL we'Re 'tis 'S ''' `'d`",
    "\r\r\n\n\r \n \r\n  a\n b \v\f\x1c\x85\u2028\u2029 \u00a0\u3000\u2003x",
    "İıſK ǅ ﬀ ß ẞ Ω ё й और ไทย 한국어 عربى עברית",
    "a\u0300\u0301\u0302 \u0300 é e\u0301 \ufeff\u00ad\u2060 👨‍👩‍👧‍👦🏳️‍🌈🇩🇪 𝔘𝔫𝔦 𠀀𠀁",
    "\x00\x01\x7f\ufffd\U0010ffff",
    "<|im_start|><|pad|><|bos|><|eos|><|endoftext|> <|im_end|<|im_end|>> </s> [INST] <unk>",
    "{'a': [1, 2], \"b\": !x != y->z ** 2 // 3}  # ...---===>>>",
)


def bounds_of(family: str, file_name: str) -> Bounds:
    """Return what a file's rounding explains; with 8 bits greedy texts may differ."""
    if file_name == FILES["gguf-f32"]:
        # For GPT-2's GELU llama.cpp looks up a table of 16 bits.
        return Bounds(1e-5, 1e-2) if family == "gpt2" else FLOAT32
    return Bounds(1e-3, 5e-2) if file_name == FILES["gguf-f16"] else Bounds(5e-2, inf)


@torch.no_grad()
def compare_with_llama_cpp(
    file: Path,
    model: GPT,
    tokenizer: Tokenizer,
    seed: int,
    text: str = "",
    process: ProcessPoolExecutor | None = None,
    chat: Chat | None = None,
) -> Parity:
    """Compare distributions after random prompts of up to the full context, greedy continuations, and ids of texts.

    Continued are random tokens, and PROMPTS as text. Where a `text` is given, its ids are compared too, and the cost of
    N_SCORED of its tokens, evenly spread. A `chat` goes through the file's template. Many good files may share a
    `process`, which is slow to start. UserError for a file that llama.cpp does not load, or without llama.cpp.
    """
    ours, vocab_size = model.float().cpu(), model.config.vocab_size
    context = min(model.config.context_length, MAX_POSITIONS)
    longest = max(context - 1, 1)  # llama.cpp keeps a place for the next token
    n_new = max(min(N_NEW_TOKENS, longest - min(4, longest)), 1)
    ends = frozenset({tokenizer.end_of_text, tokenizer.special[IM_END]})
    random, begun = _draw_prompts(vocab_size, longest, seed)
    text_ids, letter = tokenizer.encode(text), tokenizer.encode("a")[0]
    contexts, targets = _scored_tokens(text_ids, tokenizer.bos_id, min(longest, SCORED_CONTEXT))
    prompts = random + contexts
    with serve_file(file, context, process) as server:
        ids = [([tokenizer.bos_id, *tokenizer.encode(part)], server.tokenize(part)) for part in _texts(tokenizer, text)]
        if chat is not None:
            prompt = server.post("/apply-template", messages=chat.messages)["prompt"]
            ids.append((chat.ids, server.tokenize(prompt, parse_special=True)))
        theirs = torch.stack([server.logprobs(prompt, vocab_size, letter) for prompt in prompts])
        generations = [Generation(prompt, [*prompt, *server.generate(prompt, n_new)], ends) for prompt in begun]
        for prompt in PROMPTS:
            own = [tokenizer.bos_id, *tokenizer.encode(prompt)]
            if len(own) + n_new <= longest:
                generations.append(Generation(own, [*own, *server.generate(prompt, n_new)], ends))
    hidden = [ours.run_blocks(ours.embedding(torch.tensor([prompt])))[0, -1] for prompt in prompts]
    logits, bounds = ours.head(torch.stack(hidden)), bounds_of(model.config.family, file.name)  # (N, V)
    parity = compare("llama.cpp", ours, logits, [theirs], ids=ids, generations=generations, n_new=n_new, bounds=bounds)
    difference = logits.double().log_softmax(dim=-1) - theirs
    parity = replace(parity, max_difference=difference.abs().max().item())
    if not targets:
        return parity
    lost = difference[range(N_PROMPTS, len(prompts)), targets].mean().item() / log(2)  # bits a token
    return replace(parity, bits_per_byte_lost=lost * len(text_ids) / len(text.encode()))


def _texts(tokenizer: Tokenizer, text: str) -> Iterator[str]:
    parts = [text[at : at + MAX_CHARACTERS] for at in range(0, len(text), MAX_CHARACTERS)]
    return map(tokenizer.normalize, (*HOSTILE_TEXTS, *MORE_TEXTS, *PROMPTS, *parts))


def _draw_prompts(vocab_size: int, longest: int, seed: int) -> tuple[list[list[int]], list[list[int]]]:
    """Return N_PROMPTS random prompts of more and more tokens, and N_CONTINUATIONS of a few to continue."""
    generator = torch.Generator().manual_seed(seed)
    lengths = [max(longest * number // N_PROMPTS, 1) for number in range(1, N_PROMPTS + 1)]
    lengths += [min(4, longest)] * N_CONTINUATIONS
    prompts = [torch.randint(0, vocab_size, (length,), generator=generator).tolist() for length in lengths]
    return prompts[:N_PROMPTS], prompts[N_PROMPTS:]


def _scored_tokens(ids: list[int], start: int, context: int) -> tuple[list[list[int]], list[int]]:
    """Return up to N_SCORED tokens of a text, evenly spread: the tokens before each, and these tokens.

    >>> _scored_tokens([5, 6, 7], 0, 2)
    ([[0], [0, 5], [5, 6]], [5, 6, 7])
    """
    places = range(0, len(ids), -(-len(ids) // N_SCORED) or 1)
    whole = [start, *ids]
    return [whole[max(place + 1 - context, 0) : place + 1] for place in places], [ids[place] for place in places]


class LlamaCpp:
    """A client of a llama.cpp server."""

    GREEDY = {"temperature": 0.0, "cache_prompt": False, "return_tokens": True}

    def __init__(self, address: str):
        self.address = address
        self.opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def post(self, route: str, **body: Any) -> Any:
        """Return the server's JSON answer."""
        request = urllib.request.Request(f"{self.address}{route}", json.dumps(body).encode())  # noqa: S310 (our server)
        with self.opener.open(request) as answer:
            return json.load(answer)

    def tokenize(self, text: str, parse_special: bool = False) -> list[int]:
        """Return the ids of a text, with the tokens that it begins with."""
        return list(self.post("/tokenize", content=text, add_special=True, parse_special=parse_special)["tokens"])

    def generate(self, prompt: list[int] | str, n_new: int) -> list[int]:
        """Return the greedy continuation, with the end of the text where it comes to one."""
        return list(self.post("/completion", prompt=prompt, n_predict=n_new, **self.GREEDY)["tokens"])

    def logprobs(self, prompt: list[int], vocab_size: int, letter: int) -> Tensor:
        """Return log-probabilities (V,) float64 of the next token; `letter` is the token of any ordinary text."""
        # The server gives no probabilities where the next token is half a character or the end of the text. A bias
        # makes it choose the letter, and does not change the probabilities.
        options = {"n_predict": 1, "n_probs": vocab_size, "logit_bias": [[letter, 1000.0]]}
        (found,) = self.post("/completion", prompt=prompt, **options, **self.GREEDY)["completion_probabilities"]
        logprobs = torch.full((vocab_size,), torch.nan, dtype=torch.float64)
        for token in found["top_logprobs"]:
            logprobs[token["id"]] = token["logprob"]
        return logprobs


@contextmanager
def serve_file(file: Path, context: int, process: ProcessPoolExecutor | None = None) -> Iterator[LlamaCpp]:
    """Serve a file from another process, since a bad file may abort the process that loads it."""
    if reason := missing_package("xllamacpp"):
        raise UserError(reason)
    own = process or ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
    try:
        yield LlamaCpp(own.submit(start_server, str(file), context, torch.get_num_threads()).result())
    except (RuntimeError, OSError) as error:
        raise UserError(f"{file.name}: expected a file that llama.cpp loads, {' '.join(str(error).split())}") from None
    finally:
        if process is None:
            own.shutdown()


def start_server(file: str, context: int, threads: int) -> str:
    """Start a server in this process on a free port; return its address."""
    import xllamacpp

    os.environ["GGML_NO_BACKTRACE"] = "1"  # or gdb searches for seconds after an abort
    setting = xllamacpp.CommonParams()
    setting.model.path, setting.port, setting.verbosity = file, 0, -1
    setting.n_parallel, setting.n_ctx, setting.warmup = 1, context, False
    setting.cpuparams.n_threads = setting.cpuparams_batch.n_threads = threads
    # Flash attention and a cache of 16 bits round as well, whatever the file.
    setting.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    setting.cache_type_k = setting.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    server = xllamacpp.Server(setting)
    # xllamacpp 2026.10 sometimes blocks while a server is destroyed: this one ends with its process.
    atexit.register(lambda server: os._exit(0), server)
    return str(server.listening_address)
