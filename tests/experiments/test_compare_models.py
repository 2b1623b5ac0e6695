"""Bits per byte of other people's models: the quick way against a slow one, and what is refused."""

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
from llm.export.hf.folder import read_folder, write_folder
from llm.export.hf.native import open_native
from llm.tokens.tokenizer import Tokenizer

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
    """Weights so large that a model has opinions, and a shifted token a price."""
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
    """Token by token: read what stands before it in the first window that holds it, look at the last prediction."""
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


@pytest.mark.parametrize(("share", "stride"), [(0.75, 10), (1.0, 13), (0.3, 4), (0.01, 1)])
def test_a_gpt2_without_a_bos_token_costs_what_the_slow_way_says(gpt2_folder, plain_cpu, share, stride):
    score = score_folder(gpt2_folder, TEXTS, plain_cpu, stride_share=share)
    expected = _slow_bits_per_byte(gpt2_folder, "<|endoftext|>", CONTEXT, stride)
    assert score.bits_per_byte == pytest.approx(expected, rel=1e-4)


def test_a_llama_begins_with_its_bos_token(llama_folder, plain_cpu):
    score = score_folder(llama_folder, TEXTS, plain_cpu)
    assert score.bits_per_byte == pytest.approx(_slow_bits_per_byte(llama_folder, "<|bos|>", CONTEXT, 10), rel=1e-4)


@torch.no_grad()
def test_a_model_that_transformers_cannot_load_is_scored_by_ours(tmp_path, draw_gpt, small_tokenizer_file, plain_cpu):
    model = draw_gpt(family="gru", context_length=CONTEXT)
    write_folder(tmp_path, model, small_tokenizer_file)
    score = score_folder(tmp_path, TEXTS, plain_cpu, open_native=open_native)
    tokenizer, nats = Tokenizer.load(small_tokenizer_file), 0.0
    for text in TEXTS:
        ids = torch.tensor([tokenizer.end_of_text, *tokenizer.encode(text)])
        for span in plan_spans(len(ids), CONTEXT, 10):
            window = ids[span.start : span.start + span.last + 1]
            told = model(window[None, :-1])[0].log_softmax(dim=-1)
            nats -= float(told.gather(-1, window[1:, None])[span.first :].sum())
    assert score.bits_per_byte == pytest.approx(nats / math.log(2) / N_BYTES, rel=1e-4)
    assert (score.context, score.parameters) == (CONTEXT, model.n_parameters())


def test_one_table_has_models_of_both_kinds(tmp_path, gpt2_folder, draw_gpt, small_tokenizer_file, plain_cpu):
    write_folder(tmp_path, draw_gpt(family="gru"), small_tokenizer_file)
    table = compare([gpt2_folder, tmp_path], TEXTS, plain_cpu, open_native)
    assert {line.split()[0] for line in table.splitlines()[1:3]} == {str(gpt2_folder), str(tmp_path)}


def test_our_model_that_sees_the_future_is_refused(tmp_path, draw_gpt, small_tokenizer_file, plain_cpu):
    write_folder(tmp_path, draw_gpt(attention="trainable"), small_tokenizer_file)
    with pytest.raises(UserError, match="its predictions change with the tokens after them"):
        score_folder(tmp_path, TEXTS, plain_cpu, open_native=open_native)


def test_a_smaller_context_may_be_asked_for_and_a_larger_one_not(llama_folder, plain_cpu):
    small = score_folder(llama_folder, TEXTS, plain_cpu, max_context=5)
    assert small.context == 5
    assert small.bits_per_byte == pytest.approx(_slow_bits_per_byte(llama_folder, "<|bos|>", 5, 4), rel=1e-4)
    assert score_folder(llama_folder, TEXTS, plain_cpu, max_context=14).context == CONTEXT


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_the_score_does_not_depend_on_the_batch_size(gpt2_folder, plain_cpu, batch_size):
    score, usual = (score_folder(gpt2_folder, TEXTS, plain_cpu, batch_size=size) for size in (batch_size, 8))
    assert score.bits_per_byte == pytest.approx(usual.bits_per_byte, abs=2e-5)
    assert replace(score, bits_per_byte=usual.bits_per_byte) == usual


def test_logits_that_would_fill_memory_are_computed_in_smaller_batches(gpt2_folder, plain_cpu, monkeypatch):
    rows = []
    usual = score_folder(gpt2_folder, TEXTS, plain_cpu)
    compute = module._batch_nats

    def watch(model, batch, machine):
        rows.append((len(batch), batch[0][1].last))
        return compute(model, batch, machine)

    monkeypatch.setattr(module, "_batch_nats", watch)
    monkeypatch.setattr(module, "MAX_LOGITS", 2 * CONTEXT * 320)
    assert score_folder(gpt2_folder, TEXTS, plain_cpu).bits_per_byte == pytest.approx(usual.bits_per_byte, abs=2e-5)
    assert max(n * length for n, length in rows) == 2 * CONTEXT
    assert len(rows) > 2


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


def test_our_own_export_costs_what_our_own_evaluation_says(exported_folder, plain_cpu):
    tokenizer, gpt = Tokenizer.load(exported_folder / "tokenizer.json"), read_folder(exported_folder)
    nats = 0.0
    for text in TEXTS:
        stream = np.array([tokenizer.end_of_text, *tokenizer.encode(text)])
        spans = plan_spans(len(stream), 48, 36)
        nats += float(score_tokens(gpt, stream, spans, 2, plain_cpu, "test").nats.sum(dtype=np.float64))
    score = score_folder(exported_folder, TEXTS, plain_cpu)
    assert (score.context, score.parameters) == (48, gpt.n_parameters())
    assert score.bits_per_byte == pytest.approx(nats / math.log(2) / N_BYTES, rel=1e-4)


def test_documents_that_the_tokens_do_not_hold_are_counted(tmp_path, gpt2_folder, plain_cpu):
    from llm.tokens.words import train_words

    shutil.copytree(gpt2_folder, tmp_path, dirs_exist_ok=True)
    train_words(["The river runs"], 100, 1, keep_whitespace=True).save(str(tmp_path / "tokenizer.json"))
    texts = ["The river", "The rain", "runs river", "a road"]
    assert score_folder(tmp_path, texts, plain_cpu).lossy_documents == 2
    assert score_folder(tmp_path, texts[::2], plain_cpu).lossy_documents == 0
    said = compare([gpt2_folder, tmp_path], texts, plain_cpu)
    assert f"{tmp_path}: the tokens of 2 of 4 documents" in said
    assert f"{gpt2_folder}: the tokens" not in said


def test_the_table_has_a_row_a_model_the_best_first(gpt2_folder, llama_folder, plain_cpu):
    scores = {folder: score_folder(folder, TEXTS, plain_cpu) for folder in (gpt2_folder, llama_folder)}
    best_first = sorted(scores, key=lambda folder: scores[folder].bits_per_byte)
    assert scores[best_first[0]].bits_per_byte < scores[best_first[1]].bits_per_byte
    for folders in (best_first, best_first[::-1]):
        head, *rows, last = compare(folders, TEXTS, plain_cpu).splitlines()
        assert " ".join(head.split()) == "model bits per byte bytes a token tokens parameters context"
        for folder, row in zip(best_first, rows, strict=True):
            score = scores[folder]
            expected = [f"{score.bits_per_byte:.4f}", f"{score.bytes_per_token:.3f}"]
            expected += [f"{count:,}" for count in (score.tokens, score.parameters, score.context)]
            assert row.split() == [str(folder), *expected]
        assert len({len(line) for line in (head, *rows)}) == 1
        assert last.startswith(f"4 documents, {N_BYTES:,} bytes")


# What a person may have in a folder that is no causal language model, and a word that the answer has to hold.


def _empty(folder, tokenizer_file):
    (folder / "config.json").unlink()
    return "config.json"


def _not_json(folder, tokenizer_file):
    (folder / "config.json").write_text("{")
    return "wanted a causal language model and its tokenizer"


def _own_code(folder, tokenizer_file):
    content = {"model_type": "mine", "auto_map": {"AutoConfig": "mine.MyConfig", "AutoModelForCausalLM": "mine.Mine"}}
    (folder / "config.json").write_text(json.dumps(content))
    (folder / "mine.py").write_text("raise SystemExit('this code must not run')")
    return "wanted a causal language model and its tokenizer"


def _no_weights(folder, tokenizer_file):
    (folder / "model.safetensors").unlink()
    return "wanted a causal language model and its tokenizer"


def _cut_weights(folder, tokenizer_file):
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    return "wanted a causal language model and its tokenizer"


def _a_weight_missing(folder, tokenizer_file):
    weights = load_file(folder / "model.safetensors")
    del weights["transformer.h.1.ln_1.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return "transformer.h.1.ln_1.weight missing"


def _no_tokenizer(folder, tokenizer_file):
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    return "tokenizer"  # Transformers 5 makes up an empty one


def _no_start(folder, tokenizer_file):
    PreTrainedTokenizerFast(tokenizer_file=str(tokenizer_file)).save_pretrained(folder)
    return "a BOS or an EOS token, given neither"


def _other_tokenizer(folder, tokenizer_file):
    from llm.tokens.tokenizer import train_tokenizer

    train_tokenizer(TEXTS * 4, 340).save(str(folder / "tokenizer.json"))
    return "wanted token ids below the model's 320 embeddings, given 3"


def _sees_the_future(folder, tokenizer_file):
    shape = BertConfig(
        vocab_size=320,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=30,
        max_position_embeddings=CONTEXT,
    )
    _draw(BertLMHeadModel(shape)).save_pretrained(folder)
    return "its predictions change with the tokens after them"


BROKEN = [
    _empty,
    _not_json,
    _own_code,
    _no_weights,
    _cut_weights,
    _a_weight_missing,
    _no_tokenizer,
    _no_start,
    _other_tokenizer,
    _sees_the_future,
]


@pytest.mark.parametrize("break_it", BROKEN, ids=[function.__name__.strip("_") for function in BROKEN])
def test_a_folder_that_is_no_causal_language_model_is_one_line(
    tmp_path, gpt2_folder, small_tokenizer_file, plain_cpu, break_it
):
    shutil.copytree(gpt2_folder, tmp_path, dirs_exist_ok=True)
    expected = break_it(tmp_path, small_tokenizer_file)
    with pytest.raises(UserError) as refused:
        score_folder(tmp_path, TEXTS, plain_cpu)
    said = str(refused.value)
    assert said.startswith(f"{tmp_path}: wanted ")
    assert expected in said
    assert "\n" not in said
    assert len(said) < 500


def test_a_tokenizer_that_leaves_nothing_of_the_texts_is_refused(tmp_path, gpt2_folder, plain_cpu):
    from llm.tokens.words import train_words

    shutil.copytree(gpt2_folder, tmp_path, dirs_exist_ok=True)
    train_words(["The river runs"], 100, 1, keep_whitespace=False).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UserError, match="wanted a tokenizer that has tokens for the texts"):
        score_folder(tmp_path, ["  \n"], plain_cpu)


def test_texts_are_read_in_order_and_the_last_is_cut_between_characters(tmp_path, write_corpus):
    file = write_corpus(tmp_path, {"test": {"a": "één", "b": "", "c": "drei", "d": "four"}}) / "test.parquet"
    assert read_texts(file) == ["één", "drei", "four"]
    assert read_texts(file, max_bytes=5) == ["één"]
    assert read_texts(file, max_bytes=4) == ["éé"]
    assert read_texts(file, max_bytes=3) == ["é"]
    assert read_texts(file, max_bytes=8) == ["één", "dre"]
    assert read_texts(file, max_bytes=100) == ["één", "drei", "four"]


def test_a_table_without_texts_is_refused(tmp_path, write_corpus):
    write_corpus(tmp_path, {"val": {"a": ""}})
    for split in ("test", "val"):
        with pytest.raises(UserError, match=r"wanted text to score, given none"):
            read_texts(tmp_path / f"{split}.parquet")
    with pytest.raises(UserError, match="there is none"):
        read_texts(tmp_path / "other.parquet")


@pytest.mark.parametrize("column", [{"txt": ["a"]}, {"text": [1]}, {"text": ["a", None]}])
def test_a_table_of_something_else_is_refused(tmp_path, column):
    pq.write_table(pa.table(column), tmp_path / "other.parquet")
    with pytest.raises(UserError, match=r"other\.parquet: wanted a column text of strings"):
        read_texts(tmp_path / "other.parquet")
