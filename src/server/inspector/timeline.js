// A request on a time axis: what the guest did, each hostcall, each request to a backend, what the cache said.
//
// Bars are placed by CSS: each knows when it begins and ends (`--b`, `--e`), the whole knows what part of the time is in
// sight (`--from`, `--span`). So zooming is a change of two numbers, however many rows there are.

import { PHASES, phasesOf } from './facts.js';
import { LEAST_SPAN_US, bandsOf, endOf, rowsOf } from './timeline-rows.js';
import { WIDTH, blocks, within } from './drawing.js';
import { hideTip, showTip } from './tip.js';
import { button, count, counted, duration, el, facts, setText, svg } from './dom.js';

const ZOOM = 1.6;
const TICK_PX = 84;
/** A tick's text has at most this width. */
const LABEL_PX = 64;
const OVERVIEW_PX = 40;
const DRAG_PX = 4;
const SLOW_US = 1000;

const SHOWN = [
  ['all', 'All rows', () => true],
  ['sent', 'Waits, sends, backends', ({ kind, data }) => kind !== 'call' || data.waits || data.sent],
  ['slow', '1 ms and longer', ({ begin, end, kind }) => kind !== 'cache' && end - begin >= SLOW_US],
  ['bad', 'Not ok', ({ isBad }) => isBad],
  ['seen', 'In the zoomed part', ({ begin, end }, from, to) => begin <= to && end >= from],
];

const LEGEND = [['compute', 'guest computes'], ['call', 'hostcall'], ['waits', 'guest waits'], ['many', 'several in a row'], ['connect', 'connect'], ['wait', 'wait for the head'], ['body', 'body'], ['mark', 'cache']];

export class Timeline {
  #recording;
  #end;
  #from = 0;
  #span;
  #rows;
  #bands;
  #parts = {};
  #resized;
  #isDue = false;
  #drag = null;

  constructor(recording) {
    this.#recording = recording;
    this.#end = endOf(recording) * 1.01;
    this.#span = this.#end;
    this.#bands = bandsOf(recording);
    this.#rows = rowsOf(recording);
    this.element = this.#make();
    this.#resized = new ResizeObserver(() => this.draw());
    this.#resized.observe(this.#parts.whole);
  }

  end() {
    this.#resized.disconnect();
    hideTip();
  }

  /** Draws before the next frame. */
  draw() {
    if (this.#isDue) return;
    this.#isDue = true;
    requestAnimationFrame(() => {
      this.#isDue = false;
      this.#drawNow();
    });
  }

  /* What it consists of */

  #make() {
    const all = [...this.#bands, ...this.#rows];
    all.forEach((row, index) => { row.element = this.#makeRow(row, index); });
    const axis = el('div', { class: 'tl-axis', 'aria-hidden': 'true' });
    const lines = el('div', { class: 'tl-lines', 'aria-hidden': 'true' });
    const bands = el('ul', { class: 'tl-bands', 'aria-label': 'The whole request' }, this.#bands.map((row) => row.element));
    const rows = el('ul', { class: 'tl-rows', 'aria-label': 'Hostcalls and requests to backends' }, this.#rows.map((row) => row.element));
    const whole = el('div', { class: 'tl' }, el('div', { class: 'tl-top' }, this.#makeOverview(), axis), lines, bands, rows);
    Object.assign(this.#parts, { axis, lines, whole, rows });
    this.#listen(whole);
    const first = all[0]?.element.firstChild;
    if (first) first.tabIndex = 0;
    return el('div', { class: 'timeline' }, this.#makeTools(), whole, this.#makeRemarks(), legend());
  }

  #makeTools() {
    const find = el('input', { type: 'search', placeholder: 'Find in rows', 'aria-label': 'Find in rows', spellcheck: 'false', on: { input: () => this.#pick() } });
    const shown = el('select', { 'aria-label': 'Rows shown', on: { change: () => this.#pick() } }, SHOWN.map(([key, text]) => el('option', { value: key }, text)));
    const tally = el('span', { class: 'dim', role: 'status' });
    const sight = el('span', { class: 'dim tl-sight' });
    Object.assign(this.#parts, { find, shown, tally, sight });
    setText(tally, counted(this.#rows.length, 'row'));
    const zoom = el('div', { class: 'group', role: 'group', 'aria-label': 'Zoom' },
      button('−', () => this.#zoom(1 / ZOOM), { title: 'Zoom out (−)', 'aria-label': 'Zoom out' }),
      button('+', () => this.#zoom(ZOOM), { title: 'Zoom in (+, or Ctrl and the wheel)', 'aria-label': 'Zoom in' }),
      button('Fit', () => this.#look(0, this.#end), { title: 'The whole request (0)' }));
    return el('div', { class: 'tl-tools' }, zoom, shown, find, tally, sight);
  }

  #makeOverview() {
    const drawing = svg('svg', { viewBox: `0 0 ${WIDTH} ${OVERVIEW_PX}`, preserveAspectRatio: 'none', 'aria-hidden': 'true' });
    const before = el('span', { class: 'tl-out' });
    const after = el('span', { class: 'tl-out' });
    const chosen = el('span', { class: 'tl-chosen', hidden: true });
    const overview = el('div', { class: 'tl-overview', title: 'Drag over a part to zoom to it; double-click for all', on: {
      pointerdown: (event) => this.#dragBegins(event),
      pointermove: (event) => this.#dragMoves(event),
      pointerup: (event) => this.#dragEnds(event),
      pointercancel: () => this.#dragStops(),
      dblclick: () => this.#look(0, this.#end),
    } }, drawing, before, after, chosen);
    Object.assign(this.#parts, { overview, before, after, chosen, drawing });
    this.#drawOverview();
    return overview;
  }

  #makeRemarks() {
    const { calls_dropped: dropped, guest, calls } = this.#recording;
    const texts = [];
    if (!guest) texts.push('No guest ran for this request, so there are no hostcalls.');
    else if (calls.length === 0) texts.push('No hostcalls were recorded of this request.');
    if (dropped) texts.push(`${counted(dropped, 'hostcall')} came after the most that are recorded of a request, and are not shown.`);
    return texts.map((text) => el('p', { class: 'remark' }, text));
  }

  #makeRow(row, index) {
    const name = el('span', { class: 'tl-name' }, row.label);
    const track = el('span', { class: 'tl-track' }, row.drawing ?? row.bars);
    const said = [row.said, `at ${duration(row.begin)}`, ''].filter((text) => text !== undefined).join(', ');
    const time = el('span', { class: 'tl-time' }, el('span', { class: 'unseen' }, said), row.time);
    const line = el('button', { type: 'button', class: 'tl-line', tabindex: '-1', 'aria-expanded': 'false', on: { click: () => this.#unfold(row) } }, name, track, time);
    return el('li', { class: `tl-row ${row.kind}${row.isBad ? ' bad' : ''}${row.isPart ? ' part' : ''}`, 'data-index': index }, line);
  }

  /** Shows or hides, below a row, everything about it. */
  #unfold(row) {
    const [line, more] = row.element.children;
    hideTip();
    line.setAttribute('aria-expanded', String(!more));
    row.element.classList.toggle('unfolded', !more);
    if (more) more.remove();
    else row.element.append(this.#more(row));
  }

  #more(row) {
    const margin = Math.max((row.end - row.begin) * 0.1, LEAST_SPAN_US);
    const nearer = button('Zoom to it', () => this.#look(row.begin - margin, row.end - row.begin + 2 * margin));
    return el('div', { class: 'tl-more' }, el('strong', {}, row.name), facts(row.facts()), el('p', {}, nearer));
  }

  /* What is in sight */

  #pick() {
    const { find, shown, tally } = this.#parts;
    const [, , takes] = SHOWN.find(([key]) => key === shown.value);
    const word = find.value.trim().toLowerCase();
    let number = 0;
    for (const row of this.#rows) {
      const isShown = takes(row, this.#from, this.#from + this.#span) && row.words.includes(word);
      row.element.hidden = !isShown;
      if (isShown) number += 1;
    }
    setText(tally, number === this.#rows.length ? counted(number, 'row') : `${count(number)} of ${counted(this.#rows.length, 'row')}`);
  }

  #look(from, span) {
    this.#span = Math.min(this.#end, Math.max(LEAST_SPAN_US, span));
    this.#from = Math.max(0, Math.min(this.#end - this.#span, from));
    hideTip();
    if (this.#parts.shown.value === 'seen') this.#pick();
    this.draw();
  }

  /** Zooms; what is at `at` (0 to 1 of the width) stays there. */
  #zoom(factor, at = 0.5) {
    const span = Math.min(this.#end, Math.max(LEAST_SPAN_US, this.#span / factor));
    this.#look(this.#from + (this.#span - span) * at, span);
  }

  #pan(part) {
    this.#look(this.#from + this.#span * part, this.#span);
  }

  get #isWhole() {
    return this.#span >= this.#end * 0.999;
  }

  /* Drawing */

  #drawNow() {
    const { whole, sight, before, after } = this.#parts;
    whole.style.setProperty('--from', this.#from);
    whole.style.setProperty('--span', this.#span);
    before.style.width = `${(this.#from / this.#end) * 100}%`;
    after.style.left = `${((this.#from + this.#span) / this.#end) * 100}%`;
    whole.classList.toggle('zoomed', !this.#isWhole);
    setText(sight, this.#isWhole ? '' : this.#sight());
    this.#drawTicks();
    const scale = { from: this.#from, span: this.#span, unit: WIDTH / Math.max(1, this.#width()) };
    for (const band of this.#bands) band.draw?.(scale);
  }

  /** What is in sight, exactly enough to be told from what is beside it. */
  #sight() {
    const to = this.#from + this.#span;
    const step = niceStep(this.#span / 100);
    return `${tickText(this.#from, step, to)} to ${tickText(to, step, to)}`;
  }

  #width() {
    return this.#parts.lines.clientWidth;
  }

  #drawTicks() {
    const [from, to] = [this.#from, this.#from + this.#span];
    const step = niceStep(this.#span / Math.max(2, this.#width() / TICK_PX));
    const ticks = [];
    for (let at = Math.ceil(from / step) * step; at <= to; at += step) ticks.push(at);
    const head = this.#recording.response?.head_us;
    const first = head && head >= from && head <= to ? [this.#mark('tl-head', head)] : [];
    this.#parts.axis.replaceChildren(...ticks.map((at) => this.#tick(at, tickText(at, step, to))));
    this.#parts.lines.replaceChildren(...ticks.map((at) => this.#mark('tl-rule', at)), ...first);
  }

  /** A text on the axis; it does not go beyond its ends. */
  #tick(at, text) {
    const half = LABEL_PX / 2 / Math.max(1, this.#width());
    const part = (at - this.#from) / this.#span;
    if (part > 1 - half) return el('span', { class: 'tl-tick last' }, text);
    const tick = this.#mark(part < half ? 'tl-tick first' : 'tl-tick', at);
    tick.textContent = text;
    return tick;
  }

  #mark(kind, at) {
    const mark = el('span', { class: kind });
    mark.style.left = `${((at - this.#from) / this.#span) * 100}%`;
    return mark;
  }

  #drawOverview() {
    const { guest, calls, attempts, cache, response } = this.#recording;
    const scale = { from: 0, span: this.#end, unit: 1 };
    const answer = response && !guest ? [{ begin: 0, end: this.#end / 1.01, share: 1 }] : [];
    const of = (kind, list, y, height) => svg('path', { class: kind, d: blocks(list, scale, y, height) });
    const waits = calls.filter((call) => call.waits).map(within);
    const rest = calls.filter((call) => !call.waits).map(within);
    const phases = (wanted) => attempts.flatMap(phasesOf).filter(([phase]) => phase === wanted).map(([, begin, end]) => ({ begin, end, share: 1 }));
    this.#parts.drawing.replaceChildren(
      of('fill-wait', answer, 4, 16),
      of('fill-compute', guest ? [{ begin: guest.begun_us, end: guest.ended_us, share: 1 }] : [], 4, 16),
      of('fill-call', rest, 4, 16),
      of('fill-waits', waits, 4, 16),
      ...Object.keys(PHASES).map((phase) => of(`fill-${phase}`, phases(phase), 24, 8)),
      of('fill-mark', cache.map((look) => ({ begin: look.at_us, end: look.at_us + this.#end / 400, share: 1 })), 34, 5),
    );
  }

  /* Pointer and keys */

  #listen(whole) {
    whole.addEventListener('pointermove', (event) => this.#pointed(event));
    whole.addEventListener('pointerleave', hideTip);
    whole.addEventListener('focusin', (event) => this.#focused(event));
    whole.addEventListener('focusout', hideTip);
    whole.addEventListener('keydown', (event) => this.#key(event));
    whole.addEventListener('wheel', (event) => this.#wheel(event), { passive: false });
  }

  #rowAt(target) {
    const element = target.closest?.('.tl-row');
    return element ? [...this.#bands, ...this.#rows][Number(element.dataset.index)] : null;
  }

  #pointed(event) {
    if (event.pointerType === 'touch') return;
    const row = event.target.closest('.tl-line') ? this.#rowAt(event.target) : null;
    if (row && !row.element.classList.contains('unfolded')) showTip(row.element.firstChild, row.name, row.facts(), event.clientX, event.clientY);
    else hideTip();
  }

  #focused(event) {
    const line = event.target.closest('.tl-line');
    if (!line) return;
    this.#parts.whole.querySelector('.tl-line[tabindex="0"]')?.setAttribute('tabindex', '-1');
    line.tabIndex = 0;
    const row = this.#rowAt(line);
    if (!line.matches(':focus-visible') || row.element.classList.contains('unfolded')) return;
    const box = line.getBoundingClientRect();
    showTip(line, row.name, row.facts(), box.left + box.width / 3, box.bottom - 8);
  }

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const line = event.target.closest('.tl-line');
    const work = line && this.#works(line)[event.key];
    if (!work) return;
    event.preventDefault();
    event.stopPropagation();
    work();
  }

  #works(line) {
    const works = {
      ArrowDown: () => this.#focusNext(line, 1),
      ArrowUp: () => this.#focusNext(line, -1),
      Home: () => this.#focusNext(line, -Infinity),
      End: () => this.#focusNext(line, Infinity),
      '+': () => this.#zoom(ZOOM, this.#placeOf(line)),
      '=': () => this.#zoom(ZOOM, this.#placeOf(line)),
      '-': () => this.#zoom(1 / ZOOM, this.#placeOf(line)),
      0: () => this.#look(0, this.#end),
      ArrowLeft: () => this.#pan(-0.2),
      ArrowRight: () => this.#pan(0.2),
    };
    // The first Escape takes the description away, the next one closes the request.
    if (line.hasAttribute('aria-describedby')) works.Escape = hideTip;
    return works;
  }

  /** Where a row begins, as a part of the width. */
  #placeOf(line) {
    return Math.max(0, Math.min(1, (this.#rowAt(line).begin - this.#from) / this.#span));
  }

  #focusNext(line, by) {
    const lines = [...this.#parts.whole.querySelectorAll('.tl-row:not([hidden]) > .tl-line')];
    const next = lines[Math.max(0, Math.min(lines.length - 1, lines.indexOf(line) + by))];
    next?.focus();
    next?.scrollIntoView({ block: 'nearest' });
  }

  #wheel(event) {
    const box = this.#parts.lines.getBoundingClientRect();
    if (event.ctrlKey || event.metaKey) {
      event.preventDefault();
      this.#zoom(Math.exp(-event.deltaY / 240), Math.max(0, Math.min(1, (event.clientX - box.left) / box.width)));
    } else if (!this.#isWhole && (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY))) {
      event.preventDefault();
      this.#pan((event.deltaX || event.deltaY) / box.width);
    }
  }

  /** The part of the width that an event is at. */
  #partAt(event) {
    const box = this.#parts.overview.getBoundingClientRect();
    return Math.max(0, Math.min(1, (event.clientX - box.left) / box.width));
  }

  #dragBegins(event) {
    if (event.button !== 0) return;
    this.#parts.overview.setPointerCapture(event.pointerId);
    this.#drag = { part: this.#partAt(event), x: event.clientX };
  }

  #dragMoves(event) {
    if (!this.#drag || Math.abs(event.clientX - this.#drag.x) < DRAG_PX) return;
    const [from, to] = [this.#drag.part, this.#partAt(event)].sort((a, b) => a - b);
    const { chosen } = this.#parts;
    chosen.hidden = false;
    chosen.style.left = `${from * 100}%`;
    chosen.style.width = `${(to - from) * 100}%`;
  }

  #dragEnds(event) {
    if (!this.#drag) return;
    const [from, to] = [this.#drag.part, this.#partAt(event)].sort((a, b) => a - b);
    if (Math.abs(event.clientX - this.#drag.x) >= DRAG_PX) this.#look(from * this.#end, (to - from) * this.#end);
    else if (!this.#isWhole) this.#look(to * this.#end - this.#span / 2, this.#span);
    this.#dragStops();
  }

  #dragStops() {
    this.#drag = null;
    this.#parts.chosen.hidden = true;
  }
}

/* Axis */

/** 1, 2 or 5 times a power of ten, and not less than `least`. */
function niceStep(least) {
  const power = 10 ** Math.floor(Math.log10(Math.max(least, 0.001)));
  return [1, 2, 5, 10].map((times) => times * power).find((step) => step >= least * 0.999);
}

/** The time at a tick: all of an axis are in one unit. */
function tickText(at, step, end) {
  const [unit, size] = end >= 1e6 ? ['s', 1e6] : end >= 1000 ? ['ms', 1000] : ['µs', 1];
  const digits = Math.max(0, -Math.floor(Math.log10(step / size) + 1e-9));
  return at === 0 ? '0' : `${(at / size).toFixed(digits)} ${unit}`;
}

function legend() {
  return el('ul', { class: 'legend', 'aria-label': 'Colours' }, LEGEND.map(([kind, text]) => el('li', {}, el('span', { class: `swatch ${kind}`, 'aria-hidden': 'true' }), text)));
}
