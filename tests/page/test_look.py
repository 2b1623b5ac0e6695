"""A person sees what the model computes: every kind of model, light and dark, on a phone, with any text."""

import re
from collections import Counter
from pathlib import Path

import pytest

from tests.page.looking import LABELS, SHOWN, selected, show_all, type_text

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("kind", SHOWN)
def test_each_kind_opens_with_its_panels_and_a_selection(visit, kind):
    page = visit(kind)
    show_all(page, kind)
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


def test_markup_in_a_text_is_text(visit):
    page = visit()
    n_elements = page.evaluate("document.querySelectorAll('script, img').length")
    typed = "</p><script>alert(1)</script><img src=x onerror=alert(2)>"
    page.on("dialog", lambda dialog: pytest.fail(dialog.message))
    for text in (typed[:40], typed[29:]):
        type_text(page, text)
        show_all(page, "language")
        assert "".join(page.locator("#pieces .piece").all_inner_texts()[1:]) == text.replace(" ", "␣")
    assert page.evaluate("document.querySelectorAll('script, img').length") == n_elements


@pytest.mark.parametrize("kind", ["language", "instruction", "pairs"])
def test_a_phone_scrolls_down_alone(visit, kind):
    page = visit(kind, width=375)
    type_text(page, "W" * 30 + "\n" + "  " * 9)
    show_all(page, kind)
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    assert page.locator("#pager").is_visible()
    before = selected(page)[0]
    page.click("#back" if before else "#forth")
    assert abs(selected(page)[0] - before) == 1


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
    show_all(page, kind)
    grounds = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        found = page.evaluate(COLORS)
        assert len(found) > 100
        contrasts = {one["text"]: min(_contrast(one["ink"], color) for color in one["behind"]) for one in found}
        assert {text: contrast for text, contrast in contrasts.items() if contrast < 4.5} == {}
        grounds.append(_luminance(found[0]["behind"][0]))
    assert grounds[0] > 0.8
    assert grounds[1] < 0.05


def test_every_part_links_to_its_panel_and_questions(visit):
    headings = re.findall(r"(?m)^### (.*)$", (ROOT / "docs/questions.md").read_text(encoding="utf-8"))
    anchors = {name: re.sub(r"[^\w -]", "", name.lower()).replace(" ", "-") for name in headings}
    for kind, n_questions in (("language", 7), ("gpt2", 7), ("classifier", 6)):
        page = visit(kind)
        links = [(link.inner_text(), link.get_attribute("href")) for link in page.locator("#stack a").all()]
        asked = {(name, address) for name, address in links if address.startswith("..")}
        assert len(asked) == n_questions
        assert asked <= {(name, f"../docs/questions.md#{anchor}") for name, anchor in anchors.items()}
        within = {address[1:] for _, address in links if address.startswith("#")}
        assert within == SHOWN[kind] - {"tokens", "sizes"}


def test_no_two_scripts_define_the_same_name():
    names: Counter[str] = Counter()
    for path in (ROOT / "llm/page").rglob("*.js"):
        names.update(
            re.findall(r"(?m)^(?:async )?(?:function\*?|class|const|let) (\w+)", path.read_text(encoding="utf-8"))
        )
    assert [name for name, n in names.items() if n > 1] == []
