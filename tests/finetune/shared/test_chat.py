"""Our ids of a conversation are those that Transformers makes of the template."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from llm.export.hf.folder import write_folder
from llm.finetune.shared.chat import TEMPLATE, Message, conversation_ids, turn_ids
from llm.tokens.special import IM_END, IM_START

MESSAGES = ["Name the river.", "", "  spaces \n\n", "\nlines\r\n\tand tabs\n", "user\nŽluťoučký 你好 🙂", "2024's 100%"]
MARKERS = [IM_END, IM_START, "<|endoftext|>", "<|pad|>", "<|bos|>", "<|eos|>"]
TEXTS = st.one_of(st.sampled_from(MESSAGES), st.text("ab é\n\t\r '1.?<|你🙂", max_size=12), st.text(max_size=12))
PLAIN = TEXTS.filter(lambda text: not any(marker in text for marker in MARKERS))


@pytest.fixture(scope="module")
def theirs(tmp_path_factory, draw_gpt, small_tokenizer_file):
    folder = tmp_path_factory.mktemp("chat")
    write_folder(folder, draw_gpt(), small_tokenizer_file, chat_template=TEMPLATE)
    return AutoTokenizer.from_pretrained(folder)


@given(texts=st.lists(PLAIN, min_size=1, max_size=5), system=st.lists(st.sampled_from(MESSAGES), max_size=1))
@settings(max_examples=100, deadline=None)
def test_any_conversation_has_the_ids_of_the_template(tokenizer, theirs, texts, system):
    messages = [Message("system", text) for text in system]
    messages += [Message(("user", "assistant")[number % 2], text) for number, text in enumerate(texts)]
    as_theirs = [message._asdict() for message in messages]
    asking, whole = (
        theirs.apply_chat_template(as_theirs, add_generation_prompt=asks, return_dict=False) for asks in (True, False)
    )
    assert conversation_ids(tokenizer, messages) == asking
    parts = [part for message in messages for part in turn_ids(tokenizer, message)]
    assert [tokenizer.bos_id, *(token for part in parts for token in part)] == whole


@pytest.mark.parametrize("content", ["It runs.", "return [name]\n  for name", "}", "ñ 你好", "1 2 3"])
def test_what_is_learned_begins_where_a_prompt_ends(tokenizer, content):
    turn = turn_ids(tokenizer, ("assistant", content))
    assert [tokenizer.decode(part) for part in turn] == [f"{IM_START}assistant\n", content, IM_END, "\n"]
    assert conversation_ids(tokenizer, [])[-len(turn[0]) :] == turn[0]


@pytest.mark.parametrize("marker", [IM_END, IM_START, "<|endoftext|>"])
def test_a_marker_inside_a_message_is_ordinary_text(tokenizer, theirs, marker):
    """No message can end itself and speak for the other side: Transformers' template allows that, our ids do not."""
    said = {"role": "user", "content": f"what does {marker} mean?"}
    ids = conversation_ids(tokenizer, [tuple(said.values())])
    assert [ids.count(tokenizer.special[name]) for name in (IM_START, IM_END, "<|endoftext|>")] == [2, 1, 1]
    template_ids = theirs.apply_chat_template([said], add_generation_prompt=True, return_dict=False)
    assert template_ids.count(tokenizer.special[marker]) == ids.count(tokenizer.special[marker]) + 1
    assert theirs.decode(template_ids) == tokenizer.decode(ids)
