//! The operator's listener: metrics, probes, what is in force, and reloads. Off unless asked for, and never on the
//! address clients use.

use std::sync::Arc;

use ::http::{HeaderValue, Method, Response, StatusCode, header};
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use pingora::apps::http_app::ServeHttp;
use pingora::protocols::http::ServerSession;

use crate::telemetry::Telemetry;
use crate::telemetry::exposition::Format;

/// What those above must supply.
#[async_trait]
pub trait Operate: Send + Sync {
    /// What is in force, as JSON.
    fn status(&self) -> String;

    /// What cannot be used now; empty: everything can be.
    fn degraded(&self) -> Vec<String>;

    /// Reads or writes a KV store.
    async fn kv(&self, asked: AdminRequest) -> AdminResponse;

    /// Purges, and looks into the cache.
    async fn cache(&self, asked: AdminRequest) -> AdminResponse;

    /// Reads the configuration again; whether what is in force is what was read, and the verdict as JSON. `None`: nobody
    /// is there to do it.
    async fn reload(&self) -> Option<(bool, String)>;
}

/// A request for stores or the cache.
pub struct AdminRequest {
    /// Its method.
    pub method: String,
    /// Its path, still encoded.
    pub path: String,
    /// Its query, still encoded.
    pub query: String,
    /// Its fields, names in lower case.
    pub headers: Vec<(String, String)>,
    /// Its body.
    pub body: Bytes,
}

/// What comes of one.
pub struct AdminResponse {
    /// Its status.
    pub status: StatusCode,
    /// Whether the body is JSON.
    pub json: bool,
    /// Further fields.
    pub fields: Vec<(&'static str, String)>,
    /// A value, JSON, or what went wrong.
    pub body: Bytes,
}

/// Most bytes of a request's body: a little more than a value may have, so that the store says so.
const MAX_BODY: usize = 26_000_000;

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
    async fn page(&self, method: &Method, path: &str, format: Format, from_browser: bool) -> Page {
        let reads = *method == Method::GET || *method == Method::HEAD;
        match path {
            "/metrics" if reads => (StatusCode::OK, format.content_type(), self.telemetry.metrics.text(format)),
            "/healthz" | "/livez" if reads => (StatusCode::OK, TEXT, "ok\n".to_owned()),
            // Requests are served without it as well as can be: no reason to take this replica out, and then all others.
            "/readyz" if reads => match self.control.degraded() {
                away if away.is_empty() => (StatusCode::OK, TEXT, "ok\n".to_owned()),
                away => (StatusCode::OK, TEXT, format!("degraded\n{}\n", away.join("\n"))),
            },
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
            _ => (
                StatusCode::NOT_FOUND,
                TEXT,
                "there is GET /metrics, /healthz, /livez, /readyz, /status, POST /reload, /kv/SERVICE/STORE/keys, POST /purge/HOST/PATH, \
                 POST /service/ID/purge/KEY and /service/ID/purge_all, and GET /cache, /cache/entries, /cache/decisions\n"
                    .to_owned(),
            ),
        }
    }
}

#[async_trait]
impl ServeHttp for Admin {
    async fn response(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        let head = session.req_header();
        let (method, path) = (head.method.clone(), head.uri.path().to_owned());
        let query = head.uri.query().unwrap_or_default().to_owned();
        // Pages of a name that leads here send no Origin for what they read, and some browsers nothing else, either.
        let agent = head.headers.get(header::USER_AGENT).is_some_and(|agent| agent.as_bytes().starts_with(b"Mozilla/"));
        let marks = ["origin", "referer", "sec-fetch-mode", "sec-fetch-site"];
        let from_browser = agent || marks.iter().any(|mark| head.headers.contains_key(*mark));
        let of_the_cache =
            matches!(path.as_str(), "/cache" | "/purge") || ["/cache/", "/purge/", "/service/"].iter().any(|start| path.starts_with(start));
        if of_the_cache || path.starts_with("/kv/") {
            if from_browser {
                return told(StatusCode::FORBIDDEN, "stores and the cache are not for browsers\n");
            }
            let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
            let headers = head.headers.iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect();
            let body = match body_of(session).await {
                Ok(body) => body,
                Err(response) => return response,
            };
            let asked = AdminRequest { method: method.as_str().to_owned(), path, query, headers, body };
            return admin_response(if of_the_cache { self.control.cache(asked).await } else { self.control.kv(asked).await });
        }
        let accepts: Vec<_> = head.headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
        let format = Format::accepted(&accepts.join(","));
        let (status, kind, body) = self.page(&method, &path, format, from_browser).await;
        let length = body.len();
        let mut response = Response::new(body.into_bytes());
        *response.status_mut() = status;
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        response
    }
}

fn told(status: StatusCode, text: &'static str) -> Response<Vec<u8>> {
    let mut response = Response::new(text.as_bytes().to_vec());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(TEXT));
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(text.len()));
    response
}

fn admin_response(given: AdminResponse) -> Response<Vec<u8>> {
    let AdminResponse { status, json, fields, body } = given;
    let kind = match (json, status.is_success()) {
        (true, _) => JSON,
        (false, true) => "application/octet-stream",
        (false, false) => TEXT,
    };
    let mut response = Response::new(body.to_vec());
    *response.status_mut() = status;
    if status != StatusCode::NO_CONTENT {
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    }
    for (name, value) in fields {
        // Metadata may be what no field can be; then they are not told.
        if let Ok(value) = HeaderValue::from_str(&value) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

async fn body_of(session: &mut ServerSession) -> Result<Bytes, Response<Vec<u8>>> {
    let mut all = BytesMut::new();
    loop {
        match session.read_request_body().await {
            Ok(Some(piece)) => all.extend_from_slice(&piece),
            Ok(None) => return Ok(all.freeze()),
            Err(_) => return Err(told(StatusCode::BAD_REQUEST, "the body broke off\n")),
        }
        if all.len() > MAX_BODY {
            return Err(told(StatusCode::PAYLOAD_TOO_LARGE, "a value has at most 25000000 bytes\n"));
        }
    }
}
