"""How a report looks: on a screen, by day and by night, on a phone and on paper."""

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #fdfcfa; --ink: #1d2026; --soft: #5c626d; --line: #dcdad4; --tint: #f3f1ec;
  --best: #e6eef6; --link: #00458a;
  --color-0: #004488; --color-1: #ddaa33; --color-2: #bb5566;
  --color-3: #2a8f6a; --color-4: #59b4d9; --color-5: #8a8f98;
  --serif: Charter, "Bitstream Charter", "Iowan Old Style", "Source Serif 4", Georgia, "Liberation Serif", serif;
  --sans: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Liberation Sans", Arial, sans-serif;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --paper: #15171b; --ink: #e4e2dd; --soft: #a0a5ae; --line: #363a42; --tint: #1e2126;
    --best: #22344a; --link: #8fbcf0;
    --color-0: #6ea6e0; --color-1: #eecc66; --color-2: #ee99aa;
    --color-3: #63c5a0; --color-4: #a7dff5; --color-5: #9aa0aa;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body {
  margin: 0 auto; padding: 3.5rem 1.25rem 4rem; max-width: 68.75rem;
  background: var(--paper); color: var(--ink); font: 1.0625rem/1.6 var(--serif);
}
h1, h2 { font-weight: 600; line-height: 1.2; text-wrap: balance; overflow-wrap: anywhere; }
h1 { margin: 0; font-size: 2.25rem; letter-spacing: -0.01em; }
h2 { margin: 0 0 1rem; font-size: 1.5rem; scroll-margin-top: 1rem; }
p { margin: 0 0 1rem; max-width: 42rem; overflow-wrap: break-word; }
a { color: var(--link); text-underline-offset: 0.2em; text-decoration-thickness: 1px; }
.subtitle { margin: 0.5rem 0 0; color: var(--soft); font-size: 1.1875rem; line-height: 1.45; }
nav { margin-top: 2rem; padding: 1rem 0; border: solid var(--line); border-width: 1px 0; }
nav { font: 0.9375rem/1.5 var(--sans); }
nav ol { margin: 0; padding: 0; columns: 15rem; column-gap: 2.5rem; list-style: none; counter-reset: entry; }
nav li { counter-increment: entry; padding: 0.125rem 0 0.125rem 2em; text-indent: -2em; break-inside: avoid; }
nav li, nav a { overflow-wrap: anywhere; }
nav li::before {
  content: counter(entry); display: inline-block; width: 2em; text-indent: 0; color: var(--soft);
  font-variant-numeric: tabular-nums;
}
nav a { text-decoration: none; }
nav a:hover { text-decoration: underline; }
main > section { margin-top: 3.5rem; }
.notes { margin: 0 0 1rem; padding-left: 1.25em; max-width: 46rem; color: var(--soft); font: 0.875rem/1.5 var(--sans); }
.notes li { margin-bottom: 0.25rem; overflow-wrap: break-word; }
footer { margin-top: 4rem; padding-top: 1rem; border-top: 1px solid var(--line); }
footer p { color: var(--soft); font: 0.875rem/1.5 var(--sans); overflow-wrap: anywhere; }

figure { margin: 0 0 2rem; }
figcaption { margin-bottom: 0.625rem; max-width: 46rem; font: 600 0.9375rem/1.45 var(--sans); }
.remark { display: block; color: var(--soft); font-weight: 400; font-size: 0.875rem; }
.remark::first-letter { text-transform: uppercase; }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 27rem), 1fr)); gap: 0 2.5rem; }
.columns > div { min-width: 0; }
.scroll { max-width: 100%; overflow-x: auto; }
.scroll:focus-visible, a:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }

table { border-collapse: separate; border-spacing: 0; }
table { font: 0.9375rem/1.4 var(--sans); font-variant-numeric: lining-nums tabular-nums; }
th { font-weight: 400; text-align: left; }
.scores { border: solid var(--ink); border-width: 1.5px 0; }
.scores thead th {
  padding: 0.5rem 0.75rem; border-bottom: 1px solid var(--ink); color: var(--soft); font-size: 0.875em;
  vertical-align: bottom;
}
.scores td, .scores tbody th { padding: 0.375rem 0.75rem; vertical-align: baseline; }
.scores tbody tr + tr > * { border-top: 1px solid var(--line); }
.scores tr > :first-child { padding-left: 0.25rem; }
.scores tbody th { position: sticky; left: 0; background: var(--paper); min-width: 9rem; max-width: 24rem; }
.scores .group th { padding-top: 1rem; font-weight: 600; position: static; max-width: none; }
.scores .group + tr > * { border-top-color: transparent; }
.scores thead .number { text-align: right; }
.scores td:not(.number) { min-width: 9rem; }
.scores td.number { text-align: right; white-space: nowrap; }
.spread { display: inline-block; text-align: left; color: var(--soft); font-size: 0.875em; white-space: pre; }
.best { background: var(--best); }
.best strong { font-weight: 700; }
.missing { color: var(--soft); }

.key { display: flex; flex-wrap: wrap; gap: 0.25rem 1.125rem; margin: 0 0 0.75rem; padding: 0; list-style: none; }
.key { font: 0.875rem/1.4 var(--sans); max-width: 60rem; }
.key li { display: flex; align-items: center; gap: 0.4375rem; }
.swatch { width: 0.75rem; height: 0.75rem; flex: none; overflow: visible; }
.swatch [fill] { stroke: var(--soft); stroke-width: 0.75; }
.swatch.line { width: 1.5rem; }
.chart { container-type: inline-size; max-width: 47.5rem; }
.drawing { display: block; width: 100%; height: auto; font: 12px var(--sans); font-variant-numeric: tabular-nums; }
.drawing text { fill: var(--ink); }
.drawing .tick, .drawing .missing { fill: var(--soft); }
.drawing .middle { dominant-baseline: central; }
.drawing .end { text-anchor: end; }
.drawing .centre { text-anchor: middle; }
.grid { stroke: var(--line); }
.zero { stroke: var(--soft); }
.curve { fill: none; stroke: var(--color); stroke-width: 1.75; stroke-linejoin: round; stroke-linecap: round; }
.dashed .curve { stroke-dasharray: 5 4; }
rect[class], circle { fill: var(--color); }
.series-0 { --color: var(--color-0); } .series-1 { --color: var(--color-1); } .series-2 { --color: var(--color-2); }
.series-3 { --color: var(--color-3); } .series-4 { --color: var(--color-4); } .series-5 { --color: var(--color-5); }
@container (max-width: 34rem) { .drawing { font-size: 14px; } }
@container (max-width: 27rem) { .drawing { font-size: 17px; } }

img { display: block; max-width: 100%; height: auto; border-radius: 2px; background: var(--tint); }
.pictures { width: calc(100% + 0.5rem); table-layout: fixed; }
.pictures td, .pictures th { padding: 0 0.5rem 0.5rem 0; vertical-align: top; }
.pictures thead th { color: var(--soft); font-size: 0.875rem; }
.pictures .group th { padding-top: 0.25rem; font-weight: 600; font-size: 0.875rem; }
.pictures figure { margin: 0; }
.pictures figcaption { display: none; }
.pictures img, .gallery img { width: 100%; }
.gallery {
  display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 15rem), 1fr)); gap: 1.25rem 1rem;
  margin: 0; padding: 0; list-style: none;
}
.gallery figure { margin: 0; }
.gallery figcaption {
  margin: 0.375rem 0 0; color: var(--soft); font-size: 0.8125rem; font-weight: 400; overflow-wrap: anywhere;
}

.facts {
  display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr)); gap: 0.375rem 2.5rem;
  margin: 0 0 2rem; padding: 1rem 1.25rem; background: var(--tint); border-radius: 4px; font: 0.875rem/1.5 var(--sans);
}
.facts div { display: grid; grid-template-columns: 7.5rem 1fr; gap: 0.75rem; }
.facts dt { color: var(--soft); overflow-wrap: anywhere; }
.facts dd { margin: 0; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }

@media screen and (max-width: 40rem) {
  body { padding: 2rem 1rem 3rem; font-size: 1rem; }
  h1 { font-size: 1.75rem; }
  h2 { font-size: 1.3125rem; }
  .scores { font-size: 0.875rem; }
  .scores tbody th { min-width: 7.5rem; max-width: 10rem; }
  .pictures, .pictures tbody { display: block; width: 100%; }
  .pictures thead { display: none; }
  .pictures tr { display: grid; grid-template-columns: 1fr 1fr; gap: 0.625rem 0.5rem; margin-bottom: 1.25rem; }
  .pictures .group { display: block; margin: 0; }
  .pictures td, .pictures th { padding: 0; }
  .pictures .group th { display: block; padding-bottom: 0.375rem; }
  .pictures td:empty { display: none; }
  .pictures figcaption { display: block; margin: 0.25rem 0 0; color: var(--soft); font: 0.75rem/1.4 var(--sans); }
  .gallery { grid-template-columns: 1fr 1fr; gap: 1rem 0.5rem; }
}

@page { size: A4; margin: 18mm 15mm; }
@media print {
  :root { color-scheme: light; --paper: #fff; --ink: #000; --soft: #444; --line: #ccc; --tint: #fff; --link: #000; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  body { max-width: none; padding: 0; font-size: 10pt; line-height: 1.45; }
  h1 { font-size: 20pt; }
  h2 { font-size: 14pt; break-after: avoid; }
  main > section { margin-top: 9mm; }
  p, .notes li { orphans: 3; widows: 3; }
  p { margin-bottom: 3mm; }
  figure { margin-bottom: 6mm; }
  .subtitle { font-size: 11pt; }
  nav, .notes, .facts, footer p { font-size: 9pt; }
  nav { margin-top: 5mm; padding: 2.5mm 0; }
  footer { margin-top: 9mm; }
  nav { break-inside: avoid; }
  figcaption, .remark, .pictures thead th, .pictures .group th { font-size: 9pt; break-after: avoid; }
  .gallery figcaption { font-size: 8pt; }
  .scroll { overflow: visible; }
  .scores { font-size: min(9pt, calc(180mm / var(--characters) / 0.54)); }
  .scores tr > :not(:first-child) { padding-left: 1.5mm; padding-right: 1.5mm; }
  .scores td, .scores tbody th { padding-top: 0.25em; padding-bottom: 0.25em; }
  .scores tbody th { position: static; min-width: 11em; }
  thead { display: table-header-group; }
  tr, figcaption, .chart, .gallery li, .pictures tbody, .key, .facts { break-inside: avoid; }
  thead, .scores .group { break-after: avoid; }
  .chart { max-width: 150mm; }
  .drawing { max-height: 200mm; }
  img { max-height: 220mm; object-fit: contain; }
  .columns { grid-template-columns: 1fr 1fr; gap: 0 8mm; }
  .facts { display: block; columns: 2; column-gap: 8mm; padding: 3mm 4mm; border: 1px solid var(--line); }
  .facts div { grid-template-columns: 20mm 1fr; break-inside: avoid; }
  .gallery { grid-template-columns: repeat(3, 1fr); gap: 5mm 4mm; }
  .key { font-size: 8pt; }
}
"""
