"use strict";
// SKELETON: the interface; the bodies follow. Scripts are classic, share one global scope and are inlined by the
// template: {{ sampling.js }} {{ tokenizer.js }} {{ math.js }} {{ engine.js }} and whatever else lies in llm/page.
// build.py replaces {{ NAME }} in template.html, once, by: the file NAME of llm/page; {{ title }}, {{ security }} (the
// Content-Security-Policy meta; scripts by hash, so no onclick="…" attributes), {{ data }} (JSON), {{ weights }}
// (base64). The two data elements are:
//   <script type="application/json" id="data">{{ data }}</script>
//   <script type="text/plain" id="weights">{{ weights }}</script>

/** A model, its tokenizer, and what the page shows of its making. `const model = await Model.load(document);`
 *
 * @property {string} title       "pretrained model", or the name of a finetuned one
 * @property {"language"|"instruction"|"classifier"} kind   a classifier has no next token: no logits, lens or losses
 * @property {{family, n_layers, n_heads, n_kv_heads, head_dim, d_model, d_ff, vocab_size, context_length,
 *             positions: "rope"|"learned", rope_theta, norm_eps, tie_embeddings}} config
 * @property {string[]} passages  held-out texts, to begin with
 * @property {Float32Array} map   (V, 2): x and y of each token, the first two principal components of the embedding
 * @property {{name: string, shape: number[], n_weights: number}[]} sizes   each tensor, in the order of the stack:
 *            embedding.weight, positions.weight (GPT-2), blocks.0.attention_norm.weight, blocks.0.attention.query.weight
 *            (key, value, out, query_norm, key_norm), blocks.0.feed_forward_norm.weight, blocks.0.feed_forward.gate.weight
 *            (up, down), …, norm.weight, head.weight (only if untied), score.weight (classifiers); also .bias
 * @property {number} n_weights   of the whole model; a tied head counts once
 * @property {number} n_bytes     of the whole page
 * @property {string[]|null} labels     of a classifier
 * @property {boolean} is_multilabel    whether a row has any number of labels: probabilities do not add up to 1
 * @property {string[]|null} text_columns   of a classifier: one name, or two for a pair of texts
 * @property {Tokenizer} tokenizer
 */
class Model {
  static async load(document) {}
  /** The ids of a text to continue: the start token, then the text; only the last context_length are kept.
   * → {ids: number[], tokens: Token[] (one for each id; the start token has start = end = 0 and special: true),
   *    n_dropped: number} */
  prompt(text) {}
  /** Run the model over ids (at most context_length) → Trace. Yields to the event loop about every 20 ms, throws
   * signal.reason when aborted. `previous` (a Trace, e.g. of the text before an edit) saves the positions that both
   * share from the start, and must not be used afterwards. */
  async read(ids, { previous = null, signal = null } = {}) {}
  /** Async generator of new ids. Temperature 0 is greedy; topK and topP of null leave the filter out; ends at an end
   * token or after maxTokens. When the context is full its older half is dropped.
   * `for await (const id of model.generate(ids, {…})) …` */
  async *generate(ids, { maxTokens = 100, temperature = 1, topK = null, topP = null, seed = 1, signal = null } = {}) {}
  /** The n tokens with the highest cosine to token id in the embedding → [{id, cosine}]. */
  neighbours(id, n) {}
  /** Instruction models: messages [{role, content}] → {ids, n_dropped (oldest turns that no longer fit)}, with the
   * opening of the answer behind them; same ids as `llm chat`. Throws RangeError where the last message is too long. */
  conversation(messages, maxTokens = 200) {}
  /** Classifiers: one text, or two of a pair → [{label, p}] in the order of model.labels. */
  async classify(texts, { signal = null } = {}) {}
  /** Classifiers: what each word does: classify without it. Async generator of
   * {text: 0|1 (index in texts), start, end, change: Float32Array (p with the word − p without it, per label)}. */
  async *occlusion(texts, { signal = null } = {}) {}
}

/** What the model computed for some ids; position t reads ids[0..t] and predicts ids[t + 1].
 * @property {number[]} ids
 * @property {number} length
 */
class Trace {
  /** Logits (V) of the token after position t. */
  logits(t) {}
  /** Logits (V) that the head would give at position t after `layer` blocks: 0 is the embedding, n_layers = logits(t). */
  lens(layer, t) {}
  /** Attention weights (t + 1) of position t: of each key position up to itself. They add up to 1. */
  attention(layer, head, t) {}
  /** The same for all positions: (T × T), row t at t * T, zeros behind the diagonal. */
  pattern(layer, head) {}
  /** The query of a head at position t, {before, after} RoPE (Float32Array head_dim each; the same if learned). */
  query(layer, head, t) {}
  /** The key that query head `head` reads at position t (grouped heads share keys), {before, after} RoPE. */
  key(layer, head, t) {}
  /** RoPE's angles (head_dim / 2) in radians at a position; pair i is the elements i and i + head_dim / 2. */
  angles(t) {}
  /** Bits of each token given those before it: Float32Array (T), NaN at 0 → Promise. */
  async losses({ signal = null } = {}) {}
}

/** tokenizer.js
 * Token: {id, text (what to show; U+FFFD for part of a character), start, end (UTF-16 offsets in the text: a token that
 *         is part of a character has the offsets of that character), bytes: Uint8Array}
 * tokenizer.encode(text) → Token[];  tokenizer.ids(text) → number[];  tokenizer.decode(ids) → string
 * tokenizer.bytes(id) → Uint8Array;  tokenizer.text(id) → string;  tokenizer.isSpecial(id)
 * tokenizer.merges(id) → [[id, id, …], …]: the ids that the token is made of after each merge, from its bytes to itself
 * tokenizer.vocab_size;  tokenizer.prefix (ids before a text);  tokenizer.ends (ids that end a generation)
 *
 * sampling.js
 * candidates(logits, {temperature, topK, topP}) → [{id, p}], likeliest first, p after temperature and filters
 * probabilities(logits) → Float32Array (V), the softmax;  new Random(seed).next() → [0, 1)
 */
