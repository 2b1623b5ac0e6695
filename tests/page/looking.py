"""Small models of every kind, and what a person does on their pages."""

from typing import Any

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


def show(page: Any, panel: str) -> None:
    """Scroll to a panel and wait until it is drawn."""
    page.locator(f"#{panel}").scroll_into_view_if_needed()
    frames = "() => new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(drawn))))"
    page.evaluate(frames)


def show_all(page: Any, kind: str) -> None:
    for panel in sorted(SHOWN[kind]):
        show(page, panel)


def wait_until(page: Any, condition: str) -> None:
    """Wait until an expression of JavaScript is true; Playwright's own way needs `eval`, which the page forbids."""
    page.evaluate(f"""async () => {{
        for (let n = 0; !({condition}); n++) {{
            if (n > 1000) throw new Error("waited too long");
            await new Promise((resolve) => setTimeout(resolve, 10));
        }}
    }}""")


def type_text(page: Any, text: str) -> None:
    """Type a text and wait until the model has read it."""
    page.evaluate("() => page.addEventListener('trace', () => (document.body.dataset.read = 'yes'), {once: true})")
    page.fill("#text", text)
    page.wait_for_selector("body[data-read]")
    page.evaluate("() => delete document.body.dataset.read")


def selected(page: Any) -> tuple[int, str]:
    return page.evaluate("[page.selected, document.querySelector('#pieces [aria-selected=true]').textContent]")
