"use strict";
/* Values under the pointer, lines that a click hides, and news of a run that trains. The page is complete without it. */
const tip = document.getElementById("tip");
const parsed = new WeakMap();

function dataOf(figure) {
  if (!parsed.has(figure)) parsed.set(figure, JSON.parse(figure.querySelector("script").textContent));
  return parsed.get(figure);
}

function nearest(values, wanted) {
  let low = 0, high = values.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (values[middle] < wanted) low = middle; else high = middle;
  }
  return wanted - values[low] <= values[high] - wanted ? low : high;
}

function text(value, data) {
  if (data.share) return `${Number((100 * value).toPrecision(4))} %`;
  const size = Math.abs(value);
  if (size >= 1e4) return Math.round(value).toLocaleString("en");
  return size > 0 && size < 1e-3 ? value.toExponential(3) : String(Number(value.toPrecision(5)));
}

function row(name, value, color) {
  const line = document.createElement("div"), label = document.createElement("bdi");
  line.className = color;
  label.textContent = name;
  line.append(label);
  if (value !== null) {
    const number = document.createElement("b");
    number.textContent = value;
    line.append(number);
  }
  return line;
}

function point(event) {
  const svg = event.target.closest("figure.chart svg");
  if (!svg) return leave();
  const figure = svg.closest("figure"), data = dataOf(figure), area = svg.getBoundingClientRect();
  const [left, right, width] = data.box, [first, last] = data.range;
  const x = first + ((event.clientX - area.left) * width / area.width - left) / (right - left) * (last - first);
  const shown = data.lines.filter((line, i) => !figure.querySelector(`g.line[data-line="${i}"]`).hasAttribute("hidden"));
  if (!shown.length) return leave();
  let at = null;
  for (const line of shown) {
    const found = line.x[nearest(line.x, x)];
    if (at === null || Math.abs(found - x) < Math.abs(at - x)) at = found;
  }
  const rows = shown.map((line) => [line, line.y[nearest(line.x, at)]]);
  rows.sort((one, other) => other[1] - one[1]);
  tip.replaceChildren(row(`${data.x} ${Math.round(at).toLocaleString("en")}`, null, "head"),
    ...rows.map(([line, value]) => row(line.label, text(value, data), line.color)));
  tip.hidden = false;
  const beside = event.clientX + 16 + tip.offsetWidth > innerWidth ? event.clientX - 16 - tip.offsetWidth : event.clientX + 16;
  tip.style.left = `${Math.max(4, beside)}px`;
  tip.style.top = `${Math.min(event.clientY + 12, innerHeight - tip.offsetHeight - 4)}px`;
  document.querySelectorAll("svg .cross[visibility=visible]").forEach((one) => one.setAttribute("visibility", "hidden"));
  const cross = svg.querySelector(".cross"), there = left + (at - first) / ((last - first) || 1) * (right - left);
  cross.setAttribute("x1", there);
  cross.setAttribute("x2", there);
  cross.setAttribute("visibility", "visible");
}

function leave() {
  if (tip.hidden) return;
  tip.hidden = true;
  document.querySelectorAll("svg .cross[visibility=visible]").forEach((one) => one.setAttribute("visibility", "hidden"));
}

document.addEventListener("pointermove", point, { passive: true });
document.addEventListener("pointerdown", point, { passive: true });
document.addEventListener("scroll", leave, { passive: true });
document.addEventListener("click", (event) => {
  const key = event.target.closest("button.key");
  if (!key) return;
  const isOn = key.getAttribute("aria-pressed") === "false";
  key.setAttribute("aria-pressed", String(isOn));
  key.closest("figure").querySelector(`g.line[data-line="${key.dataset.line}"]`).toggleAttribute("hidden", !isOn);
});

const refreshSec = Number(document.body.dataset.refreshSec || 0);
let tag = null;

async function refresh() {
  const isBusy = [...document.querySelectorAll("audio")].some((audio) => !audio.paused) || !tip.hidden;
  if (!document.hidden && !isBusy) {
    try {
      const answer = await fetch("/", { headers: tag ? { "If-None-Match": tag } : {}, cache: "no-store" });
      if (answer.status === 200) {
        const isNews = tag !== null;
        tag = answer.headers.get("ETag");
        if (isNews) show(new DOMParser().parseFromString(await answer.text(), "text/html"));
      }
    } catch { document.getElementById("written").textContent = "The server of this page has ended; this is its last state."; }
  }
  setTimeout(refresh, 1000 * refreshSec);
}

function show(news) {
  const open = new Set([...document.querySelectorAll("details[open] > summary")].map((one) => one.textContent));
  for (const selector of ["main", "nav", "header .band"]) {
    document.querySelector(selector).replaceWith(document.adoptNode(news.querySelector(selector)));
  }
  document.querySelectorAll("details > summary").forEach((one) => { one.parentNode.open = open.has(one.textContent); });
}

if (refreshSec) refresh();
