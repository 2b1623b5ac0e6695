"use strict";
// From logits to a token: temperature first, then top-k, then top-p on what top-k left, as `python -m llm generate`.

/** The softmax of logits. */
function probabilities(logits) {
  const total = logSumExp(logits), p = new Float32Array(logits.length);
  for (let id = 0; id < p.length; id++) p[id] = Math.exp(logits[id] - total);
  return p;
}

/** The tokens that temperature and filters leave, with their probabilities: [{id, p}], likeliest first.
 * Temperature 0 leaves the likeliest; of equal logits the lower id comes first. A filter of null is left out. */
function candidates(logits, { temperature = 1, topK = null, topP = null } = {}) {
  if (temperature === 0) return [{ id: argmax(logits), p: 1 }];
  const sorted = Float32Array.from(logits).sort().reverse(); // values alone: to sort ids takes ten times as long
  let n = Math.min(topK ?? sorted.length, sorted.length);
  while (n < sorted.length && sorted[n] === sorted[n - 1]) n++; // ties with the last of the top k stay
  const weights = Array.from(sorted.subarray(0, n), (logit) => Math.exp((logit - sorted[0]) / temperature));
  if (topP !== null) n = nucleus(weights, topP);
  const ids = [];
  logits.forEach((logit, id) => logit >= sorted[n - 1] && ids.push(id));
  ids.sort((a, b) => logits[b] - logits[a] || a - b);
  const total = sum(weights.slice(0, n));
  return ids.slice(0, n).map((id, at) => ({ id, p: weights[at] / total }));
}

/** How many of the highest weights are a fraction of at least topP together; the first one always is among them. */
function nucleus(weights, topP) {
  const enough = topP * sum(weights);
  let n = 1;
  for (let before = weights[0]; n < weights.length && before < enough; n++) before += weights[n];
  return n;
}

function sum(values) {
  return values.reduce((total, value) => total + value, 0);
}

/** An id from candidates: the one at the fraction u in [0, 1) of the cumulative probability. */
function pick(choices, u) {
  let rest = u;
  for (const { id, p } of choices) if ((rest -= p) < 0) return id;
  return choices[choices.length - 1].id;
}

/** The likeliest id; of equal logits the first. */
function argmax(logits) {
  let best = 0;
  for (let id = 1; id < logits.length; id++) if (logits[id] > logits[best]) best = id;
  return best;
}

/** A seeded generator of uniform numbers in [0, 1): the same seed gives the same text (Park and Miller 1988). */
class Random {
  constructor(seed) {
    this.state = (Math.abs(seed) % (2 ** 31 - 2)) + 1;
    for (let n = 0; n < 8; n++) this.next(); // the first numbers of small seeds are small
  }

  next() {
    this.state = (this.state * 48271) % (2 ** 31 - 1);
    return this.state / (2 ** 31 - 1);
  }
}
