"use strict";
// Text to token ids and back, with the ids of the model's tokenizer.json.
//
//   "it's low" ──split pattern──► "it" "'s" " low" ──UTF-8──► bytes ──merges, first in the list first──► tokens
//
// Word and character vocabularies have the pieces themselves as tokens. Special tokens inside a text are ordinary text.

const BYTES = new TextEncoder();
const TEXT = new TextDecoder("utf-8", { ignoreBOM: true }); // incomplete characters become U+FFFD

class Tokenizer {
  /** `data` is what build.py embeds; the tokens of a byte-level vocabulary are in the alphabet of tokenizer.json. */
  constructor(data) {
    this.data = data;
    this.vocab_size = data.tokens.length;
    this.prefix = data.prefix;
    this.ends = data.ends;
    this.splitter = new RegExp(data.pattern, "gv");
    this.isBytes = data.merges !== null;
    this.special = new Set(data.special);
    this.letters = byteLetters();
    const byteOf = new Map(this.letters.map((letter, byte) => [letter, byte]));
    this.stored = data.tokens.map((name, id) =>
      this.isBytes && !this.isSpecial(id) ? Uint8Array.from(name, (letter) => byteOf.get(letter)) : BYTES.encode(name),
    );
    this.byName = new Map(data.tokens.map((name, id) => [name, id]).filter(([, id]) => !this.isSpecial(id)));
    this.ranks = new Map(); // pair of ids → where its merge is in the list: left, right, what they make
    const merges = data.merges ?? [];
    for (let at = 0; at < merges.length; at += 3) this.ranks.set(this.pair(merges[at], merges[at + 1]), at);
  }

  /** The tokens of a text: {id, text, start, end, bytes}, offsets in UTF-16 units of the text. */
  encode(text) {
    return this.pieces(text.toWellFormed()).flatMap(([start, piece]) =>
      this.isBytes ? this.encodePiece(piece, start) : [this.token(this.wordId(piece), start, start + piece.length)],
    );
  }

  ids(text) {
    return this.encode(text).map((token) => token.id);
  }

  decode(ids) {
    if (!this.isBytes) return ids.map((id) => this.data.tokens[id]).join(this.data.joint);
    const parts = ids.map((id) => this.stored[id]);
    const whole = new Uint8Array(parts.reduce((n, part) => n + part.length, 0));
    let at = 0;
    for (const part of parts) whole.set(part, at), (at += part.length);
    return TEXT.decode(whole);
  }

  bytes(id) {
    return this.stored[id];
  }

  text(id) {
    return this.isBytes ? TEXT.decode(this.stored[id]) : this.data.tokens[id];
  }

  isSpecial(id) {
    return this.special.has(id);
  }

  /** The ids that a token is made of after each merge, from its bytes to the token itself. */
  merges(id) {
    if (!this.isBytes || this.isSpecial(id)) return [[id]];
    const steps = [];
    this.merge(this.byteIds(this.stored[id]), (parts) => steps.push(parts));
    return steps;
  }

  // Below here is what the functions above are made of.

  token(id, start, end) {
    return { id, text: this.text(id), start, end, bytes: this.stored[id] };
  }

  wordId(piece) {
    return this.byName.get(piece) ?? this.data.unk;
  }

  /** [start, piece] of each piece; text between two matches is a piece too, unless the vocabulary drops it. */
  pieces(text) {
    const found = [];
    let end = 0;
    for (const match of text.matchAll(this.splitter)) {
      if (this.data.keep_gaps && match.index > end) found.push([end, text.slice(end, match.index)]);
      found.push([match.index, match[0]]);
      end = match.index + match[0].length;
    }
    if (this.data.keep_gaps && end < text.length) found.push([end, text.slice(end)]);
    return found;
  }

  encodePiece(piece, start) {
    const from = [], to = []; // of each byte's character, in UTF-16 units
    let unit = start;
    for (const character of piece) {
      const next = unit + character.length;
      for (const _ of BYTES.encode(character)) from.push(unit), to.push(next);
      unit = next;
    }
    let at = 0;
    return this.mergePiece(BYTES.encode(piece)).map((id) => {
      const first = at;
      at += this.stored[id].length;
      return this.token(id, from[first], to[at - 1]);
    });
  }

  mergePiece(bytes) {
    const name = Array.from(bytes, (byte) => this.letters[byte]).join("");
    if (this.data.ignore_merges && this.byName.has(name)) return [this.byName.get(name)];
    return this.merge(this.byteIds(bytes));
  }

  byteIds(bytes) {
    return Array.from(bytes, (byte) => this.byName.get(this.letters[byte]));
  }

  pair(left, right) {
    return left * this.vocab_size + right;
  }

  /** Merge the pair that is first in the list of merges, leftmost first, until no pair is in it. */
  merge(ids, onStep = () => {}) {
    const parts = [...ids];
    const rankAt = (at) => this.ranks.get(this.pair(parts[at], parts[at + 1])) ?? Infinity;
    const ranks = parts.map((_, at) => rankAt(at)); // the last part has no pair
    for (;;) {
      onStep([...parts]);
      let where = -1, lowest = Infinity;
      for (let at = 0; at < ranks.length; at++) if (ranks[at] < lowest) (lowest = ranks[at]), (where = at);
      if (where < 0) return parts;
      parts.splice(where, 2, this.data.merges[lowest + 2]);
      ranks.splice(where, 2, rankAt(where));
      if (where > 0) ranks[where - 1] = rankAt(where - 1);
    }
  }
}

/** The printable character of each byte in tokenizer.json, as GPT-2 chose it. */
function byteLetters() {
  const isPrintable = (byte) => (byte > 32 && byte < 127) || (byte > 160 && byte !== 173);
  let others = 256;
  return Array.from({ length: 256 }, (_, byte) => String.fromCharCode(isPrintable(byte) ? byte : others++));
}
