"use strict";
// The model in the browser: weights and token ids in, what the model computes for each position out.
//
//   const model = await Model.load(document)
//   const trace = await model.read(model.prompt("def f(").ids)
//   trace.logits(t)  trace.lens(layer, t)  trace.attention(layer, head, t)  await trace.losses()
//   for await (const id of model.generate(ids, {temperature: 0.8, seed: 1})) …
//
// The same forward pass as llm/model/gpt.py, layer by layer in `_runLayer`. It pauses every few milliseconds, so that
// the page stays responsive, and ends with the reason of an aborted AbortSignal.

/** A model, its tokenizer, and what the page shows of its making.
 *
 * title          "Your language model", or the name of a folder
 * kind           "language", "instruction" or "classifier"; a classifier has no next token: no logits, lens or losses
 * config         family, n_layers, n_heads, n_kv_heads, head_dim, d_model, d_ff, vocab_size, context_length,
 *                positions ("rope", "learned"), rope_theta, norm_eps, tie_embeddings
 * passages       held-out texts to begin with; `seconds` the other texts of pairs, or null
 * map            Float32Array (V, 2): the first two principal components of each token's embedding, from -1 to 1
 * sizes          [{name, shape, n_weights}] of each tensor, by the names of llm/model: blocks.0.attention.query.weight
 * n_weights      of the whole model; a tied head counts once
 * n_bytes        of the page
 * labels, is_multilabel, text_columns (one, or two of a pair), max_tokens       of a classifier
 */
class Model {
  /** Read the model that a page holds. */
  static async load(document) {
    const data = JSON.parse(document.getElementById("data").textContent);
    await breathe(); // the page is drawn before its weights are decoded
    return new Model(data, decodeBase64(document.getElementById("weights").textContent));
  }

  constructor({ tensors, tokenizer, ...about }, bytes) {
    Object.assign(this, about);
    this.tokenizer = new Tokenizer(tokenizer);
    this.weights = new Map(tensors.map(({ name, shape, offset }) => [name, readHalves(bytes, offset, product(shape))]));
    this.map = this.weights.get("map");
    this.sizes = tensors
      .filter(({ name }) => name !== "map")
      .map(({ name, shape }) => ({ name, shape, n_weights: product(shape) }));
    this.n_weights = this.sizes.reduce((n, size) => n + size.n_weights, 0);
    this.embedding = this._part("embedding");
    this.head = this.weights.has("head.weight") ? this._part("head") : this.embedding;
    this.norm = this._part("norm");
    this.blocks = Array.from({ length: this.config.n_layers }, (_, layer) => this._block(`blocks.${layer}`));
  }

  /** The ids of a text to continue: the start token, then the text; of these the last `context_length`.
   * → {ids, tokens (as Tokenizer.encode, one for each id), n_dropped} */
  prompt(text) {
    const start = (id) => ({ ...this.tokenizer.token(id, 0, 0), special: true });
    const prefix = this.kind === "classifier" ? [] : this.tokenizer.prefix;
    const all = [...prefix.map(start), ...this.tokenizer.encode(text)];
    const tokens = all.slice(-this.config.context_length);
    return { ids: tokens.map(({ id }) => id), tokens, n_dropped: all.length - tokens.length };
  }

  /** Run the model over ids, at most `context_length` → Trace. Positions that `previous`, a Trace, begins with are
   * copied; `room` is the number of positions that the trace can grow to. */
  async read(ids, { previous = null, signal = null, room = ids.length } = {}) {
    if (ids.length < 1 || ids.length > this.config.context_length)
      throw new RangeError(`expected 1 to ${this.config.context_length} tokens, got ${ids.length}`);
    const trace = new Trace(this, Math.max(room, ids.length));
    if (previous) trace.copy(previous, ids);
    await this._extend(trace, ids.slice(trace.length), signal);
    return trace;
  }

  /** Yield new ids. Temperature 0 is greedy, a filter of null is left out. Ends at an end token or after `maxTokens`;
   * when the context is full, its older half is dropped. `previous` is a Trace to start from, as in `read`. */
  async *generate(ids, options = {}) {
    const { maxTokens = 100, seed = 1, signal = null, previous = null, ...sampling } = options;
    const length = this.config.context_length, random = new Random(seed);
    let read = ids.slice(-length), trace = null;
    for (let n = 0; n < maxTokens; n++) {
      const keeps = trace !== null && read.length <= length;
      if (keeps) await this._extend(trace, read.slice(trace.length), signal);
      else {
        if (trace !== null) read = read.slice(-Math.max(length >> 1, 1));
        const room = Math.min(length, read.length + maxTokens - n);
        trace = await this.read(read, { previous: trace ? null : previous, signal, room });
      }
      const id = pick(candidates(trace.logits(trace.length - 1), sampling), random.next());
      if (this.tokenizer.ends.includes(id)) return;
      yield id;
      read.push(id);
    }
  }

  /** The n tokens with the highest cosine to a token in the embedding → [{id, cosine}]. */
  neighbours(id, n) {
    const { weight, nOut: V, nIn: D } = this.embedding;
    this.lengths ??= Float32Array.from({ length: V }, (_, at) => Math.sqrt(dot(weight, at * D, weight, at * D, D)));
    const cosine = (at) => dot(weight, id * D, weight, at * D, D) / (this.lengths[id] * this.lengths[at] || 1);
    const all = Array.from({ length: V }, (_, at) => ({ id: at, cosine: cosine(at) }));
    return all.filter((one) => one.id !== id).sort((a, b) => b.cosine - a.cosine).slice(0, n);
  }

  /** The ids of messages [{role, content}] and of the opening of the answer, as `python -m llm chat` makes them →
   * {ids, n_dropped}: the oldest turns that leave no room for an answer go. RangeError where the last is too long. */
  conversation(messages, maxTokens = 200) {
    const room = this.config.context_length - Math.min(maxTokens, this.config.context_length >> 1) + 1;
    const system = messages.filter(({ role }) => role === "system");
    let turns = messages.filter(({ role }) => role !== "system"), n_dropped = 0;
    let ids = this._chatIds([...system, ...turns]);
    while (ids.length > room && turns.length > 1) {
      turns = turns.slice(2); // a question and its answer
      n_dropped += 1;
      ids = this._chatIds([...system, ...turns]);
    }
    if (ids.length > room) throw new RangeError(`expected at most ${room} tokens with the template, got ${ids.length}`);
    return { ids, n_dropped };
  }

  /** The probabilities of a classifier's labels for a text, or a pair of texts → [{label, p}]. */
  async classify(texts, { signal = null } = {}) {
    const trace = await this.read(this.classifierIds(texts), { signal });
    const scores = linear(this._part("score"), trace.normalized(this.config.n_layers, trace.length - 1));
    const p = this.is_multilabel ? scores.map(sigmoid) : probabilities(scores);
    return this.labels.map((label, at) => ({ label, p: p[at] }));
  }

  /** The ids that a classifier reads: texts truncated at their ends, of two the longer one first. */
  classifierIds(texts) {
    const { separator, end } = this.frame;
    const [first, second] = texts.map((text) => this.tokenizer.ids(text));
    const room = this.max_tokens - texts.length;
    if (!second) return [...first.slice(0, room), end];
    let nFirst = first.length;
    if (first.length + second.length > room) {
      const shorter = Math.min(first.length, second.length, room >> 1);
      nFirst = first.length <= second.length ? shorter : room - shorter;
    }
    return [...first.slice(0, nFirst), separator, ...second.slice(0, room - Math.min(nFirst, first.length)), end];
  }

  /** What each word does: yield {text (0 or 1: which of the texts), start, end, change}, where `change` is, for each
   * label, its probability minus that without the word. */
  async *occlusion(texts, { signal = null } = {}) {
    const whole = await this.classify(texts, { signal });
    for (const [text, content] of texts.entries())
      for (const { 0: word, index: start } of content.matchAll(/[\p{L}\p{M}\p{N}_]+|[^\p{White_Space}]/gu)) {
        const end = start + word.length;
        const without = texts.with(text, content.slice(0, start) + content.slice(end));
        const left = await this.classify(without, { signal });
        yield { text, start, end, change: Float32Array.from(whole, ({ p }, label) => p - left[label].p) };
      }
  }

  // The forward pass.

  /** Add ids to a trace: CHUNK positions at a time, each through all layers. */
  async _extend(trace, ids, signal) {
    for (let at = 0; at < ids.length; at += CHUNK) {
      const chunk = ids.slice(at, at + CHUNK);
      trace.hidden[0].set(this._embed(chunk, trace.length), trace.length * this.config.d_model);
      for (let layer = 0; layer < this.config.n_layers; layer++) {
        await breathe(signal);
        this._runLayer(layer, trace, chunk.length);
      }
      trace.ids.push(...chunk);
    }
  }

  _embed(ids, start) {
    const D = this.config.d_model, x = new Float32Array(ids.length * D);
    ids.forEach((id, at) => x.set(this.embedding.weight.subarray(id * D, (id + 1) * D), at * D));
    const positions = this.weights.get("positions.weight");
    if (positions) for (let at = 0; at < x.length; at++) x[at] += positions[start * D + at];
    return x;
  }

  /** Normalize, attend, add; normalize, feed forward, add: the n positions after those in the trace. */
  _runLayer(layer, trace, n) {
    const { d_model: D, norm_eps: eps } = this.config, block = this.blocks[layer], start = trace.length;
    const x = trace.hidden[layer].slice(start * D, (start + n) * D);
    add(x, linear(block.out, this._attend(layer, trace, normalize(block.attentionNorm, x, eps), n), n));
    const inner = normalize(block.feedForwardNorm, x, eps), up = linear(block.up, inner, n);
    if (block.gate) {
      const gate = linear(block.gate, inner, n);
      for (let at = 0; at < up.length; at++) up[at] *= silu(gate[at]);
    } else for (let at = 0; at < up.length; at++) up[at] = gelu(up[at]);
    add(x, linear(block.down, up, n));
    trace.hidden[layer + 1].set(x, start * D);
  }

  /** Causal attention of n new positions, whose normalized hidden states are x (n, D) → (n, heads · C). */
  _attend(layer, trace, x, n) {
    const { n_heads: H, n_kv_heads: K, head_dim: C, norm_eps: eps } = this.config, block = this.blocks[layer];
    let q = linear(block.query, x, n), k = linear(block.key, x, n);
    if (block.queryNorm) (q = normalize(block.queryNorm, q, eps)), (k = normalize(block.keyNorm, k, eps));
    for (let at = 0; at < n && this.config.positions === "rope"; at++) {
      const angles = this.angles(trace.length + at);
      rotate(q.subarray(at * H * C, (at + 1) * H * C), angles);
      rotate(k.subarray(at * K * C, (at + 1) * K * C), angles);
    }
    trace.queries[layer].set(q, trace.length * H * C);
    trace.keys[layer].set(k, trace.length * K * C);
    trace.values[layer].set(linear(block.value, x, n), trace.length * K * C);
    const mixed = new Float32Array(n * H * C);
    for (let at = 0; at < n; at++)
      for (let head = 0; head < H; head++) {
        const weights = trace.attention(layer, head, trace.length + at);
        trace.mixValues(layer, head, weights, mixed.subarray((at * H + head) * C, (at * H + head + 1) * C));
      }
    return mixed;
  }

  /** RoPE's angles at a position, in radians: pair i of a head, its elements i and i + C / 2, is turned by
   * position · theta^(-2i / C). */
  angles(t) {
    const { head_dim: C, rope_theta: theta } = this.config;
    return Float64Array.from({ length: C / 2 }, (_, i) => t * theta ** ((-2 * i) / C));
  }

  _chatIds(messages) {
    const { bos, start, end } = this.chat, ids = (text) => this.tokenizer.ids(text);
    const turn = ({ role, content }) => [start, ...ids(`${role}\n${content}`), end, ...ids("\n")];
    return [bos, ...messages.flatMap(turn), start, ...ids("assistant\n")];
  }

  /** A linear map or a norm by its name; null where the model has none. */
  _part(name) {
    const weight = this.weights.get(`${name}.weight`);
    const size = this.sizes.find((size) => size.name === `${name}.weight`);
    return weight ? { weight, bias: this.weights.get(`${name}.bias`), nOut: size.shape[0], nIn: size.shape[1] } : null;
  }

  _block(name) {
    const part = (own) => this._part(`${name}.${own}`);
    return {
      attentionNorm: part("attention_norm"),
      query: part("attention.query"),
      key: part("attention.key"),
      value: part("attention.value"),
      queryNorm: part("attention.query_norm"),
      keyNorm: part("attention.key_norm"),
      out: part("attention.out"),
      feedForwardNorm: part("feed_forward_norm"),
      gate: part("feed_forward.gate"),
      up: part("feed_forward.up"),
      down: part("feed_forward.down"),
    };
  }
}

function product(shape) {
  return shape.reduce((n, size) => n * size, 1);
}

function add(x, added) {
  for (let at = 0; at < x.length; at++) x[at] += added[at];
}
