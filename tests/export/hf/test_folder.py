"""A Hugging Face folder is the same model for Transformers and for us, and a bad folder is one clear line."""

import json
import shutil
from pathlib import Path

import pytest
import tokenizers
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from llm.core.errors import UserError
from llm.export.hf.folder import FILES, read_folder, write_folder
from llm.export.verify import compare_with_transformers
from llm.finetune.shared.chat import TEMPLATE
from llm.model.generate import generate, greedy
from llm.tokens.special import END_OF_TEXT, IM_END, SPECIAL_TOKENS
from llm.tokens.tokenizer import Tokenizer

# Head counts, widths and layers that differ from each other, so that a swapped axis cannot pass.
SHAPES = {
    "tied": {"tie_embeddings": True},
    "untied": {"tie_embeddings": False},
    "grouped queries": {"d_model": 48, "n_heads": 6, "n_kv_heads": 2, "n_layers": 3},
    "a key head for each query head": {"d_model": 30, "n_heads": 3, "n_kv_heads": 3, "rope_theta": 500.0},
    "qwen2": {"family": "qwen2", "d_model": 48, "n_heads": 6, "n_kv_heads": 2, "n_layers": 3},
    "heads of another width": {"head_width": 14},
    "llama": {"family": "llama", "d_model": 48, "n_heads": 6, "n_kv_heads": 2, "n_layers": 3, "tie_embeddings": False},
    "gpt2": {"family": "gpt2", "n_kv_heads": 2, "n_layers": 3, "norm_eps": 1e-3},
    "gpt2, untied": {"family": "gpt2", "d_model": 30, "n_heads": 3, "n_kv_heads": 3, "tie_embeddings": False},
    "one wide head": {"attention": "causal"},
    "many heads": {"family": "llama", "attention": "multi_head", "d_model": 30, "n_heads": 3},
}
# What is asked of each family once: a maker of its shape, tied or not.
FAMILIES = {
    "qwen3": {},
    "qwen2": {"family": "qwen2"},
    "llama": {"family": "llama"},
    "gpt2": {"family": "gpt2", "n_kv_heads": 2},
}
every_family = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES.keys())
TEXTS = [
    "def f(x):\n    return x  # it's 100%\r\n\t\ttabs",
    "Žluťoučký kůň, 你好 🙂 e\u0301\u200b",
    "   spaces before, spaces after   \n\n ",
    "The river runs",
]


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
@torch.no_grad()
def test_transformers_computes_the_same_logits(tmp_path, draw_gpt, small_tokenizer_file, shape):
    ours = draw_gpt(**shape)
    write_folder(tmp_path, ours, small_tokenizer_file)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    ids = torch.randint(0, 320, (3, ours.config.context_length), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(theirs(ids).logits, ours(ids), atol=1e-4, rtol=0)


@pytest.mark.parametrize("text", TEXTS)
def test_transformers_gives_the_same_ids_and_the_text_back(exported_folder, text):
    theirs = AutoTokenizer.from_pretrained(exported_folder)
    tokenizer = Tokenizer.load(exported_folder / "tokenizer.json")
    assert theirs.encode(text) == tokenizer.prompt(text) == [tokenizer.end_of_text, *tokenizer.encode(text)]
    assert theirs.decode(tokenizer.encode(text)) == text


def test_special_tokens_have_the_same_ids_in_transformers(exported_folder):
    theirs = AutoTokenizer.from_pretrained(exported_folder)
    ours = Tokenizer.load(exported_folder / "tokenizer.json")
    assert theirs.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == [ours.special[name] for name in SPECIAL_TOKENS]
    assert (theirs.eos_token_id, theirs.pad_token_id) == (ours.end_of_text, ours.pad)


@pytest.mark.parametrize("prompt", ["The river", "def "])
def test_the_greedy_continuation_is_that_of_transformers(exported_folder, prompt):
    tokenizer = Tokenizer.load(exported_folder / "tokenizer.json")
    ids = [tokenizer.end_of_text, *tokenizer.encode(prompt)]
    ours = list(generate(read_folder(exported_folder), ids, 30, greedy, frozenset({tokenizer.end_of_text})))
    model = AutoModelForCausalLM.from_pretrained(exported_folder)
    asked = torch.tensor([ids])
    theirs = model.generate(asked, attention_mask=torch.ones_like(asked), max_new_tokens=30, do_sample=False)
    assert len(set(ours)) > 1
    assert [token for token in theirs[0, len(ids) :].tolist() if token != tokenizer.end_of_text] == ours


@every_family
@pytest.mark.parametrize("chat_template", [None, TEMPLATE], ids=["language model", "instruction model"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_written_read_and_written_again_is_the_same_bytes(
    tmp_path, draw_gpt, small_tokenizer_file, tied, chat_template, family
):
    first, second = tmp_path / "first", tmp_path / "second"
    ours = draw_gpt(tie_embeddings=tied, **family)
    write_folder(first, ours, small_tokenizer_file, chat_template=chat_template)
    assert read_folder(first).config == ours.config
    write_folder(second, read_folder(first), first / "tokenizer.json", chat_template=chat_template)
    assert _bytes_by_name(first) == _bytes_by_name(second)
    assert set(FILES) <= {path.name for path in first.iterdir()}


@every_family
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_what_transformers_saves_again_reads_as_the_same_model(tmp_path, draw_gpt, small_tokenizer_file, tied, family):
    ours = draw_gpt(tie_embeddings=tied, rope_theta=10000.0 if "n_kv_heads" in family else 777.0, **family)
    write_folder(tmp_path / "ours", ours, small_tokenizer_file)
    AutoModelForCausalLM.from_pretrained(tmp_path / "ours").save_pretrained(tmp_path / "theirs")
    back = read_folder(tmp_path / "theirs")
    assert back.config == ours.config
    torch.testing.assert_close(back.state_dict(), ours.state_dict(), atol=0, rtol=0)


def test_an_instruction_model_stops_after_its_answer_in_transformers(tmp_path, draw_gpt, small_tokenizer_file):
    write_folder(tmp_path, draw_gpt(), small_tokenizer_file, chat_template=TEMPLATE)
    special = Tokenizer.load(small_tokenizer_file).special
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert set(model.generation_config.eos_token_id) == {special[IM_END], special[END_OF_TEXT]}
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template == TEMPLATE


TINY = {"vocab_size": 97, "max_position_embeddings": 32, "hidden_size": 24, "intermediate_size": 40} | {
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
# What Transformers makes of each architecture that comes in, and the family that it is here.
THEIRS = {
    "Qwen3": (Qwen3ForCausalLM, Qwen3Config(**TINY, head_dim=6), "qwen3"),
    "Qwen3, wide heads": (Qwen3ForCausalLM, Qwen3Config(**TINY, head_dim=10), "qwen3"),
    "Qwen2": (
        Qwen2ForCausalLM,
        Qwen2Config(**TINY, rope_parameters={"rope_theta": 1e6, "rope_type": "default"}),
        "qwen2",
    ),
    "Llama": (LlamaForCausalLM, LlamaConfig(**TINY, rms_norm_eps=1e-4), "llama"),
    "Llama, tied": (LlamaForCausalLM, LlamaConfig(**TINY, tie_word_embeddings=True), "llama"),
    "Mistral": (MistralForCausalLM, MistralConfig(**TINY, sliding_window=None), "llama"),
    "Mistral, a window of the context": (MistralForCausalLM, MistralConfig(**TINY, sliding_window=32), "llama"),
    "GPT-2": (GPT2LMHeadModel, GPT2Config(vocab_size=97, n_positions=32, n_embd=24, n_layer=3, n_head=4), "gpt2"),
}


@pytest.fixture(scope="session")
def theirs():
    """A maker of Transformers' models with drawn weights, those that begin as zeros or ones too."""

    def make(name: str) -> PreTrainedModel:
        kind, config, _ = THEIRS[name]
        model = kind(config).eval()
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for weight in model.parameters():
                weight.normal_(1.0 if weight.ndim == 1 else 0.0, 0.2, generator=generator)
        return model

    return make


@torch.no_grad()
def _assert_same_logits(folder: Path, theirs: PreTrainedModel | None = None) -> None:
    """Of the folder here, and there; Transformers reads the folder itself where no model is given."""
    theirs = theirs or AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = torch.randint(0, 97, (3, 32), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(read_folder(folder)(ids), theirs(ids).logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize("shard_size", ["5GB", "9KB"], ids=["one file", "sharded"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=["f32", "bf16", "f16"])
@pytest.mark.parametrize("name", THEIRS)
def test_a_model_of_transformers_computes_the_same_logits_here(tmp_path, theirs, name, dtype, shard_size):
    theirs(name).to(dtype).save_pretrained(tmp_path, max_shard_size=shard_size)
    assert (tmp_path / "model.safetensors").exists() == (shard_size == "5GB")
    assert read_folder(tmp_path).config.family == THEIRS[name][2]
    _assert_same_logits(tmp_path)


@pytest.mark.parametrize("name", THEIRS)
def test_what_came_in_goes_out_and_comes_in_again_to_the_same_bytes(tmp_path, theirs, small_tokenizer_file, name):
    theirs(name).save_pretrained(tmp_path / "theirs")
    write_folder(tmp_path / "first", read_folder(tmp_path / "theirs"), small_tokenizer_file)
    write_folder(tmp_path / "second", read_folder(tmp_path / "first"), small_tokenizer_file)
    assert _bytes_by_name(tmp_path / "first") == _bytes_by_name(tmp_path / "second")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "first")
    # Of the type qwen2 Transformers 5 would read another tokenizer than the file's.
    assert again.config.model_type == THEIRS[name][2].replace("qwen2", "llama")
    assert read_folder(tmp_path / "second").config.family == THEIRS[name][2]
    _assert_same_logits(tmp_path / "theirs", again)


def test_a_tokenizer_that_is_qwen2s_keeps_the_models_name(tmp_path, draw_gpt, small_tokenizer_file):
    tokenizer = tokenizers.Tokenizer.from_file(str(small_tokenizer_file))
    tokenizer.normalizer = tokenizers.normalizers.NFC()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    write_folder(tmp_path / "out", draw_gpt(family="qwen2"), tmp_path / "tokenizer.json")
    assert json.loads((tmp_path / "out/config.json").read_text())["architectures"] == ["Qwen2ForCausalLM"]
    assert compare_with_transformers(tmp_path / "out", draw_gpt(family="qwen2"), 1).agrees()


def test_llamas_fourth_bias_is_zero_or_it_is_refused(tmp_path, draw_gpt, small_tokenizer_file):
    write_folder(tmp_path, draw_gpt(family="qwen2"), small_tokenizer_file)
    assert json.loads((tmp_path / "config.json").read_text())["attention_bias"] is True
    torch.testing.assert_close(dict(read_folder(tmp_path).named_parameters()), _weights(draw_gpt(family="qwen2")))
    _change_weights(tmp_path, lambda weights: weights["model.layers.1.self_attn.o_proj.bias"].fill_(0.5))
    with pytest.raises(UserError, match=r"attention_bias: expected biases of zero in model\.layers\.1\.self_attn"):
        read_folder(tmp_path)


def _weights(model) -> dict[str, torch.Tensor]:
    return dict(model.named_parameters())


def test_the_first_release_of_gpt2_reads_as_todays(tmp_path, theirs):
    model = theirs("GPT-2")
    model.save_pretrained(tmp_path)

    def age(weights: dict[str, torch.Tensor]) -> None:
        for name in list(weights):
            weights[name.removeprefix("transformer.")] = weights.pop(name)
        for layer in range(3):
            weights[f"h.{layer}.attn.bias"] = torch.ones(1, 1, 32, 32).tril()
            weights[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)

    _change_weights(tmp_path, age)
    kept = ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "architectures")
    content = json.loads((tmp_path / "config.json").read_text())
    old = {"n_ctx": 32, "attn_pdrop": 0.1, "activation_function": "gelu_new", "task_specific_params": {"x": 1}}
    (tmp_path / "config.json").write_text(json.dumps({key: content[key] for key in kept} | old))
    _assert_same_logits(tmp_path, model)


def test_an_old_llama_with_frequencies_and_theta_at_the_top_reads_as_todays(tmp_path, theirs):
    model = theirs("Llama")
    model.save_pretrained(tmp_path)
    frequencies = {f"model.layers.{layer}.self_attn.rotary_emb.inv_freq": torch.ones(3) for layer in range(3)}
    _change_weights(tmp_path, lambda weights: weights.update(frequencies))
    content = json.loads((tmp_path / "config.json").read_text())
    for key in ("rope_parameters", "head_dim", "attention_bias", "mlp_bias"):
        del content[key]
    (tmp_path / "config.json").write_text(json.dumps(content | {"rope_theta": 10000.0, "rope_scaling": None}))
    _assert_same_logits(tmp_path, model)


def test_a_tied_head_that_is_stored_as_well_is_the_embedding_or_refused(tmp_path, theirs):
    model = theirs("Llama, tied")
    model.save_pretrained(tmp_path)
    head = model.lm_head.weight.detach().clone()
    _change_weights(tmp_path, lambda weights: weights.update({"lm_head.weight": head}))
    _assert_same_logits(tmp_path, model)
    _change_weights(tmp_path, lambda weights: weights.update({"lm_head.weight": head + 1}))
    with pytest.raises(UserError, match="tie_word_embeddings: wanted false, for lm_head"):
        read_folder(tmp_path)


def _bytes_by_name(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _change_config(folder: Path, **values: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def _change_weights(folder: Path, change) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")


def _cut_weights(folder: Path, size: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])


BROKEN = {
    "a tensor is missing": (
        lambda folder: _change_weights(folder, lambda weights: weights.pop("model.norm.weight")),
        ["norm.weight", "missing"],
    ),
    "a tensor is unknown": (
        lambda folder: _change_weights(folder, lambda weights: weights.update({"model.extra.bias": torch.ones(2)})),
        ["model.extra.bias", "Qwen3ForCausalLM"],
    ),
    "a tensor has another shape": (
        lambda folder: _change_weights(folder, lambda weights: weights.update({"model.norm.weight": torch.ones(5)})),
        ["norm.weight", "(5,)", "(24,)"],
    ),
    "weights are cut short": (lambda folder: _cut_weights(folder, 5000), ["model.safetensors", "safetensors"]),
    "weights are empty": (lambda folder: _cut_weights(folder, 0), ["model.safetensors", "safetensors"]),
    "weights are not there": (lambda folder: (folder / "model.safetensors").unlink(), ["model.safetensors", "no such"]),
    "another architecture": (
        lambda folder: _change_config(folder, architectures=["GemmaForCausalLM"]),
        ["config.json", "Qwen3ForCausalLM", "LlamaForCausalLM", "GPT2LMHeadModel", "GemmaForCausalLM"],
    ),
    "the weights of another family": (
        lambda folder: _change_config(folder, architectures=["LlamaForCausalLM"]),
        ["LlamaForCausalLM", "self_attn.q_norm.weight"],
    ),
    "no architecture": (lambda folder: _change_config(folder, architectures=None), ["Qwen3ForCausalLM", "nothing"]),
    "a head_dim that does not fit": (
        lambda folder: _change_config(folder, head_dim=16),
        ["config.json", "head_dim", "12", "16"],
    ),
    "a width that is text": (lambda folder: _change_config(folder, hidden_size="24"), ["hidden_size", "'24'"]),
    "config is no JSON": (lambda folder: (folder / "config.json").write_text("{"), ["config.json", "JSON"]),
    "config is a list": (lambda folder: (folder / "config.json").write_text("[]"), ["config.json", "object"]),
    "config is not there": (lambda folder: (folder / "config.json").unlink(), ["config.json"]),
    "an activation of another kind": (lambda folder: _change_config(folder, hidden_act="gelu"), ["hidden_act", "gelu"]),
    "positions that are scaled": (
        lambda folder: _change_config(folder, rope_parameters={"rope_type": "yarn", "rope_theta": 10000.0}),
        ["rope_type", "yarn"],
    ),
    "a window over the context": (
        lambda folder: _change_config(folder, use_sliding_window=True),
        ["use_sliding_window", "true"],
    ),
}


@pytest.mark.parametrize(("break_it", "words"), BROKEN.values(), ids=BROKEN.keys())
def test_a_folder_that_does_not_fit_is_one_line_that_says_why(tmp_path, exported_folder, break_it, words):
    folder = tmp_path / "folder"
    shutil.copytree(exported_folder, folder)
    break_it(folder)
    with pytest.raises(UserError) as caught:
        read_folder(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert str(folder) in message
    assert [word for word in words if word not in message] == []
