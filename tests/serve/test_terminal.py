"""A conversation over a pipe: a line a message, an answer a line or more."""

import io
import json
import shutil

import pytest
from typer.testing import CliRunner

from llm import __main__ as command_line
from llm.core.errors import UserError
from llm.finetune.shared.chat import conversation_ids
from llm.serve.run import load
from llm.serve.terminal import Conversation, GenerationOptions, chat

OPTIONS = GenerationOptions(temperature=0.8, top_p=None, max_tokens=12, seed=1, system=None)


def _talk(folder, text, **options):
    out = io.StringIO()
    chat(folder, GenerationOptions(**(vars(OPTIONS) | options)), io.StringIO(text), out)
    return out.getvalue()


def test_a_message_of_several_lines_is_answered_alone(chat_folder, capsys):
    one_line, two_lines = (
        CliRunner().invoke(command_line.app, ["chat", str(chat_folder), text, "--temperature", "0"], input="ignored\n")
        for text in ("Why?", "Why?\n\n/quit")
    )
    assert one_line.exit_code == two_lines.exit_code == 0
    assert one_line.stdout == _talk(chat_folder, "Why?\n", temperature=0.0, max_tokens=200)
    assert two_lines.stdout.count("\n") >= 1


@pytest.mark.parametrize(("message", "what"), [(" ", "expected a text, got an empty one"), ("x" * 2000, "tokens")])
def test_a_message_that_cannot_be_answered_is_an_error(chat_folder, exported_folder, message, what):
    with pytest.raises(UserError, match=what):
        CliRunner().invoke(command_line.app, ["chat", str(chat_folder), message], catch_exceptions=False)
    with pytest.raises(UserError, match="python -m llm generate"):
        _talk(exported_folder, "Why?\n")  # of a base model


OTHERS = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('No system message.') }}{% endif %}"
    "{{ bos_token }}{% for message in messages %}[{{ message['role'] }}] {{ message['content'] }}\n{% endfor %}"
    "[assistant]"
)


@pytest.mark.parametrize("place", ["chat_template.jinja", "tokenizer_config.json"])
def test_a_template_of_others_is_rendered_as_transformers_does(tmp_path, exported_folder, place):
    from transformers import AutoTokenizer

    folder = shutil.copytree(exported_folder, tmp_path / "others")
    assert not load(folder)[2]
    if place == "chat_template.jinja":
        (folder / place).write_text(OTHERS)
    else:
        content = json.loads((folder / place).read_text())
        (folder / place).write_text(json.dumps(content | {"chat_template": OTHERS}))
    _, tokenizer, chats = load(folder)
    assert chats
    ids = conversation_ids(tokenizer, [("user", "Why?")])
    text = "<|endoftext|>[user] Why?\n[assistant]"
    assert ids == AutoTokenizer.from_pretrained(folder).encode(text, add_special_tokens=False)
    assert ids.count(tokenizer.end_of_text) == 1
    assert _talk(folder, "Why?\nAnd?\n").count("\n") >= 2
    assert "template takes, got: No system message." in _talk(folder, "Why?\n", system="Be brief.")


def test_the_same_seed_gives_the_same_conversation(chat_folder):
    said = _talk(chat_folder, "Why?\nAnd then?\n")
    assert said.count("\n") >= 2
    assert said == _talk(chat_folder, "Why?\n\nAnd then?\n")
    for changed in {"seed": 2}, {"system": "Be brief."}:
        assert said != _talk(chat_folder, "Why?\nAnd then?\n", **changed)
    first = _talk(chat_folder, "Why?\n")
    assert _talk(chat_folder, "Why?\n/new\nWhy?\n/quit\nWhy?\n") == f"{first}(a new conversation)\n{first}"


def test_earlier_turns_are_read_until_a_reset(talker, tokenizer):
    talk = Conversation(talker, tokenizer, OPTIONS)
    answers = []
    for user in ("Why?", "Why?"):
        assert talk.add_user(user) == 0
        talk.answer(io.StringIO())
        answers.append(talk.turns[-1][1])
    assert talk.turns == [("user", "Why?"), ("assistant", answers[0]), ("user", "Why?"), ("assistant", answers[1])]
    talk.reset()
    talk.add_user("Why?")
    talk.answer(io.StringIO())
    assert talk.turns[-1][1] == answers[0] != answers[1]


def test_the_oldest_turns_are_dropped_when_the_context_is_full(draw_gpt, tokenizer):
    talk = Conversation(draw_gpt(context_length=96).eval(), tokenizer, OPTIONS)
    dropped = 0
    for number in range(12):
        dropped += talk.add_user(f"Why {number}?")
        talk.answer(io.StringIO())
        assert len(conversation_ids(tokenizer, talk.turns[:-1])) <= 96 - 12 + 1
    assert dropped == 12 - len(talk.turns) // 2 > 0
    assert talk.turns[-2][1] == "Why 11?"
    before = list(talk.turns)
    with pytest.raises(UserError, match="expected a message of at most 85 tokens"):
        talk.add_user("Why? " * 50)
    assert talk.turns == before


def test_dropped_turns_and_long_messages_are_reported(chat_folder):
    said = _talk(chat_folder, f"{'Why? ' * 180}\n{'And? ' * 180}\n{'No! ' * 600}\n", max_tokens=5)
    assert "(the context is full: the oldest 1 turns were dropped)\n" in said
    assert "(expected a message of at most 1020 tokens with its template, got " in said


def test_bytes_that_are_no_text_are_marked_and_answered(chat_folder):
    out = io.StringIO()
    chat(chat_folder, OPTIONS, io.TextIOWrapper(io.BytesIO(b"h\xff\n"), encoding="utf-8"), out)
    assert out.getvalue() == _talk(chat_folder, "h\ufffd\n")
