"use strict";
// The stack as a diagram: each part with its shapes and weights, its panel, and its question in docs/questions.md.

const QUESTIONS = {
  tokens: "How is a text tokenized?",
  embedding: "How does a token id become an embedding?",
  positions: "What does self-attention lack?",
  attention: "Why attention?",
  mask: "What is causal attention?",
  head: "What is nn.Embedding for?",
  next: "What is predicting the next token good for?",
  score: "How is a language model made?",
};

/** The address of a question: headings become anchors as Git hosts make them. */
function questionAddress(question) {
  const anchor = question.toLowerCase().replace(/[^\p{L}\p{N} -]/gu, "").replaceAll(" ", "-");
  return `../docs/questions.md#${anchor}`;
}

function sizesPanel(page) {
  const { model } = page;
  const { n_layers: layers, d_model: width, vocab_size: vocabulary, n_heads: heads, n_kv_heads: keys, head_dim: size } = model.config;
  const tensors = (pattern) => model.sizes.filter(({ name }) => pattern.test(name));
  const isRope = model.config.positions === "rope";
  const grouped = keys < heads ? ` share ${plural(keys, "key and value head")}` : "";
  const inBlock = [
    part(model, "Norm", "scales each position's vector", tensors(/^blocks\.0\.attention_norm\./), layers),
    part(model, "Attention", `${plural(heads, "head")} of width ${size}${grouped}; adds what the position gathers from those before it`,
      tensors(/^blocks\.0\.attention\./), layers, ["attention", "Attention"], "attention", "mask"),
    ...(isRope ? [part(model, "Rotary positions", "turn queries and keys inside attention; nothing to learn", [], 0, ["positions", "Positions"], "positions")] : []),
    part(model, "Norm", "scales each position's vector", tensors(/^blocks\.0\.feed_forward_norm\./), layers),
    part(model, "Feed-forward", `widens each position to ${count(model.config.d_ff)} and back; adds what it computes there`, tensors(/^blocks\.0\.feed_forward\./), layers,
      ...(model.kind === "classifier" ? [] : [["lens", "Layer by layer"]])),
  ];
  const rows = [
    flow("T token ids"),
    part(model, "Embedding", "a row for each token of the vocabulary", tensors(/^embedding\./), 1, ["embeddings", "Embeddings"], "embedding", "tokens"),
    ...(isRope ? [] : [part(model, "Learned positions", "a vector for each position, added", tensors(/^positions\./), 1, ["positions", "Positions"], "positions")]),
    flow(`T × ${count(width)}: the residual stream`),
    el("li", { class: "block" }, el("p", { class: "times" }, `${plural(layers, "block")}, each:`), el("ol", {}, ...inBlock)),
    flow(`T × ${count(width)}`),
    part(model, "Last norm", "before the head", tensors(/^norm\./), 1),
    ...headParts(model, tensors, vocabulary),
  ];
  byId("stack").replaceChildren(...rows);
}

/** The last part: a score for each token, or for each label. */
function headParts(model, tensors, vocabulary) {
  if (model.kind === "classifier") {
    return [part(model, "Classification head", "scores of the last position's vector", tensors(/^score\./), 1, ["labels", "Labels"], "score"),
      flow(`${plural(model.labels.length, "label score")}`)];
  }
  const untied = tensors(/^head\./);
  const what = untied.length ? "a score for each token of the vocabulary" : "the transpose of the embedding: a token is read and written by one vector";
  return [part(model, "Head", what, untied, 1, ["next", "Next token"], "head", "next"), flow(`T × ${count(vocabulary)} logits`)];
}

const flow = (text) => el("li", { class: "flow" }, text);

/** One part: what it does, its tensors, its share of all weights, and where to read on. */
function part(model, name, what, tensors, times, panel = null, ...questions) {
  const weights = times * tensors.reduce((sum, tensor) => sum + tensor.n_weights, 0);
  const shapes = tensors.filter((tensor) => tensor.shape.length > 1)
    .map((tensor) => `${tensor.name.split(".").at(-2)} ${tensor.shape.map(count).join(" × ")}`);
  const links = panel ? [el("a", { href: `#${panel[0]}` }, `panel: ${panel[1]}`)] : [];
  links.push(...questions.map((question) => el("a", { href: questionAddress(QUESTIONS[question]) }, QUESTIONS[question])));
  const figure = weights ? `${count(weights)} weights${times > 1 ? ` in ${times} blocks` : ""}, ${percent(weights / model.n_weights)}` : "no weights of its own";
  return el("li", { class: "part" },
    el("p", { class: "name" }, el("strong", {}, name), el("span", { class: "figure" }, figure)),
    ...(weights > model.n_weights / 1000 ? [el("span", { class: "bar", "--share": weights / model.n_weights })] : []),
    el("p", { class: "soft" }, `${what}.`),
    ...(shapes.length ? [el("p", { class: "shapes" }, shapes.join(", "))] : []),
    ...(links.length ? [el("p", { class: "links" }, ...links)] : []));
}
