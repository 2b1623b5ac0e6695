import subprocess

import pytest

from llm.report.markdown import python_string, shell_string

TEXTS = [
    "plain",
    "it's",
    'say "it"',
    "def f(x)\n\n",
    "a\\nb\n",
    "$HOME `ls` !\n",
    "день\u3000\u2028",
    "\x1b[2J",
    "\U0001f600\x85",
    "",
]


@pytest.mark.parametrize("text", TEXTS)
def test_bash_and_python_read_the_text_that_was_written(text):
    command = f"printf %s {shell_string(text)}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, check=True, env={"LC_ALL": "C.UTF-8"})
    assert done.stdout.decode() == text
    assert eval(python_string(text)) == text  # noqa: S307 (our own text)
    assert len(shell_string(text).splitlines()) == len(python_string(text).splitlines()) == 1
