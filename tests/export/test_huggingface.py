"""A Hugging Face folder is the same model for Transformers and for us, and a bad folder is one clear line."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from llm.errors import UserError
from llm.export.huggingface import FILES, read_folder, write_folder
from llm.finetune.chat import TEMPLATE
from llm.finetune.classify import Classifier, predict
from llm.model.generate import generate, greedy
from llm.text.tokenizer import END_OF_TEXT, IM_END, SPECIAL_TOKENS, Tokenizer

# Head counts, widths and layers that differ from each other, so that a swapped axis cannot pass.
SHAPES = {
    "tied": {"tie_embeddings": True},
    "untied": {"tie_embeddings": False},
    "grouped queries": {"d_model": 48, "n_heads": 6, "n_kv_heads": 2, "n_layers": 3},
    "a key head for each query head": {"d_model": 30, "n_heads": 3, "n_kv_heads": 3, "rope_theta": 500.0},
    "llama": {"family": "llama", "d_model": 48, "n_heads": 6, "n_kv_heads": 2, "n_layers": 3, "tie_embeddings": False},
    "gpt2": {"family": "gpt2", "n_kv_heads": 2, "n_layers": 3, "norm_eps": 1e-3},
    "gpt2, untied": {"family": "gpt2", "d_model": 30, "n_heads": 3, "n_kv_heads": 3, "tie_embeddings": False},
    "one wide head": {"attention": "causal"},
    "many heads": {"family": "llama", "attention": "multi_head", "d_model": 30, "n_heads": 3},
}
# What is asked of each family once: a maker of its shape, tied or not.
FAMILIES = {"qwen3": {}, "llama": {"family": "llama"}, "gpt2": {"family": "gpt2", "n_kv_heads": 2}}
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
    ids = Tokenizer.load(exported_folder / "tokenizer.json").encode(text)
    assert theirs.encode(text) == ids
    assert theirs.decode(ids) == text


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


@every_family
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@torch.no_grad()
def test_a_classifier_gives_equal_probabilities_in_transformers_alone_and_padded(
    tmp_path, draw_gpt, small_tokenizer_file, plain_cpu, tied, family
):
    labels = ["rain", "river", "sun"]
    model = Classifier(draw_gpt(tie_embeddings=tied, **family), len(labels))
    model.score.weight.normal_(0, 0.5, generator=torch.Generator().manual_seed(2))
    write_folder(tmp_path, model.trunk, small_tokenizer_file, labels=labels, score=model.score.weight)
    tokenizer = Tokenizer.load(small_tokenizer_file)
    rows = [tokenizer.encode(text)[:48] for text in TEXTS]
    ours = predict(model, rows, tokenizer.pad, 4, plain_cpu).softmax(dim=-1)

    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path, dtype=torch.float32)
    their_tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    together = their_tokenizer(TEXTS, padding=True, truncation=True, max_length=48, return_tensors="pt")
    assert (together["attention_mask"] == 0).any()
    torch.testing.assert_close(theirs(**together).logits.softmax(dim=-1), ours, atol=1e-5, rtol=0)
    for text, probabilities in zip(TEXTS, ours, strict=True):
        alone = their_tokenizer(text, truncation=True, max_length=48, return_tensors="pt")
        torch.testing.assert_close(theirs(**alone).logits[0].softmax(dim=-1), probabilities, atol=1e-5, rtol=0)
    assert [theirs.config.id2label[number] for number in range(3)] == labels


def test_an_instruction_model_stops_after_its_answer_in_transformers(tmp_path, draw_gpt, small_tokenizer_file):
    write_folder(tmp_path, draw_gpt(), small_tokenizer_file, chat_template=TEMPLATE)
    special = Tokenizer.load(small_tokenizer_file).special
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert set(model.generation_config.eos_token_id) == {special[IM_END], special[END_OF_TEXT]}
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template == TEMPLATE


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ({"family": "gru"}, ["model.family qwen3, llama, gpt2", "given gru"]),
        ({"attention": "simplified"}, ["model.attention causal", "given simplified"]),
        ({"attention": "trainable"}, ["model.attention causal", "given trainable"]),
        ({"positions": "learned"}, ["model.positions rope for qwen3", "given learned"]),
        ({"family": "gpt2", "positions": "none"}, ["model.positions learned for gpt2", "given none"]),
        ({"family": "gpt2"}, ["model.n_kv_heads 2", "given 1"]),
    ],
)
def test_a_shape_that_transformers_does_not_know_is_one_line_and_no_folder(
    tmp_path, draw_gpt, small_tokenizer_file, shape, words
):
    with pytest.raises(UserError) as caught:
        write_folder(tmp_path / "folder", draw_gpt(**shape), small_tokenizer_file)
    message = str(caught.value)
    assert "\n" not in message
    assert [word for word in words if word not in message] == []
    assert not (tmp_path / "folder").exists()


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
    "a width that is text": (lambda folder: _change_config(folder, hidden_size="24"), ["d_model", "'24'"]),
    "config is no JSON": (lambda folder: (folder / "config.json").write_text("{"), ["config.json", "JSON"]),
    "config is a list": (lambda folder: (folder / "config.json").write_text("[]"), ["config.json", "Qwen3ForCausalLM"]),
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
