"""What a user reads when a file of labels is broken: the file, the task's keys that matter, and the one line."""

from typing import Any, NamedTuple

import pytest

from llm.core.errors import UserError
from llm.finetune.data.labeled import read_classify, read_records
from llm.finetune.data.messages import columns_of, read_rows, to_conversation


class Broken(NamedTuple):
    name: str
    content: str | bytes
    changes: dict[str, Any]
    line: str


DRAWN = {"split_column": None}
GOOD = "text,label,split\none,a,train\ntwo,b,train\nthree,a,val\nfour,b,test\n"
MESSAGES = DRAWN | {"rows": {"kind": "messages", "messages": "messages"}}
SHAREGPT = DRAWN | {"rows": {"kind": "sharegpt", "conversations": "conversations"}}
ALPACA = DRAWN | {"rows": {"kind": "alpaca", "instruction": "instruction", "input": "input", "output": "output"}}

CLASSIFY = {
    "an empty file": Broken(
        "rows.csv",
        "",
        {},
        "FILE: expected a header and rows, got an empty file",
    ),
    "an empty file that needs no header": Broken(
        "rows.csv",
        "",
        {"header": False},
        "FILE: expected rows, got an empty file",
    ),
    "a header alone": Broken(
        "rows.csv",
        "text,label,split\n",
        {},
        "FILE: wanted labeled rows, given none",
    ),
    "JSON lines without a line": Broken(
        "rows.jsonl",
        "\n\n",
        {},
        "FILE: wanted labeled rows, given none",
    ),
    "another kind of file": Broken(
        "rows.xlsx",
        "PK",
        {},
        "FILE: expected a .csv, .tsv, .jsonl, .ndjson, .json, .parquet file, got .xlsx",
    ),
    "no kind of file": Broken(
        "rows",
        GOOD,
        {},
        "FILE: expected a .csv, .tsv, .jsonl, .ndjson, .json, .parquet file, got no ending",
    ),
    "a field too many, behind a text of two lines": Broken(
        "rows.csv",
        'text,label,split\n"one\nand a half",a,train\ntwo, and more,b,train\n',
        {},
        "FILE: line 4: expected 3 fields, as in the first row, got 4",
    ),
    "a field too many in every row": Broken(
        "rows.csv",
        "text,label\none,a,train\ntwo,b,train\n",
        {},
        "FILE: line 2: expected 2 fields, as in the first row, got 3",
    ),
    "a field too many in a .tsv": Broken(
        "rows.tsv",
        "a\tone\nb\ttwo\tand more\n",
        DRAWN | {"header": False, "text_columns": ["2"], "label_column": "1"},
        "FILE: line 2: expected 2 fields, as in the first row, got 3",
    ),
    "a field too few": Broken(
        "rows.csv",
        GOOD + "five,a\n",
        {},
        "FILE: line 6: expected 3 fields, as in the first row, got 2",
    ),
    "a last line cut short, where a row may be without labels": Broken(
        "rows.csv",
        "text,label\none,a|b\ntwo,\nthree\n",
        DRAWN | {"label_separator": "|"},
        "FILE: line 4: expected 2 fields, as in the first row, got 1",
    ),
    "a quote that is not closed": Broken(
        "rows.csv",
        'text,label,split\none,a,train\n"two,b,train\nthree,a,val\n',
        {},
        "FILE: line 3: expected a quote that closes the cell, got the end of the file",
    ),
    "commas in a .tsv": Broken(
        "rows.tsv",
        GOOD.replace("four,b", "four\tb"),
        {},
        "FILE: line 5: expected 1 field, as in the first row, got 2",
    ),
    "damaged UTF-8": Broken(
        "rows.csv",
        GOOD.encode() + "ééé,a,train\n".encode() + "café,a,train\n".encode("latin-1"),
        {},
        "FILE: line 7: expected text in UTF-8, got the byte 0xe9 at 3; name its encoding, such as cp1252 "
        "(encoding: in params.yaml, or --encoding)",
    ),
    "another encoding than the one that is named": Broken(
        "rows.csv",
        GOOD.encode() + "ééé,a,train\n".encode(),
        {"encoding": "ascii"},
        "FILE: expected text in ascii (named), got other bytes ('ascii' codec can't decode byte 0xc3 in position 65: "
        "ordinal not in range(128)); name its encoding, such as cp1252 (encoding: in params.yaml, or --encoding)",
    ),
    "a spreadsheet": Broken(
        "rows.csv",
        b"PK\x03\x04" + bytes(100),
        {},
        "FILE: expected text, got a ZIP archive or a document made of one; convert it to text",
    ),
    "a line of JSON cut short": Broken(
        "rows.jsonl",
        '{"text": "one", "label": "a"}\n{"text": "two", "lab',
        DRAWN,
        "FILE: line 2: expected a JSON object on each line, or one array, got invalid JSON: Unterminated "
        "string starting at column 17",
    ),
    "a list for an object": Broken(
        "rows.jsonl",
        '{"text": "one", "label": "a"}\n\n["two", "b"]\n',
        DRAWN,
        "FILE: line 3: expected a JSON object, got an array",
    ),
    "half of a character": Broken(
        "rows.jsonl",
        '{"text": "\\ud83d\\ude00", "label": "a"}\n{"text": "cut \\ud83d", "label": "b"}\n',
        DRAWN,
        "FILE: line 2: expected Unicode text, got half a surrogate pair, \\ud83d",
    ),
    "JSON that is too deep": Broken(
        "rows.jsonl",
        "[" * 200_000,
        DRAWN,
        "FILE: row 1: expected a JSON object or the array's end, got one that is too deep or too long; what follows is "
        "not read",
    ),
    "bytes that are not Parquet": Broken(
        "rows.parquet",
        b"PAR1 and nothing of the kind after it PAR1",
        {},
        "FILE: expected a whole Parquet file, got one that is damaged or something else",
    ),
    "a column that is not there": Broken(
        "rows.csv",
        GOOD,
        {"label_column": "stars"},
        "FILE: wanted the columns text, stars, split; stars is not among text, label, split",
    ),
    "one column in two parts": Broken(
        "rows.csv",
        GOOD,
        {"label_column": "text"},
        "FILE: wanted different columns, given text, text, split",
    ),
    "two columns of one name": Broken(
        "rows.csv",
        "text,text,label,split\none,uno,a,train\n",
        {},
        "FILE: text: wanted one column of this name, given several",
    ),
    "a row without a text": Broken(
        "rows.csv",
        GOOD.replace("two", "  "),
        {},
        "FILE: text: wanted text in every row, empty in row 2",
    ),
    "many rows without a label": Broken(
        "rows.csv",
        GOOD + "five,,train\n" * 7,
        {},
        "FILE: label: wanted text in every row, empty in row 5, 6, 7, 8, 9 and 2 more",
    ),
    "a list where a text should be": Broken(
        "rows.jsonl",
        '{"text": ["one", "two"], "label": "a"}\n',
        DRAWN,
        "FILE: text: wanted text, given a list or a mapping in row 1",
    ),
    "a list where one label should be": Broken(
        "rows.jsonl",
        '{"text": "one", "label": "a"}\n{"text": "two", "label": ["a", "b"]}\n',
        DRAWN,
        "FILE: label: wanted one label, given a list (see label_separator) in row 2",
    ),
    "a mapping where any number of labels may be": Broken(
        "rows.jsonl",
        '{"text": "one", "label": ["a"]}\n{"text": "two", "label": {"a": 1, "b": 0}}\n',
        DRAWN | {"label_separator": "|"},
        "FILE: label: wanted labels, given a mapping or a list within a list in row 2",
    ),
    "a split of another name": Broken(
        "rows.csv",
        GOOD.replace("test", "holdout"),
        {},
        "FILE: split: expected train, val or test, got holdout in row 4",
    ),
    "a text in two splits": Broken(
        "rows.csv",
        GOOD + "one,a,test\n",
        {},
        "FILE: split: wanted each text in one split, a later one has it too, in row 1",
    ),
    "a text with two labels": Broken(
        "rows.csv",
        GOOD + "one,b,train\n",
        {},
        "FILE: label: wanted one label for one text, given several in row 1, 5",
    ),
    "no rows to test with": Broken(
        "rows.csv",
        GOOD.replace("test", "train").replace("val", "train"),
        {},
        "FILE: wanted rows in train, val and test, val has none of 4",
    ),
    "too few rows to draw splits": Broken(
        "rows.csv",
        "text,label\none,a\ntwo,b\n",
        DRAWN,
        "FILE: wanted rows in train, val and test, val has none of 2",
    ),
    "too few groups to draw splits": Broken(
        "rows.csv",
        "text,label,author\none,a,x\ntwo,b,x\nthree,a,y\nfour,b,y\n",
        DRAWN | {"group_column": "author"},
        "FILE: wanted rows in train, val and test, val has none of 4 in 2 groups",
    ),
    "a row without a group": Broken(
        "rows.csv",
        "text,label,author\none,a,x\ntwo,b,\n",
        DRAWN | {"group_column": "author"},
        "FILE: author: wanted text in every row, empty in row 2",
    ),
    "a group in two splits": Broken(
        "rows.csv",
        "text,label,split,author\none,a,train,x\ntwo,b,train,y\nthree,a,val,z\nfour,b,test,x\n",
        {"group_column": "author"},
        "FILE: author: wanted each group in one split, given in several in row 1, 4",
    ),
    "one label": Broken(
        "rows.csv",
        GOOD.replace(",b,", ",a,"),
        {},
        "FILE: label: wanted two labels or more in train, given only a",
    ),
    "a label of too few rows": Broken(
        "rows.csv",
        GOOD + "five,a,train\n",
        {"min_rows_per_label": 2},
        "FILE: label: wanted 2 rows or more of a label in train, given 1 of b, in row 2, 4",
    ),
    "a label that is a text of two lines": Broken(
        "rows.csv",
        GOOD.replace("b,test", '"b\nand more",test'),
        {},
        "FILE: label: wanted labels that train has, given 'b\\nand more' in row 4",
    ),
    "nothing left": Broken(
        "rows.csv",
        "text,label,split\n,a,train\n,b,test\n",
        {"on_error": "skip"},
        "FILE: wanted rows in train, val and test, train has none of 0; left out: 2 of empty_text",
    ),
}

INSTRUCT = {
    "a column that is not there": Broken(
        "rows.csv",
        "question,answer\n1?,2\n",
        DRAWN,
        "FILE: wanted the columns prompt, completion; prompt, completion is not among question, answer",
    ),
    "no answer": Broken(
        "rows.csv",
        "prompt,completion\n1?,2\n2?,\n",
        DRAWN,
        "FILE: completion: wanted text in every row, empty in row 2",
    ),
    "no instruction": Broken(
        "rows.jsonl",
        '{"instruction": null, "input": "", "output": "1"}\n',
        ALPACA,
        "FILE: instruction: wanted text in every row, empty in row 1",
    ),
    "messages that are a text": Broken(
        "rows.jsonl",
        '{"messages": "hello"}\n' * 3 + '{"messages": "hello you"}\n{"messages": "hello all"}\n',
        MESSAGES,
        "FILE: row 1: messages: wanted a list of messages, given text 'hello'",
    ),
    "a role that nobody has": Broken(
        "rows.jsonl",
        "".join(f'{{"messages": [{{"role": "narrator", "content": "{n}"}}]}}\n' for n in range(3)),
        MESSAGES,
        "FILE: row 1: messages: message 1: role: wanted system, user, assistant, given 'narrator'",
    ),
    "an answer before the question": Broken(
        "rows.jsonl",
        "".join(f'{{"conversations": [{{"from": "gpt", "value": "{n}"}}]}}\n' for n in range(3)),
        SHAREGPT,
        "FILE: row 1: conversations: message 1: wanted one of the user's, given one of the assistant's",
    ),
    "a question without an answer": Broken(
        "rows.jsonl",
        "".join(f'{{"messages": [{{"role": "user", "content": "{n}"}}]}}\n' for n in range(3)),
        MESSAGES,
        "FILE: row 1: messages: wanted a last message of the assistant's, given one of the user's",
    ),
    "too few rows": Broken(
        "rows.csv",
        "prompt,completion\n1?,2\n",
        DRAWN,
        "FILE: wanted rows in train, val and test, val has none of 1",
    ),
    "a column called as what is added": Broken(
        "rows.csv",
        "row,completion\n1?,2\n",
        DRAWN | {"rows": {"kind": "prompt_completion", "prompt": "row", "completion": "completion"}},
        "FILE: wanted columns of other names than split and row, given row",
    ),
}


def _line(tmp_path, broken: Broken, read) -> str:
    path = tmp_path / broken.name
    path.write_bytes(broken.content if isinstance(broken.content, bytes) else broken.content.encode())
    with pytest.raises(UserError) as caught:
        read(path)
    return str(caught.value).replace(str(path), "FILE").partition(" (Parquet")[0]


@pytest.mark.parametrize("broken", CLASSIFY.values(), ids=CLASSIFY.keys())
def test_a_broken_file_of_labels_is_told_in_one_line(tmp_path, make_task, broken):
    task = make_task("classify", broken.changes)
    assert _line(tmp_path, broken, lambda path: read_classify(path, task, 1)) == broken.line


@pytest.mark.parametrize("broken", INSTRUCT.values(), ids=INSTRUCT.keys())
def test_a_broken_file_of_conversations_is_told_in_one_line(tmp_path, make_task, broken):
    def read(path):
        task = make_task("instruct", broken.changes | {"data": str(path)})
        columns, may_be_empty = columns_of(task.rows)
        labeled = read_records(path, task, columns, 1, may_be_empty)
        return read_rows(labeled, task, lambda row: to_conversation(row, task.rows))

    assert _line(tmp_path, broken, read) == broken.line


def test_the_tables_have_no_line_break_and_name_the_file():
    for broken in (*CLASSIFY.values(), *INSTRUCT.values()):
        assert broken.line.startswith("FILE: ") and "\n" not in broken.line
