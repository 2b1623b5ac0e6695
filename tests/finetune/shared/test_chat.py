"""Our ids of a conversation are those that Transformers makes of the template."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from llm.export.hf.folder import write_folder
from llm.finetune.shared.chat import TEMPLATE, Message, conversation_ids, turn_ids
from llm.tokens.special import IM_END, IM_START
from llm.tokens.tokenizer import Tokenizer

MESSAGES = ["Name the river.", "", "  spaces \n\n", "\nlines\r\n\tand tabs\n", "user\nŽluťoučký 你好 🙂", "2024's 100%"]
MARKERS = [IM_END, IM_START, "<|endoftext|>", "<|pad|>", "<|bos|>", "<|eos|>"]
TEXTS = st.one_of(st.sampled_from(MESSAGES), st.text("ab é\n\t\r '1.?<|你🙂", max_size=12), st.text(max_size=12))


@pytest.fixture(scope="module")
def theirs(tmp_path_factory, draw_gpt, small_tokenizer_file):
    folder = tmp_path_factory.mktemp("chat")
    write_folder(folder, draw_gpt(), small_tokenizer_file, chat_template=TEMPLATE)
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def ours(small_tokenizer_file) -> Tokenizer:
    return Tokenizer.load(small_tokenizer_file)


@st.composite
def conversations(draw) -> list[Message]:
    texts = TEXTS.filter(lambda text: not any(marker in text for marker in MARKERS))
    turns = draw(st.lists(texts, min_size=1, max_size=5))
    system = draw(st.lists(st.sampled_from(MESSAGES), max_size=1))
    return [
        *(Message("system", text) for text in system),
        *(Message(("user", "assistant")[number % 2], text) for number, text in enumerate(turns)),
    ]


@given(messages=conversations())
@settings(max_examples=150, deadline=None)
def test_any_conversation_has_the_ids_of_the_template(ours, theirs, messages):
    as_theirs = [message._asdict() for message in messages]
    expected = theirs.apply_chat_template(as_theirs, add_generation_prompt=True, return_dict=False)
    assert conversation_ids(ours, messages) == expected
    parts = [part for message in messages for part in turn_ids(ours, message)]
    assert [ours.bos_id, *(token for part in parts for token in part)] == theirs.apply_chat_template(
        as_theirs, return_dict=False
    )


@pytest.mark.parametrize("content", ["It runs.", "return [name]\n  for name", "}", "ñ 你好", "1 2 3"])
def test_what_is_learned_begins_where_a_prompt_ends(ours, content):
    turn = turn_ids(ours, ("assistant", content))
    assert ours.decode(turn.opening) == f"{IM_START}assistant\n"
    assert ours.decode(turn.content) == content
    assert turn.end == [ours.special[IM_END]]
    assert ours.decode(turn.rest) == "\n"
    assert conversation_ids(ours, [])[-len(turn.opening) :] == turn.opening


@pytest.mark.parametrize("marker", [IM_END, IM_START, "<|endoftext|>"])
@pytest.mark.parametrize("role", ["system", "user", "assistant"])
def test_a_marker_inside_a_message_is_ordinary_text(ours, theirs, marker, role):
    """No message can end itself and speak for the other side: Transformers' template allows that, our ids do not."""
    content = f"what does {marker} mean?"
    ids = conversation_ids(ours, [Message(role, content)])
    assert [ids.count(ours.special[name]) for name in (IM_START, IM_END, "<|endoftext|>")] == [2, 1, 1]
    assert content in ours.decode(ids)
    said = [{"role": role, "content": content}]
    template_ids = theirs.apply_chat_template(said, add_generation_prompt=True, return_dict=False)
    assert template_ids.count(ours.special[marker]) == ids.count(ours.special[marker]) + 1
    assert theirs.decode(template_ids) == ours.decode(ids)
