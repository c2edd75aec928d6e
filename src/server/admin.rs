//! The operator's listener: metrics, probes, what is in force, and reloads. Off unless asked for, and never on the
//! address clients use.

use std::sync::Arc;

use ::http::{HeaderValue, Method, Response, StatusCode, header};
use async_trait::async_trait;
use pingora::apps::http_app::ServeHttp;
use pingora::protocols::http::ServerSession;

use crate::telemetry::Telemetry;

/// What those above must supply.
#[async_trait]
pub trait Operate: Send + Sync {
    /// What is in force, as JSON.
    fn status(&self) -> String;

    /// Reads the configuration again; whether what is in force is what was read, and the verdict as JSON. `None`: nobody
    /// is there to do it.
    async fn reload(&self) -> Option<(bool, String)>;
}

/// Answers operators.
pub struct Admin {
    /// What `/metrics` shows.
    pub telemetry: Telemetry,
    /// What they may ask for.
    pub control: Arc<dyn Operate>,
}

/// Status, content type and body.
type Page = (StatusCode, &'static str, String);

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

impl Admin {
    async fn page(&self, method: &Method, path: &str, from_browser: bool) -> Page {
        let reads = *method == Method::GET || *method == Method::HEAD;
        match path {
            "/metrics" if reads => (StatusCode::OK, "text/plain; version=0.0.4", self.telemetry.metrics.text()),
            "/healthz" | "/livez" | "/readyz" if reads => (StatusCode::OK, TEXT, "ok\n".to_owned()),
            "/status" if reads => (StatusCode::OK, JSON, self.control.status()),
            "/reload" if *method == Method::POST => {
                if from_browser {
                    // A page somewhere else could have made it.
                    return (StatusCode::FORBIDDEN, TEXT, "requests that change something must not come from a browser\n".to_owned());
                }
                match self.control.reload().await {
                    Some((true, verdict)) => (StatusCode::OK, JSON, verdict),
                    Some((false, verdict)) => (StatusCode::UNPROCESSABLE_ENTITY, JSON, verdict),
                    None => (StatusCode::SERVICE_UNAVAILABLE, TEXT, "the process is stopping\n".to_owned()),
                }
            }
            "/metrics" | "/healthz" | "/livez" | "/readyz" | "/status" => {
                (StatusCode::METHOD_NOT_ALLOWED, TEXT, "this is for GET\n".to_owned())
            }
            "/reload" => (StatusCode::METHOD_NOT_ALLOWED, TEXT, "this is for POST\n".to_owned()),
            _ => (StatusCode::NOT_FOUND, TEXT, "there is GET /metrics, /healthz, /livez, /readyz, /status and POST /reload\n".to_owned()),
        }
    }
}

#[async_trait]
impl ServeHttp for Admin {
    async fn response(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        let head = session.req_header();
        let (method, path) = (head.method.clone(), head.uri.path().to_owned());
        let from_browser = head.headers.contains_key(header::ORIGIN) || head.headers.contains_key("sec-fetch-mode");
        let (status, kind, body) = self.page(&method, &path, from_browser).await;
        let length = body.len();
        let mut response = Response::new(body.into_bytes());
        *response.status_mut() = status;
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        response
    }
}
