// The table of a server's scorers, if it has several.
import { find, format, make } from "./data.js";

let before = new Map();

export function showScorers(scorers) {
  find("scorers").hidden = !scorers.length;
  if (!scorers.length) return;
  const now = performance.now() / 1000;
  const after = new Map(scorers.map((scorer) => [scorer.id, { now, tokens: scorer.tokens }]));
  const up = scorers.filter((scorer) => scorer.state === "up").length;
  find("scorers-text").textContent = `${format(up)} of ${format(scorers.length)} are up.`;
  find("scorer-rows").replaceChildren(...scorers.map((scorer) => makeRow(scorer, now)));
  before = after;
}

function makeRow(scorer, now) {
  const last = before.get(scorer.id);
  const speed = last ? (scorer.tokens - last.tokens) / (now - last.now) : null;
  const cells = [
    scorer.id, scorer.state, scorer.node, `${format(100 * scorer.busy_share, 0)} %`,
    format(speed, 0), format(scorer.tokens), scorer.policy_version, scorer.restarts,
  ];
  const row = make("tr", {}, ...cells.map((text) => make("td", { text: String(text) })));
  row.cells[1].className = scorer.state === "up" ? "right-text" : "wrong-text";
  return row;
}
