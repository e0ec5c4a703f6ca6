// The page: asks for news, shows them, and keeps what the reader has chosen.

import { Charts, Points } from "./charts.js";
import { ask, find, format, make, makeVerdict } from "./data.js";
import { openRollout } from "./rollout.js";
import { showScorers } from "./scorers.js";

const UPDATE_MS = 2000;
const DAY_S = 86400;
const BUCKETS = 120;

const chosen = { by: null, mode: null, kind: "latest", verdict: "all", search: "", window: null };
let status = null;
let latest = "";
let isUpdating = false;
let isBusy = false;
let mustRefresh = false;

const charts = new Charts((window) => choose({ window }));
const points = new Points((number) => {
  location.hash = `rollout=${number}`;
});

// ---- What is asked for

function choose(change) {
  Object.assign(chosen, change);
  refresh();
}

const parameters = () => ({
  mode: chosen.mode,
  ...(chosen.window && { first: chosen.window.first, last: chosen.window.last }),
});

async function update() {
  if (isUpdating) return; // the server is slower than the clock
  isUpdating = true;
  try {
    status = await ask("status");
    showStatus();
    showScorers(status.scorers);
    await showAlarms();
    const key = JSON.stringify([status.last, status.num_train, status.num_eval, status.progress]);
    if (key !== latest) await refresh();
    latest = key;
    showError(null);
  } catch (error) {
    showError(error);
  } finally {
    isUpdating = false;
  }
}

// One round at a time. What is chosen meanwhile is shown by one more round.
async function refresh() {
  if (isBusy) {
    mustRefresh = true;
    return;
  }
  isBusy = true;
  try {
    do {
      mustRefresh = false;
      if (status && status.num_train + status.num_eval > 0) await showAll();
    } while (mustRefresh);
    showError(null);
  } catch (error) {
    showError(error);
  } finally {
    isBusy = false;
  }
}

async function showAll() {
  chooseFirst();
  showWindow();
  const [series, sample] = await Promise.all([
    ask("series", { by: chosen.by, mode: chosen.mode, buckets: BUCKETS }),
    ask("points", { ...parameters(), verdict: chosen.verdict }),
    chosen.search ? null : showTable(),
  ]);
  charts.show(series, chosen.window);
  points.show(sample);
  const all = sample.num_right + sample.num_wrong;
  const which = sample.points.length < all ? `a sample of ${format(sample.points.length)} of ${format(all)}` : `${format(all)}`;
  find("points-text").textContent = `${which} rollouts. Click a point to read it.`;
}

// The charts are by policy version if there are several, and of training if there is any.
function chooseFirst() {
  if (chosen.mode === null || (chosen.mode === "train" ? !status.num_train : !status.num_eval)) {
    chosen.mode = status.num_train ? "train" : "eval";
    find("mode").value = chosen.mode;
  }
  if (chosen.by === null) {
    find("by").value = status.num_versions > 2 ? "version" : "rollouts";
  }
  chosen.by = find("by").value;
}

// ---- What is shown

function showError(error) {
  find("error").hidden = error === null;
  if (error) find("error").textContent = `No news from the server: ${error.message}`;
}

function showStatus() {
  const { title, progress, num_train, num_eval, num_versions, end, kept_from, is_live } = status;
  find("title").textContent = title;
  document.title = title ? `Rewards: ${title}` : "Rewards";
  const facts = [`${format(num_train + num_eval)} rollouts`];
  if (num_versions > 1) facts.push(`${format(num_versions)} policy versions`);
  if (end) facts.push(`the latest ${formatTime(end)}`);
  find("facts").textContent = facts.join(" · ");
  find("mode-label").hidden = !(num_train && num_eval);
  const notices = [];
  if (progress < 1) notices.push(`Reading the log: ${Math.floor(progress * 100)} %. What is read so far is shown.`);
  if (num_train + num_eval === 0 && progress === 1) {
    notices.push(is_live ? "No rollouts yet. They appear here as they are rewarded." : "The log holds no rollouts.");
  }
  if (status.num_bad_lines) notices.push(`${format(status.num_bad_lines)} lines of the log are no decisions and are left out; the first: ${status.first_error}`);
  if (is_live && kept_from > 1) notices.push(`The charts show all rollouts since the server started. Points, tables and search have those from number ${format(kept_from)} on.`);
  find("notice").textContent = notices.join(" ");
  find("notice").hidden = !notices.length;
}

async function showAlarms() {
  const { alarms } = await ask("alarms");
  const place = find("alarms");
  const open = new Set([...place.querySelectorAll("details[open]")].map((one) => one.dataset.name));
  place.hidden = !alarms.length;
  place.replaceChildren(...alarms.map((alarm) => makeAlarm(alarm, open.has(alarm.name))));
}

function makeAlarm(alarm, isOpen) {
  const states = { ok: "✓", alarm: "⚠", unknown: "?" };
  const box = make("details", { className: `alarm alarm-${alarm.state === "alarm" ? "on" : alarm.state}`, open: isOpen });
  box.dataset.name = alarm.name;
  box.append(make("summary", { text: `${states[alarm.state] ?? "?"} ${alarm.title}` }));
  const number = (value) => (typeof value === "number" ? format(value, 4) : "–");
  box.append(make("p", { text: alarm.message ?? "" }));
  const facts = [`value ${number(alarm.value)}`, `threshold ${number(alarm.threshold)}`];
  if (alarm.since) {
    const version = alarm.policy_version ?? null;
    const place = [`rollout ${format(alarm.rollout)}`, ...(version === null ? [] : [`policy version ${version}`])];
    facts.push(`${alarm.state === "alarm" ? "rings since" : "rang until"} ${formatTime(Date.parse(alarm.since) / 1000)} (${place.join(", ")})`);
  }
  box.append(make("p", { text: facts.join(", ") }));
  return box;
}

function showWindow() {
  const { window } = chosen;
  find("window").hidden = !window;
  if (window) find("window-text").textContent = `Points and table: rollouts ${format(window.first)} to ${format(window.last)}.`;
}

async function showTable() {
  const { rows } = await ask("table", { ...parameters(), kind: chosen.kind, verdict: chosen.verdict });
  find("more").hidden = true;
  const texts = {
    latest: "The latest first.",
    best: "The highest reward first.",
    worst: "The lowest reward first.",
    surprising: "In turn: right with the lowest SAR, wrong with the highest SAR.",
  };
  find("table-text").textContent = rows.length ? texts[chosen.kind] : "No such rollouts.";
  find("rows").replaceChildren(...rows.map(makeRow));
}

async function search(before) {
  find("more").disabled = true;
  find("table-text").textContent = "Searching…";
  try {
    const answer = await ask("search", {
      text: chosen.search,
      mode: chosen.mode,
      verdict: chosen.verdict,
      ...(before && { before }),
    });
    const rows = answer.rows.map(makeRow);
    if (before) find("rows").append(...rows);
    else find("rows").replaceChildren(...rows);
    const num = find("rows").children.length;
    const isDone = answer.searched_to <= 1;
    find("table-text").textContent = `${num ? format(num) : "No"} rollouts contain the text${isDone ? "" : `, of those from number ${format(answer.searched_to)} on`}.`;
    find("more").hidden = isDone;
    find("more").onclick = () => search(answer.searched_to);
  } catch (error) {
    find("table-text").textContent = error.message;
  } finally {
    find("more").disabled = false;
  }
}

function makeRow(row) {
  const link = make("a", { href: `#rollout=${row.id}`, text: row.id.toLocaleString("en-US") });
  const cells = [link, formatTime(row.time), row.version || "–", makeVerdict(row), format(row.reward), format(row.sar), format(row.num_tokens)];
  const line = make("tr", {}, ...cells.map((cell) => make("td", {}, cell)));
  // One line; `dir` keeps a right-to-left text in its cell.
  line.append(make("td", { className: "text", dir: "auto", text: row.snippet.replace(/[\s\p{C}]+/gu, " ") }));
  line.addEventListener("click", () => {
    location.hash = `rollout=${row.id}`;
  });
  return line;
}

function formatTime(seconds) {
  const date = new Date(seconds * 1000);
  const isToday = Date.now() / 1000 - seconds < DAY_S;
  return isToday ? date.toLocaleTimeString() : date.toLocaleString();
}

// ---- What the reader does

function openFromHash() {
  const match = /^#rollout=(\d{1,18})$/.exec(location.hash);
  if (match) openRollout(Number(match[1]), status?.can_explain ?? false);
  else find("rollout").close();
}

function step(by) {
  const match = /^#rollout=(\d{1,18})$/.exec(location.hash);
  if (match) location.hash = `rollout=${Math.max(1, Number(match[1]) + by)}`;
}

find("by").addEventListener("change", (event) => choose({ by: event.target.value }));
find("mode").addEventListener("change", (event) => choose({ mode: event.target.value, window: null }));
find("kind").addEventListener("change", (event) => {
  find("search").value = "";
  choose({ kind: event.target.value, search: "" });
});
find("verdict").addEventListener("change", (event) => {
  choose({ verdict: event.target.value });
  if (chosen.search) search();
});
find("window-clear").addEventListener("click", () => choose({ window: null }));
find("search-form").addEventListener("submit", (event) => {
  event.preventDefault();
  chosen.search = find("search").value;
  chosen.window = null; // a search is of all rollouts
  refresh();
  if (chosen.search) search();
});
find("close").addEventListener("click", () => find("rollout").close());
find("previous").addEventListener("click", () => step(-1));
find("next").addEventListener("click", () => step(1));
find("rollout").addEventListener("close", () => {
  if (location.hash) history.replaceState(null, "", location.pathname + location.search);
});
window.addEventListener("hashchange", openFromHash);
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  charts.forget();
  points.forget();
  refresh();
});

await update();
openFromHash();
setInterval(() => {
  if (find("follow").checked && !document.hidden) update();
}, UPDATE_MS);
