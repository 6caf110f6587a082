"use strict";
// Shared by all pages: the data, SVG, axes, the tooltip, sortable tables, one rollout as an article.
const DATA = JSON.parse(document.getElementById("data").textContent);
const TIP = document.getElementById("tip");

function element(tag, attributes = {}, parent = null, text = null) {
  // The namespace is the parent's own: an SVG element inside SVG, an HTML element elsewhere.
  const space = parent && parent.namespaceURI ? parent.namespaceURI : document.body.namespaceURI;
  const made = document.createElementNS(space, tag);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== null) made.textContent = text;
  if (parent) parent.appendChild(made);
  return made;
}

function known(x) { return typeof x === "number" && Number.isFinite(x); }

function number(x, digits) {
  if (!known(x)) return "n/a";
  if (digits !== undefined) return x.toFixed(digits);
  const size = Math.abs(x);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return x.toExponential(2);
  return String(Number(x.toPrecision(4)));
}

// Round places for about `count` ticks between two numbers; whole: at whole numbers only.
function ticks(low, high, count, whole = false) {
  const raw = (high - low) / count, power = 10 ** Math.floor(Math.log10(raw));
  const steps = [1, 2, 2.5, 5, 10].map((m) => m * power).filter((s) => !whole || Number.isInteger(s));
  const step = steps.find((s) => s >= raw * 0.999) || 1; // none that is whole: the span is under `count`
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) found.push(Number((i * step).toPrecision(12)));
  return found;
}

// [low, high] around the values, widened by a share of their span.
function span(values, share, floor = -Infinity, ceiling = Infinity) {
  const at = values.filter(known);
  if (!at.length) return [0, 1];
  let low = Math.min(...at), high = Math.max(...at);
  const apart = high - low > 1e-9 * Math.max(Math.abs(low), Math.abs(high)); // less is rounding, too fine for ticks
  const pad = apart ? (high - low) * share : Math.abs(high) * 0.05 || 0.05;
  low = Math.max(low - pad, floor), high = Math.min(high + pad, ceiling);
  return high > low ? [low, high] : [low - pad, high + pad];
}

function scale([low, high], from, to) { return (x) => from + ((x - low) / (high - low)) * (to - from); }

// Grid, ticks and names of both axes; box: {left, right, top, bottom} in the SVG's units.
function axes(svg, box, xs, ys, { xName = "", yName = "", xCount = 8, yCount = 6, xWhole = false } = {}) {
  const x = scale(xs, box.left, box.right), y = scale(ys, box.bottom, box.top);
  for (const v of ticks(...ys, yCount)) {
    const tick = element("g", { class: "tick" }, svg);
    element("line", { class: "grid", x1: box.left, x2: box.right, y1: y(v), y2: y(v) }, tick);
    element("text", { x: box.left - 8, y: y(v) + 4, "text-anchor": "end" }, tick, number(v));
  }
  for (const v of ticks(...xs, xCount, xWhole)) {
    const tick = element("g", { class: "tick" }, svg);
    element("line", { class: "axis", x1: x(v), x2: x(v), y1: box.bottom, y2: box.bottom + 5 }, tick);
    element("text", { x: x(v), y: box.bottom + 19, "text-anchor": "middle" }, tick, number(v));
  }
  element("line", { class: "axis", x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom }, svg);
  if (xName) element("text", { x: (box.left + box.right) / 2, y: box.bottom + 42, "text-anchor": "middle" }, svg, xName);
  if (yName) {
    const middle = (box.top + box.bottom) / 2;
    element("text", { x: 14, y: middle, "text-anchor": "middle", transform: `rotate(-90 14 ${middle})` }, svg, yName);
  }
  return { x, y };
}

// Show the tooltip: a head, a line under it, and rows [name, value].
function showTip(clientX, clientY, head, line, rows) {
  TIP.replaceChildren();
  element("b", {}, TIP, head);
  if (line) element("div", {}, TIP, line);
  const table = element("table", {}, TIP);
  for (const [name, value, colour] of rows) {
    const row = element("tr", {}, table);
    const cell = element("td", colour ? { style: `color: ${colour}` } : {}, row, name);
    element("td", {}, row, value);
    if (!value) cell.setAttribute("colspan", "2");
  }
  TIP.hidden = false;
  const { width, height } = TIP.getBoundingClientRect();
  const right = clientX + 16 + width > window.innerWidth ? clientX - 16 - width : clientX + 16;
  TIP.style.left = `${Math.max(4, right)}px`;
  TIP.style.top = `${Math.max(4, Math.min(clientY + 12, window.innerHeight - height - 4))}px`;
}

function hideTip() { TIP.hidden = true; }

// Click a header to sort: numbers by data-value, else by text; what is absent stays at the end.
function sortable(table) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  const key = (row, i) => (row.cells[i].dataset.value !== undefined ? row.cells[i].dataset.value : row.cells[i].textContent.trim());
  heads.forEach((head, i) => {
    const button = head.querySelector("button");
    if (!button) return;
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending" || (head.getAttribute("aria-sort") === "none" && head.dataset.first === "down");
      heads.forEach((h) => h.hasAttribute("aria-sort") && h.setAttribute("aria-sort", "none"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const sign = down ? -1 : 1;
      const numeric = [...body.rows].every((row) => key(row, i) === "" || !Number.isNaN(Number(key(row, i))));
      const rows = [...body.rows].sort((a, b) => {
        const [p, q] = [key(a, i), key(b, i)];
        if (p === "" || q === "") return (p === "") - (q === "");
        return sign * (numeric ? Number(p) - Number(q) : p.localeCompare(q, "en", { numeric: true }));
      });
      body.append(...rows);
    });
  });
}

// One rollout: what it cost and what became of it, then its text.
function article(parent, rollout) {
  const made = element("article", {}, parent), head = element("header", {}, made);
  element("span", { class: `verdict ${rollout.verdict}` }, head, rollout.verdict);
  const facts = [`${rollout.tokens} tokens${rollout.truncated ? ", cut at the cap" : ""}`];
  if (rollout.level) facts.push(`level ${rollout.level}`);
  if (rollout.answer !== null || rollout.gold !== null) facts.push(`answer ${rollout.answer || "none"}${rollout.gold === null ? "" : `, gold ${rollout.gold}`}`);
  element("span", {}, head, ` · ${facts.join(" · ")}`);
  element("div", { class: "note" }, head, rollout.problem_text ? `${rollout.problem}: ${rollout.problem_text}` : rollout.problem);
  const text = element("pre", { tabindex: 0, "aria-label": `response to ${rollout.problem}` }, made, rollout.text);
  if (rollout.left_out) {
    element("span", { class: "left-out" }, text, `\n[… ${rollout.left_out} characters left out …]\n`);
    text.append(rollout.rest);
  }
  return made;
}

document.querySelectorAll("table.sortable").forEach(sortable);
