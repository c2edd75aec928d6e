// Many requests in one sandbox; tests/guests/README.md says what each path does.

import { setReusableSandboxOptions } from "fastly:experimental";

setReusableSandboxOptions({ maxRequests: 0, betweenRequestTimeoutMs: 60000 });

let served = 0;

addEventListener("fetch", (event) => event.respondWith(respond(event)));

async function respond(event) {
  served += 1;
  const url = new URL(event.request.url);
  if (url.pathname === "/wait") {
    await new Promise((done) => setTimeout(done, Number(url.searchParams.get("n"))));
  }
  console.log(`request ${served}`);
  return new Response(`${served}\n`, { headers: { "x-id": event.client.requestId } });
}
