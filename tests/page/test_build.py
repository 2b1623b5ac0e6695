"""One file with everything in it: the same bytes for the same model, no text that acts, no address that is loaded."""

import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from llm.export.hf.folder import write_folder
from llm.page.build import build_page, fill
from llm.page.errors import NoPageError
from llm.tokens.bpe import train_bpe
from llm.tokens.tokenizer import Tokenizer
from llm.tokens.words import train_chars, train_words
from tests.conftest import SMALL_TEXT

HOSTILE = "</script><script>alert(1)</script><!-- <b>&amp; {{ weights }} {{ data }} \u2028 \0"


@pytest.fixture(scope="module")
def hostile_folder(tmp_path_factory, draw_gpt):
    """A model whose vocabulary has tokens that look like the page's own markup."""
    folder = tmp_path_factory.mktemp("hostile")
    library = train_bpe(["<script> </script> {{data}} <!-- --> "] * 9, 320)
    library.save(str(folder / "tokenizer.json"))
    assert any("</" in token or "script" in token for token in library.get_vocab())
    write_folder(folder / "hf", draw_gpt(vocab_size=library.get_vocab_size()), folder / "tokenizer.json")
    return folder / "hf"


def test_markup_in_texts_and_tokens_is_text(open_page, hostile_folder):
    opened = open_page(hostile_folder, [[HOSTILE], ["b"]])
    assert opened.run("() => [tested.passages, tested.title]") == [[HOSTILE, "b"], "hf"]
    n_scripts = len(re.findall("<script", fill({"title": "", "data": "", "weights": ""})))
    assert opened.page.evaluate("document.querySelectorAll('script').length") == n_scripts
    assert opened.is_quiet


@pytest.mark.parametrize("train", [train_words, train_chars])
def test_a_model_of_words_opens_without_passages(open_page, draw_gpt, tmp_path, train):
    options = {"keep_whitespace": False} if train is train_words else {}
    library = train([SMALL_TEXT], 40, 1, **options)
    library.save(str(tmp_path / "tokenizer.json"))
    write_folder(tmp_path / "hf", draw_gpt(vocab_size=library.get_vocab_size()), tmp_path / "tokenizer.json")
    opened = open_page(tmp_path / "hf", [])
    assert opened.run("() => tested.passages") == []
    assert opened.run("(text) => tested.prompt(text).ids", "rain") == [0, *Tokenizer.of(library).encode("rain")]
    assert opened.is_quiet


def test_the_page_can_load_nothing(open_page, exported_folder):
    opened = open_page(exported_folder)
    script = """async (address) => { const refused = [];
        document.addEventListener('securitypolicyviolation', (event) => refused.push(event.effectiveDirective));
        await fetch(address).catch(() => {});
        document.body.append(Object.assign(new Image(), {src: address}));
        document.body.append(Object.assign(document.createElement('script'), {textContent: 'globalThis.ran = 1'}));
        await new Promise((resolve) => setTimeout(resolve, 50));
        return [refused, globalThis.ran ?? null]; }"""
    refused, ran = opened.run(script, "https://example.org/x")
    assert sorted(refused) == ["connect-src", "img-src", "script-src-elem"]
    assert ran is None


def test_the_same_folder_gives_the_same_bytes(exported_folder, tmp_path):
    shutil.copytree(exported_folder, tmp_path / "elsewhere")
    pages = [
        build_page(folder, "x", [["a"]])[0] for folder in (exported_folder, exported_folder, tmp_path / "elsewhere")
    ]
    assert pages[0] == pages[1] == pages[2]
    assert str(exported_folder) not in pages[0]
    assert build_page(exported_folder, "x", [["b"]])[0] != pages[0]


def test_the_page_has_the_size_that_it_names(open_page, exported_folder):
    page, figures = build_page(exported_folder, "x", [["a"]])
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])
    assert len(page.encode()) == figures["bytes"] == data["n_bytes"]
    assert figures["weights"] == sum(
        weight.numel() for weight in load_file(exported_folder / "model.safetensors").values()
    )


def test_a_map_of_the_vocabulary_has_two_components(open_page, exported_folder):
    placed = torch.tensor(open_page(exported_folder).run("() => tested.map")).view(-1, 2)
    rows = load_file(exported_folder / "model.safetensors")["model.embed_tokens.weight"].double()
    centered = rows - rows.mean(0)
    _, _, axes = torch.linalg.svd(centered, full_matrices=False)
    for axis in range(2):
        expected = centered @ axes[axis]
        cosine = torch.cosine_similarity(placed[:, axis].double(), expected, dim=0)
        assert abs(cosine) > 0.999
        assert placed[:, axis].max() == 1 and placed[:, axis].abs().max() == 1


@pytest.mark.parametrize("limit", [20_000, 40_000])  # before and after the weights are read
def test_a_page_over_the_limit_is_refused_with_its_size(exported_folder, limit):
    with pytest.raises(
        NoPageError,
        match=rf"page.max_bytes: expected at most {limit:,}, the page of .* has \d\d,\d\d\d|\d{{3}},\d{{3}}",
    ):
        build_page(exported_folder, "x", [], limit)


def test_a_weight_that_float16_cannot_hold_is_refused(exported_folder, tmp_path):
    folder = tmp_path / "hf"
    shutil.copytree(exported_folder, folder)
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][3] = 70000.0
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(NoPageError, match=r"norm.weight: expected weights of at most 65504, .* got 70000"):
        build_page(folder, "x", [])


def test_another_chat_template_is_refused(draw_gpt, small_tokenizer_file, tmp_path):
    write_folder(tmp_path, draw_gpt(), small_tokenizer_file, chat_template="{{ messages }}")
    with pytest.raises(
        NoPageError, match=r"chat_template.jinja: expected the template of this project, got another one"
    ):
        build_page(tmp_path, "x", [], chat_template="{{ bos_token }}")
