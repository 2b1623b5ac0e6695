"""Bits per byte of other models: the fast way against a slow one, and what is refused."""

import json
import math
import shutil
from dataclasses import replace

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
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_file=str(tokenizer_file), **special).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def gpt2_folder(tmp_path_factory, small_tokenizer_file):
    shape = GPT2Config(vocab_size=320, n_positions=CONTEXT, n_embd=24, n_layer=2, n_head=3)
    special = {"bos_token": None, "eos_token": "<|endoftext|>"}
    return _save(tmp_path_factory.mktemp("gpt2"), _draw(GPT2LMHeadModel(shape)), small_tokenizer_file, **special)


@pytest.fixture(scope="module")
def llama_folder(tmp_path_factory, small_tokenizer_file):
    shape = LlamaConfig(
        vocab_size=320,
        hidden_size=20,
        intermediate_size=28,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=CONTEXT,
    )
    special = {"bos_token": "<|bos|>", "eos_token": "<|eos|>"}
    return _save(tmp_path_factory.mktemp("llama"), _draw(LlamaForCausalLM(shape)), small_tokenizer_file, **special)


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


@pytest.mark.parametrize(("fraction", "stride"), [(0.75, 10), (1.0, 13), (0.3, 4), (0.01, 1)])
def test_a_gpt2_without_bos_costs_what_the_slow_way_gives(gpt2_folder, plain_cpu, fraction, stride):
    score = score_folder(gpt2_folder, TEXTS, plain_cpu, stride_fraction=fraction)
    expected = _slow_bits_per_byte(gpt2_folder, "<|endoftext|>", CONTEXT, stride)
    assert score.bits_per_byte == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("max_context", "context", "stride"), [(1024, 13, 10), (14, 13, 10), (5, 5, 4)])
def test_a_llama_starts_with_bos_at_most_in_its_context(llama_folder, plain_cpu, max_context, context, stride):
    score = score_folder(llama_folder, TEXTS, plain_cpu, max_context=max_context)
    expected = _slow_bits_per_byte(llama_folder, "<|bos|>", context, stride)
    assert (score.context, score.bits_per_byte) == (context, pytest.approx(expected, rel=1e-4))


def _our_bits_per_byte(gpt, tokenizer, context, stride, machine):
    nats = 0.0
    for text in TEXTS:
        stream = np.array([tokenizer.end_of_text, *tokenizer.encode(text)])
        spans = plan_spans(len(stream), context, stride)
        nats += float(score_tokens(gpt, stream, spans, 2, machine, "test").nats.sum(dtype=np.float64))
    return nats / math.log(2) / N_BYTES


def test_our_weights_and_our_export_cost_what_our_evaluation_says(
    tmp_path, draw_gpt, exported_folder, gpt2_folder, small_tokenizer_file, plain_cpu
):
    tokenizer, exported = Tokenizer.load(small_tokenizer_file), read_folder(exported_folder)
    score = score_folder(exported_folder, TEXTS, plain_cpu)
    assert score.bits_per_byte == pytest.approx(_our_bits_per_byte(exported, tokenizer, 48, 36, plain_cpu), rel=1e-4)
    assert (score.context, score.parameters) == (48, exported.n_parameters())
    gru = draw_gpt(family="gru", context_length=CONTEXT)
    save_model(tmp_path, gru)
    score = score_folder(tmp_path, TEXTS, plain_cpu, tokenizer_file=small_tokenizer_file)
    assert score.bits_per_byte == pytest.approx(_our_bits_per_byte(gru, tokenizer, CONTEXT, 10, plain_cpu), rel=1e-4)
    assert (score.context, score.parameters) == (CONTEXT, gru.n_parameters())
    table = compare([gpt2_folder, tmp_path], TEXTS, plain_cpu, small_tokenizer_file)
    assert {line.split()[0] for line in table.splitlines()[1:3]} == {str(gpt2_folder), str(tmp_path)}


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_the_score_does_not_depend_on_the_batch_size(gpt2_folder, plain_cpu, batch_size):
    score, usual = (score_folder(gpt2_folder, TEXTS, plain_cpu, batch_size=size) for size in (batch_size, 8))
    assert score.bits_per_byte == pytest.approx(usual.bits_per_byte, abs=2e-5)
    assert replace(score, bits_per_byte=usual.bits_per_byte) == usual


def test_logits_that_would_fill_memory_take_smaller_batches(gpt2_folder, plain_cpu, monkeypatch):
    shapes = []
    usual = score_folder(gpt2_folder, TEXTS, plain_cpu)
    compute = module._batch_nats

    def watch(model, batch, machine):
        shapes.append((len(batch), batch[0][1].last))
        return compute(model, batch, machine)

    monkeypatch.setattr(module, "_batch_nats", watch)
    monkeypatch.setattr(module, "MAX_LOGITS", 2 * CONTEXT * 320)
    assert score_folder(gpt2_folder, TEXTS, plain_cpu).bits_per_byte == pytest.approx(usual.bits_per_byte, abs=2e-5)
    assert max(n * length for n, length in shapes) == 2 * CONTEXT
    assert len(shapes) > 2


def test_the_counts_are_those_of_the_texts_own_tokens(gpt2_folder, plain_cpu):
    score = score_folder(gpt2_folder, TEXTS, plain_cpu)
    tokenizer = Tokenizer.load(gpt2_folder / "tokenizer.json")
    n_tokens = sum(len(tokenizer.encode(text)) for text in TEXTS)
    assert score.tokens == n_tokens  # no start and no end of a document, and no special token inside a text
    assert score.bytes_per_token == pytest.approx(N_BYTES / n_tokens, abs=1e-4)
    # Tied embedding, positions; a block's attention, feed-forward and two norms; the last norm.
    block = (24 * 72 + 72) + (24 * 24 + 24) + (24 * 96 + 96) + (96 * 24 + 24) + 4 * 24
    assert score.parameters == 320 * 24 + CONTEXT * 24 + 2 * block + 2 * 24
    assert score.lossy_documents == 0


def test_lossy_documents_are_counted(tmp_path, gpt2_folder, plain_cpu):
    shutil.copytree(gpt2_folder, tmp_path, dirs_exist_ok=True)
    train_words(["The river runs"], 100, 1, keep_whitespace=True).save(str(tmp_path / "tokenizer.json"))
    texts = ["The river", "The rain", "runs river", "a road"]
    printed = compare([gpt2_folder, tmp_path], texts, plain_cpu)
    assert f"{tmp_path}: the tokens of 2 of 4 documents" in printed
    assert f"{gpt2_folder}: the tokens" not in printed


def test_the_table_lists_the_best_model_first(gpt2_folder, llama_folder, plain_cpu):
    scores = {folder: score_folder(folder, TEXTS, plain_cpu) for folder in (gpt2_folder, llama_folder)}
    best_first = sorted(scores, key=lambda folder: scores[folder].bits_per_byte)
    for folders in (best_first, best_first[::-1]):
        head, *rows, last = compare(folders, TEXTS, plain_cpu).splitlines()
        assert " ".join(head.split()) == "model bits per byte bytes per token tokens parameters context"
        for folder, row in zip(best_first, rows, strict=True):
            score = scores[folder]
            expected = [f"{score.bits_per_byte:.4f}", f"{score.bytes_per_token:.3f}"]
            expected += [f"{count:,}" for count in (score.tokens, score.parameters, score.context)]
            assert row.split() == [str(folder), *expected]
        assert len({len(line) for line in (head, *rows)}) == 1
        assert last.startswith(f"4 documents, {N_BYTES:,} bytes")


NO_MODEL = "expected a causal language model and its tokenizer"
OWN_CODE = {"model_type": "mine", "auto_map": {"AutoConfig": "mine.MyConfig", "AutoModelForCausalLM": "mine.Mine"}}


def _own_code(folder, tokenizer_file):
    (folder / "config.json").write_text(json.dumps(OWN_CODE))
    (folder / "mine.py").write_text("raise SystemExit('this code must not run')")


def _cut_weights(folder, tokenizer_file):
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])


def _weight_missing(folder, tokenizer_file):
    weights = load_file(folder / "model.safetensors")
    del weights["transformer.h.1.ln_1.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _no_tokenizer(folder, tokenizer_file):  # Transformers 5 makes up an empty one
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()


def _bert(folder, tokenizer_file):
    shape = {"vocab_size": 320, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    shape |= {"intermediate_size": 30, "max_position_embeddings": CONTEXT}
    _draw(BertLMHeadModel(BertConfig(**shape))).save_pretrained(folder)


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda folder, _: (folder / "config.json").unlink(), "config.json"),
        (lambda folder, _: (folder / "config.json").write_text("{"), "config.json"),
        (_own_code, NO_MODEL),
        (lambda folder, _: (folder / "model.safetensors").unlink(), NO_MODEL),
        (_cut_weights, NO_MODEL),
        (_weight_missing, "transformer.h.1.ln_1.weight missing"),
        (_no_tokenizer, "tokenizer"),
        (
            lambda folder, file: PreTrainedTokenizerFast(tokenizer_file=str(file)).save_pretrained(folder),
            "a BOS or an EOS token, got neither",
        ),
        (
            lambda folder, _: train_bpe(TEXTS * 4, 340).save(str(folder / "tokenizer.json")),
            "expected token ids below the model's 320 embeddings, got 3",
        ),
        (_bert, "its predictions change with the tokens after them"),
    ],
)
def test_other_folders_are_refused_in_one_line(tmp_path, gpt2_folder, small_tokenizer_file, plain_cpu, damage, problem):
    shutil.copytree(gpt2_folder, tmp_path, dirs_exist_ok=True)
    damage(tmp_path, small_tokenizer_file)
    with pytest.raises(UserError) as refused:
        score_folder(tmp_path, TEXTS, plain_cpu)
    said = str(refused.value)
    assert said.startswith(str(tmp_path))
    assert ": expected " in said
    assert problem in said
    assert "\n" not in said
    assert len(said) < 500


def test_our_non_causal_model_is_refused(tmp_path, draw_gpt, small_tokenizer_file, plain_cpu):
    save_model(tmp_path, draw_gpt(attention="trainable"))
    with pytest.raises(UserError, match="its predictions change with the tokens after them"):
        score_folder(tmp_path, TEXTS, plain_cpu, tokenizer_file=small_tokenizer_file)


def test_a_tokenizer_without_tokens_for_the_texts_is_refused(tmp_path, gpt2_folder, plain_cpu):
    shutil.copytree(gpt2_folder, tmp_path, dirs_exist_ok=True)
    train_words(["The river runs"], 100, 1, keep_whitespace=False).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UserError, match="expected a tokenizer that has tokens for the texts"):
        score_folder(tmp_path, ["  \n"], plain_cpu)


@pytest.mark.parametrize(
    ("max_bytes", "texts"),
    [
        (None, ["één", "drei", "four"]),
        (5, ["één"]),
        (4, ["éé"]),
        (3, ["é"]),
        (8, ["één", "dre"]),
        (100, ["één", "drei", "four"]),
    ],
)
def test_texts_are_read_in_order_and_cut_between_characters(tmp_path, write_corpus, max_bytes, texts):
    file = write_corpus(tmp_path, {"test": {"a": "één", "b": "", "c": "drei", "d": "four"}}) / "test.parquet"
    assert read_texts(file, max_bytes) == texts


@pytest.mark.parametrize(
    ("column", "problem"),
    [
        ({"text": pa.array([], pa.string())}, "expected text to score, got none"),
        ({"text": [""]}, "expected text to score, got none"),
        ({"txt": ["a"]}, "expected a column text of strings"),
        ({"text": [1]}, "expected a column text of strings"),
        ({"text": ["a", None]}, "expected a column text of strings"),
    ],
)
def test_a_table_without_texts_is_refused(tmp_path, column, problem):
    pq.write_table(pa.table(column), tmp_path / "other.parquet")
    with pytest.raises(UserError, match=rf"other\.parquet: {problem}"):
        read_texts(tmp_path / "other.parquet")
