"""A folder of weights that somebody made to do harm, or that a disk broke: one line, exit 2, and nothing is run."""

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

PICKLES = ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "model.ckpt")


class Bomb:
    """What leaves a file behind when it is unpickled."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[..., object], tuple[Path, str]]:
        return Path.write_text, (self.trace, "run")


def main(base: Input, grown: Output) -> None:
    """What finetuning and pretraining do with a folder before they train."""
    open_base(base, grown)[1]()


def change(name: str, **values: object) -> Callable[[Path], object]:
    """Other values in a JSON file."""
    return lambda folder: (folder / name).write_text(json.dumps(json.loads((folder / name).read_text()) | values))


def write(name: str, content: bytes) -> Callable[[Path], object]:
    """Another file in the place of one."""
    return lambda folder: (folder / name).write_bytes(content)


def weights(**tensors: torch.Tensor) -> Callable[[Path], None]:
    """Other tensors, by name."""

    def replace(folder: Path) -> None:
        save_file(load_file(folder / "model.safetensors") | tensors, folder / "model.safetensors")

    return replace


def header(at: int, flip: int) -> Callable[[Path], None]:
    """A bit of the header that is another one."""

    def flip_bit(folder: Path) -> None:
        content = bytearray((folder / "model.safetensors").read_bytes())
        content[at] ^= flip
        (folder / "model.safetensors").write_bytes(content)

    return flip_bit


def cut(share: float) -> Callable[[Path], None]:
    """A file that ends early."""

    def shorten(folder: Path) -> None:
        content = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(content[: int(len(content) * share)])

    return shorten


def index(file: str) -> Callable[[Path], None]:
    """Shards that lie where `file` says."""

    def write_index(folder: Path) -> None:
        (folder / "model.safetensors").rename(folder.parent / "stolen.safetensors")
        places = {"model.norm.weight": file.format(parent=folder.parent)}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))

    return write_index


def merges(*pairs: object) -> Callable[[Path], None]:
    """A tokenizer with these merges alone."""

    def write_merges(folder: Path) -> None:
        content = json.loads((folder / "tokenizer.json").read_text())
        content["model"]["merges"] = list(pairs)
        (folder / "tokenizer.json").write_text(json.dumps(content))

    return write_merges


def without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


LYING = json.dumps({"model.norm.weight": {"dtype": "F32", "shape": [1 << 38], "data_offsets": [0, 1 << 40]}}).encode()
NAN = torch.full((24,), float("nan"))
CONFIG, TOKENIZER, WEIGHTS = "config.json", "tokenizer.json", "model.safetensors"
HOSTILE = {
    "pickles in the place of weights": (without_weights, ["safetensors", "pytorch_model.bin", "not opened"]),
    "a pickle named as weights": (write(WEIGHTS, pickle.dumps([1])), [WEIGHTS]),
    "weights cut in the header": (cut(0.01), [WEIGHTS]),
    "weights cut at the end": (cut(0.99), [WEIGHTS]),
    "the header's length flipped": (header(3, 0x80), [WEIGHTS]),
    "the header's first letter flipped": (header(8, 0x01), [WEIGHTS]),
    "a header of a terabyte": (write(WEIGHTS, struct.pack("<Q", len(LYING)) + LYING), [WEIGHTS]),
    "a config of a terabyte": (change(CONFIG, hidden_size=10**6, vocab_size=10**6), ["vocab_size", "320"]),
    "a wide config": (change(CONFIG, intermediate_size=1 << 30), ["intermediate_size", "40"]),
    "a billion layers": (change(CONFIG, num_hidden_layers=10**9), ["num_hidden_layers", "2"]),
    "an endless context": (change(CONFIG, max_position_embeddings=10**12), ["max_position_embeddings"]),
    "an endless number": (write(CONFIG, b'{"hidden_size": ' + b"9" * 5000 + b"}"), [CONFIG, "digits"]),
    "a number of 4,000 digits": (change(CONFIG, hidden_size=10**4000), ["hidden_size", "at most"]),
    "heads of 4,000 digits": (change(CONFIG, num_attention_heads=10**4000), ["num_attention_heads"]),
    "key heads of 4,000 digits": (change(CONFIG, num_key_value_heads=10**4000), ["num_key_value_heads"]),
    "a base of 4,000 digits": (change(CONFIG, rope_theta=10**4000, rope_parameters=None), ["rope_theta"]),
    "a number beyond floats": (write(CONFIG, b'{"rms_norm_eps": 1e999}'), ["architectures"]),
    "a config that is a list": (write(CONFIG, b"[]"), [CONFIG, "object"]),
    "a config too deep": (write(CONFIG, b'{"a": ' * 50_000), [CONFIG]),
    "a config that is cut": (write(CONFIG, b'{"architectures": ["Qwen3'), [CONFIG]),
    "a key of many lines": (change(CONFIG, hidden_size={"a\n\x1b[2Jb": 1}), ["hidden_size"]),
    "code of its own": (change(CONFIG, auto_map={"AutoModelForCausalLM": "modeling_evil.Evil"}), ["auto_map"]),
    "another architecture": (change(CONFIG, architectures=["EvilForCausalLM"]), ["architectures", "EvilForCausalLM"]),
    "an index that leads up": (index("../stolen.safetensors"), ["index.json", "../stolen.safetensors"]),
    "an index that leads away": (index("{parent}/stolen.safetensors"), ["index.json", "/stolen.safetensors"]),
    "an index of pickles": (index("pytorch_model.bin"), ["index.json", "pytorch_model.bin"]),
    "an index of nothing": (index("gone.safetensors"), ["index.json", "gone.safetensors"]),
    "weights that are no numbers": (weights(**{"model.norm.weight": NAN}), ["model.norm.weight", "NaN"]),
    "a weight without a number": (weights(**{"model.norm.weight": torch.ones(0, 9)}), ["model.norm.weight"]),
    "a name of many lines": (weights(**{"evil\n\x1b[2J": NAN}), ["evil", "no part of"]),
    "a thousand names": (weights(**{f"evil.{n}": torch.ones(1) for n in range(1000)}), ["evil.0", "and 995 more"]),
    "a merge of what is no token": (merges(["evil", "no"]), [TOKENIZER]),
    "a merge of one part": (merges(["a"]), [TOKENIZER]),
    "a merge that is a number": (merges(3), [TOKENIZER]),
    "a tokenizer that is cut": (write(TOKENIZER, b'{"version": "1.0"'), [TOKENIZER]),
    "a tokenizer too deep": (write(TOKENIZER, b"[" * 100_000), [TOKENIZER]),
    "a tokenizer of bytes": (write(TOKENIZER, b"\xff\xfe\x00"), [TOKENIZER]),
}


@pytest.fixture
def folder(tmp_path, exported_folder) -> Path:
    """A good folder, with pickles and code beside its weights."""
    folder = shutil.copytree(exported_folder, tmp_path / "base")
    for name in PICKLES:
        (folder / name).write_bytes(pickle.dumps(Bomb(tmp_path / "trace")))
    (folder / "modeling_evil.py").write_text(f"open({str(tmp_path / 'trace')!r}, 'w')\n")
    return folder


def test_what_lies_beside_the_weights_is_not_opened(folder, tmp_path):
    assert open_base(folder, tmp_path / "grown.json")[1]().config.d_model == 24
    assert not (tmp_path / "trace").exists()


def test_the_bomb_would_go_off(folder, tmp_path):
    pickle.loads((folder / "pytorch_model.bin").read_bytes())  # noqa: S301 (our own)
    assert (tmp_path / "trace").exists()


@pytest.mark.parametrize(("make_hostile", "words"), HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_folder_is_one_line_and_exit_2(folder, tmp_path, monkeypatch, capsys, make_hostile, words):
    make_hostile(folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["hostile", "--base", str(folder), "--grown", "out/grown.json"])
    with pytest.raises(SystemExit) as caught:
        stage.run(main)
    assert caught.value.code == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and told.strip().isprintable() and len(told) < 1500
    assert [word for word in words if word not in told] == []
    assert not (tmp_path / "trace").exists()
    assert not (tmp_path / "out").exists()
