// How the page looks, light and dark.

/** @internal */
export const style = `
:root {
  color-scheme: light dark;
  --ground: #f5f6f8; --card: #ffffff; --line: #dde1e7; --ink: #1a2230; --soft: #5c6778; --faint: #97a1b0;
  --good: #0f8a5f; --good-wash: #e2f5ec; --busy: #2563c9; --busy-wash: #e5eefc; --warn: #b26a00; --warn-wash: #fdf1dc;
  --bad: #c4314b; --bad-wash: #fce6ea; --idle: #5c6778; --idle-wash: #eceff3; --grid: #e9ecf1;
  --p1: #c4314b; --p2: #d9822b; --p3: #2563c9; --p4: #0f8a5f; --p5: #7a52c7;
  --shadow: 0 1px 2px rgb(20 30 50 / 6%), 0 4px 16px rgb(20 30 50 / 5%);
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #0e131b; --card: #161d28; --line: #273142; --ink: #e6ebf3; --soft: #9ba8ba; --faint: #66738a;
    --good: #3fce96; --good-wash: #12332a; --busy: #6ea8ff; --busy-wash: #16294a; --warn: #f0b14e; --warn-wash: #3a2b10;
    --bad: #ff7088; --bad-wash: #421a24; --idle: #9ba8ba; --idle-wash: #222b39; --grid: #202937;
    --p1: #ff7088; --p2: #f0a05a; --p3: #6ea8ff; --p4: #3fce96; --p5: #b394f5;
    --shadow: none;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--ground); color: var(--ink);
  font: 15px/1.45 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; font-variant-numeric: tabular-nums;
}
main { max-width: 1160px; margin: 0 auto; padding: 0 20px 48px; }
header { display: flex; align-items: center; gap: 12px; padding: 20px 0 16px; }
header svg { width: 30px; height: 30px; flex: none; }
header h1 { font-size: 18px; font-weight: 650; margin: 0; letter-spacing: -0.01em; }
header .feed { margin-left: auto; color: var(--soft); font-size: 13px; display: flex; align-items: center; gap: 7px; }
header .feed::before { content: ""; width: 8px; height: 8px; border-radius: 50%; background: var(--faint); }
header .feed[data-on="yes"]::before { background: var(--good); }
header .feed[data-on="no"]::before { background: var(--bad); }
section { background: var(--card); border: 1px solid var(--line); border-radius: 14px; box-shadow: var(--shadow); padding: 18px 20px; margin-bottom: 16px; }
h2 { font-size: 13px; font-weight: 600; color: var(--soft); margin: 0 0 12px; }
#verdict { border-left: 6px solid var(--tone); background: linear-gradient(90deg, var(--wash), var(--card) 55%); }
#verdict p { margin: 0; }
#verdict .say { font-size: 25px; font-weight: 650; letter-spacing: -0.02em; line-height: 1.25; }
#verdict .more { color: var(--soft); margin-top: 4px; overflow-wrap: anywhere; }
[data-tone="good"] { --tone: var(--good); --wash: var(--good-wash); }
[data-tone="busy"] { --tone: var(--busy); --wash: var(--busy-wash); }
[data-tone="warn"] { --tone: var(--warn); --wash: var(--warn-wash); }
[data-tone="bad"] { --tone: var(--bad); --wash: var(--bad-wash); }
[data-tone="idle"] { --tone: var(--idle); --wash: var(--idle-wash); }
.hosts { display: grid; grid-template-columns: repeat(auto-fit, minmax(300px, 1fr)); gap: 16px; margin-bottom: 16px; }
.host { margin: 0; border-top: 4px solid var(--tone); }
.host[data-gone="yes"] { opacity: 0.72; }
.host .top { display: flex; align-items: center; gap: 10px; margin-bottom: 8px; }
.host .name { font-weight: 650; font-size: 17px; overflow-wrap: anywhere; }
.pill { margin-left: auto; background: var(--wash); color: var(--tone); font-weight: 600; font-size: 13px; padding: 3px 11px; border-radius: 999px; white-space: nowrap; }
.host .role { color: var(--soft); font-size: 13px; }
.host .why { min-height: 2.9em; margin: 2px 0 10px; overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: auto 1fr; gap: 3px 14px; margin: 0; font-size: 14px; }
dt { color: var(--soft); } dd { margin: 0; text-align: right; overflow-wrap: anywhere; }
.bar { height: 8px; border-radius: 4px; background: var(--idle-wash); overflow: hidden; margin: 0 0 10px; }
.bar i { display: block; height: 100%; width: 0; background: var(--busy); border-radius: 4px; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(430px, 100%), 1fr)); gap: 16px; margin-bottom: 16px; }
.chart { margin: 0; padding-bottom: 12px; }
.chart .head { display: flex; align-items: baseline; gap: 10px; }
.chart h2 { margin: 0; }
.chart .now { margin-left: auto; white-space: nowrap; font-size: 20px; font-weight: 650; letter-spacing: -0.01em; }
.chart svg, #picture { display: block; width: 100%; height: auto; }
.wide { overflow-x: auto; } #picture { min-width: 640px; }
svg text { fill: var(--soft); font-size: 11px; }
.gridline { stroke: var(--grid); } .curve { fill: none; stroke: var(--busy); stroke-width: 2; stroke-linejoin: round; }
.area { fill: var(--busy); opacity: 0.12; } .mark { stroke: var(--bad); stroke-dasharray: 3 3; } .mark-text { fill: var(--bad); }
.cursor { stroke: var(--faint); } .dot { fill: var(--busy); }
#failover .total { font-size: 25px; font-weight: 650; letter-spacing: -0.02em; margin: 0; }
#failover .cause { color: var(--soft); margin: 2px 0 14px; }
#failover .big { fill: var(--ink); font-weight: 600; font-size: 13px; }
.s1 { fill: var(--p1); } .s2 { fill: var(--p2); } .s3 { fill: var(--p3); } .s4 { fill: var(--p4); } .s5 { fill: var(--p5); }
.axis { stroke: var(--line); }
.legend { list-style: none; display: grid; grid-template-columns: repeat(auto-fit, minmax(300px, 1fr)); gap: 6px 20px; padding: 0; margin: 12px 0 0; font-size: 14px; }
.legend li { display: flex; align-items: baseline; gap: 8px; } .legend svg { width: 11px; height: 11px; flex: none; }
.legend b { margin-left: auto; font-weight: 600; white-space: nowrap; }
ol.events { list-style: none; margin: 0; padding: 0; font-size: 14px; max-height: 340px; overflow: auto; }
ol.events li { display: grid; grid-template-columns: 104px minmax(80px, 150px) 1fr; gap: 12px; padding: 6px 0; border-top: 1px solid var(--grid); }
ol.events li:first-child { border-top: 0; }
ol.events time, ol.events .who { color: var(--soft); overflow-wrap: anywhere; }
ol.events .what { overflow-wrap: anywhere; }
.hidden { display: none; }
@media (max-width: 560px) {
  ol.events li { grid-template-columns: 104px 1fr; } ol.events .what { grid-column: 1 / -1; }
  #verdict .say, #failover .total { font-size: 20px; } main { padding: 0 12px 32px; }
}
`
