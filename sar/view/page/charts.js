// The charts over time, and the points of SAR against length. uPlot draws them.

import { find, make } from "./data.js";

const uPlot = window.uPlot;
const HEIGHT = 150;
const POINTS_HEIGHT = 380;
// A click this near to a point opens its rollout.
const MAX_DISTANCE = 30;

const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const COLORS = ["right", "wrong", "third", "fourth"];

// Each chart: its title, its lines, what it means, and its range. The means come from the server.
const CHARTS = [
  ["Reward", { reward: "reward" }, "The mean reward of a rollout, as the trainer gets it."],
  ["Correctness", { correctness: "right", no_answer: "no answer" }, "The share of responses whose answer is right, and of those in which the grader found no answer.", [0, 1]],
  ["SAR", { sar: "SAR" }, "How much likelier the question makes a response: 1 - perplexity with the question / perplexity without it."],
  ["Response length", { num_tokens: "tokens" }, "The mean number of tokens of a response."],
  ["Groups without a difference", { equal_reward: "equal rewards", equal_correctness: "equal verdicts" }, "The share of groups (the rollouts of one prompt) in which all rewards, or all verdicts, are equal. A group with equal rewards is a zero-variance group: its advantages are 0, so it teaches nothing.", [0, 1]],
  ["Surprise of the response, nats per token", { nll_qa: "with the question", nll_a: "without it" }, "The mean negative log-likelihood of a response's tokens, which is the logarithm of its perplexity. SAR compares the two lines."],
];
const PROBLEMS = {
  over_context: "over context",
  label_unreadable: "unreadable label",
  template_mismatch: "other template",
  grader_failed: "grader failed",
};

// The server measures SAR of every response, also where the reward has nothing of it.
export const nameSar = (isPaid) => (isPaid === false ? "SAR (not paid)" : "SAR");

function listCharts(series, paysSar) {
  const charts = CHARTS.map(([title, names, meaning, range]) => ({ title: title === "SAR" ? nameSar(paysSar) : title, meaning, range, lines: lines(series.means, names) }));
  const problems = Object.keys(PROBLEMS).filter((name) => series.means[name].some((share) => share > 0));
  if (problems.length) {
    const names = Object.fromEntries(problems.map((name) => [name, PROBLEMS[name]]));
    charts.push({ title: "Problems, shares of rollouts", meaning: "The share of rollouts whose prompt was cut to the scorer's context, whose label the grader cannot read, whose template is not the server's, or on which a grader timed out or crashed.", lines: lines(series.means, names) });
  }
  for (const [name, values] of Object.entries(series.terms)) {
    charts.push({ title: `Term ${name}`, meaning: "A term of the reward file, before its weight.", lines: [{ label: name, values }] });
  }
  return charts;
}

const lines = (means, names) =>
  Object.entries(names).map(([name, label]) => ({ label, values: means[name] }));

const short = (value) => (value === null || value === undefined ? "–" : Number(value.toPrecision(4)).toString());

function makeAxes(by, labels) {
  const common = { stroke: color("soft"), grid: { stroke: color("line"), width: 0.5 }, ticks: { stroke: color("line"), width: 0.5 }, font: "11px system-ui" };
  const x = { ...common, size: 28 };
  if (labels) x.values = (_, splits) => splits.map((at) => labels[at] ?? "");
  else if (by !== "time") x.values = (_, splits) => splits.map((at) => (Number.isInteger(at) ? at.toLocaleString("en-US") : ""));
  return [x, { ...common, size: 48, values: (_, splits) => splits.map(short) }];
}

export class Charts {
  constructor(onWindow) {
    this.onWindow = onWindow;
    this.plots = [];
    this.key = "";
    this.window = null;
    this.marks = [];
    new ResizeObserver(() => this.fit()).observe(find("charts"));
  }

  show(series, { window, marks, paysSar }) {
    this.series = series;
    this.window = window;
    this.marks = marks;
    const charts = listCharts(series, paysSar);
    const key = JSON.stringify([series.by, series.labels !== null, charts.map(({ title, lines: all }) => [title, all.map((line) => line.label)])]);
    if (key !== this.key) this.rebuild(charts);
    this.key = key;
    charts.forEach((chart, index) => {
      this.plots[index].setData([series.x, ...chart.lines.map((line) => line.values)]);
    });
  }

  rebuild(charts) {
    this.plots.forEach((plot) => plot.destroy());
    this.plots = [];
    const place = find("charts");
    place.replaceChildren();
    for (const chart of charts) {
      const box = make("div", { className: "chart" }, make("h2", { text: chart.title, title: chart.meaning }));
      place.append(box);
      this.plots.push(this.makePlot(chart, box));
    }
  }

  makePlot(chart, box) {
    const series = [
      { label: this.series.by, value: (_, x) => this.nameX(x) },
      ...chart.lines.map((line, index) => ({
        label: line.label,
        stroke: color(COLORS[index]),
        width: 1.5,
        spanGaps: true,
        points: { size: 4 },
        value: (_, y) => short(y),
      })),
    ];
    const options = {
      width: Math.max(200, box.clientWidth - 20),
      height: HEIGHT,
      series,
      scales: { x: { time: this.series.by === "time" }, ...(chart.range && { y: { range: chart.range } }) },
      axes: makeAxes(this.series.by, this.series.labels),
      cursor: { sync: { key: "charts" }, drag: { x: true, y: false, setScale: false } },
      hooks: {
        drawClear: [(plot) => this.drawBands(plot)],
        draw: [(plot) => this.placeMarks(plot)],
        setSelect: [(plot) => this.select(plot)],
      },
    };
    return new uPlot(options, [this.series.x, ...chart.lines.map((line) => line.values)], box);
  }

  nameX(x) {
    if (x === null || x === undefined) return "–";
    if (this.series.by === "time") return new Date(x * 1000).toLocaleString();
    return this.series.labels?.[this.series.x.indexOf(x)] ?? x.toLocaleString("en-US");
  }

  // Shades every other policy version, and the chosen window.
  drawBands(plot) {
    const { by, bands } = this.series;
    const { ctx } = plot;
    const { left, top, width, height } = plot.bbox;
    const fill = (from, to) => {
      const start = Math.max(left, plot.valToPos(from, "x", true));
      const end = Math.min(left + width, plot.valToPos(to, "x", true));
      if (end > start) ctx.fillRect(start, top, end - start, height);
      return [start, end];
    };
    ctx.save();
    if (by !== "version") {
      const [from, to] = by === "time" ? ["start", "end"] : ["first", "last"];
      const [shade, text] = [color("band"), color("soft")];
      ctx.font = `${Math.round(9 * window.devicePixelRatio)}px system-ui`;
      bands.forEach((band, index) => {
        ctx.fillStyle = index % 2 === 1 ? shade : "transparent";
        const [start, end] = fill(band[from], band[to]);
        const name = `v${band.version}`.slice(0, 12);
        ctx.fillStyle = text;
        if (bands.length > 1 && end - start > ctx.measureText(name).width + 6) ctx.fillText(name, start + 3, top + 9 * window.devicePixelRatio);
      });
    }
    if (this.window) {
      ctx.fillStyle = color("window");
      const inside = this.series.x.filter((_, i) => this.series.last[i] >= this.window.first && this.series.first[i] <= this.window.last);
      const half = by === "version" ? 0.5 : (this.series.width ?? 1) / 2;
      const offset = by === "rollouts" ? half : 0;
      if (inside.length) fill(inside[0] + offset - half, inside[inside.length - 1] + offset + half);
    }
    ctx.restore();
  }

  // A line where an alarm began. Alarms that began at one place share a line.
  placeMarks(plot) {
    const texts = new Map();
    for (const mark of this.marks) {
      const x = this.findX(mark);
      const at = x === null ? -1 : Math.round(plot.valToPos(x, "x"));
      if (at >= 0 && at <= plot.over.clientWidth) texts.set(at, [...(texts.get(at) ?? []), mark.text]);
    }
    plot.over.querySelectorAll(".mark").forEach((line) => line.remove());
    for (const [at, all] of texts) {
      const line = make("div", { className: "mark", title: all.join("\n") });
      line.style.left = `${at}px`;
      plot.over.append(line);
    }
  }

  // Where a moment is on the x axis; null if it is after all that the charts show.
  findX({ time, version }) {
    const { by, x, labels, first, last, start, end } = this.series;
    if (by === "time") return time;
    const index = end.findIndex((at) => at >= time);
    if (by === "version") {
      const own = labels ? labels.indexOf(String(version)) : x.indexOf(Number(version ?? NaN));
      return x[own >= 0 ? own : index] ?? null;
    }
    if (index < 0) return null;
    const share = (time - start[index]) / (end[index] - start[index] || 1);
    return first[index] + Math.max(0, share) * (last[index] - first[index]);
  }

  select(plot) {
    const { left, width } = plot.select;
    if (width < 4) return;
    const from = plot.posToVal(left, "x");
    const to = plot.posToVal(left + width, "x");
    plot.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
    const { x, first, last } = this.series;
    let inside = x.map((_, index) => index).filter((index) => x[index] >= from && x[index] <= to);
    if (!inside.length) {
      const middle = (from + to) / 2;
      inside = [x.reduce((best, at, index) => (Math.abs(at - middle) < Math.abs(x[best] - middle) ? index : best), 0)];
    }
    this.onWindow({
      first: Math.min(...inside.map((index) => first[index])),
      last: Math.max(...inside.map((index) => last[index])),
    });
  }

  fit() {
    this.plots.forEach((plot) => {
      const width = Math.max(200, plot.root.parentElement.clientWidth - 20);
      if (width !== plot.width) plot.setSize({ width, height: HEIGHT });
    });
  }

  forget() {
    this.key = "";
  }
}

export class Points {
  constructor(onOpen) {
    this.onOpen = onOpen;
    this.place = find("points");
    this.points = [];
    this.place.addEventListener("click", (event) => this.open(event));
    new ResizeObserver(() => this.fit()).observe(this.place);
  }

  show(answer) {
    this.points = answer.points.sort((a, b) => a[1] - b[1]);
    const of = (isRight) => this.points.map((point) => ((point[3] === 1) === isRight ? point[2] : null));
    const data = [this.points.map((point) => point[1]), of(true), of(false)];
    if (this.plot) this.plot.setData(data);
    else this.build(data);
  }

  build(data) {
    const dots = (name) => ({
      paths: () => null,
      // The colours are #rrggbb; points that lie over each other stay visible.
      points: { show: true, size: 6, space: 0, width: 0, fill: `${color(name)}99`, stroke: `${color(name)}99` },
    });
    const axes = makeAxes("tokens", null);
    axes[0].label = "tokens of the response";
    axes[0].labelSize = 20;
    axes[0].labelFont = "12px system-ui";
    const options = {
      width: Math.max(200, this.place.clientWidth),
      height: POINTS_HEIGHT,
      series: [{}, dots("right"), dots("wrong")],
      scales: { x: { time: false } },
      axes,
      legend: { show: false },
      cursor: { x: false, y: false, points: { show: false }, drag: { x: false, y: false } },
    };
    this.plot = new uPlot(options, data, this.place);
  }

  open(event) {
    if (!this.plot) return;
    const box = this.plot.over.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    let nearest = null;
    let least = MAX_DISTANCE ** 2;
    for (const point of this.points) {
      const distance = (this.plot.valToPos(point[1], "x") - x) ** 2 + (this.plot.valToPos(point[2], "y") - y) ** 2;
      if (distance < least) [nearest, least] = [point[0], distance];
    }
    if (nearest !== null) this.onOpen(nearest);
  }

  fit() {
    const width = Math.max(200, this.place.clientWidth);
    if (this.plot && width !== this.plot.width) this.plot.setSize({ width, height: POINTS_HEIGHT });
  }

  forget() {
    this.plot?.destroy();
    this.plot = null;
  }
}
