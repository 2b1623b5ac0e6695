"use strict";
// What all panels share: making elements, showing tokens and numbers, drawing on canvases. Text of a model or of a
// person reaches the page through text nodes and attributes only, so markup in it remains text.

const byId = (id) => document.getElementById(id);

/** Return a new element; strings among the children become text nodes. */
function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** Return a new SVG element. */
function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name.startsWith("--")) node.style.setProperty(name, value);
    else if (value !== null && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children);
  return node;
}

/** Make whitespace and other invisible characters visible: "a b\n" → "a␣b↵". */
function visible(text) {
  const marks = { " ": "␣", "\n": "↵", "\t": "⇥", "\r": "␍" };
  return text.replace(
    /[\p{Cc}\p{Zs}\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]/gu,
    (found) => marks[found] ?? `\\u${found.codePointAt(0).toString(16).padStart(4, "0")}`,
  );
}

/** Bytes in hexadecimal: "c3 a9". */
const hex = (bytes) => Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join(" ");

const strictUtf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** Bytes as visible text, or in hexadecimal in brackets where they are not valid UTF-8 on their own. */
function showBytes(bytes) {
  try {
    return visible(strictUtf8.decode(bytes)) || "(empty)";
  } catch {
    return `⟨${hex(bytes)}⟩`;
  }
}

const count = (number) => number.toLocaleString("en");

/** "1 token", "2 tokens". */
const plural = (number, noun) => `${count(number)} ${noun}${number === 1 ? "" : "s"}`;

/** A probability as a percentage: 0.1234 → "12.3%". */
function percent(probability) {
  if (probability === 0) return "0%";
  return probability < 0.0005 ? "<0.1%" : `${(100 * probability).toFixed(1)}%`;
}

/** Indices of the n largest values, largest first; equal values in their order. */
function largest(values, n) {
  const best = [];
  for (let index = 0; index < values.length; index++) {
    if (best.length === n && values[index] <= values[best[n - 1]]) continue;
    let place = best.length;
    while (place > 0 && values[best[place - 1]] < values[index]) place--;
    best.splice(place, 0, index);
    if (best.length > n) best.pop();
  }
  return best;
}

/** A row of a bar chart, to be filled by setBar. */
function barRow(tag = "div", attributes = {}) {
  const parts = ["token-text", "bar", "figure"].map((name) => el("span", { class: name }));
  return el(tag, { ...attributes, class: "bar-row" }, ...parts);
}

/** Show a label, a filled bar and an outlined one (shares of the width), and a figure. */
function setBar(row, label, share, figure, outline = 0) {
  const [text, bar, number] = row.children;
  text.textContent = label;
  bar.style.setProperty("--share", Math.min(1, Math.max(0, share)));
  bar.style.setProperty("--before", Math.min(1, outline));
  number.textContent = figure;
}

/** Make a box have exactly n children, made by `make` where they are missing, so that focus on one of them stays. */
function keepChildren(box, n, make) {
  while (box.children.length > n) box.lastChild.remove();
  while (box.children.length < n) box.append(make(box.children.length));
  return [...box.children];
}

/** The value of a color variable in the current scheme, light or dark. */
const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

/** Size a canvas for the screen's pixels; return its context, in CSS pixels. */
function canvasOf(canvas, width, height) {
  const scale = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  canvas.style.height = `${height}px`;
  const context = canvas.getContext("2d");
  context.scale(scale, scale);
  return context;
}

/** Mark what cannot be seen: diagonal lines over a region of a canvas, which the current path encloses. */
function hatch(context, width, height) {
  context.save();
  context.clip();
  context.fillStyle = color("masked");
  context.fillRect(0, 0, width, height);
  context.strokeStyle = color("hatch");
  context.beginPath();
  for (let x = -height; x < width; x += 7) {
    context.moveTo(x, height);
    context.lineTo(x + height, 0);
  }
  context.stroke();
  context.restore();
}

/** Call a function when a quantity has not changed for a while. */
function debounce(call, milliseconds) {
  let timer = 0;
  return (...values) => {
    clearTimeout(timer);
    timer = setTimeout(() => call(...values), milliseconds);
  };
}
