"""Shared by the tests of the page: models that are opened in a browser, and what each page did there."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from llm.page.build import build_page

LOAD = "Model.load(document).then((loaded) => { globalThis.tested = loaded; })"


class Opened(NamedTuple):
    """A page with its model loaded as `tested`, and what it logged and requested."""

    page: Any
    address: str
    messages: list[str]
    requests: list[str]

    def run(self, script: str, *values: Any) -> Any:
        """Return what an async function of JavaScript returns for values; typed arrays become lists."""
        plain = "(key, value) => ArrayBuffer.isView(value) ? Array.from(value) : value"
        call = f"async (values) => JSON.parse(JSON.stringify(await ({script})(...values), {plain}) ?? 'null')"
        return self.page.evaluate(call, list(values))

    @property
    def is_quiet(self) -> bool:
        """Whether nothing was logged, failed, or requested beside the file itself."""
        return self.messages == [] and self.requests == [self.address]


@pytest.fixture(scope="module")
def open_page(browser, tmp_path_factory) -> Callable[..., Opened]:
    """A function that builds the page of a folder and opens it from a file, as a user does."""

    def open_file(folder: Path, passages=(["The river runs."],), chat_template=None) -> Opened:
        file = tmp_path_factory.mktemp("page") / "model.html"
        file.write_text(build_page(folder, folder.name, passages, 10_000_000, chat_template)[0], encoding="utf-8")
        opened = Opened(browser.new_page(), file.as_uri(), [], [])
        opened.page.on("request", lambda request: opened.requests.append(request.url))
        opened.page.on("console", lambda message: opened.messages.append(message.text))
        opened.page.on("pageerror", lambda error: opened.messages.append(str(error)))
        opened.page.goto(opened.address)
        opened.page.evaluate(LOAD)
        return opened

    return open_file
