//! Trailers, early hints and other things around a message; tests/guests/README.md says what each
//! path does.

use std::io::{self, Read, Write};

use fastly::experimental::{BodyExt, StreamingBodyExt};
use fastly::http::{HttpKeepaliveMode, StatusCode};
use fastly::{Body, Error, Request, Response};
use fastly_sys::fastly_http_req::PendingResponseKind;

fn main() -> Result<(), Error> {
    let req = Request::from_client();
    match req.get_path() {
        "/trailers" => trailers(req)?,
        "/early" => early(),
        "/close" => plain("last\n").with_http_keepalive_mode(HttpKeepaliveMode::NoKeepalive).send_to_client(),
        "/pending" => pending(req)?,
        "/gunzip" => gunzip(req)?,
        "/original" => original(&req),
        _ => plain("no such message\n").with_status(StatusCode::NOT_FOUND).send_to_client(),
    }
    Ok(())
}

fn plain(text: &str) -> Response {
    Response::from_body(text).with_content_type(fastly::mime::TEXT_PLAIN)
}

/// What the client's trailers are at three moments; then trailers of its own.
fn trailers(mut req: Request) -> io::Result<()> {
    let mut body = req.take_body();
    let before = list(&mut body);
    let mut bytes = vec![0; 1];
    body.read_exact(&mut bytes)?;
    let within = list(&mut body);
    body.read_to_end(&mut bytes)?;
    let after = list(&mut body);
    let mut answer = plain("").stream_to_client();
    write!(answer, "before: {before}\nwithin: {within}\nafter {}: {after}\n", bytes.len())?;
    answer.append_trailer("x-first", "1");
    answer.append_trailer("x-second", "2");
    answer.append_trailer("x-second", "3");
    answer.finish()
}

fn list(body: &mut Body) -> String {
    match body.get_trailers() {
        Ok(trailers) => trailers.iter().map(|(name, value)| format!("{name}={} ", value.to_str().unwrap_or("?"))).collect(),
        Err(error) => error.to_string(),
    }
}

fn early() {
    for path in ["/a.css", "/b.js"] {
        Response::from_status(103).with_header("link", format!("<{path}>; rel=preload")).send_to_client();
    }
    plain("final\n").with_header("x-final", "1").send_to_client();
}

/// The backend's response goes to the client as it comes, with changes; the program ends before.
fn pending(mut req: Request) -> Result<(), Error> {
    req.set_pass(true);
    req.set_header("host", "origin");
    let mut sent = req.send_async("origin")?;
    sent.set_response_header("x-insert", "any", PendingResponseKind::Any);
    sent.append_response_header("x-append", "response", PendingResponseKind::Response);
    sent.append_response_header("x-append", "error", PendingResponseKind::Error);
    sent.remove_response_header("x-remove", PendingResponseKind::Any);
    sent.send_to_client()?;
    println!("the program goes on");
    Ok(())
}

fn gunzip(mut req: Request) -> Result<(), Error> {
    req.set_pass(true);
    let response = req.with_auto_decompress_gzip(true).send("origin")?;
    response.send_to_client();
    Ok(())
}

/// The names of the client's fields as they came.
fn original(req: &Request) {
    let names = req.get_original_header_names().ok().flatten().unwrap_or_default();
    let count = req.get_original_header_count().unwrap_or_default();
    plain(&format!("{count} {}\n", names.join(" "))).send_to_client();
}
