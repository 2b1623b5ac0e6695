"""The command line: options, output and exit codes of every command."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from llm import __main__ as command_line
from llm.export.hf.folder import read_folder
from llm.model.embeddings import nearest
from llm.model.weights import save_model
from llm.tokens.tokenizer import Tokenizer

ROOT = Path(__file__).parents[1]
COMMANDS = {"generate", "neighbours", "check", "preset", "summary", "windows", "compare-models", "compare", "trace"}
COMMANDS |= {"verify-export", "harness", "scaling", "serve", "chat", "push", "predict", "learning-curve", "add-task"}
COMMANDS |= {"figures", "page", "params", "doctor", "plan", "use-text"}


def _run(*words: object) -> str:
    """The output of a command that succeeds."""
    result = CliRunner().invoke(command_line.app, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def refuse(monkeypatch, capsys):
    """Runs a command that a user got wrong; returns its one line."""

    def run_refused(*words: object) -> str:
        monkeypatch.setattr(sys, "argv", ["llm", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            command_line.run()
        printed = capsys.readouterr()
        assert (ended.value.code, printed.out, printed.err.count("\n")) == (2, "", 1)
        return printed.err

    return run_refused


def test_help_lists_every_command_without_loading_torch():
    code = "import sys, llm.__main__ as m\ntry: m.run()\nfinally: print('torch' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code, "--help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert [command for command in COMMANDS if command not in shown.stdout] == []
    assert shown.stdout.endswith("False\n")


def test_every_command_and_parameter_has_help():
    commands = get_command(command_line.app).commands
    assert {name.replace("_", "-") for name in COMMANDS} == set(commands)
    without = [
        (name, parameter.name)
        for name, command in commands.items()
        for parameter in command.params
        if not (command.help and parameter.help)
    ]
    assert without == []


def test_a_check_prints_what_a_run_costs(monkeypatch):
    monkeypatch.setattr("llm.commands.cost.predict", lambda path: f"expected: about 7 minutes with {path.name}")
    assert _run("check", "--params", ROOT / "params.yaml") == "expected: about 7 minutes with params.yaml\n"


def test_invalid_params_are_one_line_and_exit_code_2(tmp_path):
    assert _run("check", "--no-cost", "--params", ROOT / "params.yaml") == ""
    file = tmp_path / "params.yaml"
    file.write_text((ROOT / "params.yaml").read_text().replace("vocab_size:", "vocab_sise:"))
    command = [sys.executable, "-m", "llm", "check", "--params", str(file)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (2, "", 1)
    assert ended.stderr.startswith(f"llm: {file}: tokenize.vocab_size: ")


@pytest.fixture
def river(exported_folder):
    """Continues a text with the exported model; returns what is new."""

    def run(*options: object, prompt: str = "The river") -> str:
        text = _run("generate", prompt, "--model", exported_folder, "--max-tokens", 30, *options)
        assert text.startswith(prompt)
        return text.removeprefix(prompt).removesuffix("\n")

    return run


def test_the_same_seed_gives_the_same_text(river):
    first = river("--seed", 3)
    assert first
    assert river("--seed", 3) == first != river("--seed", 4)
    assert river("--seed", 3, "--temperature", 0) == river("--seed", 4, "--temperature", 0)


def test_generation_ends_before_a_stop_string(river, refuse):
    new = river("--seed", 3)
    stop = new[9:12]
    assert river("--seed", 3, "--stop", "not in the text", "--stop", stop) == new[: new.index(stop)]
    assert "--stop: expected a text" in refuse("generate", "The", "--stop", "")


@pytest.mark.parametrize(
    "option", [("--top-k", 2), ("--top-p", 0.5), ("--min-p", 0.5), ("--repetition-penalty", 3), ("--temperature", 2)]
)
def test_every_sampling_option_changes_the_text_reproducibly(river, option):
    assert river(*option) == river(*option) != river()


def test_a_model_without_an_export_generates_from_its_weights(tmp_path, draw_gpt, small_tokenizer_file):
    save_model(tmp_path, draw_gpt(attention="trainable"))
    words = ("--model", tmp_path, "--tokenizer", small_tokenizer_file, "--max-tokens", 60)
    assert len(_run("generate", "The river", *words)) > len("The river\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "expected --minutes or --hours"),
        (("--minutes", 1, "--hours", 1), "expected --minutes or --hours"),
        (
            ("--minutes", 1, "--candidate", "huge"),
            "--candidate: expected one of recommended, smaller, larger, got huge",
        ),
        (("--minutes", 1, "--params", "no.yaml"), "no.yaml"),
    ],
)
def test_a_plan_is_refused_before_anything_is_trained(refuse, words, message):
    assert message in refuse("plan", *words)


def test_neighbours_lists_the_nearest_tokens(exported_folder, small_tokenizer_file, refuse):
    tokenizer, embedding = Tokenizer.load(small_tokenizer_file), read_folder(exported_folder).embedding.weight.detach()
    assert [len(tokenizer.encode(text)) for text in ("a", " a", "name", " name")] == [1, 2, 1, 1]
    for word, spelled in (("a", ["a"]), ("name", ["name", " name"])):
        lines = _run("neighbours", word, "--model", exported_folder, "--top", 3).splitlines()
        for text, at in zip(spelled, range(0, len(lines), 4), strict=True):
            token = tokenizer.encode(text)[0]
            near = [f"  {cosine:6.3f}  {tokenizer.decode([id_])!r}" for id_, cosine in nearest(embedding, token, 3)]
            assert lines[at : at + 4] == [f"{text!r}, id {token}", *near]
    lines = _run("neighbours", "zebra", "--model", exported_folder).splitlines()
    assert lines[0] == "'zebra' is 5 tokens: 'z' 'e' 'b' 'r' 'a'; the neighbors are of the last one"
    assert lines[1:] == _run("neighbours", "a", "--model", exported_folder).splitlines()
    assert "WORD: expected a text" in refuse("neighbours", "", "--model", exported_folder)


def test_a_preset_prints_the_values_that_it_changes(tmp_path, monkeypatch, refuse):
    monkeypatch.chdir(tmp_path)
    Path("presets").mkdir()
    Path("presets/wide.yaml").write_text("model:\n  d_model: 768\n")
    Path("params.yaml").write_text("model:\n  d_model: 192  # width\n  n_layers: 4\n")
    assert _run("preset", "wide") == "model.d_model: 192 → 768\n"
    assert Path("params.yaml").read_text() == "model:\n  d_model: 768  # width\n  n_layers: 4\n"
    assert "params.yaml already has the values of wide" in _run("preset", "wide")
    assert "expected one of wide, got huge" in refuse("preset", "huge")
    problem = "params.yaml/x: expected folders above it, params.yaml is a file"
    assert refuse("preset", "wide", "--params", "params.yaml/x") == f"llm: {problem}\n"


def test_summary_shows_how_to_try_the_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(command_line.app, ["summary"])
    assert (result.exit_code, result.stdout) == (1, "")
    assert "expected metrics of a run, got none; make repro trains and measures a model" in result.stderr
    Path("metrics").mkdir()
    for name, content in {"pretrain": {}, "evaluate": {"example_prompt": "Это 'река' и"}}.items():
        Path(f"metrics/{name}.json").write_text(json.dumps(content))
    assert "There is no model in" in _run("summary")
    Path("models/export/hf").mkdir(parents=True)
    Path("models/export/hf/config.json").write_text("{}")
    command = next(line for line in _run("summary").splitlines() if "llm generate" in line)
    assert shlex.split(command)[:4] == ["python", "-m", "llm", "generate"]
    assert shlex.split(command)[-1] == "Это 'река' и"


@pytest.fixture
def windows(tmp_path, write_windows_folder, small_tokenizer_file) -> list[object]:
    """The options for a folder of windows and its tokenizer."""
    ids = Tokenizer.load(small_tokenizer_file).encode("the rain falls on the river " * 3)
    folder = write_windows_folder(tmp_path / "windows", {"train": [ids]}, 320, 8)
    return ["--folder", folder, "--tokenizer", small_tokenizer_file]


def test_windows_shows_rows_of_input_and_target(windows, refuse):
    lines = _run("windows", "--show", 3, "--window", 1, *windows).splitlines()
    assert lines[0].startswith("train: ")
    assert lines[0].endswith(" windows of up to 8 tokens, stride 8")
    assert lines[1].startswith("window 1 begins at token 8 of ")
    assert [line.count("---------->") for line in lines[2:]] == [1] * 6
    assert "--window: expected less than the " in refuse("windows", "--window", 1000, *windows)
    assert "trian.parquet" in refuse("windows", "--split", "trian", *windows)


def test_a_number_that_is_too_large_is_refused_with_its_limit():
    result = CliRunner().invoke(command_line.app, ["serve", "--slots", "1000000"])
    assert result.exit_code == 2
    assert "--slots" in result.output and "4096" in result.output


def test_page_writes_one_file_of_a_model(exported_folder, tmp_path, refuse, write_corpus):
    write_corpus(tmp_path, {"test": {"a.txt": "The river runs."}})
    options = ["--text", tmp_path / "test.parquet", "--output", tmp_path / "new" / "a.html"]
    printed = _run("page", exported_folder, *options)
    assert printed.startswith(f"{tmp_path}/new/a.html: 17,064 weights, 0.")
    assert printed.endswith(f"no task {exported_folder.name} in params.yaml: text of {tmp_path}/test.parquet\n")
    assert "The river runs." in (tmp_path / "new" / "a.html").read_text(encoding="utf-8")
    (tmp_path / "new" / "a.html").unlink()
    assert "page.max_bytes: expected at most 30,000" in refuse("page", exported_folder, *options, "--max-bytes", 30_000)
    assert not (tmp_path / "new" / "a.html").exists()
