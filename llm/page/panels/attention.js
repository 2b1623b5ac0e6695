"use strict";
// Where the selected position looks: a strip for each head of each layer, the text shaded by one head, its matrix.

/** Weights are shown by their square root, so that small ones remain visible. */
const shade = (weight) => Math.sqrt(weight);

function attentionPanel(page) {
  const { n_layers: layers, n_heads: heads } = page.model.config;
  const buttons = [];
  for (let layer = 0; layer < layers; layer++) {
    for (let head = 0; head < heads; head++) {
      const name = `layer ${layer + 1}, head ${head + 1}`;
      buttons.push(
        el(
          "button",
          { type: "button", "aria-label": name, onclick: () => page.chooseHead(layer, head) },
          el("span", {}, name),
          el("canvas", { "aria-hidden": "true" }),
        ),
      );
    }
  }
  byId("heads").replaceChildren(...buttons);
  byId("heads").style.setProperty("--columns", heads <= 4 ? heads : 4);
  page.head = [layers - 1, 0];

  page.whenTraced("attention", () => {
    byId("attention-context").replaceChildren(
      "From position ",
      `${page.selected}, `,
      el("span", { class: "token-text" }, page.showToken(page.ids[page.selected])),
      ":",
    );
    buttons.forEach((button, index) => drawStrip(page, button, Math.floor(index / heads), index % heads));
    showAttended(page);
    drawMatrix(page);
  });
  byId("matrix").addEventListener("click", (event) => page.select(cellOf(page, event)[0]));
  byId("matrix").addEventListener("mousemove", (event) => showCell(page, ...cellOf(page, event)));
  byId("matrix").addEventListener("mouseleave", () => captionMatrix(page));
}

/** A head's weights from the selected position as a strip with a cell for each token. */
function drawStrip(page, button, layer, head) {
  const canvas = button.lastChild;
  const [width, height] = [canvas.clientWidth || 200, 14];
  const context = canvasOf(canvas, width, height);
  const cell = width / page.ids.length;
  button.setAttribute("aria-pressed", layer === page.head[0] && head === page.head[1]);
  context.fillStyle = color("bar");
  page.trace.attention(layer, head, page.selected).forEach((weight, position) => {
    context.globalAlpha = shade(weight);
    context.fillRect(position * cell, 0, Math.max(1, cell), height);
  });
  context.globalAlpha = 1;
  context.beginPath();
  context.rect((page.selected + 1) * cell, 0, width, height);
  hatch(context, width, height);
}

/** The text shaded by where the selected position looks with the chosen head. */
function showAttended(page) {
  const [layer, head] = page.head;
  const weights = page.trace.attention(layer, head, page.selected);
  byId("attention-head").textContent = `Layer ${layer + 1}, head ${head + 1}`;
  const pieces = showPieces(page, byId("attended"), (position) =>
    position > page.selected
      ? { title: "masked: the future" }
      : { "--value": shade(weights[position]), title: percent(weights[position]) },
  );
  pieces.forEach((piece, position) => {
    piece.classList.toggle("masked", position > page.selected);
    piece.classList.toggle("from", position === page.selected);
    piece.onclick = () => page.select(position);
  });
  const parts = largest(weights, 3).flatMap((position) => [
    el("span", { class: "token-text" }, page.showToken(page.ids[position])),
    ` at ${position} with ${percent(weights[position])}, `,
  ]);
  byId("attention-summary").replaceChildren("Most at ", ...parts.slice(0, -1), parts.at(-1).replace(/, $/, "."));
}

/** The matrix of the chosen head: a row for each query, a column for each key; behind the diagonal is the future. */
function drawMatrix(page) {
  const canvas = byId("matrix");
  const length = page.ids.length;
  const size = Math.min(canvas.parentElement.clientWidth, 460);
  canvas.style.width = `${size}px`;
  const context = canvasOf(canvas, size, size);
  const cell = size / length;
  const pattern = page.trace.pattern(...page.head);
  context.fillStyle = color("card");
  context.fillRect(0, 0, size, size);
  context.fillStyle = color("bar");
  for (let row = 0; row < length; row++) {
    for (let column = 0; column <= row; column++) {
      context.globalAlpha = shade(pattern[row * length + column]);
      context.fillRect(column * cell, row * cell, cell, cell);
    }
  }
  context.globalAlpha = 1;
  pathOfFuture(context, length, cell);
  hatch(context, size, size);
  context.strokeStyle = color("ink");
  context.lineWidth = 1.5;
  context.strokeRect(0.75, page.selected * cell, (page.selected + 1) * cell, Math.max(2, cell));
  captionMatrix(page);
}

/** The staircase above the diagonal. */
function pathOfFuture(context, length, cell) {
  context.beginPath();
  context.moveTo(cell, 0);
  context.lineTo(length * cell, 0);
  context.lineTo(length * cell, (length - 1) * cell);
  for (let row = length - 2; row >= 0; row--) {
    context.lineTo((row + 1) * cell, (row + 1) * cell);
    context.lineTo((row + 1) * cell, row * cell);
  }
  context.closePath();
}

function captionMatrix(page) {
  const [layer, head] = page.head;
  const caption =
    `All positions with layer ${layer + 1}, head ${head + 1}: each row is a query, each column a key; ` +
    "the framed row is the selected position.";
  byId("matrix").setAttribute("aria-label", `${caption} The upper triangle is masked.`);
  byId("matrix-caption").textContent = `${caption} Select a row to move there.`;
}

/** [row, column] under the pointer. */
function cellOf(page, event) {
  const box = event.target.getBoundingClientRect();
  const index = (offset, size) =>
    Math.min(page.ids.length - 1, Math.max(0, Math.floor((offset / size) * page.ids.length)));
  return [index(event.clientY - box.top, box.height), index(event.clientX - box.left, box.width)];
}

function showCell(page, row, column) {
  if (!page.trace) return;
  const weight = page.trace.pattern(...page.head)[row * page.ids.length + column];
  const [query, key] = [row, column].map((position) => `${page.showToken(page.ids[position])} (${position})`);
  byId("matrix-caption").textContent =
    column > row
      ? `${query} cannot look at ${key}: it is masked.`
      : `${query} looks at ${key} with ${percent(weight)}.`;
}
