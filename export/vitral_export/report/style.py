"""How report.html looks: on a telephone, on a desk, in the dark, on paper."""

from __future__ import annotations

STYLE = """
:root { color-scheme: light dark; --page: #fbfbf9; --card: #fff; --ink: #1d2328; --quiet: #5a646d;
  --rule: #dcdfe1; --good: #17694d; --fill: #2f8f6c; --tint: 47 143 108; --track: #e6eae8;
  --bad: #b3261e; --note: #fff4d6; --edge: #c98a00; --torch: #8a4fbf; }
@media (prefers-color-scheme: dark) { :root { --page: #14181b; --card: #1b2024; --ink: #e4e8ea;
  --quiet: #a3adb5; --rule: #343c42; --good: #6fd3ab; --fill: #46a985; --tint: 70 169 133; --track: #2a3237;
  --bad: #ff8a80; --note: #3a3016; --edge: #e0a800; --torch: #c79bf0; } }
* { box-sizing: border-box; }
body { font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", sans-serif; color: var(--ink);
  background: var(--page); margin: 0 auto; max-width: 70rem;
  padding: 1.5rem clamp(1rem, 4vw, 2.5rem) 3rem; overflow-wrap: anywhere; }
h1 { font-size: clamp(1.5rem, 5vw, 2.2rem); line-height: 1.2; margin: 0 0 1rem; }
h2 { font-size: 1.35rem; margin: 2.6rem 0 .6rem; padding-top: .9rem; border-top: 1px solid var(--rule); }
h3 { font-size: 1rem; font-weight: 600; color: var(--ink); }
h3 { margin: 1.6rem 0 .2rem; }
p { margin: .4rem 0 .8rem; max-width: 46rem; }
a { color: inherit; }
code { font: .92em ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
ul { padding-left: 1.2rem; max-width: 46rem; }
.quiet, figcaption, .kicker { color: var(--quiet); font-size: .9rem; }
.kicker { margin: 0; }
.verdict { border-left: .4rem solid var(--fill); background: var(--card); padding: .9rem 1.1rem;
  border-radius: .3rem; box-shadow: 0 0 0 1px var(--rule); }
.verdict strong { display: block; font-size: 1.3rem; color: var(--good); line-height: 1.3; }
.verdict p { margin: .3rem 0 0; }
.verdict.bad { border-color: var(--bad); }
.verdict.bad strong, .over { color: var(--bad); font-weight: 700; }
.loud { background: var(--note); border-left: .4rem solid var(--edge); padding: .6rem 1rem; margin: .8rem 0;
  max-width: none; border-radius: .3rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(max(9.5rem, 22%), 1fr)); gap: .6rem;
  margin: .8rem 0; }
.tiles div { background: var(--card); box-shadow: 0 0 0 1px var(--rule); border-radius: .3rem;
  padding: .6rem .8rem; }
.tiles dt { color: var(--quiet); font-size: .85rem; }
.tiles dd { margin: 0; font-size: 1.08rem; font-weight: 600; line-height: 1.35; }
.tiles dd code { font-weight: 600; }
nav ul { list-style: none; display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; padding: 0; margin: 1rem 0 0;
  font-size: .92rem; max-width: none; }
.pair { display: grid; gap: 1.5rem 2.5rem; margin-bottom: 1.4rem; }
.pair > * { min-width: 0; }
@media (min-width: 56rem) { .pair.pictured { grid-template-columns: minmax(0, 1fr) 24rem; } }
.wide { overflow-x: auto; margin: 0 0 1rem; }
.wide:focus-visible { outline: 2px solid var(--fill); }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .93rem; }
th, td { text-align: left; padding: .4rem .9rem .4rem 0; border-bottom: 1px solid var(--rule);
  vertical-align: top; }
thead th { color: var(--quiet); font-weight: 600; vertical-align: bottom; }
tbody th { font-weight: 600; }
.wide td, .wide thead th { white-space: nowrap; }
.wide td.prose { white-space: normal; min-width: 15rem; }
.wide tbody th { max-width: 19rem; overflow-wrap: break-word; }
.bars tbody th { white-space: nowrap; }
.names tbody th { min-width: 10.5rem; }
.shares tbody th { min-width: 8.5rem; }
.wide tbody .group th { max-width: none; white-space: nowrap; }
.group th { padding: .7rem 0 .2rem; border-bottom: 0; }
.group ~ tr > th { font-weight: 400; }
th small, h3 small { font-weight: 400; color: var(--quiet); }
th small { display: block; }
.group small { display: inline; font-size: 1em; }
.facts { width: 100%; max-width: 46rem; }
.facts th { white-space: nowrap; width: 8rem; }
.shares td, .shares thead th { text-align: right; padding: .4rem .7rem; }
.shares th:first-child { padding-left: 0; }
.shares thead tr + tr th:first-child { padding-left: .7rem; }
.shares td { border: 1px solid var(--page);
  background: rgb(var(--tint) / calc(.06 + .5 * var(--share, 0))); }
.shares thead th[colspan] { text-align: center; border-bottom: 0; }
.shares thead th[rowspan], .shares tbody th { text-align: left; }
.used { display: flex; gap: .6rem; align-items: center; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr));
  gap: 1.6rem; margin: 1rem 0; }
.maps { grid-template-columns: repeat(auto-fill, minmax(min(100%, 15rem), 1fr)); }
figure { margin: 0; break-inside: avoid; }
figure h3 { margin: 0 0 .4rem; font-size: .95rem; }
.maps h3 small { display: block; }
figcaption { margin-top: .4rem; }
svg { display: block; height: auto; font: 11px system-ui, sans-serif; }
.chart { width: 100%; max-width: 26rem; overflow: visible; }
.map { max-width: 100%; }
.bar { width: clamp(7rem, 22vw, 14rem); height: 1.1rem; }
svg text { fill: var(--ink); }
svg .axis { fill: var(--quiet); }
.halo { paint-order: stroke; stroke: var(--page); stroke-width: 3px; }
.track { fill: var(--track); }
.fill { fill: var(--fill); }
.fill.full { fill: var(--bad); }
.line { stroke: var(--rule); fill: none; }
.ink { stroke: var(--ink); fill: none; }
.torch { stroke: var(--torch); fill: none; }
.limit { stroke: var(--bad); fill: none; }
.ring { stroke: var(--bad); fill: none; stroke-width: 2; }
.photograph { width: 100%; max-width: 34rem; height: auto; display: block; }
footer { margin-top: 3rem; padding-top: .8rem; border-top: 1px solid var(--rule); }
@media print {
  :root { color-scheme: light; --page: #fff; --card: #fff; --ink: #000; --quiet: #444; --rule: #bbb;
    --good: #17694d; --fill: #2f8f6c; --tint: 47 143 108; --track: #e6eae8; --bad: #b3261e; --note: #fff4d6;
    --edge: #c98a00; --torch: #8a4fbf; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  body { font-size: 10pt; max-width: none; padding: 0; }
  nav { display: none; }
  .wide { overflow: visible; }
  .wide table { font-size: 8pt; }
  .wide thead th { white-space: normal; }
  .wide td.prose, .wide tbody th { min-width: 0; }
  .shares td, .shares thead th { padding: .2rem .3rem; }
  h2, h3, .group { break-after: avoid; }
  .photograph { max-width: 18rem; }
  tr, .verdict, .tiles, .photograph { break-inside: avoid; }
}
"""
"""The style sheet. Charts take their colours from it: light, dark and paper need no second drawing."""
