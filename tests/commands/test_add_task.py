"""A file becomes a task of params.yaml that reads it; all else in params.yaml stays."""

import csv
import json
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner

from llm import __main__ as command_line
from llm.commands.add_task import EXPORT, add_task, choose_epochs
from llm.commands.check import check_params
from llm.core.errors import UserError
from llm.finetune.data.labeled import read_classify

ROOT = Path(__file__).parents[2]
PARAMS = Path("params.yaml")


text = "a text with number {}".format
label = ["good", "bad"] * 9999
split = ["train", "train", "validation", "test"] * 9999
worse = "not {}".format


def turns(n: int) -> list[dict]:
    return [{"role": "user", "content": f"Count to {n}."}, {"role": "assistant", "content": "On."}]


def sent(n: int) -> list[dict]:
    return [{"from": "human", "value": f"Count to {n}."}, {"from": "gpt", "value": "On."}]


def many(n: int = 40, **columns) -> list[dict]:
    """Rows; a function is called with a row's number, which is the place in a list."""

    def cell(of, at):
        return of(at) if callable(of) else of[at] if isinstance(of, list) else of

    return [{key: cell(of, at) for key, of in columns.items()} for at in range(n)]


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A repository's folder with our params.yaml."""
    (tmp_path / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(name: str, rows: list[dict]) -> Path:
    path = Path(name)
    with path.open("w", newline="", encoding="utf-8") as file:
        if path.suffix == ".json":
            json.dump(rows, file)
        elif path.suffix == ".jsonl":
            file.writelines(json.dumps(row) + "\n" for row in rows)
        else:
            writer = csv.DictWriter(file, rows[0].keys(), delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    return path


def add(file: Path, name: str = "mine", **options):
    lines = add_task(PARAMS, name, file, **options)
    return check_params(PARAMS).finetune.tasks[name], lines


def columns_of(task) -> str:
    """A task's kind and columns on one line."""
    match task.kind:
        case "classify":
            words = ["+".join(task.text_columns), task.label_column, task.label_separator]
        case "instruct":
            words = list(task.rows.model_dump().values())
        case _:
            prompt = "+".join(filter(None, [task.prompt_column, task.input_column]))
            words = ["dpo", prompt, task.chosen_column, task.rejected_column]
    return " ".join(word for word in [*words, task.split_column] if word)


# File, rows, options, columns.
GUESSES = [
    ("a.csv", many(text=text, label=label), {}, "text label"),
    ("a.csv", many(id=str, Review=text, Stars=lambda n: n % 5), {}, "Review Stars"),
    ("a.tsv", many(label=label, sentence=text, split=split), {}, "sentence label split"),
    ("a.jsonl", many(premise=text, hypothesis=text, label=label), {}, "premise+hypothesis label"),
    ("a.csv", many(v1=label, v2=text), {}, "v2 v1"),
    ("a.jsonl", many(text=text, labels=lambda n: ["x", "y"][: n % 3]), {}, "text labels |"),
    ("a.csv", many(text=text, label=label, split=lambda n: ["Train", "Val", "TEST"][n % 3]), {}, "text label split"),
    ("a.csv", [{"v1": label[n], "v2": text(n), "": "", " ": ""} for n in range(40)], {}, "v2 v1"),
    (
        "a.jsonl",
        many(system="Be kind.", instruction=text, input="", output=text),
        {},
        "system alpaca instruction input output",
    ),
    ("a.jsonl", many(prompt=text, completion=text, set=split), {}, "prompt_completion prompt completion set"),
    ("a.jsonl", many(messages=turns, id=str), {}, "messages messages"),
    ("a.csv", many(messages=lambda n: json.dumps(turns(n))), {}, "messages messages"),
    ("a.jsonl", many(conversations=sent), {}, "sharegpt conversations"),
    ("a.jsonl", many(prompt=text, chosen=text, rejected=worse), {}, "dpo prompt chosen rejected"),
    (
        "a.jsonl",
        many(instruction=text, input=text, chosen=text, rejected=worse),
        {},
        "dpo instruction+input chosen rejected",
    ),
    # What is named is not guessed.
    ("a.csv", many(a=text, b=text, c=label, d=text), {"texts": ["b", "a"], "label": "c"}, "b+a c"),
    ("a.csv", many(question=text, answer=text, label=label), {"kind": "classify"}, "question label"),
    ("a.csv", many(a=text, b=text, c=text), {"kind": "instruct", "texts": ["a", "b"], "label": "c"}, "alpaca a b c"),
    ("a.jsonl", many(talk=turns), {"kind": "instruct", "texts": ["talk"]}, "messages talk"),
    ("a.csv", many(text=text, label=label, split=worse, part=split), {"split": "part"}, "text label part"),
    ("a.csv", many(text=text, label=label, split=split), {"split": "none"}, "text label"),
]


@pytest.mark.parametrize(("name", "rows", "options", "columns"), GUESSES)
def test_columns_are_guessed_and_a_task_is_inserted(folder, name, rows, options, columns):
    task, lines = add(write(name, rows), **options)
    assert columns_of(task) == columns
    assert (task.data, task.base) == (name, EXPORT.as_posix())
    assert lines[0].startswith(f"mine: {task.kind}, ")
    assert lines[-2:] == [f"  dvc add {name}", "  dvc repro finetune@mine"]
    assert sorted(path.name for path in folder.iterdir()) == sorted([name, "params.yaml"])


def test_a_task_states_only_what_differs_of_a_tracked_file(folder):
    write("rows.csv", many(400, text=text, label=label, split=split))
    Path("rows.csv.dvc").write_text("outs: []\n")
    _, lines = add(folder / "rows.csv")
    assert not any("dvc add" in line for line in lines)
    stated = {"kind": "classify", "base": EXPORT.as_posix(), "data": "rows.csv", "text_columns": ["text"]}
    stated |= {"label_column": "label", "split_column": "split", "training": {"epochs": 10.0}}
    assert YAML(typ="safe").load(PARAMS.read_text())["finetune"]["tasks"]["mine"] == stated


def test_a_file_without_a_header(folder):
    path = Path("rows.csv")
    path.write_text("".join(f"{label[n]},{text(n)}\n" for n in range(40)))
    with pytest.raises(UserError, match=r"expected a header, got a row as the first line \(good\); see --no-header"):
        add(path)
    task, _ = add(path, header=False)
    assert (columns_of(task), task.header) == ("2 1", False)
    assert len(read_classify(path, task, 1).table) == 40


def test_numbers_suit_the_rows(folder):
    few = add(write("rows.csv", many(6, text=text, label=label)), "few")[0]
    assert few.min_rows_per_label == 1
    long, lines = add(write("rows.csv", many(100, text=lambda n: f"{n:02}" + "x" * 98, label=label)), "long")
    assert (long.max_tokens, long.training.epochs, long.min_rows_per_label) == (None, 10.0, 2)
    assert any(line.startswith("max_tokens: at most 128 by the rows of train") for line in lines)
    assert "epochs: 10, about 30 steps of 32 rows" in lines
    longer, lines = add(write("rows.csv", many(6000, text=lambda n: "x" * 300 + str(n), label=label)), "longer")
    context = check_params(PARAMS).sample.context_length
    assert any(line.startswith(f"max_tokens: at most {context} by ") for line in lines)
    assert longer.training.epochs == 2.0
    for n_rows in (480, 500, 700, 1000, 2500, 5000, 9000, 12800):
        assert 150 <= choose_epochs(n_rows, 32) * n_rows / 32 <= 400


def test_lengths_are_tokens_of_the_base_or_bytes(folder, exported_folder, small_tokenizer_file, tokenizer):
    rows = many(100, text=lambda n: f"{n:02} {'path ' * (n % 50)}", label=label)
    path, texts = write("rows.csv", rows), [row["text"] for row in rows]
    most = max(map(len, texts)) + 1
    missing = f"bytes, at least as many as tokens ({EXPORT}/tokenizer.json does not exist yet)"
    assert f"max_tokens: at most 256 by the rows of train; the longest row has {most} {missing}" in add(path)[1]
    lengths = [len(tokenizer.encode(text)) + 1 for text in texts]
    Path("data/tokenizer").mkdir(parents=True)
    Path("data/tokenizer/tokenizer.json").write_bytes(small_tokenizer_file.read_bytes())
    for name, options in [("by_the_corpus", {}), ("by_the_base", {"base": exported_folder})]:
        lines = add_task(PARAMS, name, path, **options)
        assert any(line.endswith(f"; the longest row has {max(lengths)} tokens") for line in lines)
    assert any(line.startswith("max_tokens: 48 by ") for line in lines)  # the base's context
    cut = sum(length > 48 for length in lengths)
    assert f"truncated to max_tokens: {cut} of 100 rows ({cut / 100:.1%})" in lines


def test_guesses_and_ignored_columns_are_printed(folder):
    rows = many(text=text, label=label, id=str, split=lambda n: ["Train", "Train", "dev", "test"][n % 4])
    rows = [row | {"": "more" if n == 3 else "", " ": ""} for n, row in enumerate(rows)]
    lines = add(write("rows.csv", rows))[1]
    assert lines[:6] == [
        "mine: classify, text → label (2 labels); 40 rows, splits of split",
        "rows: 20 train, 10 val, 10 test",
        "dialect: separated by commas, quotes enclose cells",
        "splits: Train → train, dev → val",
        "ignored columns: id",
        "ignored columns: 2 without a name, with text in 1 rows",
    ]


def test_an_invalid_row_is_refused_or_dropped(folder):
    path = write("rows.csv", many(text=text, label=lambda n: label[n] if n != 3 else ""))
    line = "rows.csv: label: expected text, got nothing in row 4; --on-error skip drops 1 empty_label"
    with pytest.raises(UserError, match=f"^{line}$"):
        add(path)
    task, lines = add(path, on_error="skip")
    assert task.on_error == "skip"
    assert "dropped: 1 empty_label" in lines


STRANGE = ["null", "1", "a: b", "# no", "yes", "[x", 'say "hi"', "déjà", " spaced", "{x}", "two\nlines", "x" * 200]


def test_columns_and_tasks_may_have_strange_names(folder):
    for number, column in enumerate(STRANGE):
        file = write("rows.jsonl", [{column: text(n), "label": label[n]} for n in range(20)])
        name = ["2024", "null", "1e5", "a-b_c"][number] if number < 4 else f"t{number}"
        assert add(file, name)[0].text_columns == [column]


@pytest.mark.parametrize(
    "change",
    [
        lambda given: given,
        lambda given: given.replace("\n", "\r\n"),
        lambda given: given[: given.index("  tasks:")] + "  tasks: {}\n\n# of all draws\nother: [1, 0x2]\n",
    ],
)
def test_all_else_in_the_file_stays(folder, change):
    PARAMS.write_bytes(change(PARAMS.read_text()).encode())
    before = PARAMS.read_bytes().replace(b"tasks: {}", b"tasks:").splitlines()
    insert = add_task(PARAMS, "mine", write("rows.csv", many(text=text, label=label)))
    after = PARAMS.read_bytes()
    start = after.splitlines().index(b"    mine:")
    n_added = len(after.splitlines()) - len(before)
    assert insert[0].startswith("mine: ")
    assert after.splitlines()[:start] + after.splitlines()[start + n_added :] == before
    assert after.count(b"\r\n") == (after.count(b"\n") if b"\r\n" in after else 0)
    assert next(iter(YAML(typ="safe", pure=True).load(after.decode())["finetune"]["tasks"])) == "mine"


# Options for a file of texts and labels, or a file; the line.
ROWS = many(text=text, label=label)
KTO = many(9, prompt=str, completion=text, label=lambda n: n % 2 == 0)
LISTS = [{"prompt": f"{n}", "chosen": turns(n), "rejected": turns(n + 1)} for n in range(9)]
REFUSED = [
    (ROWS, {"name": "library"}, "finetune.tasks.library: expected a new name, it exists"),
    (ROWS, {"name": "My Task"}, "NAME: expected "),
    (ROWS, {"kind": "regress"}, "--kind: expected classify, instruct, dpo, got regress"),
    (ROWS, {"label": "stars"}, "--label: expected one of the columns text, label, got stars"),
    (ROWS, {"texts": ["text"] * 3}, "--text: expected one column or two, got 3"),
    (ROWS, {"kind": "instruct"}, "expected an instruction and an answer, got the columns text"),
    (ROWS, {"kind": "dpo"}, "expected the columns prompt, chosen and rejected, got the columns text"),
    (ROWS, {"base": Path("nowhere")}, "--base: expected a Hugging Face folder"),
    (ROWS, {"split": "fold"}, "--split: expected none or one of the columns text, label, got fold"),
    (many(text=text, label=label, split=lambda n: ["train", "holdout"][n % 2]), {}, "got holdout as well; rename them"),
    ({"rows.csv": "a,b,c\n1,2,3\n"}, {}, "got the columns a, b, c; name them with --text"),
    ({"rows.csv": "text,label\n"}, {}, "expected labeled rows, got none"),
    ({"rows.csv": "text,text,label\n1,2,3\n"}, {}, "expected columns of different names"),
    ({"my rows.csv": "text,label\n1,2\n"}, {}, "expected a path without spaces"),
    ({"rows.jsonl": '{"a": 1}\n'}, {"header": False}, "expected a .csv or .tsv with --no-header"),
    ({"rows.jsonl": "".join(json.dumps(row) + "\n" for row in LISTS)}, {}, "row 1: chosen: expected text, got ["),
    ({"rows.jsonl": "".join(json.dumps(row) + "\n" for row in KTO)}, {}, "label: expected good answers only"),
]


@pytest.mark.parametrize(("rows", "options", "line"), REFUSED)
def test_a_refusal_is_one_line_and_changes_nothing(folder, rows, options, line):
    if isinstance(rows, list):
        file = write("rows.csv", rows)
    else:
        ((name, content),) = rows.items()
        file = Path(name)
        file.write_text(content)
    before = PARAMS.read_bytes()
    with pytest.raises(UserError) as caught:
        add_task(PARAMS, options.pop("name", "mine"), file, **options)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)
    assert PARAMS.read_bytes() == before
    assert len(list(folder.iterdir())) == 2


def test_the_command(folder):
    Path("rows.tsv").write_text("".join(f"{label[n]}\t{text(n)}\n" for n in range(40)))
    words = ["add-task", "mine", "rows.tsv", "--no-header", "--text", "2", "--label", "1", "--kind", "classify"]
    result = CliRunner().invoke(command_line.app, words, catch_exceptions=False)
    longest = f"22 bytes, at least as many as tokens ({EXPORT}/tokenizer.json does not exist yet)"
    assert result.exit_code == 0
    assert result.output.splitlines() == [
        "mine: classify, 2 → 1 (2 labels); 40 rows, splits drawn by the seed",
        "rows: 28 train, 4 val, 8 test",
        "dialect: separated by tabs, quotes are text",
        "epochs: 10, about 10 steps of 32 rows",
        f"max_tokens: at most 64 by the rows of train; the longest row has {longest}",
        *("next:", "  dvc add rows.tsv", "  dvc repro finetune@mine"),
    ]
