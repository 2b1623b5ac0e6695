"""The stage page writes the model as one file, or the reason why there is none, and never fails the run for it."""

import json

import pytest

from llm.core.outputs import write_json
from llm.export.hf.folder import write_folder
from llm.page.params import PageParams
from llm.tokens.bpe import train_bpe
from stages.page import main
from tests.conftest import SMALL_TEXT


@pytest.fixture
def run(tmp_path, write_corpus):
    """A function that makes the page of a folder; returns the page and the metrics."""
    write_corpus(tmp_path, {"test": {"a.txt": SMALL_TEXT}})

    def make(model, max_bytes: int = 10_000_000) -> tuple[str, dict]:
        outputs = {"html": tmp_path / "page.html", "metrics": tmp_path / "page.json"}
        main(PageParams(max_bytes=max_bytes), model, tmp_path / "test.parquet", **outputs)
        return outputs["html"].read_text(encoding="utf-8"), json.loads(outputs["metrics"].read_text())

    return make


def test_the_page_has_the_model_and_held_out_text(run, exported_folder, draw_gpt):
    page, metrics = run(exported_folder)
    assert metrics == {"bytes": len(page.encode()), "weights": draw_gpt().n_parameters()}
    assert "return [name for name in path if name]" in page
    assert run(exported_folder) == (page, metrics)


def _export_none(folder, draw_gpt):
    write_json(folder / "skipped.json", {"skipped": "of <family> gru"})


def _export_other_pattern(folder, draw_gpt):
    train_bpe([SMALL_TEXT] * 4, 320, r"[\w<|>]+\s?").save(str(folder / "tokenizer.json"))
    write_folder(folder, draw_gpt(), folder / "tokenizer.json")


def _export_large(folder, draw_gpt):
    train_bpe([SMALL_TEXT] * 4, 320).save(str(folder / "tokenizer.json"))
    write_folder(folder, draw_gpt(d_ff=800), folder / "tokenizer.json")


@pytest.mark.parametrize(
    ("export", "reason"),
    [
        (_export_none, "of <family> gru"),
        (_export_other_pattern, "tokenize.pattern: expected qwen2, gpt2, cl100k, llama3, which the page can run"),
        (_export_large, "page.max_bytes: expected at most 200,000, the page of"),
    ],
)
def test_without_a_page_the_reason_is_in_its_place(run, draw_gpt, tmp_path, capsys, export, reason):
    folder = tmp_path / "hf"
    folder.mkdir()
    export(folder, draw_gpt)
    page, metrics = run(folder, 200_000)
    assert metrics.keys() == {"skipped"}
    assert metrics["skipped"].startswith(reason)
    assert reason.replace("<", "&lt;").replace(">", "&gt;") in page
    assert "<script" not in page
    assert capsys.readouterr().out == f"page skipped: {metrics['skipped']}\n"
