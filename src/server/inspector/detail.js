// One request: what it came to, its timeline, and everything that is known of it.

import { EXPORTS, download, exportPath, getRequest, hasToken } from './api.js';
import { feed } from './feed.js';
import { hasFailed, prepared } from './filter.js';
import { go, route } from './route.js';
import { Timeline } from './timeline.js';
import { attemptFacts, MEANINGS } from './facts.js';
import { curl } from './curl.js';
import { button, byId, bytes, cacheKind, callKind, chip, copier, count, counted, duration, el, facts, long, moment, say, shared, statusKind, table, visible } from './dom.js';

/** Recordings that are kept, so that going back and forth asks nobody. */
const KEPT = 40;
/** A request that has ended is asked for so often until its recording is there. */
const TRIES = 5;

const kept = new Map();
let shownId = null;
/** The recording that is shown; none while it is fetched, or while the request is live. */
let shown = null;
let wasLive = false;
let tries = 0;
let isFetching = false;
let timeline = null;
/** What the list does: closes the request, goes to another. */
let list;

export function start(theList) {
  list = theList;
}

const SECTIONS = [
  ['timeline', () => 'Timeline', timelineSection],
  ['hostcalls', (request) => `Hostcalls ${count(request.guest?.count ?? 0)}`, hostcallsSection],
  ['backends', (request) => `Backends ${count(request.attempts.length)}`, backendsSection],
  ['cache', (request) => `Cache ${count(request.cache.length)}`, cacheSection],
  ['headers', () => 'Headers', headersSection],
];

/** Shows a request, or another section of it. */
export function open(id, section) {
  byId('detail').hidden = false;
  if (id !== shownId) begin(id);
  else if (shown) showSection(section);
}

export function close() {
  [shownId, shown] = [null, null];
  drop();
  byId('detail').hidden = true;
  byId('detail').replaceChildren();
}

/** Something has come; of interest while a request is live. */
export function refresh() {
  if (shownId === null || shown !== null || isFetching) return;
  const known = feed.find(shownId);
  if (known?.isLive) showLive(known);
  else if (wasLive && tries < TRIES) fetchRecording();
}

function begin(id) {
  [shownId, shown, wasLive, tries] = [id, null, false, 0];
  const known = feed.find(id);
  if (known?.isLive) {
    wasLive = true;
    showLive(known);
  } else if (kept.has(id)) {
    showRecording(kept.get(id));
  } else {
    if (known) showHead(known, el('p', { class: 'dim' }, 'Fetching …'));
    else showMessage('Fetching …', '');
    if (!isFetching) fetchRecording();
  }
}

async function fetchRecording() {
  const id = shownId;
  isFetching = true;
  tries += 1;
  const [recording, error] = await getRequest(id).then((found) => [filled(found), null], (failure) => [null, failure]);
  isFetching = false;
  if (recording) keep(id, recording);
  if (id !== shownId) openLater();
  else if (recording) showRecording(recording);
  else showFailure(error);
}

/** Another one was opened meanwhile. */
function openLater() {
  if (shownId !== null && shown === null) begin(shownId);
}

/** What has no end goes on to the end of the request. */
function filled(recording) {
  const end = recording.response?.ended_us ?? recording.summary.duration_us;
  for (const part of [recording.guest, ...recording.attempts]) {
    if (part) part.ended_us ??= Math.max(end, part.begun_us);
  }
  return recording;
}

function keep(id, recording) {
  kept.set(id, recording);
  if (kept.size > KEPT) kept.delete(kept.keys().next().value);
}

function showFailure(error) {
  const known = feed.find(shownId);
  if (error.status === 404 && wasLive && tries < TRIES) {
    showMessage('It has ended', 'Its recording is on its way.');
  } else if (error.status === 404) {
    const text = `Sidelight keeps the last ${count(feed.capacity)} requests that came while an inspector was open. This one is not, or no longer, among them.`;
    if (known) showHead(known, el('p', {}, text));
    else showMessage('No longer kept', text);
  } else {
    showMessage('It cannot be shown', error.message, button('Try again', () => begin(shownId)));
  }
}

/* What is there for every request, however little is known of it */

function put(...children) {
  drop();
  const panel = byId('detail');
  const focused = panel.contains(document.activeElement) ? document.activeElement : null;
  panel.replaceChildren(...children.filter(Boolean));
  if (focused) sameAs(focused, panel).focus({ preventScroll: true });
}

/** The control of the same name, else the panel. */
function sameAs(focused, panel) {
  const name = focused.getAttribute('aria-label');
  return [...panel.querySelectorAll('button[aria-label]')].find((control) => control.getAttribute('aria-label') === name) ?? panel;
}

function drop() {
  timeline?.end();
  timeline = null;
}

function showMessage(what, text, ...more) {
  put(head([el('span', {}, what)]), el('div', { class: 'detail-body' }, el('p', {}, text), el('p', {}, more)));
}

function showHead(summary, ...more) {
  put(head(title(summary)), el('div', { class: 'detail-body' }, ...more));
}

function showLive(request) {
  const pairs = [
    ['For', duration(request.age_us)],
    ['Waits for', request.waits_for ? el('code', {}, visible(request.waits_for)) : 'no hostcall: it computes, or sleeps'],
    ['Backends', request.backends.length ? request.backends.map(visible).join(', ') : 'none now'],
    ['Service', request.service === null ? null : visible(request.service)],
    ['Began', moment(request.begun_ms)],
    ['Request id', visible(request.id)],
  ];
  wasLive = true;
  const text = el('p', { class: 'dim' }, 'It is still being worked on. Its hostcalls are shown when it has ended.');
  const fresh = el('div', { class: 'detail-body' }, text, facts(pairs, 'columns'));
  const body = byId('detail').querySelector('.detail-body.is-live');
  fresh.classList.add('is-live');
  if (body) body.replaceWith(fresh);
  else put(head(title(request)), fresh);
}

function title(request) {
  const target = request.target ?? prepared(request, false).target;
  const status = request.isLive ? chip('live', 'turn') : chip(request.status ?? 'no answer', statusKind(request.status));
  return [status, ' ', el('span', { class: 'method' }, visible(request.method)), ' ', el('span', { class: 'address' }, el('span', { class: 'host' }, visible(request.host)), visible(target))];
}

function head(content) {
  const isWide = byId('split').classList.contains('wide');
  return el('header', { class: 'detail-head' },
    button('← Back', list.close, { class: 'back' }),
    el('h2', { id: 'detail-title' }, content),
    el('div', { class: 'detail-actions' },
      button('↑', () => list.step(-1), { class: 'quiet', title: 'The request above', 'aria-label': 'The request above' }),
      button('↓', () => list.step(1), { class: 'quiet', title: 'The request below', 'aria-label': 'The request below' }),
      button('⤢', widen, { class: 'quiet widen', title: 'As wide as the page', 'aria-label': 'As wide as the page', 'aria-pressed': String(isWide) }),
      button('✕', list.close, { class: 'quiet', id: 'detail-close', title: 'Close (Esc)', 'aria-label': 'Close' })));
}

function widen(event) {
  const isWide = byId('split').classList.toggle('wide');
  event.currentTarget.setAttribute('aria-pressed', String(isWide));
}

/* A recording */

function showRecording(recording) {
  shown = recording;
  put(head(title(recording.summary)), overview(recording), el('div', { class: 'detail-bar' }, tabs(recording), exportsOf(recording)), el('div', { class: 'detail-body', id: 'section', role: 'tabpanel', tabindex: '0' }));
  showSection(route().section);
  say(`Request ${recording.summary.method} ${recording.summary.path}, status ${recording.summary.status ?? 'none'}, ${counted(recording.summary.hostcalls, 'hostcall')}`);
}

function overview(recording) {
  return el('div', { class: 'overview' }, trouble(recording), figures(recording), origin(recording));
}

/** Why it failed, if it did. */
function trouble({ summary, guest }) {
  if (!hasFailed(summary)) return null;
  const ended = guest && guest.outcome !== 'finished' && guest.outcome !== null;
  const parts = [
    el('strong', {}, visible(summary.failure ?? (summary.status === null ? 'no answer was sent' : `status ${summary.status}`))),
    ended ? `, guest: ${visible(guest.outcome)}` : null,
    guest?.detail ? el('pre', {}, visibleLines(guest.detail)) : null,
  ];
  return el('div', { class: 'trouble', role: 'note' }, parts);
}

const visibleLines = (text) => String(text).split('\n').map(visible).join('\n');

function figures({ summary, guest, response }) {
  const ofGuest = guest ? [
    ['Guest CPU', duration(guest.cpu_us)],
    ['Guest waited', duration(guest.waiting_us)],
    ['In hostcalls', duration(guest.hostcalls_us)],
    ['Memory', bytes(guest.memory)],
  ] : [['Guest', 'none ran']];
  return facts([
    ['Duration', duration(summary.duration_us)],
    ['First byte', response?.head_us ? duration(response.head_us) : null],
    ...ofGuest,
    ['Sent', bytes(summary.bytes)],
    ['Cache', summary.cache ? visible(summary.cache) : null],
  ], 'figures');
}

/** Whose it is, when it came, and by what names it is known elsewhere. */
function origin({ summary, guest, client, version, fields }) {
  const id = (name, text) => el('span', { class: 'id' }, `${name} `, el('code', {}, visible(text)), ' ', copier('Copy', () => text, { 'aria-label': `Copy the ${name}` }));
  const texts = [
    summary.service === null ? 'no service' : `service ${visible(summary.service)}${summary.generation === null ? '' : `, generation ${summary.generation}`}`,
    guest && (guest.cold ? 'sandbox made for it' : 'sandbox used before'),
    moment(summary.begun_ms),
    `from ${visible(client)} with HTTP/${visible(version)}`,
    summary.sampled ? 'sampled' : null,
  ];
  const copies = el('span', { class: 'id' },
    copier('Copy as curl', () => curl(summary, fields), { title: 'Without redacted fields and without the body, which is not recorded' }),
    copier('Copy link', () => location.href));
  return el('div', { class: 'origin' }, el('p', {}, texts.filter(Boolean).join(' · ')), el('p', {}, id('request', summary.id), id('trace', summary.trace_id), copies));
}

function exportsOf({ summary }) {
  return el('div', { class: 'exports', role: 'group', 'aria-label': 'Exports' }, el('span', { class: 'dim' }, 'Save as'), EXPORTS.map((form) => exportLink(summary.id, form)));
}

function exportLink(id, { kind, label, title: hint, ending }) {
  const path = exportPath(id, kind);
  const name = `sidelight-${id.replace(/[^\w-]/g, '_').slice(0, 64)}.${ending}`;
  const fetchIt = async (event) => {
    // A link cannot carry the token.
    if (!hasToken()) return;
    event.preventDefault();
    try {
      await download(path, name);
    } catch (error) {
      say(error.message);
      event.target.title = error.message;
    }
  };
  return el('a', { class: 'button', href: `../${path}`, download: name, title: hint, 'data-export': kind, on: { click: fetchIt } }, label);
}

/* Its sections */

function tabs(recording) {
  const tab = ([key, text]) => el('a', { role: 'tab', id: `tab-${key}-of`, class: 'tab', 'aria-controls': 'section', 'data-section': key, href: '#', on: { click: toSection, keydown: tabKey } }, text(recording));
  return el('div', { class: 'subtabs', role: 'tablist', 'aria-label': 'Sections of the request' }, SECTIONS.map(tab));
}

function toSection(event) {
  event.preventDefault();
  go({ ...route(), section: event.currentTarget.dataset.section }, { replace: true });
}

function tabKey(event) {
  const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!by) return;
  event.preventDefault();
  const all = [...event.currentTarget.parentNode.children];
  const next = all[(all.indexOf(event.currentTarget) + by + all.length) % all.length];
  next.focus();
  next.click();
}

function showSection(wanted) {
  const [key, , make] = SECTIONS.find(([known]) => known === wanted) ?? SECTIONS[0];
  for (const tab of byId('detail').querySelectorAll('[role=tab]')) {
    const isIt = tab.dataset.section === key;
    tab.setAttribute('aria-selected', String(isIt));
    tab.tabIndex = isIt ? 0 : -1;
    if (isIt) tab.scrollIntoView({ block: 'nearest', inline: 'nearest' });
  }
  drop();
  byId('section').setAttribute('aria-labelledby', `tab-${key}-of`);
  byId('section').replaceChildren(...[make(shown)].flat().filter(Boolean));
  timeline?.draw();
}

function timelineSection(recording) {
  timeline = new Timeline(recording);
  return timeline.element;
}

/** What the calls of this request came to, by hostcall. */
function hostcallsSection(recording) {
  const { calls, guest } = recording;
  if (!guest) return el('p', { class: 'dim' }, 'No guest ran for this request, so there are no hostcalls.');
  const totals = totalsOf(calls);
  const most = Math.max(1, ...totals.map((total) => total.time));
  const rows = totals.map((total) => [
    el('code', {}, visible(total.name)),
    count(total.count),
    shared(total.time / most, duration(total.time)),
    duration(total.longest),
    bytes(total.bytes),
    [...total.statuses].map(([status, times]) => chip(`${status} ${count(times)}`, callKind(status), MEANINGS[status])),
  ]);
  const columns = [['Hostcall', 'name'], ['Calls', 'number'], ['Time', 'number'], ['Longest', 'number'], ['Bytes', 'number'], ['Statuses', 'chips']];
  const text = `${counted(guest.count, 'hostcall')} in ${duration(guest.hostcalls_us)}, of which the guest waited ${duration(guest.waiting_us)}.`;
  return [el('p', {}, text), missing(recording), table('Hostcalls of this request', columns, rows)];
}

const missing = ({ calls_dropped: dropped }) => (dropped ? el('p', { class: 'remark' }, `${counted(dropped, 'hostcall')} came after the most that are recorded of a request, and are not listed.`) : null);

function totalsOf(calls) {
  const totals = new Map();
  for (const call of calls) {
    const name = `${call.interface}.${call.function}`;
    const total = totals.get(name) ?? { name, count: 0, time: 0, longest: 0, bytes: 0, statuses: new Map() };
    total.count += call.count;
    total.time += call.time_us;
    total.bytes += call.bytes;
    total.longest = Math.max(total.longest, call.time_us / call.count);
    total.statuses.set(call.status, (total.statuses.get(call.status) ?? 0) + call.count);
    totals.set(name, total);
  }
  return [...totals.values()].sort((a, b) => b.time - a.time);
}

function backendsSection({ attempts, faults }) {
  const parts = [];
  if (faults.length > 0) {
    const rows = faults.map((injected) => [duration(injected.at_us), visible(injected.backend), chip(injected.fault, 'bad')]);
    parts.push(el('h3', {}, 'Faults on purpose'), table('Faults on purpose', [['At', 'number'], ['Backend', 'name'], ['Fault', 'chips']], rows));
  }
  if (attempts.length === 0) parts.push(el('p', { class: 'dim' }, 'Nothing was sent to a backend for this request.'));
  return [...parts, ...attempts.map((attempt) => {
    const line = [attempt.failure ? chip(attempt.failure, 'bad') : chip(attempt.status ?? 'no answer', statusKind(attempt.status)), ' ', el('strong', {}, visible(attempt.backend)), ' ', el('span', { class: 'address' }, visible(`${attempt.method} ${attempt.url}`))];
    return el('article', { class: 'card' }, el('h3', {}, line), facts(attemptFacts(attempt).filter(([name]) => name !== 'Status'), 'figures'), fieldsBox('Request fields', attempt.fields), fieldsBox('Response fields', attempt.response_fields));
  })];
}

function cacheSection({ cache }) {
  if (cache.length === 0) return el('p', { class: 'dim' }, 'The cache was not asked for this request.');
  const rows = cache.map((look) => [duration(look.at_us), chip(look.answer, cacheKind(look.answer)), long(look.about), look.action === null ? 'none' : visible(look.action), visible(look.reason ?? '–')]);
  return table('What the cache said', [['At', 'number'], ['Answer', 'chips'], ['About', 'name'], ['Done with the response', ''], ['Why', 'text']], rows);
}

function headersSection({ summary, version, fields, response, attempts }) {
  const target = prepared(summary, false).target;
  const line = el('p', {}, long(`${summary.method} ${summary.scheme}://${summary.host}${target} HTTP/${version}`));
  const note = attempts.length ? el('p', { class: 'dim' }, 'Fields sent to backends, and theirs, are under Backends.') : null;
  return [line, fieldsBox('Request from the client', fields, true), fieldsBox('Response to the client', response?.fields, true), note];
}

/** Fields of a head. */
function fieldsBox(name, fields, isOpen = false) {
  if (!fields) return el('p', { class: 'dim' }, `${name}: not recorded.`);
  const summary = el('summary', {}, `${name} `, el('span', { class: 'dim' }, count(fields.length)));
  const rows = fields.map(([field, value]) => [el('code', {}, visible(field)), fieldValue(value)]);
  const copy = copier('Copy', () => fields.map(([field, value]) => `${field}: ${value}`).join('\n'), { 'aria-label': `Copy: ${name}` });
  return el('details', { class: 'fields', open: isOpen }, summary, copy, fields.length ? table(name, [['Name', 'name'], ['Value', 'text']], rows) : el('p', { class: 'dim' }, 'None.'));
}

function fieldValue(value) {
  if (value === '‹redacted›') return el('em', { class: 'dim', title: 'Sidelight does not record it' }, value);
  return value === '' ? el('em', { class: 'dim' }, 'empty') : long(value);
}
