"""How the report's page looks, on a screen and on paper."""

STYLE = """
:root { --ink: #1d2530; --pale: #5b6675; --line: #d9dfe6; --soft: #f5f7f9; --link: #0b5c9e; }
* { box-sizing: border-box; }
body { margin: 0; color: var(--ink); background: #fff;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", "Helvetica Neue", "DejaVu Sans", Arial, sans-serif; }
main, header, footer { max-width: 64rem; margin: 0 auto; padding: 0 1.5rem; }
header { padding-top: 2.5rem; }
h1 { font-size: 1.75rem; line-height: 1.25; margin: 0 0 .4rem; font-weight: 650; }
h2 { font-size: 1.25rem; font-weight: 650; margin: 3rem 0 .3rem; padding-top: .9rem;
  border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.6rem 0 .4rem; font-weight: 650; }
p { max-width: 46rem; margin: .5rem 0; }
.pale, figcaption, caption { color: var(--pale); }
nav { margin: 1rem 0 0; font-size: .9rem; }
nav a { margin-right: 1.1rem; white-space: nowrap; }
a { color: var(--link); }
:focus-visible { outline: 3px solid var(--link); outline-offset: 2px; }
figure { margin: .8rem 0 1.2rem; }
figcaption, caption { font-size: .9rem; text-align: left; margin-bottom: .3rem; }
svg { display: block; width: 100%; height: auto; font-family: inherit; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.4rem; list-style: none; font-size: .9rem;
  margin: .8rem 0 0; padding: 0; }
.legend i { display: inline-block; width: .8rem; height: .8rem; margin-right: .45rem; border-radius: 2px;
  vertical-align: -1px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; margin: .6rem 0 1rem; }
th, td { padding: .28rem .9rem .28rem 0; text-align: right; vertical-align: baseline;
  border-bottom: 1px solid var(--line); }
th { font-weight: 600; }
th:first-child, td.text, th.text { text-align: left; }
thead th { border-bottom: 1.5px solid var(--ink); }
td small { color: var(--pale); white-space: nowrap; }
td b { font-weight: 600; }
details { margin: .4rem 0 1rem; }
summary { cursor: pointer; color: var(--link); font-size: .9rem; }
.missing { color: #9b2c1c; font-weight: 600; }
article { border: 1px solid var(--line); border-radius: 6px; padding: .7rem 1rem .9rem; margin: .8rem 0;
  break-inside: avoid; }
article h4 { margin: 0 0 .2rem; font-size: .95rem; overflow-wrap: anywhere; }
article .where { margin: 0 0 .5rem; font-size: .85rem; color: var(--pale); }
dl { display: grid; grid-template-columns: minmax(6rem, max-content) 1fr; gap: .35rem 1rem; margin: 0; }
dt { font-size: .85rem; color: var(--pale); max-width: 14rem; overflow-wrap: anywhere; }
dd { margin: 0; min-width: 0; }
pre { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; unicode-bidi: isolate;
  font: .85rem/1.45 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
pre.prompt { background: var(--soft); padding: .5rem .7rem; border-radius: 4px; max-height: 16rem; overflow-y: auto; }
footer { margin: 3rem auto; padding-top: .9rem; font-size: .85rem; color: var(--pale);
  border-top: 1px solid var(--line); }
@media print {
  body { font-size: 11px; } main, header, footer { max-width: none; padding: 0; } nav { display: none; }
  h2, h3 { break-after: avoid; } figure, tr { break-inside: avoid; } figure.long { break-inside: auto; }
  details::details-content { content-visibility: visible; display: block; } summary { color: var(--pale); }
  pre.prompt { max-height: none; } * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""
