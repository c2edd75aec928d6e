// The view of hostcalls: how often each was called since the process began, and how long it took.

import { getHostcalls } from './api.js';
import { MEANINGS } from './facts.js';
import { Refresher } from './refresher.js';
import { button, byId, callKind, chip, count, counted, duration, el, say, setText, shared, table, visible } from './dom.js';

const EVERY_MS = 2000;

/** Columns: title, class, what it is sorted by. */
const COLUMNS = [
  ['Hostcall', 'name', null],
  ['Calls', 'number', (total) => total.count],
  ['Time', 'number', (total) => total.seconds],
  ['Mean', 'number', (total) => total.seconds / total.count],
  ['Median', 'number', (total) => total.p50_us ?? 0],
  ['99 of 100 within', 'number', (total) => total.p99_us ?? 0],
  ['Statuses', 'chips', (total) => failed(total)],
];

const refresher = new Refresher(EVERY_MS, async () => {
  latest = (await getHostcalls()).hostcalls;
  draw();
});

let latest = null;
/** Totals that are taken off: those of the time before. */
let before = null;
let order = COLUMNS[2];
let find;
let tally;
let since;
let place;

export const show = () => refresher.show();
export const hide = () => refresher.hide();

export function start() {
  find = el('input', { type: 'search', placeholder: 'Find a hostcall or a status', 'aria-label': 'Find a hostcall or a status', spellcheck: 'false', on: { input: found } });
  tally = el('span', { class: 'dim' });
  since = button('Count from now', fromNow, { title: 'Shows only calls that come from now on: for what one request calls' });
  place = el('div', { class: 'wide-table' });
  byId('view-hostcalls').append(
    el('div', { class: 'page-head' }, el('h2', {}, 'Hostcalls'), el('p', { class: 'dim', id: 'hostcalls-since' }, 'Of all services, since the process began.')),
    el('div', { class: 'toolbar' }, find, since, tally), refresher.problem, place);
}

const nameOf = (total) => `${total.interface}.${total.function}`;
const failed = (total) => Object.entries(total.statuses).reduce((sum, [status, times]) => sum + (callKind(status) === 'bad' ? times : 0), 0);

function fromNow() {
  before = before === null ? new Map(latest?.map((total) => [nameOf(total), total]) ?? []) : null;
  setText(since, before === null ? 'Count from now' : 'Count from the beginning');
  setText(byId('hostcalls-since'), before === null ? 'Of all services, since the process began.' : `Of all services, since ${new Date().toLocaleTimeString()}.`);
  say(before === null ? 'Counted since the process began' : 'Counted from now');
  draw();
}

/** What has come since; of that, percentiles are not known. */
function sinceThen(total) {
  const was = before?.get(nameOf(total));
  if (!before) return total;
  const statuses = Object.entries(total.statuses).map(([status, times]) => [status, times - (was?.statuses[status] ?? 0)]).filter(([, times]) => times > 0);
  return { ...total, count: total.count - (was?.count ?? 0), seconds: total.seconds - (was?.seconds ?? 0), p50_us: null, p99_us: null, statuses: Object.fromEntries(statuses) };
}

function draw() {
  if (latest === null) return;
  const word = find.value.trim().toLowerCase();
  const words = (total) => `${nameOf(total)} ${Object.keys(total.statuses).join(' ')}`.toLowerCase();
  const all = latest.map(sinceThen).filter((total) => total.count > 0);
  const totals = all.filter((total) => words(total).includes(word));
  totals.sort(order[2] ? (a, b) => order[2](b) - order[2](a) : (a, b) => nameOf(a).localeCompare(nameOf(b)));
  setText(tally, totals.length === all.length ? counted(all.length, 'hostcall') : `${count(totals.length)} of ${counted(all.length, 'hostcall')}`);
  put(all.length === 0 ? empty() : totalsTable(totals));
}

function found() {
  draw();
  say(tally.textContent);
}

/** Puts it there; the focus stays on the title that was pressed. */
function put(element) {
  const pressed = place.contains(document.activeElement) ? document.activeElement.dataset.title : null;
  place.replaceChildren(element);
  if (pressed) [...place.querySelectorAll('.sorter')].find((sorter) => sorter.dataset.title === pressed)?.focus();
}

function empty() {
  const text = before === null ? 'No program has called the host yet. Send a request to a service.' : 'Nothing was called since. Send a request to a service.';
  return el('div', { class: 'empty' }, el('h2', {}, 'No hostcalls yet'), el('p', {}, text));
}

function totalsTable(totals) {
  const most = Math.max(Number.MIN_VALUE, ...totals.map((total) => total.seconds));
  const columns = COLUMNS.map((column) => [sorter(column), column[1]]);
  const made = table('Hostcalls', columns, totals.map((total) => cells(total, most)));
  made.querySelectorAll('th').forEach((head, at) => head.setAttribute('aria-sort', COLUMNS[at] === order ? (order[2] ? 'descending' : 'ascending') : 'none'));
  return made;
}

const sorter = (column) => el('button', { type: 'button', class: 'sorter', 'data-title': column[0], on: { click: () => { order = column; draw(); } } }, column[0]);

/** Percentiles come from a histogram. */
const about = (us) => (us === null ? '–' : `≈ ${duration(us)}`);

function cells(total, most) {
  return [
    el('code', {}, visible(nameOf(total))),
    count(total.count),
    shared(total.seconds / most, duration(total.seconds * 1e6)),
    duration((total.seconds / total.count) * 1e6),
    about(total.p50_us),
    about(total.p99_us),
    Object.entries(total.statuses).sort(([, a], [, b]) => b - a).map(([status, times]) => chip(`${status} ${count(times)}`, callKind(status), MEANINGS[status])),
  ];
}
