"""llama.cpp computes the same as we do, and a difference of each kind is found."""

import random

import pytest
import torch

from llm.core.errors import UserError
from llm.export import gguf, llama_cpp
from llm.export.gguf import write_gguf
from llm.export.llama_cpp import compare_with_llama_cpp
from llm.finetune.shared.chat import TEMPLATE, chat_to_verify
from llm.tokens.tokenizer import Tokenizer

ALPHABET = [*"aZé你🙂 \n\r\t1½'-_!ſİא\0"]
ALPHABET += ["\u0301", "\u200d", "\u00a0", "\u3000", "\u2028", "\x85", "\x1c", "'LL", "<|pad|>"]


@pytest.fixture
def file(tmp_path, draw_gpt, small_tokenizer_file):
    return write_gguf(tmp_path, draw_gpt(), small_tokenizer_file, "gguf-f32")


def test_float32_computes_the_same(tmp_path, draw_gpt, small_tokenizer_file, tokenizer, one_process, shape):
    model = draw_gpt(**shape)
    path = write_gguf(tmp_path, model, small_tokenizer_file, "gguf-f32")
    parity = compare_with_llama_cpp(path, model, tokenizer, 1)
    assert parity.max_difference <= (5e-3 if model.config.family == "gpt2" else 1e-4)
    assert parity.agrees and parity.max_divergence == (1e-5 if model.config.family == "gpt2" else 1e-6)
    assert parity.texts > 10 and parity.continuations == 25


@pytest.mark.parametrize(
    ("format_", "family", "least", "most"), [("gguf-f16", "gpt2", 1e-4, 2e-2), ("gguf-q8_0", "llama", 2e-2, 1)]
)
def test_fewer_bits_are_near(
    tmp_path, draw_gpt, small_tokenizer_file, tokenizer, one_process, format_, family, least, most
):
    model = draw_gpt(family=family, n_kv_heads=2, d_model=64, d_ff=96)
    path = write_gguf(tmp_path, model, small_tokenizer_file, format_)
    parity = compare_with_llama_cpp(path, model, tokenizer, 1)
    assert parity.agrees and least < parity.max_difference <= most


@pytest.mark.parametrize("pattern", ["qwen2", "gpt2", "llama3"])
def test_random_texts_have_the_same_ids(tmp_path, draw_gpt, tokenizer_of, one_process, pattern):
    drawn = random.Random(1)
    texts = ["".join(drawn.choices(ALPHABET, k=drawn.randint(1, 20))) for _ in range(300)]
    texts += ["".join(chr(drawn.randrange(0xE000, 0x110000)) for _ in range(9)) for _ in range(100)]
    texts += ["".join(chr(drawn.randrange(1, 0xD800)) for _ in range(9)) for _ in range(100)]
    texts += [run * 2_000 for run in ("^", "a", "你", " ", "ACGT", "'", "\n", "a1")]  # longer than a trained piece
    path = tokenizer_of(pattern)
    ours = Tokenizer.load(path)
    with llama_cpp.serve_file(write_gguf(tmp_path, draw_gpt(), path, "gguf-f32"), 48, None) as server:
        assert [server.tokenize(text) for text in texts] == [[0, *ours.encode(text)] for text in texts]


def test_a_changed_weight_and_another_tokenizer_are_found(file, draw_gpt, tokenizer_of, one_process):
    model = draw_gpt()
    with torch.no_grad():
        model.blocks[1].attention.key.weight[0, 0] += 5
    parity = compare_with_llama_cpp(file, model, Tokenizer.load(tokenizer_of("gpt2")), 1)
    assert parity.max_difference > 1e-2 and parity.divergence > 1e-4
    assert parity.generation_mismatches > 0 and not parity.agrees
    assert 0 < parity.tokenization_mismatches < parity.texts


def test_a_text_that_ends_is_the_same(tmp_path, draw_gpt, small_tokenizer_file, tokenizer, one_process):
    model = draw_gpt(tie_embeddings=False)
    with torch.no_grad():
        model.head.weight[tokenizer.end_of_text] = 3 * model.head.weight[[7, 8, 9]].mean(dim=0)
    path = write_gguf(tmp_path, model, small_tokenizer_file, "gguf-f32")
    with llama_cpp.serve_file(path, 48, None) as server:
        continuations = [server.generate([token], 30) for token in range(6, 60)]
    assert any(len(new) < 30 and new[-1] == tokenizer.end_of_text for new in continuations)
    assert compare_with_llama_cpp(path, model, tokenizer, 1).generation_mismatches == 0


@pytest.mark.parametrize("begin", ["{{- bos_token -}}", "", "{{- bos_token -}}{{- bos_token -}}"])
def test_another_chat_template_is_found(tmp_path, draw_gpt, small_tokenizer_file, tokenizer, one_process, begin):
    template = TEMPLATE.replace("{{- bos_token -}}", begin)
    path = write_gguf(tmp_path, draw_gpt(), small_tokenizer_file, "gguf-f32", chat_template=template)
    parity = compare_with_llama_cpp(path, draw_gpt(), tokenizer, 1, chat=chat_to_verify(tokenizer))
    assert parity.tokenization_mismatches == (begin.count("bos_token") == 2)  # a missing one is added


@pytest.mark.parametrize("problem", ["is cut", "aborts"])
def test_an_invalid_file_is_one_line(file, draw_gpt, small_tokenizer_file, tokenizer, monkeypatch, problem):
    """Each in a process of its own."""
    if problem == "aborts":
        monkeypatch.setattr(gguf, "_tensor_type", lambda name, weight, format_: "F16")  # norms too
        file = write_gguf(file.parent, draw_gpt(), small_tokenizer_file, "gguf-f32")
    else:
        file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"^model-f32\.gguf: expected a file that llama\.cpp loads, ") as caught:
        compare_with_llama_cpp(file, draw_gpt(), tokenizer, 1)
    assert "\n" not in str(caught.value)
