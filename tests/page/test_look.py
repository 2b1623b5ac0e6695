"""A person sees what the model computes: every panel, by pointer and keyboard, light and dark, on a phone."""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from llm.export.hf.classifier import ClassifierInfo, write_classifier
from llm.export.hf.folder import write_folder
from llm.finetune.shared.chat import TEMPLATE
from llm.model.classifier import Classifier
from llm.page.build import build_page

ROOT = Path(__file__).resolve().parents[2]
TEXT = "def walk(path):\n    return [name for name in path]\n"
ALWAYS = {"tokens", "attention", "embeddings", "positions", "sizes"}
SHOWN = {
    "language": ALWAYS | {"next", "lens"},
    "gpt2": ALWAYS | {"next", "lens"},
    "instruction": ALWAYS | {"next", "lens", "conversation"},
    "classifier": ALWAYS | {"labels"},
    "pairs": ALWAYS | {"labels"},
}
SHAPES: dict[str, dict[str, Any]] = {
    "gpt2": {"family": "gpt2", "n_kv_heads": 2},
    "instruction": {"context_length": 300},
}
LABELS = {"classifier": ["text"], "pairs": ["text", "other"]}


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


def _show(page: Any, panel: str) -> None:
    """Scroll to a panel and wait until it is drawn."""
    page.locator(f"#{panel}").scroll_into_view_if_needed()
    frames = "() => new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(drawn))))"
    page.evaluate(frames)


def _show_all(page: Any, kind: str) -> None:
    for panel in sorted(SHOWN[kind]):
        _show(page, panel)


def _wait(page: Any, condition: str) -> None:
    """Wait until an expression of JavaScript is true; Playwright's own way needs `eval`, which the page forbids."""
    page.evaluate(f"""async () => {{
        for (let n = 0; !({condition}); n++) {{
            if (n > 1000) throw new Error("waited too long");
            await new Promise((resolve) => setTimeout(resolve, 10));
        }}
    }}""")


def _type(page: Any, text: str) -> None:
    """Type a text and wait until the model has read it."""
    page.evaluate("() => page.addEventListener('trace', () => (document.body.dataset.read = 'yes'), {once: true})")
    page.fill("#text", text)
    page.wait_for_selector("body[data-read]")
    page.evaluate("() => delete document.body.dataset.read")


def _selected(page: Any) -> tuple[int, str]:
    return page.evaluate("[page.selected, document.querySelector('#pieces [aria-selected=true]').textContent]")


@pytest.mark.parametrize("kind", SHOWN)
def test_each_kind_opens_with_its_panels_and_a_selection(visit, kind):
    page = visit(kind)
    _show_all(page, kind)
    assert {section.get_attribute("id") for section in page.locator("section:visible").all()} == SHOWN[kind]
    assert {link.get_attribute("href")[1:] for link in page.locator("nav a").all()} == SHOWN[kind]
    assert page.locator("#pieces [aria-selected=true]").count() == 1
    n_weights = page.evaluate("page.model.n_weights")
    assert page.inner_text("#facts").startswith(f"{n_weights:,} weights")
    assert "loads nothing from elsewhere" in page.inner_text("#facts")
    assert page.locator("#heads button").count() == 4
    assert page.locator("#next-bars button").count() == (0 if kind in LABELS else 10)
    assert page.locator("#lens-table tbody tr").count() == (0 if kind in LABELS else 3)
    assert page.locator("#neighbours button").count() == 10
    assert page.locator("#rope-pairs svg").count() == (0 if kind == "gpt2" else 6)
    if kind not in LABELS:
        colors = page.locator("#pieces .piece").evaluate_all(
            "all => all.map((one) => getComputedStyle(one).backgroundColor)"
        )
        assert len(set(colors)) > 5


def test_the_panel_of_positions_says_that_gpt2_learns_them(visit):
    page = visit("gpt2")
    assert "a learned vector for each of its 48 positions" in page.inner_text("#positions")


def test_typing_updates_the_tokens_and_the_sum(visit):
    page = visit()
    _type(page, "low\té")
    pieces = page.locator("#pieces .piece").all_inner_texts()
    assert "".join(pieces[1:]) == "low⇥⟨c3⟩⟨a9⟩" or "".join(pieces[1:]) == "low⇥é"
    bits = page.evaluate("page.losses.slice(1).reduce((sum, one) => sum + one, 0)")
    n = len(pieces) - 1
    expected = f"{n} tokens for 6 bytes. The losses add up to {bits:.0f} bits: {bits / 6:.2f} bits per byte."
    assert page.inner_text("#sums") == expected


def test_a_token_shows_its_id_bytes_loss_and_merges(visit):
    page = visit()
    _type(page, "return")
    page.locator("#pieces .piece").last.hover()
    details = page.inner_text("#details")
    ids = page.evaluate("page.ids")
    assert re.search(rf"id\s+{ids[-1]}\b", details)
    assert "loss" in details
    if len(ids) == 2:
        assert "72 65 74 75 72 6e" in details
        assert [part.inner_text().replace("\n", "") for part in page.locator("#details .merge").all()] == ["return"] * 6


def test_the_keyboard_moves_the_selection(visit):
    page = visit()
    page.locator("#pieces [aria-selected=true]").focus()
    length = page.evaluate("page.ids.length")
    for key, position in (
        ("Home", 0),
        ("ArrowRight", 1),
        ("ArrowLeft", 0),
        ("End", length - 1),
        ("ArrowRight", length - 1),
    ):
        page.keyboard.press(key)
        assert _selected(page)[0] == position, key
        assert page.evaluate("document.activeElement.getAttribute('aria-selected')") == "true"
    page.keyboard.press("ArrowUp")
    above = _selected(page)[0]
    assert 0 < above < length - 1
    assert page.locator("#pieces [tabindex='0']").count() == 1
    _show(page, "attention")
    assert f"position {above}," in page.inner_text("#attention-context")
    page.keyboard.press("ArrowDown")
    assert _selected(page)[0] > above


def test_a_bar_appends_its_token_and_undo_takes_it_back(visit):
    page = visit()
    before = page.evaluate("page.ids")
    position = _selected(page)[0]
    bar = page.locator("#next-bars button").nth(3)
    bar.focus()
    token = bar.locator(".token-text").inner_text()
    page.keyboard.press("Enter")
    _wait(page, f"page.selected === {position + 1} && page.trace")
    assert page.evaluate("page.ids").__len__() == position + 2
    assert page.locator("#pieces .piece").last.inner_text() == token
    assert page.evaluate("document.activeElement.parentElement.id") == "next-bars"
    page.click("#undo")
    assert page.evaluate("page.ids") == before


def test_the_sliders_move_the_bars(visit):
    page = visit()

    def figures() -> list[str]:
        return page.locator("#next-bars .figure").all_inner_texts()

    before = figures()
    page.fill("#temperature", "0.5")
    sharper = figures()
    assert float(sharper[0][:-1]) > float(before[0][:-1])
    page.fill("#top-k", "3")
    assert figures().count("cut") == 7
    page.fill("#temperature", "0")
    assert figures() == ["100.0%"] + ["cut"] * 9


def test_writing_streams_and_stops_and_is_the_same_again(visit):
    page = visit()
    page.evaluate("() => page.select(8)")
    texts = []
    for _ in range(2):
        page.click("#write")
        _wait(page, "!document.getElementById('write').disabled")
        texts.append(page.evaluate("page.text"))
        page.evaluate("() => page.select(8)")
    assert texts[0] == texts[1] != TEXT
    page.fill("#seed", "2")
    lengths = "() => { window.lengths = []; page.addEventListener('trace', () => lengths.push(page.ids.length)); }"
    page.evaluate(lengths)
    # Stopped from the third token on, which is sooner than a click from outside could be.
    page.evaluate("() => page.addEventListener('trace', () => page.ids.length === 12 && byId('stop').click())")
    page.click("#write")
    _wait(page, "byId('write-note').textContent.startsWith('Stopped')")
    assert page.evaluate("lengths") == [9, 10, 11, 12]
    assert page.evaluate("page.text") != texts[0]


def test_a_full_context_offers_no_next_token(visit):
    page = visit()
    _type(page, "abc " * 40)
    assert page.evaluate("page.ids.length") == 48
    assert "did not fit into the context" in page.inner_text("#sums")
    page.evaluate("() => page.select(47)")
    assert page.locator("#write").is_disabled()
    assert page.locator("#next-bars button:enabled").count() == 0


def test_the_matrix_hides_the_future(visit):
    page = visit()
    _show(page, "matrix")
    pixels = page.evaluate("""() => {
        const { width } = byId("matrix"), n = page.ids.length, cell = width / n;
        const context = new OffscreenCanvas(width, width).getContext("2d", { willReadFrequently: true });
        context.drawImage(byId("matrix"), 0, 0);
        const at = (row, column) => [...context.getImageData((column + 0.5) * cell, (row + 0.5) * cell, 1, 1).data];
        const future = [], past = [];
        for (let row = 0; row < n; row++)
            for (let column = 0; column < n; column++) (column > row ? future : past).push(at(row, column));
        return { future, past, first: at(0, 0) };
    }""")
    # The future is gray, whatever the weights; the first position looks at itself with all of its weight: blue.
    assert all(max(pixel[:3]) - min(pixel[:3]) < 24 for pixel in pixels["future"])
    assert pixels["first"][2] - pixels["first"][0] > 80
    assert len({tuple(pixel) for pixel in pixels["past"]}) > 10
    masked = page.locator("#attended .masked").count()
    assert masked == page.evaluate("page.ids.length - page.selected - 1") > 0


def test_another_head_is_chosen_by_its_strip(visit):
    page = visit()
    _show(page, "attention")
    shades = "all => all.map((one) => one.style.getPropertyValue('--value'))"
    before = page.locator("#attended .piece").evaluate_all(shades)
    page.locator("#heads button").first.press("Enter")
    assert page.inner_text("#attention-head") == "Layer 1, head 1"
    assert page.locator("#attended .piece").evaluate_all(shades) != before
    weights = page.evaluate("[...page.trace.attention(0, 0, page.selected)]")
    after = page.locator("#attended .piece").evaluate_all(shades)[: len(weights)]
    assert [float(shade) ** 2 for shade in after] == pytest.approx(weights, abs=1e-5)


def test_shifting_both_positions_leaves_the_score(visit):
    page = visit()
    _show(page, "positions")

    def scores() -> tuple[str, str]:
        found = re.match(r"Distance (-?\d+): .* = (-?[\d.]+),", page.inner_text("#rope-product"))
        assert found
        return found[1], found[2]

    before, positions = scores(), page.input_value("#rope-query")
    page.click("#rope-forth")
    assert page.input_value("#rope-query") == str(int(positions) + 10)
    assert scores() == before
    page.fill("#rope-key", "0")
    assert scores()[0] == str(int(positions) + 10)
    assert scores()[1] != before[1]


def test_the_lens_ends_with_the_bars(visit):
    page = visit()
    _show(page, "lens")
    last = page.locator("#lens-table tbody tr").last.locator(".guess").all_inner_texts()
    assert last == page.locator("#next-bars .token-text").all_inner_texts()[:5]


def test_a_neighbour_is_explored_on_the_map(visit):
    page = visit()
    _show(page, "embeddings")
    title = page.inner_text("#neighbours-title")
    first = page.locator("#neighbours button").first
    name = first.locator(".token-text").inner_text()
    first.press("Enter")
    assert page.inner_text("#neighbours-title") == f"Nearest to {name}" != title
    before = page.evaluate("byId('map').toDataURL()")
    page.locator("#map").press("+")
    assert page.evaluate("byId('map').toDataURL()") != before


def test_markup_in_a_text_is_text(visit):
    page = visit()
    n_elements = page.evaluate("document.querySelectorAll('script, img').length")
    typed = "</p><script>alert(1)</script><img src=x onerror=alert(2)>"
    page.on("dialog", lambda dialog: pytest.fail(dialog.message))
    for text in (typed[:40], typed[29:]):
        _type(page, text)
        _show_all(page, "language")
        assert "".join(page.locator("#pieces .piece").all_inner_texts()[1:]) == text.replace(" ", "␣")
    assert page.evaluate("document.querySelectorAll('script, img').length") == n_elements


def test_a_conversation_is_answered_and_can_be_looked_into(visit):
    page = visit("instruction")
    assert page.input_value("#question") == TEXT
    page.fill("#question", "<b>rain</b>")
    page.locator("#question").press("Enter")
    page.wait_for_selector("#ask-inside:enabled")
    assert page.locator("#messages li strong").all_inner_texts() == ["user", "assistant"]
    assert page.locator("#messages p").first.inner_text() == "<b>rain</b>"
    answer = page.locator("#messages p").last.inner_text()
    page.click("#ask-inside")
    _wait(page, "page.trace && page.ids.length > 10")
    assert page.evaluate("page.model.tokenizer.decode(page.ids)").strip().endswith(answer.strip())
    page.fill("#question", "rain " * 400)
    page.click("#ask-send")
    _wait(page, "byId('ask-note').textContent.includes('expected at most')")
    assert page.locator("#messages li").count() == 2
    assert page.locator("#ask-send").is_enabled()


@pytest.mark.parametrize("kind", LABELS)
def test_a_classifier_shows_labels_and_what_words_do(visit, kind):
    page = visit(kind)
    expected = [TEXT] * len(LABELS[kind])
    for number, field in enumerate(("#text", "#second")[: len(LABELS[kind])]):
        before = page.locator("#label-bars .figure").all_inner_texts()
        expected[number] = "rain falls; <i>"
        page.fill(field, expected[number])
        _wait(page, f"byId('words').textContent === {json.dumps(''.join(expected))}")
        _wait(page, "byId('label-note').textContent.includes('hold the pointer')")
        figures = page.locator("#label-bars .figure").all_inner_texts()
        assert figures != before
        assert sum(float(figure.lstrip("✓ ")[:-1]) for figure in figures) == pytest.approx(100, abs=0.3)
        assert page.locator("#label-bars .true").count() == 1
    words = page.locator("#words .piece").all_inner_texts()
    assert words == ["rain", "falls", ";", "<", "i", ">"] * len(LABELS[kind])
    titles = [word.get_attribute("title") for word in page.locator("#words .piece").all()]
    assert all(re.fullmatch(r"[+−][\d.]+ percentage points", title) for title in titles)


@pytest.mark.parametrize("kind", ["language", "instruction", "pairs"])
def test_a_phone_scrolls_down_alone(visit, kind):
    page = visit(kind, width=375)
    _type(page, "W" * 30 + "\n" + "  " * 9)
    _show_all(page, kind)
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    assert page.locator("#pager").is_visible()
    before = _selected(page)[0]
    page.click("#back" if before else "#forth")
    assert abs(_selected(page)[0] - before) == 1


# For every text on the page: its color, and all colors that may be behind it.
COLORS = """() => {
  const context = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const over = (colors) => {
    for (const color of colors) (context.fillStyle = color), context.fillRect(0, 0, 1, 1);
    return [...context.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const behind = (element) => {
    const layers = [];
    for (let one = element; one; one = one.parentElement) layers.unshift(getComputedStyle(one).backgroundColor);
    const image = getComputedStyle(element).backgroundImage;
    return [over(layers), ...(image.match(/rgb\\([^)]*\\)/g) ?? []).map((color) => over([color]))];
  };
  document.querySelectorAll(".piece").forEach((piece) => piece.style.setProperty("--value", 1));
  const found = [];
  for (const element of document.querySelectorAll("body *:not(script)")) {
    const text = [...element.childNodes].filter((node) => node.nodeType === 3).map((node) => node.data).join("").trim();
    if (!text || !element.checkVisibility()) continue;
    const style = getComputedStyle(element);
    const ink = over([element instanceof SVGElement ? style.fill : style.color]);
    found.push({ text: `${element.tagName}.${element.getAttribute("class")}: ${text}`, ink, behind: behind(element) });
  }
  return found;
}"""


def _luminance(color: list[int]) -> float:
    """Relative luminance, as WCAG 2 defines it."""
    parts = [part / 255 for part in color]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _contrast(one: list[int], other: list[int]) -> float:
    darker, lighter = sorted(map(_luminance, (one, other)))
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("kind", ["language", "instruction", "classifier"])
def test_texts_are_readable_in_light_and_dark(visit, kind):
    page = visit(kind)
    _show_all(page, kind)
    grounds = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        found = page.evaluate(COLORS)
        assert len(found) > 100
        pale = {one["text"]: _contrast(one["ink"], color) for one in found for color in one["behind"]}
        assert {text: contrast for text, contrast in pale.items() if contrast < 4.5} == {}
        grounds.append(_luminance(found[0]["behind"][0]))
    assert grounds[0] > 0.8
    assert grounds[1] < 0.05


def test_every_question_that_a_part_links_to_exists(visit):
    page = visit()
    _show(page, "sizes")
    links = {link.inner_text(): link.get_attribute("href") for link in page.locator("#sizes a").all()}
    questions = re.findall(r"(?m)^### (.*)$", (ROOT / "docs/questions.md").read_text(encoding="utf-8"))
    addresses = {
        name: "../docs/questions.md#" + re.sub(r"[^\w -]", "", name.lower()).replace(" ", "-") for name in questions
    }
    asked = {name: address for name, address in links.items() if address.startswith("..")}
    assert len(asked) >= 6
    assert asked.items() <= addresses.items()
    within = {address for address in links.values() if address not in asked.values()}
    assert within == {"#next", "#attention", "#lens", "#embeddings", "#positions"}
    for source in (
        (ROOT / "llm/page/panels/sizes.js")
        .read_text(encoding="utf-8")
        .split("QUESTIONS = {")[1]
        .split("};")[0]
        .splitlines()
    ):
        if name := re.search(r'"(.*)"', source):
            assert name[1] in questions


def test_the_sizes_add_up_to_the_model(visit):
    page = visit()
    texts = page.locator("#sizes .name .figure").all_inner_texts()
    counts = [int(found[1].replace(",", "")) for text in texts if (found := re.match(r"([\d,]+) weights", text))]
    assert sum(counts) == page.evaluate("page.model.n_weights")


def test_no_two_scripts_define_the_same_name():
    names: Counter[str] = Counter()
    for path in (ROOT / "llm/page").rglob("*.js"):
        names.update(
            re.findall(r"(?m)^(?:async )?(?:function\*?|class|const|let) (\w+)", path.read_text(encoding="utf-8"))
        )
    assert [name for name, n in names.items() if n > 1] == []
