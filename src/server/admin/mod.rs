//! The operators' listener: the inspector, metrics, probes, what is in force, stores, the cache, and reloads. Off unless asked
//! for, and never on the address clients use. What changes something is a POST, PUT or DELETE, and nothing that a page from
//! elsewhere can make. Metrics and probes may have a listener of their own, which has nothing else.

pub mod guard;
mod inspect;

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ::http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use flate2::Compression;
use flate2::write::GzEncoder;
use pingora::apps::http_app::ServeHttp;
use pingora::protocols::http::ServerSession;
use serde_json::{Value, json};

use crate::telemetry::exposition::Format;
use crate::telemetry::{Telemetry, logs};
use guard::Guard;

/// What those above must supply.
#[async_trait]
pub trait Operate: Send + Sync {
    /// What is in force, as JSON.
    fn status(&self) -> String;

    /// What is to be served from the start and is not yet; nothing: everything is.
    fn begins(&self) -> Option<String>;

    /// What cannot be used now; empty: everything can be.
    fn degraded(&self) -> Vec<String>;

    /// The settings in force, without secrets.
    fn settings(&self) -> Value;

    /// Services and their backends, and the last reloads: for the inspector.
    fn services(&self) -> Value;

    /// Takes what is secret out of a text.
    fn redactor(&self) -> Box<dyn Fn(&str) -> String + Send + '_>;

    /// Records where guests of a service spend their CPU time, for some seconds: a profile, or why there is none.
    async fn profile(&self, service: &str, seconds: u64) -> Result<Vec<u8>, (StatusCode, String)>;

    /// Reads or writes a KV store.
    async fn kv(&self, asked: AdminRequest) -> AdminResponse;

    /// Purges, and looks into the cache.
    async fn cache(&self, asked: AdminRequest) -> AdminResponse;

    /// Reads or changes the faults on purpose of backends.
    async fn faults(&self, asked: AdminRequest) -> AdminResponse;

    /// Reads the configuration again; whether what is in force is what was read, and the verdict as JSON. `None`: nobody
    /// is there to do it.
    async fn reload(&self) -> Option<(bool, String)>;

    /// Ends the process as SIGTERM does.
    fn quit(&self);
}

/// A request for stores, the cache or faults.
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

/// Most bytes of a filter for the log.
const MAX_FILTER: usize = 4096;

/// Bodies from which on compressing is worth it.
const WORTH_IT: usize = 1024;

/// Every path there is, with its methods and answers; served, and held true by a test.
const OPENAPI: &str = include_str!("openapi.json");

/// Answers operators.
pub struct Admin {
    /// What `/metrics` shows.
    pub telemetry: Telemetry,
    /// What they may ask for.
    pub control: Arc<dyn Operate>,
    /// Who may ask.
    pub guard: Guard,
    /// What the probes say.
    pub probes: Probes,
}

/// Answers those that watch: metrics and probes, to everybody.
#[derive(Clone)]
pub struct Probes {
    /// What `/metrics` shows.
    pub telemetry: Telemetry,
    /// What is degraded.
    pub control: Arc<dyn Operate>,
    /// Whether an operator wants no more new connections sent here.
    pub draining: Arc<AtomicBool>,
}

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

fn page(status: StatusCode, kind: &'static str, body: impl Into<Vec<u8>>) -> Response<Vec<u8>> {
    let body = body.into();
    let length = body.len();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

fn told(status: StatusCode, text: impl Into<String>) -> Response<Vec<u8>> {
    page(status, TEXT, text.into().into_bytes())
}

fn ok_json(value: &Value) -> Response<Vec<u8>> {
    page(StatusCode::OK, JSON, format!("{value}\n"))
}

/// The answer to a method that a path does not have.
fn only(methods: &'static str) -> Response<Vec<u8>> {
    let mut response = told(StatusCode::METHOD_NOT_ALLOWED, format!("this is for {methods}\n"));
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(methods));
    response
}

fn reads(method: &Method) -> bool {
    *method == Method::GET || *method == Method::HEAD
}

/// Compresses what is large, for those that take it.
fn compressed(headers: &HeaderMap, mut response: Response<Vec<u8>>) -> Response<Vec<u8>> {
    let mut codings =
        headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    let takes = codings.any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        parts.next().is_some_and(|name| name.eq_ignore_ascii_case("gzip"))
            && !parts.any(|part| ["q=0", "q=0.0", "q=0.00", "q=0.000"].contains(&part))
    });
    if !takes || response.body().len() < WORTH_IT {
        return response;
    }
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    if encoder.write_all(response.body()).is_ok()
        && let Ok(body) = encoder.finish()
    {
        response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
        response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        response.headers_mut().insert(header::VARY, HeaderValue::from_static("accept-encoding"));
        *response.body_mut() = body;
    }
    response
}

impl Probes {
    /// `None`: it is none of these.
    fn answer(&self, method: &Method, path: &str, headers: &HeaderMap) -> Option<Response<Vec<u8>>> {
        if !["/metrics", "/healthz", "/livez", "/readyz"].contains(&path) {
            return None;
        }
        if !reads(method) {
            return Some(only("GET, HEAD"));
        }
        Some(match path {
            "/metrics" => {
                let accepts: Vec<_> = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
                let format = Format::accepted(&accepts.join(","));
                compressed(headers, page(StatusCode::OK, format.content_type(), self.telemetry.metrics.text(format)))
            }
            "/readyz" if self.draining.load(Ordering::Relaxed) => told(StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
            "/readyz" => match (self.control.begins(), self.control.degraded()) {
                (Some(why), _) => told(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
                (None, away) if away.is_empty() => told(StatusCode::OK, "ok\n"),
                // Requests are served without it as well as can be: no reason to take this replica out, and then all others.
                (None, away) => told(StatusCode::OK, format!("degraded\n{}\n", away.join("\n"))),
            },
            _ => told(StatusCode::OK, "ok\n"),
        })
    }
}

#[async_trait]
impl ServeHttp for Probes {
    async fn response(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        let head = session.req_header();
        let answer = self.answer(&head.method, head.uri.path(), &head.headers);
        answer.unwrap_or_else(|| told(StatusCode::NOT_FOUND, "there is /metrics, /livez and /readyz\n"))
    }
}

impl Admin {
    async fn answer(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        let head = session.req_header();
        let (method, path) = (head.method.clone(), head.uri.path().to_owned());
        let query = head.uri.query().unwrap_or_default().to_owned();
        let headers = head.headers.clone();
        if let Some(answer) = self.probes.answer(&method, &path, &headers) {
            return answer;
        }
        // The page itself says nothing; what it shows needs the token.
        let open = path == "/" || path == "/inspector" || path.starts_with("/inspector/");
        if let Err((status, why)) = self.guard.check(&method, &headers, open) {
            let mut response = told(status, why);
            if status == StatusCode::UNAUTHORIZED {
                response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            return response;
        }
        let of_the_cache =
            matches!(path.as_str(), "/cache" | "/purge") || ["/cache/", "/purge/", "/service/"].iter().any(|start| path.starts_with(start));
        let of_faults = path == "/faults" || path.starts_with("/faults/");
        if of_the_cache || of_faults || path.starts_with("/kv/") {
            let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
            let headers = headers.iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect();
            let body = match body_of(session, MAX_BODY, "a value has at most 25000000 bytes\n").await {
                Ok(body) => body,
                Err(response) => return response,
            };
            let asked = AdminRequest { method: method.as_str().to_owned(), path, query, headers, body };
            return admin_response(match () {
                () if of_the_cache => self.control.cache(asked).await,
                () if of_faults => self.control.faults(asked).await,
                () => self.control.kv(asked).await,
            });
        }
        if open && path != "/" {
            return if reads(&method) { inspect::file(&path) } else { only("GET, HEAD") };
        }
        if path.starts_with("/inspect/") {
            return compressed(&headers, self.inspect(&method, &path, &query).await);
        }
        match (path.as_str(), reads(&method), method == Method::POST) {
            ("/status", true, _) => page(StatusCode::OK, JSON, self.control.status()),
            ("/version", true, _) => ok_json(&json!({ "version": env!("CARGO_PKG_VERSION") })),
            ("/config_dump", true, _) => compressed(&headers, page(StatusCode::OK, JSON, format!("{:#}\n", self.control.settings()))),
            ("/openapi.json", true, _) => page(StatusCode::OK, JSON, OPENAPI),
            ("/log-level", true, _) => ok_json(&json!({ "filter": logs::filter() })),
            ("/log-level", _, true) => match body_of(session, MAX_FILTER, "a filter has at most 4096 bytes\n").await {
                Ok(body) => set_filter(&body),
                Err(response) => response,
            },
            ("/reload", _, true) => match self.control.reload().await {
                Some((true, verdict)) => page(StatusCode::OK, JSON, verdict),
                Some((false, verdict)) => page(StatusCode::UNPROCESSABLE_ENTITY, JSON, verdict),
                None => told(StatusCode::SERVICE_UNAVAILABLE, "the process is stopping\n"),
            },
            ("/drain", _, true) => {
                self.probes.draining.store(true, Ordering::Relaxed);
                tracing::info!("draining: /readyz says so; requests are served on");
                told(StatusCode::OK, "draining\n")
            }
            ("/quit", _, true) => {
                self.control.quit();
                told(StatusCode::ACCEPTED, "stopping\n")
            }
            ("/status" | "/version" | "/config_dump" | "/openapi.json", ..) => only("GET, HEAD"),
            ("/log-level", ..) => only("GET, HEAD, POST"),
            ("/reload" | "/drain" | "/quit", ..) => only("POST"),
            ("/", true, _) => {
                let mut response = told(StatusCode::SEE_OTHER, "the inspector is at /inspector/\n");
                response.headers_mut().insert(header::LOCATION, HeaderValue::from_static("/inspector/"));
                response
            }
            _ => told(StatusCode::NOT_FOUND, "there is no such thing; /openapi.json says what there is, /inspector/ shows requests\n"),
        }
    }
}

fn set_filter(body: &Bytes) -> Response<Vec<u8>> {
    match std::str::from_utf8(body).map_err(|error| error.to_string()).and_then(|filter| logs::set_filter(filter.trim())) {
        Ok(()) => {
            tracing::warn!(filter = logs::filter(), "what is logged was changed");
            ok_json(&json!({ "filter": logs::filter() }))
        }
        Err(error) => {
            told(StatusCode::BAD_REQUEST, format!("{error}\nexpected a filter like info,sidelight::hostcall=trace, or default\n"))
        }
    }
}

#[async_trait]
impl ServeHttp for Admin {
    async fn response(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        let mut response = self.answer(session).await;
        if session.req_header().method == Method::HEAD {
            response.body_mut().clear();
        }
        response
    }
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

async fn body_of(session: &mut ServerSession, most: usize, limit: &'static str) -> Result<Bytes, Response<Vec<u8>>> {
    let mut all = BytesMut::new();
    loop {
        match session.read_request_body().await {
            Ok(Some(piece)) => all.extend_from_slice(&piece),
            Ok(None) => return Ok(all.freeze()),
            Err(_) => return Err(told(StatusCode::BAD_REQUEST, "the body broke off\n")),
        }
        if all.len() > most {
            return Err(told(StatusCode::PAYLOAD_TOO_LARGE, limit));
        }
    }
}
