//! Spans of the host's own work (reloads, loading programs), from `tracing` into the traces.

use std::sync::OnceLock;
use std::time::Duration;

use opentelemetry::Context;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SdkTracerProvider, Span, SpanData, SpanProcessor};
use tracing::Subscriber;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{FilterFn, LevelFilter};
use tracing_subscriber::registry::LookupSpan;

use super::Tracer;

/// The target of spans that are exported.
pub const TARGET: &str = "sidelight::host";

/// Where they go, once that is known.
static TRACER: OnceLock<Tracer> = OnceLock::new();

/// Has spans go to a tracer. The first counts.
pub fn export_to(tracer: &Tracer) {
    drop(TRACER.set(tracer.clone()));
}

/// What takes them from the process's subscriber. It costs nothing where there are none, and nothing is kept while they go
/// nowhere.
pub fn layer<S>() -> impl Layer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let provider = SdkTracerProvider::builder().with_span_processor(Late).with_resource(Resource::builder_empty().build()).build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("sidelight")).with_location(false).with_threads(false);
    let filter = FilterFn::new(|metadata| metadata.is_span() && metadata.target() == TARGET);
    // Without, every record of every library would be looked at.
    layer.with_tracked_inactivity(false).with_filter(filter.with_max_level_hint(LevelFilter::INFO))
}

/// Passes spans on.
#[derive(Debug)]
struct Late;

impl SpanProcessor for Late {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        if let Some(tracer) = TRACER.get() {
            tracer.put_span(span);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}
