"""Bits per byte of other models: the fast way against a slow one, and what is refused."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertLMHeadModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from llm.core.errors import UserError
from llm.evaluate.likelihood import plan_spans, score_tokens
from llm.experiments import compare_models as module
from llm.experiments.compare_models import compare, read_texts, score_folder
from llm.export.hf.folder import read_folder
from llm.model.weights import save_model
from llm.tokens.bpe import train_bpe
from llm.tokens.tokenizer import Tokenizer
from llm.tokens.words import train_words

CONTEXT = 13
# Longer than three windows, shorter than one, one token, and what has to stay ordinary text.
TEXTS = [
    "The river runs, the rain falls; déjà vu. " * 3,
    "def walk(path):",
    "a",
    "half <|endoftext|> of a <|bos|> story",
]
N_BYTES = sum(len(text.encode()) for text in TEXTS)


def _draw(model, seed=3):
    """Draw weights so large that predictions differ, and a shifted token costs something."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(1.0 if weight.ndim == 1 else 0.0, 0.3, generator=generator)
    return model


def _save(folder, model, tokenizer_file, **special):
    folder.mkdir()
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_file=str(tokenizer_file), **special).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory, small_tokenizer_file):
    """A GPT-2 without a BOS token, and a Llama with one."""
    folder = tmp_path_factory.mktemp("models")
    shape = {"vocab_size": 320, "hidden_size": 20, "intermediate_size": 28, "num_hidden_layers": 2}
    shape |= {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": CONTEXT}
    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=320, n_positions=CONTEXT, n_embd=24, n_layer=2, n_head=3))
    special = {"bos_token": "<|bos|>", "eos_token": "<|eos|>"}
    return {
        "gpt2": _save(folder / "gpt2", _draw(gpt2), small_tokenizer_file, bos_token=None, eos_token="<|endoftext|>"),
        "llama": _save(
            folder / "llama", _draw(LlamaForCausalLM(LlamaConfig(**shape))), small_tokenizer_file, **special
        ),
    }


@torch.no_grad()
def _slow_bits_per_byte(folder, start, context, stride):
    """Token by token: read the context of a token in the first window that holds it, take the last prediction."""
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = Tokenizer.load(folder / "tokenizer.json")
    nats = 0.0
    for text in TEXTS:
        ids = [tokenizer.special[start], *tokenizer.encode(text)]
        end = min(context, len(ids) - 1)
        for target in range(1, len(ids)):
            if target > end:
                end = min(end + stride, len(ids) - 1)
            before = torch.tensor([ids[max(end - context, 0) : target]])
            nats -= float(model(before).logits[0, -1].log_softmax(dim=-1)[ids[target]])
    return nats / math.log(2) / N_BYTES


@pytest.mark.parametrize(
    ("name", "start", "changes", "context", "stride"),
    [
        ("gpt2", "<|endoftext|>", {}, 13, 10),
        ("gpt2", "<|endoftext|>", {"STRIDE_FRACTION": 0.01, "MAX_LOGITS": 2 * CONTEXT * 320}, 13, 1),
        ("llama", "<|bos|>", {"MAX_CONTEXT": 14, "BATCH_SIZE": 1}, 13, 10),
        ("llama", "<|bos|>", {"MAX_CONTEXT": 5}, 5, 4),
    ],
)
def test_a_score_is_that_of_the_slow_way(folders, plain_cpu, monkeypatch, name, start, changes, context, stride):
    for constant, value in changes.items():
        monkeypatch.setattr(module, constant, value)
    score = score_folder(folders[name], TEXTS, plain_cpu)
    expected = _slow_bits_per_byte(folders[name], start, context, stride)
    assert (score.context, score.bits_per_byte) == (context, pytest.approx(expected, rel=1e-4))
    tokenizer = Tokenizer.load(folders[name] / "tokenizer.json")
    # No start and no end of a document, and no special token inside a text.
    assert score.tokens == sum(len(tokenizer.encode(text)) for text in TEXTS)
    assert score.bytes_per_token == pytest.approx(N_BYTES / score.tokens, abs=1e-4)
    assert score.lossy_documents == 0


def _our_bits_per_byte(gpt, tokenizer, context, stride, machine):
    nats = 0.0
    for text in TEXTS:
        stream = np.array([tokenizer.end_of_text, *tokenizer.encode(text)])
        spans = plan_spans(len(stream), context, stride)
        nats += float(score_tokens(gpt, stream, spans, 2, machine, "test").nats.sum(dtype=np.float64))
    return nats / math.log(2) / N_BYTES


def test_our_weights_and_our_export_cost_what_our_evaluation_says(
    tmp_path, draw_gpt, exported_folder, small_tokenizer_file, plain_cpu
):
    gru = draw_gpt(family="gru", context_length=CONTEXT)
    save_model(tmp_path, gru)
    for folder, model, stride in ((exported_folder, read_folder(exported_folder), 36), (tmp_path, gru, 10)):
        score = score_folder(folder, TEXTS, plain_cpu, small_tokenizer_file)
        context = model.config.context_length
        ours = _our_bits_per_byte(model, Tokenizer.load(small_tokenizer_file), context, stride, plain_cpu)
        assert score.bits_per_byte == pytest.approx(ours, rel=1e-4)
        assert (score.context, score.parameters) == (context, model.n_parameters())


def test_the_table_lists_the_best_model_first_and_lossy_documents(tmp_path, folders, plain_cpu):
    lossy = Path(shutil.copytree(folders["gpt2"], tmp_path / "lossy"))
    train_words(["The river runs"], 100, 1, keep_whitespace=True).save(str(lossy / "tokenizer.json"))
    texts = ["The river", "The rain", "runs river", "a road"]
    given = [*folders.values(), lossy]
    scores = {folder: score_folder(folder, texts, plain_cpu) for folder in given}
    head, _, *rows, note, last = compare(given, texts, plain_cpu).splitlines()
    assert head == "| model | bits per byte | bytes per token | tokens | parameters | context |"
    for folder, row in zip(sorted(given, key=lambda folder: scores[folder].bits_per_byte), rows, strict=True):
        score = scores[folder]
        expected = f"| {folder} | {score.bits_per_byte:.4f} | {score.bytes_per_token:.3f} | {score.tokens} | "
        assert row == f"{expected}{score.parameters:,} | {score.context} |"
    # Tied embedding, positions; a block's attention, feed-forward and two norms; the last norm.
    block = (24 * 72 + 72) + (24 * 24 + 24) + (24 * 96 + 96) + (96 * 24 + 24) + 4 * 24
    assert scores[lossy].parameters == 320 * 24 + CONTEXT * 24 + 2 * block + 2 * 24
    assert note.startswith(f"{lossy}: the tokens of 2 of 4 documents do not decode")
    assert last.startswith(f"4 documents, {sum(map(len, texts))} bytes")


NO_MODEL = "expected a causal language model and its tokenizer"
OWN_CODE = {"model_type": "mine", "auto_map": {"AutoConfig": "mine.MyConfig", "AutoModelForCausalLM": "mine.Mine"}}


def _weight_missing(folder, _):
    weights = load_file(folder / "model.safetensors")
    del weights["transformer.h.1.ln_1.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _own_code(folder, _):
    (folder / "config.json").write_text(json.dumps(OWN_CODE))
    (folder / "mine.py").write_text("raise SystemExit('this code must not run')")


def _bert(folder, _):
    shape = {"vocab_size": 320, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    shape |= {"intermediate_size": 30, "max_position_embeddings": CONTEXT}
    _draw(BertLMHeadModel(BertConfig(**shape))).save_pretrained(folder)


def _no_tokens(folder, _):
    train_words(["water"], 100, 1, keep_whitespace=False).save(str(folder / "tokenizer.json"))


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda folder, _: (folder / "config.json").unlink(), "config.json"),
        (lambda folder, _: (folder / "config.json").write_text("{"), "config.json"),
        (lambda folder, _: (folder / "model.safetensors").write_bytes(b"{}"), NO_MODEL),
        (_own_code, NO_MODEL),
        (_weight_missing, "transformer.h.1.ln_1.weight missing"),
        # Transformers 5 makes up an empty tokenizer.
        (lambda folder, _: [path.unlink() for path in folder.glob("tokenizer*.json")], "tokenizer"),
        (
            lambda folder, file: PreTrainedTokenizerFast(tokenizer_file=str(file)).save_pretrained(folder),
            "a BOS or an EOS token, got neither",
        ),
        (lambda folder, _: train_bpe(TEXTS * 4, 340).save(str(folder / "tokenizer.json")), "320 embeddings, got 3"),
        (_no_tokens, "expected a tokenizer that has tokens for the texts"),
        (_bert, "its predictions change with the tokens after them"),
    ],
)
def test_other_folders_are_refused_in_one_line(tmp_path, folders, small_tokenizer_file, plain_cpu, damage, problem):
    shutil.copytree(folders["gpt2"], tmp_path, dirs_exist_ok=True)
    damage(tmp_path, small_tokenizer_file)
    with pytest.raises(UserError) as refused:
        score_folder(tmp_path, [" \n"] if damage is _no_tokens else TEXTS, plain_cpu)
    said = str(refused.value)
    assert said.startswith(str(tmp_path)) and ": expected " in said and problem in said
    assert "\n" not in said and len(said) < 500


def test_texts_are_read_in_order_and_cut_between_characters(tmp_path, write_corpus):
    file = write_corpus(tmp_path, {"test": {"a": "één", "b": "", "c": "drei", "d": "four"}}) / "test.parquet"
    limits = {None: ["één", "drei", "four"], 5: ["één"], 4: ["éé"], 8: ["één", "dre"], 100: ["één", "drei", "four"]}
    assert {limit: read_texts(file, limit) for limit in limits} == limits


@pytest.mark.parametrize(
    ("column", "problem"),
    [
        ({"text": pa.array([], pa.string())}, "expected text to score, got none"),
        ({"text": [""]}, "expected text to score, got none"),
        ({"txt": ["a"]}, "expected a column text of strings"),
        ({"text": ["a", None]}, "expected a column text of strings"),
    ],
)
def test_a_table_without_texts_is_refused(tmp_path, column, problem):
    pq.write_table(pa.table(column), tmp_path / "other.parquet")
    with pytest.raises(UserError, match=rf"other\.parquet: {problem}"):
        read_texts(tmp_path / "other.parquet")
