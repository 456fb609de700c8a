"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const shown = (value, digits = 4) => value && Math.abs(value) < 1e-3
  ? value.toExponential(digits - 1).replace(/\.?0*e/, "e") : String(Number(value.toPrecision(digits)));
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
const seriesOf = run => `s${run % 7} d${Math.floor(run / 7) % 3}`;

function make(name, attributes, parent, text = "") {
  const node = document.createElementNS(parent.namespaceURI, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.textContent = text;
  return parent.appendChild(node);
}

// Charts. The cursor of a chart over the frames is the frame of the videos; another follows the pointer.

const MARGIN = { left: 52, right: 14, top: 8, bottom: 34 };

/** The ticks of a linear axis: multiples of 1, 2 or 5 times a power of ten. */
function linearTicks(low, high, count, leastStep) {
  const rough = Math.max((high - low) / count, leastStep);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map(factor => factor * power).find(size => size >= rough * 0.999);
  const first = Math.ceil(low / step - 1e-9);
  return Array.from({ length: Math.floor(high / step + 1e-9) - first + 1 }, (_, i) => (first + i) * step);
}

/** The ticks of a logarithmic axis: powers of ten and what lies between, where there is room; two or more. */
function logTicks(low, high) {
  const powers = Array.from({ length: 700 }, (_, i) => i - 350)
    .filter(power => power >= Math.floor(low) && power <= Math.ceil(high));
  const factors = high - low < 1.5 ? [1, 2, 5] : high - low < 3 ? [1, 3] : [1];
  const every = Math.ceil(powers.length / 6);
  const ticks = powers.filter((_, i) => i % every === 0).flatMap(power => factors.map(factor => factor * 10 ** power))
    .filter(value => Math.log10(value) >= low && Math.log10(value) <= high);
  return ticks.length > 2 ? ticks : linearTicks(10 ** low, 10 ** high, 5, 0);
}

/** The digits by which ticks differ, three or more. */
function digitsOf(ticks) {
  const largest = Math.max(...ticks.map(Math.abs));
  return clamp(Math.ceil(Math.log10(largest / (ticks[1] - ticks[0]))) + 1, 3, 12) || 3;
}

class Chart {
  constructor(figure) {
    Object.assign(this, data.charts[figure.dataset.chart]);  // title, x, curves, log, zero
    this.plot = figure.querySelector(".plot");
    this.readout = figure.querySelector(".readout");
    this.xs = [...new Set(this.curves.flatMap(curve => curve.x))].sort((a, b) => a - b);
    this.first = this.x === "frame" ? 0 : this.xs[0];
    this.last = this.xs[this.xs.length - 1];
    this.at = this.x === "frame" ? 0 : this.last;
    for (const curve of this.curves) curve.index = new Map(curve.x.map((x, i) => [x, i]));
    this.plot.setAttribute("aria-valuemin", this.first);
    this.plot.setAttribute("aria-valuemax", this.last);
    this.plot.addEventListener("pointermove", event => {
      if (this.x !== "frame" || event.buttons) this.seek(this.underPointer(event));
    });
    this.plot.addEventListener("pointerdown", event => {
      this.plot.setPointerCapture(event.pointerId);  // a drag may leave the plot
      this.seek(this.underPointer(event));
    });
    this.plot.addEventListener("keydown", event => this.onKey(event));
    new ResizeObserver(() => this.draw()).observe(this.plot);
  }

  underPointer(event) {
    const box = this.plot.getBoundingClientRect();
    const part = (event.clientX - box.left - MARGIN.left) / (box.width - MARGIN.left - MARGIN.right);
    return this.first + clamp(part, 0, 1) * (this.last - this.first);
  }

  onKey(event) {
    const steps = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -10, PageUp: 10,
                    Home: -Infinity, End: Infinity };
    if (!(event.key in steps)) return;
    event.preventDefault();
    const places = this.x === "frame" ? [0, ...this.xs] : this.xs;
    const here = places.filter(place => place <= this.at).length - 1;  // the cursor may be past the last one
    this.seek(places[clamp(here + steps[event.key], 0, places.length - 1)]);
  }

  seek(x) {
    if (this.x === "frame") {
      setPlaying(false);
      showFrame(Math.round(x));
    } else this.place(this.xs.reduce((near, other) => Math.abs(other - x) < Math.abs(near - x) ? other : near));
  }

  /** The ends of the y axis, in the logarithm of the values where the axis is logarithmic. */
  range() {
    let values = this.curves.flatMap(curve => [curve.y, curve.low || [], curve.high || [], curve.best || []].flat());
    if (this.log) values = values.filter(value => value > 0);
    let low = values.reduce((a, b) => Math.min(a, b)), high = values.reduce((a, b) => Math.max(a, b));
    if (this.log) [low, high] = [Math.log10(Math.max(low, 1e-7 * high)), Math.log10(high)];
    if (this.zero) return [0, 1.06 * high || 1];
    const room = 0.06 * (high - low) || (this.log ? 0.3 : 0.05 * Math.abs(high) || 1);
    return [low - room, high + room];
  }

  draw() {
    const { clientWidth: width, clientHeight: height } = this.plot;
    if (!width) return;  // in a window without a size
    const [low, high] = this.range();
    this.left = x => MARGIN.left + (width - MARGIN.left - MARGIN.right) * (x - this.first)
      / (this.last - this.first || 1);
    this.top = y => {
      const value = this.log ? Math.log10(Math.max(y, 10 ** low)) : y;
      return height - MARGIN.bottom - (height - MARGIN.top - MARGIN.bottom) * (value - low) / (high - low);
    };
    this.plot.replaceChildren();
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("aria-hidden", "true");
    const ticks = this.log ? logTicks(low, high) : linearTicks(low, high, 7, 1e-12), digits = digitsOf(ticks);
    for (const y of ticks) {
      make("line", { class: "grid", x1: MARGIN.left, x2: width - MARGIN.right, y1: this.top(y), y2: this.top(y) }, svg);
      make("text", { x: MARGIN.left - 7, y: this.top(y) + 4, "text-anchor": "end" }, svg, shown(y, digits));
    }
    for (const x of linearTicks(this.first, this.last, width / 80, 1)) {
      make("text", { x: this.left(x), y: height - 18, "text-anchor": "middle" }, svg, shown(x, 6));
    }
    make("text", { x: width - MARGIN.right, y: height - 3, "text-anchor": "end" }, svg, this.x);
    this.curves.forEach((curve, i) => this.drawCurve(curve, svg, this.curves.length - i));
    this.cursor = make("g", {}, svg);
    this.plot.append(svg);
    this.place(this.at);
  }

  /** Earlier curves are wider in the schedules, so that no later one hides them. */
  drawCurve(curve, svg, fromLast) {
    const line = column => "M" + curve.x.map((x, i) => `${this.left(x).toFixed(1)},${this.top(column[i]).toFixed(1)}`)
      .join("L");
    const group = make("g", { class: seriesOf(curve.run) }, svg);
    if (curve.low) {
      const back = line(curve.low).slice(1).split("L").reverse().join("L");
      make("path", { class: "band", d: `${line(curve.high)}L${back}` }, group);
      make("path", { class: "curve best", d: line(curve.best) }, group);
    }
    const each = Math.min(3, 9 / (this.curves.length - 1 || 1));
    const width = this.zero ? 2 + each * (fromLast - 1) : this.x === "frame" ? 1.25 : 2;
    make("path", { class: "curve", d: line(curve.y), "stroke-width": width }, group);
    if (curve.x.length > 40) return;
    curve.x.forEach((x, i) =>
      make("circle", { class: "dot", cx: this.left(x), cy: this.top(curve.y[i]), r: 2.5 }, group));
  }

  /** Put the cursor at x, and say the values there: of each curve, so that what stands below stays where it is. */
  place(x) {
    this.at = x;
    if (!this.cursor) return;
    this.cursor.replaceChildren();
    this.readout.replaceChildren();
    const left = this.left(clamp(x, this.first, this.last));
    make("line", { class: "cursor", x1: left, x2: left, y1: MARGIN.top, y2: this.plot.clientHeight - MARGIN.bottom },
         this.cursor);
    make("span", {}, this.readout, `${this.x} ${x}`);
    for (const curve of this.curves) {
      const value = curve.y[curve.index.get(x)];
      if (value !== undefined) {
        make("circle", { class: `at ${seriesOf(curve.run)}`, cx: left, cy: this.top(value), r: 4.5 }, this.cursor);
      }
      const entry = make("span", {}, this.readout);
      if (data.runs.length > 1) {
        make("span", { class: `swatch ${seriesOf(curve.run)}` }, entry);
        entry.append(`${data.runs[curve.run]} `);
      }
      make("b", {}, entry, value === undefined ? "\u2013" : shown(value));
    }
    this.plot.setAttribute("aria-valuenow", x);
    this.plot.setAttribute("aria-valuetext", this.readout.textContent);
  }
}

// Videos. Every canvas without a frame of its own shows the frame of the slider.

const slider = document.getElementById("frame"), play = document.getElementById("play");
const counter = document.getElementById("counter");
const followers = all("canvas:not([data-frame])");
let begun = null;  // the time and the frame at which Play was pressed

function drawFrame(canvas, frame) {
  const { image, columns, frames, width, height } = data.sheets[canvas.dataset.sheet];
  if (!image.naturalWidth) return;  // it could not be loaded
  const place = Math.min(frame, frames - 1);  // a shorter video stays at its last frame
  canvas.getContext("2d").drawImage(image, place % columns * width, Math.floor(place / columns) * height, width, height,
                                    0, 0, width, height);
}

function showFrame(frame) {
  slider.value = frame;
  counter.textContent = `${frame} of ${slider.max}`;
  for (const canvas of followers) drawFrame(canvas, frame);
  for (const chart of charts) if (chart.x === "frame") chart.place(frame);
  for (const output of all("output[data-chart]")) {
    const curve = data.charts[output.dataset.chart]?.curves.find(({ run }) => run === Number(output.dataset.run));
    const value = curve?.y[curve.index.get(frame)];
    output.textContent = frame === 0 ? "given" : value === undefined ? "" : `${value.toFixed(2)} dB`;
  }
}

function advance(now) {
  if (!begun) return;
  begun.time ??= now;
  const frame = (begun.frame + Math.floor((now - begun.time) / 1000 * data.fps)) % (Number(slider.max) + 1);
  if (frame !== Number(slider.value)) showFrame(frame);
  requestAnimationFrame(advance);
}

function setPlaying(playing) {
  begun = playing ? { frame: Number(slider.value) } : null;
  play.textContent = playing ? "Pause" : "Play";
  if (playing) requestAnimationFrame(advance);
}

play.addEventListener("click", () => setPlaying(!begun));
slider.addEventListener("input", () => {
  const frame = Number(slider.value);
  setPlaying(false);
  showFrame(frame);
});
for (const button of all(".picked")) {
  button.addEventListener("click", () => {
    setPlaying(false);
    showFrame(Number(button.dataset.frame));
    button.closest(".clip").scrollIntoView();
  });
}

// Tables, sorted by their headings; empty cells stay last.

function sortBy(heading) {
  const descending = heading.getAttribute("aria-sort") === "ascending";
  const body = heading.closest("table").tBodies[0], column = heading.cellIndex;
  const compare = (a, b) => {
    const [first, second] = [a, b].map(row => row.cells[column]);
    if (!first.textContent || !second.textContent) return second.textContent.length - first.textContent.length;
    const order = "value" in first.dataset && "value" in second.dataset
      ? first.dataset.value - second.dataset.value
      : first.textContent.localeCompare(second.textContent, undefined, { numeric: true });
    return descending ? -order : order;
  };
  body.append(...[...body.rows].sort(compare));
  for (const other of heading.parentNode.cells) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
}

for (const button of all(".sortable thead button")) button.addEventListener("click", () => sortBy(button.parentNode));

const charts = all(".chart").map(figure => new Chart(figure));

// Loaded, not decoded: browsers refuse to decode more than some hundred megabytes of images ahead.
Promise.all(data.sheets.map(sheet => new Promise(done => {
  sheet.image = new Image();
  sheet.image.onload = sheet.image.onerror = done;
  sheet.image.src = sheet.source;
}))).then(() => {
  document.getElementById("unloaded").hidden = data.sheets.every(sheet => sheet.image.naturalWidth);
  const lastFrames = charts.filter(chart => chart.x === "frame").map(chart => chart.last);
  slider.max = Math.max(0, ...data.sheets.map(sheet => sheet.frames - 1), ...lastFrames);
  all(".controls")[0].hidden = data.sheets.length === 0;
  for (const canvas of all("canvas[data-frame]")) drawFrame(canvas, Number(canvas.dataset.frame));
  showFrame(0);
});
