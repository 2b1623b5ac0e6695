"use strict";
// Rotary positions: pairs of one query and one key, turned by the angles of two positions, and their dot product.

const N_DIALS = 8;
const RADIUS = 34;

function positionsPanel(page) {
  if (page.model.config.positions !== "rope") {
    byId("rope").remove();
    byId("positions-teach").textContent =
      "Without positions, attention cannot tell orders apart. This model has no rotary positions, which turn queries " +
      `and keys. It has a learned vector for each of its ${count(page.model.config.context_length)} positions, as ` +
      "GPT-2 has, which is added to the embedding of the token there.";
    return;
  }
  const inputs = ["rope-query", "rope-key"].map(byId);
  let pair;
  const positions = () => inputs.map((input) => Number(input.value));
  const draw = () => {
    for (const input of inputs) document.querySelector(`output[for="${input.id}"]`).textContent = input.value;
    drawRope(page, pair, ...positions());
  };
  const reset = () => {
    pair = pairToShow(page);
    inputs.forEach((input, index) => (input.value = pair[index]));
    draw();
  };
  const shift = (step) => {
    const last = page.model.config.context_length - 1;
    const [query, key] = positions();
    const room = step > 0 ? Math.min(step, last - Math.max(query, key)) : Math.max(step, -Math.min(query, key));
    [inputs[0].value, inputs[1].value] = [query + room, key + room];
    draw();
  };
  for (const input of inputs) {
    input.max = page.model.config.context_length - 1;
    input.addEventListener("input", () => page.trace && draw());
  }
  byId("rope-back").addEventListener("click", () => page.trace && shift(-10));
  byId("rope-forth").addEventListener("click", () => page.trace && shift(10));
  byId("rope-reset").addEventListener("click", () => page.trace && reset());
  page.whenTraced("positions", reset);
}

/** The selected position, and the earlier one at which the chosen head looks most. */
function pairToShow(page) {
  const weights = page.trace.attention(...page.head, page.selected).slice(0, Math.max(1, page.selected));
  return [page.selected, largest(weights, 1)[0]];
}

/** A copy of a vector with each pair (i, i + half) turned by the angles of a position. */
function turned(page, vector, position) {
  const copy = vector.slice();
  rotate(copy, page.model.angles(position));
  return copy;
}

/** The attention score of a query and a key: q·k / √width. */
const score = (query, key) => dot(query, 0, key, 0, query.length) / Math.sqrt(query.length);

function drawRope(page, [from, to], ...places) {
  const [layer, head] = page.head;
  const before = [page.trace.query(layer, head, from).before, page.trace.key(layer, head, to).before];
  const after = before.map((vector, index) => turned(page, vector, places[index]));
  const half = before[0].length / 2;
  const token = (position, name) => el("span", { class: `token-text ${name}` }, page.showToken(page.ids[position]));
  byId("rope-context").replaceChildren(
    `Layer ${layer + 1}, head ${head + 1} (chosen under Attention): the query of `,
    token(from, "query"),
    ` (${from}) and the key of `,
    token(to, "key-vector"),
    ` (${to}).`,
  );
  const n = Math.min(N_DIALS, half);
  const shown = Array.from({ length: n }, (_, index) => Math.floor((index * half) / n));
  byId("rope-pairs").replaceChildren(...shown.map((i) => dial(page, i, before, after)));
  const distance = places[0] - places[1];
  byId("rope-product").textContent =
    `Distance ${distance}: the score is q·k / √${2 * half} = ${score(...after).toFixed(3)}, summed over all ` +
    `${half} pairs. It stays the same when both are shifted. Solid arrows are turned, dashed ones are before.`;
  drawScores(page, ...before, distance);
}

/** One pair as a dial: the query and the key as arrows, dashed before they are turned. */
function dial(page, i, before, after) {
  const half = before[0].length / 2;
  const names = ["query", "key-vector"];
  const arrows = names.flatMap((name, index) => {
    const longest = Math.max(...Array.from({ length: half }, (_, j) => lengthOf(before[index], j)));
    return [arrow(before[index], i, longest, `${name} dashed`), arrow(after[index], i, longest, name)];
  });
  const size = RADIUS + 4;
  const viewBox = `${-size} ${-size} ${2 * size} ${2 * size}`;
  const part = after[0][i] * after[1][i] + after[0][i + half] * after[1][i + half];
  const period = Number(((2 * Math.PI) / page.model.angles(1)[i]).toPrecision(2));
  return el(
    "div",
    { class: "dial" },
    svg("svg", { viewBox, "aria-hidden": "true" }, svg("circle", { r: RADIUS, class: "rim" }), ...arrows),
    el("span", {}, `pair ${i + 1}`),
    el("span", {}, `${part < 0 ? "−" : "+"}${Math.abs(part).toFixed(2)}`),
    el("span", { class: "soft" }, `${count(period)} tokens a turn`),
  );
}

const lengthOf = (vector, i) => Math.hypot(vector[i], vector[i + vector.length / 2]);

/** A pair of a vector as an arrow; its length is the square root of its share of the longest, so that none vanishes. */
function arrow(vector, i, longest, name) {
  const size = lengthOf(vector, i) || 1;
  const length = Math.sqrt(size / (longest || 1)) * (RADIUS - 3);
  const x = ((vector[i] / size) * length).toFixed(2);
  const y = ((-vector[i + vector.length / 2] / size) * length).toFixed(2);
  return svg("g", { class: name }, svg("line", { x2: x, y2: y }), svg("circle", { cx: x, cy: y, r: 3.2 }));
}

/** The score of this query and key at every distance that the context allows. */
function drawScores(page, query, key, distance) {
  const last = page.model.config.context_length - 1;
  const scores = Array.from({ length: last + 1 }, (_, steps) => score(turned(page, query, steps), key));
  const [low, high] = [Math.min(0, ...scores), Math.max(0, ...scores)];
  const width = Math.max(280, byId("rope-curve").clientWidth);
  const x = (steps) => 40 + (steps / last) * (width - 50);
  const y = (score) => 10 + ((high - score) / (high - low || 1)) * 110;
  const points = scores.map((score, steps) => `${x(steps).toFixed(1)},${y(score).toFixed(1)}`).join(" ");
  const text = (left, top, words, anchor) => svg("text", { x: left, y: top, "text-anchor": anchor }, words);
  const parts = [
    svg("line", { x1: 40, x2: width - 10, y1: y(0), y2: y(0), class: "axis" }),
    svg("polyline", { points, class: "curve" }),
    text(36, y(high) + 5, high.toFixed(1), "end"),
    text(36, y(low) + 5, low.toFixed(1), "end"),
    text(40, 142, "distance 0", "start"),
    text(width - 10, 142, `${last}`, "end"),
  ];
  if (distance >= 0) parts.push(svg("circle", { cx: x(distance), cy: y(scores[distance]), r: 5, class: "now" }));
  byId("rope-curve").replaceChildren(
    svg(
      "svg",
      { viewBox: `0 0 ${width} 150`, role: "img", "aria-label": "The score at each distance of query and key" },
      ...parts,
    ),
    el(
      "figcaption",
      { class: "soft" },
      "The score of this query and key at every distance. " +
        (distance >= 0 ? "The dot is the distance now." : "The key is now in the future, which the mask hides."),
    ),
  );
}
