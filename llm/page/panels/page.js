"use strict";
// The page: one text as token ids, what the model computed for it, and one selected position. Panels listen:
//   "ids"     the text is another one, nothing is computed yet
//   "trace"   page.trace is what the model computed for page.ids
//   "select"  another position or another head is selected
//   "colors"  light or dark changed, or the width: canvases are drawn again

class Page extends EventTarget {
  constructor(model) {
    super();
    Object.assign(this, { model, ids: [], trace: null, selected: 0, head: [0, 0], dropped: 0 });
    Object.assign(this, { source: ["", ""], past: [], cached: null, writing: null });
    this.computing = new AbortController();
  }

  on(names, listener) {
    for (const name of names.split(" ")) this.addEventListener(name, listener);
  }

  emit(name) {
    this.dispatchEvent(new Event(name));
  }

  /** The text that was typed; a language model may have written on in it. */
  get text() {
    const { tokenizer, kind } = this.model;
    return kind === "language" ? tokenizer.decode(this.ids.filter((id) => !tokenizer.isSpecial(id))) : this.source[0];
  }

  /** Read a text: an instruction model reads it as a message, a classifier of pairs reads a second one too. */
  setText(text, selected, second = this.source[1]) {
    this.source = [text, second].slice(0, this.model.text_columns?.length ?? 1);
    const { ids, dropped } = idsOf(this.model, this.source);
    return this.setIds(ids, selected, dropped);
  }

  /** Take ids as the text and compute; `selected` is a position, by default the same as before. */
  setIds(ids, selected = this.selected, dropped = 0) {
    this.writing?.abort();
    if (this.ids.length) this.past = [...this.past.slice(-50), [this.ids, this.selected, this.dropped]];
    return this.replace(ids, selected, dropped);
  }

  undo() {
    this.writing?.abort();
    return this.past.length ? this.replace(...this.past.pop()) : undefined;
  }

  async replace(ids, selected, dropped) {
    this.computing.abort();
    const { signal } = (this.computing = new AbortController());
    Object.assign(this, { ids, dropped, trace: null, losses: null });
    this.selected = Math.max(0, Math.min(selected, ids.length - 1));
    this.emit("ids");
    if (!ids.length) return;
    try {
      const trace = await this.model.read(ids, { previous: this.cached, signal });
      this.cached = trace;
      const losses = this.model.kind === "classifier" ? null : await trace.losses({ signal });
      if (signal.aborted) return;
      Object.assign(this, { trace, losses });
      this.emit("trace");
    } catch (error) {
      if (!signal.aborted) throw error;
    }
  }

  select(position) {
    this.selected = Math.max(0, Math.min(position, this.ids.length - 1));
    this.emit("select");
  }

  chooseHead(layer, head) {
    this.head = [layer, head];
    this.emit("select");
  }

  /** Call `draw` after every change, as long as its section is near the window; else when it comes near. */
  whenTraced(section, draw) {
    let near = false;
    let stale = true;
    const refresh = () => {
      if (!near || !stale || !this.trace) return;
      stale = false;
      draw();
    };
    this.on("trace select colors", () => {
      stale = true;
      refresh();
    });
    const observer = new IntersectionObserver(
      (entries) => {
        near = entries.at(-1).isIntersecting;
        refresh();
      },
      { rootMargin: "300px" },
    );
    observer.observe(byId(section));
  }

  /** The last tokens up to a position, as the beginning of what follows. */
  before(position, n = 5) {
    const texts = this.ids.slice(Math.max(0, position + 1 - n), position + 1).map((id) => this.showToken(id));
    return `${position >= n ? "…" : ""}${texts.join("")}`;
  }

  showToken(id) {
    return showBytes(this.model.tokenizer.bytes(id));
  }
}

/** What a model of this kind reads of texts, and the number of tokens that do not fit. */
function idsOf(model, texts) {
  const length = (text) => model.tokenizer.ids(text).length;
  if (model.kind === "language") {
    const { ids, n_dropped: dropped } = model.prompt(texts[0]);
    return { ids, dropped };
  }
  if (model.kind === "classifier") {
    const ids = model.classifierIds(texts);
    return { ids, dropped: texts.reduce((n, text) => n + length(text), 0) - (ids.length - texts.length) };
  }
  for (let content = texts[0]; ; content = content.slice(0, content.length * 0.9)) {
    try {
      return { ids: model.conversation([{ role: "user", content }]).ids, dropped: length(texts[0]) - length(content) };
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
    }
  }
}

/** Where to begin: after a word whose next word the model neither knows nor is surprised by, near the middle. */
function interesting(page) {
  const { ids, losses, model } = page;
  if (model.kind !== "language") return ids.length - 1; // where the answer begins, or the labels are scored
  const text = (position) => model.tokenizer.text(ids[position]);
  const fits = (position) =>
    losses[position + 1] > 0.7 &&
    losses[position + 1] < 2.5 &&
    /^\s?\p{L}{2,}$/u.test(text(position)) &&
    /^\s\p{L}{2}/u.test(text(position + 1));
  const middle = ids.length / 2;
  const found = Array.from(ids.keys()).slice(1, -1).filter(fits);
  return found.sort((a, b) => Math.abs(a - middle) - Math.abs(b - middle))[0] ?? Math.max(0, ids.length - 2);
}

/** Facts of the header: weights, layers, and how large this file is. */
function describe(model) {
  const { n_layers: layers, d_model: width, vocab_size: vocabulary, context_length: context } = model.config;
  const size = (model.n_bytes / 1e6).toFixed(1);
  byId("facts").textContent =
    `${count(model.n_weights)} weights: ${plural(layers, "layer")} of width ${count(width)}, a vocabulary of ` +
    `${count(vocabulary)} tokens, up to ${count(context)} tokens of context. This page is ${size} MB, holds the ` +
    "whole model and loads nothing from elsewhere.";
}

async function start() {
  const model = await Model.load(document);
  const page = new Page(model);
  describe(model);
  for (const section of document.querySelectorAll("[data-kinds]")) {
    section.hidden = !section.dataset.kinds.split(" ").includes(model.kind);
    if (section.hidden) document.querySelector(`nav a[href="#${section.id}"]`)?.remove();
  }
  const panels = [tokensPanel, attentionPanel, embeddingsPanel, positionsPanel, sizesPanel];
  if (model.kind === "classifier") panels.push(labelsPanel);
  else panels.push(nextTokenPanel, lensPanel);
  if (model.kind === "instruction") panels.push(conversationPanel);
  for (const panel of panels) panel(page);
  const redraw = () => page.emit("colors");
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  window.addEventListener("resize", debounce(redraw, 150));
  window.page = page; // for the console of the browser, and tests
  await page.setText(model.passages[0] ?? "Type a text.", 0, model.seconds?.[0]);
  page.select(interesting(page));
  document.body.dataset.ready = "true";
}

document.addEventListener("DOMContentLoaded", () => {
  start().catch((error) => {
    byId("status").textContent = `The page cannot run in this browser: ${error.message}`;
    throw error;
  });
});
