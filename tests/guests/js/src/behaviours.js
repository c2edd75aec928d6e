// One behaviour for each path; tests/guests/README.md is the contract that this program shares with
// its Rust and Go twins.

import { CacheOverride } from "fastly:cache-override";
import { env } from "fastly:env";
import { configureConsole, Logger } from "fastly:logger";

const FANOUT = [
  ["one", "http://one/a"],
  ["two", "http://two/b"],
  ["three", "http://three/c"],
];

const ENVIRONMENT = [
  "FASTLY_CACHE_GENERATION",
  "FASTLY_CUSTOMER_ID",
  "FASTLY_HOSTNAME",
  "FASTLY_IS_STAGING",
  "FASTLY_NAMESPACE_ID",
  "FASTLY_POP",
  "FASTLY_REGION",
  "FASTLY_SERVICE_ID",
  "FASTLY_SERVICE_VERSION",
  "FASTLY_TRACE_ID",
];

addEventListener("fetch", (event) => event.respondWith(respond(event)));

async function respond(event) {
  try {
    return await behave(event);
  } catch (err) {
    return backendError(err);
  }
}

function behave(event) {
  const { request } = event;
  const url = new URL(request.url);
  const path = url.pathname;
  if (path === "/synthetic") return synthetic();
  if (path.startsWith("/echo")) return echo(request);
  if (path.startsWith("/pass/")) return pass(request, url);
  if (path === "/stream") return stream(url);
  if (path === "/fanout") return fanout();
  if (path === "/fanout-first") return fanoutFirst();
  if (path === "/log") return log(url);
  if (path === "/env") return environment();
  if (path === "/client") return text(`${event.client.address}\n`);
  if (path === "/upload-async" && request.method === "POST") return upload(request);
  return text("no such behaviour\n", 404);
}

function text(body, status = 200, headers = []) {
  return new Response(body, { status, headers: [["content-type", "text/plain"], ...headers] });
}

function json(value) {
  return new Response(JSON.stringify(value), { headers: { "content-type": "application/json" } });
}

function backendError(err) {
  const short = err.message.replace(/[^\x20-\x7e]/g, " ");
  return text(`backend error: ${err.message}\n`, 502, [["x-error", short]]);
}

function toBackend(backend, url, options = {}) {
  return fetch(url, { ...options, backend, cacheOverride: new CacheOverride("pass") });
}

function synthetic() {
  return text("a synthetic response\n", 418, [
    ["x-guest", "js"],
    ["x-multi", "one"],
    ["x-multi", "two"],
  ]);
}

async function echo(request) {
  const body = await request.arrayBuffer();
  return json({
    method: request.method,
    url: request.url,
    // Sorted by the SDK, which also makes one of lines that share a name.
    headers: [...request.headers],
    body_len: body.byteLength,
    body: new TextDecoder().decode(body),
  });
}

function pass(request, url) {
  url.pathname = url.pathname.slice("/pass".length);
  const { method, headers, body } = request;
  return toBackend("origin", url, { method, headers, body });
}

function stream(url) {
  const pieces = number(url, "n", 5);
  const ms = number(url, "ms", 100);
  const encoder = new TextEncoder();
  let i = 0;
  const body = new ReadableStream({
    async pull(controller) {
      if (i === pieces) return controller.close();
      if (i > 0) await new Promise((resolve) => setTimeout(resolve, ms));
      controller.enqueue(encoder.encode(`piece ${i++}\n`));
    },
  });
  return text(body);
}

function number(url, name, fallback) {
  const value = url.searchParams.get(name);
  return /^\d+$/.test(value) ? Number(value) : fallback;
}

/** Starts all three requests; none is awaited here. */
function sendAll() {
  return FANOUT.map(([backend, url]) => toBackend(backend, url));
}

async function fanout() {
  const responses = await Promise.all(sendAll());
  const bodies = await Promise.all(responses.map((response) => response.text()));
  return text(bodies.join(","));
}

async function fanoutFirst() {
  const first = await Promise.race(sendAll());
  return text(first.body);
}

function log(url) {
  const message = url.searchParams.get("msg") ?? "";
  new Logger("events").log(message);
  configureConsole({ prefixing: false, stderr: true });
  console.log(`stdout: ${message}`);
  console.error(`stderr: ${message}`);
  return text("logged\n");
}

function environment() {
  const set = ENVIRONMENT.map((name) => [name, env(name)]).filter(([, value]) => value);
  return json(Object.fromEntries(set));
}

/**
 * Forwards the body as it arrives while the request is already under way. Read and written here by
 * hand, since the SDK would hand over the stream that belongs to the request whole.
 */
function upload(request) {
  const reader = request.body.getReader();
  const body = new ReadableStream({
    async pull(controller) {
      const { done, value } = await reader.read();
      if (done) return controller.close();
      controller.enqueue(value);
    },
  });
  return toBackend("origin", "http://origin/upload", { method: "POST", body, duplex: "half" });
}
