"""A params file in, a typed section out; what is wrong is one line with the file, the key, the wish and the value."""

from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, ValidationError

from llm.core import params
from llm.core.errors import UserError
from llm.core.params import Section
from llm.corpus.params import PrepareParams
from llm.model.config import ModelParams
from llm.tokens.params import TokenizeParams


class Training(Section):
    steps: Annotated[int, Field(ge=1)]
    rate: float
    shuffle: bool
    keep: Literal["last", "best"]
    names: list[str]


TRAINING = {"steps": 10, "rate": 0.1, "shuffle": True, "keep": "last", "names": ["a"]}
MODEL = {
    "family": "qwen3",
    "d_model": 64,
    "n_layers": 1,
    "n_heads": 4,
    "n_kv_heads": 2,
    "d_ff": 128,
    "rope_theta": 10000.0,
    "norm_eps": 1e-6,
    "tie_embeddings": True,
    "attention": "grouped",
    "positions": None,
    "dropout": 0.0,
}
PREPARE = {
    "sources": [{"name": "books", "kind": "files", "globs": ["data/raw/*.txt"]}],
    "engine": "local",
    "subset_fraction": 1.0,
    "max_document_bytes": 1_000_000,
    "clean": {
        "control_characters": "remove",
        "min_chars": None,
        "max_chars": None,
        "repetition": None,
        "exact_duplicates": "drop",
        "near_duplicates": {"action": "group", "threshold": 0.8, "ngram": 5, "permutations": 128, "bands": 16},
    },
    "split": {"method": "document", "val": 0.1, "test": 0.1},
}


def refusal(kind: Any, value: Any, key: str = "section") -> str:
    """What is said about a value that is wrong."""
    with pytest.raises(UserError) as error:
        params.check(kind, value, key, "params.yaml")
    return str(error.value)


def unreadable(path: Path) -> str:
    with pytest.raises(UserError) as error:
        params.read(path)
    assert "\n" not in str(error.value)
    return str(error.value)


def write(folder: Path, text: str) -> Path:
    path = folder / "params.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_right_value_becomes_its_section() -> None:
    section = params.check(Training, TRAINING, "training", "params.yaml")
    assert section.model_dump() == TRAINING


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"steps": "10"}, "training.steps: wanted integer, given text '10'"),
        ({"steps": 1.0}, "training.steps: wanted integer, given 1.0"),
        ({"steps": True}, "training.steps: wanted integer, given true"),
        ({"steps": None}, "training.steps: wanted integer, given nothing"),
        ({"steps": 0}, "training.steps: wanted greater than or equal to 1, given 0"),
        ({"rate": "fast"}, "training.rate: wanted number, given text 'fast'"),
        ({"rate": float("nan")}, "training.rate: wanted a finite number, given nan"),
        ({"shuffle": "no"}, "training.shuffle: wanted boolean, given text 'no'"),
        ({"shuffle": 1}, "training.shuffle: wanted boolean, given 1"),
        ({"keep": "lats"}, "training.keep: wanted 'last' or 'best', given text 'lats'"),
        ({"names": "a"}, "training.names: wanted list, given text 'a'"),
        ({"names": ["a", 3]}, "training.names.1: wanted string, given 3"),
        ({"stesp": 10}, "training.stesp: no such key"),
    ],
)
def test_a_wrong_value_is_one_line_with_the_key_the_wish_and_the_value(change: dict[str, Any], sentence: str) -> None:
    assert refusal(Training, TRAINING | change, "training") == f"params.yaml: {sentence}"


def test_a_misspelt_key_is_both_missing_and_unknown() -> None:
    value = {("stesp" if key == "steps" else key): value for key, value in TRAINING.items()}
    assert refusal(Training, value, "training") == (
        "params.yaml: training.steps: wanted a value, it is missing; training.stesp: no such key"
    )


def test_a_section_that_is_no_mapping_is_said_to_be_none() -> None:
    assert "training: wanted" in refusal(Training, 3, "training")


def test_a_width_that_the_heads_cannot_share_is_told_with_both_numbers() -> None:
    assert refusal(ModelParams, MODEL | {"d_model": 65}, "model") == (
        "params.yaml: model: wanted d_model divisible by n_heads, given d_model 65 and n_heads 4"
    )


def test_a_key_in_a_list_of_sources_is_named_as_it_stands_in_the_file() -> None:
    source = PREPARE["sources"][0]
    wrong = PREPARE | {"sources": [source, source | {"name": 3, "glob": []}]}
    assert refusal(PrepareParams, wrong, "prepare") == (
        "params.yaml: prepare.sources.1.name: wanted string, given 3; prepare.sources.1.glob: no such key"
    )
    wrong = PREPARE | {"sources": [{"name": "books", "kind": "files"}]}
    assert refusal(PrepareParams, wrong, "prepare") == (
        "params.yaml: prepare.sources.0.globs: wanted a value, it is missing"
    )


def test_a_wrong_kind_of_source_is_told_the_kinds_that_there_are() -> None:
    wrong = PREPARE | {"sources": [{"name": "books", "kind": "file", "globs": ["data/raw/*"]}]}
    assert refusal(PrepareParams, wrong, "prepare") == (
        "params.yaml: prepare.sources.0.kind: wanted 'python' or 'docstrings' or 'files' or 'url' or 'huggingface', "
        "given text 'file'"
    )
    wrong = PREPARE | {"sources": [{"name": "books", "globs": ["data/raw/*"]}]}
    assert refusal(PrepareParams, wrong, "prepare") == (
        "params.yaml: prepare.sources.0.kind: wanted a value, it is missing"
    )


def test_two_sources_of_one_name_are_refused() -> None:
    wrong = PREPARE | {"sources": PREPARE["sources"] * 2}
    assert refusal(PrepareParams, wrong) == (
        "params.yaml: section: wanted a name of its own for each source, given books, books"
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"encoding": "klingon"}, "encoding: wanted an encoding that Python knows, such as latin-1, given klingon"),
        ({"encoding": "base64"}, "encoding: wanted an encoding that Python knows, such as latin-1, given base64"),
        ({"encoding": 7}, "encoding: wanted string, given 7"),
        (
            {"encoding": {"data/raw/*": "klingon"}},
            "encoding.data/raw/*: wanted an encoding that Python knows, such as latin-1, given klingon",
        ),
        ({"on_error": "ignore"}, "on_error: wanted 'fail' or 'skip', given text 'ignore'"),
        ({"separator": ""}, "separator: wanted at least 1 character"),
        ({"kind": "url", "globs": None}, "url: wanted a value, it is missing"),
        ({"kind": "url", "url": "file:///etc/passwd", "sha256": "0" * 64}, "url: wanted"),
        ({"kind": "url", "url": "https://a.b/c", "sha256": "0" * 63}, "sha256: wanted"),
    ],
)
def test_a_wrong_option_of_a_source_is_named(changes: dict, said: str) -> None:
    source = {key: value for key, value in (PREPARE["sources"][0] | changes).items() if value is not None}
    assert f"prepare.sources.0.{said}" in refusal(PrepareParams, PREPARE | {"sources": [source]}, "prepare")


def test_rules_of_cleaning_that_cannot_be_are_refused() -> None:
    near = PREPARE["clean"]["near_duplicates"]
    uneven = PREPARE["clean"] | {"near_duplicates": near | {"bands": 12}}
    assert "wanted permutations divisible by bands, given 128 and 12" in refusal(
        PrepareParams, PREPARE | {"clean": uneven}
    )
    repetition = PREPARE["clean"] | {"repetition": {"top_ngram_chars": {"two": 0.2}}}
    assert "wanted the length of an n-gram, 1 to 99, given two" in refusal(
        PrepareParams, PREPARE | {"clean": repetition}
    )
    by_position = PREPARE | {"split": {"method": "position", "val": 0.1, "test": 0.1}}
    assert "wanted near_duplicates.action drop: with split.method position" in refusal(PrepareParams, by_position)


TOKENIZE = {"kind": "bpe", "vocab_size": 300, "train_bytes": 9, "min_frequency": 1, "keep_whitespace": True} | {
    "pretrained": None,
    "pattern": "qwen2",
    "dropout": 0.0,
    "segmentations": 1,
}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"kind": "word", "from": "data/given/a"},
            "from: wanted kind bpe for a tokenizer that is brought along, given word",
        ),
        ({"kind": "char", "dropout": 0.1}, "dropout: wanted kind bpe, whose merges can be dropped, given char"),
        ({"vocab_size": 262}, "vocab_size: wanted at least 300 for bpe, 256 bytes included, given 262"),
        ({"from": 3}, "from: wanted string, given 3"),
        ({"origin": "x"}, "origin: no such key"),
    ],
)
def test_a_tokenizer_that_cannot_be_is_refused(changes: dict, said: str) -> None:
    assert said in refusal(TokenizeParams, TOKENIZE | changes, "tokenize")


def test_a_section_cannot_be_changed() -> None:
    section = params.check(Training, TRAINING, "training", "params.yaml")
    with pytest.raises(ValidationError, match="frozen"):
        section.steps = 11


def test_numbers_are_read_as_yaml_1_2_reads_them(tmp_path: Path) -> None:
    text = "rate: 3e-4\nswitch: off\nanswer: no\ncount: 012\nexact: true\n"
    assert params.read(write(tmp_path, text)) == {
        "rate": 3e-4,
        "switch": "off",
        "answer": "no",
        "count": 12,
        "exact": True,
    }


def test_loading_gives_the_section_under_a_dotted_key(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "all:\n  training: {steps: 10, rate: 1e-1, shuffle: true, keep: last, names: [a]}\n",
    )
    assert params.load(path, "all.training", Training).model_dump() == TRAINING
    assert params.load(path, "all.training.steps", int) == 10


@pytest.mark.parametrize("key", ["sample", "all.sample", "all.training.steps", "all.names.0"])
def test_a_missing_section_is_named(key: str, tmp_path: Path) -> None:
    path = write(tmp_path, "all:\n  training: 3\n  names: [a]\n")
    with pytest.raises(UserError) as error:
        params.load(path, key, Training)
    assert str(error.value) == f"{path}: {key}: wanted a value, it is missing"


def test_a_key_that_stands_twice_is_refused_with_its_line(tmp_path: Path) -> None:
    path = write(tmp_path, "seed: 1\nmodel:\n  width: 1\n  width: 2\n")
    assert unreadable(path).startswith(f'{path}: line 4: wanted YAML, found duplicate key "width"')


@pytest.mark.parametrize(
    "text", ["model: [1, 2\n", "seed: 1\n\tmodel: 2\n", "a: b: c\n", "seed: !!python/name:os.system 1\n"]
)
def test_what_is_no_yaml_is_refused_with_its_line(text: str, tmp_path: Path) -> None:
    path = write(tmp_path, text)
    assert unreadable(path).startswith(f"{path}: line ")


@pytest.mark.parametrize(("text", "given"), [("", "nothing"), ("- 1\n- 2\n", "[1, 2]"), ("seed\n", "text 'seed'")])
def test_a_file_without_keys_is_refused(text: str, given: str, tmp_path: Path) -> None:
    path = write(tmp_path, text)
    assert unreadable(path) == f"{path}: wanted keys with values, given {given}"


def test_a_file_that_is_missing_or_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    assert unreadable(path) == f"{path}: wanted a params file, there is none"
    path.write_bytes(b"seed: \xff\n")
    assert unreadable(path) == f"{path}: wanted UTF-8 text, byte 6 is none"


@pytest.mark.parametrize("value", ["x" * 500, list(range(500))])
def test_a_long_value_is_cut_in_the_sentence(value: Any) -> None:
    assert len(refusal(Training, TRAINING | {"rate": value})) < 120


def test_a_number_that_no_library_counts_with_is_refused_by_its_key() -> None:
    with pytest.raises(UserError) as caught:
        params.check(dict[str, Any], {"a": {"b": [1, 1 << 64]}, "c": -(1 << 63), "d": True}, "", "params.yaml")
    assert str(caught.value) == (
        "params.yaml: a.b.1: expected a number below 2⁶³, got 18446744073709551616; "
        "c: expected a number below 2⁶³, got -9223372036854775808"
    )
