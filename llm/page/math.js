"use strict";
// The arithmetic of the model on typed arrays. Matrices are in rows: element (i, j) of (n, width) is at i * width + j.

const CHUNK = 32; // positions that go through a layer together, so that its weights are read once for all of them
const WORK_MS = 16; // of arithmetic between two pauses, in which the browser draws and answers

/** y = x Wᵀ + b of n rows: x (n, nIn), weight (nOut, nIn) → (n, nOut). Rows past the last one repeat it. */
function linear({ weight, bias, nOut, nIn }, x, n = 1) {
  const y = new Float32Array(n * nOut);
  if (n === 1) multiplyVector(weight, x, y, nOut, nIn);
  else multiplyRows(weight, x, y, n, nOut, nIn);
  if (bias) for (let at = 0; at < y.length; at++) y[at] += bias[at % nOut];
  return y;
}

/** Four outputs at a time: each element of x is loaded once for four products. */
function multiplyVector(weight, x, y, nOut, nIn) {
  for (let o = 0; o < nOut; o += 4) {
    const o1 = Math.min(o + 1, nOut - 1), o2 = Math.min(o + 2, nOut - 1), o3 = Math.min(o + 3, nOut - 1);
    const w0 = o * nIn, w1 = o1 * nIn, w2 = o2 * nIn, w3 = o3 * nIn;
    let a = 0, b = 0, c = 0, d = 0;
    for (let i = 0; i < nIn; i++) {
      const value = x[i];
      a += weight[w0 + i] * value;
      b += weight[w1 + i] * value;
      c += weight[w2 + i] * value;
      d += weight[w3 + i] * value;
    }
    y[o] = a, y[o1] = b, y[o2] = c, y[o3] = d;
  }
}

/** Two outputs of four rows at a time: six loads for eight products. */
function multiplyRows(weight, x, y, n, nOut, nIn) {
  for (let o = 0; o < nOut; o += 2) {
    const o1 = Math.min(o + 1, nOut - 1), w0 = o * nIn, w1 = o1 * nIn;
    for (let t = 0; t < n; t += 4) {
      const t1 = Math.min(t + 1, n - 1), t2 = Math.min(t + 2, n - 1), t3 = Math.min(t + 3, n - 1);
      const x0 = t * nIn, x1 = t1 * nIn, x2 = t2 * nIn, x3 = t3 * nIn;
      let a0 = 0, a1 = 0, a2 = 0, a3 = 0, b0 = 0, b1 = 0, b2 = 0, b3 = 0;
      for (let i = 0; i < nIn; i++) {
        const a = weight[w0 + i], b = weight[w1 + i];
        const v0 = x[x0 + i], v1 = x[x1 + i], v2 = x[x2 + i], v3 = x[x3 + i];
        a0 += a * v0, a1 += a * v1, a2 += a * v2, a3 += a * v3;
        b0 += b * v0, b1 += b * v1, b2 += b * v2, b3 += b * v3;
      }
      y[t * nOut + o] = a0, y[t1 * nOut + o] = a1, y[t2 * nOut + o] = a2, y[t3 * nOut + o] = a3;
      y[t * nOut + o1] = b0, y[t1 * nOut + o1] = b1, y[t2 * nOut + o1] = b2, y[t3 * nOut + o1] = b3;
    }
  }
}

/** RMSNorm of each row of x, or LayerNorm where there is a bias; rows are as long as the weight. */
function normalize({ weight, bias }, x, eps) {
  const width = weight.length, y = new Float32Array(x.length);
  for (let row = 0; row < x.length; row += width) {
    let mean = 0, square = 0;
    if (bias) for (let i = 0; i < width; i++) mean += x[row + i] / width;
    for (let i = 0; i < width; i++) square += (x[row + i] - mean) ** 2 / width;
    const scale = 1 / Math.sqrt(square + eps);
    for (let i = 0; i < width; i++) y[row + i] = (x[row + i] - mean) * scale * weight[i] + (bias ? bias[i] : 0);
  }
  return y;
}

/** Turn the pairs (i, i + width / 2) of each row by the angles (width / 2): RoPE for heads at one position. */
function rotate(x, angles, direction = 1) {
  const half = angles.length;
  for (let i = 0; i < half; i++) {
    const cos = Math.cos(angles[i]), sin = Math.sin(angles[i]) * direction;
    for (let at = i; at < x.length; at += 2 * half) {
      const left = x[at], right = x[at + half];
      x[at] = left * cos - right * sin;
      x[at + half] = right * cos + left * sin;
    }
  }
}

function silu(x) {
  return x / (1 + Math.exp(-x));
}

/** GELU by GPT-2's tanh formula. */
function gelu(x) {
  return 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)));
}

function sigmoid(x) {
  return 1 / (1 + Math.exp(-x));
}

/** The logarithm of the sum of exponentials, in nats. */
function logSumExp(logits) {
  let highest = -Infinity, sum = 0;
  for (let i = 0; i < logits.length; i++) if (logits[i] > highest) highest = logits[i];
  for (let i = 0; i < logits.length; i++) sum += Math.exp(logits[i] - highest);
  return highest + Math.log(sum);
}

function dot(x, xAt, y, yAt, n) {
  let sum = 0;
  for (let i = 0; i < n; i++) sum += x[xAt + i] * y[yAt + i];
  return sum;
}

const HALVES = new Float32Array(65536); // the value of each float16; infinity and NaN are never stored
for (let bits = 0; bits < 65536; bits++) {
  const exponent = (bits >> 10) & 31, fraction = bits & 1023;
  const size = exponent ? (1 + fraction / 1024) * 2 ** (exponent - 15) : fraction * 2 ** -24;
  HALVES[bits] = bits >> 15 ? -size : size;
}

/** base64 of little-endian float16 → the bytes. */
function decodeBase64(text) {
  const letters = atob(text), bytes = new Uint8Array(letters.length);
  for (let i = 0; i < letters.length; i++) bytes[i] = letters.charCodeAt(i);
  return bytes;
}

/** n float16 values from a byte offset on → Float32Array. */
function readHalves(bytes, offset, n) {
  const values = new Float32Array(n);
  for (let i = 0; i < n; i++) values[i] = HALVES[bytes[offset + 2 * i] | (bytes[offset + 2 * i + 1] << 8)];
  return values;
}

let lastPause = 0;

/** Give the browser its turn when WORK_MS are over; throw the reason of an aborted signal. */
async function breathe(signal) {
  signal?.throwIfAborted();
  if (performance.now() - lastPause < WORK_MS) return;
  // A message comes back at once; a timer would wait for 4 ms.
  await new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => (port1.close(), resolve());
    port2.postMessage(null);
  });
  lastPause = performance.now();
  signal?.throwIfAborted();
}
