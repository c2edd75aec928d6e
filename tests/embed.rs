//! The host within a Rust test, as users of the crate have it.

#![allow(clippy::expect_used, clippy::panic, clippy::disallowed_methods, reason = "a test ends at its first surprise")]

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};

use http::{Response, StatusCode};
use sidelight::app::Exit;
use sidelight::config::settings::{EnvironmentSettings, Settings};
use sidelight::embed::{Builder, Host, Origin};

fn guest(language: &str, name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guests/out").join(language).join(format!("{name}.wasm"));
    assert!(path.exists(), "{} is not there: run tests/guests/build.sh", path.display());
    path
}

fn builder(language: &str, name: &str) -> Builder {
    Host::builder(guest(language, name)).cache_dir(&Path::new(env!("CARGO_TARGET_TMPDIR")).join("modules"))
}

/// Any client will do; this one needs no library.
fn get(host: &Host, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(host.addr()).expect("connects");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: edge.test\r\nConnection: close\r\n\r\n").expect("writes");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("reads");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    (head.split(' ').nth(1).expect("a status").parse().expect("a number"), body.to_owned())
}

#[test]
fn origins_are_closures() {
    let origin = Origin::new(|request| {
        let mut response = Response::new(format!("{} {}", request.method(), request.uri()).into());
        *response.status_mut() = StatusCode::ACCEPTED;
        response
    });
    let host = builder("rust", "passthrough").backend("origin", &origin.url()).start().expect("serves");
    assert_eq!(get(&host, "/a?b"), (202, "GET /a?b".to_owned()));
    assert_eq!(get(&host, "/c").1, "GET /c");
    let seen = origin.requests();
    assert_eq!((seen.len(), seen[0].uri().path(), seen[0].headers()["host"].to_str().expect("text")), (2, "/a", "edge.test"));
    let metrics = host.metrics();
    let counted = metrics.lines().find(|line| line.starts_with("sidelight_requests_total{code=\"202\""));
    assert!(counted.is_some_and(|line| line.ends_with(" 2")), "{metrics}");
}

#[test]
fn log_endpoints_are_kept() {
    for language in ["rust", "js", "go"] {
        let host = builder(language, "behaviours").start().expect("serves");
        assert_eq!(get(&host, "/log?msg=tidings").0, 200);
        assert!(host.wait_idle());
        let records = host.records("events");
        assert_eq!((records.len(), records[0].text().as_str()), (1, "tidings"), "{language}");
        assert_eq!(records[0].request_id.len(), 36);
        assert!(host.records("others").is_empty());
    }
}

/// Several at once, each with its own threads, and from within somebody else's runtime.
#[tokio::test]
async fn several_at_once() {
    let hosts: Vec<Host> = (0..3).map(|_| builder("rust", "behaviours").start().expect("serves")).collect();
    let answers = hosts.iter().map(|host| get(host, "/synthetic").0);
    assert_eq!(answers.collect::<Vec<_>>(), [418, 418, 418]);
    drop(hosts);
}

#[test]
fn what_cannot_be_used_is_an_error() {
    let error = builder("rust", "hello").manifest("[local_server]\nbakends = 1").start().err().expect("is bad");
    assert!(matches!(error, Exit::Manifest(_)) && error.to_string().contains("did you mean `backends`?"), "{error}");
    let error = Host::builder("nowhere.wasm").start().err().expect("is bad");
    assert!(matches!(error, Exit::Module(_)), "{error}");
}

#[test]
fn settings_and_reloads() {
    let folder = tempfile::tempdir().expect("a folder");
    let program = folder.path().join("app.wasm");
    std::fs::copy(guest("rust", "hello"), &program).expect("a file");
    let environment = EnvironmentSettings { pop: Some("FRA".to_owned()), ..EnvironmentSettings::default() };
    let host = Host::builder(&program).settings(Settings { environment, ..Settings::default() }).start().expect("serves");
    assert_eq!(get(&host, "/").0, 200);
    std::fs::copy(guest("rust", "behaviours"), &program).expect("a file");
    assert_eq!(host.reload().changed, ["service"]);
    assert_eq!(get(&host, "/synthetic").0, 418);
}
