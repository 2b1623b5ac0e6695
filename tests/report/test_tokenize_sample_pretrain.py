"""The reports of tokenize, sample and pretrain, from their details."""

from llm.report import pretrain, sample, tokenize
from llm.train.curve import Curve

TOKENS = [{"id": 7, "token": " |\n", "bytes": 3, "count": 1234}]


def test_tokens_are_shown_in_tables_and_a_picture():
    details = {"longest": TOKENS, "most_frequent": TOKENS, "counts": [0, 5, 3], "lengths": [0, 1, 2]}
    report = tokenize.markdown(details)
    assert report.count("| 7 | `'␣\\|\\n'` | 3 | 1,234 |") == 2
    assert "2 of 3 tokens" in tokenize.pictures(details)["vocabulary"]


def test_contaminated_documents_are_named():
    documents = [{"document": "a|b.md", "ngrams": 3, "fraction": 0.66667}]
    val = {"ngrams": 1500, "sampled_one_in": 1, "fraction": 0.4, "documents": documents}
    test = val | {"documents": [], "fraction": 0.0}
    report = sample.markdown({"ngram": 13, "splits": {"val": val, "test": test}})
    assert "n-grams of 13 tokens" in report
    assert "| val | 1,500 | 40.00% |" in report
    assert "| `a\\|b.md` | 3 | 66.7% |" in report
    assert report.endswith("## test: documents with the largest fractions\n\nNone.\n")


def test_the_curve_is_read_back_and_drawn(tmp_path):
    rows = [
        {"step": 1, "train_loss": 2.5, "lr_factor": 1.0},
        {"step": 2, "train_loss": 2.0, "lr_factor": 0.5, "val_loss": 2.25},
    ]
    Curve(rows).write(tmp_path / "curve.tsv")
    assert pretrain.read_curve((tmp_path / "curve.tsv").read_text().splitlines()) == rows
    assert pretrain.pictures({"curve": rows})["curve"].startswith("<?xml")
