"""A GGUF file has the names, types and vocabulary that llama.cpp reads, and the same bytes each time."""

import json

import gguf as library
import numpy as np
import pytest
import tokenizers

from llm.core.errors import UserError
from llm.export import llama_cpp
from llm.export.gguf import write_gguf, write_modelfile
from llm.export.llama_cpp import compare_with_llama_cpp
from llm.finetune.shared.chat import TEMPLATE
from llm.tokens.special import SPECIAL_TOKENS
from llm.tokens.tokenizer import Tokenizer, read_library


def _fields(path) -> dict:
    return {name: field.contents() for name, field in library.GGUFReader(path).fields.items()}


def test_types_are_those_that_llama_cpp_computes_with(tmp_path, draw_gpt, small_tokenizer_file):
    model = draw_gpt(family="gpt2", n_kv_heads=2, d_model=64, d_ff=40)
    for format_, expected in {"gguf-f32": "F32", "gguf-f16": "F16", "gguf-q8_0": "Q8_0"}.items():
        path = write_gguf(tmp_path, model, small_tokenizer_file, format_)
        types = {tensor.name: tensor.tensor_type.name for tensor in library.GGUFReader(path).tensors}
        assert types["token_embd.weight"] == types["blk.1.attn_qkv.weight"] == expected
        assert {types["position_embd.weight"], types["output_norm.weight"], types["blk.0.ffn_up.bias"]} == {"F32"}
        # Its rows of 40 are not a multiple of 32.
        assert types["blk.0.ffn_down.weight"] == ("F16" if format_ == "gguf-q8_0" else expected)


def test_the_vocabulary_and_template_are_in_the_file(tmp_path, draw_gpt, small_tokenizer_file, tokenizer):
    fields = _fields(write_gguf(tmp_path, draw_gpt(vocab_size=323), small_tokenizer_file, "gguf-f16"))
    vocabulary = {name: token for token, name in enumerate(fields["tokenizer.ggml.tokens"])}
    assert {name: vocabulary[name] for name in SPECIAL_TOKENS} == tokenizer.special
    assert len(vocabulary) == len(fields["tokenizer.ggml.tokens"]) == 323
    kinds = np.array(fields["tokenizer.ggml.token_type"])
    assert np.flatnonzero(kinds == library.TokenType.CONTROL).tolist() == sorted(tokenizer.special.values())
    assert np.flatnonzero(kinds == library.TokenType.UNUSED).tolist() == [320, 321, 322]
    merges = json.loads(read_library(small_tokenizer_file).to_str())["model"]["merges"]
    assert [merge.split(" ") for merge in fields["tokenizer.ggml.merges"]] == merges
    ids = {name: fields[f"tokenizer.ggml.{name}_token_id"] for name in ("bos", "eos", "padding")}
    assert ids == {"bos": tokenizer.end_of_text, "eos": tokenizer.end_of_text, "padding": tokenizer.pad}
    assert fields["tokenizer.ggml.add_bos_token"] is True
    assert "tokenizer.chat_template" not in fields
    fields = _fields(write_gguf(tmp_path, draw_gpt(), small_tokenizer_file, "gguf-f16", chat_template=TEMPLATE))
    assert fields["tokenizer.chat_template"] == TEMPLATE
    assert fields["tokenizer.ggml.eos_token_id"] == tokenizer.special["<|im_end|>"]


def test_modelfiles_of_text_and_chat_models(tmp_path, draw_gpt, small_tokenizer_file, tokenizer_of):
    config, file = draw_gpt().config, tmp_path / "model-f16.gguf"
    write_modelfile(file, config, small_tokenizer_file)
    lines = ["FROM ./model-f16.gguf", 'TEMPLATE """{{ .Prompt }}"""', "PARAMETER num_ctx 48"]
    assert (tmp_path / "Modelfile").read_text().splitlines() == [*lines, 'PARAMETER stop "<|endoftext|>"']
    write_modelfile(file, config, small_tokenizer_file, chat=True)
    text = (tmp_path / "Modelfile").read_text()
    assert "{{ range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}" in text
    assert 'PARAMETER stop "<|im_end|>"' in text
    with pytest.raises(UserError, match="expected the split pattern qwen2"):
        write_modelfile(file, config, tokenizer_of("gpt2"))


def test_a_composing_tokenizer_is_written_without_that(tmp_path, draw_gpt, small_tokenizer_file, one_process):
    tokenizer = tokenizers.Tokenizer.from_file(str(small_tokenizer_file))
    tokenizer.normalizer = tokenizers.normalizers.NFC()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    file = write_gguf(tmp_path, draw_gpt(), tmp_path / "tokenizer.json", "gguf-f32")
    ours = Tokenizer.load(tmp_path / "tokenizer.json")
    assert compare_with_llama_cpp(file, draw_gpt(), ours, 1).agrees


def test_whole_words_without_merges_need_llama3s_pattern(tmp_path, draw_gpt, tokenizer_of, one_process):
    def with_word(path):
        content = json.loads(path.read_text())
        content["model"]["ignore_merges"] = True
        vocabulary = content["model"]["vocab"]
        # "zqx" replaces the last token that merges make; no merge makes it.
        vocabulary["zqx"] = vocabulary.pop("".join(content["model"]["merges"].pop()))
        path.write_text(json.dumps(content))
        return path

    known = with_word(tokenizer_of("llama3"))
    with llama_cpp.serve_file(write_gguf(tmp_path, draw_gpt(), known, "gguf-f32"), 48, None) as server:
        ids = server.tokenize("zqx zqx")
    assert ids == [0, *Tokenizer.load(known).encode("zqx zqx")] and ids[1] == 319
    with pytest.raises(UserError, match="expected merges for each token with the split pattern qwen2"):
        write_gguf(tmp_path, draw_gpt(), with_word(tokenizer_of("qwen2")), "gguf-f16")
