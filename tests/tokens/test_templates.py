"""Special tokens around texts: our ids are those of the written tokenizer.json, whatever is truncated."""

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from llm.tokens.special import END_OF_TEXT, EOS
from llm.tokens.templates import classifier_ids, has_classifier_template, min_tokens, with_bos, with_classifier_template
from llm.tokens.tokenizer import Tokenizer

WORDS = st.lists(st.sampled_from(["rain", " falls", "é", "<|endoftext|>", "<|pad|>", "\n"]), max_size=12).map("".join)


@pytest.fixture(scope="module")
def plain(small_tokenizer_file):
    return tokenizers.Tokenizer.from_file(str(small_tokenizer_file))


@pytest.fixture(scope="module")
def classifier(plain):
    library = with_classifier_template(plain)
    library.encode_special_tokens = True
    return library


@pytest.fixture(scope="module")
def tokenizer(small_tokenizer_file):
    return Tokenizer.load(small_tokenizer_file)


@given(texts=st.lists(WORDS, min_size=1, max_size=2), room=st.integers(0, 40))
def test_ids_are_those_of_the_library(classifier, tokenizer, texts, room):
    max_tokens = min_tokens(len(texts)) + room
    classifier.enable_truncation(max_tokens, strategy="longest_first")
    ids = classifier_ids([tokenizer.encode(text) for text in texts], tokenizer.special, max_tokens)
    assert ids == classifier.encode(*texts).ids
    assert len(ids) <= max_tokens


@pytest.mark.parametrize(
    ("lengths", "room", "kept"),
    [((3, 9), 8, (3, 5)), ((9, 3), 8, (5, 3)), ((9, 9), 9, (4, 5)), ((10, 9), 9, (5, 4)), ((0, 9), 4, (0, 4))],
)
def test_of_two_texts_the_longer_is_truncated_first(tokenizer, lengths, room, kept):
    ids = classifier_ids([[100] * lengths[0], [200] * lengths[1]], tokenizer.special, room + 2)
    assert ids == [*[100] * kept[0], tokenizer.special[EOS], *[200] * kept[1], tokenizer.special[END_OF_TEXT]]


def test_a_template_is_recognized_and_given_to_a_copy(plain, classifier):
    before = plain.to_str()
    assert [has_classifier_template(each) for each in (classifier, plain, with_bos(plain))] == [True, False, False]
    assert with_classifier_template(plain).encode("rain", add_special_tokens=False).ids == plain.encode("rain").ids
    assert with_bos(plain).encode("rain").ids == [plain.token_to_id(END_OF_TEXT), *plain.encode("rain").ids]
    assert plain.to_str() == before
