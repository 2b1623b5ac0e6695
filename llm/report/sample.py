"""Present the details of the stage sample: which held-out text also occurs in the training text."""

from typing import Any

from llm.report.tables import Code, Table


def markdown(details: dict[str, Any]) -> str:
    """Return fractions of n-grams by split, and the held-out documents with the largest ones."""
    splits = details["splits"]
    rows = [[split, f"{of['ngrams']:,}", f"{of['fraction']:.2%}"] for split, of in splits.items()]
    parts = [
        "# Contamination",
        f"The fraction of n-grams of {details['ngram']} tokens of a held-out split that occur anywhere in train.",
        str(Table(["split", "n-grams looked up", "in train"], rows)),
    ]
    for split, of in splits.items():
        documents = [[Code(row["document"]), f"{row['ngrams']:,}", f"{row['fraction']:.1%}"] for row in of["documents"]]
        table = str(Table(["document", "n-grams", "in train"], documents)) if documents else "None."
        parts += [f"## {split}: documents with the largest fractions", table]
    return "\n\n".join(parts) + "\n"
