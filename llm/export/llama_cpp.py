"""llama.cpp as the judge of a GGUF file: its ids, log-probabilities and continuations, beside ours.

The package `xllamacpp`, which is llama.cpp, is optional: `make extras`.
"""

import atexit
import importlib.util
import json
import multiprocessing
import os
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from math import inf, log
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from llm.core.errors import UserError
from llm.export.params import Format
from llm.export.verify import (
    HOSTILE_TEXTS,
    MOST_DIVERGENCE,
    MOST_POSITIONS,
    N_CONTINUATIONS,
    N_NEW_TOKENS,
    PROMPTS,
    TIE_NATS,
    Chat,
    Parity,
    divergence,
    is_other_continuation,
    tie_of,
)
from llm.model.gpt import GPT
from llm.tokens.special import IM_END
from llm.tokens.tokenizer import Tokenizer

N_PROMPTS = 8
N_SCORED, SCORED_CONTEXT = 200, 64  # tokens of a text, and tokens that stand before each
MOST_CHARACTERS = 50_000  # of a text at a time: the server takes no larger question than a megabyte

# Beside verify's: runs, digits, capitals, signs that are whitespace for some, letters of few bytes and of many.
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


@dataclass(frozen=True)
class LlamaCppParity(Parity):
    """Differences are of log-probabilities; also what a text costs more in llama.cpp than here, None without a text."""

    bits_per_byte_lost: float | None = None

    def figures(self) -> dict[str, float]:
        """What a stage records."""
        figures = super().figures()
        return {"max_logprob_difference": figures.pop("max_logit_difference"), **figures}


class Bounds(NamedTuple):
    """The mean divergence in nats that rounding explains, and how far behind the likeliest a greedy token may be."""

    divergence: float
    tie: float


def bounds_of(family: str, format_: Format | None) -> Bounds:
    """What a format's rounding explains; after rounding to 8 bits the greedy texts may be other ones."""
    if format_ == "gguf-f32":
        # For GPT-2's GELU llama.cpp looks up a table of 16 bits.
        return Bounds(1e-5, 1e-2) if family == "gpt2" else Bounds(MOST_DIVERGENCE, TIE_NATS)
    return Bounds(1e-3, 5e-2) if format_ == "gguf-f16" else Bounds(5e-2, inf)


@torch.no_grad()
def compare_with_llama_cpp(
    file: Path,
    model: GPT,
    tokenizer: Tokenizer,
    seed: int,
    bounds: Bounds,
    text: str = "",
    process: ProcessPoolExecutor | None = None,
    chat: Chat | None = None,
) -> LlamaCppParity:
    """Texts, prompts of random tokens and greedy continuations, through llama.cpp in a process of its own.

    Distributions are of the whole vocabulary after prompts of up to the full context. Continued are random tokens and
    PROMPTS, as text. A continuation is another one where llama.cpp takes a token that is not our likeliest, but for
    ties within `bounds`, or ends too early or too late. Where a `text` is given, its ids are compared as well, and what
    N_SCORED of its tokens cost, evenly spread. A `chat` goes through the file's template. Many good files may share a
    `process`, since starting one takes longest. UserError for a file that llama.cpp does not load, or no llama.cpp.
    """
    config = model.config
    drawn = torch.Generator().manual_seed(seed)

    def draw(length: int) -> list[int]:
        return torch.randint(0, config.vocab_size, (length,), generator=drawn).tolist()

    context = min(config.context_length, MOST_POSITIONS)
    longest = max(context - 1, 1)  # llama.cpp keeps a place for the next token
    prompts = [draw(max(longest * number // N_PROMPTS, 1)) for number in range(1, N_PROMPTS + 1)]
    openings: list[list[int]] = [draw(min(4, longest)) for _ in range(N_CONTINUATIONS)]
    n_new = max(min(N_NEW_TOKENS, longest - len(openings[0])), 1)
    texts = [*HOSTILE_TEXTS, *MORE_TEXTS, *PROMPTS]
    texts += [text[at : at + MOST_CHARACTERS] for at in range(0, len(text), MOST_CHARACTERS)]
    texts = [tokenizer.normalize(text) for text in texts]
    begun = {text: [tokenizer.bos_id, *tokenizer.encode(text)] for text in texts}
    written = [prompt for prompt in PROMPTS if len(begun[prompt]) + n_new <= longest]
    ids = tokenizer.encode(text)
    befores, targets = _places(ids, tokenizer.bos_id, min(longest, SCORED_CONTEXT))
    asked = [*prompts, *befores]
    messages = chat.messages if chat else []
    letter = tokenizer.encode("a")[0]
    begun_with: list[list[int] | str] = [*openings, *written]
    questions = (texts, asked, begun_with, messages, n_new, context, config.vocab_size, letter)
    if process is None:
        answers = _in_own_process(file, *questions)
    else:
        answers = process.submit(ask, str(file), torch.get_num_threads(), *questions).result()
    ours = model.float().cpu()
    hidden = [ours.run_blocks(ours.embedding(torch.tensor([prompt])))[0][0, -1] for prompt in asked]
    own = ours.head(torch.stack(hidden))
    theirs = torch.stack([torch.from_numpy(logprobs) for logprobs in answers.logprobs])
    own_logprobs = own.double().log_softmax(dim=-1)
    scored = range(len(prompts), len(asked))
    lost = sum((own_logprobs[i, id_] - theirs[i, id_]).item() for i, id_ in zip(scored, targets, strict=True))
    tie = tie_of(own, bounds.tie)
    ends = {tokenizer.end_of_text, tokenizer.special[IM_END]}
    read = [*openings, *(begun[prompt] for prompt in written)]
    others = sum(
        is_other_continuation(ours, opening, [*opening, *new], n_new, frozenset(ends), tie)
        for opening, new in zip(read, answers.continuations, strict=True)
    )
    other_ids = sum(found != begun[text] for text, found in zip(texts, answers.ids, strict=True))
    if chat is not None:
        other_ids += answers.chat != chat.ids
    return LlamaCppParity(
        max_logit_difference=(own_logprobs - theirs).abs().max().item(),
        divergence=divergence(own, theirs).item(),
        tokenization_mismatches=other_ids,
        texts=len(texts) + (chat is not None),
        generation_mismatches=others,
        continuations=len(read),
        bits_per_byte_lost=lost / log(2) / len(targets) * len(ids) / len(text.encode()) if targets else None,
    )


def _places(ids: list[int], start: int, context: int) -> tuple[list[list[int]], list[int]]:
    """Up to N_SCORED tokens of a text, evenly spread: what stands before each, and the tokens.

    >>> _places([5, 6, 7], 0, 2)
    ([[0], [0, 5], [5, 6]], [5, 6, 7])
    """
    places = range(0, len(ids), -(-len(ids) // N_SCORED) or 1)
    whole = [start, *ids]
    return [whole[max(place + 1 - context, 0) : place + 1] for place in places], [ids[place] for place in places]


@dataclass(frozen=True)
class _Answers:
    ids: list[list[int]]  # of each text, with what it begins with
    chat: list[int]  # of the conversation
    logprobs: list[NDArray[np.float64]]  # (V,) after each prompt
    continuations: list[list[int]]  # of each opening, with the end of the text where it comes to one


_KEPT: list[Any] = []


def _in_own_process(file: Path, *questions: Any) -> _Answers:
    """What llama.cpp answers to `ask`. A bad file may abort the process that loads it."""
    if importlib.util.find_spec("xllamacpp") is None:
        raise UserError("wanted the package xllamacpp, it is not installed (make extras)")
    try:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            return process.submit(ask, str(file), torch.get_num_threads(), *questions).result()
    except (RuntimeError, OSError) as error:
        raise UserError(f"{file.name}: wanted a file that llama.cpp loads, {' '.join(str(error).split())}") from None


def ask(
    file: str,
    threads: int,
    texts: list[str],
    prompts: list[list[int]],
    openings: Sequence[list[int] | str],
    messages: list[dict[str, str]],
    n_new: int,
    context: int,
    vocab_size: int,
    letter: int,
) -> _Answers:
    """In the other process: a server of the file on a free port, and what it says."""
    import xllamacpp

    os.environ["GGML_NO_BACKTRACE"] = "1"  # or it has gdb look for seconds at how it came to abort
    setting = xllamacpp.CommonParams()
    setting.model.path, setting.port, setting.verbosity = file, 0, -1
    setting.n_parallel, setting.n_ctx, setting.warmup = 1, context, False
    setting.cpuparams.n_threads = setting.cpuparams_batch.n_threads = threads
    # Flash attention and a cache of 16 bits round as well; the file has no part in that.
    setting.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    setting.cache_type_k = setting.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    server = xllamacpp.Server(setting)
    # xllamacpp 2026.10 now and then waits for ever while a server is taken down: this one ends with its process.
    _KEPT.append(server)
    atexit.register(os._exit, 0)
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def post(route: str, body: dict[str, Any]) -> Any:
        body_bytes = json.dumps(body).encode()
        request = urllib.request.Request(f"{server.listening_address}{route}", body_bytes)  # noqa: S310 (our own server)
        with direct.open(request) as answer:
            return json.load(answer)

    greedy = {"temperature": 0.0, "cache_prompt": False, "return_tokens": True}

    def go_on(opening: list[int] | str) -> list[int]:
        tokens: list[int] = post("/completion", greedy | {"prompt": opening, "n_predict": n_new})["tokens"]
        return tokens

    def logprobs_after(prompt: list[int]) -> NDArray[np.float64]:
        found = np.full(vocab_size, np.nan)
        # Nothing is told where half a character or the end of the text is next; what is told is not changed by a bias.
        asked = {"prompt": prompt, "n_predict": 1, "n_probs": vocab_size, "logit_bias": [[letter, 1000.0]]}
        for token in post("/completion", greedy | asked)["completion_probabilities"][0]["top_logprobs"]:
            found[token["id"]] = token["logprob"]
        return found

    def tokenize(text: str, parse_special: bool) -> list[int]:
        asked = {"content": text, "add_special": True, "parse_special": parse_special}
        tokens: list[int] = post("/tokenize", asked)["tokens"]
        return tokens

    return _Answers(
        ids=[tokenize(text, parse_special=False) for text in texts],
        # As the server itself makes a prompt of messages: the template, and what every text begins with.
        chat=tokenize(post("/apply-template", {"messages": messages})["prompt"], parse_special=True)
        if messages
        else [],
        logprobs=[logprobs_after(prompt) for prompt in prompts],
        continuations=[go_on(opening) for opening in openings],
    )
