// The cache, by path and query; tests/guests/README.md is the contract that this program shares with its Rust and Go twins.
// Built twice: as it is, and with the SDK's own HTTP cache, without which the SDK refuses what x-test-after asks for.

import { CoreCache, SimpleCache } from "fastly:cache";
import { CacheOverride } from "fastly:cache-override";
import { purgeSurrogateKey } from "fastly:compute";

addEventListener("fetch", (event) => event.respondWith(respond(event)));

async function respond({ request }) {
  try {
    return await behave(request);
  } catch (err) {
    return text(`${err.name}: ${err.message}`, 500);
  }
}

function text(body, status = 200, headers = {}) {
  return new Response(body, { status, headers: { "content-type": "text/plain", ...headers } });
}

async function behave(request) {
  const { pathname, searchParams: query } = new URL(request.url);
  if (pathname.startsWith("/plain/") || pathname.startsWith("/guest/")) return send(request);
  const key = query.get("key") ?? "";
  const variant = { headers: [...request.headers] };
  switch (pathname) {
    case "/core/get":
      return show(CoreCache.lookup(key, variant));
    case "/core/range":
      return show(CoreCache.lookup(key, variant), { start: number(query, "from"), end: number(query, "to") });
    case "/core/set": {
      const body = CoreCache.insert(key, { ...variant, ...writeOptions(query) });
      if (request.body) body.append(request.body);
      body.close();
      return text("ok");
    }
    case "/core/fill":
      return fill(CoreCache.transactionLookup(key, variant), query);
    case "/core/cancel": {
      const entry = CoreCache.transactionLookup(key);
      if (!entry.state().mustInsertOrUpdate()) return text("found");
      entry.cancel();
      return text("cancelled");
    }
    case "/simple": {
      const made = { value: query.get("value") ?? "", ttl: number(query, "ttl") ?? 60 };
      const entry = await SimpleCache.getOrSet(key, async () => made);
      return text(await entry.text());
    }
    case "/simple/purge":
      SimpleCache.purge(key, { scope: "pop" });
      return text("ok");
    case "/purge":
      purgeSurrogateKey(key, query.has("soft"));
      return text("ok");
  }
  return text("no such behaviour\n", 404);
}

function number(query, name) {
  return query.has(name) ? Number(query.get(name)) : undefined;
}

/** What is not in the query is undefined, which is how the SDK has it left out. */
function writeOptions(query) {
  const ms = (name) => query.has(name) ? 1000 * Number(query.get(name)) : undefined;
  return {
    maxAge: ms("ttl") ?? 60_000,
    staleWhileRevalidate: ms("swr"),
    initialAge: ms("age"),
    surrogateKeys: query.get("keys")?.split(" "),
    userMetadata: query.get("meta") ?? undefined,
    vary: query.has("vary") ? [query.get("vary")] : undefined,
    length: number(query, "length"),
  };
}

function show(entry, range, headers = {}) {
  if (entry === null) return text("none", 404);
  const seconds = (ms) => String(Math.floor(ms / 1000));
  return text(entry.body(range), 200, {
    "x-state": entry.state().stale() ? "stale" : "usable",
    "x-age": seconds(entry.age()),
    "x-max-age": seconds(entry.maxAge()),
    "x-swr": seconds(entry.staleWhileRevalidate()),
    "x-hits": String(entry.hits()),
    "x-length": String(entry.length() ?? "none"),
    "x-meta": new TextDecoder().decode(entry.userMetadata()),
    ...headers,
  });
}

async function fill(entry, query) {
  const state = entry.state();
  if (!state.mustInsertOrUpdate()) {
    return state.found() ? show(entry, undefined, { "x-who": "found" }) : text("neither found nor asked", 500);
  }
  if (query.has("ms")) await new Promise((resolve) => setTimeout(resolve, number(query, "ms")));
  if (query.has("update") && state.found()) {
    entry.update(writeOptions(query));
    return text("updated", 200, { "x-who": "updated" });
  }
  const [body, back] = entry.insertAndStreamBack(writeOptions(query));
  body.append(`filled by ${query.get("who") ?? ""}`);
  body.close();
  return show(back, undefined, { "x-who": "filled" });
}

async function send(request) {
  const headers = new Headers(request.headers);
  const take = (name) => {
    const value = headers.get(`x-test-${name}`) ?? undefined;
    headers.delete(`x-test-${name}`);
    return value;
  };
  const seconds = (text) => text && Number(text);
  const asked = {
    ttl: seconds(take("ttl")),
    swr: seconds(take("swr")),
    surrogateKey: take("keys"),
    pci: take("pci") && true,
    afterSend: afterSend(take("after")),
  };
  const pass = take("pass") !== undefined;
  const options = {
    backend: "origin",
    method: request.method,
    headers,
    body: request.body,
    cacheOverride: pass ? new CacheOverride("pass") : new CacheOverride("override", asked),
  };
  // The SDK hashes it.
  const key = take("cache-key");
  if (key !== undefined) options.cacheKey = key;
  try {
    return await fetch(request.url, options);
  } catch (err) {
    return text(`error: ${err.message}`, 502);
  }
}

function afterSend(asked) {
  if (asked === undefined) return undefined;
  return (response) => {
    if (asked.startsWith("ttl=")) response.ttl = Number(asked.slice("ttl=".length));
    switch (asked) {
      case "uncacheable":
        return { cache: "uncacheable" };
      case "fail-on-5xx":
        if (response.status >= 500) throw new Error(`the origin says ${response.status}`);
        break;
      case "upper":
        return { bodyTransformFn: (body) => new TextEncoder().encode(new TextDecoder().decode(body).toUpperCase()) };
    }
  };
}
