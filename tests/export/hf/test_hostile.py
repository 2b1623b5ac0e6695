"""An invalid or malicious folder is one line and exit 2, and none of its code is run."""

import json
import pickle
import shutil
import struct
import sys
from pathlib import Path

import pytest
import torch

from llm.core import stage
from llm.core.stage import Input, Output
from llm.export.hf.base import open_base
from llm.export.hf.folder import SKIPPED
from tests.export.hf.changes import WEIGHTS, add, change_json, config, drop, remove, write

TOKENIZER = "tokenizer.json"


class Bomb:
    """An object that writes a file when it is unpickled."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self):
        return Path.write_text, (self.trace, "run")


def main(base: Input = Path("base"), grown: Output = Path("out/grown.json")) -> None:
    """Open a folder as finetuning and pretraining do before they train."""
    open_base(base, grown)[1]()


def index(folder: Path) -> None:
    """Have an index name a file outside of the folder."""
    (folder / WEIGHTS).rename(folder.parent / "stolen.safetensors")
    places = {"model.norm.weight": "../stolen.safetensors"}
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": places}))


def merges(folder: Path) -> None:
    """Have the tokenizer merge tokens that it lacks."""
    model = json.loads((folder / TOKENIZER).read_text())["model"]
    change_json(folder / TOKENIZER, model=model | {"merges": ["evil", "no"]})


HUGE = json.dumps({"model.norm.weight": {"dtype": "F32", "shape": [1 << 38], "data_offsets": [0, 1 << 40]}}).encode()
INVALID = {
    "skipped": (write(SKIPPED, b'{"skipped": "the reason"}'), ["its stage wrote none: the reason"]),
    "no config": (remove("config.json"), ["it has no config.json"]),
    "no tokenizer": (remove(TOKENIZER), [TOKENIZER]),
    "a missing tensor": (drop("model.norm.weight"), ["norm.weight is missing"]),
    "another shape": (add(**{"model.norm.weight": torch.ones(5)}), ["norm.weight: expected shape (24,), got (5,)"]),
    "another architecture": (config(architectures=["GemmaForCausalLM"]), ["LlamaForCausalLM", "GemmaForCausalLM"]),
    "the weights of another family": (config(architectures=["LlamaForCausalLM"]), ["self_attn.q_norm.weight"]),
    "pickles instead of weights": (remove(WEIGHTS), ["pytorch_model.bin", "not opened"]),
    "a header of a terabyte": (write(WEIGHTS, struct.pack("<Q", len(HUGE)) + HUGE), [WEIGHTS]),
    "a config of a terabyte": (config(hidden_size=10**6, vocab_size=10**6), ["(320, 24)", "1000000"]),
    "a wider config": (config(intermediate_size=1 << 30), ["intermediate_size", str(1 << 24)]),
    "a number of 4,000 digits": (config(hidden_size=10**4000), ["hidden_size"]),
    "a config of a list": (write("config.json", b"[1]"), ["expected a JSON object"]),
    "a config of bytes": (write("config.json", b"\xff"), ["config.json: expected JSON"]),
    "a config too deep": (write("config.json", b'{"a": ' * 50_000), ["config.json"]),
    "an index that leads up": (index, ["index.json", "../stolen.safetensors"]),
    "a name of many lines": (
        add(**{"evil\n\x1b[2J": torch.ones(2)}),
        ["evil", "is not a weight of Qwen3ForCausalLM"],
    ),
    "a thousand names": (add(**{f"evil.{n}": torch.ones(1) for n in range(1000)}), ["evil.0", "and 995 more"]),
    "a merge of no tokens": (merges, [TOKENIZER]),
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


@pytest.mark.parametrize(("change", "words"), INVALID.values(), ids=INVALID.keys())
def test_an_invalid_folder_is_one_line_and_exit_2(folder, tmp_path, monkeypatch, capsys, change, words):
    change(folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["hostile", "--base", str(folder), "--grown", "out/grown.json"])
    with pytest.raises(SystemExit) as caught:
        stage.run(main)
    assert caught.value.code == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and line.strip().isprintable() and len(line) < 1500
    assert [word for word in [str(folder), *words] if word not in line] == []
    assert not (tmp_path / "trace").exists()
    assert not (tmp_path / "out").exists()
