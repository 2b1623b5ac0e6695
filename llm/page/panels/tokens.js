"use strict";
// The text, its tokens colored by loss, and what is known of one of them. Other panels show the same tokens with
// `showPieces` and colors of their own.

const MOST_BITS = 12; // the darkest color

/** Fill a box with the tokens of the text; `make(position)` gives the attributes of each. */
function showPieces(page, box, make) {
  const { tokenizer } = page.model;
  const pieces = page.ids.map((id, position) =>
    el("span", { class: tokenizer.isSpecial(id) ? "piece special" : "piece", ...make(position) }, page.showToken(id)),
  );
  // Whole tokens move to the next line; one with a line break in it ends the line, as in the text.
  const endsLine = (position) => tokenizer.text(page.ids[position]).includes("\n");
  box.replaceChildren(...pieces.flatMap((piece, position) => (endsLine(position) ? [piece, el("br")] : [piece])));
  return pieces;
}

function tokensPanel(page) {
  const box = byId("pieces");
  const field = byId("text");
  let pieces = [];

  const bitsOf = (position) => (page.losses?.[position] >= 0 ? `, ${page.losses[position].toFixed(1)} bits` : "");
  const label = (position) => `${page.showToken(page.ids[position])}, id ${page.ids[position]}${bitsOf(position)}`;

  const showText = () => {
    if (document.activeElement !== field) field.value = page.text;
    pieces = showPieces(page, box, (position) => ({ role: "option", "aria-label": label(position) }));
    showSums(page);
    showSelected();
  };

  const showLosses = () => {
    pieces.forEach((piece, position) => {
      piece.style.setProperty("--value", Math.min(1, (page.losses?.[position] || 0) / MOST_BITS));
      piece.setAttribute("aria-label", label(position));
    });
    showSums(page);
    showSelected();
  };

  const showSelected = () => {
    pieces.forEach((piece, position) => {
      piece.setAttribute("aria-selected", position === page.selected);
      piece.tabIndex = position === page.selected ? 0 : -1;
    });
    keepInView(box, pieces[page.selected]);
    showDetails(page, page.selected);
    byId("pager-token").textContent =
      `${page.selected}: ${page.showToken(page.ids[page.selected])}${bitsOf(page.selected)}`;
  };

  const choose = (position) => {
    page.select(position);
    pieces[page.selected]?.focus();
  };

  page.on("ids", showText);
  page.on("trace", showLosses);
  page.on("select", showSelected);
  const read = debounce(() => page.setText(field.value, Infinity), 150);
  field.addEventListener("input", read);
  box.addEventListener("click", (event) => pieces.includes(event.target) && choose(pieces.indexOf(event.target)));
  box.addEventListener(
    "mouseover",
    (event) => pieces.includes(event.target) && showDetails(page, pieces.indexOf(event.target)),
  );
  box.addEventListener("mouseleave", () => showDetails(page, page.selected));
  box.addEventListener("keydown", (event) => {
    const target = nextPosition(event.key, pieces, page.selected);
    if (target === null) return;
    event.preventDefault();
    choose(target);
  });
  byId("back").addEventListener("click", () => page.select(page.selected - 1));
  byId("forth").addEventListener("click", () => page.select(page.selected + 1));
  showPassages(page);
}

/** Scroll a box, and nothing else, so far that one of its children can be seen. */
function keepInView(box, child) {
  if (!child || box.scrollHeight <= box.clientHeight) return;
  const top = child.offsetTop - box.offsetTop;
  const isInView = top >= box.scrollTop && top + child.offsetHeight <= box.scrollTop + box.clientHeight;
  if (!isInView) box.scrollTop = top - box.clientHeight / 2;
}

/** Where a key moves the selection; null for other keys. Up and down go to the nearest token of the next line. */
function nextPosition(key, pieces, position) {
  const moves = { ArrowLeft: position - 1, ArrowRight: position + 1, Home: 0, End: pieces.length - 1 };
  if (key in moves) return moves[key];
  if (key !== "ArrowUp" && key !== "ArrowDown") return null;
  const step = key === "ArrowUp" ? -1 : 1;
  const boxes = pieces.map((piece) => piece.getBoundingClientRect());
  const here = boxes[position];
  let best = null;
  for (let index = position + step; boxes[index]; index += step) {
    if (Math.abs(boxes[index].top - here.top) < here.height / 2) continue;
    if (best !== null && Math.abs(boxes[index].top - boxes[best].top) > here.height / 2) break;
    const distance = (box) => Math.abs(box.left + box.width / 2 - here.left - here.width / 2);
    if (best === null || distance(boxes[index]) < distance(boxes[best])) best = index;
  }
  return best ?? position;
}

function showPassages(page) {
  const { passages, seconds } = page.model;
  const open = async (index) => {
    await page.setText(passages[index], 0, seconds?.[index]);
    page.select(interesting(page));
  };
  const buttons = passages.map((_, index) =>
    el("button", { type: "button", onclick: () => open(index) }, `Passage ${index + 1}`),
  );
  byId("passages").replaceChildren(...buttons);
  page.on("ids", () =>
    buttons.forEach((button, index) => button.setAttribute("aria-pressed", page.source[0] === passages[index])),
  );
}

/** "73 tokens for 240 bytes. The losses add up to 412 bits: 1.72 bits per byte." */
function showSums(page) {
  const { tokenizer } = page.model;
  const own = page.ids
    .map((id, position) => [id, page.losses?.[position] || 0])
    .filter(([id]) => !tokenizer.isSpecial(id));
  const bytes = own.reduce((total, [id]) => total + tokenizer.bytes(id).length, 0);
  const parts = [`${plural(own.length, "token")} for ${plural(bytes, "byte")}.`];
  if (page.losses && bytes) {
    const bits = own.reduce((total, [, loss]) => total + loss, 0);
    parts.push(`The losses add up to ${count(Math.round(bits))} bits: ${(bits / bytes).toFixed(2)} bits per byte.`);
  }
  if (page.dropped) parts.push(`Left out, because the context is full: ${plural(page.dropped, "token")}.`);
  byId("sums").textContent = parts.join(" ");
}

/** The card of one token: id, bytes, loss and merges. */
function showDetails(page, position) {
  const { tokenizer } = page.model;
  const id = page.ids[position];
  if (id === undefined) return byId("details").replaceChildren();
  const row = (name, ...content) => el("div", {}, el("dt", {}, name), el("dd", {}, ...content));
  const rows = [
    row("position", `${position}`),
    row("id", `${id}`),
    row("bytes", tokenizer.isSpecial(id) ? "none: a special token, which no text contains" : hex(tokenizer.bytes(id))),
  ];
  const bits = page.losses?.[position];
  if (bits >= 0) rows.push(row("loss", `${bits.toFixed(2)} bits: probability ${percent(2 ** -bits)}`));
  const merges = tokenizer.isSpecial(id) ? [] : tokenizer.merges(id);
  if (merges.length > 1) rows.push(row("merges", ...merges.flatMap((ids, step) => showMerge(page, ids, step))));
  byId("details").replaceChildren(el("p", { class: "token-text large" }, page.showToken(id)), el("dl", {}, ...rows));
}

function showMerge(page, ids, step) {
  const parts = ids.map((id) => el("span", { class: "part" }, page.showToken(id)));
  const stage = el("span", { class: "merge" }, ...parts);
  return step ? [el("span", { class: "soft" }, " → "), stage] : [stage];
}
