// The rows of the timeline: the request as a whole, each hostcall, each request to a backend, each lookup in the cache.
//
// A row has a `kind`, a `name`, a `label` to show, when it begins and ends, its `bars` or a `drawing`, and its `facts`.

import { attemptFacts, cacheFacts, callFacts, callName, phasesOf } from './facts.js';
import { GUEST_HEIGHT, MEMORY_HEIGHT, blocks, curve, drawing, within } from './drawing.js';
import { bytes, callKind, chip, count, duration, el, visible } from './dom.js';

/** No request is shorter than this on the axis. */
export const LEAST_SPAN_US = 2;

/** When everything is over. */
export function endOf({ summary, guest, response, calls, attempts }) {
  const ends = [summary.duration_us, guest?.ended_us, response?.ended_us, ...calls.map((call) => call.ended_us), ...attempts.map((attempt) => attempt.ended_us)];
  return Math.max(LEAST_SPAN_US, ...ends.map((end) => Number(end) || 0));
}

/** In the order of time; requests to backends come after the hostcall that they are for. */
export function rowsOf({ calls, attempts, cache }) {
  const ofCalls = new Map();
  const own = [];
  for (const attempt of attempts) {
    if (attempt.call === null || !calls[attempt.call]) own.push(attempt);
    else ofCalls.set(attempt.call, [...(ofCalls.get(attempt.call) ?? []), attempt]);
  }
  const blocksOfRows = [
    ...calls.map((call, index) => [callRow(call), ...(ofCalls.get(index) ?? []).map((attempt) => attemptRow(attempt, true))]),
    ...own.map((attempt) => [attemptRow(attempt, false)]),
    ...cache.map((look) => [cacheRow(look)]),
  ];
  return blocksOfRows.sort(([a], [b]) => a.begin - b.begin).flat();
}

const barOf = (kind, begin, end) => el('span', { class: `tl-bar ${kind}`, vars: { b: begin, e: end } });

function callRow(call) {
  const name = visible(callName(call));
  const kind = callKind(call.status);
  const label = [
    el('span', { class: 'tl-interface' }, visible(call.interface), '.'), el('span', { class: 'tl-function' }, visible(call.function)),
    call.name ? el('span', { class: 'tl-given' }, visible(call.name)) : null,
    call.count > 1 ? el('span', { class: 'tl-count' }, `×${count(call.count)}`) : null,
    call.status === 'ok' ? null : chip(call.status, kind),
  ];
  const look = ['call', call.waits ? 'waits' : '', call.count > 1 ? 'many' : '', kind === 'bad' ? 'bad' : ''].join(' ');
  return {
    kind: 'call', data: call, name, label, isBad: kind === 'bad', begin: call.begun_us, end: call.ended_us, time: duration(call.time_us),
    bars: [barOf(look, call.begun_us, call.ended_us)], facts: () => callFacts(call), words: `${name} ${call.name ?? ''} ${call.status}`.toLowerCase(),
  };
}

function attemptRow(attempt, isPart) {
  const name = visible(`${attempt.backend}: ${attempt.method} ${attempt.url}`);
  const isBad = attempt.failure !== null || attempt.status === null || attempt.status >= 500;
  const result = attempt.failure ?? attempt.status ?? 'no answer';
  const label = [
    el('span', { class: 'tl-to', 'aria-hidden': 'true' }, '↳'), el('span', { class: 'tl-backend' }, visible(attempt.backend)),
    attempt.resend ? el('span', { class: 'tl-count' }, `again ${attempt.resend}`) : null,
    chip(result, isBad ? 'bad' : 'plain'), el('span', { class: 'tl-interface' }, visible(attempt.url)),
  ];
  return {
    kind: 'attempt', data: attempt, name, label, isBad, isPart, begin: attempt.begun_us, end: attempt.ended_us, time: duration(attempt.ended_us - attempt.begun_us),
    bars: phasesOf(attempt).map(([phase, begin, end]) => barOf(`${phase}${attempt.failure ? ' failed' : ''}`, begin, end)),
    facts: () => attemptFacts(attempt), words: `${name} ${result}`.toLowerCase(),
  };
}

function cacheRow(look) {
  const name = visible(`cache: ${look.answer}, ${look.about}`);
  const label = [el('span', { class: 'tl-to', 'aria-hidden': 'true' }, '◆'), el('span', { class: 'tl-function' }, 'cache '), chip(look.answer), el('span', { class: 'tl-interface' }, visible(look.about))];
  return {
    kind: 'cache', data: look, name, label, isBad: false, begin: look.at_us, end: look.at_us, time: visible(look.action ?? ''),
    bars: [el('span', { class: 'tl-mark', vars: { b: look.at_us } })], facts: () => cacheFacts(look), words: name.toLowerCase(),
  };
}

/* Bands: rows about the whole request */

export function bandsOf(recording) {
  const { guest, response } = recording;
  return [response ? clientBand(recording) : null, guest ? guestBand(recording) : null, guest ? memoryBand(recording) : null].filter(Boolean);
}

function clientBand({ summary, response }) {
  const end = response.ended_us ?? summary.duration_us;
  const head = response.head_us || end;
  const told = [['Until the head', duration(head)], ['Body', duration(end - head)], ['Takes', duration(end)], ['Status', `${summary.status ?? 'none'}`], ['Body sent', bytes(summary.bytes)]];
  return {
    kind: 'band', data: {}, name: 'response to the client', label: [el('strong', {}, 'Client')], begin: 0, end, time: duration(end), isBad: false,
    bars: [barOf('wait', 0, head), barOf('body', head, end)], facts: () => told, words: '',
  };
}

function guestBand({ guest, calls }) {
  const { drawn, paths } = drawing(GUEST_HEIGHT, ['fill-compute', 'fill-call', 'fill-waits']);
  const whole = [{ begin: guest.begun_us, end: guest.ended_us, share: 1 }];
  const waits = calls.filter((call) => call.waits).map(within);
  const rest = calls.filter((call) => !call.waits).map(within);
  const draw = (scale) => [whole, rest, waits].forEach((list, at) => paths[at].setAttribute('d', blocks(list, scale, 0, GUEST_HEIGHT)));
  const told = [
    ['CPU', duration(guest.cpu_us)], ['Waited', duration(guest.waiting_us)], ['In hostcalls', duration(guest.hostcalls_us)], ['Hostcalls', count(guest.count)],
    ['Begins at', duration(guest.begun_us)], ['Ends at', duration(guest.ended_us)], ['Ended', guest.outcome === null ? null : visible(guest.outcome)], ['Sandbox', guest.cold ? 'made for it' : 'used before'],
  ];
  return {
    kind: 'band', data: {}, name: 'guest', label: [el('strong', {}, 'Guest')], begin: guest.begun_us, end: guest.ended_us, time: `${duration(guest.cpu_us)} CPU`, isBad: false,
    said: `computed ${duration(guest.cpu_us)}, waited ${duration(guest.waiting_us)}`, drawing: drawn, draw, facts: () => told, words: '',
  };
}

/** Linear memory after each hostcall. */
function memoryBand({ guest, calls }) {
  const points = calls.map((call) => [call.ended_us, call.memory]);
  const least = calls[0]?.memory ?? guest.memory;
  const steps = [[guest.begun_us, least], ...points, [guest.ended_us, guest.memory]].sort(([a], [b]) => a - b);
  const most = Math.max(1, ...steps.map(([, size]) => size));
  const { drawn, paths } = drawing(MEMORY_HEIGHT, ['fill-memory', 'line-memory']);
  const draw = (scale) => curve(steps, most, scale).forEach((d, at) => paths[at].setAttribute('d', d));
  const grown = most - least;
  const told = [['At first', bytes(least)], ['At the end', bytes(guest.memory)], ['Most', bytes(most)], ['Grown by', grown ? bytes(grown) : 'nothing']];
  return {
    kind: 'band memory', data: {}, name: 'linear memory', label: [el('strong', {}, 'Memory'), grown ? el('span', { class: 'tl-interface' }, ` +${bytes(grown)}`) : null], begin: guest.begun_us, end: guest.ended_us, time: bytes(most), isBad: false,
    said: `from ${bytes(least)} to ${bytes(guest.memory)}`, drawing: drawn, draw, facts: () => told, words: '',
  };
}
