// As hello.js, in a sandbox that takes one request after another.

import { setReusableSandboxOptions } from "fastly:experimental";

setReusableSandboxOptions({ maxRequests: 0 });

addEventListener("fetch", (event) => event.respondWith(new Response("Hello, world!\n", { headers: { "content-type": "text/plain" } })));
