"""The audit page's style: light and dark by the reader's setting, one column on a phone, nothing loaded."""

STYLE = """
:root { color-scheme: light dark;
  --ink: #1c1e21; --soft: #5a6068; --ground: #ffffff; --panel: #f5f6f8; --line: #d9dde2; --bar: #3467b5;
  --good: #1b6e3a; --good-ground: #e3f4e8; --bad: #a3211c; --bad-ground: #fce6e4; --mark: #c2571a; }
@media (prefers-color-scheme: dark) { :root {
  --ink: #e6e8eb; --soft: #a3abb5; --ground: #15171a; --panel: #1e2125; --line: #363b42; --bar: #7aa7ea;
  --good: #7fd69a; --good-ground: #16321f; --bad: #ff9d95; --bad-ground: #43191a; --mark: #f0a06c; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 88rem; padding: 1rem clamp(.75rem, 3vw, 2rem) 4rem; color: var(--ink);
  background: var(--ground); line-height: 1.5; overflow-wrap: anywhere;
  font-family: system-ui, "Segoe UI", Roboto, "Noto Sans", "Noto Sans Devanagari", "Noto Sans Bengali",
    "Noto Sans Tamil", "Noto Sans Telugu", "Noto Sans Kannada", "Noto Sans Malayalam", "Noto Sans Gujarati",
    "Noto Sans Gurmukhi", "Noto Sans Oriya", sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: .5rem 0; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .5rem; padding-top: .5rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.5rem 0 .25rem; }
p { max-width: 46rem; margin: .4rem 0; }
a { color: var(--bar); }
code { font-size: .9em; }
.soft, caption, figcaption, dt { color: var(--soft); }
.small { font-size: .85rem; }
nav ul { display: flex; flex-wrap: wrap; gap: .25rem .9rem; list-style: none; margin: .75rem 0; padding: 0; }
dl.facts { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; margin: .75rem 0; font-size: .9rem; }
dd { margin: 0; }
.verdict { display: inline-block; padding: 0 .5rem; border-radius: .25rem; font-weight: 600; white-space: nowrap; }
.verdict.good { color: var(--good); background: var(--good-ground); }
.verdict.bad { color: var(--bad); background: var(--bad-ground); }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: .375rem; margin: .75rem 0; }
.scroll:focus-visible, summary:focus-visible, a:focus-visible { outline: 3px solid var(--mark); outline-offset: 2px; }
table { border-collapse: collapse; font-size: .82rem; width: 100%; overflow-wrap: normal; }
caption { text-align: left; padding: .5rem .6rem; }
caption span { display: block; position: sticky; left: .6rem; max-width: min(46rem, calc(100vw - 3.5rem)); }
th, td { padding: .3rem .5rem; text-align: right; border-top: 1px solid var(--line); font-variant-numeric: tabular-nums;
  vertical-align: top; }
thead th { color: var(--soft); font-weight: 600; vertical-align: bottom; line-height: 1.2; min-width: 3.9rem; }
th:first-child, .words { text-align: left; }
td.words { min-width: 14rem; }
tbody th { position: sticky; left: 0; background: var(--ground); font-weight: 600; }
td.bad { color: var(--bad); background: var(--bad-ground); font-weight: 600; }
td.none { color: var(--soft); }
details { border: 1px solid var(--line); border-radius: .375rem; margin: .5rem 0; padding: 0 .75rem; }
details[open] { padding-bottom: .75rem; }
summary { cursor: pointer; padding: .5rem 0; }
summary .soft { margin-left: .5rem; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 17rem), 1fr)); gap: 1rem;
  margin: .5rem 0; }
figure { margin: 0; padding: .5rem .75rem; background: var(--panel); border-radius: .375rem; }
figcaption { font-size: .85rem; }
svg { display: block; width: 100%; height: auto; }
svg .bar { fill: var(--bar); } svg .axis { stroke: var(--soft); stroke-width: 1; }
svg .median { stroke: var(--mark); stroke-width: 2; stroke-dasharray: 4 3; }
svg text { fill: var(--soft); font: 12px system-ui, sans-serif; }
ul.samples { list-style: none; margin: .5rem 0; padding: 0; display: grid; gap: .6rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 22rem), 1fr)); }
ul.samples > li { background: var(--panel); border-radius: .375rem; padding: .6rem .75rem; display: flex;
  flex-direction: column; gap: .25rem; min-width: 0; }
.said { font-size: 1.05rem; }
.found { color: var(--bad); font-size: .9rem; }
audio { width: 100%; height: 2.5rem; margin-top: auto; }
"""
