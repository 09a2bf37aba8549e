"""The style of all pages: light and dark, wide and narrow, on paper. It names no font and no file that would be fetched."""

from __future__ import annotations

COLOURS = {
    "light": (
        "--ground:#fff;--text:#1b1f24;--soft:#57606a;--rule:#d0d7de;--panel:#f6f8fa;--link:#0759b8;"
        "--good:#116329;--good-ground:#e6f6ea;--bad:#a40e26;--bad-ground:#ffebe9;--unknown:#6b4d00;--unknown-ground:#fff5d6;"
        "--s0:#57606a;--s1:#b35900;--s2:#0759b8;--s3:#0f7b52;--s4:#9a3f8f"
    ),
    "dark": (
        "--ground:#14181d;--text:#e6edf3;--soft:#a5afba;--rule:#3a424c;--panel:#1d232b;--link:#79b8ff;"
        "--good:#7ee2a0;--good-ground:#16321f;--bad:#ffaba3;--bad-ground:#40191c;--unknown:#f0cf7a;--unknown-ground:#382d0f;"
        "--s0:#b4bec9;--s1:#ffa657;--s2:#79b8ff;--s3:#5fd8a4;--s4:#e49be0"
    ),
}
"""The colours by name. s0 to s4 are those of lines and marks;
  they can be told apart with the usual colour blindness."""

CHARTS = """
svg.chart { display: block; width: 100%; height: auto; font-size: 13px; }
svg text { fill: var(--soft); }
svg text.label { fill: var(--text); }
svg text.value { fill: var(--text); font-weight: 600; }
svg text.halo { stroke: var(--ground); stroke-width: 4px; paint-order: stroke; fill: var(--text); }
.grid { stroke: var(--rule); stroke-width: .6; }
.axis { stroke: var(--soft); stroke-width: 1; }
.zero { stroke: var(--text); stroke-width: 1.2; }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; }
.line.s0, .mark.s0 { stroke: var(--s0); } .line.s1, .mark.s1 { stroke: var(--s1); }
.line.s2, .mark.s2 { stroke: var(--s2); }
.line.s3, .mark.s3 { stroke: var(--s3); } .line.s4, .mark.s4 { stroke: var(--s4); }
.line.s1 { stroke-dasharray: 2 3; } .line.s2 { stroke-width: 3; } .line.s3 { stroke-dasharray: 9 4; }
.line.s4 { stroke-dasharray: 9 3 2 3; }
.mark { stroke-width: 1.6; fill: var(--ground); }
.mark:hover { stroke-width: 4; }
.hit { fill: transparent; stroke: none; }
.hit:hover { fill: var(--text); }
.bar { fill: var(--s2); }
.rule { stroke: var(--s3); stroke-width: 2; stroke-dasharray: 9 4; }
.rule.r1 { stroke: var(--soft); stroke-dasharray: 2 3; }
.dots { stroke: var(--s2); stroke-width: 3.2; stroke-linecap: round; stroke-opacity: .55; fill: none; }
"""

STYLE = (
    ":root{color-scheme:light dark;"
    + COLOURS["light"]
    + "}\n@media (prefers-color-scheme:dark){:root{"
    + COLOURS["dark"]
    + "}}\n@media print{:root{color-scheme:light;"
    + COLOURS["light"]
    + "}}"
    + """
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; max-width: 62rem;
  margin: 0 auto;
  padding: 1.5rem 1rem 4rem; color: var(--text); background: var(--ground); overflow-wrap: break-word; }
h1 { font-size: 1.55rem; line-height: 1.25; margin: 0 0 .4rem; }
h2 { font-size: 1.2rem; margin: 2.6rem 0 .5rem; padding-top: .8rem; border-top: 1px solid var(--rule); }
h3 { font-size: 1rem; margin: 1.6rem 0 .3rem; }
p { max-width: 46rem; margin: .5rem 0; }
.soft, figcaption { color: var(--soft); } figcaption b { color: var(--text); display: block; }
.lead { font-size: 1.06rem; border-left: 4px solid var(--rule); padding: .6rem .9rem; margin: 1rem 0; max-width: none; }
.lead.good { border-color: var(--good); background: var(--good-ground); }
.lead.bad { border-color: var(--bad); background: var(--bad-ground); }
.lead.unknown { border-color: var(--unknown); background: var(--unknown-ground); }
.tiles { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: .7rem; margin: 1rem 0; padding: 0; }
.tile { list-style: none; background: var(--panel); border: 1px solid var(--rule); border-radius: .5rem;
  padding: .6rem .8rem; }
.tile .name { color: var(--soft); font-size: .85rem; display: block; }
.tile .big { font-size: 1.35rem; font-weight: 650; line-height: 1.3; display: block;
  font-variant-numeric: tabular-nums; }
.tile .about { font-size: .85rem; display: block; line-height: 1.4; overflow-wrap: break-word; }
.good .big { color: var(--good); } .bad .big { color: var(--bad); } .unknown .big { color: var(--unknown); }
.scroll { overflow-x: auto; margin: .8rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .93rem; }
th, td { padding: .35rem .6rem; border-bottom: 1px solid var(--rule); text-align: left; vertical-align: top; }
th { font-weight: 600; } thead th { vertical-align: bottom; }
th.number, td.number { text-align: right; } td.number { white-space: nowrap; }
td:not(.number) { max-width: 34rem; overflow-wrap: break-word; min-width: 4.5rem; } th.short { white-space: nowrap; }
code { font-family: ui-monospace, "SFMono-Regular", Menlo, Consolas, monospace; font-size: .88em;
  overflow-wrap: anywhere; }
pre { overflow-x: auto; background: var(--panel); border: 1px solid var(--rule); border-radius: .4rem;
  padding: .7rem .9rem;
  font-size: .82rem; line-height: 1.45; white-space: pre-wrap; overflow-wrap: anywhere;
  columns: 2 22rem; column-rule: 1px solid var(--rule); }
dl.terms { font-size: .88rem; line-height: 1.45; margin: .6rem 0 1rem; columns: 2 24rem; column-gap: 2.2rem;
  color: var(--soft); }
dl.terms div { margin: 0 0 .35rem; break-inside: avoid; }
dl.terms dt { display: inline; font-weight: 600; color: var(--text); }
dl.terms dt::after { content: ": "; } dl.terms dd { display: inline; margin: 0; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: 1.6rem 2.2rem;
  margin: 1.2rem 0; }
figure { margin: 0; max-width: 34rem; break-inside: avoid; }
figcaption { font-size: .88rem; line-height: 1.45; margin-bottom: .5rem; }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: .1rem 1rem; margin: .4rem 0 0; padding: 0;
  font-size: .85rem; }
.legend svg { width: 30px; height: 12px; margin-right: .4rem; }
@media screen and (max-width: 44rem) {
  thead { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
  table, tbody, tr, td, tbody th { display: block; width: 100%; }
  tr { border: 1px solid var(--rule); border-radius: .5rem; margin: 0 0 .7rem; padding: .35rem .7rem;
    background: var(--panel); }
  td, tbody th, td.number { border: 0; padding: .12rem 0; text-align: left; white-space: normal; max-width: none;
    min-width: 0; overflow-wrap: anywhere; }
  td[data-label]::before { content: attr(data-label) ": "; color: var(--soft); }
  tbody th { font-size: 1rem; }
  table.pairs tr { display: grid; grid-template-columns: minmax(6rem, 2fr) 3fr; gap: 0 .8rem; border: 0; margin: 0;
    padding: .2rem 0;
    border-bottom: 1px solid var(--rule); border-radius: 0; background: none; }
  table.pairs tbody th { font-size: .93rem; } table.pairs td::before { content: none; }
  .tiles { grid-template-columns: repeat(2, minmax(0, 1fr)); } td:empty { display: none; }
}
@page { margin: 14mm; }
@media print {
  body { font-size: 10.5pt; padding: 0; max-width: none; } h2 { break-after: avoid; }
  tr, .tile, .lead { break-inside: avoid; }
  table { font-size: 8.5pt; } th, td { padding: .2rem .4rem; } td.number, th.number { white-space: normal; }
  .scroll { overflow: visible; } pre { font-size: 7.5pt; } .figures { grid-template-columns: 1fr 1fr; gap: 1rem; }
}
"""
    + CHARTS
)
