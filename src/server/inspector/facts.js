// What there is to say of a hostcall, of a request to a backend, of a lookup in the cache.

import { bytes, callKind, cacheKind, chip, count, duration, el, statusKind, visible } from './dom.js';

/** What statuses of hostcalls mean. */
export const MEANINGS = {
  ok: 'done',
  error: 'failed',
  inval: 'an argument is not valid',
  badf: 'not a handle, or not of this kind',
  buflen: 'the buffer is too small; guests ask again with a larger one',
  unsupported: 'this host does not do that',
  badalign: 'a pointer is not aligned',
  httpinvalid: 'not valid HTTP',
  httpuser: 'the guest used HTTP wrongly',
  httpincomplete: 'the message ended early',
  none: 'there is none',
  httpheadtoolarge: 'the head is too large',
  httpinvalidstatus: 'not a status code',
  limitexceeded: 'over a limit of the platform',
  again: 'not yet',
};

const statusText = (status) => [chip(status, callKind(status)), Object.hasOwn(MEANINGS, status) ? ` ${MEANINGS[status]}` : ''];

export const callName = (call) => `${call.interface}.${call.function}`;

export function callFacts(call) {
  const isMany = call.count > 1;
  return [
    ['Status', statusText(call.status)],
    ['Begins at', duration(call.begun_us)],
    ['Ends at', duration(call.ended_us)],
    [isMany ? 'From first to last' : 'Takes', duration(call.ended_us - call.begun_us)],
    ['Calls in a row', isMany ? `×${count(call.count)}` : null],
    ['Time within', isMany ? `${duration(call.time_us)}, ${duration(call.time_us / call.count)} each` : null],
    ['Given', call.name ? visible(call.name) : null],
    ['First argument', `${call.argument}`],
    ['Bytes', bytes(call.bytes)],
    ['Memory', bytes(call.memory)],
    ['Sends', call.sent ? 'yes: it began a request to a backend, or the response' : null],
    ['Waits', call.waits ? 'yes: the guest did not compute meanwhile' : null],
  ];
}

/** What making a connection took: finding addresses, TCP, TLS. */
function connectingOf({ begun_us: begun, resolved_us: resolved, reached_us: reached, connected_us: connected }) {
  if (!Number.isFinite(resolved)) return [];
  const facts = [['Finding its address', duration(resolved - begun)]];
  if (Number.isFinite(reached)) facts.push(['TCP', duration(reached - resolved)]);
  if (Number.isFinite(reached) && Number.isFinite(connected)) facts.push(['TLS, if any', duration(connected - reached)]);
  return facts;
}

/** Beginnings and ends of what a request to a backend goes through; only what happened. */
export function phasesOf(attempt) {
  const { begun_us: begun, connected_us: connected, answered_us: answered, ended_us: ended } = attempt;
  const phases = [];
  if (connected !== null) phases.push(['connect', begun, connected]);
  const asked = connected ?? begun;
  if (answered !== null) phases.push(['wait', asked, answered], ['body', answered, ended]);
  else phases.push([connected === null ? 'connect' : 'wait', asked, ended]);
  return phases;
}

export const PHASES = { connect: 'connect', wait: 'wait for the head', body: 'body' };

export function attemptFacts(attempt) {
  const { connected_us: connected, reused } = attempt;
  const connection = connected === null ? 'none was made' : reused ? 'used before' : 'new';
  return [
    ['Status', attempt.status === null ? null : chip(attempt.status, statusKind(attempt.status))],
    ['Begins at', duration(attempt.begun_us)],
    ...phasesOf(attempt).map(([phase, from, to]) => [PHASES[phase].replace(/^./, (first) => first.toUpperCase()), duration(to - from)]),
    ['Takes', duration(attempt.ended_us - attempt.begun_us)],
    ['Connection', connection],
    ...connectingOf(attempt),
    ['Peer', attempt.peer === null ? null : visible(attempt.peer)],
    ['Version', connected === null ? null : `HTTP/${visible(attempt.version)}`],
    ['Body’s size', bytes(attempt.bytes)],
    ['Sent again', attempt.resend ? `${count(attempt.resend)} attempts were before` : null],
    ['Failure', attempt.failure === null ? null : chip(attempt.failure, 'bad')],
    ['Detail', attempt.detail ? visible(attempt.detail) : null],
  ];
}

export function cacheFacts(look) {
  return [
    ['Answer', chip(look.answer, cacheKind(look.answer))],
    ['About', el('span', { class: 'value' }, visible(look.about))],
    ['At', duration(look.at_us)],
    ['Done with the response', look.action === null ? null : visible(look.action)],
    ['Why', look.reason === null ? null : visible(look.reason)],
  ];
}
