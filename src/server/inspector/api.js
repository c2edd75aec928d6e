// What the admin listener answers. When it asks for a token, the user is asked for it.

import { byId } from './dom.js';

const KEPT = 'sidelight-token';
const PATIENCE_MS = 15_000;

let token = read();
let asking = null;

function read() {
  try {
    return sessionStorage.getItem(KEPT);
  } catch {
    return null;
  }
}

function keep(value) {
  token = value;
  try {
    sessionStorage.setItem(KEPT, value);
  } catch {
    // Then it is kept until the page is left.
  }
}

/** Whether downloads need more than a link. */
export const hasToken = () => token !== null;

/** What went wrong, for people; `status` is 0 if there was no answer. */
export class Failed extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

/** Asks for the token, once for all who wait for it. */
function askForToken() {
  asking ??= new Promise((resolve) => {
    const [dialog, form, field, problem] = ['token', 'token-form', 'token-value', 'token-problem'].map(byId);
    problem.textContent = token === null ? '' : 'That token was not accepted.';
    form.onsubmit = (event) => {
      event.preventDefault();
      keep(field.value);
      field.value = '';
      dialog.close();
    };
    dialog.onclose = () => {
      asking = null;
      resolve();
    };
    dialog.oncancel = (event) => event.preventDefault();
    dialog.showModal();
    field.focus();
  });
  return asking;
}

async function ask(path, { method = 'GET', patience = PATIENCE_MS } = {}) {
  const used = token;
  const headers = used === null ? {} : { authorization: `Bearer ${used}` };
  let answer;
  try {
    answer = await fetch(`../${path}`, { method, headers, cache: 'no-store', signal: AbortSignal.timeout(patience) });
  } catch (error) {
    throw new Failed(0, error.name === 'TimeoutError' ? 'Sidelight does not answer.' : 'Sidelight cannot be reached.');
  }
  if (answer.status === 401) {
    if (used === token) await askForToken();
    return ask(path, { method, patience });
  }
  if (!answer.ok) throw new Failed(answer.status, (await answer.text()).trim().slice(0, 500) || `Status ${answer.status}.`);
  return answer;
}

async function json(path) {
  const answer = await ask(path);
  try {
    return await answer.json();
  } catch {
    throw new Failed(0, 'What Sidelight answered cannot be read.');
  }
}

const requestPath = (id) => `inspect/requests/${encodeURIComponent(id)}`;

export const getRequests = (after) => json(`inspect/requests?after=${after}`);
export const getRequest = (id) => json(requestPath(id));
export const getHostcalls = () => json('inspect/hostcalls');
export const getServices = () => json('inspect/services');
export const getStatus = () => json('status');

/** Records a profile, which takes `seconds`. */
export async function recordProfile(service, seconds) {
  const query = new URLSearchParams({ service, seconds: String(seconds) });
  const answer = await ask(`inspect/profile?${query}`, { method: 'POST', patience: seconds * 1000 + PATIENCE_MS });
  return answer.blob();
}

/** A request in other tools' formats. */
export const EXPORTS = [
  { kind: 'otlp', label: 'OTLP', title: 'OpenTelemetry spans as JSON, for a collector, Jaeger or Tempo', ending: 'otlp.json' },
  { kind: 'chrome', label: 'Chrome trace', title: 'Load it at ui.perfetto.dev or chrome://tracing', ending: 'trace.json' },
  { kind: 'firefox', label: 'Firefox profile', title: 'Load it at profiler.firefox.com', ending: 'profile.json' },
];

export const exportPath = (id, kind) => `${requestPath(id)}/${kind}`;

/** Saves a blob as a file. */
export function save(blob, name) {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

/** Saves what is at a path; for links that cannot carry the token. */
export async function download(path, name) {
  save(await (await ask(path)).blob(), name);
}
