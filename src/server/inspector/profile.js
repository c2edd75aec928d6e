// The view of profiles: where the guests of a service spend their CPU time, recorded for some seconds.

import { getServices, recordProfile, save } from './api.js';
import { button, byId, bytes, el, say, setText, visible } from './dom.js';

const MOST_SECONDS = 300;
const TOOL = 'profiler.firefox.com';

const parts = {};
let isRecording = false;

export function start() {
  parts.service = el('select', { id: 'profile-service', required: true });
  parts.seconds = el('input', { id: 'profile-seconds', type: 'number', min: '1', max: String(MOST_SECONDS), value: '10', required: true });
  parts.record = el('button', { type: 'submit', class: 'main' }, 'Record');
  parts.progress = el('progress', { max: '1', value: '0', 'aria-label': 'Time recorded', hidden: true });
  parts.state = el('p', { id: 'profile-state', role: 'status' });
  parts.result = el('p', {});
  const form = el('form', { class: 'card form', on: { submit: record } },
    el('div', {}, el('label', { for: 'profile-service' }, 'Service'), parts.service),
    el('div', {}, el('label', { for: 'profile-seconds' }, 'Seconds'), parts.seconds),
    parts.record);
  byId('view-profile').append(
    el('div', { class: 'page-head' }, el('h2', {}, 'Profile'), el('p', { class: 'dim' }, 'Where the guests of a service spend their CPU time, function by function.')),
    form, parts.progress, parts.state, parts.result, steps());
}

function steps() {
  const tool = el('a', { href: `https://${TOOL}`, target: '_blank', rel: 'noreferrer noopener' }, TOOL);
  return el('div', { class: 'card' }, el('h3', {}, 'How to read it'), el('ol', {},
    el('li', {}, 'Record, and send requests to the service meanwhile: a guest that does nothing has no samples.'),
    el('li', {}, 'The file is saved when the time is over.'),
    el('li', {}, 'Open ', tool, ' and load the file there (“Load a profile from file”). It stays in your browser.'),
    el('li', {}, 'Programs that were built with names (no strip, or with debug information) show the names of their functions.')),
  el('p', { class: 'dim' }, 'For one request’s hostcalls on a time axis, open the request and save it as a Firefox profile.'));
}

export async function show() {
  try {
    const { services } = await getServices();
    offer(services.map((service) => service.name));
  } catch (error) {
    setText(parts.state, error.message);
  }
}

function offer(names) {
  const chosen = parts.service.value;
  parts.service.replaceChildren(...names.map((name) => el('option', { value: name }, visible(name))));
  if (names.includes(chosen)) parts.service.value = chosen;
  parts.record.disabled = isRecording || names.length === 0;
  if (names.length === 0) setText(parts.state, 'Nothing is served, so there is nothing to record. Add a service to sidelight.toml.');
}

async function record(event) {
  event.preventDefault();
  const [service, seconds] = [parts.service.value, Number(parts.seconds.value)];
  begin();
  const counting = countUp(seconds);
  try {
    done(service, await recordProfile(service, seconds));
  } catch (error) {
    setText(parts.state, error.status === 409 ? 'A profile is being recorded already. Try again when it is over.' : error.message);
  } finally {
    clearInterval(counting);
    end();
  }
}

function begin() {
  isRecording = true;
  parts.record.disabled = true;
  parts.progress.hidden = false;
  parts.result.replaceChildren();
}

function end() {
  isRecording = false;
  parts.record.disabled = false;
  parts.progress.hidden = true;
}

function countUp(seconds) {
  const began = Date.now();
  setText(parts.state, `Recording for ${seconds} s. Send requests to the service now.`);
  const tell = () => {
    const part = Math.min(1, (Date.now() - began) / 1000 / seconds);
    parts.progress.value = part;
    if (part === 1) setText(parts.state, 'Putting the profile together.');
  };
  tell();
  return setInterval(tell, 200);
}

function done(service, profile) {
  const time = new Date().toISOString().slice(0, 19).replaceAll(':', '-');
  const name = `sidelight-${service.replace(/[^\w.-]/g, '_').slice(0, 64)}-${time}.profile.json`;
  save(profile, name);
  setText(parts.state, `Saved as ${name} (${bytes(profile.size)}). Load it at ${TOOL}.`);
  parts.result.replaceChildren(button('Save it again', () => save(profile, name)));
  say('The profile is saved');
}
