// Continues the client's trace with spans of its own; tests/guests/README.md says which.

import { context, trace } from "@opentelemetry/api";
import { W3CTraceContextPropagator } from "@opentelemetry/core";
import { Resource } from "@opentelemetry/resources";
import { getComputeJsAutoInstrumentations } from "@fastly/compute-js-opentelemetry/auto-instrumentations-compute-js";
import { OTLPTraceExporter } from "@fastly/compute-js-opentelemetry/exporter-trace-otlp-fastly-backend";
import { FastlySDK } from "@fastly/compute-js-opentelemetry/sdk-fastly";
import { CacheOverride } from "fastly:cache-override";

const sdk = new FastlySDK({
  traceExporter: new OTLPTraceExporter({ backend: "otlp-collector" }),
  instrumentations: [getComputeJsAutoInstrumentations()],
  textMapPropagator: new W3CTraceContextPropagator(),
  resource: new Resource({ "service.name": "otel-guest" }),
});
await sdk.start();

addEventListener("fetch", (event) => event.respondWith(respond()));

/** Only what runs before the first `await` is within `work`: after that the library knows no more than the event. */
async function respond() {
  const span = trace.getTracer("otel-guest").startSpan("work");
  try {
    const response = await context.with(trace.setSpan(context.active(), span), ask);
    return new Response(await response.text());
  } finally {
    span.end();
  }
}

function ask() {
  return fetch("http://origin/from-otel", { backend: "origin", cacheOverride: new CacheOverride("pass") });
}
