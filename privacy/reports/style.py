"""How a report looks, on a screen and on A4."""

from __future__ import annotations

from typing import Final

STYLE: Final = """
:root{--ink:#1b2733;--muted:#5d6b7a;--rule:#d5dce3;--blue:#1d5fa7;--red:#b42318;--green:#17713c;--amber:#8a5a00}
*{box-sizing:border-box}
html{background:#eef1f4;font-size:15px}
body{margin:2rem auto;max-width:60rem;padding:3rem 3.2rem;background:#fff;color:var(--ink);
 font:1rem/1.5 "Source Sans 3","Segoe UI",system-ui,"Helvetica Neue",Arial,"DejaVu Sans",sans-serif;
 box-shadow:0 1px 8px rgba(27,39,51,.12);overflow-wrap:break-word}
h1,h2,h3,h4{line-height:1.2;break-after:avoid;break-inside:avoid;text-wrap:balance}
h1{font-size:1.9rem;margin:.2rem 0 .3rem;letter-spacing:-.01em}
h2{font-size:1.35rem;margin:2.8rem 0 .8rem;padding-top:.7rem;border-top:2px solid var(--ink)}
h3{font-size:1.1rem;margin:2rem 0 .5rem}
h4{font-size:.95rem;margin:1.3rem 0 .4rem}
p,ul,ol,dl{margin:.5rem 0}
ul,ol{padding-left:1.25rem}
li{margin:.2rem 0}
.muted,figcaption,.origin{color:var(--muted)}
.kicker{color:var(--muted);font-size:.78rem;letter-spacing:.09em;text-transform:uppercase;margin:0}
.small,figcaption,.origin{font-size:.85rem}
code,pre{font:.82em/1.45 ui-monospace,"SF Mono",Consolas,"DejaVu Sans Mono",monospace}
pre{break-inside:avoid;white-space:pre-wrap;border:1px solid var(--rule);padding:.7rem .9rem;margin:.4rem 0}
.command{background:#f6f8fa}
.verdict{display:flex;gap:1.2rem;align-items:center;margin:1.4rem 0;padding:1rem 1.3rem;border:2px solid;
 border-left-width:12px;break-inside:avoid}
.verdict strong{display:block;font-size:1.7rem;line-height:1.15;letter-spacing:.02em}
.verdict span{color:var(--ink)}
.verdict .sign{font-size:2.6rem;line-height:1;width:2.6rem;text-align:center;color:inherit;flex:none}
.pass{color:var(--green)}.violation{color:var(--red)}.incomplete{color:var(--amber)}
.problems{border-left:4px solid var(--red);padding-left:1rem}
.counts{display:flex;flex-wrap:wrap;gap:.3rem 2.2rem;margin:.4rem 0 1rem;padding:0;list-style:none}
.counts b{font-size:1.25rem;margin-right:.3rem}
table{border-collapse:collapse;width:100%;margin:.6rem 0;font-size:.9rem;font-variant-numeric:tabular-nums}
th{overflow-wrap:normal!important;font-size:.76rem;font-weight:600;color:var(--muted);text-align:left;vertical-align:bottom;
 border-bottom:1.5px solid var(--ink)}
td{border-bottom:1px solid var(--rule);vertical-align:top}
th,td{min-width:4.8em;overflow-wrap:anywhere;padding:.34rem .6rem .34rem 0}
th:last-child,td:last-child{padding-right:0}
.n{text-align:right;white-space:nowrap;min-width:0}
code,h3,h4,dd,li,p{overflow-wrap:anywhere}
time{white-space:nowrap}
tr{break-inside:avoid}
thead{display:table-header-group}
.total td{font-weight:600}
.flag{display:inline-block;font-size:.72rem;font-weight:600;border:1px solid;border-radius:3px;padding:0 .35em;
 margin-right:.3em;white-space:nowrap}
.bad{color:var(--red)}.warn{color:var(--amber)}.good{color:var(--green)}
dl{display:grid;gap:.15rem 1.5rem}
dl>div{display:grid;grid-template-columns:minmax(8rem,13rem) 1fr;gap:1rem;border-bottom:1px solid var(--rule);
 padding:.2rem 0;break-inside:avoid}
dt{color:var(--muted);font-size:.88rem}
dd{margin:0;min-width:0}
dd dl{margin:0}
dd dl>div:last-child{border-bottom:0}
figure{margin:.6rem 0;break-inside:avoid}
svg{display:block;width:100%;height:auto}
svg text{font-size:10px}
svg.bar{width:8.5rem;height:.85rem;margin:.2rem 0 0 .8rem}
.pictures{display:grid;grid-template-columns:560fr 236fr;gap:1.4rem;align-items:start;break-inside:avoid}
.plain h3{margin-top:.2rem}
header .plain{break-inside:auto!important}
.plain{border-left:4px solid var(--blue);padding:.1rem 0 .1rem 1rem;margin:1rem 0;break-inside:avoid}
nav ol{columns:2;column-gap:2.5rem;font-size:.92rem;margin:0}nav li{margin:0;padding:.1rem 0}
a{color:var(--blue);text-decoration:none}
.signoff{display:grid;grid-template-columns:1fr 1fr;gap:2.6rem 2rem;margin-top:2.6rem;break-inside:avoid}
.signoff div{border-top:1px solid var(--ink);padding-top:.3rem;font-size:.85rem;color:var(--muted)}
@media (max-width:46rem){body{margin:0;padding:1.2rem}.pictures{grid-template-columns:1fr}nav ol{columns:1}
 .scroll{overflow-x:auto}}
@media print{
 html,body{background:#fff}
 html{font-size:9.4pt}
 body{margin:0;padding:0;max-width:none;box-shadow:none;line-height:1.42}
 h2{margin-top:1.8rem}
 .cover,.department{break-after:page}
 .pass,.violation,.incomplete,svg,.flag{-webkit-print-color-adjust:exact;print-color-adjust:exact}
 nav{display:none}
 a{color:inherit}
 p,li{orphans:3;widows:3}
}
@page{size:A4;margin:17mm 15mm 18mm}
@page{@bottom-left{font:7.5pt sans-serif;color:#5d6b7a}@bottom-right{font:7.5pt sans-serif;color:#5d6b7a}}
"""
