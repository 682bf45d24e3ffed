"use strict";

// A report of one run or several. A curve is {step, time, value}; null stands for what is no number.

const data = JSON.parse(document.getElementById("data").textContent);
const runs = data.runs;
const several = runs.length > 1;
const byId = (id) => document.getElementById(id);
const tint = (i) => `var(--c${i % 8})`;
const KINDS = ["train", "start", "compile", "input", "evaluate", "checkpoint", "lost"];
const MEANS = {
  train: "steps that count", start: "start and restore", compile: "compiling", input: "waiting for data",
  evaluate: "evaluation", checkpoint: "saving", lost: "work done again",
};
const state = { axis: "step", smoothing: 0 };

// -------------------------------------------------------------------------------------- elements

function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  Object.assign(made, properties);
  made.append(...children.filter((child) => child !== null));
  return made;
}

function svg(name, attributes = {}, text = "") {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  return made;
}

function key(label, colour, value = null, block = false) {
  const mark = element("i", { className: block ? "block" : "" });
  mark.style.setProperty("--tint", colour);
  return element("span", { className: "key" }, mark, element("span", { textContent: label }), value === null ? null : element("span", { textContent: value }));
}

const badge = (run) => element("span", { className: `badge ${run.verdict}`, textContent: run.verdict, title: run.why });

// --------------------------------------------------------------------------------------- numbers

function figure(x) {
  if (x === null || x === undefined) return "–";
  if (x === 0 || Number.isInteger(x)) return x.toLocaleString("en");
  const size = Math.abs(x);
  if (size >= 1e7 || size < 1e-3) return x.toExponential(3).replace("e+", "e");
  return size >= 1000 ? Math.round(x).toLocaleString("en") : Number(x.toPrecision(5)).toString();
}
const percent = (share) => `${(100 * share).toFixed(share > 0 && share < 0.0995 ? 1 : 0)} %`;

function length(seconds) {
  for (const [size, unit, small, less] of [[86400, "d", 3600, "h"], [3600, "h", 60, "min"], [60, "min", 1, "s"]])
    if (seconds >= size) return `${Math.floor(seconds / size)} ${unit} ${Math.floor((seconds % size) / small)} ${less}`;
  return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
}

// Less than a core-day is said as time of cores.
function coreTime(days) {
  return days < 1 ? length(days * 86400) : `${figure(Number(days.toPrecision(4)))} core-days`;
}
const spentBy = (run) => Object.entries(run.spent.coreDays).map(([chip, days]) => [chip, coreTime(days)]);
const coreDays = (run) => spentBy(run).map(([chip, text]) => `${text} of ${chip}`).join(" + ") || "–";

function speed(run) {
  const name = Object.keys(run.curves).find((each) => each.endsWith("_per_second"));
  if (!name) return null;
  const known = run.curves[name].value.filter((x) => x !== null).slice(-10).sort((a, b) => a - b);
  return { unit: name.replace("_per_second", "/s"), value: known[Math.floor(known.length / 2)] };
}

// ---------------------------------------------------------------------------------------- charts

function origin(run) {
  const times = Object.values(run.curves).flatMap((curve) => curve.time.slice(0, 1)).filter((x) => x !== null);
  return Math.min(...run.starts.slice(0, 1), ...times);
}

function smooth(values, weight) {
  let [mean, mass] = [0, 0];
  return values.map((x) => {
    if (x === null) return null;
    mean = weight * mean + (1 - weight) * x;
    mass = weight * mass + 1 - weight;
    return mean / mass;
  });
}

function ticksOf(low, high, log) {
  if (log) {
    const decades = [];
    const factors = Math.log10(high / low) < 2 ? [1, 2, 5] : [1];
    for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++)
      for (const factor of factors) decades.push(factor * 10 ** power);
    const inside = decades.filter((x) => x >= low * 0.999 && x <= high * 1.001);
    const every = Math.ceil(inside.length / 6);
    return inside.filter((_, i) => i % every === 0);
  }
  const rough = (high - low) / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((x) => x * power).find((x) => x >= rough * 0.999);
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) found.push(Number((i * step).toPrecision(12)));
  return found;
}

const short = (x) => (Math.abs(x) >= 1e4 || (x !== 0 && Math.abs(x) < 1e-3) ? x.toExponential().replace("e+", "e") : String(x));
const count = (x) => (x >= 1e6 ? `${x / 1e6}M` : x >= 1e4 ? `${x / 1e3}k` : String(x));

const [WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM] = [420, 200, 48, 10, 8, 24];

// Series are {label, run, colour, curve, dashed, smoothed, dots}; lines are drawn of what is finite.
class Chart {
  constructor(title, series, options = {}) {
    Object.assign(this, { title, series, options, log: false, at: null });
    this.keys = element("span", { className: "keys" });
    if (series.length > 1 && !several) for (const one of series) this.keys.append(key(one.label, one.colour));
    this.toggle = element("button", { textContent: "Log", title: "Logarithmic scale", ariaPressed: "false" });
    this.toggle.addEventListener("click", () => {
      this.log = !this.log;
      this.toggle.setAttribute("aria-pressed", this.log);
      this.draw();
    });
    this.plot = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", tabindex: 0, "aria-label": title });
    this.tip = element("div", { className: "tip", hidden: true });
    const top = element("div", { className: "top" }, element("h3", { textContent: title }), this.toggle);
    this.card = element("div", { className: "card chart" }, top, this.keys, this.plot, this.tip);
    this.card.dataset.name = title;
    this.plot.addEventListener("pointermove", (event) => this.point(event));
    this.plot.addEventListener("pointerleave", () => this.show(null));
    this.plot.addEventListener("blur", () => this.show(null));
    this.plot.addEventListener("keydown", (event) => this.step(event));
    this.draw();
  }

  // What is drawn of a series: x, the raw values, and those of the line.
  points(one) {
    const { step, time, value } = one.curve;
    const began = one.run ? origin(one.run) : 0;
    const x = state.axis === "step" || !time ? step : time.map((t) => (t === null ? null : (t - began) / 3600));
    const weight = one.smoothed ? state.smoothing / 100 : 0;
    return { x, raw: value, line: weight ? smooth(value, weight) : value, smoothed: weight > 0 };
  }

  scale(drawn) {
    const usable = (y) => y !== null && (!this.log || y > 0);
    const xs = drawn.flatMap((one) => one.x.filter((x) => x !== null));
    const ys = drawn.flatMap((one) => one.raw.filter(usable));
    if (this.options.planned && state.axis === "step") {
      xs.push(this.options.planned.step);
      if (usable(this.options.planned.value)) ys.push(this.options.planned.value);
    }
    if (!xs.length || !ys.length) return null;
    let [low, high] = [ys.reduce((a, b) => Math.min(a, b)), ys.reduce((a, b) => Math.max(a, b))];
    if (this.options.zero && !this.log) low = Math.min(low, 0);
    if (low === high) [low, high] = this.log ? [low / 2, high * 2] : low === 0 ? [0, 1] : [low - Math.abs(low) / 10, high + Math.abs(high) / 10];
    const pad = this.log ? 0 : (high - low) * 0.05;
    [low, high] = [low - (this.options.zero && low === 0 ? 0 : pad), high + pad];
    const first = xs.reduce((a, b) => Math.min(a, b), 0);
    const last = xs.reduce((a, b) => Math.max(a, b));
    const turn = this.log ? Math.log : (y) => y;
    const span = turn(high) - turn(low) || 1;
    return {
      low, high, first, last,
      x: (x) => LEFT + ((WIDTH - LEFT - RIGHT) * (x - first)) / (last - first || 1),
      y: (y) => (usable(y) ? TOP + (HEIGHT - TOP - BOTTOM) * (1 - (turn(y) - turn(low)) / span) : null),
    };
  }

  draw() {
    this.plot.replaceChildren();
    if (this.plannedKey) this.plannedKey.hidden = state.axis !== "step";
    this.drawn = this.series.map((one) => this.points(one));
    const scale = (this.scaling = this.scale(this.drawn));
    if (!scale) {
      const why = this.log ? "nothing above zero" : "nothing that is a number";
      this.plot.append(svg("text", { x: WIDTH / 2, y: HEIGHT / 2, "text-anchor": "middle" }, why));
      return;
    }
    for (const tick of ticksOf(scale.low, scale.high, this.log)) {
      const y = scale.y(tick);
      this.plot.append(svg("line", { x1: LEFT, x2: WIDTH - RIGHT, y1: y, y2: y, class: "rule" }));
      this.plot.append(svg("text", { x: LEFT - 7, y: y + 4, "text-anchor": "end" }, this.options.share ? percent(tick) : short(tick)));
    }
    const ticks = scale.last > scale.first ? ticksOf(scale.first, scale.last, false) : [scale.first];
    for (const tick of ticks)
      this.plot.append(svg("text", { x: scale.x(tick), y: HEIGHT - 8, "text-anchor": scale.x(tick) > WIDTH - 30 ? "end" : "middle" }, state.axis === "step" ? count(tick) : `${tick} h`));
    this.restarts(scale);
    if (this.options.planned && state.axis === "step") {
      const { step, value } = this.options.planned;
      const ends = [[0, this.log ? null : 0], [step, value]].filter(([, y]) => scale.y(y) !== null);
      this.plot.append(svg("polyline", { class: "planned", points: ends.map(([x, y]) => `${scale.x(x)},${scale.y(y)}`).join(" ") }));
    }
    this.series.forEach((one, i) => this.line(one, this.drawn[i], scale));
    this.cursor = svg("g");
    this.plot.append(this.cursor);
  }

  line(one, drawn, scale) {
    const path = (values) => {
      let [text, pen] = ["", "M"];
      values.forEach((y, i) => {
        const place = drawn.x[i] === null ? null : scale.y(y);
        if (place === null) return void (pen = "M");
        text += `${pen}${scale.x(drawn.x[i]).toFixed(1)} ${place.toFixed(1)}`;
        pen = "L";
      });
      return text;
    };
    const add = (values, kind) => {
      const made = svg("path", { d: path(values), class: `line ${kind}` });
      made.style.setProperty("--tint", one.colour);
      this.plot.append(made);
    };
    if (drawn.smoothed) add(drawn.raw, "raw");
    add(drawn.line, one.dashed ? "dashed" : "");
    drawn.raw.forEach((y, i) => {
      if (drawn.x[i] === null) return;
      const x = scale.x(drawn.x[i]);
      if (y === null) this.plot.append(svg("line", { x1: x, x2: x, y1: HEIGHT - BOTTOM - 8, y2: HEIGHT - BOTTOM, class: "bad" }));
      else if ((one.dots || drawn.raw.length === 1) && drawn.raw.length <= 60 && scale.y(y) !== null) {
        const dot = svg("circle", { cx: x, cy: scale.y(y), r: 3, class: "dot" });
        dot.style.setProperty("--tint", one.colour);
        this.plot.append(dot);
      }
    });
  }

  restarts(scale) {
    if (several) return;
    const longest = this.series.reduce((a, b) => (a.curve.step.length >= b.curve.step.length ? a : b)).curve;
    for (const start of runs[0].starts.slice(1)) {
      const next = longest.time ? longest.time.findIndex((t) => t !== null && t > start) : -1;
      if (next < 0) continue;
      const x = state.axis === "step" ? longest.step[Math.max(next - 1, 0)] : (start - origin(runs[0])) / 3600;
      const mark = svg("line", { x1: scale.x(x), x2: scale.x(x), y1: TOP, y2: HEIGHT - BOTTOM, class: "restart" });
      mark.append(svg("title", {}, "The run was started again"));
      this.plot.append(mark);
    }
  }

  point(event) {
    if (!this.scaling) return;
    const box = this.plot.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * WIDTH;
    const places = [...new Set(this.drawn.flatMap((one) => one.x))].filter((at) => at !== null);
    this.show(places.reduce((a, b) => (Math.abs(this.scaling.x(b) - x) < Math.abs(this.scaling.x(a) - x) ? b : a), places[0]));
  }

  step(event) {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by || !this.scaling) return;
    event.preventDefault();
    const places = [...new Set(this.drawn.flatMap((one) => one.x))].filter((at) => at !== null).sort((a, b) => a - b);
    const now = this.at === null ? (by > 0 ? -1 : places.length) : places.indexOf(this.at);
    this.show(places[Math.min(Math.max(now + by, 0), places.length - 1)]);
  }

  // The values at (or last before) a place on the horizontal axis.
  show(at) {
    this.at = at;
    this.tip.hidden = at === null;
    if (!this.cursor) return;
    this.cursor.replaceChildren();
    if (at === null) return;
    const { x, y } = this.scaling;
    this.cursor.append(svg("line", { x1: x(at), x2: x(at), y1: TOP, y2: HEIGHT - BOTTOM, class: "cursor" }));
    this.tip.replaceChildren(element("b", { textContent: state.axis === "step" ? `Step ${figure(at)}` : `${figure(Number(at.toPrecision(4)))} hours` }));
    this.series.forEach((one, i) => {
      const drawn = this.drawn[i];
      const last = drawn.x.findLastIndex((place) => place !== null && place <= at);
      if (last < 0) return;
      const value = drawn.raw[last];
      const text = value === null ? "not a number" : this.options.share ? percent(value) : figure(value);
      this.tip.append(key(one.label, one.colour, text));
      if (value === null || y(value) === null) return;
      const dot = svg("circle", { cx: x(drawn.x[last]), cy: y(value), r: 4, class: "dot" });
      dot.style.setProperty("--tint", one.colour);
      this.cursor.append(dot);
    });
    const [box, card] = [this.plot.getBoundingClientRect(), this.card.getBoundingClientRect()];
    const [left, wide] = [box.left - card.left + (x(at) / WIDTH) * box.width, this.tip.offsetWidth];
    this.tip.style.left = `${left + 12 + wide > card.width ? Math.max(left - wide - 12, 4) : left + 12}px`;
    this.tip.style.top = `${box.top - card.top + 6}px`;
  }
}

// ------------------------------------------------------------------------------- which are drawn

const OPERATION = /_per_second|^eta_seconds$|^share_|^goodput$|^core_days\/|^(unreadable_examples|skipped_updates)$/;

function seriesOf(names, labelOf) {
  const found = names.flatMap((name) => runs.map((run, i) => ({ name, run, i })).filter(({ run }) => name in run.curves));
  return found.map(({ name, run, i }, n) => ({
    label: several ? `${run.name}${names.length > 1 ? ` ${labelOf(name)}` : ""}` : labelOf(name),
    run,
    colour: tint(several ? i : n),
    curve: run.curves[name],
    dashed: several && name.includes("/"),
    dots: name.includes("/"),
    smoothed: !name.includes("/") && !OPERATION.test(name) && name !== "learning_rate",
  }));
}

function buildCurves() {
  const all = [...new Set(runs.flatMap((run) => Object.keys(run.curves)))];
  const learned = all.filter((name) => !OPERATION.test(name) && !name.endsWith("/examples"));
  const metric = (name) => name.split("/").pop();
  const rank = (name) => (name === "loss" ? 0 : name === "learning_rate" ? 2 : 1);
  const evaluated = (name) => learned.some((each) => metric(each) === name && each.includes("/"));
  const groups = [...new Set(learned.map(metric))].sort((a, b) => rank(a) - rank(b) || evaluated(b) - evaluated(a) || a.localeCompare(b));
  const charts = groups.map((group) => {
    const names = learned.filter((name) => metric(name) === group).sort((a, b) => a.includes("/") - b.includes("/"));
    const label = (name) => (name.includes("/") ? name.slice(0, name.lastIndexOf("/")) : "training");
    return new Chart(group.replaceAll("_", " "), seriesOf(names, label));
  });
  byId("curves").append(...charts.map((chart) => chart.card));
  if (!charts.length) byId("curves").append(element("p", { className: "faint", textContent: "Nothing is logged yet." }));
  return charts;
}

function buildCosts() {
  const all = [...new Set(runs.flatMap((run) => Object.keys(run.curves)))];
  const charts = [];
  if (runs.some((run) => run.budget.step.length > 1)) {
    const one = runs[0];
    const planned = !several && one.budget.planned && one.total ? { step: one.total, value: one.budget.planned } : null;
    const units = [...new Set(runs.map((run) => run.budget.unit))];
    // A short run is not said in days.
    const small = units.join() === "core-days" && Math.max(...runs.flatMap((run) => run.budget.spent)) < 0.1;
    const spent = runs.map((run, i) => {
      const value = run.budget.spent.map((x) => (small ? Number((x * 86400).toPrecision(6)) : x));
      return { label: several ? run.name : "spent", run, colour: tint(i), curve: { step: run.budget.step, time: run.budget.time, value } };
    });
    const chart = new Chart(`spent, ${small ? "core-seconds" : units.join(" or ")}`, spent, { zero: true, planned });
    if (planned) chart.keys.append(key("spent", tint(0)), (chart.plannedKey = key(`planned: ${one.budgetText}`, "var(--faint)")));
    charts.push(chart);
  }
  for (const name of all.filter((each) => each.includes("_per_second"))) charts.push(new Chart(name.replaceAll("_", " "), seriesOf([name], () => "training"), { zero: true }));
  const shares = all.filter((name) => name === "goodput" || name.startsWith("share_"));
  if (several) shares.splice(0, shares.length, ...shares.filter((name) => name === "goodput"));
  if (shares.length) {
    const title = several ? "goodput" : "goodput, and shares of the process's time";
    charts.push(new Chart(title, seriesOf(shares, (name) => name.replace("share_", "")), { zero: true, share: true }));
  }
  for (const name of all.filter((each) => /^(eta_seconds|unreadable_examples|skipped_updates)$/.test(each))) charts.push(new Chart(name.replaceAll("_", " "), seriesOf([name], () => name.replaceAll("_", " ")), { zero: true }));
  byId("costs").append(...charts.map((chart) => chart.card));
  return charts;
}

// ---------------------------------------------------------------------------------- other pieces

function fact(label, value, detail = "", share = null) {
  const card = element("div", { className: "card" }, element("span", { className: "faint small", textContent: label }), element("b", { textContent: value }));
  if (detail) card.append(element("span", { className: "faint small", textContent: detail }));
  if (share !== null) {
    const bar = element("span");
    bar.style.width = `${Math.min(100 * share, 100)}%`;
    card.append(element("div", { className: `meter ${share > 1 ? "over" : ""}` }, bar));
  }
  return card;
}

function buildFacts(run) {
  const facts = [];
  const lost = Object.values(run.spent.chips).reduce((sum, kinds) => sum + (kinds.lost || 0), 0);
  const share = run.total ? run.step / run.total : null;
  facts.push(fact("Steps", figure(run.step), run.total ? `of ${figure(run.total)} (${percent(share)})` : "", share));
  if (run.spent.goodput !== null) facts.push(fact("Goodput", percent(run.spent.goodput), "of the core-seconds went into steps that count", run.spent.goodput));
  facts.push(fact("Core time", spentBy(run).map(([, text]) => text).join(" + ") || "–", `of ${Object.keys(run.spent.chips).join(" + ") || "nothing"}, in ${length(run.spent.hours * 3600)}`));
  if (run.budgetText) facts.push(fact("Budget", run.budgetShare === null ? "–" : percent(run.budgetShare), `of ${run.budgetText}`, run.budgetShare));
  const rate = speed(run);
  if (rate) facts.push(fact("Throughput", figure(Number(rate.value.toPrecision(4))), `${rate.unit}, lately`));
  facts.push(fact("Restarts", figure(run.restarts), lost ? `${length(lost)} of core time done again` : "nothing done again"));
  byId("facts").append(...facts);
}

function table(heads, lines, numbers = []) {
  const cell = (kind, content, i) => element(kind, { className: numbers.includes(i) ? "number" : "" }, ...(Array.isArray(content) ? content : [content ?? "–"]));
  return element("table", {}, element("thead", {}, element("tr", {}, ...heads.map((head, i) => cell("th", head, i)))), element("tbody", {}, ...lines.map((line) => element("tr", {}, ...line.map((content, i) => cell("td", content, i))))));
}

function buildRuns() {
  const lines = runs.map((run, i) => {
    const rate = speed(run);
    return [[key(run.name, tint(i))], [badge(run)], run.total ? `${figure(run.step)} of ${figure(run.total)}` : figure(run.step), coreDays(run), length(run.spent.hours * 3600), run.spent.goodput === null ? "–" : percent(run.spent.goodput), rate ? `${figure(Number(rate.value.toPrecision(4)))} ${rate.unit}` : "–", figure(run.restarts)];
  });
  byId("runs").append(table(["Run", "", "Steps", "Core time", "Time", "Goodput", "Throughput", "Restarts"], lines, [2, 3, 4, 5, 6, 7]));
}

function buildGoodput() {
  const stack = element("div", { className: "stack" });
  const colours = Object.fromEntries(KINDS.map((kind, i) => [kind, tint([2, 0, 3, 4, 6, 7, 1][i])]));
  const totals = {};
  for (const run of runs)
    for (const [chip, kinds] of Object.entries(run.spent.chips)) {
      const all = Object.values(kinds).reduce((a, b) => a + b, 0);
      const track = element("div", { className: "track" });
      for (const kind of KINDS.filter((each) => each in kinds)) {
        const part = element("span", { title: `${MEANS[kind]}: ${coreTime(kinds[kind] / 86400)}, ${percent(kinds[kind] / all)}` });
        part.style.flexGrow = kinds[kind];
        part.style.setProperty("--tint", colours[kind]);
        part.dataset.kind = kind;
        track.append(part);
        totals[kind] = (totals[kind] || 0) + kinds[kind];
      }
      stack.append(element("span", { textContent: several ? `${run.name} (${chip})` : chip }), track);
    }
  const everything = Object.values(totals).reduce((a, b) => a + b, 0);
  byId("goodput").append(element("h3", { textContent: "What the core-seconds went to" }), element("p", { className: "small faint", textContent: several ? "Of all processes of each run, by chip." : "Of all processes of the run, by chip." }));
  if (!everything) return void byId("goodput").append(element("p", { className: "faint", textContent: "There is no ledger yet." }));
  const parts = KINDS.filter((kind) => kind in totals).map((kind) => key(`${MEANS[kind]} ${percent(totals[kind] / everything)}${several ? "" : ` (${coreTime(totals[kind] / 86400)})`}`, colours[kind], null, true));
  byId("goodput").append(stack, element("div", { className: "parts small" }, ...parts));
}

function buildResults() {
  const lines = runs.flatMap((run) => run.records.map((record) => ({ run, record })));
  if (!lines.length) return void byId("results").append(element("p", { className: "faint", textContent: "No evaluation has been recorded." }));
  const metrics = [...new Set(lines.flatMap(({ record }) => Object.keys(record.metrics)))];
  const heads = [...(several ? ["Run"] : []), "Split", "Data", "Step", ...metrics.map((name) => name.replaceAll("_", " ")), "Examples", "Program", "Time (UTC)"];
  const from = several ? 3 : 2;
  const numbers = Array.from({ length: metrics.length + 2 }, (_, i) => from + i);
  byId("results").append(table(heads, lines.map(({ run, record }) => [...(several ? [run.name] : []), record.split, record.data || "–", `${figure(record.step)}${record.finished ? "" : " (not the end)"}`, ...metrics.map((name) => figure(record.metrics[name])), figure(record.examples), record.program, record.time]), numbers));
}

function buildMachine() {
  const words = (object) => Object.entries(object).map(([name, value]) => `${name} ${value}`).join(", ") || "–";
  const lines = runs.map((run) => [...(several ? [run.name] : []), Object.keys(run.spent.chips).join(", ") || "–", run.devices.count ? `${run.devices.count} × ${run.devices.kind} (${run.devices.platform}), ${run.devices.processes} process${run.devices.processes > 1 ? "es" : ""}` : "–", [element("code", { textContent: run.commit || "–" })], words(run.versions), [element("code", { textContent: run.workdir })]]);
  byId("machine").append(table([...(several ? ["Run"] : []), "Chips", "Devices of the last evaluation", "Commit", "Versions", "Directory"], lines));
}

// ---------------------------------------------------------------------------------------- config

function branch(name, value, path) {
  const label = element("span", { className: "name", textContent: name });
  const inside = value !== null && typeof value === "object" && !(Array.isArray(value) && value.every((each) => each === null || typeof each !== "object"));
  if (!inside || !Object.keys(value).length) {
    const leaf = element("div", { className: "leaf" }, element("code", {}, label, ` = ${JSON.stringify(value)}`));
    leaf.dataset.text = `${path} ${JSON.stringify(value)}`.toLowerCase();
    return leaf;
  }
  const children = Object.entries(value).map(([child, item]) => branch(child, item, `${path}.${child}`));
  return element("details", { open: path.split(".").length < 2 }, element("summary", {}, element("code", {}, label)), ...children);
}

function buildConfig() {
  const select = byId("which");
  select.append(...runs.map((run, i) => element("option", { value: i, textContent: run.name })));
  select.hidden = !several;
  const search = byId("search");
  const show = () => {
    const config = runs[+select.value || 0].config;
    byId("config").replaceChildren(...Object.entries(config).map(([name, value]) => branch(name, value, name)));
    if (!Object.keys(config).length) byId("config").append(element("p", { className: "faint", textContent: "There is no config.json yet." }));
    filter();
  };
  const filter = () => {
    const wanted = search.value.trim().toLowerCase();
    let hits = 0;
    for (const leaf of byId("config").querySelectorAll(".leaf")) {
      const hit = leaf.dataset.text.includes(wanted);
      leaf.hidden = !hit;
      leaf.classList.toggle("hit", hit && wanted !== "");
      hits += hit;
    }
    for (const group of byId("config").querySelectorAll("details")) {
      group.hidden = !group.querySelector(".leaf:not([hidden])");
      if (wanted) group.open = true;
    }
    byId("found").textContent = wanted ? `${hits} found` : "";
  };
  select.addEventListener("change", show);
  search.addEventListener("input", filter);
  byId("unfold").addEventListener("click", () => {
    const groups = [...byId("config").querySelectorAll("details")];
    const open = groups.some((group) => !group.open);
    groups.forEach((group) => (group.open = open));
    byId("unfold").textContent = open ? "Fold all" : "Unfold all";
  });
  for (const { name, lines } of data.differences) {
    byId("differences").append(element("h3", { textContent: `${name} differs from ${runs[0].name}` }));
    const texts = lines.length ? lines : ["in nothing"];
    byId("differences").append(...texts.map((line) => element("div", {}, element("code", { textContent: line }))));
  }
  show();
}

// ----------------------------------------------------------------------------------------- start

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  byId("theme").textContent = theme === "dark" ? "Light" : "Dark";
}

function start() {
  setTheme(matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  byId("theme").addEventListener("click", () => setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"));
  byId("title").append(several ? `${runs.length} runs` : runs[0].name, ...(several ? [] : [badge(runs[0])]));
  byId("why").textContent = several ? "" : runs[0].why;
  byId("runs").hidden = !several;
  if (several) buildRuns();
  else buildFacts(runs[0]);
  byId("notes").append(...runs.flatMap((run) => run.notes.map((note) => element("li", { textContent: several ? `${run.name}: ${note}` : note }))));
  byId("made").textContent = `Made on ${data.made}.`;
  if (several) byId("legend").append(...runs.map((run, i) => key(run.name, tint(i))), element("span", { className: "faint small", textContent: "dashes and dots: evaluation" }));
  buildGoodput();
  buildResults();
  buildConfig();
  buildMachine();
  const charts = [...buildCurves(), ...buildCosts()];
  const choose = (change) => {
    Object.assign(state, change);
    for (const button of document.querySelectorAll("[data-axis]")) button.setAttribute("aria-pressed", button.dataset.axis === state.axis);
    byId("amount").textContent = state.smoothing ? `${state.smoothing} %` : "off";
    charts.forEach((chart) => chart.draw());
  };
  for (const button of document.querySelectorAll("[data-axis]")) button.addEventListener("click", () => choose({ axis: button.dataset.axis }));
  byId("smoothing").addEventListener("input", () => choose({ smoothing: +byId("smoothing").value }));
  choose({});
}

start();
