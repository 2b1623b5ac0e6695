"use strict";
// What the model computed for some ids, and the KV cache that new ids continue from: position t has read ids[0..t], and
// predicts ids[t + 1]. Attention weights and logits are computed when they are asked for: of many, few are seen.

class Trace {
  /** An empty trace with room for a number of positions. */
  constructor(model, room) {
    const { n_layers, n_heads, n_kv_heads, head_dim, d_model } = model.config;
    const perLayer = (n, width) => Array.from({ length: n }, () => new Float32Array(room * width));
    this.model = model;
    this.ids = [];
    this.hidden = perLayer(n_layers + 1, d_model); // before the first block, and after each block
    this.queries = perLayer(n_layers, n_heads * head_dim); // turned by RoPE, as keys are
    this.keys = perLayer(n_layers, n_kv_heads * head_dim);
    this.values = perLayer(n_layers, n_kv_heads * head_dim);
    this.bits = []; // of each token, as far as `losses` has come
  }

  get length() {
    return this.ids.length;
  }

  /** Take over the positions of another trace that come from the same ids. */
  copy(other, ids) {
    let n = 0;
    while (n < other.length && n < ids.length && other.ids[n] === ids[n]) n++;
    this.ids = ids.slice(0, n);
    this.bits = other.bits.slice(0, n);
    for (const part of ["hidden", "queries", "keys", "values"])
      other[part].forEach((rows, layer) => {
        const width = this._width(part);
        this[part][layer].set(rows.subarray(0, n * width));
      });
  }

  /** Logits (V) of the token after position t. */
  logits(t) {
    return this.lens(this.model.config.n_layers, t);
  }

  /** Logits (V) of the norm and head at position t after a number of blocks: 0 is the embedding. */
  lens(layer, t) {
    return linear(this.model.head, this.normalized(layer, t));
  }

  /** The final norm (n, D) of n positions after a number of blocks. */
  normalized(layer, t, n = 1) {
    const D = this.model.config.d_model;
    return normalize(this.model.norm, this.hidden[layer].subarray(t * D, (t + n) * D), this.model.config.norm_eps);
  }

  /** The weights (t + 1) with which position t attends to each position up to itself: they add up to 1. */
  attention(layer, head, t) {
    const { n_heads: H, n_kv_heads: K, head_dim: C } = this.model.config;
    const at = (t * H + head) * C, keyHead = this.keyHead(head);
    const scores = new Float32Array(t + 1);
    for (let s = 0; s <= t; s++)
      scores[s] = dot(this.queries[layer], at, this.keys[layer], (s * K + keyHead) * C, C) / Math.sqrt(C);
    return probabilities(scores);
  }

  /** The same for all positions: (T, T), zeros behind the diagonal. */
  pattern(layer, head) {
    const matrix = new Float32Array(this.length ** 2);
    for (let t = 0; t < this.length; t++) matrix.set(this.attention(layer, head, t), t * this.length);
    return matrix;
  }

  /** Add up the values (C) of a head by the weights of `attention`. */
  mixValues(layer, head, weights, mixed) {
    const { n_kv_heads: K, head_dim: C } = this.model.config, values = this.values[layer];
    for (let s = 0; s < weights.length; s++) {
      const at = (s * K + this.keyHead(head)) * C, weight = weights[s];
      for (let c = 0; c < C; c++) mixed[c] += weight * values[at + c];
    }
  }

  /** The key head that a query head reads: grouped heads share one. */
  keyHead(head) {
    const { n_heads, n_kv_heads } = this.model.config;
    return Math.floor((head * n_kv_heads) / n_heads);
  }

  /** The query (C) of a head at a position: {before, after} RoPE; the same without RoPE. */
  query(layer, head, t) {
    return this._turned(this.queries[layer], t * this.model.config.n_heads + head, t);
  }

  /** The key (C) that a query head reads at a position: {before, after} RoPE. */
  key(layer, head, t) {
    return this._turned(this.keys[layer], t * this.model.config.n_kv_heads + this.keyHead(head), t);
  }

  /** Bits of each token given those before it: Float32Array (T); NaN at the first. */
  async losses({ signal = null } = {}) {
    const { n_layers, vocab_size: V } = this.model.config;
    if (!this.bits.length) this.bits.push(NaN);
    while (this.bits.length < this.length) {
      await breathe(signal);
      const start = this.bits.length - 1, n = Math.min(CHUNK, this.length - 1 - start);
      const logits = linear(this.model.head, this.normalized(n_layers, start, n), n);
      for (let at = 0; at < n; at++) {
        const own = logits.subarray(at * V, (at + 1) * V);
        this.bits.push((logSumExp(own) - own[this.ids[start + at + 1]]) / Math.LN2);
      }
    }
    return Float32Array.from(this.bits);
  }

  _turned(rows, row, t) {
    const C = this.model.config.head_dim, after = rows.slice(row * C, (row + 1) * C), before = after.slice();
    if (this.model.config.positions === "rope") rotate(before, this.model.angles(t), -1);
    return { before, after };
  }

  _width(part) {
    const { n_heads, n_kv_heads, head_dim, d_model } = this.model.config;
    return { hidden: d_model, queries: n_heads * head_dim }[part] ?? n_kv_heads * head_dim;
  }
}
