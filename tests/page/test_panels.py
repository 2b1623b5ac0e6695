"""Each panel follows the text and the selection, by pointer and keyboard."""

import json
import re

import pytest

from tests.page.looking import LABELS, TEXT, selected, show, type_text, wait_until


def test_typing_updates_the_tokens_and_the_sum(visit):
    page = visit()
    type_text(page, "low\té")
    pieces = page.locator("#pieces .piece").all_inner_texts()
    assert "".join(pieces[1:]) == "low⇥⟨c3⟩⟨a9⟩" or "".join(pieces[1:]) == "low⇥é"
    bits = page.evaluate("page.losses.slice(1).reduce((sum, one) => sum + one, 0)")
    n = len(pieces) - 1
    expected = f"{n} tokens for 6 bytes. The losses add up to {bits:.0f} bits: {bits / 6:.2f} bits per byte."
    assert page.inner_text("#sums") == expected


def test_a_text_that_is_left_at_once_is_read_too(visit):
    page = visit()
    page.fill("#text", "rain")
    page.locator("#next-bars button").first.focus()
    wait_until(page, "page.text === 'rain' && page.trace")
    assert page.input_value("#text") == "rain"


def test_a_token_shows_its_id_bytes_loss_and_merges(visit):
    page = visit()
    type_text(page, "return")
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
        assert selected(page)[0] == position, key
        assert page.evaluate("document.activeElement.getAttribute('aria-selected')") == "true"
    page.keyboard.press("ArrowUp")
    above = selected(page)[0]
    assert 0 < above < length - 1
    assert page.locator("#pieces [tabindex='0']").count() == 1
    show(page, "attention")
    assert f"position {above}," in page.inner_text("#attention-context")
    page.keyboard.press("ArrowDown")
    assert selected(page)[0] > above


def test_a_bar_appends_its_token_and_undo_takes_it_back(visit):
    page = visit()
    before = page.evaluate("page.ids")
    position = selected(page)[0]
    bar = page.locator("#next-bars button").nth(3)
    bar.focus()
    token = bar.locator(".token-text").inner_text()
    page.keyboard.press("Enter")
    wait_until(page, f"page.selected === {position + 1} && page.trace")
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
        wait_until(page, "!document.getElementById('write').disabled")
        texts.append(page.evaluate("page.text"))
        page.evaluate("() => page.select(8)")
    assert texts[0] == texts[1] != TEXT
    page.fill("#seed", "2")
    lengths = "() => { window.lengths = []; page.addEventListener('trace', () => lengths.push(page.ids.length)); }"
    page.evaluate(lengths)
    # Stopped from the third token on, which is sooner than a click from outside could be.
    page.evaluate("() => page.addEventListener('trace', () => page.ids.length === 12 && byId('stop').click())")
    page.click("#write")
    wait_until(page, "byId('write-note').textContent.startsWith('Stopped')")
    assert page.evaluate("lengths") == [9, 10, 11, 12]
    assert page.evaluate("page.text") != texts[0]


def test_a_full_context_offers_no_next_token(visit):
    page = visit()
    type_text(page, "abc " * 40)
    assert page.evaluate("page.ids.length") == 48
    assert "the context is full" in page.inner_text("#sums")
    page.evaluate("() => page.select(47)")
    assert page.locator("#write").is_disabled()
    assert page.locator("#next-bars button:enabled").count() == 0


def test_the_matrix_hides_the_future(visit):
    page = visit()
    show(page, "matrix")
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
    show(page, "attention")
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
    show(page, "positions")

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
    show(page, "lens")
    last = page.locator("#lens-table tbody tr").last.locator(".guess").all_inner_texts()
    assert last == page.locator("#next-bars .token-text").all_inner_texts()[:5]


def test_a_neighbour_is_explored_on_the_map(visit):
    page = visit()
    show(page, "embeddings")
    title = page.inner_text("#neighbours-title")
    first = page.locator("#neighbours button").first
    name = first.locator(".token-text").inner_text()
    first.press("Enter")
    assert page.inner_text("#neighbours-title") == f"Nearest to {name}" != title
    before = page.evaluate("byId('map').toDataURL()")
    page.locator("#map").press("+")
    assert page.evaluate("byId('map').toDataURL()") != before


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
    wait_until(page, "page.trace && page.ids.length > 10")
    assert page.evaluate("page.model.tokenizer.decode(page.ids)").strip().endswith(answer.strip())
    page.fill("#question", "rain " * 400)
    page.click("#ask-send")
    wait_until(page, "byId('ask-note').textContent.includes('expected at most')")
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
        wait_until(page, f"byId('words').textContent === {json.dumps(''.join(expected))}")
        wait_until(page, "byId('label-note').textContent.includes('hold the pointer')")
        figures = page.locator("#label-bars .figure").all_inner_texts()
        assert figures != before
        assert sum(float(figure.lstrip("✓ ")[:-1]) for figure in figures) == pytest.approx(100, abs=0.3)
        assert page.locator("#label-bars .true").count() == 1
    words = page.locator("#words .piece").all_inner_texts()
    assert words == ["rain", "falls", ";", "<", "i", ">"] * len(LABELS[kind])
    titles = [word.get_attribute("title") for word in page.locator("#words .piece").all()]
    assert all(re.fullmatch(r"[+−][\d.]+ percentage points", title) for title in titles)


def test_the_sizes_add_up_to_the_model(visit):
    page = visit()
    texts = page.locator("#sizes .name .figure").all_inner_texts()
    counts = [int(found[1].replace(",", "")) for text in texts if (found := re.match(r"([\d,]+) weights", text))]
    assert sum(counts) == page.evaluate("page.model.n_weights")
