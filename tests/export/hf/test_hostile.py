"""A malicious or damaged folder is one line and exit 2, and none of its code is run."""

import json
import pickle
import shutil
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from llm.core import stage
from llm.core.stage import Input, Output
from llm.export.hf.base import open_base

CONFIG, TOKENIZER, WEIGHTS = "config.json", "tokenizer.json", "model.safetensors"


class Bomb:
    """An object that writes a file when it is unpickled."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[..., object], tuple[Path, str]]:
        return Path.write_text, (self.trace, "run")


def main(base: Input = Path("base"), grown: Output = Path("out/grown.json")) -> None:
    """Open a folder as finetuning and pretraining do before they train."""
    open_base(base, grown)[1]()


def config(**values: object):
    """Change keys of config.json."""
    return lambda folder: (folder / CONFIG).write_text(json.dumps(json.loads((folder / CONFIG).read_text()) | values))


def write(name: str, content: bytes):
    """Replace a file."""
    return lambda folder: (folder / name).write_bytes(content)


def weights(**tensors: torch.Tensor):
    """Replace or add tensors."""
    return lambda folder: save_file(load_file(folder / WEIGHTS) | tensors, folder / WEIGHTS)


def header(at: int, flip: int):
    """Flip a bit of the weights' header."""

    def flip_bit(folder: Path) -> None:
        content = bytearray((folder / WEIGHTS).read_bytes())
        content[at] ^= flip
        (folder / WEIGHTS).write_bytes(content)

    return flip_bit


def index(file: str):
    """Have an index name `file`."""

    def write_index(folder: Path) -> None:
        (folder / WEIGHTS).rename(folder.parent / "stolen.safetensors")
        places = {"model.norm.weight": file.format(parent=folder.parent)}
        (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": places}))

    return write_index


def merges(*pairs: object):
    """Replace the tokenizer's merges."""

    def write_merges(folder: Path) -> None:
        content = json.loads((folder / TOKENIZER).read_text())
        content["model"]["merges"] = list(pairs)
        (folder / TOKENIZER).write_text(json.dumps(content))

    return write_merges


HUGE = json.dumps({"model.norm.weight": {"dtype": "F32", "shape": [1 << 38], "data_offsets": [0, 1 << 40]}}).encode()
NAN = torch.full((24,), float("nan"))
HOSTILE = {
    "pickles instead of weights": (lambda folder: (folder / WEIGHTS).unlink(), ["pytorch_model.bin", "not opened"]),
    "the header's length flipped": (header(3, 0x80), [WEIGHTS]),
    "a header of a terabyte": (write(WEIGHTS, struct.pack("<Q", len(HUGE)) + HUGE), [WEIGHTS]),
    "a config of a terabyte": (config(hidden_size=10**6, vocab_size=10**6), ["(320, 24)", "1000000"]),
    "a wider config": (config(intermediate_size=1 << 30), ["intermediate_size", str(1 << 24)]),
    "a million layers": (config(num_hidden_layers=10**6), ["num_hidden_layers", "2 as in the weights"]),
    "an endless context": (config(max_position_embeddings=10**12), ["max_position_embeddings"]),
    "an endless number": (write(CONFIG, b'{"hidden_size": ' + b"9" * 5000 + b"}"), [CONFIG, "digits"]),
    "a number of 4,000 digits": (config(hidden_size=10**4000), ["hidden_size"]),
    "a config too deep": (write(CONFIG, b'{"a": ' * 50_000), [CONFIG]),
    "a key of many lines": (config(hidden_size={"a\n\x1b[2Jb": 1}), ["hidden_size"]),
    "an index that leads up": (index("../stolen.safetensors"), ["index.json", "../stolen.safetensors"]),
    "a name of many lines": (weights(**{"evil\n\x1b[2J": NAN}), ["evil", "is not a weight"]),
    "a thousand names": (weights(**{f"evil.{n}": torch.ones(1) for n in range(1000)}), ["evil.0", "and 995 more"]),
    "a merge of no tokens": (merges(["evil", "no"]), [TOKENIZER]),
    "a tokenizer too deep": (write(TOKENIZER, b"[" * 100_000), [TOKENIZER]),
    "a tokenizer of bytes": (write(TOKENIZER, b"\xff\xfe\x00"), [TOKENIZER]),
}


@pytest.fixture
def folder(tmp_path, exported_folder) -> Path:
    """A valid folder, with pickles and code beside its weights."""
    folder = shutil.copytree(exported_folder, tmp_path / "base")
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "model.ckpt"):
        (folder / name).write_bytes(pickle.dumps(Bomb(tmp_path / "trace")))
    (folder / "modeling_evil.py").write_text(f"open({str(tmp_path / 'trace')!r}, 'w')\n")
    return folder


def test_files_beside_the_weights_are_not_opened(folder, tmp_path):
    assert open_base(folder, tmp_path / "grown.json")[1]().config.d_model == 24
    assert not (tmp_path / "trace").exists()
    pickle.loads((folder / "pytorch_model.bin").read_bytes())  # noqa: S301 (our own)
    assert (tmp_path / "trace").exists()  # so that the check above can fail


@pytest.mark.parametrize(("change", "words"), HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_folder_is_one_line_and_exit_2(folder, tmp_path, monkeypatch, capsys, change, words):
    change(folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["hostile", "--base", str(folder), "--grown", "out/grown.json"])
    with pytest.raises(SystemExit) as caught:
        stage.run(main)
    assert caught.value.code == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and line.strip().isprintable() and len(line) < 1500
    assert [word for word in words if word not in line] == []
    assert not (tmp_path / "trace").exists()
    assert not (tmp_path / "out").exists()
