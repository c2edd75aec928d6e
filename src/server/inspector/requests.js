// The view of requests: the list, its filter, and which of them is open.

import { feed, RECORDS_FOR_MS } from './feed.js';
import { FORMS, hasFailed, hasPiece, parse, toggled } from './filter.js';
import { Rows } from './virtual.js';
import * as detail from './detail.js';
import { go, requestHash, route } from './route.js';
import { byId, cacheKind, chip, clock, count, counted, duration, el, moment, say, setText, statusKind, visible } from './dom.js';

/** Narrower than this, rows have two lines. */
const NARROW_PX = 760;
const ROW_PX = 32;
const NARROW_ROW_PX = 54;
/** How long it takes until a request is opened that arrows have come to. */
const FOLLOW_MS = 120;
const FILTER_MS = 120;
const MOST_TEXT = 400;

const CHIPS = [
  ['is:failed', 'Failed'],
  ['slow:100ms', 'Slow'],
  ['cache:miss', 'Cache misses'],
  ['is:live', 'Live'],
];

/** Columns: class, title, and by what they are sorted. */
const COLUMNS = [
  ['time', 'Time', 'begun_ms'],
  ['status', 'Status', 'status'],
  ['method', 'Method', null],
  ['service', 'Service', null],
  ['path', 'Host and path', null],
  ['took', 'Duration', 'duration_us'],
  ['cpu', 'Guest CPU', 'cpu_us'],
  ['calls', 'Hostcalls', 'hostcalls'],
  ['backends', 'Backends', 'attempts'],
  ['cache', 'Cache', null],
];

const SORTS = [['begun_ms', 'Newest first'], ['duration_us', 'Slowest first'], ['cpu_us', 'Most CPU first'], ['hostcalls', 'Most hostcalls first'], ['attempts', 'Most backends first'], ['status', 'Highest status first']];

let rows;
let filter = parse('');
let sort = 'begun_ms';
let activeId = null;
let scale = 1;
let seenNewest = null;
let following = null;
const drawn = new WeakMap();

export function start() {
  rows = new Rows(byId('rows'), byId('rows-all'), { make: makeRow, update: updateRow });
  detail.start({ close: closeRequest, step });
  makeHead();
  makeSorts();
  makeChips();
  makeHelp();
  listen();
  new ResizeObserver(([entry]) => fit(entry.contentRect.width)).observe(byId('list'));
  feed.addEventListener('change', refresh);
  setInterval(tellFeed, 1000);
}

/** Shows what the address says. */
export function show({ id, section, query }) {
  if (byId('filter').value !== query && document.activeElement !== byId('filter')) setFilter(query);
  const isOpen = id !== null;
  byId('split').classList.toggle('open', isOpen);
  if (isOpen) {
    setActive(id);
    detail.open(id, section);
  } else if (!byId('detail').hidden) {
    const hadFocus = byId('detail').contains(document.activeElement);
    detail.close();
    if (hadFocus) byId('grid').focus();
  }
}

/* Rows */

function makeHead() {
  const cell = ([kind, title, key], index) => el('span', { role: 'columnheader', class: `cell ${kind}`, 'aria-colindex': index + 1, 'data-sort': key }, key ? sorter(key, title) : title);
  byId('grid-head').append(...COLUMNS.map(cell));
  byId('grid').setAttribute('aria-colcount', COLUMNS.length);
}

const sorter = (key, title) => el('button', { type: 'button', class: 'sorter', on: { click: () => setSort(key) } }, title);

function makeSorts() {
  byId('sort').append(...SORTS.map(([key, title]) => el('option', { value: key }, title)));
  byId('sort').addEventListener('change', () => setSort(byId('sort').value));
}

function makeRow() {
  const cells = COLUMNS.map(([kind], index) => el('span', { role: 'gridcell', class: `cell ${kind}`, 'aria-colindex': index + 1 }));
  return el('div', { role: 'row', class: 'row' }, cells);
}

function updateRow(row, item, index) {
  row.id = `row-${item.id}`;
  row.setAttribute('aria-rowindex', index + 2);
  row.setAttribute('aria-selected', String(item.id === activeId));
  const was = drawn.get(row);
  if (was?.item === item && was.scale === scale) return;
  drawn.set(row, { item, scale });
  row.dataset.id = item.id;
  row.classList.toggle('live', item.isLive);
  row.classList.toggle('failed', hasFailed(item));
  COLUMNS.forEach(([kind], at) => row.children[at].replaceChildren(...cell[kind](item)));
}

const short = (text) => visible(String(text ?? '').slice(0, MOST_TEXT));
const dash = () => el('span', { class: 'none' }, '–');
const orDash = (value, text) => (value === null || value === undefined ? '–' : text(value));

const cell = {
  time: (item) => [el('time', { title: moment(item.begun_ms) }, clock(item.begun_ms))],
  status: (item) => (item.isLive ? [el('span', { class: 'chip live' }, el('span', { class: 'dot', 'aria-hidden': 'true' }), 'live')] : [chip(item.status ?? 'none', statusKind(item.status))]),
  method: (item) => [short(item.method)],
  service: (item) => [el('span', { class: item.service === null ? 'dim' : null, title: short(item.service) }, item.service === null ? 'no service' : short(item.service))],
  path: (item) => [...troubles(item), link(item)],
  took: (item) => (item.isLive ? [el('span', { class: 'waits' }, liveText(item))] : [bar(item), el('span', { class: 'number' }, duration(item.duration_us))]),
  cpu: (item) => [item.isLive || item.outcome === null ? '–' : duration(item.cpu_us)],
  calls: (item) => [orDash(item.hostcalls, count)],
  backends: (item) => [item.isLive ? count(item.backends.length) : orDash(item.attempts, count)],
  cache: (item) => [item.cache ? chip(item.cache, cacheKind(item.cache)) : dash()],
};

/** What went wrong, in words. */
function troubles(item) {
  if (item.isLive) return [];
  const outcome = item.outcome && item.outcome !== 'finished' ? item.outcome : null;
  return [outcome ?? item.failure].filter(Boolean).map((text) => chip(String(text).slice(0, 60), 'bad'));
}

function link(item) {
  const text = el('a', { href: requestHash(item.id), tabindex: '-1', class: 'target', title: `${short(item.host)}${short(item.target)}` });
  text.append(el('span', { class: 'host' }, short(item.host)), el('span', {}, short(item.target)));
  return text;
}

function liveText(item) {
  const waits = item.waits_for ? `waits for ${item.waits_for}` : 'computes or sleeps';
  return `${duration(item.age_us)}, ${waits}${item.backends.length ? ` (${item.backends.map(short).join(', ')})` : ''}`;
}

/** The time it took against that of the others; within it, what the guest computed. */
function bar(item) {
  const share = (us) => `${Math.min(100, (us / scale) * 100)}%`;
  const whole = el('span', { class: item.duration_us > scale ? 'bar beyond' : 'bar', 'aria-hidden': 'true' });
  const took = el('span', { class: 'bar-took' });
  const cpu = el('span', { class: 'bar-cpu' });
  took.style.width = share(item.duration_us);
  cpu.style.width = share(item.cpu_us ?? 0);
  whole.append(took, cpu);
  return whole;
}

/** Bars are full at the 95th percentile: one long request does not make the others invisible. */
function scaleOf(items) {
  const times = items.filter((item) => !item.isLive).map((item) => item.duration_us).sort((a, b) => a - b);
  return times.length ? Math.max(1, times[Math.floor((times.length - 1) * 0.95)]) : 1;
}

/* What is shown */

function refresh() {
  const finished = [...feed.requests.values()].reverse();
  const shown = filter.isAll ? finished : finished.filter(filter.takes);
  if (sort !== 'begun_ms') shown.sort((a, b) => (b[sort] ?? 0) - (a[sort] ?? 0));
  const live = feed.live.filter((item) => !feed.requests.has(item.id) && filter.takes(item));
  scale = scaleOf(shown);
  rows.set([...live, ...shown]);
  byId('grid').setAttribute('aria-rowcount', live.length + shown.length + 1);
  markActive();
  tellNewer(finished);
  tellTally(live.length, shown.length, finished.length);
  tellEmpty(live.length + shown.length, finished.length);
  tellFeed();
  detail.refresh();
}

function tellTally(live, shown, all) {
  const parts = [shown === all ? counted(all, 'request') : `${count(shown)} of ${counted(all, 'request')}`];
  if (live) parts.push(`${count(live)} live`);
  if (feed.missed) parts.push(`${count(feed.missed)} not kept`);
  setText(byId('tally'), parts.join(', '));
  byId('tally').title = feed.missed ? `Requests are recorded while this page looks; the last ${count(feed.capacity)} are kept.` : '';
}

/** New requests above what is in sight. */
function tellNewer(finished) {
  const newest = finished[0]?.seq ?? 0;
  if (rows.isAtTop || sort !== 'begun_ms' || seenNewest === null) seenNewest = newest;
  const above = finished.findIndex((item) => item.seq <= seenNewest);
  const number = above < 0 ? 0 : above;
  byId('newer').hidden = number === 0;
  setText(byId('newer'), `↑ ${counted(number, 'new request')}`);
}

function tellEmpty(shown, all) {
  const box = byId('no-rows');
  box.hidden = shown > 0;
  if (shown > 0) return;
  const kind = all > 0 ? 'filtered' : feed.state;
  if (box.dataset.kind === kind) return;
  box.dataset.kind = kind;
  box.replaceChildren(...emptyTexts(kind));
}

function emptyTexts(kind) {
  const lines = {
    filtered: ['No request matches the filter', 'Take words away, or clear the filter with Esc.'],
    starting: ['Looking for requests', ''],
    lost: ['Sidelight cannot be reached', 'The page tries again by itself.'],
    paused: ['Paused', 'Resume to see new requests.'],
    asleep: ['Recording is off', 'This page was hidden for long. It goes on when it is seen again.'],
    on: ['No requests yet', 'Send one to a service, as clients do; it appears here within a second.'],
  };
  const [title, text] = lines[kind];
  const more = kind === 'on' ? [el('p', {}, 'Requests are recorded while this page looks, and for 15 s after: what was before is not here. ', `The last ${count(feed.capacity)} are kept. `, el('a', { href: '#/services' }, 'Services'), ' shows which hosts are served.')] : [];
  return [el('h2', {}, title), text && el('p', {}, text), ...more].filter(Boolean);
}

/** Whether requests are recorded now. */
function tellFeed() {
  const left = Math.ceil((RECORDS_FOR_MS - (Date.now() - feed.askedAt)) / 1000);
  const texts = {
    starting: ['Connecting', null],
    on: ['Recording', null],
    paused: ['Paused', left > 0 ? `Paused. Recording ends in ${left} s; requests until then are shown when you resume.` : 'Paused, and recording has ended: requests that come now are not kept. Resume to record again.'],
    asleep: ['Not recording', 'This page was hidden for long, so recording has ended.'],
    lost: ['No connection', `${feed.problem} Trying again.`],
  };
  const [state, notice] = texts[feed.state];
  byId('feed').dataset.state = feed.state;
  setText(byId('feed-text'), state);
  tellNotice(notice);
}

function tellNotice(text) {
  const notice = byId('notice');
  notice.hidden = text === null;
  notice.dataset.state = feed.state;
  // The seconds are not read out: only that it is paused.
  notice.setAttribute('aria-live', feed.state === 'paused' ? 'off' : 'polite');
  if (text !== null) setText(notice, text);
}

/* Filter and order */

function setFilter(text) {
  byId('filter').value = text;
  applyFilter();
}

function applyFilter() {
  const text = byId('filter').value;
  filter = parse(text);
  byId('filter').setAttribute('aria-invalid', String(filter.problem !== ''));
  setText(byId('filter-problem'), filter.problem ? `${filter.problem}.` : '');
  for (const chipButton of byId('chips').children) chipButton.setAttribute('aria-pressed', String(hasPiece(text, chipButton.dataset.piece)));
  rows.toTop();
  refresh();
}

function typed() {
  applyFilter();
  say(byId('tally').textContent);
  go({ ...route(), query: byId('filter').value }, { replace: true });
}

function makeChips() {
  const toggle = (piece) => () => {
    byId('filter').value = toggled(byId('filter').value, piece);
    typed();
  };
  byId('chips').append(...CHIPS.map(([piece, text]) => el('button', { type: 'button', class: 'toggle', 'aria-pressed': 'false', 'data-piece': piece, title: piece, on: { click: toggle(piece) } }, text)));
}

function makeHelp() {
  byId('filter-forms').append(el('dl', {}, FORMS.map(([form, text]) => el('div', {}, el('dt', {}, el('code', {}, form)), el('dd', {}, text)))));
}

function setSort(key) {
  sort = key;
  byId('sort').value = key;
  for (const head of byId('grid-head').children) {
    if (head.dataset.sort) head.setAttribute('aria-sort', head.dataset.sort === key ? 'descending' : 'none');
  }
  rows.toTop();
  refresh();
}

/* The row that keys move */

function setActive(id) {
  activeId = id;
  markActive();
}

function markActive() {
  for (const row of byId('rows-all').children) row.setAttribute('aria-selected', String(row.dataset.id === activeId));
  const row = activeId === null ? null : rows.rowOf(activeId);
  if (row) byId('grid').setAttribute('aria-activedescendant', row.id);
  else byId('grid').removeAttribute('aria-activedescendant');
}

function moveTo(index) {
  const at = Math.max(0, Math.min(rows.items.length - 1, index));
  const item = rows.items[at];
  if (!item) return;
  rows.reveal(at);
  setActive(item.id);
  if (route().id === null) return;
  clearTimeout(following);
  following = setTimeout(() => openRequest(item.id, { replace: true }), FOLLOW_MS);
}

function openRequest(id, options = {}) {
  go({ ...route(), view: 'requests', id }, options);
}

/** Closes the request; the list has the focus again. */
function closeRequest() {
  clearTimeout(following);
  go({ ...route(), id: null });
  byId('grid').focus();
}

/** The request before or after the open one. */
function step(by) {
  moveTo(rows.indexOf(activeId) + by);
}

function listen() {
  byId('filter').addEventListener('input', soon(typed, FILTER_MS));
  byId('filter').addEventListener('keydown', filterKey);
  byId('grid').addEventListener('keydown', gridKey);
  byId('rows-all').addEventListener('click', rowClick);
  byId('pause').addEventListener('click', togglePause);
  byId('clear').addEventListener('click', clear);
  byId('newer').addEventListener('click', () => {
    rows.toTop();
    refresh();
    byId('grid').focus();
  });
  byId('rows').addEventListener('scroll', () => { if (rows.isAtTop) byId('newer').hidden = true; }, { passive: true });
  document.addEventListener('keydown', escape);
  setSort(sort);
}

function soon(work, ms) {
  let timer = null;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(work, ms);
  };
}

function rowClick(event) {
  const id = event.target.closest('.row')?.dataset.id;
  if (!id || event.ctrlKey || event.metaKey || event.shiftKey || event.button !== 0) return;
  event.preventDefault();
  byId('grid').focus({ preventScroll: true });
  setActive(id);
  openRequest(id);
  // Where there is room for one only, the list is gone.
  if (byId('list').offsetParent === null) byId('detail').focus({ preventScroll: true });
}

function gridKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target !== byId('grid')) return;
  const at = rows.indexOf(activeId);
  const keys = {
    ArrowDown: () => moveTo(at + 1),
    ArrowUp: () => moveTo(Math.max(0, at - 1)),
    PageDown: () => moveTo(at + rows.page),
    PageUp: () => moveTo(at - rows.page),
    Home: () => moveTo(0),
    End: () => moveTo(rows.items.length - 1),
    Enter: () => enter(),
    '/': () => byId('filter').focus(),
    p: () => togglePause(),
  };
  const work = Object.hasOwn(keys, event.key) ? keys[event.key] : null;
  if (!work) return;
  event.preventDefault();
  work();
}

function enter() {
  if (rows.indexOf(activeId) < 0) return;
  clearTimeout(following);
  openRequest(activeId);
  byId('detail').focus({ preventScroll: true });
}

function filterKey(event) {
  if (event.key === 'Escape' && byId('filter').value !== '') {
    event.stopPropagation();
    byId('filter').value = '';
    typed();
  } else if (event.key === 'Enter' || event.key === 'ArrowDown') {
    event.preventDefault();
    byId('grid').focus();
    if (rows.indexOf(activeId) < 0) moveTo(0);
  }
}

function escape(event) {
  // In a search box it empties that.
  if (event.key !== 'Escape' || event.defaultPrevented || event.target.value) return;
  const help = byId('filter-help');
  if (help.open) {
    help.open = false;
    help.querySelector('summary').focus();
  } else if (!byId('view-requests').hidden && route().id !== null) {
    closeRequest();
  }
}

function togglePause() {
  if (feed.isPaused) feed.resume();
  else feed.pause();
  setText(byId('pause'), feed.isPaused ? 'Resume' : 'Pause');
  say(feed.isPaused ? 'Paused. Recording ends in 15 seconds.' : 'Recording again');
}

function clear() {
  feed.clear();
  say('The list is empty');
}

function fit(width) {
  const isNarrow = width < NARROW_PX;
  byId('list').classList.toggle('narrow', isNarrow);
  rows.setHeight(isNarrow ? NARROW_ROW_PX : ROW_PX);
}
