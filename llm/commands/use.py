"""Commands that use a model, and look inside."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from llm.commands import options as opt
from llm.core.errors import UserError


def generate(
    prompt: Annotated[str, Argument(help="The text to continue.")],
    model: opt.ModelFolder = opt.EXPORT,
    tokenizer: opt.TokenizerFile = opt.TOKENIZER,
    max_tokens: opt.MaxTokens = 100,
    temperature: opt.Temperature = 0.8,
    top_k: Annotated[int, Option(min=1, help="Sample from the K most probable tokens.")] = 50,
    top_p: opt.TopP = None,
    min_p: Annotated[float | None, Option(min=0, max=1, help="Minimum probability relative to the highest.")] = None,
    repetition_penalty: Annotated[float, Option(min=1, help="Above 1, tokens of the context are less probable.")] = 1.0,
    stop: Annotated[list[str] | None, Option(help="Stop before this text; can be repeated.")] = None,
    seed: opt.Seed = 1,
) -> None:
    """Continue a text."""
    import torch

    from llm.export.hf.base import open_model
    from llm.model import generate as decoding
    from llm.model.text_stream import stream_text

    for text in stop or ():
        _check_text("--stop", text)
    gpt, tokens = open_model(model, tokenizer)
    generator = torch.Generator().manual_seed(seed)
    choose = decoding.sampler(decoding.SamplingParams(temperature, top_k, top_p, min_p), generator)
    ids = decoding.generate(gpt, tokens.prompt(prompt), max_tokens, choose, tokens.eos_ids, repetition_penalty)
    print(prompt, end="")
    for piece in stream_text(ids, tokens.decode, tuple(stop or ())):
        print(piece, end="", flush=True)
    print()


def chat(
    folder: Annotated[Path, Argument(help="A Hugging Face folder of an instruction-tuned model.")],
    message: Annotated[str | None, Argument(help="Answer this message only; by default, one per line.")] = None,
    temperature: opt.Temperature = 0.8,
    top_p: opt.TopP = None,
    seed: opt.Seed = 1,
    max_tokens: opt.MaxTokens = 200,
    system: Annotated[str | None, Option(help="The system message.")] = None,
) -> None:
    """Chat with a model in the terminal; a pipe is read line by line."""
    from llm.serve import terminal

    if message is not None:
        _check_text("MESSAGE", message.strip())
    options = terminal.GenerationOptions(temperature, top_p, max_tokens, seed, system)
    terminal.chat(folder, options, sys.stdin, sys.stdout, message)


def _check_text(option: str, text: str) -> None:
    if not text:
        raise UserError(f"{option}: expected a text, got an empty one")


def serve(
    folder: Annotated[Path, Argument(help="A Hugging Face folder, such as models/finetuned/docstring.")] = opt.EXPORT,
    port: Annotated[int, Option(min=0, max=65535, help="0 takes a free port, which is printed.")] = 8000,
    slots: Annotated[int, Option(min=1, max=4096, help="Sequences decoded in parallel; others wait.")] = 32,
    host: Annotated[str, Option(help="The address to listen on.")] = "127.0.0.1",
    public: Annotated[bool, Option("--public", help="Allow a host that other machines can reach.")] = False,
) -> None:
    """Serve a model over HTTP with the API of OpenAI: completions, chat completions, models."""
    from llm.serve.run import serve as serve_folder

    serve_folder(folder, host, port, slots, public)


def predict(
    folder: Annotated[Path, Argument(help="A classifier, such as models/finetuned/library.")],
    file: Annotated[Path, Argument(help="Rows with texts: .csv, .tsv, .jsonl, .json or .parquet, of any size.")],
    out: Annotated[Path | None, Option(help="Output file; FILE.predictions beside the file by default.")] = None,
    text: opt.TextColumns = None,
    every_label: Annotated[bool, Option("--all", help="Add the probability of each label.")] = False,
    header: opt.Header = True,
    encoding: opt.Encoding = None,
) -> None:
    """Add a finetuned classifier's predictions to the rows of a file."""
    from llm.core.device import Machine
    from llm.finetune.classify.predict import predict_file

    found = predict_file(
        folder, file, out, text or [], Machine.find(), every_label=every_label, header=header, encoding=encoding
    )
    without = f", {found.without_text:,} of them without text and prediction" if found.without_text else ""
    print(f"{found.out}: {found.rows:,} rows{without}")
    if found.encoding:
        print(f"{file}: detected the encoding {found.encoding}; --encoding sets another")


def page(
    folder: Annotated[Path, Argument(help="A Hugging Face folder, such as models/finetuned/NAME.")] = opt.EXPORT,
    output: Annotated[Path | None, Option(help="The HTML file; pages/NAME.html by default.")] = None,
    text: opt.CorpusTable = opt.TEST,
    max_bytes: Annotated[int | None, Option(min=1, help="Refuse a larger page; 60 MB by default.")] = None,
    params: opt.ParamsFile = opt.PARAMS,
) -> None:
    """Write one HTML file with the whole model, which runs in a browser, offline.

    It begins with rows of the task's test split, or where params.yaml has no such task with held-out text.
    """
    from llm.finetune.shared.chat import TEMPLATE
    from llm.page.build import MAX_BYTES, build_page
    from llm.page.finetuned import task_passages
    from llm.page.passages import read_passages

    name = folder.resolve().name
    passages = task_passages(name, params) if params.exists() else []
    if not passages and text.exists():
        passages, note = [[passage] for passage in read_passages(text)], f"no task {name} in {params}: text of {text}"
    else:
        note = f"rows of the test split of {name}" if passages else f"no passages: no task {name}, and no {text}"
    content, figures = build_page(folder, name, passages, max_bytes or MAX_BYTES, TEMPLATE)
    target = output or Path("pages") / f"{name}.html"  # where the links to docs/ lead
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(content, encoding="utf-8")
    print(f"{target}: {figures['weights']:,} weights, {figures['bytes'] / 1e6:.1f} MB; begins with {note}")


def push(
    folder: Annotated[Path, Argument(help="An export: models/export, or models/finetuned/NAME.")],
    repo: Annotated[str, Argument(help="OWNER/NAME on the Hugging Face Hub.")],
    private: Annotated[bool, Option("--private", help="Create a private repository.")] = False,
    revision: Annotated[str, Option(help="The branch; created if missing.")] = "main",
    message: Annotated[str | None, Option(help="The commit message.")] = None,
    yes: Annotated[bool, Option("--yes", help="Do not ask for confirmation.")] = False,
    converted: opt.Converted = None,
    card: Annotated[Path | None, Option(help="Its card, such as models/cards/NAME/README.md.")] = None,
) -> None:
    """Upload an export to the Hugging Face Hub, after listing the files."""
    from llm.export import push as hub

    files = hub.files_to_push(folder, converted, card)
    print(hub.describe_upload(files, repo, private=private, revision=revision))
    if not yes and not sys.stdin.isatty():
        raise UserError("--yes: expected without a terminal to confirm in; nothing was uploaded")
    if not yes:
        typer.confirm("Upload?", abort=True)
    print(hub.push(files, repo, private=private, revision=revision, message=message))


def neighbours(
    word: Annotated[str, Argument(help="A word, case-sensitive.")],
    model: opt.ModelFolder = opt.EXPORT,
    tokenizer: opt.TokenizerFile = opt.TOKENIZER,
    top: Annotated[int, Option(min=1, help="Number of neighbors.")] = 10,
) -> None:
    """List the tokens whose embeddings have the highest cosine similarity to a word's."""
    from llm.export.hf.base import open_model
    from llm.model.embeddings import nearest

    _check_text("WORD", word)
    gpt, tokens = open_model(model, tokenizer)
    # Inside a text a word mostly begins with its space: that is another token, with another embedding.
    spellings = [tokens.encode(text) for text in (word, f" {word}")]
    found = list(dict.fromkeys(ids[0] for ids in spellings if len(ids) == 1))
    if not found:
        parts = " ".join(repr(tokens.decode([token])) for token in spellings[0])
        print(f"{word!r} is {len(spellings[0])} tokens: {parts}; the neighbors are of the last one")
        found = spellings[0][-1:]
    for token in found:
        print(f"{tokens.decode([token])!r}, id {token}")
        for other, cosine in nearest(gpt.embedding.weight.detach(), token, top):
            print(f"  {cosine:6.3f}  {tokens.decode([other])!r}")


def windows(
    show: Annotated[int, Option(min=1, help="Number of input and target rows.")] = 5,
    split: Annotated[str, Option(help="train, val, test, or a segmentation such as train-1.")] = "train",
    window: Annotated[int, Option(min=0, help="Number of the window, from 0.")] = 0,
    folder: Annotated[Path, Option(help="The windows of the stage sample.")] = Path("data/windows"),
    tokenizer: Annotated[Path, Option(help="A tokenizer.json.")] = opt.TOKENIZER,
) -> None:
    """Show training examples: rows of input and target, as ids and as text."""
    from llm.tokens.tokenizer import Tokenizer
    from llm.tokens.windows import read_info, read_windows, window_rows

    info, found = read_info(folder), read_windows(folder, split)
    if window >= len(found.starts):
        raise UserError(f"--window: expected less than the {len(found.starts)} windows of {split}, got {window}")
    print(f"{split}: {len(found.starts):,} windows of up to {info.context_length} tokens, stride {info.stride}")
    print(f"window {window} begins at token {found.starts[window]:,} of {len(found.stream):,}")
    print(*window_rows(found, window, show, Tokenizer.load(tokenizer)), sep="\n")
