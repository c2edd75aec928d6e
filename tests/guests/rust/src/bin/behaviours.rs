//! One behaviour for each path; `tests/guests/README.md` is the contract that this program shares
//! with its JavaScript and Go twins.

use std::env;
use std::io::{BufRead, Write};
use std::thread;
use std::time::Duration;

use fastly::http::Method;
use fastly::http::header::{CONTENT_TYPE, HeaderValue};
use fastly::http::request::{PendingRequest, SendError, select};
use fastly::log::Endpoint;
use fastly::{Body, Error, Request, Response};
use serde_json::{Map, Value, json};

const FANOUT: [(&str, &str); 3] = [
    ("one", "http://one/a"),
    ("two", "http://two/b"),
    ("three", "http://three/c"),
];

const ENVIRONMENT: [&str; 10] = [
    "FASTLY_CACHE_GENERATION",
    "FASTLY_CUSTOMER_ID",
    "FASTLY_HOSTNAME",
    "FASTLY_IS_STAGING",
    "FASTLY_NAMESPACE_ID",
    "FASTLY_POP",
    "FASTLY_REGION",
    "FASTLY_SERVICE_ID",
    "FASTLY_SERVICE_VERSION",
    "FASTLY_TRACE_ID",
];

fn main() -> Result<(), Error> {
    let req = Request::from_client();
    // `stream` sends its own response, piece by piece; all others return one to be sent here.
    let resp = match req.get_path() {
        "/stream" => return stream(&req),
        "/synthetic" => Ok(synthetic()),
        "/fanout" => fanout(),
        "/fanout-first" => fanout_first(),
        "/log" => log(&req),
        "/env" => Ok(environment()),
        "/client" => Ok(client(&req)),
        "/upload-async" if req.get_method() == Method::POST => upload(req),
        path if path.starts_with("/echo") => Ok(echo(req)),
        path if path.starts_with("/pass/") => pass(req),
        _ => Ok(text("no such behaviour\n").with_status(404)),
    };
    resp.unwrap_or_else(|err| backend_error(&err)).send_to_client();
    Ok(())
}

fn text(body: impl Into<Body>) -> Response {
    Response::from_body(body).with_header(CONTENT_TYPE, "text/plain")
}

fn json(value: &Value) -> Response {
    Response::from_body(value.to_string()).with_header(CONTENT_TYPE, "application/json")
}

fn backend_error(err: &Error) -> Response {
    let short = match err.downcast_ref::<SendError>() {
        Some(err) => err.root_cause().to_string(),
        None => err.to_string(),
    };
    let short = short.replace(['\r', '\n'], " ");
    let short = HeaderValue::from_str(&short).unwrap_or(HeaderValue::from_static("not printable"));
    text(format!("backend error: {err}\n"))
        .with_status(502)
        .with_header("x-error", short)
}

fn synthetic() -> Response {
    let mut resp = text("a synthetic response\n")
        .with_status(418)
        .with_header("x-guest", "rust");
    resp.append_header("x-multi", "one");
    resp.append_header("x-multi", "two");
    resp
}

fn echo(mut req: Request) -> Response {
    let body = req.take_body_bytes();
    let mut headers: Vec<_> = req
        .get_headers()
        .map(|(name, value)| (name.as_str(), String::from_utf8_lossy(value.as_bytes())))
        .collect();
    // By name only: lines that share a name stay in the order they came in.
    headers.sort_by_key(|(name, _)| *name);
    json(&json!({
        "method": req.get_method_str(),
        "url": req.get_url_str(),
        "headers": headers,
        "body_len": body.len(),
        "body": String::from_utf8_lossy(&body),
    }))
}

fn pass(mut req: Request) -> Result<Response, Error> {
    let path = req.get_path()["/pass".len()..].to_owned();
    req.set_path(&path);
    Ok(req.with_pass(true).send("origin")?)
}

fn stream(req: &Request) -> Result<(), Error> {
    let pieces = number(req, "n", 5);
    let pause = Duration::from_millis(number(req, "ms", 100));
    let mut body = text(Body::new()).stream_to_client();
    for i in 0..pieces {
        if i > 0 {
            thread::sleep(pause);
        }
        writeln!(body, "piece {i}")?;
        body.flush()?;
    }
    body.finish()?;
    Ok(())
}

fn number(req: &Request, name: &str, default: u64) -> u64 {
    req.get_query_parameter(name)
        .and_then(|value| value.parse().ok())
        .unwrap_or(default)
}

/// Starts all three requests before waiting for any of them.
fn send_all() -> Result<Vec<PendingRequest>, SendError> {
    FANOUT
        .into_iter()
        .map(|(backend, url)| Request::get(url).with_pass(true).send_async(backend))
        .collect()
}

fn fanout() -> Result<Response, Error> {
    let mut bodies = Vec::new();
    for pending in send_all()? {
        bodies.push(pending.wait()?.into_body_str());
    }
    Ok(text(bodies.join(",")))
}

fn fanout_first() -> Result<Response, Error> {
    let (first, _rest) = select(send_all()?);
    Ok(text(first?.into_body()))
}

fn log(req: &Request) -> Result<Response, Error> {
    let query: Map<String, Value> = req.get_query()?;
    let message = query.get("msg").and_then(Value::as_str).unwrap_or("");
    Endpoint::try_from_name("events")?.write_all(message.as_bytes())?;
    println!("stdout: {message}");
    eprintln!("stderr: {message}");
    Ok(text("logged\n"))
}

fn environment() -> Response {
    let set: Map<_, _> = ENVIRONMENT
        .into_iter()
        .filter_map(|name| Some((name.to_owned(), Value::from(env::var(name).ok()?))))
        .filter(|(_, value)| value != "")
        .collect();
    json(&Value::Object(set))
}

fn client(req: &Request) -> Response {
    let address = req.get_client_ip_addr().map(|ip| ip.to_string());
    text(format!("{}\n", address.unwrap_or_default()))
}

/// Forwards the body as it arrives, each piece flushed, while the request is already under way.
fn upload(mut req: Request) -> Result<Response, Error> {
    let mut incoming = req.take_body();
    let (mut outgoing, pending) = Request::post("http://origin/upload")
        .with_pass(true)
        .send_async_streaming("origin")?;
    loop {
        let piece = incoming.fill_buf()?;
        if piece.is_empty() {
            break;
        }
        let len = piece.len();
        outgoing.write_all(piece)?;
        outgoing.flush()?;
        incoming.consume(len);
    }
    outgoing.finish()?;
    Ok(pending.wait()?)
}
