// What the page does: listens to /events and draws. Everything from there is set as text, never as markup.

/** @internal */
export const script = String.raw`
'use strict';
(() => {
  const $ = id => document.getElementById(id);
  const SVG = 'http://www.w3.org/2000/svg';
  const WINDOW = 120000;
  const tones = {
    protected: 'good', syncing: 'busy', connecting: 'busy', listening: 'idle', suspecting: 'bad', unprotected: 'warn',
    live: 'good', halted: 'idle', waiting: 'bad', ended: 'idle'
  };
  const el = (name, attributes, ...children) => {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes || {})) made.setAttribute(key, value);
    made.append(...children);
    return made;
  };
  const svg = (name, attributes, text) => {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes || {})) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const number = (value, digits) => value.toLocaleString('en-US', { maximumFractionDigits: digits, minimumFractionDigits: 0 });
  const ms = value => value >= 10000 ? number(value / 1000, 1) + ' s' : value >= 100 ? number(value, 0) + ' ms'
    : value >= 1 ? number(value, 1) + ' ms' : value > 0 ? number(value * 1000, 0) + ' µs' : '0 ms';
  const bytes = value => {
    for (const [unit, size] of [['GB', 1e9], ['MB', 1e6], ['kB', 1e3]])
      if (value >= size) return number(value / size, 1) + ' ' + unit;
    return number(value, 0) + ' B';
  };
  const count = value => number(value, value < 10 ? 1 : 0);
  const clock = iso => {
    const at = new Date(iso);
    return at.toLocaleTimeString('en-GB') + '.' + String(at.getMilliseconds()).padStart(3, '0');
  };
  const ago = iso => {
    const s = Math.max(0, (Date.now() - Date.parse(iso)) / 1000);
    return s < 90 ? number(s, 0) + ' s' : s < 5400 ? number(s / 60, 0) + ' min' : number(s / 3600, 1) + ' h';
  };
  const gone = source => source.state === 'ended' && ['UNREACHABLE', 'KILLED'].includes(source.code);
  const runs = source => !gone(source) && (source.role === 'primary'
    ? !['halted', 'ended'].includes(source.state) : source.state === 'live');

  // ---- what was, for the charts

  let points = [];
  const last = new Map();
  const remember = state => {
    const at = Date.parse(state.at);
    const point = { at, values: {} };
    let rate = null;
    for (const source of state.sources) {
      const before = last.get(source.name);
      if (before && before.session === source.session && at > before.at && source.state === 'protected') {
        const speed = Math.max(0, (source.stats.logBytes - before.bytes) * 1000 / (at - before.at));
        if (rate === null || source.role === 'primary') rate = speed;
      }
      last.set(source.name, { at, session: source.session, bytes: source.stats.logBytes });
      for (const [name, value] of Object.entries(source.figures || {})) point.values[name] = value;
    }
    const shown = state.sources.find(s => s.role === 'primary' && s.state === 'protected')
      || state.sources.find(s => s.state === 'protected');
    if (shown) {
      point.values.lag = shown.stats.lagMs;
      point.values.held = shown.stats.heldOutputs;
      if (rate !== null) point.values.rate = rate;
    }
    points.push(point);
    while (points.length > 0 && points[0].at < at - WINDOW) points.shift();
  };

  // ---- charts

  const charts = new Map();
  const chart = (key, title, format) => {
    if (charts.has(key)) return charts.get(key);
    const now = el('span', { class: 'now' }, '–');
    const picture = svg('svg', { viewBox: '0 0 480 150', role: 'img', 'aria-label': title });
    $('charts').append(el('section', { class: 'chart', 'data-chart': key }, el('div', { class: 'head' }, el('h2', {}, title), now), picture));
    const made = { key, format, now, picture, hover: null };
    picture.addEventListener('pointermove', event => {
      const box = picture.getBoundingClientRect();
      made.hover = (event.clientX - box.left) / box.width * 480;
      draw(made);
    });
    picture.addEventListener('pointerleave', () => { made.hover = null; draw(made); });
    charts.set(key, made);
    return made;
  };
  const nice = top => {
    if (!(top > 0)) return 1;
    const power = Math.pow(10, Math.floor(Math.log10(top)));
    return [1, 2, 4, 5, 8, 10].map(step => step * power).find(step => step >= top);
  };
  let failovers = [];
  const draw = made => {
    const { key, format, picture } = made;
    const left = 58, right = 474, top = 10, bottom = 126;
    const end = points.length > 0 ? points[points.length - 1].at : Date.now();
    const span = Math.min(WINDOW, Math.max(20000, points.length > 0 ? end - points[0].at : 0));
    const data = points.filter(point => point.values[key] !== undefined);
    const high = nice(Math.max(0, ...data.map(point => point.values[key])));
    const x = at => right - (end - at) / span * (right - left);
    const y = value => bottom - value / high * (bottom - top);
    const parts = [];
    for (const share of [0, 0.5, 1]) {
      parts.push(svg('line', { class: 'gridline', x1: left, x2: right, y1: y(high * share), y2: y(high * share) }));
      parts.push(svg('text', { x: left - 8, y: y(high * share) + 4, 'text-anchor': 'end' }, format(high * share)));
    }
    for (const share of [1, 0.5, 0])
      parts.push(svg('text', { x: x(end - span * share), y: 143, 'text-anchor': share === 0 ? 'end' : share === 1 ? 'start' : 'middle' },
        share === 0 ? 'now' : number(span * share / 1000, 0) + ' s ago'));
    let run = [];
    const flush = () => {
      if (run.length > 0) {
        const line = run.map((p, i) => (i === 0 ? 'M' : 'L') + p[0].toFixed(1) + ' ' + p[1].toFixed(1)).join('');
        parts.push(svg('path', { class: 'area', d: line + 'L' + run[run.length - 1][0].toFixed(1) + ' ' + bottom + 'L' + run[0][0].toFixed(1) + ' ' + bottom + 'Z' }));
        parts.push(svg('path', { class: 'curve', d: line }));
      }
      run = [];
    };
    for (const point of points) {
      const value = point.values[key];
      if (value === undefined) flush();
      else run.push([x(point.at), y(value)]);
    }
    flush();
    for (const at of failovers)
      if (at > end - span && at <= end) {
        parts.push(svg('line', { class: 'mark', x1: x(at), x2: x(at), y1: top, y2: bottom }));
        parts.push(svg('text', { class: 'mark-text', x: x(at) - 4, y: top + 9, 'text-anchor': 'end' }, 'failover'));
      }
    let shown = data[data.length - 1];
    if (made.hover !== null && data.length > 0) {
      shown = data.reduce((best, point) => Math.abs(x(point.at) - made.hover) < Math.abs(x(best.at) - made.hover) ? point : best);
      parts.push(svg('line', { class: 'cursor', x1: x(shown.at), x2: x(shown.at), y1: top, y2: bottom }));
      parts.push(svg('circle', { class: 'dot', cx: x(shown.at), cy: y(shown.values[key]), r: 4 }));
    }
    const current = points.length > 0 ? points[points.length - 1].values[key] : undefined;
    made.now.textContent = made.hover !== null && shown ? format(shown.values[key]) : current === undefined ? '–' : format(current);
    picture.replaceChildren(...parts);
  };

  // ---- hosts

  const cards = new Map();
  const card = name => {
    if (cards.has(name)) return cards.get(name);
    const made = { top: el('div', { class: 'top' }), name: el('span', { class: 'name' }, name), pill: el('span', { class: 'pill' }),
      role: el('div', { class: 'role' }), why: el('p', { class: 'why' }), bar: el('div', { class: 'bar hidden' }, el('i')), list: el('dl') };
    made.top.append(made.name, made.pill);
    made.box = el('section', { class: 'host', 'data-source': name }, made.top, made.role, made.why, made.bar, made.list);
    $('hosts').append(made.box);
    cards.set(name, made);
    return made;
  };
  const showHost = source => {
    const made = card(source.name);
    const unreachable = gone(source);
    made.box.dataset.tone = unreachable ? 'bad' : tones[source.state] || 'idle';
    made.box.dataset.state = source.state;
    made.box.dataset.gone = unreachable ? 'yes' : 'no';
    made.pill.textContent = unreachable ? source.code.toLowerCase() : source.state;
    const machine = source.machine ? ' · machine ' + source.machine.state : '';
    made.role.textContent = (unreachable ? 'was ' : '') + (source.role === 'primary' ? 'primary: runs the machine'
      : source.state === 'live' ? 'survivor: runs the machine' : 'backup: follows the machine') + (unreachable ? '' : machine);
    made.why.textContent = source.message || (source.state === 'listening' ? 'waiting for a primary' : '');
    const sync = source.sync;
    made.bar.classList.toggle('hidden', !sync);
    if (sync) {
      const done = sync.bytesSent / Math.max(1, sync.bytesSent + sync.remainingBytes);
      made.bar.firstChild.style.width = (done * 100).toFixed(1) + '%';
    }
    const s = source.stats;
    const rows = [];
    const row = (name, value) => rows.push(el('dt', {}, name), el('dd', {}, value));
    if (source.listen) row('listens on', source.listen);
    if (source.peer) row(source.role === 'primary' ? 'backup' : 'primary', source.peer);
    if (sync) {
      row('copying', 'round ' + sync.round + ', ' + bytes(sync.bytesSent) + ' sent');
      row('left', bytes(sync.remainingBytes));
    }
    row('in this state', ago(source.since));
    if (source.session) row('session', source.session.slice(0, 8));
    if (s.boundary > 0) row('boundary', number(s.boundary, 0));
    if (s.logBytes > 0) row('log', bytes(s.logBytes) + ' in ' + number(s.logRecords, 0) + ' records');
    if (source.role === 'primary' && s.releasedOutputs > 0) {
      row('outputs let out', number(s.releasedOutputs, 0));
      row('waited, half / 99 %', ms(s.holdP50Ms) + ' / ' + ms(s.holdP99Ms));
    }
    if (s.lagP99Ms > 0) row('lag, half / 99 %', ms(s.lagP50Ms) + ' / ' + ms(s.lagP99Ms));
    if (source.state === 'protected' && s.heartbeatTimeoutMs > 0) row('dead after silence of', ms(s.heartbeatTimeoutMs));
    made.list.replaceChildren(...rows);
  };

  // ---- the sentence on top

  const verdict = sources => {
    const runner = sources.find(s => s.role === 'primary' && runs(s)) || sources.find(runs);
    const waiting = sources.find(s => s.state === 'waiting');
    const asks = sources.find(s => s.state === 'suspecting');
    const follower = sources.find(s => s.role === 'backup' && s.state === 'protected');
    if (sources.length === 0) return ['idle', 'Nothing is watched', ''];
    if (waiting) return ['bad', 'Nobody takes a risk', waiting.message];
    if (asks && !(runner && runner !== asks)) return ['bad', asks.name + ' has lost the other side', asks.message];
    if (!runner && follower) return ['warn', follower.name + ' follows a primary that is not shown here', follower.message];
    if (!runner) return ['idle', sources.some(s => s.state === 'listening') ? 'Waiting for a machine to protect' : 'No machine runs here', sources[0].message];
    if (runner.state === 'protected') {
      const behind = ', ' + ms(runner.stats.lagMs) + ' behind';
      return ['good', 'Protected', runner.name + ' runs the machine; ' + (follower ? follower.name : runner.peer || 'its backup') + ' follows' + behind + '.'];
    }
    if (runner.state === 'syncing' || runner.state === 'connecting')
      return ['busy', runner.state === 'syncing' ? 'Becoming protected' : 'Looking for a backup', runner.message || runner.name + ' copies its machine to ' + (runner.peer || 'a backup') + '.'];
    if (runner.state === 'live') return ['warn', runner.name + ' took over', 'It runs the machine, and has no backup yet.'];
    return ['warn', 'Unprotected', runner.message];
  };

  // ---- the last failover

  const phases = [
    ['detected', 'silence', 'taken for dead'], ['claimed', 'claim', 'the arbiter says yes'],
    ['replayed', 'replay', 'the received log is at its end'], ['live', 'open', 'inputs and outputs are open'],
    ['announced', 'announce', 'the network knows']
  ];
  let drawn = '';
  const showFailover = sources => {
    const all = sources.filter(s => s.failover && s.failover.live !== null);
    all.sort((a, b) => Date.parse(a.failover.at) - Date.parse(b.failover.at));
    failovers = all.map(s => Date.parse(s.failover.at));
    const source = all[all.length - 1];
    $('failover').classList.toggle('hidden', !source);
    if (!source) return;
    const f = source.failover;
    const id = JSON.stringify([source.name, f]);
    if (id === drawn) return;
    drawn = id;
    $('total').textContent = 'The machine paused for ' + ms(f.live);
    $('cause').textContent = source.name + ' took over at ' + clock(f.at) + ', at boundary ' + number(f.boundary, 0) + ' (' + (f.cause || 'cause unknown') + '). '
      + number(f.reissuedPackets, 0) + ' outputs sent again, ' + number(f.reissuedRequests, 0) + ' disk requests submitted again.';
    const left = 4, right = 996, top = 34, height = 34;
    const end = Math.max(f.announced || 0, f.live, 0.001);
    const x = value => left + value / end * (right - left);
    const parts = [];
    const legend = [];
    let from = 0;
    phases.forEach(([key, name, meaning], i) => {
      const to = f[key];
      if (to === null) return;
      const start = Math.min(from, to);
      const width = Math.max(x(to) - x(start), 1.5);
      const block = svg('rect', { class: 's' + (i + 1), x: x(start), y: top, width, height, rx: Math.min(4, width / 2), 'data-phase': key });
      block.append(svg('title', {}, name + ': ' + ms(to - start)));
      parts.push(block);
      if (width > 90) parts.push(svg('text', { class: 'big', x: x(start) + 2, y: top - 10 }, name + ' ' + ms(to - start)));
      const chip = svg('svg', { viewBox: '0 0 10 10', 'aria-hidden': 'true' });
      chip.append(svg('rect', { class: 's' + (i + 1), width: 10, height: 10, rx: 2 }));
      const item = el('li', {}, chip, name + ': ' + meaning);
      item.append(el('b', {}, ms(to - start)));
      legend.push(item);
      from = Math.max(from, to);
    });
    const step = nice(end / 6);
    for (let tick = 0; tick <= end * 1.0001; tick += step) {
      parts.push(svg('line', { class: 'axis', x1: x(tick), x2: x(tick), y1: top + height + 4, y2: top + height + 10 }));
      parts.push(svg('text', { x: Math.min(x(tick), right - 2), y: top + height + 24, 'text-anchor': tick === 0 ? 'start' : x(tick) > right - 30 ? 'end' : 'middle' }, tick === 0 ? 'last sign of life' : ms(tick)));
    }
    $('picture').replaceChildren(...parts);
    $('legend').replaceChildren(...legend);
  };

  const showEvents = sources => {
    const all = sources.flatMap(s => s.events.map(event => ({ ...event, who: s.name })));
    all.sort((a, b) => Date.parse(b.at) - Date.parse(a.at));
    $('events').replaceChildren(...all.slice(0, 60).map(event => el('li', {},
      el('time', { datetime: event.at }, clock(event.at)), el('span', { class: 'who' }, event.who), el('span', { class: 'what' }, event.text))));
  };

  const show = state => {
    remember(state);
    const { sources } = state;
    const names = new Set(sources.map(s => s.name));
    for (const [name, made] of cards) if (!names.has(name)) { made.box.remove(); cards.delete(name); }
    sources.forEach(showHost);
    const [tone, say, more] = verdict(sources);
    $('verdict').dataset.tone = tone;
    if ($('say').textContent !== say) $('say').textContent = say;
    $('more').textContent = more;
    document.title = say + ' – hypertwin';
    showFailover(sources);
    chart('lag', 'Lag of the backup', ms);
    chart('rate', 'Event log', value => bytes(value) + '/s');
    chart('held', 'Outputs that wait for the backup', count);
    for (const source of sources) for (const name of Object.keys(source.figures || {})) chart(name, name, count);
    charts.forEach(draw);
    showEvents(sources);
  };

  const feed = new EventSource('events');
  feed.addEventListener('history', event => {
    points = [];
    last.clear();
    JSON.parse(event.data).forEach(remember);
  });
  feed.onmessage = event => show(JSON.parse(event.data));
  feed.onopen = () => { $('feed').dataset.on = 'yes'; $('feed').textContent = 'live'; };
  feed.onerror = () => { $('feed').dataset.on = 'no'; $('feed').textContent = 'no connection to the page’s server'; };
})();
`
