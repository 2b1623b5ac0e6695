"""The base's own text is measured in bytes, each token once, after the marker that stands between documents."""

import math

import pytest
import torch

from llm.finetune.shared import language as forgetting
from llm.finetune.shared.language import base_figures, read_held_out
from llm.tokens.tokenizer import Tokenizer

TEXTS = {"a": "The river runs.", "b": "déjà vu", "c": "the rain falls"}


@pytest.fixture
def corpus(tmp_path, write_corpus):
    return write_corpus(tmp_path / "corpus", {"test": TEXTS})


def test_the_first_bytes_are_read_and_no_character_is_cut_in_half(corpus):
    table = corpus / "test.parquet"
    assert read_held_out(table) == list(TEXTS.values())
    assert read_held_out(table, 15) == ["The river runs."]
    assert read_held_out(table, 17) == ["The river runs.", "d"]  # 17 bytes end inside é
    assert read_held_out(table, 18) == ["The river runs.", "dé"]
    assert read_held_out(corpus / "val.parquet") == []


def test_the_bits_are_those_of_all_tokens_after_the_first_marker(draw_gpt, small_tokenizer_file, plain_cpu):
    model, tokenizer = draw_gpt(), Tokenizer.load(small_tokenizer_file)
    texts = list(TEXTS.values())
    ids = torch.tensor([token for text in texts for token in (tokenizer.end_of_text, *tokenizer.encode(text))])
    assert len(ids) <= model.config.context_length
    with torch.no_grad():
        nats = torch.nn.functional.cross_entropy(model(ids[None, :-1])[0], ids[1:], reduction="sum").item()
    expected = nats / math.log(2) / sum(len(text.encode()) for text in texts)
    figures = base_figures(model, texts, tokenizer, 4, plain_cpu, "before")
    assert figures == {"base_bits_per_byte": pytest.approx(expected, abs=1e-4)}


def test_without_text_there_is_no_figure(draw_gpt, small_tokenizer_file, plain_cpu):
    assert base_figures(draw_gpt(), [], Tokenizer.load(small_tokenizer_file), 4, plain_cpu, "before") == {}


def test_windows_and_logits_are_bounded_on_a_base_with_a_long_context(draw_gpt, small_tokenizer_file, plain_cpu):
    """What attention holds grows with the square of the context, and what is predicted with the vocabulary."""
    model, tokenizer = draw_gpt(n_layers=1, context_length=8192), Tokenizer.load(small_tokenizer_file)
    seen = []
    run_blocks = model.run_blocks
    model.run_blocks = lambda x, *rest: seen.append(x.shape[:2]) or run_blocks(x, *rest)
    text = "the rain falls " * 1000
    base_figures(model, [text], tokenizer, 512, plain_cpu, "before")
    assert {length for _, length in seen} == {forgetting.MAX_POSITIONS}
    assert 1 < max(size * length * 320 for size, length in seen) <= forgetting.MAX_LOGITS
    assert sum(size * length for size, length in seen) >= len(tokenizer.encode(text))
