"""A file becomes a task of params.yaml that is right, and nothing else of params.yaml changes."""

import csv
import json
import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner

from llm import __main__ as command_line
from llm.commands.add_task import add_task, choose_epochs
from llm.commands.check import check_params
from llm.core.errors import UserError
from llm.finetune.data.labeled import read_classify
from llm.tokens.tokenizer import Tokenizer

ROOT = Path(__file__).parents[2]


def turns(n: int) -> list[dict]:
    return [{"role": "user", "content": f"Count to {n}."}, {"role": "assistant", "content": "On."}]


def sent(n: int) -> list[dict]:
    return [{"from": "human", "value": f"Count to {n}."}, {"from": "gpt", "value": "On."}]


def worse(n: int) -> str:
    return f"not {n}"


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


def many(n: int = 40, **columns) -> list[dict]:
    """Rows; a value that can be called is called with a row's number."""
    return [{key: value(n) if callable(value) else value for key, value in columns.items()} for n in range(n)]


def add(file: Path, **options):
    lines = add_task(Path("params.yaml"), "mine", file, **options)
    return check_params(Path("params.yaml")).finetune.tasks["mine"], lines


def text(n: int) -> str:
    return f"a text with number {n}"


def label(n: int) -> str:
    return ["good", "bad"][n % 2]


def split(n: int) -> str:
    return ["train", "train", "validation", "test"][n % 4]


GUESSES = {
    "plain": ("rows.csv", many(text=text, label=label), "classify text label"),
    "reviews": ("rows.csv", many(id=str, Review=text, Stars=lambda n: n % 5), "classify Review Stars"),
    "a tsv with splits": ("rows.tsv", many(label=label, sentence=text, split=split), "classify sentence label split"),
    "two sentences": ("a.jsonl", many(premise=text, hypothesis=text, label=label), "classify premise+hypothesis label"),
    "names that say nothing": ("rows.csv", many(v1=label, v2=text), "classify v2 v1"),
    "a label and one column more": ("rows.csv", many(Class=label, abstract=text), "classify abstract Class"),
    "a text and one column more": ("rows.csv", many(tweet=text, mood=label), "classify tweet mood"),
    "any number of labels": (
        "a.jsonl",
        many(text=text, labels=lambda n: ["x", "y"][: n % 3]),
        "classify text labels |",
    ),
    "a fold of numbers": ("rows.csv", many(text=text, label=label, fold=lambda n: n % 5), "classify text label"),
    "alpaca": ("a.jsonl", many(instruction=text, input="", output=text), "alpaca instruction input output"),
    "alpaca without inputs": ("a.jsonl", many(instruction=text, response=text), "alpaca instruction response"),
    "prompts": ("a.jsonl", many(prompt=text, completion=text, set=split), "prompt_completion prompt completion set"),
    "questions": ("rows.csv", many(question=text, answer=text), "prompt_completion question answer"),
    "messages": ("a.jsonl", many(messages=turns, id=str), "messages messages"),
    "messages in a csv": ("rows.csv", many(messages=lambda n: json.dumps(turns(n))), "messages messages"),
    "sharegpt": ("a.jsonl", many(conversations=sent), "sharegpt conversations"),
    "alpaca with systems": (
        "a.jsonl",
        many(system="Be kind.", instruction=text, output=text),
        "system alpaca instruction output",
    ),
    "preferences in alpaca's columns": (
        "a.jsonl",
        many(instruction=text, input=text, output=text, chosen=text, rejected=worse),
        "prefer instruction+input chosen rejected",
    ),
    "a JSON array": ("a.json", many(instruction=text, input="", output=text), "alpaca instruction input output"),
    "splits with capitals": (
        "rows.csv",
        many(text=text, label=label, split=lambda n: ["Train", "Train", "Val", "TEST"][n % 4]),
        "classify text label split",
    ),
    "splits of other names, in a column of another": (
        "rows.csv",
        many(text=text, label=label, usage=lambda n: ["training", "training", "eval", "test"][n % 4]),
        "classify text label usage",
    ),
    "one split": ("rows.csv", many(text=text, label=label, split="train"), "classify text label"),
    "columns without a name": (
        "rows.csv",
        [{"v1": label(n), "v2": text(n), "": "", " ": ""} for n in range(40)],
        "classify v2 v1",
    ),
    "preferences": ("a.jsonl", many(prompt=text, chosen=text, rejected=worse), "prefer prompt chosen rejected"),
}


def said(task) -> str:
    """A task's kind and columns as one line."""
    match task.kind:
        case "classify":
            words = ["classify", "+".join(task.text_columns), task.label_column, task.label_separator]
        case "instruct":
            words = list(task.rows.model_dump().values())
        case _:
            words = [
                "dpo",
                "+".join(filter(None, [task.prompt_column, task.input_column])),
                task.chosen_column,
                task.rejected_column,
            ]
    return " ".join(word for word in [*words, task.split_column] if word)


@pytest.mark.parametrize(("name", "rows", "guess"), GUESSES.values(), ids=GUESSES.keys())
def test_kind_and_columns_are_guessed_and_only_a_task_is_added(folder, name, rows, guess):
    before = Path("params.yaml").read_bytes()
    task, lines = add(write(name, rows))
    assert said(task) == guess
    assert task.data == name
    after = Path("params.yaml").read_bytes()
    assert after.startswith(before.rstrip(b"\n"))
    assert b"\n    mine:\n      kind: " in after
    assert lines[0].startswith(f"mine: {task.kind}, ")
    assert lines[-2:] == [f"  dvc add {name}", "  dvc repro finetune@mine"]
    assert sorted(path.name for path in folder.iterdir()) == sorted([name, "params.yaml"])


OPTIONS = {
    "columns by name": (
        "rows.csv",
        many(a=text, b=text, c=label, d=text),
        {"texts": ["b", "a"], "label": "c"},
        "classify b+a c",
    ),
    "the label alone": (
        "rows.csv",
        many(text=text, label=label, other=label),
        {"label": "other"},
        "classify text other",
    ),
    "a text that is called as a label": (
        "rows.csv",
        many(category=text, label=label),
        {"texts": ["category"]},
        "classify category label",
    ),
    "a kind": (
        "rows.csv",
        many(question=text, answer=text, label=label),
        {"kind": "classify"},
        "classify question label",
    ),
    "what is asked": (
        "rows.csv",
        many(a=text, b=text),
        {"kind": "instruct", "texts": ["a"], "label": "b"},
        "prompt_completion a b",
    ),
    "what is asked, in two parts": (
        "rows.csv",
        many(a=text, b=text, c=text),
        {"kind": "instruct", "texts": ["a", "b"], "label": "c"},
        "alpaca a b c",
    ),
    "a conversation": (
        "a.jsonl",
        many(talk=turns),
        {"kind": "instruct", "texts": ["talk"]},
        "messages talk",
    ),
}


@pytest.mark.parametrize(("name", "rows", "options", "guess"), OPTIONS.values(), ids=OPTIONS.keys())
def test_what_is_given_is_not_guessed(folder, name, rows, options, guess):
    assert said(add(write(name, rows), **options)[0]) == guess


@pytest.mark.parametrize("ending", [".tsv", ".csv"])
def test_labels_and_texts_without_a_header(folder, ending):
    path, mark = Path(f"rows{ending}"), "\t" if ending == ".tsv" else ","
    path.write_text("".join(f"{label(n)}{mark}{text(n)}\n" for n in range(40)))
    with pytest.raises(UserError, match=r"given a row as its first line \(good\); see --no-header"):
        add(path)
    task, _ = add(path, header=False)
    assert (said(task), task.header) == ("classify 2 1", False)
    assert len(read_classify(path, task, 1).table) == 40


def test_the_task_that_is_added_reads_its_file(folder):
    path = write("rows.csv", many(6, text=text, label=label))
    task, _ = add(path)
    assert task.min_rows_per_label == 1
    assert set(read_classify(path, task, 1).table["split"]) == {"train", "val", "test"}


def test_numbers_suit_the_rows(folder):
    long, lines = add(write("rows.csv", many(100, text=lambda n: f"{n:02}" + "x" * 98, label=label)))
    assert (long.max_tokens, long.training.epochs, long.min_rows_per_label) == (128, 10.0, 2)
    assert "epochs: 10, about 30 steps of 32 rows" in lines
    context = check_params(Path("params.yaml")).sample.context_length
    Path("params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    longer = add(write("rows.csv", many(6000, text=lambda n: "x" * 3000 + str(n), label=label)))[0]
    assert (longer.max_tokens, longer.training.epochs) == (context, 2.0)


def test_tokens_are_those_of_the_base_and_without_one_bytes(folder, exported_folder, small_tokenizer_file):
    rows = many(100, text=lambda n: f"{n:02} {'path ' * (n % 50)}", label=label)
    path, texts = write("rows.csv", rows), [row["text"] for row in rows]
    lines = add(path)[1]
    most = max(map(len, texts)) + 1
    said = (
        f"the longest row has {most} bytes, and at most as many tokens (models/export/tokenizer.json is not there yet)"
    )
    assert f"max_tokens: 256; {said}" in lines
    tokenizer = Tokenizer.load(small_tokenizer_file)
    lengths = [len(tokenizer.encode(text)) + 1 for text in texts]
    Path("data/tokenizer").mkdir(parents=True)
    Path("data/tokenizer/tokenizer.json").write_bytes(small_tokenizer_file.read_bytes())
    for name, options in [("by_the_corpus", {}), ("by_the_base", {"base": exported_folder})]:
        lines = add_task(Path("params.yaml"), name, path, **options)
        assert any(line.endswith(f"; the longest row has {max(lengths)} tokens") for line in lines)
    cut = [length for length in lengths if length > 48]  # the context of the base
    assert f"cut to max_tokens: {len(cut)} of 100 rows ({len(cut) / 100:.1%})" in lines


def test_what_is_guessed_and_ignored_is_told(folder):
    rows = many(text=text, label=label, id=str, split=lambda n: ["Train", "Train", "dev", "test"][n % 4])
    rows = [row | {"": "more" if n == 3 else "", " ": ""} for n, row in enumerate(rows)]
    assert add(write("rows.csv", rows))[1][:5] == [
        "mine: classify, text → label (2 labels); 40 rows, splits of split",
        "rows: 20 train, 10 val, 10 test",
        "the file's rows: separated by commas, quotes enclose cells",
        "splits: Train → train, dev → val",
        "ignored columns: id",
    ]
    assert "ignored columns: 2 without a name, with text in 1 rows" in add_task(
        Path("params.yaml"), "b", Path("rows.csv")
    )


def test_a_row_with_a_problem_is_refused_or_left_out_and_told(folder):
    path = write("rows.csv", many(text=text, label=lambda n: "" if n == 3 else label(n)))
    told = "rows.csv: label: wanted text in every row, empty in row 4; --on-error skip leaves out 1 with empty_label"
    with pytest.raises(UserError, match=re.escape(told)):
        add(path)
    task, lines = add(path, on_error="skip")
    assert task.on_error == "skip"
    assert "left out: 1 with empty_label" in lines


def test_a_split_column_can_be_named_or_refused(folder):
    path = write("rows.csv", many(text=text, label=label, split=lambda n: ["train", "holdout"][n % 2], part=split))
    told = "split: expected train, val and test in every row, got holdout as well; rename them, or see --split none"
    assert add(path, split="part")[0].split_column == "part"
    for name, given in [("none", "none"), ("part", "part")]:
        add_task(Path("params.yaml"), f"by_{name}", path, split=given)
    with pytest.raises(UserError, match=told):
        add_task(Path("params.yaml"), "other", path)


@pytest.mark.parametrize("n_rows", [480, 500, 700, 1000, 2500, 5000, 9000, 12800])
def test_steps_are_150_to_400_where_1_to_10_epochs_can_do_that(n_rows):
    assert 150 <= choose_epochs(n_rows) * n_rows / 32 <= 400


def test_a_tracked_file_is_not_to_be_added_again(folder):
    path = write("rows.csv", many(text=text, label=label))
    Path("rows.csv.dvc").write_text("outs: []\n")
    lines = add(path)[1]
    assert not any("dvc add" in line for line in lines)


def test_a_path_from_the_root_of_the_machine_is_written_from_that_of_the_repository(folder):
    write("rows.csv", many(text=text, label=label))
    assert add(folder / "rows.csv")[0].data == "rows.csv"


@pytest.mark.parametrize("files", [["model.safetensors"], ["model-00001-of-00002.safetensors"]])
def test_another_base_has_its_weights_and_its_context(folder, files):
    Path("base").mkdir()
    Path("base/config.json").write_text(json.dumps({"max_position_embeddings": 24}))
    for name in files:
        (Path("base") / name).write_text("")
    task, _ = add(write("rows.csv", many(text=text, label=label)), base=Path("base"))
    assert (task.base, task.max_tokens) == ("base", 24)
    assert task.weights == ("model.safetensors" if files == ["model.safetensors"] else ".")


STRANGE = [
    "null",
    "1",
    "a: b",
    "# no",
    "yes",
    "[x",
    'say "hi"',
    "déjà",
    " spaced",
    "{x}",
    "two\nlines",
    "x" * 200,
    "{text}",
]


@pytest.mark.parametrize("column", STRANGE)
def test_a_column_may_have_any_name(folder, column):
    file = write("rows.jsonl", [{column: text(n), "label": label(n)} for n in range(20)])
    assert add(file)[0].text_columns == [column]


@pytest.mark.parametrize("name", ["2024", "null", "1e5", "a-b_c"])
def test_a_task_may_have_any_name_that_params_yaml_allows(folder, name):
    add_task(Path("params.yaml"), name, write("rows.csv", many(text=text, label=label)))
    assert name in check_params(Path("params.yaml")).finetune.tasks


def _moved(given: str) -> str:
    """The seed, from the first line or wherever it stands, behind all else."""
    line = next(line for line in given.splitlines() if line.startswith("seed:"))
    return given.replace(line + "\n", "", 1) + f"\n# of all draws\n{line}\n"


PLACES = {
    "no line end at the end": lambda given: given.rstrip("\n"),
    "a section behind": _moved,
    "lines behind": lambda given: given + "\n# the end\n\n",
    "windows": lambda given: given.replace("\n", "\r\n"),
    "a comment on the last task": lambda given: given + "        # rates: [0.1]\n",
}


@pytest.mark.parametrize("change", PLACES.values(), ids=PLACES.keys())
def test_wherever_tasks_end_there_the_task_is_put(folder, change):
    path = Path("params.yaml")
    path.write_bytes(change(path.read_text()).encode())
    before = path.read_bytes()
    add(write("rows.csv", many(text=text, label=label)))
    after = path.read_bytes()
    start = after.index(b"    mine:")
    behind = after[start + len(after) - len(before) :]
    assert after[:start] + behind == before or after.startswith(before + b"\n    mine:")
    assert after.count(b"\r\n") == (after.count(b"\n") if b"\r\n" in before else 0)
    assert list(YAML(typ="safe", pure=True).load(after.decode())["finetune"]["tasks"])[-1] == "mine"
    if before.endswith(b"# rates: [0.1]\n"):
        assert start == len(before)


def test_the_first_task_of_all(folder):
    path = Path("params.yaml")
    given = path.read_text()
    at = given.index("  tasks:")
    path.write_text(given[:at] + "  tasks: {}  # none\n")
    add(write("rows.csv", many(text=text, label=label)))
    assert path.read_text().startswith(given[:at] + "  tasks:  # none\n    mine:\n")


REFUSED = {
    "a name that is there": ("library", {}, "finetune.tasks.library: wanted a name that is free, it is there"),
    "a name that is none": ("My Task", {}, "NAME: wanted "),
    "a kind that is none": ("mine", {"kind": "regress"}, "--kind: wanted classify, instruct, prefer, given regress"),
    "a column that is none": (
        "mine",
        {"label": "stars"},
        "--label: wanted one of the columns text, label, given stars",
    ),
    "three texts": ("mine", {"texts": ["text"] * 3}, "--text: wanted one column or two, given 3"),
    "another kind's columns": (
        "mine",
        {"kind": "instruct"},
        "wanted an instruction and an answer, given the columns text",
    ),
    "no preferences": (
        "mine",
        {"kind": "dpo"},
        "wanted columns called prompt, chosen and rejected, given text, label",
    ),
    "a base that is none": ("mine", {"base": Path("nowhere")}, "--base: wanted a Hugging Face folder"),
    "one column twice": ("mine", {"texts": ["text"], "label": "text"}, "wanted a text and a label, given the columns"),
}


@pytest.mark.parametrize(("name", "options", "line"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_wrong_is_one_line_and_changes_nothing(folder, name, options, line):
    file = write("rows.csv", many(text=text, label=label))
    before = Path("params.yaml").read_bytes()
    with pytest.raises(UserError) as caught:
        add_task(Path("params.yaml"), name, file, **options)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)
    assert Path("params.yaml").read_bytes() == before
    assert len(list(folder.iterdir())) == 2


FILES = {
    "columns that say nothing": ("rows.csv", "a,b,c\n1,2,3\n", {}, "given the columns a, b, c; name them with --text"),
    "texts that never come again": ("rows.csv", "a,b\n1,2\n3,4\n", {}, "given the columns a, b; name them with --text"),
    "one column": ("rows.jsonl", '{"text": "a"}\n', {}, "given the columns text; name them with --text and --label"),
    "no rows": ("rows.csv", "text,label\n", {}, "wanted labeled rows, given none"),
    "one label": (
        "rows.csv",
        "text,label\n" + "".join(f"text {n},good\n" for n in range(9)),
        {},
        "label: wanted two labels or more in train, given only good",
    ),
    "answers that are lists": (
        "rows.jsonl",
        "".join(json.dumps({"prompt": f"{n}", "chosen": turns(n), "rejected": turns(n + 1)}) + "\n" for n in range(9)),
        {},
        "row 1: chosen: wanted text, given [",
    ),
    "answers with a rating": (
        "rows.jsonl",
        "".join(json.dumps({"prompt": f"{n}", "completion": text(n), "label": n % 2 == 0}) + "\n" for n in range(9)),
        {},
        "label: expected answers that are all good, got false and true beside them (KTO)",
    ),
    "two rows": ("rows.csv", "text,label\none,a\ntwo,b\n", {}, "wanted rows in train, val and test, val has none of 2"),
    "an encoding that is none": ("rows.csv", "text,label\n", {"encoding": "cp9"}, "--encoding: wanted an encoding"),
    "cp1252": (
        "rows.csv",
        b"text,label\nno cloud above accra \xe9,a\n",
        {},
        "name its encoding, such as cp1252 (encoding: in params.yaml, or --encoding",
    ),
    "no file": ("none.csv", None, {}, "expected a file of labeled rows, there is none"),
    "columns of one name": ("rows.csv", "text,text,label\n1,2,3\n", {}, "wanted columns of different names"),
    "a path of two words": ("my rows.csv", "text,label\n1,2\n", {}, "wanted a path without spaces"),
    "JSON without a header": ("rows.jsonl", '{"a": 1}\n', {"header": False}, "wanted a .csv or .tsv with --no-header"),
}


@pytest.mark.parametrize(("name", "content", "options", "line"), FILES.values(), ids=FILES.keys())
def test_a_file_that_cannot_be_guessed_says_what_is_there(folder, name, content, options, line):
    if content is not None:
        Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    before = Path("params.yaml").read_bytes()
    with pytest.raises(UserError) as caught:
        add(Path(name), **options)
    assert line in str(caught.value)
    assert Path("params.yaml").read_bytes() == before


def test_a_params_file_that_is_wrong_already_is_told_first(folder):
    Path("params.yaml").write_text("seed: 1\n")
    with pytest.raises(UserError, match="required key is missing"):
        add(write("rows.csv", many(text=text, label=label)))


def test_the_command(folder):
    rows = [f"{label(n)}\t{text(n)}\n" for n in range(40)]
    Path("rows.tsv").write_text("".join(rows))
    words = ["add-task", "mine", "rows.tsv", "--no-header", "--text", "2", "--label", "1", "--kind", "classify"]
    result = CliRunner().invoke(command_line.app, words, catch_exceptions=False)
    assert result.exit_code == 0
    assert result.output.splitlines() == [
        "mine: classify, 2 → 1 (2 labels); 40 rows, splits drawn by the seed",
        "rows: 28 train, 4 val, 8 test",
        "the file's rows: separated by tabs, quotes are text",
        "epochs: 10, about 10 steps of 32 rows",
        "max_tokens: 32; the longest row has 22 bytes, and at most as many tokens "
        "(models/export/tokenizer.json is not there yet)",
        "next:",
        "  dvc add rows.tsv",
        "  dvc repro finetune@mine",
    ]
