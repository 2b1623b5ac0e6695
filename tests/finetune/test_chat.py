"""Our ids of a conversation are those that Transformers makes of the template."""

import pytest
from transformers import AutoTokenizer

from llm.export.huggingface import write_folder
from llm.finetune.chat import TEMPLATE, prompt_ids, user_message
from llm.text.tokenizer import IM_END, IM_START, Tokenizer

MESSAGES = ["Name the river.", "", "  spaces \n\n", "\nlines\r\n\tand tabs\n", "user\nŽluťoučký 你好 🙂", "2024's 100%"]


@pytest.fixture(scope="module")
def theirs(tmp_path_factory, draw_gpt, small_tokenizer_file):
    folder = tmp_path_factory.mktemp("chat")
    write_folder(folder, draw_gpt(), small_tokenizer_file, chat_template=TEMPLATE)
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def ours(small_tokenizer_file) -> Tokenizer:
    return Tokenizer.load(small_tokenizer_file)


@pytest.mark.parametrize("user", MESSAGES)
def test_a_prompt_has_the_ids_of_the_template(ours, theirs, user):
    asked = [{"role": "user", "content": user}]
    expected = theirs.apply_chat_template(asked, add_generation_prompt=True, return_dict=False)
    assert prompt_ids(ours, user) == expected


@pytest.mark.parametrize("answer", ["It runs.", "return [name]\n  for name", "}", "ñ 你好", "1 2 3"])
@pytest.mark.parametrize("user", MESSAGES)
def test_prompt_answer_and_end_have_the_ids_of_the_template(ours, theirs, user, answer):
    said = [{"role": "user", "content": user}, {"role": "assistant", "content": answer}]
    expected = theirs.apply_chat_template(said, return_dict=False)
    ids = [*prompt_ids(ours, user), *ours.encode(answer), ours.special[IM_END], *ours.encode("\n")]
    assert ids == expected


@pytest.mark.parametrize("marker", [IM_END, IM_START, "<|endoftext|>"])
def test_a_marker_inside_a_message_is_ordinary_text(ours, theirs, marker):
    """No message can end itself and speak for the other side: Transformers' template allows that, our ids do not."""
    user = f"what does {marker} mean?"
    ids = prompt_ids(ours, user)
    assert [ids.count(ours.special[name]) for name in (IM_START, IM_END, "<|endoftext|>")] == [2, 1, 0]
    assert user in ours.decode(ids)
    asked = [{"role": "user", "content": user}]
    template_ids = theirs.apply_chat_template(asked, add_generation_prompt=True, return_dict=False)
    assert template_ids.count(ours.special[marker]) == ids.count(ours.special[marker]) + 1
    assert theirs.decode(template_ids) == ours.decode(ids)


def test_an_instruction_and_its_input_are_two_paragraphs():
    assert user_message("Sum up.", "A long text.") == "Sum up.\n\nA long text."
    assert user_message("Sum up.", None) == user_message("Sum up.", "") == "Sum up."
