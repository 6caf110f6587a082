// A run: panels of curves by step, one crosshair for all of them, alarms, rollouts before and after, a search in the settings.
const BOX = { left: 58, right: 550, top: 14, bottom: 192 };
const DOTS = 40; // up to so many steps every one is marked
const STEPS = DATA.steps, LAST = STEPS.length - 1;
const PANELS = [...document.querySelectorAll(".panel")].map((place, i) => ({ place, svg: place.querySelector("svg"), at: DATA.panels[i] || null }));
const OTHER = document.getElementById("other"), SMOOTH = document.getElementById("smooth");

function colour(i) { return `var(--s${i % 8})`; }

// The mean of up to `width` steps that end at each step; a gap stays a gap.
function runningMean(values, width) {
  return values.map((v, i) => {
    if (!known(v)) return null;
    const near = values.slice(Math.max(0, i - width + 1), i + 1).filter(known);
    return near.reduce((a, b) => a + b, 0) / near.length;
  });
}

// The drawn parts of a panel: each curve's values, and for a stack where it begins and ends.
function layers(panel, width) {
  const floor = STEPS.map(() => 0);
  return panel.curves.map((curve, i) => {
    const raw = DATA.numbers[curve.key], values = curve.dots || width < 2 ? raw : runningMean(raw, width);
    const made = { ...curve, raw, values, colour: colour(i), dashed: i >= 8 };
    if (panel.stacked) {
      made.low = [...floor];
      values.forEach((v, k) => { floor[k] += known(v) ? v : 0; });
      made.high = [...floor];
    }
    return made;
  });
}

// A path through the known values; joined: over gaps too, as between held-out tests.
function line(x, y, values, joined) {
  let d = "", pen = false;
  values.forEach((v, i) => {
    if (known(v)) { d += `${pen ? "L" : "M"}${x(STEPS[i])} ${y(v)}`; pen = true; } else if (!joined) pen = false;
  });
  return d;
}

function area(svg, x, y, layer) {
  const half = LAST ? 0 : 0.3; // one step alone is a bar
  const places = LAST ? STEPS : [STEPS[0] - half, STEPS[0] + half], pick = (values, k) => values[LAST ? k : 0];
  const up = places.map((s, k) => `${x(s)} ${y(pick(layer.high, k))}`), down = places.map((s, k) => `${x(s)} ${y(pick(layer.low, k))}`).reverse();
  element("path", { class: "area", d: `M${[...up, ...down].join("L")}Z`, style: `fill: ${layer.colour}` }, svg);
}

function curve(svg, x, y, layer, smooth) {
  const style = `stroke: ${layer.colour}${layer.dashed || layer.dots ? "; stroke-dasharray: 5 4" : ""}`;
  if (smooth && !layer.dots) element("path", { class: "series faint", d: line(x, y, layer.raw, false), style }, svg);
  element("path", { class: "series", d: line(x, y, layer.values, layer.dots), style }, svg);
  layer.values.forEach((v, i) => {
    const alone = !known(layer.values[i - 1]) && !known(layer.values[i + 1]);
    if (known(v) && (layer.dots || alone || LAST < DOTS)) element("circle", { cx: x(STEPS[i]), cy: y(v), r: layer.dots ? 4 : 2, style: `fill: ${layer.colour}` }, svg);
  });
}

function drawPanel(panel) {
  if (!panel.at) return;
  const { svg, at } = panel, width = Number(SMOOTH.value) || 1;
  svg.replaceChildren();
  panel.layers = layers(at, width);
  const heights = panel.layers.flatMap((l) => (at.stacked ? l.high : [...l.values, ...(width > 1 ? l.raw : [])]));
  if (at.stacked) heights.push(0);
  const lowest = Math.min(...heights.filter(known), Infinity);
  const ys = span(heights, 0.08, at.zero && lowest >= 0 ? 0 : -Infinity, at.share ? 1.01 : Infinity);
  const xs = LAST ? [STEPS[0], STEPS[LAST]] : [STEPS[0] - 1, STEPS[0] + 1];
  const { x, y } = axes(svg, BOX, xs, ys, { yCount: 4, xWhole: true });
  panel.x = x;
  for (const l of panel.layers) if (at.stacked) area(svg, x, y, l); else curve(svg, x, y, l, width > 1);
  DATA.alarms.forEach((words, i) => {
    if (!words.length) return;
    const a = x(STEPS[i]);
    element("line", { class: "alarm", x1: a, x2: a, y1: BOX.top, y2: BOX.bottom }, svg);
    element("path", { class: "alarm-mark", d: `M${a - 5} ${BOX.top - 9}H${a + 5}L${a} ${BOX.top - 1}Z` }, svg);
  });
  panel.cross = element("line", { class: "cross", y1: BOX.top, y2: BOX.bottom, visibility: "hidden" }, svg);
  const legend = panel.place.querySelector(".legend");
  legend.replaceChildren();
  panel.layers.forEach((l) => {
    const item = element("span", {}, legend);
    element("i", { style: `background: ${l.colour}`, class: l.dots ? "round" : "" }, item);
    item.append(l.name);
  });
}

// The crosshair in all panels and the numbers of one, at the step with this index; clientX, clientY: where the tooltip goes.
function tell(panel, i, clientX, clientY) {
  panel.index = i;
  for (const p of PANELS) if (p.at) {
    const at = p.x(STEPS[i]);
    for (const end of ["x1", "x2"]) p.cross.setAttribute(end, at);
    p.cross.setAttribute("visibility", "visible");
  }
  const rows = panel.layers.filter((l) => known(l.raw[i]) || !l.dots).map((l) => {
    const mean = l.values !== l.raw && known(l.values[i]) ? ` (mean ${number(l.values[i])})` : "";
    return [l.name, number(l.raw[i]) + mean, l.colour];
  });
  if (panel.at.stacked) {
    rows.reverse(); // as they lie above each other
    rows.push(["sum", number(panel.layers.reduce((a, l) => a + (known(l.raw[i]) ? l.raw[i] : 0), 0))]);
  }
  for (const words of DATA.alarms[i]) rows.push([`▼ ${words}`, "", "var(--bad)"]);
  showTip(clientX, clientY, `step ${STEPS[i]}`, "", rows);
}

function still() {
  hideTip();
  for (const p of PANELS) if (p.cross) p.cross.setAttribute("visibility", "hidden");
}

function nearest(panel, event) {
  const box = panel.svg.getBoundingClientRect(), at = ((event.clientX - box.left) / box.width) * 560;
  let best = 0;
  STEPS.forEach((s, i) => { if (Math.abs(panel.x(s) - at) < Math.abs(panel.x(STEPS[best]) - at)) best = i; });
  return best;
}

function listen(panel) {
  const { svg } = panel;
  svg.addEventListener("pointermove", (event) => tell(panel, nearest(panel, event), event.clientX, event.clientY));
  svg.addEventListener("pointerleave", still);
  svg.addEventListener("blur", still);
  svg.addEventListener("keydown", (event) => {
    const way = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!way) return;
    event.preventDefault();
    const i = panel.index === undefined ? (way > 0 ? 0 : LAST) : Math.max(0, Math.min(LAST, panel.index + way));
    const box = svg.getBoundingClientRect();
    tell(panel, i, box.left + (panel.x(STEPS[i]) / 560) * box.width, box.top + box.height / 2);
  });
}

function showComparisons() {
  const place = document.getElementById("comparisons");
  for (const c of DATA.comparisons) {
    element("h3", { class: "wide" }, place, c.title);
    for (const match of c.matches) {
      const pair = element("div", { class: "pair" }, place);
      element("h3", {}, pair, match.title);
      [match.first, match.last].forEach((rollouts, side) => {
        if (!rollouts.length) return;
        const column = element("section", {}, pair);
        rollouts.forEach((r, k) => {
          const size = rollouts.length < 2 ? "" : k ? ", the longest" : ", the shortest";
          element("p", { class: "note" }, column, `Step ${c.steps[side]}${size}`);
          article(column, r);
        });
      });
    }
  }
}

function find(words) {
  for (const row of document.querySelectorAll("#settings tbody tr")) row.hidden = !row.textContent.toLowerCase().includes(words.toLowerCase().trim());
}

function chooseOther() {
  const panel = PANELS[PANELS.length - 1];
  panel.at = { curves: [{ name: OTHER.value, key: OTHER.value, dots: OTHER.value.startsWith("heldout/") }], share: false, stacked: false, zero: true };
  drawPanel(panel);
}

if (OTHER) { OTHER.addEventListener("change", chooseOther); chooseOther(); }
PANELS.forEach((panel) => { drawPanel(panel); listen(panel); });
SMOOTH.addEventListener("input", () => PANELS.forEach(drawPanel));
if (document.getElementById("comparisons")) showComparisons();
const FIND = document.getElementById("find");
if (FIND) FIND.addEventListener("input", () => find(FIND.value));
