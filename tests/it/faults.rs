//! Faults on purpose: by the manifest, and by operators while the process runs.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::client;
use crate::harness::{Setup, Sidelight, guest};
use crate::origin::{self, Origin};

/// In front of an origin, by its pass-through.
fn through(origin: &Origin, faults: &str) -> Sidelight {
    Setup::new(guest("rust", "passthrough")).backend("origin", origin.url()).manifest(faults).start()
}

/// Of operators.
pub fn set(sidelight: &Sidelight, method: &str, path: &str, body: &str) -> client::Answer {
    let length = body.len();
    let request = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}");
    client::send(sidelight.admin, &request)
}

fn statuses(sidelight: &Sidelight, count: usize) -> Vec<u16> {
    (0..count).map(|_| sidelight.get("/").status).collect()
}

fn counted(sidelight: &Sidelight, fault: &str) -> f64 {
    sidelight.metric(&format!("sidelight_backend_faults_total{{service=\"it\",backend=\"origin\",fault=\"{fault}\"}}"))
}

#[test]
fn errors_in_place_of_the_backend() {
    let origin = Origin::fixed("here");
    let sidelight = through(&origin, "[sidelight.backends.origin.faults]\nerrors = 25\nstatus = 429\n");
    assert_eq!(statuses(&sidelight, 8), [200, 200, 200, 429, 200, 200, 200, 429]);
    assert_eq!(origin.count(), 6);
    assert!((counted(&sidelight, "error") - 2.0).abs() < 0.5);
}

#[test]
fn latency() {
    let origin = Origin::fixed("here");
    let sidelight = through(&origin, "[sidelight.backends.origin.faults]\nlatency_ms = 300\njitter_ms = 10\n");
    let begun = Instant::now();
    assert_eq!(sidelight.get("/").text(), "here");
    assert!(begun.elapsed() >= Duration::from_millis(300));
    // More than the first byte may take is what it is in production: a timeout, after that time.
    let late = format!(
        "[local_server.backends.origin]\nurl = \"{}\"\nfirst_byte_timeout_ms = 200\n[sidelight.backends.origin.faults]\nlatency_ms = 3600000\n",
        origin.url()
    );
    let sidelight = Setup::new(guest("rust", "facts")).manifest(&late).start();
    let told = sidelight.get("/health").text();
    assert!(told.contains("HttpResponseTimeout"), "{told}");
    assert_eq!(origin.count(), 1);
}

#[test]
fn failures_as_programs_see_them() {
    let origin = Origin::fixed("here");
    let sidelight = Setup::new(guest("rust", "facts"))
        .manifest(&format!(
            "[local_server.backends.origin]\nurl = \"{}\"\nfirst_byte_timeout_ms = 200\n[sidelight.backends.origin]\nconnect_timeout_ms = 200\n",
            origin.url()
        ))
        .start();
    for (failure, seen) in [
        ("dns_error", "DnsError"),
        ("dns_timeout", "DnsTimeout"),
        ("destination_ip_unroutable", "DestinationIpUnroutable"),
        ("connection_refused", "ConnectionRefused"),
        ("connection_timeout", "ConnectionTimeout"),
        ("connection_terminated", "ConnectionTerminated"),
        ("tls_certificate_error", "TlsCertificateError"),
        ("http_response_timeout", "HttpResponseTimeout"),
    ] {
        let answer = set(&sidelight, "PUT", "/faults/it/origin", &json!({ "failures": 100, "failure": failure }).to_string());
        assert_eq!(answer.status, 200, "{}", answer.text());
        let told = sidelight.get("/health").text();
        assert!(told.contains("Err(") && told.contains(seen), "{failure}: {told}");
        let requests = format!("sidelight_backend_requests_total{{service=\"it\",backend=\"origin\",result=\"{failure}\"}}");
        assert!((sidelight.metric(&requests) - 1.0).abs() < 0.5, "{failure}");
    }
    assert_eq!(origin.count(), 0);
}

#[test]
fn bodies_break_off() {
    let origin = Origin::new(|_| http::Response::new(origin::text("x".repeat(100_000))));
    let sidelight = through(&origin, "[sidelight.backends.origin.faults]\nresets = 50\nreset_after = 70000\n");
    let whole = sidelight.get("/");
    assert!(whole.whole && whole.body.len() == 100_000);
    let broken = sidelight.get("/");
    assert_eq!((broken.status, broken.whole), (200, false));
    assert!(broken.body.len() <= 70_000, "{}", broken.body.len());
    // The connection that the body was on is not used again.
    assert!(sidelight.get("/").whole);
    assert_eq!(origin.connections(), 2);
    sidelight.log.wait_for(&["a fault on purpose"]);
}

#[test]
fn narrow_roads() {
    let origin = Origin::new(|seen| http::Response::new(origin::text(format!("{} {}", seen.body.len(), "x".repeat(10_000)))));
    let sidelight = through(&origin, "[sidelight.backends.origin.faults]\nbandwidth = 20000\n");
    let begun = Instant::now();
    let answer = sidelight.get("/");
    assert!(answer.whole && answer.body.len() > 10_000);
    assert!(begun.elapsed() >= Duration::from_millis(450), "{:?}", begun.elapsed());
    let begun = Instant::now();
    let answer = sidelight.post("/", &"y".repeat(10_000));
    assert!(answer.text().starts_with("10000 "), "{}", answer.text());
    assert!(begun.elapsed() >= Duration::from_millis(900), "{:?}", begun.elapsed());
}

#[test]
fn health_checks_see_them() {
    let origin = Origin::fixed("here");
    let check = "health_check = { interval_ms = 1000, window = 2, threshold = 1, initial = 2 }\n";
    let sidelight = through(&origin, &format!("[sidelight.backends.origin]\n{check}"));
    assert_eq!(sidelight.get("/").text(), "here");
    let healthy = "sidelight_backend_healthy{service=\"it\",backend=\"origin\"}";
    set(&sidelight, "PUT", "/faults/it/origin", r#"{"errors": 100}"#);
    sidelight.wait_metric(healthy, 0.0);
    set(&sidelight, "DELETE", "/faults/it/origin", "");
    sidelight.wait_metric(healthy, 1.0);
    assert_eq!(sidelight.get("/").text(), "here");
}

#[test]
fn operators_go_before_the_manifest() {
    let origin = Origin::fixed("here");
    let sidelight = through(&origin, "[sidelight.backends.origin.faults]\nerrors = 100\n");
    let shown = |answer: client::Answer| -> Value {
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    };
    assert_eq!(
        shown(sidelight.operate("GET", "/faults")),
        json!({ "it": { "origin": { "faults": { "errors": 100 }, "by": "manifest" } } })
    );
    assert_eq!(statuses(&sidelight, 2), [503, 503]);
    let answer = set(&sidelight, "PUT", "/faults/it/*", "{}");
    assert_eq!(shown(answer), json!({ "origin": { "faults": {}, "by": "operator" } }));
    assert_eq!(statuses(&sidelight, 2), [200, 200]);
    // What an operator said outlives a reload that makes the backend anew.
    let manifest = std::fs::read_to_string(sidelight.path("fastly.toml")).expect("the manifest");
    sidelight.write("fastly.toml", &manifest.replace("errors = 100", "errors = 100\nstatus = 418"));
    sidelight.reload();
    assert_eq!(statuses(&sidelight, 2), [200, 200]);
    let answer = set(&sidelight, "DELETE", "/faults/it/origin", "");
    assert_eq!(shown(answer), json!({ "origin": { "faults": { "errors": 100, "status": 418 }, "by": "manifest" } }));
    assert_eq!(statuses(&sidelight, 2), [418, 418]);
    sidelight.log.wait_for(&["faults on purpose were changed", "origin"]);
    for (path, body, status, why) in [
        ("/faults/it/nobody", "{}", 404, "the manifest of `it` has no backend `nobody`; it has: origin"),
        ("/faults/other/origin", "{}", 404, "there is no service `other`"),
        ("/faults/it/origin", r#"{"latency": 5}"#, 400, "unknown field `latency`"),
        ("/faults/it/origin", "[]", 400, "expected JSON like"),
        ("/faults/it/origin", r#"{"resets": 200}"#, 400, "resets is a share of 100"),
    ] {
        let answer = set(&sidelight, "PUT", path, body);
        assert_eq!(answer.status, status, "{}", answer.text());
        assert!(answer.text().contains(why), "{}", answer.text());
    }
    assert_eq!(statuses(&sidelight, 1), [418]);
}

#[test]
fn what_cannot_be() {
    for (faults, why) in [
        ("errors = 101", "expected a number from 0 to 100, found 101"),
        ("errors = -1", "fastly.toml:"),
        ("failure = \"fire\"", "`fire` is none of \"dns_error\""),
        ("bandwidth = 0", "expected a number 1 or more, found 0"),
        ("slow = true", "slow"),
    ] {
        let (status, text) = Setup::new(guest("rust", "passthrough"))
            .backend("origin", "http://127.0.0.1:9")
            .manifest(&format!("[sidelight.backends.origin.faults]\n{faults}\n"))
            .fails();
        assert!(!status.success());
        assert!(text.contains(why), "{faults}: {text}");
    }
}

/// Both generations of a service have backends of their own while one is on trial.
#[test]
fn a_generation_on_trial_has_them_too() {
    let origin = Origin::fixed("here");
    let program = guest("rust", "passthrough");
    let host = format!(
        "[services.it]\nmodule = \"{}\"\nmanifest = \"it.toml\"\nrollout = {{ percent = 50, time = \"60s\" }}\n",
        program.display()
    );
    let manifest =
        |more: &str| format!("manifest_version = 3\nname = \"it\"\n[local_server.backends.origin]\nurl = \"{}\"\n{more}", origin.url());
    let sidelight = Setup::host(&host).file("it.toml", &manifest("")).start();
    sidelight.write("it.toml", &manifest("first_byte_timeout_ms = 9000\n"));
    // The watcher may be there first; its verdict is as good.
    sidelight.wait_until("is on trial", |sidelight| {
        sidelight.reload();
        let services = sidelight.operate("GET", "/inspect/services").json();
        services["services"].as_array().is_some_and(|all| all.iter().any(|one| one["trial"] == true))
    });
    let answer = set(&sidelight, "PUT", "/faults/it/origin", r#"{"errors": 100, "status": 418}"#);
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(statuses(&sidelight, 10), [418; 10]);
}

/// Whoever looks at a request sees what was done to it on purpose, also where nothing was sent.
#[test]
fn they_are_in_the_recording_of_a_request() {
    let origin = Origin::fixed("here");
    let faults = "[sidelight.backends.origin.faults]\nlatency_ms = 1\nfailures = 50\nfailure = \"connection_refused\"\n";
    let sidelight = Setup::new(guest("rust", "passthrough")).backend("origin", origin.url()).manifest(faults).arg("--inspect").start();
    assert_eq!(statuses(&sidelight, 2), [200, 500]);
    let list = || sidelight.operate("GET", "/inspect/requests").json()["requests"].as_array().cloned().unwrap_or_default();
    sidelight.wait_until("both requests", |_| list().len() == 2);
    let seen = list().into_iter().map(|one| {
        let detail = sidelight.operate("GET", &format!("/inspect/requests/{}", one["id"].as_str().expect("an id"))).json();
        let names = |list: &str, key: &str| detail[list].as_array().expect("a list").iter().map(|one| one[key].clone()).collect::<Vec<_>>();
        (one["status"].clone(), names("faults", "fault"), names("attempts", "backend"))
    });
    let mut seen: Vec<_> = seen.collect();
    seen.sort_by_key(|(status, ..)| status.as_u64());
    assert_eq!(seen[0], (json!(200), vec![json!("latency")], vec![json!("origin")]));
    assert_eq!(seen[1], (json!(500), vec![json!("latency"), json!("failure")], vec![]));
}
