// Elements, and texts for people. Whatever comes from the server gets into the page as text, never as markup.

/** What could hide or reorder text: control, zero-width and bidirectional characters. */
const INVISIBLE = /[\u0000-\u001f\u007f-\u009f\u00ad\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;

/** The text with what cannot be seen spelled out. */
export function visible(text) {
  return String(text ?? '').replace(INVISIBLE, (character) => `\\u{${character.charCodeAt(0).toString(16)}}`);
}

function put(element, name, value) {
  if (value === null || value === undefined || value === false) return;
  if (name === 'on') for (const [type, listener] of Object.entries(value)) element.addEventListener(type, listener);
  else if (name === 'vars') for (const [key, number] of Object.entries(value)) element.style.setProperty(`--${key}`, number);
  else element.setAttribute(name, value === true ? '' : value);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) put(element, name, value);
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** An element. `on`: listeners, `vars`: custom properties; children are nodes or text. */
export function el(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

/** An element of a drawing. */
export function svg(name, attributes = {}, ...children) {
  return fill(document.createElementNS('http://www.w3.org/2000/svg', name), attributes, children);
}

export const byId = (id) => document.getElementById(id);

/** Sets a text if it is another: screen readers and the layout are left alone otherwise. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Tells users of screen readers. */
export function say(text) {
  setText(byId('said'), text);
}

/** A short label in the colours of `kind`: `ok`, `turn`, `warn`, `bad`, `plain`. */
export function chip(text, kind = 'plain', title = null) {
  return el('span', { class: `chip ${kind}`, title }, visible(text));
}

export function button(text, click, attributes = {}) {
  return el('button', { type: 'button', on: { click }, ...attributes }, text);
}

const PIECE = 2000;

/** A text that may be very long: the rest is shown when asked for. */
export function long(text) {
  const whole = visible(text);
  if (whole.length <= PIECE) return el('span', { class: 'value' }, whole);
  const shown = el('span', { class: 'value' }, whole.slice(0, PIECE));
  const more = button(`… all ${count(whole.length)} characters`, () => {
    shown.textContent = whole;
    more.remove();
  }, { class: 'link' });
  return el('span', {}, shown, more);
}

/** A table; `columns` are `[title, class]`, `rows` lists of nodes or texts. Roles are said, since small screens lay it out anew. */
export function table(label, columns, rows) {
  const head = el('tr', { role: 'row' }, columns.map(([title, kind]) => el('th', { scope: 'col', role: 'columnheader', class: kind }, title)));
  const cells = (row) => row.map((cell, at) => el('td', { role: 'cell', class: columns[at][1], 'data-label': textOf(columns[at][0]) }, cell));
  const body = rows.map((row) => el('tr', { role: 'row' }, cells(row)));
  return el('table', { role: 'table', 'aria-label': label }, el('thead', { role: 'rowgroup' }, head), el('tbody', { role: 'rowgroup' }, body));
}

const textOf = (title) => (typeof title === 'string' ? title : title.textContent);

/** Names and values, as a list of definitions. */
export function facts(pairs, kind = 'facts') {
  const shown = pairs.filter(([, value]) => value !== null && value !== undefined && value !== '');
  return el('dl', { class: kind }, shown.map(([name, value]) => el('div', {}, el('dt', {}, name), el('dd', {}, value))));
}

/** A number, with a bar that shows what part of the largest it is. */
export function shared(part, text) {
  const bar = el('span', { class: 'share', 'aria-hidden': 'true' }, el('span'));
  bar.firstChild.style.width = `${Math.min(100, part * 100)}%`;
  return el('span', { class: 'shared' }, bar, el('span', {}, text));
}

/** Copies a text; nothing where browsers do not allow it (plain HTTP from another machine). */
export function copier(label, text, attributes = {}) {
  if (!navigator.clipboard) return null;
  const copy = button(label, async () => {
    await navigator.clipboard.writeText(text());
    copy.textContent = 'Copied';
    say('Copied');
    setTimeout(() => { copy.textContent = label; }, 1200);
  }, { class: 'quiet', ...attributes });
  return copy;
}

const group = new Intl.NumberFormat('en-GB');
const three = new Intl.NumberFormat('en-GB', { maximumSignificantDigits: 3, useGrouping: false });

/** A number for people. */
export const count = (number) => group.format(number ?? 0);

/** `one thing`, `2 things`. */
export const counted = (number, thing) => `${count(number)} ${thing}${number === 1 ? '' : 's'}`;

/** A time in microseconds, with its unit. */
export function duration(us) {
  if (us === null || us === undefined || !Number.isFinite(Number(us))) return '–';
  const size = Math.abs(us);
  if (size < 1000) return `${three.format(size < 10 ? us : Math.round(us))} µs`;
  if (size < 1e6) return `${three.format(us / 1e3)} ms`;
  if (size < 60e6) return `${three.format(us / 1e6)} s`;
  const seconds = Math.round(us / 1e6);
  return `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
}

/** A size. */
export function bytes(size) {
  if (size === null || size === undefined) return '–';
  if (size < 1024) return `${count(size)} B`;
  const units = ['KiB', 'MiB', 'GiB'];
  let at = 0;
  let value = size / 1024;
  while (value >= 1024 && at < units.length - 1) {
    value /= 1024;
    at += 1;
  }
  return `${three.format(value)} ${units[at]}`;
}

/** The time of day, to the millisecond. */
export function clock(unixMs) {
  const time = new Date(unixMs);
  const two = (number) => String(number).padStart(2, '0');
  return `${two(time.getHours())}:${two(time.getMinutes())}:${two(time.getSeconds())}.${String(time.getMilliseconds()).padStart(3, '0')}`;
}

/** Date and time of day. */
export function moment(unixMs) {
  return `${new Date(unixMs).toLocaleDateString()} ${clock(unixMs)}`;
}

/** The colours for a status of HTTP. */
export function statusKind(status) {
  if (!status || status >= 500) return 'bad';
  if (status >= 400) return 'warn';
  return status >= 300 ? 'turn' : 'ok';
}

/** The colours for a status of a hostcall: some say only "there is none" or "a larger buffer, please". */
export function callKind(status) {
  if (status === 'ok') return 'ok';
  return ['none', 'again', 'buflen'].includes(status) ? 'plain' : 'bad';
}

/** The colours for what a cache says. */
export function cacheKind(answer) {
  if (answer === 'hit') return 'ok';
  return answer && answer.startsWith('stale') ? 'warn' : 'plain';
}
