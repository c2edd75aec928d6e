//! The operator's listener: metrics and health. Off unless asked for, and never on the address
//! clients use.

use ::http::{HeaderValue, Response, StatusCode, header};
use async_trait::async_trait;
use pingora::apps::http_app::ServeHttp;
use pingora::protocols::http::ServerSession;

use crate::telemetry::Telemetry;

/// Answers operators.
pub struct Admin {
    /// What `/metrics` shows.
    pub telemetry: Telemetry,
}

#[async_trait]
impl ServeHttp for Admin {
    async fn response(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        let (status, kind, body) = match session.req_header().uri.path() {
            "/metrics" => (StatusCode::OK, "text/plain; version=0.0.4", self.telemetry.metrics.text()),
            "/healthz" => (StatusCode::OK, "text/plain", "ok\n".to_owned()),
            _ => (StatusCode::NOT_FOUND, "text/plain", "there is /metrics and /healthz\n".to_owned()),
        };
        let length = body.len();
        let mut response = Response::new(body.into_bytes());
        *response.status_mut() = status;
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        response
    }
}
