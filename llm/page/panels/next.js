"use strict";
// The distribution of the next token after the selected position, and writing with it.

const N_BARS = 10;
const MOST_TOKENS = 80; // that are written at once
const ALL_TOKENS = 101; // the last step of the top-k slider: no limit

/** What the sliders say; null leaves a filter out. */
function samplingSettings() {
  const [temperature, topK, topP] = ["temperature", "top-k", "top-p"].map((id) => Number(byId(id).value));
  return { temperature, topK: topK === ALL_TOKENS ? null : topK, topP: topP === 1 ? null : topP };
}

function showSettings() {
  const { temperature, topK, topP } = samplingSettings();
  const show = (id, text) => (document.querySelector(`output[for="${id}"]`).textContent = text);
  show("temperature", temperature ? temperature.toFixed(2) : "0: greedy");
  show("top-k", topK ?? "all tokens");
  show("top-p", topP?.toFixed(2) ?? "1: all");
}

function nextTokenPanel(page) {
  const isFull = () => page.selected + 1 >= page.model.config.context_length;

  const append = (id) => page.setIds([...page.ids.slice(0, page.selected + 1), id], page.selected + 1);

  const draw = () => {
    const logits = page.trace.logits(page.selected);
    const before = probabilities(logits);
    const after = new Map(candidates(logits, samplingSettings()).map(({ id, p }) => [id, p]));
    const ids = largest(before, N_BARS);
    const most = Math.max(...ids.map((id) => Math.max(before[id], after.get(id) ?? 0)));
    const rows = keepChildren(byId("next-bars"), ids.length, () => barRow("button", { type: "button" }));
    rows.forEach((row, index) => {
      const id = ids[index];
      const p = after.get(id) ?? 0;
      setBar(row, page.showToken(id), p / most, p ? percent(p) : "cut", before[id] / most);
      row.onclick = () => append(id);
      row.disabled = isFull();
      row.classList.toggle("cut", !p);
      row.classList.toggle("true", id === page.ids[page.selected + 1]);
      row.setAttribute("aria-label", `Append ${page.showToken(id)}, ${p ? percent(p) : "cut by the filters"}`);
    });
    showNextContext(page);
    byId("write").disabled = isFull() || page.writing !== null;
  };

  page.whenTraced("next", draw);
  page.on("ids", () => (byId("undo").disabled = !page.past.length));
  for (const id of ["temperature", "top-k", "top-p"]) {
    byId(id).addEventListener("input", () => {
      showSettings();
      if (page.trace) draw();
    });
  }
  byId("undo").addEventListener("click", () => page.undo());
  byId("write").addEventListener("click", () => write(page));
  showSettings();
}

/** Which position the bars follow, and what the text has there. */
function showNextContext(page) {
  const token = (text) => el("span", { class: "token-text" }, text);
  const id = page.ids[page.selected + 1];
  const after = ["the text ends."];
  if (id !== undefined) {
    const p = percent(2 ** -page.losses[page.selected + 1]);
    after.splice(0, 1, "the actual next token is ", token(page.showToken(id)), `, which had ${p}.`);
  }
  byId("next-context").replaceChildren("After ", token(page.before(page.selected)), " ", ...after);
}

/** Continue the text from the selected position until it ends, is stopped, or the context is full. */
async function write(page) {
  const stop = new AbortController();
  const { signal } = stop;
  const room = page.model.config.context_length - page.selected - 1;
  const seed = Math.floor(Number(byId("seed").value)) || 0;
  const settings = { ...samplingSettings(), seed, maxTokens: Math.min(MOST_TOKENS, room), signal };
  let ids = page.ids.slice(0, page.selected + 1);
  const begin = performance.now();
  let n = 0;
  byId("stop").onclick = () => stop.abort();
  await page.setIds(ids, page.selected);
  setWriting(page, stop);
  try {
    for await (const id of page.model.generate(ids, settings)) {
      if (signal.aborted) break;
      ids = [...ids, id];
      n += 1;
      await page.replace(ids, ids.length - 1, 0);
      byId("write-note").textContent = `${plural(n, "token")} …`;
    }
  } catch (error) {
    if (!signal.aborted) throw error;
  } finally {
    setWriting(page, null);
  }
  const seconds = (performance.now() - begin) / 1000;
  const how = signal.aborted ? "Stopped after" : "Wrote";
  byId("write-note").textContent =
    `${how} ${plural(n, "token")} in ${seconds.toFixed(1)} seconds. The same seed and settings give the same text.`;
}

/** `stop` ends the writing, which another text does as well; null when it has ended. */
function setWriting(page, stop) {
  page.writing = stop;
  byId("write").disabled = stop !== null;
  byId("stop").disabled = stop === null;
  if (document.activeElement === document.body) byId(stop ? "stop" : "write").focus();
}
