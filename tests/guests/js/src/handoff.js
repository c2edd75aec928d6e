// Hands clients to backends; tests/guests/README.md says what each path does.

import { createFanoutHandoff } from "fastly:fanout";
import { createWebsocketHandoff } from "fastly:websocket";

addEventListener("fetch", (event) => event.respondWith(respond(event.request)));

function respond(request) {
  const [, how, backend] = new URL(request.url).pathname.split("/");
  console.log(`upgrade: ${request.headers.get("upgrade")}`);
  request.headers.set("x-guest", "was here");
  try {
    return how === "grip" ? createFanoutHandoff(request, backend) : createWebsocketHandoff(request, backend);
  } catch (error) {
    return new Response(`${error}`, { status: 418 });
  }
}
