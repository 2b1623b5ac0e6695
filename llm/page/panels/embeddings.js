"use strict";
// Nearest neighbours of a token, and a map of the vocabulary on two principal components.

const N_NEIGHBOURS = 10;
const KINDS = [
  ["begins with a space", "kind-1", /^\s+\S/u],
  ["letters", "kind-2", /^\p{L}/u],
  ["digits", "kind-3", /^\p{N}/u],
  ["other signs and whitespace", "kind-4", /^[^\ufffd]/u],
  ["bytes and special tokens", "kind-5", /^/u],
];

/** Which of the kinds of tokens an id is of. */
function kindOf(model, id) {
  const text = model.tokenizer.isSpecial(id) ? "\ufffd" : model.tokenizer.text(id);
  return KINDS.findIndex(([, , pattern]) => pattern.test(text));
}

function embeddingsPanel(page) {
  const map = new VocabularyMap(page, (id) => explore(id));

  const explore = (id) => {
    const found = page.model.neighbours(id, N_NEIGHBOURS);
    byId("neighbours-title").replaceChildren("Nearest to ", el("span", { class: "token-text" }, page.showToken(id)));
    const rows = keepChildren(byId("neighbours"), found.length, () => barRow("button", { type: "button" }));
    rows.forEach((row, index) => {
      const { id: neighbour, cosine } = found[index];
      setBar(row, page.showToken(neighbour), cosine, cosine.toFixed(3));
      row.onclick = () => explore(neighbour);
    });
    const others = found.map((neighbour) => neighbour.id);
    map.mark(id, others);
  };

  page.whenTraced("embeddings", () => explore(page.ids[page.selected]));
  byId("map-legend").replaceChildren(
    ...KINDS.map(([name, tint]) =>
      el("span", {}, el("span", { class: "key dot", "--tint": `var(--${tint})` }), ` ${name}`),
    ),
  );
}

/** The canvas: a dot for each token, labels where there is room; it can be dragged and zoomed. */
class VocabularyMap {
  constructor(page, choose) {
    const size = page.model.tokenizer.vocab_size;
    Object.assign(this, { page, choose, canvas: byId("map"), marked: null, neighbours: [] });
    Object.assign(this, { zoom: 1, center: [0.5, 0.5] });
    this.kinds = Uint8Array.from({ length: size }, (_, id) => kindOf(page.model, id));
    this.words = Array.from(this.kinds.keys()).filter((id) => /^\s?\p{L}{4,}$/u.test(page.model.tokenizer.text(id)));
    this.place(page.model.map, size);
    this.listen();
  }

  /** Scale both components alike, so that all but the outermost tokens are between 0 and 1. */
  place(map, size) {
    const axes = [0, 1].map((axis) => Float32Array.from({ length: size }, (_, id) => map[2 * id + axis]));
    const ends = axes.map((values) => {
      const sorted = values.toSorted();
      return [0.002, 0.998].map((fraction) => sorted[Math.round(fraction * (size - 1))]);
    });
    const range = Math.max(...ends.map(([low, high]) => high - low)) || 1;
    this.points = axes.map((values, axis) =>
      values.map((value) => (value - (ends[axis][0] + ends[axis][1]) / 2) / range + 0.5),
    );
    this.ratio = Math.min(1, Math.max(0.7, (ends[1][1] - ends[1][0]) / range));
  }

  listen() {
    const { canvas } = this;
    const keys = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
    canvas.addEventListener("keydown", (event) => {
      if (event.key in keys) this.move(...keys[event.key].map((step) => step * 0.1));
      else if (event.key === "+" || event.key === "-") this.scale(event.key === "+" ? 1.5 : 1 / 1.5);
      else return;
      event.preventDefault();
    });
    const zoom = (event) => {
      if (!event.ctrlKey && !event.metaKey) return;
      event.preventDefault();
      this.scale(event.deltaY < 0 ? 1.2 : 1 / 1.2);
    };
    canvas.addEventListener("wheel", zoom, { passive: false });
    canvas.addEventListener("pointerdown", () => (this.dragged = 0));
    canvas.addEventListener("pointermove", (event) => this.point(event));
    canvas.addEventListener("click", (event) => {
      const id = this.nearest(event);
      if (id !== null && this.dragged < 5) this.choose(id);
    });
    byId("map-in").addEventListener("click", () => this.scale(1.7));
    byId("map-out").addEventListener("click", () => this.scale(1 / 1.7));
    byId("map-reset").addEventListener("click", () => {
      Object.assign(this, { zoom: 1, center: [0.5, 0.5] });
      this.draw();
    });
  }

  point(event) {
    if (event.buttons) {
      this.dragged += Math.abs(event.movementX) + Math.abs(event.movementY);
      this.move(-event.movementX / this.width, event.movementY / this.width);
      return;
    }
    const id = this.nearest(event);
    this.canvas.style.cursor = id === null ? "grab" : "pointer";
    this.caption(id);
  }

  move(x, y) {
    this.center = [this.center[0] + x / this.zoom, this.center[1] + y / this.zoom];
    this.draw();
  }

  scale(factor) {
    this.zoom = Math.min(60, Math.max(1, this.zoom * factor));
    this.draw();
  }

  /** Mark a token and its neighbours; a map that is zoomed in follows the token. */
  mark(id, neighbours) {
    Object.assign(this, { marked: id, neighbours });
    if (this.zoom > 1) this.center = this.points.map((values) => values[id]);
    this.draw();
  }

  xy(id) {
    return [
      (0.5 + (this.points[0][id] - this.center[0]) * this.zoom * 0.94) * this.width,
      this.height / 2 - (this.points[1][id] - this.center[1]) * this.zoom * 0.94 * this.width,
    ];
  }

  /** The token nearest to the pointer, or null if none is within a finger's width. */
  nearest(event) {
    const [x, y] = [event.offsetX, event.offsetY];
    let [best, least] = [null, 14 ** 2];
    for (let id = 0; id < this.kinds.length; id++) {
      const [a, b] = this.xy(id);
      const distance = (a - x) ** 2 + (b - y) ** 2;
      if (distance < least) [best, least] = [id, distance];
    }
    return best;
  }

  draw() {
    this.width = this.canvas.clientWidth;
    this.height = Math.round(this.width * this.ratio);
    const context = canvasOf(this.canvas, this.width, this.height);
    const radius = Math.min(2.6, 1.3 * Math.sqrt(this.zoom));
    const tints = KINDS.map(([, tint]) => color(tint));
    context.globalAlpha = 0.75;
    for (let id = 0; id < this.kinds.length; id++) {
      const [x, y] = this.xy(id);
      context.fillStyle = tints[this.kinds[id]];
      context.fillRect(x - radius, y - radius, 2 * radius, 2 * radius);
    }
    context.globalAlpha = 1;
    drawLabels(this, context);
    this.caption(null);
  }

  /** Name a token under the map, or say how it is used. */
  caption(id) {
    const use = "Drag to move, ctrl and the wheel or + and − to zoom, select a dot for its neighbours.";
    byId("map-caption").textContent =
      id === null ? `${count(this.kinds.length)} tokens. ${use}` : `${this.page.showToken(id)}, id ${id}`;
  }
}

/** Label the marked token, its neighbours, and then, where there is room, the earliest merges that are words. */
function drawLabels(map, context) {
  const taken = [];
  context.font = `12px ${color("mono")}`;
  context.textBaseline = "middle";
  const label = (id, tint, isBold) => {
    const [x, y] = map.xy(id);
    if (x < 0 || y < 8 || x > map.width || y > map.height - 8) return;
    const text = map.page.showToken(id);
    const width = context.measureText(text).width;
    const left = Math.min(x + 6, map.width - width - 2);
    const box = [left - 3, y - 9, left + width + 3, y + 9];
    if (taken.some((other) => box[0] < other[2] && other[0] < box[2] && box[1] < other[3] && other[1] < box[3])) return;
    taken.push(box);
    context.fillStyle = color("card");
    context.globalAlpha = isBold ? 0.95 : 0.75;
    context.fillRect(box[0], box[1] + 1, width + 6, 16);
    context.globalAlpha = 1;
    context.fillStyle = tint;
    if (isBold) context.fillRect(x - 4, y - 4, 8, 8);
    context.fillText(text, left, y + 0.5);
  };
  if (map.marked !== null) label(map.marked, color("accent"), true);
  for (const id of map.neighbours) label(id, color("ink"), true);
  const most = taken.length + (map.width * map.height) / 9000;
  for (const id of map.words) {
    if (taken.length >= most) return;
    label(id, color("soft"), false);
  }
}
