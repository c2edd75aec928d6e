// The filter of the list of requests.

const UNITS = { us: 1, µs: 1, ms: 1000, s: 1e6, m: 60e6 };

/** What the forms of a filter are, for people. */
export const FORMS = [
  ['words', 'in method, status, service, host, path, cache, outcome or id; all of them must be there'],
  ['"two words"', 'as they stand'],
  ['-word', 'not there; also before the forms below'],
  ['status:5xx', 'also status:404, status:>=400, status:none'],
  ['method:post', ''],
  ['service:shop', 'part of its name; so host: and path:'],
  ['slow:100ms', 'took that long or longer; us, ms, s'],
  ['cpu:5ms', 'the guest computed that long or longer'],
  ['calls:>100', 'hostcalls; so backends:, bytes:'],
  ['cache:miss', 'also hit, stale, pass'],
  ['outcome:trapped', ''],
  ['is:failed', 'also is:live, is:sampled'],
];

/** A filter that is not one. */
class Wrong extends Error {}

const number = (text, form) => {
  if (!/^\d+(\.\d+)?$/.test(text)) throw new Wrong(`${form} takes a number`);
  return Number(text);
};

function time(text, form) {
  const parts = /^(\d+(?:\.\d+)?)(us|µs|ms|s|m)?$/.exec(text);
  if (!parts) throw new Wrong(`${form} takes a time like 100ms`);
  return Number(parts[1]) * UNITS[parts[2] ?? 'ms'];
}

/** A test of a number: `7`, `>7`, `<=7`. */
function compared(text, form) {
  const [, sign, rest] = /^(>=|<=|>|<|=)?(.*)$/.exec(text);
  const bound = number(rest, form);
  switch (sign) {
    case '>': return (value) => value > bound;
    case '>=': return (value) => value >= bound;
    case '<': return (value) => value < bound;
    case '<=': return (value) => value <= bound;
    default: return (value) => value === bound;
  }
}

function status(text) {
  if (text === 'none') return (request) => request.status === null && !request.isLive;
  const hundreds = /^([1-5])xx$/.exec(text);
  if (hundreds) return (request) => Math.floor(request.status / 100) === Number(hundreds[1]);
  const matches = compared(text, 'status:');
  return (request) => request.status !== null && matches(request.status);
}

const is = {
  live: (request) => request.isLive,
  failed: (request) => hasFailed(request),
  sampled: (request) => Boolean(request.sampled),
};

/** Whether something went wrong: a 5xx, none at all, a guest that did not finish. */
export function hasFailed(request) {
  if (request.isLive) return false;
  return request.status === null || request.status >= 500 || Boolean(request.failure) || !['finished', null, undefined].includes(request.outcome);
}

const part = (key) => (text) => (request) => (request[key] ?? '').toLowerCase().includes(text);
const atLeast = (key, form) => (text) => {
  const bound = time(text, form);
  return (request) => request[key] >= bound;
};
const amount = (key, form) => (text) => {
  const matches = compared(text, form);
  return (request) => matches(request[key]);
};

const KEYS = {
  status,
  method: part('method'),
  service: part('service'),
  host: part('host'),
  path: part('target'),
  cache: part('cache'),
  outcome: part('outcome'),
  slow: atLeast('duration_us', 'slow:'),
  cpu: atLeast('cpu_us', 'cpu:'),
  calls: amount('hostcalls', 'calls:'),
  hostcalls: amount('hostcalls', 'hostcalls:'),
  backends: amount('attempts', 'backends:'),
  bytes: amount('bytes', 'bytes:'),
  is: (text) => {
    if (!Object.hasOwn(is, text)) throw new Wrong(`is: takes ${Object.keys(is).join(', ')}`);
    return is[text];
  },
};

/** Words and quoted pieces. */
const pieces = (text) => text.match(/-?(?:[a-z]+:)?"[^"]*"?|\S+/gi) ?? [];

function test(piece) {
  const negated = piece.length > 1 && piece.startsWith('-');
  const said = (negated ? piece.slice(1) : piece).toLowerCase();
  const [, key, value] = /^([a-z]+):(.*)$/.exec(said) ?? [];
  const plain = (text) => text.replaceAll('"', '');
  const matches = key && Object.hasOwn(KEYS, key) ? ofKey(key, plain(value)) : anywhere(plain(said));
  return negated ? (request) => !matches(request) : matches;
}

/** While its value is still being typed, a form matches everything. */
const ofKey = (key, value) => (value === '' ? () => true : KEYS[key](value));
const anywhere = (word) => (request) => request.words.includes(word);

/** A filter: whether it takes a request, and what is wrong with its text. */
export function parse(text) {
  const tests = [];
  const problems = [];
  for (const piece of pieces(text)) {
    try {
      tests.push(test(piece));
    } catch (error) {
      if (!(error instanceof Wrong)) throw error;
      problems.push(error.message);
    }
  }
  return { takes: (request) => tests.every((matches) => matches(request)), isAll: tests.length === 0, problem: problems.join('; ') };
}

/** The text with a piece, or without it if it has it. */
export function toggled(text, piece) {
  const all = pieces(text);
  const without = all.filter((found) => found !== piece);
  return (without.length < all.length ? without : [...all, piece]).join(' ');
}

export const hasPiece = (text, piece) => pieces(text).includes(piece);

/** A request as the filter wants it: `target` and `words` are looked up often. */
export function prepared(request, isLive) {
  const target = request.query === null || request.query === undefined ? request.path : `${request.path}?${request.query}`;
  const words = [request.method, request.status ?? '', request.service, `${request.host}${target}`, request.cache, request.outcome, request.failure, request.id, request.trace_id];
  return { ...request, target, isLive, words: words.filter(Boolean).join('\n').toLowerCase() };
}
