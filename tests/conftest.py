"""What several tests share: a small text, a tokenizer of it, models with drawn weights, an exported folder."""

import copy
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from ruamel.yaml import YAML

# How long an example takes depends on what else the machine does.
hypothesis.settings.register_profile("no deadline", deadline=None)
hypothesis.settings.load_profile("no deadline")

# A shell starts jobs in its background with Ctrl-C ignored, and the processes that tests interrupt would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

SMALL_TEXT = (
    "def walk(path):\n    return [name for name in path if name]\n\nThe river runs, the rain falls; 2024 déjà vu.\n"
)


@pytest.fixture(scope="session")
def small_tokenizer_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer.json of 320 tokens. Only to be read."""
    from llm.tokens.bpe import train_bpe

    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    train_bpe([SMALL_TEXT] * 4, 320).save(str(path))
    return path


@pytest.fixture(scope="session")
def tokenizer(small_tokenizer_file: Path) -> Any:
    """The small tokenizer, loaded."""
    from llm.tokens.tokenizer import Tokenizer

    return Tokenizer.load(small_tokenizer_file)


@pytest.fixture(scope="session")
def draw_gpt() -> Callable:
    """A maker of small models of 320 tokens; all weights are drawn, so that no block passes its input on as it is."""
    import torch

    from llm.model.config import ModelConfig
    from llm.model.gpt import GPT

    def draw(seed: int = 0, **shape: object) -> GPT:
        values = {"family": "qwen3", "d_model": 24, "n_layers": 2, "n_heads": 2, "n_kv_heads": 1, "d_ff": 40}
        values |= {"attention": "grouped", "positions": None, "dropout": 0.0}
        values |= {"rope_theta": 10000.0, "norm_eps": 1e-6, "tie_embeddings": True}
        gpt = GPT(ModelConfig(**(values | {"vocab_size": 320, "context_length": 48} | shape)))
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for weight in gpt.parameters():
                weight.normal_(1.0 if weight.ndim == 1 else 0.0, 0.2, generator=generator)
        return gpt

    return draw


@pytest.fixture(scope="session")
def exported_folder(tmp_path_factory: pytest.TempPathFactory, draw_gpt: Callable, small_tokenizer_file: Path) -> Path:
    """A language model as a Hugging Face folder. Only to be read."""
    from llm.export.hf.folder import write_folder

    folder = tmp_path_factory.mktemp("exported")
    write_folder(folder, draw_gpt(), small_tokenizer_file)
    return folder


@pytest.fixture
def plain_cpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """The CPU in float32 on one thread, whatever the machine could do better; what a stage finds is the same."""
    import torch

    from llm.core.device import Machine

    monkeypatch.setenv("GROUNDUP_DEVICE", "cpu")
    monkeypatch.setenv("GROUNDUP_DTYPE", "float32")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # small matrices are no quicker on more, and slow when others use them
    yield Machine.find()
    torch.set_num_threads(threads)


@pytest.fixture
def config() -> object:
    """A small shape in which no two axes are alike: heads are 10 wide, two query heads share a key head."""
    from llm.model.config import ModelConfig

    shape = {"d_model": 60, "n_layers": 2, "n_heads": 6, "n_kv_heads": 3, "d_ff": 43, "vocab_size": 97}
    options = {"family": "qwen3", "attention": "grouped", "positions": None, "dropout": 0.0, "rope_theta": 1000.0}
    return ModelConfig(**shape, **options, norm_eps=1e-6, tie_embeddings=False, context_length=17)


# Sections of params.yaml.
PARAMS = YAML(typ="safe", pure=True).load("""
prepare: {engine: local, subset_fraction: 1.0, max_document_bytes: 1000000}
clean: {control_characters: remove, min_chars: 1, max_chars: null, repetition: null, exact_duplicates: drop,
  near_duplicates: null}
tokenize: {kind: bpe, vocab_size: 300, train_bytes: 1000000, min_frequency: 1, keep_whitespace: true, pretrained: null,
  pattern: qwen2, dropout: 0.0, segmentations: 1}
sample: {context_length: 8, stride: 8, boundary: cross, align_to_documents: false, weights: {}, contamination_ngram: 3}
evaluate: {stride: 11, batch_size: 3, prompts: ["def "], sample_tokens: 13, temperature: 0.8, top_k: 7,
  quality: {texts: 7, prompt_tokens: 5, new_tokens: 9, temperature: 0.7}}
task: {base: base, data: rows.csv, encoding: null, split_column: split, group_column: null, on_error: fail,
  max_tokens: 40, method: {kind: full, rank: 2, alpha: 4.0, targets: [query, value, up, down], k: 1},
  training: {epochs: 1.0, batch_size: 8, learning_rates: [0.02], lr_search_fraction: 0.5, adamw_lr_ratio: 0.5,
    layerwise_lr_decay: 1.0, weight_decay: 0.0, max_grad_norm: 10.0, warmup_fraction: 0.1, decay_fraction: 0.5,
    n_evals: 2, early_stopping_patience: null}}
classify: {header: true, text_columns: [text], label_column: label, label_separator: null, min_rows_per_label: 1,
  class_weights: null, label_smoothing: 0.0, zero_shot: null}
instruct: {rows: {kind: prompt_completion, prompt: prompt, completion: completion}, loss_on: assistant,
  on_overflow: drop, packing: false}
dpo: {prompt_column: prompt, input_column: null, chosen_column: chosen, rejected_column: rejected, beta: 0.1}
""")


@pytest.fixture(scope="session")
def prepare_params() -> Callable:
    """A maker of the section `prepare`: sources, and what is changed of split, of the rules and of the rest."""
    from llm.corpus.params import PrepareParams

    def make(sources: list, split: dict | None = None, clean: dict | None = None, **rest: object) -> PrepareParams:
        split = {"method": "document", "val": 0.0, "test": 0.0} | (split or {})
        return PrepareParams(
            **(PARAMS["prepare"] | rest), sources=sources, split=split, clean=PARAMS["clean"] | (clean or {})
        )

    return make


@pytest.fixture(scope="session")
def tokenize_params() -> Callable:
    """A maker of the section `tokenize`."""
    from llm.tokens.params import TokenizeParams

    return lambda **changes: TokenizeParams(**(PARAMS["tokenize"] | changes))


@pytest.fixture(scope="session")
def evaluate_params() -> Callable:
    """A maker of the section `evaluate`."""
    from llm.evaluate.params import EvaluateParams

    return lambda **changes: EvaluateParams(**(PARAMS["evaluate"] | changes))


@pytest.fixture(scope="session")
def window_params() -> Callable:
    """A maker of the section `sample`."""
    from llm.tokens.params import WindowParams

    return lambda **changes: WindowParams(**(PARAMS["sample"] | changes))


@pytest.fixture
def write_windows_folder(window_params: Callable) -> Callable[..., Path]:
    """A writer of windows as the sample stage leaves them: documents of ids for each split, 0 ends a document."""
    import numpy as np

    from llm.tokens.windows import WindowsInfo, window_spans, write_info, write_stream, write_windows

    def write(
        folder: Path, documents: dict[str, list[list[int]]], vocab_size: int, context_length: int, **options: object
    ) -> Path:
        folder.mkdir(parents=True)
        sample = window_params(context_length=context_length, stride=context_length, **options)
        segmentations = [name for name in documents if name.startswith("train-")]
        for name in ("train", "val", "test", *segmentations):
            texts = documents.get(name, [])
            lengths = np.array([len(ids) for ids in texts], dtype=np.int64)
            ids = np.array([id_ for document in texts for id_ in document], dtype=np.int64)
            write_stream(folder / f"{name}.npy", [(ids, lengths)] if texts else [], lengths, 0, vocab_size)
            starts, counting = window_spans(lengths, sample)
            write_windows(folder / f"{name}.parquet", starts, counting, np.ones(len(starts), dtype=np.float32))
        info = WindowsInfo(
            vocab_size=vocab_size,
            end_of_text=0,
            pad=1,
            context_length=context_length,
            stride=context_length,
            boundary=sample.boundary,
            n_bytes={split: sum(map(len, documents.get(split, []))) for split in ("train", "val", "test")},
            segmentations=segmentations,
            lossless=True,
        )
        write_info(folder / "windows.json", info)
        return folder

    return write


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Small tensors are quicker on one thread, above all where other processes want the cores."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture
def write_corpus() -> Callable[..., Path]:
    """A writer of a corpus as the prepare stage leaves it: the documents of each split, as path and text."""
    from llm.core.tables import CORPUS, TableWriter
    from llm.corpus.clean import document_id

    def write(folder: Path, documents: dict[str, dict[str, str]]) -> Path:
        for split in ("train", "val", "test"):
            with TableWriter(folder / f"{split}.parquet", CORPUS) as table:
                for path, text in documents.get(split, {}).items():
                    row = {"doc_id": document_id(text), "source": "mine", "path": path, "text": text}
                    table.write(row | {"n_bytes": len(text.encode())})
        return folder

    return write


@pytest.fixture
def write_document_bits() -> Callable[..., None]:
    """A writer of what held-out documents cost each baseline, as the stage baselines leaves it, by split and name."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def write(path: Path, bits: dict[str, dict[str, list[float]]]) -> None:
        rows = [
            {"split": split, "doc_id": "any"} | dict(zip(by_name, costs, strict=True))
            for split, by_name in bits.items()
            for costs in zip(*by_name.values(), strict=True)
        ]
        columns = {"split": pa.string(), "doc_id": pa.string()} | {
            name: pa.float64() for by_name in bits.values() for name in by_name
        }
        pq.write_table(pa.Table.from_pylist(rows, schema=pa.schema(columns)), path)

    return write


@pytest.fixture(scope="session")
def make_task() -> Callable:
    """A small task of a kind; `changes` name keys in full: make_task("classify", {"training.epochs": 2.0})."""

    from pydantic import TypeAdapter

    from llm.finetune.params import Task

    def make(kind: str, changes: dict[str, Any] | None = None) -> Task:
        content = copy.deepcopy(PARAMS["task"] | PARAMS[kind] | {"kind": kind})
        for key, value in (changes or {}).items():
            *sections, last = key.split(".")
            section = content
            for name in sections:
                section = section[name]
            assert last in section, key
            section[last] = value
        return TypeAdapter(Task).validate_python(content)

    return make


@pytest.fixture(scope="session")
def repository_environment() -> dict[str, str]:
    """The environment of this process without settings of DVC, Git and Python, but with an author."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DVC_", "GIT_", "PYTHON"))}
    author = {f"GIT_{role}_{key}": "test@example.org" for role in ("AUTHOR", "COMMITTER") for key in ("NAME", "EMAIL")}
    return kept | author | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


@pytest.fixture(scope="session")
def run_in_repository(repository_environment: dict[str, str]) -> Callable[..., str]:
    """Runs commands of Git and DVC in a folder; returns what the last one printed."""

    def run(folder: Path, *commands: str) -> str:
        for command in commands:
            done = subprocess.run(
                command.split(), cwd=folder, env=repository_environment, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium without a window: the system's own, or the one that Playwright keeps.

    For one module: as long as Playwright runs, no other test can have an event loop.
    """
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed (make extras)")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with playwright.sync_playwright() as running:
        executable = found or running.chromium.executable_path
        if not Path(executable).exists():
            pytest.skip("Chromium is not installed (playwright install chromium, or the system's package)")
        # In a container the browser may not create a sandbox of its own; the page is ours.
        opened = running.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield opened
        opened.close()
