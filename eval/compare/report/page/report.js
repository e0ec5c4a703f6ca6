"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId("data").textContent);
  const items = data.items.map((item) => ({
    ...item,
    text: [item.id, item.question, ...item.prompts, item.baseline.response, item.other.response]
      .join("\n").toLowerCase(),
  }));
  const list = byId("list");
  let shown = [];
  let selected = -1;

  const setText = (id, text) => { byId(id).textContent = text; };

  function facts(side) {
    const parts = [(side.reason ?? (side.correct ? "correct" : "wrong")).replaceAll("_", " ")];
    if (side.answer !== null) parts.push("answer: " + side.answer);
    if (side.num_tokens !== null) parts.push(side.num_tokens.toLocaleString("en") + " tokens");
    if (side.finish_reason === "length") parts.push("truncated");
    if (side.num_samples > 1) {
      parts.push("sample " + side.sample + "; " + side.num_correct + " of " + side.num_samples + " correct");
    }
    return parts.join(" · ");
  }

  function showSide(name, run, side, prompt) {
    setText(name + "-title", run);
    byId(name + "-title").className = side.correct ? "gained" : "lost";
    setText(name + "-facts", facts(side));
    setText(name + "-response", side.response);
    setText(name + "-prompt", prompt);
  }

  function select(index) {
    list.children[selected]?.setAttribute("aria-selected", "false");
    selected = index;
    const item = shown[index];
    byId("detail").hidden = item === undefined;
    if (item === undefined) return;
    const row = list.children[index];
    row.setAttribute("aria-selected", "true");
    list.scrollTop = Math.min(row.offsetTop - list.offsetTop,
      Math.max(list.scrollTop, row.offsetTop - list.offsetTop + row.offsetHeight - list.clientHeight));
    setText("title", item.benchmark + " " + item.id + ": " + item.direction);
    setText("question", item.question);
    setText("label", item.label);
    showSide("baseline", data.baseline, item.baseline, item.prompts[0]);
    showSide("other", data.others[item.pair], item.other, item.prompts[1]);
  }

  function rowOf(item, index) {
    const row = document.createElement("li");
    const mark = document.createElement("span");
    mark.className = item.direction;
    mark.textContent = item.direction === "gained" ? "▲ " : "▼ ";
    row.append(mark, item.benchmark + " " + item.id + "  " + item.question.slice(0, 60));
    row.setAttribute("aria-selected", "false");
    row.addEventListener("click", () => select(index));
    return row;
  }

  function filter() {
    const pair = Number(byId("pair").value);
    const benchmark = byId("benchmark").value;
    const direction = byId("direction").value;
    const text = byId("search").value.trim().toLowerCase();
    shown = items.filter((item) => item.pair === pair
      && (benchmark === "" || item.benchmark === benchmark)
      && (direction === "" || item.direction === direction)
      && item.text.includes(text));
    selected = -1;
    list.replaceChildren(...shown.map(rowOf));
    setText("count", shown.length.toLocaleString("en") + (shown.length === 1 ? " problem" : " problems"));
    select(0);
  }

  for (const id of ["pair", "benchmark", "direction"]) byId(id).addEventListener("change", filter);
  byId("search").addEventListener("input", filter);
  list.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step === undefined || shown.length === 0) return;
    event.preventDefault();
    select(Math.max(0, Math.min(shown.length - 1, selected + step)));
  });
  filter();
})();
