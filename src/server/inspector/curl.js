// A request as a command line.

/** Fields that curl makes itself, or that belong to one connection. */
const LEFT_OUT = new Set(['host', 'content-length', 'connection', 'transfer-encoding', 'te', 'upgrade', 'keep-alive', 'expect']);

/** Quoted for POSIX shells. */
const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

/** What a terminal shows as it is: nothing else is pasted into one. */
const isPlain = (text) => /^[\x20-\x7e]*$/.test(text);

/** The host as the client said it, with its port. */
const authority = (summary, fields) => fields.find(([name]) => name.toLowerCase() === 'host')?.[1] ?? summary.host;

/** A command that sends the request again, without its body. */
export function curl(summary, fields) {
  const target = summary.query === null ? summary.path : `${summary.path}?${summary.query}`;
  const url = encodeURI(`${summary.scheme}://${authority(summary, fields)}${target}`).replaceAll('%25', '%');
  const sent = fields.filter(([name, value]) => !LEFT_OUT.has(name.toLowerCase()) && value !== '‹redacted›' && isPlain(name) && isPlain(value));
  // `name;` is curl's way to send a field without a value.
  const options = sent.map(([name, value]) => `-H ${quoted(value === '' ? `${name};` : `${name}: ${value}`)}`);
  if (summary.method === 'HEAD') options.unshift('--head');
  else if (summary.method !== 'GET') options.unshift(`-X ${quoted(summary.method)}`);
  return ['curl -i --globoff --path-as-is', quoted(url), ...options].join(' \\\n  ');
}
