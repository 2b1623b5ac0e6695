"""The model in a browser computes what PyTorch computes: logits, attention, each layer, greedy text, labels."""

import copy
import random
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from llm.export.hf.classifier import ClassifierInfo, write_classifier
from llm.export.hf.folder import write_folder
from llm.finetune.shared.chat import TEMPLATE, conversation_ids
from llm.model.attention import split_heads
from llm.model.classifier import Classifier
from llm.model.embeddings import nearest
from llm.model.generate import generate, greedy
from llm.model.positions import rotate
from llm.tokens.special import IM_END
from llm.tokens.templates import classifier_ids
from tests.page.conftest import Opened

LARGE = {"d_model": 48, "n_heads": 6, "n_kv_heads": 2, "n_layers": 3}
# Head counts, widths and layers differ from each other, so that a swapped axis cannot pass.
SHAPES: dict[str, dict[str, Any]] = {
    "qwen3": {},
    "qwen3, grouped, untied": LARGE | {"tie_embeddings": False, "rope_theta": 500.0},
    "qwen3, heads of another width": {"head_width": 14, "vocab_size": 333, "d_ff": 41},
    "qwen2": {"family": "qwen2"} | LARGE,
    "llama, untied": {"family": "llama", "tie_embeddings": False} | LARGE,
    "gpt2": {"family": "gpt2", "n_kv_heads": 2, "n_layers": 3, "norm_eps": 1e-3},
    "gpt2, untied": {"family": "gpt2", "d_model": 30, "n_heads": 3, "n_kv_heads": 3, "tie_embeddings": False},
}
N_IDS = 40  # more than engine.js computes at a time, and no multiple of four or eight
ROUNDING = 2e-5  # of sums in float32, relative to the largest logit
HALF_ROUNDING = 2e-2  # of the weights to float16, relative to the largest logit
IDS = random.Random(1).choices(range(6, 320), k=N_IDS + 1)[:-2]


class Case(NamedTuple):
    """A model, the same one with its weights rounded to float16, and its page."""

    model: Any
    rounded: Any
    opened: Opened


@pytest.fixture(scope="module", params=SHAPES.values(), ids=SHAPES.keys())
def case(request, draw_gpt, small_tokenizer_file, tmp_path_factory, open_page):
    model = draw_gpt(**request.param).eval()
    folder = tmp_path_factory.mktemp("folder") / "hf"
    write_folder(folder, model, small_tokenizer_file)
    opened = open_page(folder)
    yield Case(model, round_weights(model), opened)
    opened.page.close()


def round_weights(model):
    rounded = copy.deepcopy(model)
    with torch.no_grad():
        for weight in rounded.parameters():
            weight.copy_(weight.half().float())
    return rounded


@torch.no_grad()
def run_layers(model, ids):
    """Hidden states (layers + 1, T, D), and attention weights (layers, heads, T, T), by the ladder's own functions."""
    x, rotation = model.apply_positions(model.embedding(torch.tensor([ids])), slice(0, len(ids)))
    hidden, patterns = [x[0]], []
    for block in model.blocks:
        own, normed = block.attention, block.attention_norm(x)
        q = own.query_norm(split_heads(own.query(normed), own.n_heads))
        k = own.key_norm(split_heads(own.key(normed), own.n_kv_heads))
        if rotation is not None:
            q, k = rotate(q, *rotation), rotate(k, *rotation)
        scores = q @ k.repeat_interleave(own.n_heads // own.n_kv_heads, 1).mT / own.head_dim**0.5
        future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        patterns.append(scores.masked_fill(future, -torch.inf).softmax(-1)[0])
        x = block(x, rotation, None, 0, [None] * 3, None)
        hidden.append(x[0])
    return torch.stack(hidden), torch.stack(patterns)


def close(got, expected, tolerance) -> bool:
    expected = np.asarray(expected)
    return float(np.abs(np.asarray(got) - expected).max()) <= tolerance * float(np.abs(expected).max())


LOGITS = "async (ids) => { const t = await tested.read(ids); return ids.map((_, at) => t.logits(at)); }"


@torch.no_grad()
def test_logits_are_those_of_pytorch(case):
    got = case.opened.run(LOGITS, IDS)
    vocab = torch.tensor([IDS])
    known = len(got[0])  # a model may have more rows than tokens
    assert close(got, case.rounded(vocab)[0, :, :known], ROUNDING)
    assert close(got, case.model(vocab)[0, :, :known], HALF_ROUNDING)
    assert not close(got, case.model(vocab)[0, :, :known], ROUNDING)  # the weights are float16


def test_attention_and_each_layer_are_those_of_pytorch(case):
    hidden, patterns = run_layers(case.rounded, IDS)
    config = case.rounded.config
    script = """async (ids, layers, heads) => { const t = await tested.read(ids); return {
        patterns: layers.map((l) => heads.map((h) => t.pattern(l, h))),
        lens: [...layers, layers.length].map((l) => t.lens(l, 17))}; }"""
    got = case.opened.run(script, IDS, [*range(config.n_layers)], [*range(config.n_query_heads)])
    assert close(got["patterns"], patterns.flatten(2), ROUNDING)
    assert (np.array(got["patterns"]).reshape(patterns.shape)[torch.ones(patterns.shape).triu(1) == 1] == 0).all()
    with torch.no_grad():
        lens = case.rounded.head(case.rounded.norm(hidden[:, 17]))
    assert close(got["lens"], lens[:, : len(got["lens"][0])], ROUNDING)


def test_losses_are_those_of_pytorch(case):
    losses = case.opened.run("async (ids) => (await tested.read(ids)).losses()", IDS)
    with torch.no_grad():
        logits = case.rounded(torch.tensor([IDS]))[0, :-1, : case.opened.run("() => tested.config.vocab_size")]
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor(IDS[1:]), reduction="none") / np.log(2)
    assert losses[0] is None  # NaN: nothing predicts the first token
    assert close(losses[1:], expected, ROUNDING)


def test_greedy_continuations_are_those_of_pytorch(case):
    """Of 20 prompts, until after the context is full."""
    draw = random.Random(2)
    prompts = [draw.choices(range(6, 320), k=length) for length in range(1, 60, 3)]
    script = """async (prompts, n) => { const texts = [];
        for (const ids of prompts) { texts.push([]);
          for await (const id of tested.generate(ids, {temperature: 0, maxTokens: n})) texts.at(-1).push(id); }
        return texts; }"""
    known = case.opened.run("() => tested.config.vocab_size")
    stop = frozenset(case.opened.run("() => tested.tokenizer.ends"))
    got = case.opened.run(script, prompts, 30)
    assert got == [[*generate(case.rounded, ids, 30, lambda logits: greedy(logits[:known]), stop)] for ids in prompts]
    assert sum(map(len, got)) > 300


def test_a_trace_goes_on_where_the_texts_part(case):
    script = """async (ids, other) => {
        const first = await tested.read(ids); await first.losses();
        const again = await tested.read(other, {previous: first});
        const fresh = await tested.read(other);
        return [again, fresh].map((t) => [t.logits(t.length - 1), t.pattern(1, 1)]).concat(
          [[await again.losses(), await fresh.losses()]]); }"""
    (again, fresh, losses) = case.opened.run(script, IDS, [*IDS[:11], 7, 8, 9, *IDS[20:25]])
    assert np.allclose(again[0], fresh[0], rtol=0, atol=1e-5)
    assert np.allclose(again[1], fresh[1], rtol=0, atol=1e-6)
    assert np.allclose(losses[0][1:], losses[1][1:], rtol=0, atol=1e-5)


def test_rope_turns_queries_and_keys_and_keeps_their_length(case):
    script = "async (ids) => { const t = await tested.read(ids); return [t.query(1, 1, 9), t.key(1, 1, 5)]; }"
    query, key = case.opened.run(script, IDS)
    for turned in (query, key):
        before, after = np.array(turned["before"]), np.array(turned["after"])
        assert np.allclose((before**2).sum(), (after**2).sum(), rtol=1e-5)
        assert np.allclose(before, after) == (case.model.config.family == "gpt2")
    if case.model.config.position_scheme == "rope":
        cos, sin = case.model.cos[9], case.model.sin[9]
        assert close(query["after"], rotate(torch.tensor(query["before"]), cos, sin), ROUNDING)


def test_neighbours_and_sizes_are_those_of_the_weights(case):
    rows = case.rounded.embedding.weight.detach()[: case.opened.run("() => tested.config.vocab_size")]
    got = case.opened.run("() => tested.neighbours(70, 3)")
    assert [one["id"] for one in got] == [token for token, _ in nearest(rows, 70, 3)]
    sizes = {name: list(weight.shape) for name, weight in case.model.named_parameters()}
    sizes["embedding.weight"][0] = len(rows)
    if "head.weight" in sizes:
        sizes["head.weight"][0] = len(rows)
    assert {size["name"]: size["shape"] for size in case.opened.run("() => tested.sizes")} == sizes


def test_the_page_logs_and_requests_nothing(case):
    assert case.opened.is_quiet


def test_a_long_text_keeps_its_end_and_says_so(case):
    found = case.opened.run(
        "(text) => { const {ids, tokens, n_dropped} = tested.prompt(text); "
        "return {ids, n_dropped, n: tokens.length, first: tested.prompt('a').tokens[0]}; }",
        "x y " * 50,
    )
    assert len(found["ids"]) == found["n"] == case.model.config.context_length
    assert found["n_dropped"] > 0
    assert found["first"]["special"]


def test_reading_can_be_aborted(case):
    script = """async (ids) => { const stop = new AbortController(); stop.abort();
        try { await tested.read(ids, {signal: stop.signal}); } catch (error) { return error.name; } }"""
    assert case.opened.run(script, IDS) == "AbortError"


@pytest.fixture(scope="module")
def chat(draw_gpt, small_tokenizer_file, tmp_path_factory, open_page) -> Opened:
    folder = tmp_path_factory.mktemp("chat") / "hf"
    write_folder(folder, draw_gpt(context_length=110), small_tokenizer_file, chat_template=TEMPLATE)
    return open_page(folder, chat_template=TEMPLATE)


@pytest.mark.parametrize(
    "turns",
    [
        [("user", "The river?")],
        [("system", "Be brief."), ("user", "\n\n déjà"), ("assistant", "vu"), ("user", "<|im_end|>")],
        [("user", "a"), ("assistant", ""), ("user", "  \n")],
    ],
)
def test_a_conversation_has_the_ids_of_chat(chat, tokenizer, turns):
    messages = [{"role": role, "content": content} for role, content in turns]
    got = chat.run("(messages) => tested.conversation(messages, 1)", messages)
    assert got == {"ids": conversation_ids(tokenizer, turns), "n_dropped": 0}
    assert tokenizer.special[IM_END] in chat.run("() => tested.tokenizer.ends")
    assert chat.run("() => tested.kind") == "instruction"


def test_old_turns_make_room_for_an_answer(chat, tokenizer):
    turns = [("user", "rain " * 12), ("assistant", "falls"), ("user", "runs?")]
    messages = [{"role": role, "content": content} for role, content in turns]
    got = chat.run("(messages) => tested.conversation(messages, 60)", messages)
    assert got == {"ids": conversation_ids(tokenizer, turns[2:]), "n_dropped": 1}
    messages[-1]["content"] *= 20
    script = "(messages) => { try { tested.conversation(messages, 60) } catch (error) { return error.name } }"
    assert chat.run(script, messages) == "RangeError"


@pytest.mark.parametrize("is_multilabel", [False, True])
@pytest.mark.parametrize("columns", [["text"], ["text", "other"]])
def test_a_classifier_gives_pytorchs_probabilities(
    draw_gpt, small_tokenizer_file, tokenizer, tmp_path, open_page, is_multilabel, columns
):
    model = Classifier(draw_gpt(n_kv_heads=2), 3).eval()
    torch.nn.init.normal_(model.score.weight, 0.0, 0.5, generator=torch.Generator().manual_seed(1))
    info = ClassifierInfo(["a", "<b>", "ç"], columns, "|" if is_multilabel else None, 24)
    write_classifier(tmp_path / "topics", model, small_tokenizer_file, info)
    opened = open_page(tmp_path / "topics", [columns])
    rounded = round_weights(model)
    for texts in (["The river <|pad|> runs", "é"], ["", "rain " * 30], ["sun " * 20, "moon " * 30], ["ab", ""]):
        row = texts[: len(columns)]
        ids = classifier_ids([tokenizer.encode(text) for text in row], tokenizer.special, info.max_tokens)
        assert opened.run("(texts) => tested.classifierIds(texts)", row) == ids
        with torch.no_grad():
            expected = info.probabilities(rounded(torch.tensor([ids]), torch.tensor([len(ids)])))[0]
        got = opened.run("(texts) => tested.classify(texts)", row)
        assert [of["label"] for of in got] == info.labels
        assert np.allclose([of["p"] for of in got], expected, atol=1e-5)
    assert opened.is_quiet


def test_occlusion_is_the_change_without_each_word(draw_gpt, small_tokenizer_file, tmp_path, open_page):
    model = Classifier(draw_gpt(), 2)
    torch.nn.init.normal_(model.score.weight, 0.0, 0.5, generator=torch.Generator().manual_seed(1))
    write_classifier(tmp_path / "c", model, small_tokenizer_file, ClassifierInfo(["a", "b"], ["text"], None, 40))
    opened = open_page(tmp_path / "c")
    script = """async (text, less) => { const words = [];
        for await (const word of tested.occlusion([text])) words.push(word);
        return [words, await tested.classify([text]), await tested.classify([less])]; }"""
    words, whole, less = opened.run(script, "The river, déjà!", "The , déjà!")
    assert ["The river, déjà!"[word["start"] : word["end"]] for word in words] == ["The", "river", ",", "déjà", "!"]
    assert np.allclose(words[1]["change"], [a["p"] - b["p"] for a, b in zip(whole, less, strict=True)], atol=1e-6)
