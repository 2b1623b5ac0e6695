"use strict";
// The logit lens: what the model would say at the selected position if the stack ended after each block.

const N_GUESSES = 5;

function lensPanel(page) {
  page.whenTraced("lens", () => {
    const truth = page.ids[page.selected + 1];
    const layers = page.model.config.n_layers;
    const rows = Array.from({ length: layers + 1 }, (_, layer) => lensRow(page, layer, truth));
    const heads = ["after", "most likely next tokens", truth === undefined ? "" : "actual next token"];
    byId("lens-table").replaceChildren(
      el("thead", {}, el("tr", {}, ...heads.map((head) => el("th", { scope: "col" }, head)))),
      el("tbody", {}, ...rows),
    );
    byId("lens-context").replaceChildren(
      "After ",
      el("span", { class: "token-text" }, page.before(page.selected)),
      ":",
    );
  });
}

function lensRow(page, layer, truth) {
  const p = probabilities(page.trace.lens(layer, page.selected));
  const guesses = largest(p, N_GUESSES).map((id) =>
    el(
      "span",
      {
        class: id === truth ? "piece guess true" : "piece guess",
        "--value": shade(p[id]),
        title: percent(p[id]),
      },
      page.showToken(id),
    ),
  );
  const name = layer ? `block ${layer}` : "the embedding";
  const row = el("tr", {}, el("th", { scope: "row" }, name), el("td", { class: "guesses" }, ...guesses));
  row.append(truth === undefined ? el("td") : lensTruth(page, p, truth));
  return row;
}

/** The right token's probability as a bar, and its rank. */
function lensTruth(page, p, truth) {
  const rank = p.reduce((above, value) => above + (value > p[truth]), 1);
  return el(
    "td",
    { class: "right" },
    el("span", { class: "bar", "--share": p[truth], "--before": 1 }),
    el("span", { class: "figure" }, `${page.showToken(truth)}: ${percent(p[truth])}, rank ${count(rank)}`),
  );
}
