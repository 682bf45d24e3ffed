"use strict";

// Attention of one picture. Tokens are numbered as in the model: the class token first, where there
// is one, then the patches row by row. A query of -1 is the token that the model reads.

const data = JSON.parse(document.getElementById("data").textContent);
const packed = data.attention;
const [rows, columns] = data.grid;
const first = data.classToken ? 1 : 0;
const byId = (id) => document.getElementById(id);
const wholeName = data.classToken ? "class token" : "mean of all tokens";

const state = {
  layer: packed.depth - 1,
  head: 0,
  view: "mean", // "head", "mean" or "rollout"
  query: -1,
  patch: null, // the patch that was clicked last
  overlay: "heat",
};

// ---------------------------------------------------------------------------------- unpacking

async function inflate(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).arrayBuffer();
}

// Rows of weights: shares of the largest weight of each row.
async function unpack(rowsOf, Kind) {
  const shares = new Kind(await inflate(rowsOf.weights));
  const largest = new Float32Array(await inflate(rowsOf.largest));
  const whole = Kind === Uint8Array ? 255 : 65535;
  const n = packed.tokens;
  return (index) => {
    const row = new Float32Array(n);
    for (let i = 0; i < n; i++) row[i] = (shares[index * n + i] / whole) * largest[index];
    return row;
  };
}

const opened = new Map();
function open(group, layer) {
  const key = `${group} ${layer}`;
  if (!opened.has(key)) opened.set(key, unpack(packed[group][layer], Uint8Array));
  return opened.get(key);
}

let summary, rollout; // rows of the token that the model reads
const picture = new Image();

// ------------------------------------------------------------------------------- which weights

function average(vectors) {
  const mean = new Float32Array(packed.tokens);
  for (const vector of vectors) vector.forEach((x, i) => (mean[i] += x / vectors.length));
  return mean;
}

const headRows = (layer) =>
  Array.from({ length: packed.heads }, (_, head) => summary(layer * packed.heads + head));

async function rolledFrom(token, layer) {
  let share = new Float32Array(packed.tokens);
  share[token] = 1;
  for (let i = layer; i >= 0; i--) {
    const row = await open("mean", i);
    const next = share.map((x) => x / 2);
    share.forEach((x, query) => {
      if (x > 0) row(query).forEach((weight, key) => (next[key] += (x * weight) / 2));
    });
    share = next;
  }
  return share;
}

// The weights of all tokens, and what has to be said of them.
async function weights(view, layer, head, query) {
  const n = packed.tokens;
  if (view === "rollout") {
    if (query < 0) return { row: rollout(layer) };
    if (Object.keys(packed.mean).length === packed.depth)
      return { row: await rolledFrom(query, layer) };
    return { row: rollout(layer), note: `Rollout from a patch is not in this page; shown is that of the ${wholeName}.` };
  }
  if (query < 0)
    return { row: view === "head" ? summary(layer * packed.heads + head) : average(headRows(layer)) };
  if (view === "head" && layer in packed.full)
    return { row: (await open("full", layer))(head * n + query) };
  if (layer in packed.mean) {
    const note = view === "head" && `Patches of single heads of layer ${layer + 1} are not in this page; shown is the mean of the heads.`;
    return { row: (await open("mean", layer))(query), note };
  }
  return { row: (await weights(view, layer, head, -1)).row, note: `Patches of layer ${layer + 1} are not in this page; shown is the ${wholeName}.` };
}

// -------------------------------------------------------------------------------------- drawing

const INFERNO = ["#000004", "#1b0c41", "#4a0c6b", "#781c6d", "#a52c60", "#cf4446", "#ed6925", "#fb9b06", "#f7d13d", "#fcffa4"];
const BLUES = ["#e8f1fb", "#c3dcf5", "#94c1ec", "#5f9fdf", "#3279c8", "#1c559e", "#123a70"];

function colour(ramp, share) {
  const at = Math.min(Math.max(share, 0), 1) * (ramp.length - 1);
  const low = Math.min(Math.floor(at), ramp.length - 2);
  return [1, 3, 5].map((i) => {
    const [a, b] = [low, low + 1].map((k) => parseInt(ramp[k].slice(i, i + 2), 16));
    return Math.round(a + (b - a) * (at - low));
  });
}

const gradient = (ramp) => `linear-gradient(to right, ${ramp.join(",")})`;
const most = (row) => row.subarray(first).reduce((a, b) => Math.max(a, b), 0);

// The picture under the weights of its patches, which the largest of them scales.
function draw(canvas, row, options) {
  const context = canvas.getContext("2d");
  const { width, height } = canvas;
  context.clearRect(0, 0, width, height);
  context.imageSmoothingEnabled = !data.pixelated;
  context.drawImage(picture, 0, 0, width, height);
  if (options.overlay === "off") return;
  const map = new ImageData(columns, rows);
  const largest = most(row) || 1;
  for (let i = 0; i < rows * columns; i++) {
    const share = row[first + i] / largest;
    const heat = options.overlay === "heat";
    const [r, g, b] = heat ? colour(INFERNO, 0.12 + 0.88 * share) : [0, 0, 0];
    const alpha = heat ? 0.25 + 0.75 * Math.sqrt(share) : 1 - share;
    map.data.set([r, g, b, 255 * alpha * options.strength], 4 * i);
  }
  const small = document.createElement("canvas");
  [small.width, small.height] = [columns, rows];
  small.getContext("2d").putImageData(map, 0, 0);
  context.imageSmoothingEnabled = options.smooth;
  context.imageSmoothingQuality = "high";
  if (!options.smooth) return void context.drawImage(small, 0, 0, width, height);
  // Patches are known at their centres: without a margin the edges would be drawn too faint.
  const wide = document.createElement("canvas");
  [wide.width, wide.height] = [columns + 2, rows + 2];
  const margin = wide.getContext("2d");
  margin.imageSmoothingEnabled = false;
  for (const [x, y] of [[0, 0], [2, 0], [0, 2], [2, 2], [1, 0], [0, 1], [2, 1], [1, 2]])
    margin.drawImage(small, x, y);
  margin.clearRect(1, 1, columns, rows);
  margin.drawImage(small, 1, 1);
  context.drawImage(wide, -width / columns, -height / rows, (width * (columns + 2)) / columns, (height * (rows + 2)) / rows);
}

function outline(canvas, patch) {
  const context = canvas.getContext("2d");
  const [w, h] = [canvas.width / columns, canvas.height / rows];
  const [x, y] = [(patch % columns) * w, Math.floor(patch / columns) * h];
  for (const [style, line] of [["#000", 6], ["#fff", 3]]) {
    context.strokeStyle = style;
    context.lineWidth = line;
    context.strokeRect(x, y, w, h);
  }
}

const overlay = () => ({
  overlay: state.overlay,
  strength: byId("strength").value / 100,
  smooth: byId("smooth").checked,
});
const percent = (x) => `${(100 * x).toPrecision(x < 0.0995 ? 2 : 3)} %`;
const pixels = (x) => `${x.toFixed(x < 20 ? 1 : 0)} px`;
const place = (patch) => `row ${Math.floor(patch / columns) + 1}, column ${(patch % columns) + 1}`;

let shown = null; // the weights on the stage
let turn = 0;

async function render() {
  const mine = ++turn;
  const { layer, head, view, query } = state;
  const { row, note } = await weights(view, layer, head, query);
  const asks = layer in packed.full || query < 0 ? query : -1;
  const heads = await Promise.all(
    Array.from({ length: packed.heads }, (_, i) => weights("head", layer, i, asks)),
  );
  if (mine !== turn) return; // something else has been chosen meanwhile
  shown = row;
  draw(byId("stage"), row, overlay());
  if (query >= 0) outline(byId("stage"), query - first);

  const what = { head: `head ${head + 1}`, mean: `mean of ${packed.heads} heads`, rollout: "rollout" }[view];
  const who = query < 0 ? `from the ${wholeName}` : `from the patch in ${place(query - first)}`;
  const upTo = view === "rollout" ? "Up to layer" : "Layer";
  const own = first ? ` · ${percent(row[0])} on ${query < 0 ? "itself" : "the class token"}` : "";
  byId("caption").textContent = `${upTo} ${layer + 1} of ${packed.depth} · ${what} · ${who}${own}`;
  byId("note").textContent = note || "";
  byId("most").textContent = `${percent(most(row))} a patch`;
  byId("stage").setAttribute("aria-label", `${data.title}, ${byId("caption").textContent}`);

  for (const [name, value] of [["view", view], ["overlay", state.overlay], ["query", query < 0 ? "whole" : "patch"]])
    for (const button of document.querySelectorAll(`[data-${name}]`))
      button.setAttribute("aria-pressed", button.dataset[name] === value);
  byId("patch").textContent = state.patch === null ? "Click a patch" : `Patch ${place(state.patch)}`;
  byId("patch").disabled = state.patch === null;
  for (const button of byId("matrix").querySelectorAll("button")) {
    const chosen = +button.dataset.layer === layer && (view === "head" ? button.dataset.head === String(head) : button.dataset.head === "mean");
    button.setAttribute("aria-pressed", chosen);
    button.tabIndex = chosen ? 0 : -1;
  }
  const from = asks === query ? who : `from the ${wholeName}`;
  byId("heading").textContent = `All heads of layer ${layer + 1}, ${from}`;
  [...byId("heads").children].forEach((button, i) => {
    button.setAttribute("aria-pressed", view === "head" && i === head);
    const canvas = button.querySelector("canvas");
    draw(canvas, heads[i].row, { overlay: state.overlay === "off" ? "heat" : state.overlay, strength: overlay().strength, smooth: overlay().smooth });
    button.querySelector("small").textContent = `${pixels(packed.distances[layer][i])}`;
  });
  for (const dot of byId("distances").querySelectorAll("circle"))
    dot.classList.toggle("chosen", +dot.dataset.layer === layer && (view !== "head" || +dot.dataset.head === head));
}

function choose(change) {
  Object.assign(state, change);
  return render();
}

// -------------------------------------------------------------------------------------- building

function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  Object.assign(made, properties);
  made.append(...children);
  return made;
}

function buildPredictions() {
  byId("predictions").hidden = !data.predictions.length;
  const largest = data.loss === "softmax" ? 1 : Math.max(...data.predictions.map((one) => one.probability), 1e-9);
  for (const one of data.predictions) {
    const bar = element("span");
    bar.style.width = `${(100 * one.probability) / largest}%`;
    byId("bars").append(
      element(
        "div",
        { className: "bet", title: `${one.all} (class ${one.class})` },
        element("span", { className: "name", textContent: one.name }),
        element("span", { className: "odds", textContent: `${(100 * one.probability).toFixed(1)} %` }),
        element("span", { className: "track" }, bar),
      ),
    );
  }
  const apart = data.loss === "sigmoid" ? " Classes do not exclude each other." : "";
  byId("names").textContent = `Class names: ${data.namesFrom}.${apart}`;
}

function buildMatrix() {
  const all = packed.distances.flat();
  const [low, high] = [Math.min(...all), Math.max(...all)];
  const grid = byId("matrix");
  grid.style.gridTemplateColumns = `24px 40px repeat(${packed.heads}, minmax(0, 1fr))`;
  grid.style.setProperty("--cell", packed.depth > 16 ? "12px" : packed.depth > 8 ? "20px" : "26px");
  grid.append(element("span"), element("span", { textContent: "mean" }));
  for (let head = 0; head < packed.heads; head++) grid.append(element("span", { textContent: head + 1 }));
  packed.distances.forEach((heads, layer) => {
    grid.append(element("span", { textContent: layer + 1 }));
    ["mean", ...heads.keys()].forEach((head) => {
      const mean = head === "mean";
      const title = mean ? `Layer ${layer + 1}, mean of heads` : `Layer ${layer + 1}, head ${head + 1}: ${pixels(heads[head])}`;
      const button = element("button", { title, ariaLabel: title });
      [button.dataset.layer, button.dataset.head] = [layer, head];
      const distance = mean ? heads.reduce((a, b) => a + b) / heads.length : heads[head];
      button.style.background = `rgb(${colour(BLUES, (distance - low) / (high - low || 1))})`;
      button.addEventListener("click", () => choose(mean ? { layer, view: state.view === "rollout" ? "rollout" : "mean" } : { layer, head, view: "head" }));
      grid.append(button);
    });
  });
  const ramp = element("i");
  ramp.style.background = gradient(BLUES);
  byId("legend").append("Colour: how far a head looks, ", pixels(low), ramp, pixels(high));
}

function buildHeads() {
  // Whole lines of no more than twelve.
  const lines = Math.ceil(packed.heads / 12);
  byId("heads").style.setProperty("--columns", Math.max(Math.ceil(packed.heads / lines), 8));
  const aspect = picture.naturalHeight / picture.naturalWidth;
  for (let head = 0; head < packed.heads; head++) {
    const canvas = element("canvas", { width: 220, height: Math.round(220 * aspect) });
    const button = element("button", {}, canvas, `Head ${head + 1} `, element("small"));
    button.addEventListener("click", () => choose({ head, view: "head" }));
    byId("heads").append(button);
  }
}

function svg(name, attributes, text = "") {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  return made;
}

function buildDistances() {
  const [width, height, left, bottom] = [1000, 230, 44, 34];
  const highest = Math.max(...packed.distances.flat()) * 1.08 || 1;
  const x = (layer) => left + ((width - left - 12) * (layer + 0.5)) / packed.depth;
  const y = (distance) => (height - bottom) * (1 - distance / highest) + 6;
  const plot = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "Mean attention distance by layer" });
  const step = [1, 2, 5, 10, 20, 25, 50, 100, 200, 500].find((size) => highest / size <= 5) || 1000;
  for (let tick = 0; tick <= highest; tick += step) {
    plot.append(svg("line", { x1: left, x2: width, y1: y(tick), y2: y(tick), class: "rule" }));
    plot.append(svg("text", { x: left - 8, y: y(tick) + 4, "text-anchor": "end" }, tick));
  }
  const every = Math.ceil(packed.depth / 16);
  packed.distances.forEach((heads, layer) => {
    if (layer % every === 0) plot.append(svg("text", { x: x(layer), y: height - 12, "text-anchor": "middle" }, layer + 1));
  });
  plot.append(svg("text", { x: left - 8, y: height - 12, "text-anchor": "end" }, "layer"));
  plot.append(svg("text", { x: left + 6, y: 12 }, "pixels"));
  const means = packed.distances.map((heads, layer) => `${x(layer)},${y(heads.reduce((a, b) => a + b) / heads.length)}`);
  plot.append(svg("polyline", { points: means.join(" ") }));
  packed.distances.forEach((heads, layer) =>
    heads.forEach((distance, head) => {
      const dot = svg("circle", { cx: x(layer), cy: y(distance), r: 4.5, "data-layer": layer, "data-head": head });
      dot.append(svg("title", {}, `Layer ${layer + 1}, head ${head + 1}: ${pixels(distance)}`));
      dot.addEventListener("click", () => choose({ layer, head, view: "head" }));
      plot.append(dot);
    }),
  );
  byId("distances").append(plot);
}

// ----------------------------------------------------------------------------------- interaction

function patchAt(event) {
  const box = byId("stage").getBoundingClientRect();
  // The canvas keeps its aspect ratio inside of its box.
  const scale = Math.min(box.width / byId("stage").width, box.height / byId("stage").height);
  const [w, h] = [byId("stage").width * scale, byId("stage").height * scale];
  const column = Math.floor(((event.clientX - box.left - (box.width - w) / 2) / w) * columns);
  const row = Math.floor(((event.clientY - box.top - (box.height - h) / 2) / h) * rows);
  return row >= 0 && row < rows && column >= 0 && column < columns ? row * columns + column : null;
}

const ask = (patch) => choose({ patch, query: first + patch });

function move(dy, dx) {
  const at = state.patch ?? Math.floor(rows / 2) * columns + Math.floor(columns / 2);
  const row = Math.min(Math.max(Math.floor(at / columns) + dy, 0), rows - 1);
  ask(row * columns + Math.min(Math.max((at % columns) + dx, 0), columns - 1));
}

function stepHead(by) {
  const place = (state.view === "head" ? state.head + 1 : 0) + by;
  const around = (place + packed.heads + 1) % (packed.heads + 1);
  choose(around === 0 ? { view: "mean" } : { view: "head", head: around - 1 });
}

function stepLayer(by) {
  choose({ layer: Math.min(Math.max(state.layer + by, 0), packed.depth - 1) });
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  byId("theme").textContent = theme === "dark" ? "Light" : "Dark";
}
const flipTheme = () => setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark");

function flipKeys() {
  byId("keys").hidden = !byId("keys").hidden;
  byId("help").setAttribute("aria-expanded", !byId("keys").hidden);
}

const OVERLAYS = ["heat", "spotlight", "off"];
const KEYS = {
  ArrowUp: (event) => (event.shiftKey ? move(-1, 0) : stepLayer(-1)),
  ArrowDown: (event) => (event.shiftKey ? move(1, 0) : stepLayer(1)),
  ArrowLeft: (event) => (event.shiftKey ? move(0, -1) : stepHead(-1)),
  ArrowRight: (event) => (event.shiftKey ? move(0, 1) : stepHead(1)),
  m: () => choose({ view: "mean" }),
  r: () => choose({ view: "rollout" }),
  c: () => choose({ query: -1 }),
  o: () => choose({ overlay: OVERLAYS[(OVERLAYS.indexOf(state.overlay) + 1) % 3] }),
  s: () => { byId("smooth").checked = !byId("smooth").checked; render(); },
  t: flipTheme,
  "?": flipKeys,
};

function listen() {
  for (const button of document.querySelectorAll("[data-overlay]"))
    button.addEventListener("click", () => choose({ overlay: button.dataset.overlay }));
  for (const button of document.querySelectorAll("[data-view]"))
    button.addEventListener("click", () => choose({ view: button.dataset.view }));
  for (const button of document.querySelectorAll("[data-query]"))
    button.addEventListener("click", () => (button.dataset.query === "whole" ? choose({ query: -1 }) : ask(state.patch)));
  byId("strength").addEventListener("input", render);
  byId("smooth").addEventListener("change", render);
  byId("theme").addEventListener("click", flipTheme);
  byId("help").addEventListener("click", flipKeys);
  byId("stage").addEventListener("click", (event) => {
    const patch = patchAt(event);
    if (patch !== null) ask(patch);
  });
  byId("stage").addEventListener("pointermove", (event) => {
    const patch = patchAt(event);
    byId("hover").textContent = patch === null || !shown ? "" : `Patch in ${place(patch)}: ${percent(shown[first + patch])}`;
  });
  byId("stage").addEventListener("pointerleave", () => (byId("hover").textContent = ""));
  document.addEventListener("keydown", (event) => {
    const inField = event.target.tagName === "INPUT" && event.target.type === "range";
    const act = KEYS[event.key] || KEYS[event.key.toLowerCase()];
    if (!act || event.ctrlKey || event.metaKey || event.altKey || inField) return;
    event.preventDefault();
    act(event);
  });
}

function describe() {
  byId("title").textContent = data.title;
  const [height, width] = data.input;
  byId("about").textContent = `${data.model} · input ${width} × ${height} px, ${columns} × ${rows} patches · ${packed.depth} layers, ${packed.heads} heads · ${data.checkpoint}`;
  for (const place of document.querySelectorAll(".whole"))
    place.textContent = data.classToken ? place.textContent : "Mean of all tokens";
  byId("ramp").style.background = gradient(INFERNO);
  const [means, full] = ["mean", "full"].map((group) => Object.keys(packed[group]).length);
  const depth = packed.depth;
  if (full < depth) {
    const named = (count, what) => (count === depth ? "" : count === 0 ? `no ${what}` : `${what} of ${count} of ${depth} layers`);
    const kept = [named(means, "mean over heads from every patch"), named(full, "single heads from every patch")];
    byId("kept").textContent = `To keep the page small it has, beside every head from the ${wholeName}, ${kept.filter(Boolean).join(" and ")}.`;
  }
}

async function start() {
  setTheme(matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  describe();
  picture.src = data.image;
  [summary, rollout] = await Promise.all([unpack(packed.summary, Uint16Array), unpack(packed.rollout, Uint16Array), picture.decode()]);
  // Enough pixels for the grid to be sharp, whatever the picture.
  const zoom = Math.max(1, Math.ceil(896 / Math.max(picture.naturalWidth, picture.naturalHeight)));
  [byId("stage").width, byId("stage").height] = [picture.naturalWidth * zoom, picture.naturalHeight * zoom];
  buildPredictions();
  buildMatrix();
  buildHeads();
  buildDistances();
  listen();
  await render();
}

start();
