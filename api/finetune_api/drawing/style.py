"""The style sheet of the trainer's report and of the operator's page."""

from typing import Final

STYLE: Final = """
:root{color-scheme:light dark;--page:#f6f7f9;--card:#fff;--text:#1b2430;--muted:#56616f;--edge:#dfe3e8;--grid:#e8ebef;
--a:#1f5fbf;--b:#b4480f;--good:#17693a;--bad:#a8281f;--code:#f0f2f5}
@media (prefers-color-scheme:dark){:root{--page:#12161c;--card:#1a2028;--text:#e4e9ef;--muted:#9aa6b4;--edge:#2c3540;--grid:#28313b;
--a:#78aef5;--b:#f2a06b;--good:#6fcf97;--bad:#f08a80;--code:#222a34}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--text);font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,Ubuntu,Cantarell,sans-serif}
main,header,footer{max-width:1120px;margin:0 auto;padding:0 24px}
header{padding-top:36px}
h1{font-size:1.9rem;line-height:1.2;margin:0 0 4px;overflow-wrap:anywhere}
h2{font-size:1.25rem;margin:40px 0 14px}
h3{font-size:.8rem;margin:0 0 6px;color:var(--muted);font-weight:600;letter-spacing:.02em}
p{margin:0 0 10px}
a{color:var(--a)}
.skip{position:absolute;left:-9999px}
.skip:focus{left:24px;top:12px;background:var(--card);padding:8px 12px;border:2px solid var(--a);border-radius:6px}
:focus-visible{outline:3px solid var(--a);outline-offset:2px;border-radius:4px}
.muted{color:var(--muted)}
.lead{color:var(--muted);max-width:75ch;overflow-wrap:anywhere}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(158px,1fr));gap:14px;margin:26px 0 0;padding:0}
.tile{background:var(--card);border:1px solid var(--edge);border-radius:10px;padding:14px 16px}
.tile dt{color:var(--muted);font-size:.86rem}
.tile dd{margin:2px 0 0;font-size:1.45rem;font-weight:620;font-variant-numeric:tabular-nums;line-height:1.25}
.tile .sub{display:block;font-size:.86rem;font-weight:400;color:var(--muted)}
.good{color:var(--good)}.bad{color:var(--bad)}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(480px,100%),1fr));gap:16px}
.charts .wide{grid-column:1/-1}
figure,.card{margin:0;background:var(--card);border:1px solid var(--edge);border-radius:10px;padding:16px 18px;min-width:0}
figcaption{font-weight:600;margin-bottom:6px}
svg{display:block;width:100%;height:auto}
.grid{stroke:var(--grid);stroke-width:1}
.tick{fill:var(--muted);font-size:12px;font-variant-numeric:tabular-nums}
.line{fill:none;stroke-width:2;stroke-linejoin:round;stroke-linecap:round}
.line.a{stroke:var(--a)}.line.b{stroke:var(--b);stroke-dasharray:7 4}.line.raw{stroke:var(--a);opacity:.28;stroke-width:1.2}
.dot.a{fill:var(--a)}.dot.b{fill:var(--b)}.dot.raw{fill:var(--a)}
.legend{display:flex;flex-wrap:wrap;gap:4px 18px;list-style:none;margin:0 0 4px;padding:0;font-size:.88rem;color:var(--muted)}
.legend li::before{content:"";display:inline-block;width:22px;height:0;border-top:3px solid var(--a);margin-right:7px;vertical-align:middle}
.legend .b::before{border-top:3px dashed var(--b)}.legend .raw::before{opacity:.35}
details{margin-top:10px}
summary{cursor:pointer;color:var(--muted);font-size:.9rem}
.scroll{overflow:auto;max-height:320px;margin-top:8px}
table{border-collapse:collapse;width:100%;font-size:.92rem;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:6px 14px 6px 0;border-bottom:1px solid var(--edge);vertical-align:top}
td{overflow-wrap:anywhere}
tbody th{font-weight:500;color:var(--muted);white-space:nowrap}
tr:last-child th,tr:last-child td{border-bottom:0}
.sample{margin-bottom:16px}
pre{margin:0;white-space:pre-wrap;overflow-wrap:anywhere;font:.88rem/1.5 ui-monospace,"SFMono-Regular",Menlo,Consolas,monospace;
background:var(--code);border-radius:6px;padding:10px 12px}
.answers{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(280px,100%),1fr));gap:14px;margin-top:14px}
.answers section{min-width:0}
.after h3{color:var(--a)}.after pre{box-shadow:inset 3px 0 0 var(--a)}
.columns{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(420px,100%),1fr));gap:16px}
.meter{display:inline-block;width:130px;max-width:100%;height:9px;border-radius:5px;background:var(--grid);vertical-align:middle;margin-right:10px;overflow:hidden}
.meter span{display:block;height:100%;background:var(--a)}
.meter.base span{background:var(--muted)}
footer{color:var(--muted);font-size:.88rem;padding-top:34px;padding-bottom:44px}
@media (max-width:760px){.wide{overflow-x:auto}.wide svg{min-width:680px}}
@media (max-width:560px){main,header,footer{padding-left:14px;padding-right:14px}tbody th{white-space:normal}}
@media print{body{background:#fff}details{display:none}figure,.card,.tile{break-inside:avoid}}
"""
