// The smallest program worth serving: one fixed answer.

addEventListener("fetch", (event) => event.respondWith(new Response("Hello, world!\n", { headers: { "content-type": "text/plain" } })));
