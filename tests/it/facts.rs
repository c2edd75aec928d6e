//! What the platform knows of clients and services: what the manifest says, and nothing a client can set.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::harness::{Setup, guest};

const MANIFEST: &str = r#"
[local_server]
fake_valid_fastly_keys = ["a-key"]

[sidelight]
compliance_region = "eu"
products = ["domain_inspector", "origin_inspector"]

[[sidelight.clients]]
addresses = ["192.0.2.0/24", "::1"]
bot = { name = "Other", category = "ai-crawler" }

[[sidelight.clients]]
addresses = ["127.0.0.0/8"]
ddos_detected = true
bot = { name = "Searcher", category = "search-engine-crawler", verified = true }
vpn = { anonymous = true, service_name = "Tunnel" }

[[sidelight.inspect.rules]]
path = "/admin"
verdict = "block"
response = 406
tags = ["SQLI", "site.tag"]
redirect_url = "https://blocked.test/"
"#;

#[test]
fn what_the_manifest_says() {
    let sidelight = Setup::new(guest("rust", "facts")).manifest(MANIFEST).start();
    let told = sidelight.get("/").text();
    for line in [
        "region: Some(EU)",
        "ddos: Some(true)",
        "key: false",
        "bots: true true",
        "bot: Ok(Some(\"Searcher\")) Ok(Some(\"SEARCH-ENGINE-CRAWLER\")) Some(true)",
        "kind: Some(\"SearchEngineCrawler\")",
        "vpn: Some(true) Some(false)",
        "vpn name: Some(\"Tunnel\")",
        "visits: FastlyStatus::OK 0",
        // Of a request that it made itself nothing is known, and asking is no error.
        "own: false false None",
        "inspect: Allow 200 [] None",
    ] {
        assert!(told.lines().any(|got| got == line), "{line} is not in\n{told}");
    }
    let has = told.lines().find(|line| line.starts_with("has: ")).expect("a line");
    assert_eq!(has.matches("OK, 1").count(), 2, "{has}");
    assert_eq!(has.matches("OK, 0").count(), 1, "{has}");
    let told = sidelight.get("/admin/x").text();
    assert!(told.contains("inspect: Block 406 [\"SQLI\", \"site.tag\"] Some(\"https://blocked.test/\")\n"), "{told}");
}

#[test]
fn a_key_counts_as_the_client_sent_it() {
    let sidelight = Setup::new(guest("rust", "facts")).manifest(MANIFEST).start();
    let ask = |fields: &str| {
        let request = format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{fields}\r\n\r\n");
        crate::client::send(sidelight.addr, &request).text()
    };
    assert!(ask("Fastly-Key: a-key").contains("key: true\n"));
    assert!(ask("Fastly-Key: another").contains("key: false\n"));
    assert!(ask("CDN-Loop: sidelight, other, sidelight;v=1").contains("OK 2\n"));
}

#[test]
fn clocks_are_those_of_wasi() {
    let sidelight = Setup::new(guest("rust", "facts")).start();
    let unix = || SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_nanos();
    let before = unix();
    let told = sidelight.get("/clock").text();
    let numbers: Vec<u128> = told.split_whitespace().map(|n| n.parse().expect("a number")).collect();
    let [begun, wall, waited, count, took, process, thread, unknown] = numbers[..] else { panic!("{told}") };
    assert!(begun > 0);
    assert!((before..=unix()).contains(&wall), "{told}");
    assert_eq!((waited, count), (0, 1));
    // The wait was for a time 20 ms on, by the clock that the program had read.
    assert!((20_000_000..10_000_000_000).contains(&took), "{told}");
    let (no_such_descriptor, invalid) = (8, 28);
    assert_eq!((process, thread, unknown), (no_such_descriptor, no_such_descriptor, invalid));
}

#[test]
fn what_is_not_said_is_not_known() {
    let sidelight = Setup::new(guest("rust", "facts")).start();
    let told = sidelight.get("/").text();
    for line in [
        "region: Some(None)",
        "ddos: Some(false)",
        "key: false",
        "bots: false false",
        "bot: Ok(None) Ok(None) None",
        "kind: None",
        "vpn: None None",
        "vpn name: None",
        "visits: FastlyStatus::OK 0",
    ] {
        assert!(told.lines().any(|got| got == line), "{line} is not in\n{told}");
    }
    assert!(told.contains("inspect: Failed to send request to security module"), "{told}");
}

#[test]
fn what_cannot_be_said() {
    let fails = |manifest: &str, parts: &[&str]| {
        let (status, text) = Setup::new(guest("rust", "facts")).manifest(manifest).fails();
        assert_eq!(status.code(), Some(3), "{text}");
        assert!(parts.iter().all(|part| text.contains(part)), "{text}");
    };
    fails("[sidelight]\ncompliance_region = \"uk\"\n", &["fastly.toml:4:21", "`uk` is none of"]);
    fails("[[sidelight.clients]]\naddresses = [\"here\"]\n", &["fastly.toml:4:13", "`here` is no address"]);
    fails("[[sidelight.clients]]\nbots = 1\n", &["unknown field `bots`", "did you mean `bot`"]);
    fails("[sidelight.backends.none]\nmax_uses = 1\n", &["fastly.toml:3:21", "there is no backend `none`"]);
    let backend = "[local_server.backends.a]\nurl = \"http://127.0.0.1:1\"\n[sidelight.backends.a]\n";
    fails(&format!("{backend}health_check = {{ window = 16 }}\n"), &["fastly.toml:6:16", "its window must be 1 to 15"]);
    fails(&format!("{backend}tls_min_version = \"1.1\"\n"), &["fastly.toml:6:19", "`1.1` is no version"]);
}
