"""Check that an exported model is the trained one: every family through every client, in a Markdown table.

    python -m bench.parity            all of it, about five minutes
    python -m bench.parity --quick    one model of each kind

Small models are trained on modules of the standard library: a base model, an instruction-tuned one, a classifier. Each
is written in every format and compared in the client of that format. The second figure counts the prompts that the
client continues with our tokens under greedy decoding: 20 of random tokens, and 5 texts in clients with a tokenizer. A
second table imports models that Transformers saved, and exports them twice to the same bytes. Exits with 1 if a
difference is larger than rounding explains.
"""

import argparse
import importlib.util
import itertools
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from llm.export.gguf import FILES as GGUF
from llm.export.gguf import write_gguf
from llm.export.hf.classifier import ClassifierInfo, write_classifier
from llm.export.hf.folder import FILES, read_folder, write_folder
from llm.export.llama_cpp import compare_with_llama_cpp
from llm.export.onnx import compare_with_onnxruntime, write_onnx
from llm.export.verify import (
    Parity,
    compare_classifier_with_transformers,
    compare_with_transformers,
    silence_transformers,
    tie_of,
)
from llm.finetune.shared.chat import TEMPLATE
from llm.model.classifier import Classifier
from llm.model.config import ModelConfig
from llm.model.functions import next_token_loss
from llm.model.gpt import GPT
from llm.report.tables import Table
from llm.tokens.bpe import train_bpe
from llm.tokens.special import IM_END, IM_START
from llm.tokens.tokenizer import Tokenizer

SEED = 1
N_BYTES, HELD_OUT = 600_000, 40_000  # of text
N_STEPS, N_CHAT_STEPS, BATCH, RATE = 60, 20, 8, 3e-3
SHAPE: dict[str, Any] = {"attention": "grouped", "positions": None, "d_model": 64, "n_layers": 2, "n_heads": 4}
SHAPE |= {"d_ff": 128, "dropout": 0.0, "rope_theta": 10000.0, "norm_eps": 1e-6}
SHAPE |= {"vocab_size": 1024, "context_length": 128}
LABELS = ["one", "two", "three"]
NONE = "–"


@dataclass(frozen=True)
class Cell:
    """A figure of a client, and whether it agrees with our model."""

    text: str
    agrees: bool


Row = tuple[list[str], bool]  # texts of cells, and whether all clients agree


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.parity", allow_abbrev=False)
    parser.add_argument("--quick", action="store_true", help="one model of each kind")
    args = parser.parse_args()
    for name in ("xllamacpp", "onnxruntime", "onnxscript"):
        if importlib.util.find_spec(name) is None:
            raise SystemExit(f"expected the package {name}, it is not installed (make extras)")
    torch.set_num_threads(1)
    silence_transformers()
    began = time.perf_counter()
    text, held_out = read_library()
    with tempfile.TemporaryDirectory() as place, ProcessPoolExecutor(1, get_context("spawn")) as process:
        file = Path(place) / "tokenizer.json"
        train_bpe([text], SHAPE["vocab_size"]).save(str(file))
        bench = Bench(Tokenizer.load(file), file, text, held_out, Path(place), process)
        variants = list(shapes())[-1 if args.quick else 0 :]
        rows = [row for name, shape in tqdm(variants, unit=" models") for row in bench.try_shape(name, shape)]
        imports = [] if args.quick else list(bench.try_imports())
    print_tables(rows, imports, len(held_out.encode()))
    print(f"{time.perf_counter() - began:.0f} s, torch {torch.__version__}; {clients()}")
    if wrong := [" ".join(cells[:4]) for cells, agrees in [*rows, *imports] if not agrees]:
        print(f"not the same: {', '.join(wrong)}")
        sys.exit(1)


def print_tables(rows: list[Row], imports: list[Row], n_bytes: int) -> None:
    print(
        f"{SHAPE['n_layers']} layers of {SHAPE['d_model']}, vocabulary {SHAPE['vocab_size']:,}, contexts of "
        f"{SHAPE['context_length']} tokens; ids over {n_bytes:,} bytes and hostile texts."
    )
    print("Transformers and ONNX: the largest difference of logits. GGUF: of log-probabilities, in nats.\n")
    columns = [
        "family",
        "embeddings",
        "queries",
        "kind",
        "Transformers",
        *GGUF,
        "q8_0: bits a byte lost",
        "onnx",
        "ids",
    ]
    print(Table(columns, [cells for cells, _ in rows]), end="\n\n")
    if imports:
        columns = ["saved by Transformers", "embeddings", "saved as", "files", "largest difference of logits"]
        print(Table([*columns, "out, in and out again"], [cells for cells, _ in imports]), end="\n\n")


def clients() -> str:
    from importlib.metadata import version

    return ", ".join(f"{name} {version(name)}" for name in ("transformers", "xllamacpp", "onnxruntime"))


def read_library() -> tuple[str, str]:
    """Return modules of the standard library as one text, and its held-out end."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    whole, parts = 0, []
    for file in files:
        parts.append(file.read_text(encoding="utf-8"))
        whole += len(parts[-1])
        if whole > N_BYTES:
            break
    text = "".join(parts)
    return text[:-HELD_OUT], text[-HELD_OUT:]


def shapes() -> Iterator[tuple[list[str], dict[str, Any]]]:
    """Yield the name of a row and its shape; GPT-2 has no grouped queries."""
    for family, tied, n_kv_heads in itertools.product(("gpt2", "llama", "qwen2", "qwen3"), (False, True), (4, 2)):
        if family != "gpt2" or n_kv_heads == SHAPE["n_heads"]:
            words = ["tied" if tied else "untied", "grouped" if n_kv_heads < SHAPE["n_heads"] else "each its own"]
            yield [family, *words], SHAPE | {"family": family, "tie_embeddings": tied, "n_kv_heads": n_kv_heads}


@dataclass(frozen=True)
class Bench:
    """The text, its tokenizer, and places for models."""

    tokenizer: Tokenizer
    file: Path
    text: str
    held_out: str
    place: Path
    process: ProcessPoolExecutor  # in which llama.cpp runs

    def try_shape(self, name: list[str], shape: dict[str, Any]) -> Iterator[Row]:
        """Yield a row for each kind of model, with a cell for each client."""
        model = GPT(ModelConfig(**shape), torch.Generator().manual_seed(SEED))
        train(model, self.tokenizer.encode(self.text), N_STEPS)
        yield row_of([*name, "base"], self.try_formats(model, None))
        yield row_of([*name, "classifier"], self.try_classifier(model))
        train(model, conversations(self.tokenizer, self.text[: N_BYTES // 10]), N_CHAT_STEPS)
        yield row_of([*name, "instruction"], self.try_formats(model, TEMPLATE))

    def try_formats(self, model: GPT, template: str | None) -> list[Cell]:
        """Return a cell for each column of a language model, with a chat template if one is given."""
        folder = Path(tempfile.mkdtemp(dir=self.place))
        write_folder(folder, model, self.file, chat_template=template)
        found = [compare_with_transformers(folder, model, SEED, self.held_out)]
        for format_ in GGUF:
            path = write_gguf(folder / "gguf", model, self.file, format_, chat_template=template)
            clients = (model, self.tokenizer, SEED, self.held_out, self.process)
            found.append(compare_with_llama_cpp(path, *clients))
        lost = found[-1].bits_per_byte_lost  # Q8_0's
        onnx = compare_with_onnxruntime(write_onnx(folder / "onnx", model), model, SEED)
        mismatches = sum(of.tokenization_mismatches for of in found)
        return [*map(figure, found), Cell(f"{lost:z.5f}", agrees=True), figure(onnx), same_ids(mismatches)]

    def try_classifier(self, model: GPT) -> list[Cell]:
        """Return the cells of a classifier with random scores, which only Transformers supports."""
        folder, classifier = Path(tempfile.mkdtemp(dir=self.place)), Classifier(model, len(LABELS))
        with torch.no_grad():
            classifier.score.weight.normal_(generator=torch.Generator().manual_seed(SEED))
        info = ClassifierInfo(LABELS, ["text"], None, model.config.context_length)
        write_classifier(folder, classifier, self.file, info)
        found = compare_classifier_with_transformers(folder, classifier, self.tokenizer, info, SEED, self.held_out)
        others = [Cell(NONE, agrees=True)] * (len(GGUF) + 2)
        return [Cell(f"{found.max_difference:.1e}", found.agrees), *others, same_ids(found.tokenization_mismatches)]

    def try_imports(self) -> Iterator[Row]:
        """Yield a row for each random model of Transformers, and whether it is the same model here."""
        for name, tied, saved_as in itertools.product(
            ("GPT2", "Llama", "Qwen2", "Qwen3", "Mistral"), (False, True), ("float32", "bfloat16, in shards")
        ):
            yield try_import(name, tied, saved_as, self.file, Path(tempfile.mkdtemp(dir=self.place)))


def row_of(name: list[str], cells: list[Cell]) -> Row:
    return [*name, *(cell.text for cell in cells)], all(cell.agrees for cell in cells)


def train(model: GPT, ids: list[int], n_steps: int) -> None:
    """Train with AdamW on windows of a stream of ids, drawn from a fixed seed."""
    stream, drawn = torch.from_numpy(np.array(ids)), torch.Generator().manual_seed(SEED)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    length = model.config.context_length
    for _ in range(n_steps):
        starts = torch.randint(0, len(stream) - length, (BATCH, 1), generator=drawn)
        window = stream[starts + torch.arange(length + 1)]
        loss = next_token_loss(model(window[:, :-1]), window[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    model.eval()


def conversations(tokenizer: Tokenizer, text: str) -> list[int]:
    """Return a stream of conversations: the user says a line, the answer is the next line."""
    start, end, line_break = tokenizer.special[IM_START], tokenizer.special[IM_END], tokenizer.encode("\n")
    lines = [line for line in text.splitlines() if line.strip()]
    ids: list[int] = []
    for asked, answered in itertools.pairwise(lines):
        for role, content in (("user", asked), ("assistant", answered)):
            ids += [start, *tokenizer.encode(f"{role}\n{content}"), end, *line_break]
    return ids


def figure(found: Parity) -> Cell:
    """Return a cell with the largest difference and the number of equal continuations."""
    n_equal = found.continuations - found.generation_mismatches
    return Cell(f"{found.max_difference:.1e}, {n_equal}", found.agrees)


def same_ids(other: int) -> Cell:
    return Cell(f"{other} texts differ" if other else "equal", other == 0)


@torch.no_grad()
def try_import(name: str, tied: bool, saved_as: str, file: Path, folder: Path) -> Row:
    import transformers

    made = draw_theirs(name, tied)
    if "shards" in saved_as:
        made.bfloat16().save_pretrained(folder / "base", max_shard_size="100KB")
    else:
        made.save_pretrained(folder / "base")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32).eval()
    ours = read_folder(folder / "base")
    drawn = torch.Generator().manual_seed(SEED)
    ids = torch.randint(0, SHAPE["vocab_size"], (4, SHAPE["context_length"]), generator=drawn)
    logits: Tensor = theirs(ids).logits
    difference = (ours(ids) - logits).abs().max().item()
    write_folder(folder / "out", ours, file)
    write_folder(folder / "again", read_folder(folder / "out"), folder / "out/tokenizer.json")
    is_same = all((folder / "out" / path).read_bytes() == (folder / "again" / path).read_bytes() for path in FILES)
    n_files = len(list((folder / "base").glob("*.safetensors")))
    cells = [name, "tied" if tied else "untied", saved_as, str(n_files), f"{difference:.1e}"]
    is_near = difference <= tie_of(logits, 1e-4)
    return [*cells, "the same bytes" if is_same else "other bytes"], is_same and is_near


def draw_theirs(name: str, tied: bool) -> Any:
    """Return a small model of Transformers with random weights so large that its predictions differ."""
    import transformers

    common = {"vocab_size": SHAPE["vocab_size"], "tie_word_embeddings": tied, "initializer_range": 0.2}
    common |= {"bos_token_id": 0, "eos_token_id": 0}
    if name == "GPT2":
        shape = {"n_positions": SHAPE["context_length"], "n_embd": 60, "n_layer": 2, "n_head": 3, "n_inner": 130}
    else:
        shape = {"hidden_size": 60, "intermediate_size": 130, "num_hidden_layers": 2, "num_attention_heads": 6}
        shape |= {"num_key_value_heads": 2, "max_position_embeddings": SHAPE["context_length"], "head_dim": 10}
    torch.manual_seed(SEED)  # Transformers draws weights from the global generator
    return getattr(transformers, f"{name}ForCausalLM" if name != "GPT2" else "GPT2LMHeadModel")(
        getattr(transformers, f"{name}Config")(**common, **shape)
    )


if __name__ == "__main__":
    main()
