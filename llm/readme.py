"""The console block of README.md: what `make repro` prints at its end, written by `python -m llm readme`."""

import re
from pathlib import Path

from llm.errors import UserError

BEGIN, END = "<!-- python -m llm readme writes this block -->", "<!-- end of the block -->"


def write_block(readme: Path, summary: str) -> None:
    """Replace what is between the two markers by a summary; all else keeps its bytes. UserError without markers."""
    content = readme.read_bytes().decode() if readme.is_file() else ""
    found = re.search(f"{re.escape(BEGIN)}.*?{re.escape(END)}", content, re.DOTALL)
    if not found:
        raise UserError(f"{readme}: expected the lines {BEGIN} and {END}, got none; the summary goes between them")
    # A fence is longer than any in the text.
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", summary)), default=0))
    lines = [BEGIN, f"{fence}console", "$ make repro", "…", *summary.rstrip("\n").split("\n"), fence, END]
    ends = "\r\n" if "\r\n" in content else "\n"
    readme.write_bytes((content[: found.start()] + ends.join(lines) + content[found.end() :]).encode())
