"""Shared by the tests of the page: models that are opened in a browser, and what each page did there."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from llm.export.hf.classifier import ClassifierInfo, write_classifier
from llm.export.hf.folder import write_folder
from llm.finetune.shared.chat import TEMPLATE
from llm.model.classifier import Classifier
from llm.page.build import build_page
from tests.page.looking import LABELS, SHAPES, SHOWN, TEXT

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


@pytest.fixture(scope="module")
def addresses(tmp_path_factory, draw_gpt, small_tokenizer_file) -> dict[str, str]:
    """Pages of small models of every kind."""
    found = {}
    for kind in SHOWN:
        folder = tmp_path_factory.mktemp(kind)
        if columns := LABELS.get(kind):
            info = ClassifierInfo(["rain", "river", "sun"], columns, None, 40)
            classifier = Classifier(draw_gpt(), 3)
            torch.nn.init.normal_(classifier.score.weight, generator=torch.Generator().manual_seed(1))
            write_classifier(folder, classifier, small_tokenizer_file, info)
        else:
            write_folder(
                folder,
                draw_gpt(**SHAPES.get(kind, {})),
                small_tokenizer_file,
                chat_template=TEMPLATE if kind == "instruction" else None,
            )
        passages = [[TEXT] * len(columns or [TEXT])]
        html, _ = build_page(folder, f"A {kind} model", passages, 10_000_000, TEMPLATE)
        (folder / "page.html").write_text(html, encoding="utf-8")
        found[kind] = (folder / "page.html").as_uri()
    return found


@pytest.fixture(scope="module")
def tab(browser) -> Iterator[tuple[Any, list[str]]]:
    """A page of the browser, which is slow to open, and what it logs and requests."""
    page, messages = browser.new_page(), []
    page.set_default_timeout(10_000)
    page.on("request", lambda request: messages.append(request.url))
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    yield page, messages
    page.close()


@pytest.fixture
def visit(tab, addresses) -> Iterator[Callable]:
    """Open the page of a kind of model; whatever else it requests or logs fails the test."""
    page, messages = tab
    expected: list[str] = []

    def open_page(kind: str = "language", width: int = 1280) -> Any:
        expected.append(addresses[kind])
        page.set_viewport_size({"width": width, "height": 800})
        page.emulate_media(color_scheme="light")
        page.goto(addresses[kind])
        page.wait_for_selector("body[data-ready]")
        return page

    yield open_page
    logged = messages.copy()
    messages.clear()
    assert logged == expected
