"""A Hugging Face folder is the same model for Transformers and for us."""

import json
from pathlib import Path

import pytest
import tokenizers
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from llm.core.errors import UserError
from llm.export.hf.folder import read_folder, read_headers, write_folder
from llm.export.verify import compare_with_transformers
from llm.finetune.shared.chat import TEMPLATE
from llm.tokens.special import END_OF_TEXT, IM_END, PAD, SPECIAL_TOKENS
from llm.tokens.tokenizer import Tokenizer
from tests.export.hf.changes import change_weights


@torch.no_grad()
def test_transformers_loads_saves_and_computes_the_same(tmp_path, draw_gpt, small_tokenizer_file, shape):
    ours = draw_gpt(**shape)
    write_folder(tmp_path / "ours", ours, small_tokenizer_file)
    assert read_headers(tmp_path / "ours")[0] == read_folder(tmp_path / "ours").config
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "ours", dtype=torch.float32)
    ids = torch.randint(0, 320, (3, ours.config.context_length), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(theirs(ids).logits, ours(ids), atol=1e-4, rtol=0)
    theirs.save_pretrained(tmp_path / "theirs")
    torch.testing.assert_close(read_folder(tmp_path / "theirs").state_dict(), ours.state_dict(), atol=0, rtol=0)


def test_an_instruction_model_stops_after_its_answer(tmp_path, draw_gpt, small_tokenizer_file):
    first, second = tmp_path / "first", tmp_path / "second"
    write_folder(first, draw_gpt(), small_tokenizer_file, chat_template=TEMPLATE)
    special, theirs = Tokenizer.load(small_tokenizer_file).special, AutoTokenizer.from_pretrained(first)
    assert theirs.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == [special[name] for name in SPECIAL_TOKENS]
    assert (theirs.eos_token, theirs.pad_token, theirs.chat_template) == (IM_END, PAD, TEMPLATE)
    model = AutoModelForCausalLM.from_pretrained(first)
    assert set(model.generation_config.eos_token_id) == {special[IM_END], special[END_OF_TEXT]}
    write_folder(second, read_folder(first), first / "tokenizer.json", chat_template=TEMPLATE)
    assert bytes_by_name(first) == bytes_by_name(second)


TINY = {"vocab_size": 97, "max_position_embeddings": 32, "hidden_size": 24, "intermediate_size": 40} | {
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
LARGE_THETA = {"rope_theta": 1e6, "rope_type": "default"}
# A model of Transformers: its type, and its keys.
THEIRS = {
    "Qwen3": ("qwen3", TINY | {"head_dim": 6}),
    "Qwen3, wide heads": ("qwen3", TINY | {"head_dim": 10}),
    "Qwen2": ("qwen2", TINY | {"rope_parameters": LARGE_THETA}),
    "Llama": ("llama", TINY | {"rms_norm_eps": 1e-4}),
    "Llama, tied": ("llama", TINY | {"tie_word_embeddings": True}),
    "Mistral": ("mistral", TINY | {"sliding_window": None}),
    "Mistral, a window of the context": ("mistral", TINY | {"sliding_window": 32}),
    "GPT-2": ("gpt2", {"vocab_size": 97, "n_positions": 32, "n_embd": 24, "n_layer": 3, "n_head": 4}),
}


@pytest.fixture(scope="session")
def theirs():
    """A function that makes Transformers' models with drawn weights, also those that begin as zeros or ones."""

    def make(name: str) -> PreTrainedModel:
        kind, keys = THEIRS[name]
        model: PreTrainedModel = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **keys)).eval()
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for weight in model.parameters():
                weight.normal_(1.0 if weight.ndim == 1 else 0.0, 0.2, generator=generator)
        return model

    return make


@torch.no_grad()
def assert_same_logits(folder: Path, theirs: PreTrainedModel | None = None) -> None:
    """Compare a folder read here with a model of Transformers, by default the same folder's."""
    theirs = theirs or AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = torch.randint(0, 97, (3, 32), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(read_folder(folder)(ids), theirs(ids).logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=["f32", "bf16", "f16"])
def test_a_model_of_many_files_and_fewer_bits_is_read(tmp_path, theirs, dtype):
    theirs("Qwen2").to(dtype).save_pretrained(tmp_path, max_shard_size="9KB")
    assert not (tmp_path / "model.safetensors").exists()
    assert_same_logits(tmp_path)


@pytest.mark.parametrize("name", THEIRS)
def test_a_model_of_transformers_is_exported_again(tmp_path, theirs, small_tokenizer_file, name):
    theirs(name).save_pretrained(tmp_path / "theirs")
    assert_same_logits(tmp_path / "theirs")
    write_folder(tmp_path / "first", read_folder(tmp_path / "theirs"), small_tokenizer_file)
    write_folder(tmp_path / "second", read_folder(tmp_path / "first"), small_tokenizer_file)
    assert bytes_by_name(tmp_path / "first") == bytes_by_name(tmp_path / "second")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "first")
    # With the type qwen2 Transformers 5 would read another tokenizer than the file's.
    family = THEIRS[name][0].replace("mistral", "llama")
    assert again.config.model_type == family.replace("qwen2", "llama")
    assert read_folder(tmp_path / "second").config.family == family
    assert_same_logits(tmp_path / "theirs", again)


def test_the_tokenizer_of_qwen2_keeps_the_type_qwen2(tmp_path, draw_gpt, small_tokenizer_file):
    tokenizer = tokenizers.Tokenizer.from_file(str(small_tokenizer_file))
    tokenizer.normalizer = tokenizers.normalizers.NFC()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    write_folder(tmp_path / "out", draw_gpt(family="qwen2"), tmp_path / "tokenizer.json")
    assert json.loads((tmp_path / "out/config.json").read_text())["architectures"] == ["Qwen2ForCausalLM"]
    assert compare_with_transformers(tmp_path / "out", draw_gpt(family="qwen2"), 1).agrees


def test_the_fourth_bias_of_llama_is_zero_or_refused(tmp_path, draw_gpt, small_tokenizer_file):
    write_folder(tmp_path, draw_gpt(family="qwen2"), small_tokenizer_file)
    assert json.loads((tmp_path / "config.json").read_text())["attention_bias"] is True
    change_weights(tmp_path, lambda weights: weights["model.layers.1.self_attn.o_proj.bias"].fill_(0.5))
    with pytest.raises(UserError, match=r"attention_bias: expected biases of zero in model\.layers\.1\.self_attn"):
        read_folder(tmp_path)


def test_the_first_release_of_gpt2_is_read(tmp_path, theirs):
    model = theirs("GPT-2")
    model.save_pretrained(tmp_path)

    def age(weights: dict[str, torch.Tensor]) -> None:
        for name in list(weights):
            weights[name.removeprefix("transformer.")] = weights.pop(name)
        for layer in range(3):
            weights[f"h.{layer}.attn.bias"] = torch.ones(1, 1, 32, 32).tril()
            weights[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)

    change_weights(tmp_path, age)
    kept = ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "architectures")
    content = json.loads((tmp_path / "config.json").read_text())
    old = {"n_ctx": 32, "attn_pdrop": 0.1, "activation_function": "gelu_new", "task_specific_params": {"x": 1}}
    (tmp_path / "config.json").write_text(json.dumps({key: content[key] for key in kept} | old))
    assert_same_logits(tmp_path, model)


def test_an_old_llama_is_read(tmp_path, theirs):
    model = theirs("Llama")
    model.save_pretrained(tmp_path)
    frequencies = {f"model.layers.{layer}.self_attn.rotary_emb.inv_freq": torch.ones(3) for layer in range(3)}
    change_weights(tmp_path, lambda weights: weights.update(frequencies))
    content = json.loads((tmp_path / "config.json").read_text())
    for key in ("rope_parameters", "head_dim", "attention_bias", "mlp_bias"):
        del content[key]
    (tmp_path / "config.json").write_text(json.dumps(content | {"rope_theta": 10000.0, "rope_scaling": None}))
    assert_same_logits(tmp_path, model)


def test_a_stored_tied_head_is_the_embedding_or_refused(tmp_path, theirs):
    model = theirs("Llama, tied")
    model.save_pretrained(tmp_path)
    head = model.lm_head.weight.detach().clone()
    change_weights(tmp_path, lambda weights: weights.update({"lm_head.weight": head}))
    assert_same_logits(tmp_path, model)
    change_weights(tmp_path, lambda weights: weights.update({"lm_head.weight": head + 1}))
    with pytest.raises(UserError, match="tie_word_embeddings: expected false, for lm_head"):
        read_folder(tmp_path)


def bytes_by_name(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}
