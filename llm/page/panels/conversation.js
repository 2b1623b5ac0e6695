"use strict";
// A conversation with an instruction model; its ids can be given to all the other panels.

const MOST_ANSWER_TOKENS = 200;

function conversationPanel(page) {
  const { model } = page;
  let messages = [];
  let ids = [];
  let stop = new AbortController();

  const add = (role, content) => {
    messages.push({ role, content });
    const shown = el("p", {}, content);
    byId("messages").append(el("li", { class: role }, el("strong", {}, role), shown));
    return shown;
  };

  const answer = async () => {
    const asked = model.conversation(messages, MOST_ANSWER_TOKENS);
    const note = asked.n_dropped ? `The oldest ${plural(asked.n_dropped, "turn")} no longer fit into the context.` : "";
    ids = asked.ids;
    const shown = add("assistant", "");
    const begin = ids.length;
    const settings = {
      temperature: Number(byId("ask-temperature").value),
      maxTokens: MOST_ANSWER_TOKENS,
      signal: stop.signal,
    };
    for await (const id of model.generate(ids, settings)) {
      ids = [...ids, id];
      shown.textContent = messages.at(-1).content = model.tokenizer.decode(ids.slice(begin));
    }
    return note;
  };

  const send = async (content) => {
    stop = new AbortController();
    setAsking(true);
    const before = messages.length;
    add("user", content);
    try {
      byId("ask-note").textContent = await answer();
    } catch (error) {
      if (error instanceof RangeError) {
        messages = messages.slice(0, before);
        byId("messages").lastChild.remove();
        byId("ask-note").textContent = error.message;
      } else if (!stop.signal.aborted) throw error;
    } finally {
      setAsking(false);
      byId("ask-inside").disabled = !ids.length;
    }
  };

  byId("question").value = model.passages[0] ?? "";
  byId("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    const content = byId("question").value.trim();
    if (!content || byId("ask-send").disabled) return;
    byId("question").value = "";
    send(content);
  });
  byId("question").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey) return;
    event.preventDefault();
    byId("ask").requestSubmit();
  });
  byId("ask-stop").addEventListener("click", () => stop.abort());
  byId("ask-new").addEventListener("click", () => {
    stop.abort();
    [messages, ids] = [[], []];
    byId("messages").replaceChildren();
  });
  byId("ask-inside").addEventListener("click", () => {
    page.setIds(ids.slice(-model.config.context_length), Infinity);
    byId("tokens").scrollIntoView();
  });
}

function setAsking(isAsking) {
  byId("ask-send").disabled = isAsking;
  byId("ask-stop").disabled = !isAsking;
}
