"use strict";
// A classifier's labels for the text, and what each word changes, by leaving it out.

function labelsPanel(page) {
  const columns = page.model.text_columns;
  const isPair = columns.length > 1;
  let work = new AbortController();

  const classify = async () => {
    work.abort();
    const { signal } = (work = new AbortController());
    try {
      const result = await page.model.classify(page.source, { signal });
      const best = largest(
        result.map(({ p }) => p),
        1,
      )[0];
      showLabels(result, best);
      await showWords(page, page.source, result[best].label, best, signal);
    } catch (error) {
      if (!signal.aborted) throw error;
    }
  };

  if (isPair) {
    const read = debounce((event) => page.setText(page.source[0], page.selected, event.target.value), 150);
    const field = el("textarea", { id: "second", rows: 3, oninput: read });
    page.on("ids", () => document.activeElement !== field && (field.value = page.source[1]));
    byId("label-bars").before(
      el(
        "label",
        { class: "soft", for: "second" },
        `The second text, ${columns[1]}; the first is ${columns[0]}, above`,
      ),
      field,
    );
  }
  page.on("trace", classify);
}

function showLabels(result, best) {
  const rows = keepChildren(byId("label-bars"), result.length, () => barRow());
  rows.forEach((row, index) => {
    setBar(row, result[index].label, result[index].p, percent(result[index].p));
    row.classList.toggle("true", index === best);
  });
}

/** Color each word by its change of the best label's probability, as the figures arrive. */
async function showWords(page, texts, label, best, signal) {
  const box = byId("words");
  const note = (text) => (byId("label-note").textContent = text);
  box.replaceChildren();
  note(`Leaving out one word after the other, for ${label} …`);
  let [of, shown, n] = [0, 0, 0];
  const plain = (end) => box.append(el("span", { class: "between" }, texts[of].slice(shown, end)));
  for await (const { text, start, end, change } of page.model.occlusion(texts, { signal })) {
    if (signal.aborted) return;
    if (text !== of) {
      plain(texts[of].length);
      box.append(el("hr"));
      [of, shown] = [text, 0];
    }
    plain(start);
    const effect = change[best];
    box.append(
      el(
        "span",
        {
          class: effect < 0 ? "piece against" : "piece for",
          "--value": shade(Math.min(1, Math.abs(effect))),
          title: `${effect < 0 ? "−" : "+"}${(100 * Math.abs(effect)).toFixed(1)} percentage points`,
        },
        texts[of].slice(start, end),
      ),
    );
    [shown, n] = [end, n + 1];
  }
  plain(texts[of].length);
  note(`${plural(n, "word")}: hold the pointer on one to see how many percentage points it adds to ${label}.`);
}
