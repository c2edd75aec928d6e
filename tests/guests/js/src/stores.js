// Stores and edge data, by path and query; tests/guests/README.md is the contract that this program shares with its Rust
// and Go twins.

import { Acl } from "fastly:acl";
import { ConfigStore } from "fastly:config-store";
import { Device } from "fastly:device";
import { Dictionary } from "fastly:dictionary";
import { EdgeRateLimiter, PenaltyBox, RateCounter } from "fastly:edge-rate-limiter";
import { getGeolocationForIpAddress } from "fastly:geolocation";
import { KVStore } from "fastly:kv-store";
import { SecretStore } from "fastly:secret-store";
import { Shield } from "fastly:shielding";

addEventListener("fetch", (event) => event.respondWith(respond(event)));

async function respond(event) {
  try {
    const answer = await behave(event);
    if (answer === null || answer === undefined) return new Response("none", { status: 404 });
    return answer instanceof Response ? answer : new Response(String(answer));
  } catch (err) {
    return new Response(`${err.name}: ${err.message}`, { status: 500 });
  }
}

async function behave({ request }) {
  const url = new URL(request.url);
  const get = (name) => url.searchParams.get(name) ?? "";
  const number = (name, otherwise) => Number(url.searchParams.get(name) ?? otherwise);
  const [store, key] = [get("store"), get("key")];
  switch (url.pathname) {
    case "/config":
      return new ConfigStore(store).get(key);
    case "/dictionary":
      return new Dictionary(store).get(key);
    case "/secret":
      return (await new SecretStore(store).get(key))?.plaintext();
    case "/acl": {
      const found = await Acl.open(store).lookup(get("ip"));
      return found && `${found.action} ${found.prefix}`;
    }
    case "/geo": {
      const geo = getGeolocationForIpAddress(get("ip"));
      return geo && `${geo.city} ${geo.country_code} ${geo.country_code3} ${geo.as_number}`;
    }
    case "/device": {
      const device = Device.lookup(get("ua"));
      return device && `${device.brand} ${device.model} ${device.isMobile}`;
    }
    case "/shield":
      return new Shield(store).runningOn();
    case "/kv":
      return kv(request, store, key, url.searchParams);
    case "/kv-list": {
      const options = { limit: number("limit", 100) };
      for (const name of ["prefix", "cursor"]) if (url.searchParams.has(name)) options[name] = get(name);
      const page = await new KVStore(store).list(options);
      return new Response(page.list.join(","), { headers: { "x-next": page.cursor ?? "" } });
    }
    case "/check": {
      const limiter = new EdgeRateLimiter(new RateCounter(get("counter")), new PenaltyBox(get("box")));
      return limiter.checkRate(get("entry"), number("delta", 1), number("window", 1), number("limit", 10), number("ttl", 60) / 60);
    }
    case "/increment":
      new RateCounter(get("counter")).increment(get("entry"), number("delta", 1));
      return "ok";
    case "/rate":
      return new RateCounter(get("counter")).lookupRate(get("entry"), number("window", 1));
    case "/count":
      return new RateCounter(get("counter")).lookupCount(get("entry"), number("window", 10));
    case "/penalize":
      new PenaltyBox(get("box")).add(get("entry"), number("ttl", 60) / 60);
      return "ok";
    case "/penalized":
      return new PenaltyBox(get("box")).has(get("entry"));
  }
  return null;
}

async function kv(request, name, key, query) {
  const store = new KVStore(name);
  if (request.method === "DELETE") {
    await store.delete(key);
    return "ok";
  }
  if (request.method === "PUT") {
    const options = {};
    for (const option of ["mode", "metadata"]) if (query.has(option)) options[option] = query.get(option);
    if (query.has("ttl")) options.ttl = Number(query.get("ttl"));
    if (query.has("generation")) options.gen = Number(query.get("generation"));
    await store.put(key, await request.arrayBuffer(), options);
    return "ok";
  }
  const entry = await store.get(key);
  if (!entry) return null;
  return new Response(entry.body, { headers: { "x-metadata": entry.metadataText() ?? "" } });
}
