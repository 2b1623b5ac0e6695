"use strict";
// The stack as a diagram: each part with its shapes and weights, its panel, and its question in docs/questions.md.

const PANELS = {
  next: "Next token",
  attention: "Attention",
  lens: "Layer by layer",
  embeddings: "Embeddings",
  positions: "Positions",
  labels: "Labels",
};

// `tensors` are those whose names begin with the word; in a block, behind the number of the block.
const EMBEDDING = {
  name: "Embedding",
  tensors: "embedding",
  what: () => "a row for each token of the vocabulary",
  panel: "embeddings",
  questions: ["How does a token id become an embedding?", "How is a text tokenized?"],
};
const LEARNED_POSITIONS = {
  name: "Learned positions",
  tensors: "positions",
  what: () => "a vector for each position, added",
  panel: "positions",
  questions: ["What does self-attention lack?"],
};
const BLOCK = [
  { name: "Norm", tensors: "attention_norm", what: () => "scales each position's vector" },
  {
    name: "Attention",
    tensors: "attention",
    what: ({ n_heads: heads, n_kv_heads: keys, head_dim: width }) =>
      `${plural(heads, "head")} of width ${width}, ${plural(keys, "key and value head")}; ` +
      "adds what a position gathers from those before it",
    panel: "attention",
    questions: ["Why attention?", "What is causal attention?"],
  },
  {
    name: "Rotary positions",
    what: () => "turn queries and keys inside attention; nothing to learn",
    panel: "positions",
    questions: ["What does self-attention lack?"],
    only: ({ config }) => config.positions === "rope",
  },
  { name: "Norm", tensors: "feed_forward_norm", what: () => "scales each position's vector" },
  {
    name: "Feed-forward",
    tensors: "feed_forward",
    what: ({ d_ff: width }) => `widens each position to ${count(width)} and back; adds what it computes there`,
    panel: "lens",
  },
];
const LAST_NORM = { name: "Last norm", tensors: "norm", what: () => "before the head" };
const HEAD = {
  name: "Head",
  tensors: "head",
  what: ({ tie_embeddings: isTied }) =>
    isTied
      ? "the transpose of the embedding: a token is read and written by one vector"
      : "a score for each token of the vocabulary",
  panel: "next",
  questions: ["What is nn.Embedding for?", "What is predicting the next token good for?"],
};
const SCORE = {
  name: "Classification head",
  tensors: "score",
  what: () => "a score for each label, from the last position's vector",
  panel: "labels",
  questions: ["How is a language model made?"],
};

function sizesPanel({ model }) {
  const { n_layers: layers, d_model: width, vocab_size: vocabulary, positions } = model.config;
  const blocks = BLOCK.filter(({ only }) => only?.(model) ?? true).map((part) => showPart(model, part, layers));
  const isClassifier = model.kind === "classifier";
  byId("stack").replaceChildren(
    flow("T token ids"),
    showPart(model, EMBEDDING),
    ...(positions === "rope" ? [] : [showPart(model, LEARNED_POSITIONS)]),
    flow(`T × ${count(width)}: the residual stream`),
    el("li", { class: "block" }, el("p", {}, `${plural(layers, "block")}, each:`), el("ol", {}, ...blocks)),
    flow(`T × ${count(width)}`),
    showPart(model, LAST_NORM),
    showPart(model, isClassifier ? SCORE : HEAD),
    flow(isClassifier ? plural(model.labels.length, "label score") : `T × ${count(vocabulary)} logits`),
  );
}

const flow = (text) => el("li", { class: "flow" }, text);

/** One part: its share of all weights, what it does, shapes, and where to read on; `layers` for a part of a block. */
function showPart(model, { name, tensors, what, panel, questions = [] }, layers = 0) {
  const own = model.sizes.filter((tensor) => tensor.name.startsWith(`${layers ? "blocks.0." : ""}${tensors}.`));
  const share = (own.reduce((total, tensor) => total + tensor.n_weights, 0) * (layers || 1)) / model.n_weights;
  const shapes = own.filter(({ shape }) => shape.length > 1).map(showShape);
  const links = questions.map((question) => el("a", { href: questionAddress(question) }, question));
  if (byId(panel)?.hidden === false) links.unshift(el("a", { href: `#${panel}` }, `panel: ${PANELS[panel]}`));
  return el(
    "li",
    { class: "part" },
    el(
      "p",
      { class: "name" },
      el("strong", {}, name),
      el("span", { class: "figure" }, showShare(model, share, layers)),
    ),
    share > 0.001 ? el("span", { class: "bar", "--share": share }) : "",
    el("p", { class: "soft" }, `${what(model.config)}.`),
    shapes.length ? el("p", { class: "shapes" }, shapes.join(", ")) : "",
    links.length ? el("p", { class: "links" }, ...links) : "",
  );
}

/** "query 192 × 192" of blocks.0.attention.query.weight. */
const showShape = ({ name, shape }) => `${name.split(".").at(-2)} ${shape.map(count).join(" × ")}`;

function showShare(model, share, layers) {
  if (!share) return "no weights of its own";
  const weights = `${count(Math.round(share * model.n_weights))} weights`;
  return `${weights}${layers > 1 ? ` in ${layers} blocks` : ""}, ${percent(share)}`;
}

/** The address of a question: headings become anchors as Git hosts make them. */
function questionAddress(question) {
  const anchor = question.toLowerCase().replace(/[^\p{L}\p{N} -]/gu, "");
  return `../docs/questions.md#${anchor.replaceAll(" ", "-")}`;
}
