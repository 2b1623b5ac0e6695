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
  const least = topK !== null && topK < logits.length ? Float32Array.from(logits).sort()[logits.length - topK] : -Infinity;
  const ids = [];
  logits.forEach((logit, id) => logit >= least && ids.push(id)); // ties with the last of the top k stay
  ids.sort((a, b) => logits[b] - logits[a] || a - b);
  const weights = ids.map((id) => Math.exp((logits[id] - logits[ids[0]]) / temperature));
  let kept = weights.length;
  if (topP !== null) {
    // A token goes when those before it are enough; the first one stays.
    const enough = topP * sum(weights);
    let before = weights[0];
    for (kept = 1; kept < weights.length && before < enough; kept++) before += weights[kept];
  }
  const total = sum(weights.slice(0, kept));
  return weights.slice(0, kept).map((weight, at) => ({ id: ids[at], p: weight / total }));
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
