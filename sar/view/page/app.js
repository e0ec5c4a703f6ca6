// The page: asks for news, shows them, and keeps what the reader has chosen.

import { Alarms } from "./alarms.js";
import { Charts, Points, nameSar } from "./charts.js";
import { ask, find, format, formatTime, make, makeVerdict } from "./data.js";
import { openRollout } from "./rollout.js";
import { showScorers } from "./scorers.js";

const UPDATE_MS = 2000;
const BUCKETS = 120;
const MAX_BUCKETS = 500;

const chosen = { by: null, mode: null, kind: "latest", verdict: "all", search: "", window: null };
let status = null;
let latest = "";
let isUpdating = false;
let isBusy = false;
let mustRefresh = false;

const charts = new Charts((window) => choose({ window }));
const alarms = new Alarms(find("alarms"), showRing);
const points = new Points((number) => {
  trail = null;
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
    const key = JSON.stringify([status.last, status.num_train, status.num_eval, status.progress, alarms.listMarks()]);
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
  const marks = chosen.mode === "train" ? alarms.listMarks() : [];
  charts.show(series, { window: chosen.window, marks, paysSar: status.pays_sar });
  find("marks-text").hidden = !marks.length;
  find("points-title").textContent = `${nameSar(status.pays_sar)} and length`;
  points.show(sample);
  find("points-text").textContent = describePoints(sample);
}

function describePoints({ points: shown, num_right, num_wrong }) {
  const all = num_right + num_wrong;
  if (!all) return "no such rollouts.";
  const share = `${format((100 * num_right) / all, 1)} % of ${all === 1 ? "1 rollout" : `${format(all)} rollouts`}`;
  if (shown.length === all) return `${share} are right. Click a point to read it.`;
  const right = shown.filter((point) => point[3] === 1).length;
  return `a sample of ${format(right)} right and ${format(shown.length - right)} wrong rollouts, so that both are seen. In truth ${share} are right. Click a point to read it.`;
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
  alarms.show((await ask("alarms")).alarms);
}

// Shows the rollouts from one time to another.
async function showRing(title, from, to) {
  try {
    const { first, last, start, end } = await ask("series", { by: "rollouts", mode: "train", buckets: MAX_BUCKETS });
    const inside = first.map((_, index) => index).filter((index) => end[index] >= from && start[index] <= to);
    if (!inside.length) return;
    find("mode").value = "train"; // alarms are about training
    const window = { first: Math.min(...inside.map((index) => first[index])), last: Math.max(...inside.map((index) => last[index])), title };
    choose({ mode: "train", window });
  } catch (error) {
    showError(error);
  }
}

function showWindow() {
  const { window } = chosen;
  find("window").hidden = !window;
  if (window) find("window-text").textContent = `Points and table: rollouts ${format(window.first)} to ${format(window.last)}${window.title ? `, over which this alarm rang: ${window.title}` : ""}.`;
}

async function showTable() {
  const { rows } = await ask("table", { ...parameters(), kind: chosen.kind, verdict: chosen.verdict });
  if (chosen.search) return; // meanwhile, the reader searches
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
    trail = [...find("rows").querySelectorAll("a")].map((one) => Number(one.hash.split("=")[1]));
    location.hash = `rollout=${row.id}`;
  });
  return line;
}

// ---- What the reader does

// The table that the open rollout was opened from: its numbers, in its order.
let trail = null;
// The number of the rollout that is open.
let opened = null;

function readHash() {
  const match = /^#rollout=(\d{1,18})$/.exec(location.hash);
  return match ? Number(match[1]) : null;
}

function openFromHash() {
  const number = readHash();
  if (!trail?.includes(number)) trail = null;
  find("previous").title = trail ? "The one above it in the table (left arrow key)" : "The rollout before it (left arrow key)";
  find("next").title = trail ? "The one below it in the table (right arrow key)" : "The rollout after it (right arrow key)";
  for (const [id, by] of [["previous", -1], ["next", 1]]) find(id).disabled = findStep(by) === null;
  if (number === null) find("rollout").close();
  else {
    opened = number;
    openRollout(number, status?.can_explain ?? false);
  }
}

// The rollout so many places further in the table, or in the log; null if there is none.
function findStep(by) {
  const number = readHash();
  if (number === null) return null;
  if (trail) return trail[trail.indexOf(number) + by] ?? null;
  return number + by >= 1 ? number + by : null;
}

function step(by) {
  const number = findStep(by);
  if (number !== null) location.hash = `rollout=${number}`;
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

function closeRollout() {
  trail = opened = null;
  if (location.hash) history.replaceState(null, "", location.pathname + location.search);
  find("rollout").close();
}

find("close").addEventListener("click", closeRollout);
find("previous").addEventListener("click", () => step(-1));
find("next").addEventListener("click", () => step(1));
// Of the document: a button that is disabled loses the focus to it.
document.addEventListener("keydown", (event) => {
  if (!find("rollout").open) return;
  if (event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return; // the browser's own
  const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (!by) return;
  event.preventDefault();
  step(by);
});
// Escape. The event "close" would come a moment later, when another rollout may be open.
find("rollout").addEventListener("cancel", (event) => {
  event.preventDefault();
  closeRollout();
});
// A browser may close a dialog without asking.
find("rollout").addEventListener("close", () => {
  if (!find("rollout").open && readHash() === opened) closeRollout();
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
