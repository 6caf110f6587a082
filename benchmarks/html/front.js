// The front: points with intervals, the band, hover, filter, examples.
const SVG = document.getElementById("plot");
const WIDTH = 1080, HEIGHT = 600, BOX = { left: 70, right: WIDTH - 20, top: 16, bottom: HEIGHT - 56 };
const ROWS = new Map([...document.querySelectorAll("#points tbody tr")].map((row) => [row.dataset.name, row]));
const ALL = DATA.points.filter((p) => known(p.accuracy[0]) && known(p.tokens[0]));
const MARKS = new Map();
let chosen = null;

function look(p) { return p.kind === "shaped" && p.on_front ? "front" : p.kind; }

function mark(parent, p, x, y) {
  const fill = look(p) === "shaped" ? "var(--paper)" : "currentColor";
  if (p.kind === "base") return element("rect", { class: "mark", x: x - 6, y: y - 6, width: 12, height: 12, fill }, parent);
  if (p.kind === "plain") return element("path", { class: "mark", d: `M${x} ${y - 8}L${x + 8} ${y}L${x} ${y + 8}L${x - 8} ${y}Z`, fill }, parent);
  return element("circle", { class: "mark", cx: x, cy: y, r: 6, fill }, parent);
}

function whisker(parent, a, b, across) {
  // A line with caps; across: horizontal.
  const [dx, dy] = across ? [0, 3.5] : [3.5, 0];
  const cap = ([x, y]) => `M${x - dx} ${y - dy}L${x + dx} ${y + dy}`;
  element("path", { class: "whisker", d: `M${a}L${b}${cap(a)}${cap(b)}` }, parent);
}

function drawFront(x, y, right) {
  const front = ALL.filter((p) => p.on_front).sort((a, b) => a.tokens[0] - b.tokens[0]);
  if (!front.length) return;
  let d = "";
  front.forEach((p, i) => { d += i ? `H${x(p.tokens[0])}V${y(p.accuracy[0])}` : `M${x(p.tokens[0])} ${y(p.accuracy[0])}`; });
  element("path", { class: "front-line", d: `${d}H${Math.max(right, x(front[front.length - 1].tokens[0]))}`, "clip-path": "url(#inside)" }, SVG);
}

function drawBand(x, y) {
  const b = DATA.band;
  if (!b || !b.tokens.length) return;
  const up = b.tokens.map((t, i) => `${x(t)} ${y(b.high[i])}`), down = b.tokens.map((t, i) => `${x(t)} ${y(b.low[i])}`).reverse();
  element("path", { class: "band", d: `M${[...up, ...down].join("L")}Z`, "clip-path": "url(#inside)" }, SVG);
}

function tell(p, event, target) {
  const one = (e, digits) => `${number(e[0], digits)}${known(e[1]) ? ` [${number(e[1], digits)}, ${number(e[2], digits)}]` : ""}`;
  const rows = [["accuracy", one(p.accuracy, 3)], ["tokens", one(p.tokens, 1)], ["truncated", one(p.truncated, 3)], ["seeds", String(p.seeds)]];
  for (const [key, value] of Object.entries(p.settings)) rows.push([key, value]);
  const where = p.kind === "shaped" ? (p.on_front ? "on the front" : "dominated") : p.on_front ? `${p.kind}, on the front` : p.kind;
  const [px, py] = MARKS.get(p.name).at;
  const near = [...MARKS.values()].filter(({ p: q, at }) => q !== p && Math.hypot(at[0] - px, at[1] - py) < 14).map((m) => m.p.name);
  if (near.length) rows.push(["also here", near.join(", ")]);
  const box = target.getBoundingClientRect();
  showTip(event ? event.clientX : box.right, event ? event.clientY : box.top, p.name, where, rows);
}

// Draw these points on axes that fit them; front and band are those of all points.
function draw(points) {
  SVG.replaceChildren();
  MARKS.clear();
  const tokens = points.flatMap((p) => p.tokens), accuracy = points.flatMap((p) => p.accuracy);
  const { x, y } = axes(SVG, BOX, span(tokens, 0.06, 0), span(accuracy, 0.07, 0, 1.01), { xName: "mean tokens per response", yName: "accuracy" });
  const clip = element("clipPath", { id: "inside" }, SVG);
  element("rect", { x: BOX.left, y: BOX.top, width: BOX.right - BOX.left, height: BOX.bottom - BOX.top }, clip);
  drawBand(x, y);
  drawFront(x, y, BOX.right);
  for (const p of [...points].sort((a, b) => a.on_front - b.on_front)) {
    const at = [x(p.tokens[0]), y(p.accuracy[0])];
    const g = element("g", { class: `point kind-${look(p)}`, tabindex: 0, role: "button", "aria-label": `${p.name}: accuracy ${number(p.accuracy[0], 3)}, ${number(p.tokens[0], 1)} tokens`, "data-name": p.name }, SVG);
    if (known(p.tokens[1])) whisker(g, [x(p.tokens[1]), at[1]], [x(p.tokens[2]), at[1]], true);
    if (known(p.accuracy[1])) whisker(g, [at[0], y(p.accuracy[1])], [at[0], y(p.accuracy[2])], false);
    element("circle", { cx: at[0], cy: at[1], r: 13, fill: "transparent" }, g);
    mark(g, p, ...at);
    g.addEventListener("pointermove", (event) => tell(p, event, g));
    g.addEventListener("pointerleave", hideTip);
    g.addEventListener("focus", () => g.matches(":focus-visible") && tell(p, null, g));
    g.addEventListener("blur", hideTip);
    g.addEventListener("click", () => choose(p.name));
    g.addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); choose(p.name); } });
    MARKS.set(p.name, { p, g, at });
  }
  placeLabels();
}

// Names beside the points, those on the front first; a name that would hide another or a mark is left to the tooltip.
function placeLabels() {
  const shown = [...MARKS.values()];
  const taken = shown.map(({ at: [x, y] }) => [x - 8, y - 8, x + 8, y + 8]);
  shown.sort((a, b) => (a.p.kind === "shaped") - (b.p.kind === "shaped") || b.p.on_front - a.p.on_front);
  for (const m of shown) {
    const [px, py] = m.at;
    const label = element("text", { class: `label kind-${look(m.p)}`, style: "fill: currentColor" }, SVG, m.p.name);
    const w = label.getComputedTextLength(), h = 13;
    const places = [];
    for (const r of [12, 20, 32, 46]) for (const [ux, uy] of [[1, -1], [-1, -1], [1, 1], [-1, 1], [1, 0], [-1, 0], [0, -1], [0, 1]]) {
      const cx = px + ux * (r * (uy ? 0.7 : 1)), cy = py + uy * (r * (ux ? 0.7 : 1));
      const left = ux > 0 ? cx : ux < 0 ? cx - w : cx - w / 2, top = uy > 0 ? cy : uy < 0 ? cy - h : cy - h / 2;
      places.push([left, top, left + w, top + h]);
    }
    const free = places.find(([l, t, r, b]) => l > BOX.left && r < BOX.right && t > BOX.top - 6 && b < BOX.bottom && !taken.some(([tl, tt, tr, tb]) => l < tr && r > tl && t < tb && b > tt));
    if (!free) { label.remove(); continue; }
    label.setAttribute("x", free[0]);
    label.setAttribute("y", free[1] + h - 2);
    taken.push(free);
  }
}

function filter() {
  const boxes = (name) => new Set([...document.querySelectorAll(`input[name=${name}]:checked`)].map((box) => box.value));
  const kinds = boxes("kind"), words = document.getElementById("words").value.toLowerCase().split(/\s+/).filter(Boolean);
  const shown = new Set();
  for (const p of DATA.points) {
    const text = [p.name, p.kind, p.method, ...Object.entries(p.settings).map(([k, v]) => `${k}=${v}`)].join(" ").toLowerCase();
    const visible = kinds.has(p.kind) && words.every((word) => text.includes(word));
    if (visible) shown.add(p.name);
    if (ROWS.has(p.name)) ROWS.get(p.name).hidden = !visible;
  }
  document.getElementById("count").textContent = `${shown.size} of ${DATA.points.length} shown`;
  draw(ALL.filter((p) => shown.has(p.name)));
  highlight();
}

function highlight() {
  for (const [name, m] of MARKS) m.g.classList.toggle("chosen", name === chosen);
  for (const [name, row] of ROWS) row.classList.toggle("chosen", name === chosen);
}

function choose(name) {
  chosen = name;
  highlight();
  const select = document.getElementById("which");
  if (select && DATA.examples[name]) { select.value = name; showExamples(name); }
}

function showExamples(name) {
  const place = document.getElementById("examples"), of = DATA.examples[name];
  place.replaceChildren();
  if (of.note) element("p", { class: "note" }, place, of.note);
  for (const verdict of ["correct", "wrong", "unknown"]) {
    const found = of.rollouts.filter((r) => r.verdict === verdict);
    if (!found.length) continue;
    const pair = element("div", { class: "pair" }, place);
    for (const size of ["short", "long"]) {
      const column = element("section", {}, pair);
      element("h3", {}, column, `${verdict[0].toUpperCase()}${verdict.slice(1)}, ${size === "short" ? "the shortest" : "the longest"}`);
      found.filter((r) => r.size === size).forEach((r) => article(column, r));
    }
  }
}

document.querySelectorAll("input[name=kind], #words").forEach((input) => input.addEventListener("input", filter));
ROWS.forEach((row, name) => row.addEventListener("click", () => choose(name)));
const WHICH = document.getElementById("which");
if (WHICH) {
  WHICH.addEventListener("change", () => choose(WHICH.value));
  showExamples(WHICH.value);
}
filter();
