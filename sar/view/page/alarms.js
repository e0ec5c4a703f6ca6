// The strip of alarms. An alarm leads to the rollouts over which it rang.

import { format, formatTime, make } from "./data.js";

const STATES = { ok: "✓", alarm: "⚠", unknown: "?" };
const seconds = (time) => Date.parse(time) / 1000;

export class Alarms {
  // `onRing` gets an alarm's title, and the seconds from which to which it rang.
  constructor(place, onRing) {
    this.place = place;
    this.onRing = onRing;
    this.alarms = [];
  }

  show(alarms) {
    this.alarms = alarms;
    const open = new Set([...this.place.querySelectorAll("details[open]")].map((one) => one.dataset.name));
    this.place.hidden = !alarms.length;
    this.place.replaceChildren(...alarms.map((alarm) => this.make(alarm, open.has(alarm.name))));
  }

  // Where alarms began, for the charts.
  listMarks() {
    const marks = this.alarms.flatMap((alarm) =>
      (alarm.rings ?? []).map((ring) => ({
        time: seconds(ring.begin),
        version: ring.policy_version,
        text: `${alarm.title}: rings from rollout ${format(ring.begin_rollout)} ${ring.end ? `to ${format(ring.end_rollout)}` : "on"}`,
      })),
    );
    return marks.filter((mark) => Number.isFinite(mark.time));
  }

  make(alarm, isOpen) {
    const rings = alarm.rings ?? [];
    const isOn = alarm.state === "alarm";
    const box = make("details", { className: `alarm alarm-${isOn ? "on" : alarm.state}`, open: isOpen, title: alarm.meaning ?? "" });
    box.dataset.name = alarm.name;
    const summary = make("summary", { text: `${STATES[alarm.state] ?? "?"} ${alarm.title}` });
    if (isOn && rings.length) summary.addEventListener("click", () => box.open || this.open(alarm, rings.at(-1)));
    box.append(summary, make("p", { text: alarm.message ?? "" }), make("p", { text: describe(alarm) }));
    box.append(...rings.map((ring) => this.makeButton(alarm, ring)));
    return box;
  }

  makeButton(alarm, ring) {
    const to = ring.end ? `to ${format(ring.end_rollout)}` : "on";
    const button = make("button", { text: `Show rollouts ${format(ring.start_rollout)} ${to}` });
    button.addEventListener("click", () => this.open(alarm, ring));
    return button;
  }

  open(alarm, ring) {
    this.onRing(alarm.title, seconds(ring.start), ring.end ? seconds(ring.end) : Infinity);
  }
}

function describe(alarm) {
  const number = (value) => (typeof value === "number" ? format(value, 4) : "–");
  const facts = [`value ${number(alarm.value)}`, `threshold ${number(alarm.threshold)}`];
  if (alarm.since) {
    const version = alarm.policy_version ?? null;
    const place = [`rollout ${format(alarm.rollout)}`, ...(version === null ? [] : [`policy version ${version}`])];
    facts.push(`${alarm.state === "alarm" ? "rings since" : "rang until"} ${formatTime(seconds(alarm.since))} (${place.join(", ")})`);
  }
  return facts.join(", ");
}
