// The view of services: what is served, from which backends, and what came of changes.

import { getServices } from './api.js';
import { Refresher } from './refresher.js';
import { go } from './route.js';
import { button, byId, chip, clock, copier, count, counted, duration, el, facts, moment, table, visible } from './dom.js';

const EVERY_MS = 3000;
const DIGITS = 12;

const HEALTH = { healthy: 'ok', unhealthy: 'bad', unknown: 'plain' };
const RESULTS = { ok: 'ok', unchanged: 'plain', failed: 'bad' };

let last = '';
const refresher = new Refresher(EVERY_MS, async () => {
  const answer = await getServices();
  const text = JSON.stringify(answer);
  // What has not changed is left alone: somebody may be reading or selecting it.
  if (text !== last) draw(answer);
  last = text;
});

export const show = () => refresher.show();
export const hide = () => refresher.hide();

export function start() {
  byId('view-services').append(refresher.problem, el('div', { id: 'services' }));
}

function draw({ services, reloads }) {
  byId('services').replaceChildren(
    el('div', { class: 'page-head' }, el('h2', {}, 'Services'), el('p', { class: 'dim' }, `${counted(services.length, 'service')} in force.`)),
    ...(services.length ? services.map(card) : [empty()]),
    el('div', { class: 'page-head' }, el('h2', {}, 'Reloads'), el('p', { class: 'dim' }, 'The latest first.')),
    reloads.length ? el('div', { class: 'wide-table' }, reloadsTable(reloads)) : el('p', { class: 'dim' }, 'None yet. Change a file that is served, send SIGHUP, or POST to /reload.'));
}

function empty() {
  return el('div', { class: 'empty' }, el('h2', {}, 'Nothing is served'), el('p', {}, 'Add a service to sidelight.toml; it is read again by itself.'));
}

function card(service) {
  const { name, generation, trial, backends } = service;
  const requests = button('Its requests', () => go({ view: 'requests', id: null, section: null, query: `service:"${name.replaceAll('"', '')}"` }));
  return el('article', { class: 'card service' },
    el('h3', {}, el('span', { class: 'service-name' }, visible(name)), ' ', chip(`generation ${generation}`), ' ', trial ? chip('on trial', 'warn', 'A new program that gets some of the requests; it goes back by itself if it fails') : null, el('span', { class: 'spring' }), requests),
    facts(factsOf(service), 'columns'),
    backends.length ? backendsTable(name, backends) : el('p', { class: 'dim' }, 'No backends in its manifest.'));
}

function factsOf({ hosts, paths, module, digest }) {
  const short = el('span', {}, el('code', { title: visible(digest) }, visible(digest.slice(0, DIGITS))), ' ', copier('Copy', () => digest, { 'aria-label': 'Copy the digest' }));
  const list = (texts, none) => (texts.length ? texts.map((text) => el('code', { class: 'item' }, visible(text))) : el('span', { class: 'dim' }, none));
  return [['Hosts', list(hosts, 'all that no other service has')], ['Paths', list(paths, 'all')], ['Module', el('code', {}, visible(module))], ['Digest', short]];
}

function backendsTable(service, backends) {
  const columns = [['Backend', 'name'], ['URL', 'name'], ['Health', 'chips'], ['Idle connections', 'number'], ['Open connections', 'number']];
  const rows = backends.map(({ name, url, health, checked, idle, open, dynamic }) => [
    [el('code', {}, visible(name)), dynamic ? el('span', { class: 'dim' }, ' dynamic') : null],
    el('code', {}, visible(url)),
    checked ? chip(health, HEALTH[health] ?? 'plain') : el('span', { class: 'dim' }, 'not checked'),
    count(idle),
    count(open),
  ]);
  return table(`Backends of ${visible(service)}`, columns, rows);
}

/** Seconds since 1970, or RFC 3339. */
function timeOf(at) {
  const unixMs = typeof at === 'number' ? at * 1000 : Date.parse(at);
  return el('time', { title: moment(unixMs) }, clock(unixMs));
}

const changes = (changed, removed) => [...changed.map(visible), ...removed.map((name) => `${visible(name)} (removed)`)].join(', ') || '–';

function reloadsTable(reloads) {
  const rows = reloads.map(({ at, cause, result, generation, changed, removed, ms, error }) => [
    timeOf(at),
    chip(result, RESULTS[result] ?? 'plain'),
    visible(cause),
    `${generation}`,
    changes(changed, removed ?? []),
    duration(ms * 1000),
    error ? el('pre', {}, error.split('\n').map(visible).join('\n')) : '–',
  ]);
  return table('Reloads', [['Time', ''], ['Result', 'chips'], ['Cause', ''], ['Generation', 'number'], ['Changed', 'text'], ['Took', 'number'], ['Error', 'text']], rows);
}
