"""llama.cpp computes what we compute, and what it does not is noticed."""

import random
from dataclasses import replace
from math import nan

import pytest
import torch

from llm.core.errors import UserError
from llm.export import gguf, llama_cpp
from llm.export.gguf import write_gguf
from llm.export.llama_cpp import Bounds, LlamaCppParity, bounds_of, compare_with_llama_cpp
from llm.finetune.shared.chat import TEMPLATE, chat_to_verify
from llm.tokens.tokenizer import Tokenizer

# Head counts, widths and layers that differ from each other, so that a swapped axis cannot pass.
SHAPES = {
    "tied": {},
    "untied": {"tie_embeddings": False},
    "grouped queries": {"d_model": 48, "n_heads": 6, "n_kv_heads": 2, "n_layers": 3, "rope_theta": 500.0},
    "more rows than tokens": {"vocab_size": 333},
    "one wide head": {"attention": "causal"},
    "qwen2": {"family": "qwen2"},
    "llama": {"family": "llama"},
    "llama, untied, grouped queries": {
        "family": "llama",
        "d_model": 48,
        "n_heads": 6,
        "n_kv_heads": 2,
        "n_layers": 3,
        "tie_embeddings": False,
    },
    "llama, many heads": {"family": "llama", "attention": "multi_head", "d_model": 30, "n_heads": 3},
    "gpt2": {"family": "gpt2", "n_kv_heads": 2, "n_layers": 3, "norm_eps": 1e-3},
    "gpt2, untied": {"family": "gpt2", "d_model": 30, "n_heads": 3, "n_kv_heads": 3, "tie_embeddings": False},
}
EXACT = Bounds(1e-6, 1e-3)
ALPHABET = [
    *"aZé你🙂 \n\r\t1½'-_!ſİא\0",
    "\u0301",
    "\u200d",
    "\u00a0",
    "\u3000",
    "\u2028",
    "\x85",
    "\x1c",
    "'LL",
    "<|pad|>",
]


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_llama_cpp_computes_the_same_in_float32(tmp_path, draw_gpt, small_tokenizer_file, one_process, shape):
    model, tokenizer = draw_gpt(**shape), Tokenizer.load(small_tokenizer_file)
    file = write_gguf(tmp_path, model, small_tokenizer_file, "gguf-f32")
    bounds = bounds_of(model.config.family, "gguf-f32")
    parity = compare_with_llama_cpp(file, model, tokenizer, 1, bounds)
    assert parity.max_logit_difference <= (5e-3 if model.config.family == "gpt2" else 1e-4)
    assert parity.divergence <= bounds.divergence == (1e-5 if model.config.family == "gpt2" else 1e-6)
    assert (parity.tokenization_mismatches, parity.generation_mismatches) == (0, 0)
    assert parity.texts > 10 and parity.continuations == 25


@pytest.mark.parametrize("family", ["tied", "qwen2", "llama", "gpt2"])
def test_half_the_bits_are_near_and_a_quarter_is_not_far(tmp_path, draw_gpt, small_tokenizer_file, one_process, family):
    model = draw_gpt(**SHAPES[family])
    wide = draw_gpt(**SHAPES[family] | {"d_model": 64, "d_ff": 96})
    tokenizer = Tokenizer.load(small_tokenizer_file)
    half = write_gguf(tmp_path, model, small_tokenizer_file, "gguf-f16")
    quarter = write_gguf(tmp_path, wide, small_tokenizer_file, "gguf-q8_0")
    bounds = bounds_of(model.config.family, "gguf-f16")
    parity = compare_with_llama_cpp(half, model, tokenizer, 1, bounds)
    assert 1e-4 < parity.max_logit_difference <= 2e-2
    assert parity.agrees(bounds.divergence)
    bounds = bounds_of(model.config.family, "gguf-q8_0")
    parity = compare_with_llama_cpp(quarter, wide, tokenizer, 1, bounds)
    assert 2e-2 < parity.max_logit_difference < 1
    assert parity.divergence > 1e-6 and parity.agrees(bounds.divergence)
    assert quarter.stat().st_size < half.stat().st_size * 3


def test_a_text_costs_the_same_in_float32_and_files_may_share_a_process(
    tmp_path, draw_gpt, small_tokenizer_file, other_process
):
    model, tokenizer = draw_gpt(), Tokenizer.load(small_tokenizer_file)
    file = write_gguf(tmp_path, model, small_tokenizer_file, "gguf-f32")
    text = "The river runs, the rain falls; <|eos|> déjà vu. " * 2
    parity = compare_with_llama_cpp(file, model, tokenizer, 1, EXACT, text, other_process)
    assert parity.agrees()
    assert parity.texts == 22
    assert abs(parity.bits_per_byte_lost) < 1e-4
    other = compare_with_llama_cpp(file, draw_gpt(seed=2), tokenizer, 1, EXACT, text, other_process)
    assert abs(other.bits_per_byte_lost) > 0.01


def test_the_tokens_of_a_long_text_that_are_scored_lie_all_over_it():
    befores, targets = llama_cpp._places(list(range(10, 1011)), 0, 7)
    assert 150 < len(targets) <= llama_cpp.N_SCORED
    assert (targets[0], targets[-1] > 1000) == (10, True)
    assert [before[-1] for before in befores[1:]] == [target - 1 for target in targets[1:]]
    assert {len(before) for before in befores[2:]} == {7}


@pytest.mark.parametrize("pattern", ["qwen2", "gpt2", "llama3"])
def test_llama_cpp_splits_drawn_texts_alike(tmp_path, draw_gpt, tokenizer_of, other_process, pattern):
    drawn = random.Random(1)
    texts = ["".join(drawn.choices(ALPHABET, k=drawn.randint(1, 20))) for _ in range(300)]
    texts += ["".join(chr(drawn.randrange(0xE000, 0x110000)) for _ in range(9)) for _ in range(100)]
    texts += ["".join(chr(drawn.randrange(1, 0xD800)) for _ in range(9)) for _ in range(100)]
    texts += [run * 2_000 for run in ("^", "a", "你", " ", "ACGT", "'", "\n", "a1")]  # longer than what is learned from
    path = tokenizer_of(pattern)
    file = write_gguf(tmp_path, draw_gpt(), path, "gguf-f32")
    theirs = other_process.submit(llama_cpp.ask, str(file), 1, texts, [], [], [], 1, 48, 320, 70).result().ids
    assert theirs == [[0, *Tokenizer.load(path).encode(text)] for text in texts]


# -- the check finds what it is there to find


def test_one_changed_weight_is_noticed(tmp_path, draw_gpt, small_tokenizer_file, one_process):
    model, tokenizer = draw_gpt(), Tokenizer.load(small_tokenizer_file)
    file = write_gguf(tmp_path, model, small_tokenizer_file, "gguf-f32")
    with torch.no_grad():
        model.blocks[1].attention.key.weight[0, 0] += 5
    parity = compare_with_llama_cpp(file, model, tokenizer, 1, EXACT)
    assert parity.max_logit_difference > 1e-2
    assert parity.divergence > 1e-4
    assert parity.generation_mismatches > 0
    assert not parity.agrees()


def test_another_tokenizer_is_noticed(tmp_path, draw_gpt, small_tokenizer_file, tokenizer_of, one_process):
    file = write_gguf(tmp_path, draw_gpt(), small_tokenizer_file, "gguf-f32")
    parity = compare_with_llama_cpp(file, draw_gpt(), Tokenizer.load(tokenizer_of("gpt2")), 1, EXACT)
    assert 0 < parity.tokenization_mismatches < parity.texts


@pytest.mark.parametrize("answer", ["ends too early", "does not end", "takes another token"])
def test_a_continuation_that_differs_is_noticed(draw_gpt, small_tokenizer_file, monkeypatch, answer):
    model, tokenizer = draw_gpt(), Tokenizer.load(small_tokenizer_file)

    def begun(opening):
        return [tokenizer.end_of_text, *tokenizer.encode(opening)] if isinstance(opening, str) else list(opening)

    def answered(file, texts, prompts, openings, messages, n_new, context, vocab_size, letter):
        with torch.no_grad():
            logprobs = [model(torch.tensor([prompt]))[0, -1].double().log_softmax(-1).numpy() for prompt in prompts]
            new = []
            for opening in map(begun, openings):
                ids = list(opening)
                while len(ids) < len(opening) + n_new and not (len(ids) > len(opening) and ids[-1] in ends):
                    ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
                new.append(ids[len(opening) :])
        full = next(number for number, tokens in enumerate(new) if len(tokens) == n_new)
        match answer:
            case "ends too early":
                new[full] = new[full][:-1]
            case "does not end":
                new[full][3] = tokenizer.end_of_text
            case "takes another token":
                new[full][-1] = (new[full][-1] + 1) % vocab_size
        return llama_cpp._Answers([begun(text) for text in texts], [], logprobs, new)

    ends = {tokenizer.special[name] for name in ("<|endoftext|>", "<|im_end|>")}
    monkeypatch.setattr(llama_cpp, "_in_own_process", answered)
    parity = compare_with_llama_cpp(None, model, tokenizer, 1, EXACT)
    assert (parity.max_logit_difference, parity.tokenization_mismatches, parity.generation_mismatches) == (0, 0, 1)


def test_a_model_that_ends_its_texts_ends_them_in_llama_cpp(tmp_path, draw_gpt, small_tokenizer_file, one_process):
    model, tokenizer = draw_gpt(tie_embeddings=False), Tokenizer.load(small_tokenizer_file)
    with torch.no_grad():
        model.head.weight[tokenizer.end_of_text] = 3 * model.head.weight[[7, 8, 9]].mean(dim=0)
    file = write_gguf(tmp_path, model, small_tokenizer_file, "gguf-f32")
    openings = [[token] for token in range(6, 60)]
    answers = llama_cpp._in_own_process(file, [], [], openings, [], 30, 48, 320, 70)
    assert any(len(new) < 30 and new[-1] == tokenizer.end_of_text for new in answers.continuations)
    assert compare_with_llama_cpp(file, model, tokenizer, 1, EXACT).generation_mismatches == 0


SAME = LlamaCppParity(1e-5, 1e-9, 0, 16, 0, 20)


@pytest.mark.parametrize(
    ("change", "format_", "agrees"),
    [
        ({}, "gguf-f32", True),
        ({"max_logit_difference": 0.025}, "gguf-f16", True),  # of a well trained model, whose logits are large
        ({"divergence": 2e-6}, "gguf-f32", False),
        ({"divergence": 2e-6}, "gguf-f16", True),
        ({"divergence": 2e-3}, "gguf-f16", False),
        ({"divergence": 2e-3}, "gguf-q8_0", True),
        ({"divergence": nan}, "gguf-q8_0", False),
        ({"tokenization_mismatches": 1}, "gguf-q8_0", False),
        ({"generation_mismatches": 1}, "gguf-f16", False),
    ],
)
def test_what_agrees(change, format_, agrees):
    assert replace(SAME, **change).agrees(bounds_of("qwen3", format_).divergence) is agrees


def test_a_well_trained_model_keeps_its_file_of_16_bits(tmp_path, draw_gpt, small_tokenizer_file, one_process):
    """Its logits are large, so that rounding moves some by more than 0.02 nats, and no text by that."""
    model = draw_gpt(tie_embeddings=False)
    with torch.no_grad():
        model.head.weight.mul_(30)
    found = gguf.export_gguf(tmp_path, model, small_tokenizer_file, ["gguf-f16"], 1)["gguf-f16"]
    assert found["max_logprob_difference"] > 2e-2
    assert found["mean_divergence"] < 1e-3


@pytest.mark.parametrize("begin", ["{{- bos_token -}}", "", "{{- bos_token -}}{{- bos_token -}}"])
def test_a_conversation_begins_once_and_another_template_is_noticed(
    tmp_path, draw_gpt, small_tokenizer_file, one_process, begin
):
    model, tokenizer = draw_gpt(), Tokenizer.load(small_tokenizer_file)
    template = TEMPLATE.replace("{{- bos_token -}}", begin)
    file = write_gguf(tmp_path, model, small_tokenizer_file, "gguf-f32", chat_template=template)
    parity = compare_with_llama_cpp(file, model, tokenizer, 1, EXACT, chat=chat_to_verify(tokenizer))
    assert parity.tokenization_mismatches == (begin.count("bos_token") == 2)


# -- a file that llama.cpp cannot read


@pytest.mark.parametrize("size", [40, -100])
def test_a_file_that_was_cut_is_one_line(tmp_path, draw_gpt, small_tokenizer_file, one_process, monkeypatch, size):
    file = write_gguf(tmp_path, draw_gpt(), small_tokenizer_file, "gguf-f32")
    file.write_bytes(file.read_bytes()[:size])
    monkeypatch.undo()  # in a process of its own
    with pytest.raises(UserError, match="wanted a file that llama") as caught:
        compare_with_llama_cpp(file, draw_gpt(), Tokenizer.load(small_tokenizer_file), 1, EXACT)
    assert "\n" not in str(caught.value) and str(caught.value).startswith("model-f32.gguf: ")


def test_a_file_that_aborts_the_process_is_one_line(tmp_path, draw_gpt, small_tokenizer_file, monkeypatch):
    monkeypatch.setattr(gguf, "_kind", lambda name, weight, format_: "F16")  # norms too
    file = write_gguf(tmp_path, draw_gpt(), small_tokenizer_file, "gguf-f16")
    with pytest.raises(UserError, match=r"wanted a file that llama.cpp loads, .*terminated abruptly"):
        compare_with_llama_cpp(file, draw_gpt(), Tokenizer.load(small_tokenizer_file), 1, EXACT)
