"""The command line: what it is told, what it says, and how it ends."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from llm import __main__ as command_line

ROOT = Path(__file__).parents[1]
COMMANDS = {"generate", "neighbours", "check", "preset", "summary", "windows", "compare-models"}
COMMANDS |= {"compare", "trace", "verify-export", "harness", "scaling", "serve", "chat", "push", "predict"}
COMMANDS |= {"learning-curve", "add-task", "figures"}


def _run(*words: object) -> str:
    """A command's output, where it ends well."""
    result = CliRunner().invoke(command_line.app, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def _module(*words: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "llm", *map(str, words)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture
def refuse(monkeypatch, capsys):
    """Runs a command that the user got wrong; gives the one line that it says."""

    def run_refused(*words: object) -> str:
        monkeypatch.setattr(sys, "argv", ["llm", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            command_line.run()
        said = capsys.readouterr()
        assert ended.value.code == 2
        assert said.out == ""
        assert said.err.count("\n") == 1
        return said.err

    return run_refused


@pytest.fixture
def params_file(tmp_path) -> Path:
    path = tmp_path / "params.yaml"
    path.write_bytes((ROOT / "params.yaml").read_bytes())
    return path


def test_help_lists_every_command_without_loading_torch():
    code = "import sys, llm.__main__ as m\ntry: m.run()\nfinally: print('torch' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code, "--help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert [command for command in COMMANDS if command not in shown.stdout] == []
    assert shown.stdout.endswith("False\n")


def test_every_command_is_known_to_these_tests_and_has_help():
    names = {
        command.name or command.callback.__name__.replace("_", "-") for command in command_line.app.registered_commands
    }
    assert names == COMMANDS
    for name in COMMANDS:
        assert "Usage" in _run(name, "--help")


def test_a_params_file_that_is_wrong_is_one_line_and_exit_code_2(params_file):
    params_file.write_text(params_file.read_text().replace("vocab_size:", "vocab_sise:"))
    ended = _module("check", "--params", params_file)
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert "tokenize.vocab_size: required key is missing" in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert "Traceback" not in ended.stderr


def test_check_says_nothing_of_a_params_file_that_is_right(params_file):
    assert _run("check", "--params", params_file) == ""


@pytest.mark.parametrize("content", ["seed: [1\n", "seed: 1\nseed: 2\n", "- 1\n", ""])
def test_check_names_a_file_that_is_no_params_file(refuse, params_file, content):
    params_file.write_text(content)
    assert str(params_file) in refuse("check", "--params", params_file)


def test_check_names_a_file_that_is_not_there(refuse, tmp_path):
    assert "none.yaml" in refuse("check", "--params", tmp_path / "none.yaml")


def test_a_text_goes_on_and_the_same_seed_draws_the_same(exported_folder):
    words = ("generate", "The river", "--model", exported_folder, "--max-tokens", 30)
    first = _run(*words, "--seed", 3)
    assert first.startswith("The river")
    assert len(first) > len("The river\n")
    assert _run(*words, "--seed", 3) == first
    assert _run(*words, "--seed", 4) != first


def test_at_temperature_0_the_seed_is_of_no_account(exported_folder):
    words = ("generate", "The river", "--model", exported_folder, "--max-tokens", 30, "--temperature", 0)
    assert _run(*words, "--seed", 3) == _run(*words, "--seed", 4)


def test_a_longer_text_begins_with_the_shorter_one(exported_folder):
    words = ("generate", "", "--model", exported_folder, "--max-tokens")
    short, long = _run(*words, 10), _run(*words, 70)
    assert long.startswith(short.rstrip("\n").rstrip("\ufffd"))
    assert len(long) > len(short)


def test_generate_ends_before_a_stop_string(exported_folder):
    words = ("generate", "The river", "--model", exported_folder, "--max-tokens", 30, "--seed", 3)
    new = _run(*words).removeprefix("The river").rstrip("\n")
    stop = new[9:12]
    assert _run(*words, "--stop", "nowhere to be found", "--stop", stop) == f"The river{new[: new.index(stop)]}\n"


@pytest.mark.parametrize(
    "option", [("--top-k", 2), ("--top-p", 0.5), ("--min-p", 0.5), ("--repetition-penalty", 3), ("--temperature", 2)]
)
def test_every_way_of_drawing_changes_the_text_and_not_from_run_to_run(exported_folder, option):
    words = ("generate", "The river", "--model", exported_folder, "--max-tokens", 30)
    assert _run(*words, *option) == _run(*words, *option) != _run(*words)


def test_a_model_that_cannot_be_exported_generates_from_its_weights(tmp_path, draw_gpt, small_tokenizer_file):
    from llm.model.weights import save_model

    for name, shape in {"gru": {"family": "gru"}, "looks ahead": {"attention": "trainable"}}.items():
        save_model(tmp_path / name, draw_gpt(**shape))
        words = ("--model", tmp_path / name, "--tokenizer", small_tokenizer_file, "--max-tokens", 60)
        assert len(_run("generate", "The river", *words)) > len("The river\n")


def test_generate_refuses_an_empty_stop_string(refuse, exported_folder):
    assert "--stop: wanted a text" in refuse("generate", "The", "--model", exported_folder, "--stop", "")


def test_neighbours_lists_the_nearest_embeddings_of_a_word_with_and_without_its_space(
    exported_folder, small_tokenizer_file
):
    from llm.export.hf.folder import read_folder
    from llm.model.embeddings import nearest
    from llm.tokens.tokenizer import Tokenizer

    tokenizer, embedding = Tokenizer.load(small_tokenizer_file), read_folder(exported_folder).embedding.weight.detach()
    assert [len(tokenizer.encode(text)) for text in ("a", " a", "name", " name")] == [1, 2, 1, 1]
    for word, spelled in (("a", ["a"]), ("name", ["name", " name"])):
        expected = []
        for text in spelled:
            token = tokenizer.encode(text)[0]
            expected.append(f"{text!r}, id {token}")
            near = nearest(embedding, token, 3)
            expected += [f"  {cosine:6.3f}  {tokenizer.decode([other])!r}" for other, cosine in near]
        assert _run("neighbours", word, "--model", exported_folder, "--top", 3).splitlines() == expected


def test_neighbours_of_a_word_of_several_tokens_are_those_of_the_last_and_it_says_so(exported_folder):
    lines = _run("neighbours", "zebra", "--model", exported_folder).splitlines()
    assert lines[0] == "'zebra' is 5 tokens: 'z' 'e' 'b' 'r' 'a'; the neighbours are of the last one"
    assert lines[1:] == _run("neighbours", "a", "--model", exported_folder).splitlines()
    assert len(lines) == 12


def test_neighbours_refuses_an_empty_word(refuse, exported_folder):
    assert "WORD: wanted a text" in refuse("neighbours", "", "--model", exported_folder)


def test_generate_names_a_folder_that_is_no_model(refuse, tmp_path):
    assert str(tmp_path) in refuse("generate", "The", "--model", tmp_path)


def test_a_preset_changes_the_values_it_names_and_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("presets").mkdir()
    Path("presets/wide.yaml").write_text("model:\n  d_model: 768\n")
    Path("params.yaml").write_text("model:\n  d_model: 192  # width\n  n_layers: 4\n")
    assert _run("preset", "wide") == "model.d_model: 192 → 768\n"
    assert Path("params.yaml").read_text() == "model:\n  d_model: 768  # width\n  n_layers: 4\n"
    assert "params.yaml has the values of wide already" in _run("preset", "wide")


def test_a_preset_that_is_none_is_answered_with_those_there_are(refuse, params_file, monkeypatch):
    monkeypatch.chdir(ROOT)
    before = params_file.read_bytes()
    said = refuse("preset", "huge", "--params", params_file)
    assert "huge" in said
    assert "tiny" in said
    assert params_file.read_bytes() == before


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "presets").glob("*.yaml")))
def test_every_preset_gives_params_that_are_right(params_file, monkeypatch, name):
    monkeypatch.chdir(ROOT)
    assert _run("preset", name, "--params", params_file)
    assert _run("check", "--params", params_file) == ""


def _write_metrics(folder, metrics):
    (folder / "finetune").mkdir(parents=True)
    for name, content in metrics.items():
        (folder / f"{name}.json").write_text(json.dumps(content))


def test_summary_shows_what_was_measured_and_why_a_task_was_skipped(tmp_path):
    report = {
        "evaluate": {"val": {"bits_per_byte": 1.111}, "test": {"bits_per_byte": 1.234}},
        "baselines": {"val": {"xz": 2.111}, "test": {"xz": 2.345}},
        "finetune/topics": {"test": {"pretrained": {"accuracy": 0.875}, "tfidf": {"accuracy": 0.625}}},
        "finetune/answers": {"test": {"answer_bits_per_byte": {"before": 3.456, "after": 2.125}}},
        "finetune/library": {"skipped": "the corpus has no docstrings"},
        "finetune/other": {"skipped": "no function of the corpus is left in test"},
    }
    _write_metrics(tmp_path, report)
    shown = _run("summary", tmp_path)
    figures = ["1.234", "2.345", "0.875", "0.625", "3.456", "2.125", "no function of the corpus is left in test"]
    assert [figure for figure in figures if figure not in shown] == []
    assert "1.111" not in shown
    assert "Python" not in shown


@pytest.mark.parametrize("folder", ["nowhere", "empty"])
def test_summary_without_metrics_says_so_and_ends_with_1(tmp_path, folder):
    (tmp_path / "empty").mkdir()
    result = CliRunner().invoke(command_line.app, ["summary", str(tmp_path / folder)])
    assert (result.exit_code, result.stdout) == (1, "")
    assert "expected metrics of a run, got none; make repro trains and measures a model" in result.stderr


def test_summary_of_a_run_that_held_nothing_out_says_that(tmp_path):
    _write_metrics(tmp_path, {"pretrain": {}, "evaluate": {"example_prompt": "x"}, "baselines": {}})
    assert "No text was held out, so nothing was measured." in _run("summary", tmp_path)


def test_summary_shows_how_to_try_the_model_on_text_of_its_kind(tmp_path, monkeypatch):
    _write_metrics(tmp_path, {"pretrain": {}, "evaluate": {"example_prompt": "Это 'река' и"}})
    monkeypatch.setattr(command_line, "EXPORT", tmp_path)
    assert "There is no model in" in _run("summary", tmp_path)
    (tmp_path / "config.json").write_text("{}")
    command = next(line for line in _run("summary", tmp_path).splitlines() if "llm generate" in line)
    assert shlex.split(command) == ["python", "-m", "llm", "generate", "--model", str(tmp_path), "Это 'река' и"]


@pytest.fixture
def windows(tmp_path, write_windows_folder, small_tokenizer_file) -> list[object]:
    """The options that name a folder of windows and its tokenizer."""
    from llm.tokens.tokenizer import Tokenizer

    ids = Tokenizer.load(small_tokenizer_file).encode("the rain falls on the river " * 3)
    folder = write_windows_folder(tmp_path / "windows", {"train": [ids]}, 320, 8)
    return ["--folder", folder, "--tokenizer", small_tokenizer_file]


def test_windows_shows_what_the_model_learns_from(windows):
    lines = _run("windows", "--show", 3, "--window", 1, *windows).splitlines()
    assert lines[0].startswith("train: ")
    assert lines[0].endswith(" windows of up to 8 tokens, stride 8")
    assert lines[1].startswith("window 1 begins at token 8 of ")
    assert [line.count("---------->") for line in lines[2:]] == [1] * 6


def test_windows_refuses_a_window_and_a_split_that_are_not_there(windows, refuse):
    assert "--window: wanted below the " in refuse("windows", "--window", 1000, *windows)
    assert "expected a Parquet table, it is missing" in refuse("windows", "--split", "trian", *windows)


@pytest.mark.parametrize(
    "words",
    [
        ["generate", "x", "--seed", "18446744073709551616"],
        ["chat", "models/none", "--seed", "18446744073709551616"],
        ["verify-export", "--seed", "18446744073709551616"],
        ["serve", "--slots", "1000000"],
    ],
)
def test_an_overlong_number_is_refused_with_the_most_that_is_allowed(words: list[str]) -> None:
    result = CliRunner().invoke(command_line.app, words)
    assert result.exit_code == 2
    assert words[-2] in result.output
    assert str(4096 if words[0] == "serve" else 2**63 - 1) in result.output


def test_an_error_of_the_system_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text\nhello\n")
    (tmp_path / "params.yaml").mkdir()
    command = [sys.executable, "-m", "llm", "preset", "tiny", "--params", str(tmp_path / "params.yaml" / "x" / "y")]
    (tmp_path / "params.yaml" / "x").write_text("a file")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == (
        f"llm: {tmp_path}/params.yaml/x/y: expected folders above it, {tmp_path}/params.yaml/x is a file\n"
    )
