"""An export and held-out text → one HTML file with the whole model, which runs in a browser."""

from pathlib import Path
from typing import Annotated

from llm.core import stage
from llm.core.outputs import write_json
from llm.core.stage import Input, Output, Param
from llm.export.hf.folder import skipped_reason
from llm.page.build import build_page, explain
from llm.page.errors import NoPageError
from llm.page.params import PageParams
from llm.page.passages import read_passages

TITLE = "Your language model"


def main(
    page: Annotated[PageParams, Param("page")],
    model: Input = Path("models/export/hf"),
    held_out: Input = Path("data/corpus/test.parquet"),
    html: Output = Path("models/page.html"),
    metrics: Output = Path("metrics/page.json"),
) -> None:
    """Write the page of the export; where there is none, and for one that cannot be a page, a page with the reason.

    The stage report copies the page beside its own, where the links lead.
    """
    if not (reason := skipped_reason(model)):
        try:
            passages = [[text] for text in read_passages(held_out)]
            text, figures = build_page(model, TITLE, passages, page.max_bytes)
        except NoPageError as error:
            reason = str(error)
    if reason:
        print(f"page skipped: {reason}", flush=True)
        text, figures = explain(TITLE, reason), {"skipped": reason}
    html.write_text(text, encoding="utf-8")
    write_json(metrics, figures)


if __name__ == "__main__":
    stage.run(main)
