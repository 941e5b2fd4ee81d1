"""The page's style sheet and script. Plain CSS and JavaScript, no dependency but plotly."""

from __future__ import annotations

from payoff.report.palette import variables

_STYLE = """
* { box-sizing: border-box; }
html { color-scheme: light dark; -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
body { margin: 0; background: var(--page); color: var(--ink); line-height: 1.55;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial,
  sans-serif; }
main, header { max-width: 1120px; margin: 0 auto; padding: 0 24px; }
header { padding-top: 40px; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 12px; letter-spacing: -0.015em;
  overflow-wrap: anywhere; }
h2 { font-size: 1.3rem; margin: 0 0 12px; letter-spacing: -0.01em; }
h3 { font-size: 1rem; margin: 28px 0 8px; }
p { margin: 0 0 12px; max-width: 76ch; overflow-wrap: anywhere; }
a { color: var(--labelled); }
.kicker { color: var(--muted); font-size: 0.85rem; margin: 0 0 6px; }
.question { color: var(--muted); }
.answer { font-size: 1.22rem; line-height: 1.45; }
nav { display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 20px 0 24px; font-size: 0.9rem; }
nav a { text-decoration: none; }
nav a:hover, nav a:focus { text-decoration: underline; }
.cards { display: flex; flex-wrap: wrap; gap: 1px; background: var(--rule); margin: 20px 0;
  border: 1px solid var(--rule); border-radius: 10px; overflow: hidden; }
.card { flex: 1 1 max(150px, calc(100% / var(--columns) - 2px)); padding: 14px 16px 12px;
  background: var(--surface); }
.card dt, .card .note { color: var(--muted); font-size: 0.8rem; line-height: 1.35; }
.card dd { margin: 0; overflow-wrap: anywhere; }
.card .value { font-size: 1.45rem; font-weight: 600; line-height: 1.3; letter-spacing: -0.01em;
  font-variant-numeric: tabular-nums; }
.unit { font-size: 0.95rem; font-weight: 500; color: var(--muted); white-space: nowrap; }
p .unit, li .unit { font: inherit; color: inherit; }
.card.designs .value { color: var(--designs); }
.card.oracle .value { color: var(--oracle); }
.warnings { border-left: 4px solid var(--warning); background: var(--warning-back);
  border-radius: 0 8px 8px 0; padding: 12px 18px; margin: 16px 0; }
.warnings h2 { font-size: 1rem; margin: 0 0 4px; color: var(--warning); }
.warnings ul, .facts ul { margin: 0; padding-left: 1.1em; overflow-wrap: anywhere; }
.facts li { margin-bottom: 12px; }
section { background: var(--surface); border: 1px solid var(--rule); border-radius: 10px;
  padding: 24px 26px 20px; margin: 0 0 20px; scroll-margin-top: 12px; }
figure { margin: 0; min-width: 0; }
figure.plot { margin: 8px 0 12px; }
.draw { min-width: 0; }
figcaption, .caption { color: var(--muted); font-size: 0.85rem; line-height: 1.45;
  max-width: 84ch; }
.grid { display: grid; gap: 12px 24px; grid-template-columns: repeat(auto-fit,
  minmax(min(100%, 235px), 1fr)); margin: 12px 0; align-items: end; }
.beside { display: grid; gap: 16px 36px; grid-template-columns: minmax(0, 3fr) minmax(0, 2fr); }
.foils { display: grid; gap: 18px 22px; margin: 4px 0 14px;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 220px), 1fr)); }
.foil svg { width: 100%; height: auto; display: block; }
.foil figcaption { font-variant-numeric: tabular-nums; }
.foil b { color: var(--ink); font-weight: 600; }
.foil path { vector-effect: non-scaling-stroke; stroke-width: 1.5; stroke-linejoin: round; }
.foil .outline { stroke: var(--designs); fill: var(--designs-band); }
.foil.labelled .outline { stroke: var(--labelled); fill: none; }
.foil.data .outline { stroke: var(--data); fill: none; }
.foil .ghost { stroke: var(--labelled); fill: none; stroke-dasharray: 3 3; stroke-width: 1; }
.pair { display: grid; gap: 20px 28px; margin: 0 0 18px;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); }
.pair h3 { margin-top: 0; }
.molecules { display: grid; gap: 10px; align-items: end;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 120px), 1fr)); }
.molecule svg { width: 100%; height: auto; display: block; background: #fff; border-radius: 8px;
  border: 1px solid var(--rule); }
.molecule figcaption { font-variant-numeric: tabular-nums; font-size: 0.8rem; }
.keys { display: flex; flex-wrap: wrap; gap: 2px 18px; font-size: 0.8rem; max-width: none; }
.scroll { overflow-x: auto; margin: 8px 0; border: 1px solid var(--rule); border-radius: 8px; }
table { border-collapse: collapse; width: 100%; font-size: 0.85rem;
  font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 6px 12px; white-space: nowrap; vertical-align: top;
  border-bottom: 1px solid var(--rule); }
.wrap td { white-space: normal; overflow-wrap: anywhere; min-width: 8em; }
tbody tr:last-child td { border-bottom: 0; }
tbody tr:hover td { background: var(--page); }
th { color: var(--muted); font-weight: 600; }
.n { text-align: right; }
th button { font: inherit; color: inherit; background: none; border: 0; padding: 0;
  cursor: pointer; }
th button::after { content: "\\2195"; opacity: 0.35; margin-left: 4px; }
th[aria-sort=ascending] button::after { content: "\\2191"; opacity: 1; }
th[aria-sort=descending] button::after { content: "\\2193"; opacity: 1; }
.tag { background: var(--designs); color: var(--surface); border-radius: 4px; padding: 1px 7px;
  font-size: 0.75rem; }
pre { background: var(--page); border: 1px solid var(--rule); border-radius: 8px;
  padding: 12px 14px; font-size: 0.85rem; white-space: pre-wrap; overflow-wrap: anywhere; }
details { border-top: 1px solid var(--rule); padding: 8px 0; }
summary { cursor: pointer; font-weight: 600; font-size: 0.95rem; padding: 4px 0; }
footer { color: var(--muted); font-size: 0.85rem; padding: 0 0 40px; }
.modebar-btn path { fill: var(--muted) !important; }
:focus-visible { outline: 2px solid var(--labelled); outline-offset: 2px; }
@media (max-width: 720px) {
  main, header { padding: 0 12px; } header { padding-top: 20px; }
  h1 { font-size: 1.5rem; } .answer { font-size: 1.08rem; }
  section { padding: 16px 14px 12px; } .beside { grid-template-columns: minmax(0, 1fr); }
  .card { flex-basis: 40%; padding: 10px 12px; }
  .foils { grid-template-columns: 1fr 1fr; gap: 14px; }
}
@media print {
  html { color-scheme: light; } body { background: none; font-size: 11pt; }
  main, header { max-width: none; padding: 0; }
  nav, .modebar-container { display: none !important; }
  section { border: 0; padding: 0; margin: 0 0 18pt; }
  figure, .card, tr, .warnings { break-inside: avoid; } h2, h3 { break-after: avoid; }
  .scroll { overflow: visible; border: 0; } table { font-size: 7pt; } th, td { padding: 2pt 3pt; }
  th button::after { content: ""; } .beside { grid-template-columns: minmax(0, 1fr); }
  .foils { grid-template-columns: repeat(4, 1fr); }
  .wide th:nth-child(n+13), .wide td:nth-child(n+13) { display: none; }
}
"""

SCRIPT = """
(() => {
  "use strict";
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const figures = read("figures"), toDark = read("to-dark");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const fine = matchMedia("(pointer: fine)").matches;
  const painted = (node, night) => {
    if (!night) return node;
    if (typeof node === "string") return toDark[node] || node;
    if (Array.isArray(node)) return node.map((item) => painted(item, night));
    if (node === null || typeof node !== "object") return node;
    return Object.fromEntries(Object.entries(node).map(([k, v]) => [k, painted(v, night)]));
  };
  const config = {
    displaylogo: false, responsive: true, displayModeBar: fine ? "hover" : false,
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
  };
  const draw = (night, width) => Promise.all(Object.entries(figures).map(([key, figure]) => {
    const spec = structuredClone(painted(figure, night));
    spec.layout.dragmode = fine ? "zoom" : false;
    const place = document.getElementById(key);
    const room = width || place.clientWidth;
    if (room < 560) {  // a phone: the legend in two columns, the colour bar below
      Object.assign(spec.layout.legend, { entrywidth: 0.48, entrywidthmode: "fraction" });
      spec.layout.legend.font.size = 11;
      spec.layout.height *= spec.layout.height > 300 ? 1.1 : 1;
      spec.data.forEach((trace) => {
        const bar = trace.marker && trace.marker.colorbar;
        if (bar) Object.assign(bar, { orientation: "h", len: 1, y: -0.12, yanchor: "top" });
      });
    }
    if (width) spec.layout.width = Math.min(width, place.clientWidth || width);
    return Plotly.react(place, spec.data, spec.layout, config);
  }));
  draw(dark.matches).then(() => document.documentElement.classList.add("drawn"));
  dark.addEventListener("change", () => draw(dark.matches));
  const printed = 690;  // the text width of an A4 or Letter page, in CSS pixels
  addEventListener("beforeprint", () => {
    document.querySelectorAll("details").forEach((d) => { d.open = true; });
    draw(false, printed);
  });
  addEventListener("afterprint", () => draw(dark.matches));

  const key = (cell) => cell.dataset.v === undefined ? cell.textContent : Number(cell.dataset.v);
  const compare = (a, b) => {
    if (typeof a === "number" && typeof b === "number") return a - b;
    if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
    return a.localeCompare(b);
  };
  document.querySelectorAll("table.sortable").forEach((table) => {
    const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
    heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...body.rows].map((row) => [key(row.cells[column]), row]);
      rows.sort(([a], [b]) => down ? compare(b, a) : compare(a, b));
      body.append(...rows.map(([, row]) => row));
    }));
  });
})();
"""


def style() -> str:
    """The style sheet, with the colours of both themes; a page is printed in the light one."""
    return (
        f":root {{ {variables(dark=False)} }}\n"
        f"@media screen and (prefers-color-scheme: dark) {{ :root {{ {variables(dark=True)} }} }}"
        f"{_STYLE}"
    )
