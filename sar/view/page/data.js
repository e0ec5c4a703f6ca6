// Asks the server for data, and makes elements. Whatever a model wrote becomes text, never HTML.

export class RequestError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function read(response) {
  const answer = await response.json().catch(() => null);
  if (!response.ok) {
    throw new RequestError(response.status, answer?.error?.message ?? `status ${response.status}`);
  }
  return answer;
}

export async function ask(name, parameters = {}) {
  const query = new URLSearchParams(parameters);
  return read(await fetch(`dashboard/data/${name}?${query}`));
}

export async function explain(rollout) {
  const body = {
    query: [rollout.prompt + rollout.response],
    prompts: [rollout.prompt],
    labels: [rollout.label],
  };
  const headers = { "Content-Type": "application/json" };
  return read(await fetch("explain", { method: "POST", headers, body: JSON.stringify(body) }));
}

export const find = (id) => document.getElementById(id);

export function make(tag, options = {}, ...children) {
  const { text, ...properties } = options;
  const element = Object.assign(document.createElement(tag), properties);
  if (text !== undefined) element.textContent = text;
  element.append(...children);
  return element;
}

// Characters that show nothing, or reverse what follows. Joiners stay: emoji are made with them.
const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;
const MAX_MARKS = 2000;

// Appends a text to an element, with hidden characters made visible.
export function appendText(element, text) {
  let start = 0;
  let marks = 0;
  for (const match of text.matchAll(HIDDEN)) {
    if (++marks > MAX_MARKS) break;
    const code = match[0].charCodeAt(0).toString(16).toUpperCase().padStart(4, "0");
    element.append(
      text.slice(start, match.index),
      make("span", { className: "hidden-char", text: `U+${code}`, title: "a hidden character" }),
    );
    start = match.index + 1;
  }
  const rest = text.slice(start);
  element.append(marks > MAX_MARKS ? rest.replace(HIDDEN, "\ufffd") : rest);
  return element;
}

export const format = (value, digits = 3) =>
  value === null || value === undefined ? "–" : Number(value.toFixed(digits)).toLocaleString("en-US");

const DAY_S = 86400;

export function formatTime(seconds) {
  const date = new Date(seconds * 1000);
  const isToday = Date.now() / 1000 - seconds < DAY_S;
  return isToday ? date.toLocaleTimeString() : date.toLocaleString();
}

export const VERDICTS = {
  correct: "right",
  wrong: "wrong",
  no_answer: "no answer",
  timeout: "grader timed out",
  crashed: "grader crashed",
};

export function makeVerdict(row) {
  const className = row.reason === "correct" ? "right-text" : "wrong-text";
  return make("span", { className, text: VERDICTS[row.reason] ?? row.reason });
}
