//! The demo: a page that says what to try, and the things it says to try.

use std::io::{self, Write};
use std::thread;
use std::time::Duration;

use fastly::http::StatusCode;
use fastly::http::header::{ALLOW, CONTENT_TYPE};
use fastly::http::request::SendError;
use fastly::{Request, Response};
use serde_json::json;

const BACKEND: &str = "origin";
const PIECES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(300);

fn main() -> io::Result<()> {
    let req = Request::from_client();
    let response = match req.get_path() {
        "/" => index(&req),
        "/hello" => hello(&req),
        "/echo" => echo(req),
        "/stream" => return stream(),
        path if is_below(path, "/origin") => origin(req.with_pass(true), "/origin"),
        path if is_below(path, "/cached") => origin(req, "/cached"),
        path => not_found(path),
    };
    response.send_to_client();
    Ok(())
}

fn text(body: impl AsRef<str>) -> Response {
    Response::from_body(body.as_ref()).with_header(CONTENT_TYPE, "text/plain; charset=utf-8")
}

fn index(req: &Request) -> Response {
    if !matches!(req.get_method_str(), "GET" | "HEAD") {
        return text("Only GET here. Anything goes at /echo.\n")
            .with_status(StatusCode::METHOD_NOT_ALLOWED)
            .with_header(ALLOW, "GET, HEAD");
    }
    // Made from a parsed URL, so there is no markup in it.
    let here = req.get_url().origin().ascii_serialization();
    let page = include_str!("page.html").replace("{{here}}", &here);
    Response::from_body(page).with_header(CONTENT_TYPE, "text/html; charset=utf-8")
}

fn hello(req: &Request) -> Response {
    let query: Vec<(String, String)> = req.get_query().unwrap_or_default();
    let name = query
        .iter()
        .find(|(key, value)| key == "name" && !value.is_empty())
        .map_or("world", |(_, value)| value);
    text(format!("Hello, {name}!\n"))
}

fn echo(mut req: Request) -> Response {
    let body = req.take_body_bytes();
    let headers: Vec<_> = req
        .get_headers()
        .map(|(name, value)| (name.as_str(), String::from_utf8_lossy(value.as_bytes())))
        .collect();
    let seen = json!({
        "method": req.get_method_str(),
        "url": req.get_url_str(),
        "client": req.get_client_ip_addr(),
        "headers": headers,
        "body": String::from_utf8_lossy(&body),
    });
    Response::from_body(format!("{seen:#}\n")).with_header(CONTENT_TYPE, "application/json")
}

/// Each piece leaves as soon as it is written; nothing waits for the end of the response.
fn stream() -> io::Result<()> {
    let mut body = text("").stream_to_client();
    for piece in 1..=PIECES {
        if piece > 1 {
            thread::sleep(PAUSE);
        }
        writeln!(body, "piece {piece} of {PIECES}")?;
        body.flush()?;
    }
    body.finish()
}

fn is_below(path: &str, start: &str) -> bool {
    path.strip_prefix(start).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// From the origin, or from the cache: a plain send keeps what may be kept, for an hour if the origin does not say.
fn origin(mut req: Request, start: &str) -> Response {
    let path = match &req.get_path()[start.len()..] {
        "" => "/".to_owned(),
        rest => rest.to_owned(),
    };
    req.set_path(&path);
    match req.send(BACKEND) {
        Ok(response) => response.with_header("x-served-by", "sidelight-demo"),
        Err(err) => no_answer(&err),
    }
}

fn no_answer(err: &SendError) -> Response {
    let cause = err.root_cause();
    text(format!(
        "The backend \"{BACKEND}\" gave no answer: {cause}.\n\
         \n\
         This demo asks whatever listens on the address of that backend: the one in its fastly.toml,\n\
         127.0.0.1:7677, unless it was started with another (`make run` starts an origin there).\n\
         To have something on 7677, run this in any directory and try again:\n\
         \n\
         \x20   python3 -m http.server 7677\n"
    ))
    .with_status(StatusCode::BAD_GATEWAY)
}

fn not_found(path: &str) -> Response {
    text(format!("There is nothing at {path}. The page at / says what there is.\n"))
        .with_status(StatusCode::NOT_FOUND)
}
