//! Files that change while they are served.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::client::Connection;
use crate::harness::{PATIENCE, Setup, Sidelight, guest};
use crate::origin::Origin;

/// A program that answers with a text.
pub fn saying(text: &str) -> String {
    format!(
        r#"(module
            (import "fastly_http_body" "new" (func $body (param i32) (result i32)))
            (import "fastly_http_resp" "new" (func $response (param i32) (result i32)))
            (import "fastly_http_body" "write" (func $write (param i32 i32 i32 i32 i32) (result i32)))
            (import "fastly_http_resp" "send_downstream" (func $send (param i32 i32 i32) (result i32)))
            (memory (export "memory") 1)
            (data (i32.const 64) "{text}")
            (func (export "_start")
                (drop (call $response (i32.const 0)))
                (drop (call $body (i32.const 4)))
                (drop (call $write (i32.load (i32.const 4)) (i32.const 64) (i32.const {}) (i32.const 0) (i32.const 8)))
                (drop (call $send (i32.load (i32.const 0)) (i32.load (i32.const 4)) (i32.const 0)))))"#,
        text.len()
    )
}

/// One service, its program beside the host file.
fn service(text: &str) -> Setup {
    Setup::host("[services.it]\nmodule = \"app.wat\"\n").file("app.wat", &saying(text))
}

/// Waits until an answer is as wanted; none before may fail.
fn until(sidelight: &Sidelight, wanted: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = sidelight.get("/");
        assert_eq!(answer.status, 200, "{}", sidelight.log.text());
        if answer.text() == wanted {
            return;
        }
        assert!(Instant::now() < deadline, "{:?}, not {wanted:?}:\n{}", answer.text(), sidelight.log.text());
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn status(sidelight: &Sidelight) -> Value {
    serde_json::from_str(&sidelight.operate("GET", "/status").text()).expect("JSON")
}

#[test]
fn a_program_written_in_place_or_renamed() {
    let sidelight = service("one").start();
    until(&sidelight, "one");
    sidelight.write("app.wat", &saying("two"));
    until(&sidelight, "two");
    sidelight.write("app.new", &saying("three"));
    fs::rename(sidelight.path("app.new"), sidelight.path("app.wat")).expect("renames");
    until(&sidelight, "three");
    // As editors do it: the old one aside first.
    fs::rename(sidelight.path("app.wat"), sidelight.path("app.wat~")).expect("renames");
    sidelight.write("app.wat", &saying("four"));
    until(&sidelight, "four");
}

/// As builds do it: the folder is deleted and made again.
#[test]
fn a_folder_made_again() {
    let sidelight = Setup::host("[services.it]\nmodule = \"bin/app.wat\"\n").file("bin/app.wat", &saying("one")).start();
    until(&sidelight, "one");
    fs::remove_dir_all(sidelight.path("bin")).expect("goes");
    sidelight.wait_metric("sidelight_config_last_reload_successful", 0.0);
    until(&sidelight, "one");
    sidelight.write("bin/app.wat", &saying("two"));
    until(&sidelight, "two");
    // Moved away and back.
    fs::rename(sidelight.path("bin"), sidelight.path("aside")).expect("renames");
    fs::rename(sidelight.path("aside"), sidelight.path("bin")).expect("renames");
    std::thread::sleep(Duration::from_millis(800));
    sidelight.write("bin/app.wat", &saying("three"));
    until(&sidelight, "three");
}

#[test]
fn a_manifest() {
    let (one, two) = (Origin::fixed("one"), Origin::fixed("two"));
    let manifest = |url: &str| format!("[local_server.backends.origin]\nurl = \"{url}\"\n");
    let sidelight = Setup::new(guest("rust", "passthrough")).backend("origin", one.url()).start();
    assert_eq!(sidelight.get("/").text(), "one");
    sidelight.write("fastly.toml", &manifest(&two.url()));
    until(&sidelight, "two");
}

/// Nothing is lost by a bad file, and nothing is tried again until it changes.
#[test]
fn what_cannot_be_used_changes_nothing() {
    let origin = Origin::fixed("one");
    let sidelight = Setup::new(guest("rust", "passthrough")).backend("origin", origin.url()).start();
    let metric = "sidelight_config_last_reload_successful";
    sidelight.wait_metric(metric, 1.0);
    sidelight.write("fastly.toml", "[local_server.backends.origin]\nurll = \"x\"\n");
    sidelight.wait_metric(metric, 0.0);
    sidelight.log.wait_for(&["fastly.toml:2:1: unknown field `urll`"]);
    assert_eq!(sidelight.get("/").text(), "one");
    assert_eq!(sidelight.operate("GET", "/readyz").status, 200);
    let status = status(&sidelight);
    assert_eq!((&status["degraded"], &status["generation"]), (&Value::Bool(true), &Value::from(1)));
    let problem = &status["reloads"][0]["problems"][0];
    assert_eq!((&problem["line"], &problem["column"], &problem["hint"]), (&2.into(), &1.into(), &"did you mean `url`?".into()));
    assert!((sidelight.metric("sidelight_config_reloads_total{result=\"failed\"}") - 1.0).abs() < 0.1);
    // The same bad file, written again.
    sidelight.write("fastly.toml", "[local_server.backends.origin]\nurll = \"x\"\n");
    std::thread::sleep(Duration::from_millis(400));
    assert!((sidelight.metric("sidelight_config_reloads_total{result=\"failed\"}") - 1.0).abs() < 0.1);
    sidelight.write("fastly.toml", &format!("[local_server.backends.origin]\nurl = \"{}\"\n", Origin::fixed("x").url()));
    sidelight.wait_metric(metric, 1.0);
}

/// Whoever writes a file for the second time empties it first, and may end there.
#[test]
fn an_empty_manifest_changes_nothing() {
    let origin = Origin::fixed("one");
    let sidelight = Setup::new(guest("rust", "passthrough")).backend("origin", origin.url()).start();
    for empty in ["", "\n  \n"] {
        sidelight.write("fastly.toml", empty);
        let verdict = sidelight.reload();
        assert_eq!((&verdict["result"], &verdict["generation"]), (&"failed".into(), &1.into()));
        assert!(
            verdict["error"].as_str().is_some_and(|error| error.contains("fastly.toml") && error.contains("the file is empty")),
            "{verdict}"
        );
        assert_eq!(sidelight.get("/").text(), "one");
    }
    let with = |manifest: &str| {
        let host = "[services.it]\nmodule = \"app.wat\"\nmanifest = \"it.toml\"\n";
        Setup::host(host).file("app.wat", &saying("well")).file("it.toml", manifest)
    };
    // One that is empty from the start is meant to be, and one of comments is.
    let sidelight = with("").arg("--no-watch").start();
    assert_eq!(sidelight.get("/").text(), "well");
    sidelight.write("it.toml", "[local_server.backends.origin]\nurl = \"http://127.0.0.1:9\"\n");
    assert_eq!(sidelight.reload()["result"], "ok");
    sidelight.write("it.toml", "");
    let verdict = sidelight.reload();
    let hint = verdict["problems"][0]["hint"].as_str().unwrap_or_default();
    assert!(verdict["result"] == "failed" && hint.contains("# nothing"), "{verdict}");
    sidelight.write("it.toml", "# nothing\n");
    assert_eq!(sidelight.reload()["result"], "ok");
}

/// Nor does one of a service that comes and goes, whatever else is wrong with it.
#[test]
fn an_empty_file_of_a_dropped_in_service_changes_nothing() {
    let origin = Origin::fixed("one");
    let program = fs::read(guest("rust", "passthrough")).expect("a program");
    let settings = "hosts = [\"it.test\"]\nmodule = \"app.wasm\"\nmanifest = \"it.toml\"\n";
    let manifest = format!("[local_server.backends.origin]\nurl = \"{}\"\n", origin.url());
    let sidelight = Setup::host("services_dir = \"services\"\n").arg("--no-watch").start();
    sidelight.write("services/it/it.toml", &manifest);
    fs::write(sidelight.path("services/it/app.wasm"), program).expect("a file");
    sidelight.write("services/it/service.toml", settings);
    let is_one = |sidelight: &Sidelight| sidelight.get_of("it.test", "/").text() == "one";
    sidelight.reload();
    sidelight.wait_until("one", is_one);
    // One, the other behind it, both: none of them is read as it is.
    for (text, its) in [("", manifest.as_str()), ("", ""), (settings, "")] {
        sidelight.write("services/it/service.toml", text);
        sidelight.write("services/it/it.toml", its);
        let verdict = sidelight.reload();
        assert!(verdict["faulty"][0].to_string().contains("the file is empty"), "{verdict}");
        assert!(is_one(&sidelight));
    }
    sidelight.write("services/it/it.toml", &manifest);
    assert_eq!(sidelight.reload().get("faulty"), None);
    assert!(is_one(&sidelight));
}

#[test]
fn a_bad_program_changes_nothing() {
    let sidelight = service("one").start();
    for (bad, reason) in [("(module", "expected"), ("(module)", "exports no function `_start`"), ("", "the file is empty")] {
        sidelight.write("app.wat", bad);
        sidelight.log.wait_for(&[reason]);
        until(&sidelight, "one");
    }
    let verdict = sidelight.reload();
    assert_eq!((&verdict["result"], &verdict["generation"]), (&"failed".into(), &1.into()));
    assert!(verdict["error"].as_str().is_some_and(|error| error.contains("the file is empty")), "{verdict}");
    sidelight.write("app.wat", &saying("two"));
    until(&sidelight, "two");
}

/// A program that does not arrive holds up the reload, and nobody else.
#[test]
fn operators_are_answered_while_a_program_is_fetched() {
    let sidelight = service("one").arg("--no-watch").start();
    let slow = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let module = format!("http://{}/x#sha256={}", slow.local_addr().expect("an address"), "0".repeat(64));
    sidelight.write("sidelight.toml", &format!("[services.it]\nmodule = \"{module}\"\n"));
    std::thread::scope(|scope| {
        let verdict = scope.spawn(|| sidelight.reload());
        let (fetching, _) = slow.accept().expect("the fetch");
        let now = status(&sidelight);
        assert_eq!((&now["generation"], &now["degraded"]), (&1.into(), &false.into()));
        assert_eq!(sidelight.operate("GET", "/readyz").status, 200);
        assert_eq!(sidelight.metric("sidelight_config_generation"), 1.0);
        assert_eq!(sidelight.get("/").text(), "one");
        assert!(!verdict.is_finished());
        drop((fetching, slow));
        assert_eq!(verdict.join().expect("a verdict")["result"], "failed");
    });
    assert_eq!(status(&sidelight)["degraded"], true);
    assert_eq!(sidelight.get("/").text(), "one");
}

/// One that comes byte by byte holds it up no longer than it may.
#[test]
fn a_program_that_drips_is_given_up() {
    let sidelight = service("one").arg("--no-watch").arg("--fetch-timeout").arg("1s").start();
    let slow = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let module = format!("http://{}/x#sha256={}", slow.local_addr().expect("an address"), "0".repeat(64));
    sidelight.write("sidelight.toml", &format!("[services.it]\nmodule = \"{module}\"\n"));
    let dripping = std::thread::spawn(move || {
        use std::io::{Read as _, Write as _};
        let (mut stream, _) = slow.accept().expect("the fetch");
        assert!(stream.read(&mut [0; 4096]).expect("a request") > 0);
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n").expect("a head");
        while stream.write_all(b"x").is_ok() {
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    let verdict = sidelight.reload();
    assert_eq!(verdict["result"], "failed");
    assert!(verdict["error"].as_str().is_some_and(|error| error.contains("it takes more than 1 s")), "{verdict}");
    assert_eq!(sidelight.get("/").text(), "one");
    dripping.join().expect("it is let go");
    sidelight.write("sidelight.toml", "[services.it]\nmodule = \"app.wat\"\n");
    sidelight.write("app.wat", &saying("two"));
    assert_eq!(sidelight.reload()["result"], "ok");
    assert_eq!(sidelight.get("/").text(), "two");
}

#[test]
fn by_request_and_by_signal() {
    let sidelight = service("one").arg("--no-watch").start();
    assert_eq!(sidelight.reload()["result"], "unchanged");
    sidelight.write("app.wat", &saying("two"));
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(sidelight.get("/").text(), "one");
    let verdict = sidelight.reload();
    assert_eq!((&verdict["result"], &verdict["changed"][0], &verdict["generation"]), (&"ok".into(), &"it".into(), &2.into()));
    // Acknowledged: from here on nothing else.
    assert_eq!(sidelight.get("/").text(), "two");
    sidelight.write("app.wat", &saying("three"));
    sidelight.signal(Signal::SIGHUP);
    until(&sidelight, "three");
    sidelight.wait_until("its verdict", |sidelight| status(sidelight)["reloads"][0]["cause"] == "signal");
    assert_eq!(sidelight.operate("GET", "/reload").status, 405);
    let forged = "POST /reload HTTP/1.1\r\nHost: localhost\r\nOrigin: http://evil.test\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    assert_eq!(crate::client::send(sidelight.admin, forged).status, 403);
}

#[test]
fn what_needs_a_restart_is_said() {
    let sidelight = service("one").start();
    sidelight.write("sidelight.toml", "threads = 7\n[limits]\nsandboxes = 17\nwall = \"3s\"\n[services.it]\nmodule = \"app.wat\"\n");
    sidelight.log.wait_for(&["only after a restart", "threads", "limits.sandboxes"]);
    let verdict = sidelight.reload();
    assert_eq!(verdict["restart_needed"], serde_json::json!(["threads", "limits.sandboxes"]));
}

/// As the kubelet swaps a mounted ConfigMap: a new folder, and a link to it that is replaced.
#[test]
fn config_maps() {
    let sidelight = Setup::host("[services.it]\nmanifest = \"map/fastly.toml\"\nmodule = \"map/app.wat\"\n")
        .file("map/..0/fastly.toml", "name = \"it\"\n")
        .file("map/..0/app.wat", &saying("0"))
        .file("map/app.wat", &saying("0"))
        .file("map/fastly.toml", "name = \"it\"\n")
        .start();
    let map = sidelight.path("map");
    let link = |target: &Path, name: &str| {
        symlink(target, map.join("link_tmp")).expect("a link");
        fs::rename(map.join("link_tmp"), map.join(name)).expect("renames");
    };
    link(Path::new("..0"), "..data");
    link(Path::new("..data/app.wat"), "app.wat");
    link(Path::new("..data/fastly.toml"), "fastly.toml");
    until(&sidelight, "0");
    for i in 1..=10 {
        let (old, new) = (format!("..{}", i - 1), format!("..{i}"));
        sidelight.write(&format!("map/{new}/fastly.toml"), "name = \"it\"\n");
        sidelight.write(&format!("map/{new}/app.wat"), &saying(&i.to_string()));
        link(Path::new(&new), "..data");
        fs::remove_dir_all(map.join(old)).expect("goes");
        until(&sidelight, &i.to_string());
    }
    assert!((sidelight.metric("sidelight_config_reloads_total{result=\"failed\"}")).abs() < 0.1, "{}", sidelight.log.text());
}

/// A request keeps what it began with, and its connection goes on with what is there then.
#[test]
fn requests_in_flight_keep_what_they_began_with() {
    let origin = Origin::fixed("origin");
    let sidelight = Setup::behaviours("rust").backend("origin", origin.url()).arg("--no-watch").start();
    let mut connection = Connection::open(sidelight.addr);
    connection.write(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello");
    sidelight.write("fastly.toml", "name = \"other\"\n");
    assert_eq!(sidelight.reload()["result"], "ok");
    connection.write(b"world");
    let answer = connection.answer();
    assert_eq!((answer.status, answer.text().contains("helloworld")), (200, true), "{}", answer.text());
}

/// Connections to backends outlive a change of something else.
#[test]
fn what_is_as_it_was_goes_on() {
    let origin = Origin::fixed("x");
    let manifest = |more: &str| format!("[local_server.backends.origin]\nurl = \"{}\"\n{more}", origin.url());
    let sidelight = Setup::new(guest("rust", "passthrough")).manifest(&manifest("")).arg("--threads 1").arg("--no-watch").start();
    for more in ["", "[local_server.backends.other]\nurl = \"http://127.0.0.1:9\"\n", "[sidelight]\ncompliance_region = \"eu\"\n"] {
        sidelight.write("fastly.toml", &manifest(more));
        assert_ne!(sidelight.reload()["result"], "failed");
        assert_eq!(sidelight.get("/").text(), "x");
    }
    assert_eq!(origin.connections(), 1);
    // Other settings are another backend.
    sidelight.write("fastly.toml", &manifest("between_bytes_timeout_ms = 1000\n"));
    assert_eq!(sidelight.reload()["result"], "ok");
    assert_eq!(sidelight.get("/").text(), "x");
    assert_eq!(origin.connections(), 2);
}

/// The smaller version of `swap` in `benches/figures.rs`.
#[test]
fn no_request_fails_while_everything_is_swapped() {
    let sidelight = service("0").arg("--no-watch").start();
    let (stop, acknowledged, served) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut connection = Connection::open(sidelight.addr);
                while !stop.load(Ordering::SeqCst) {
                    let least = acknowledged.load(Ordering::SeqCst);
                    connection.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
                    let answer = connection.answer();
                    assert_eq!(answer.status, 200);
                    let generation: u64 = answer.text().parse().expect("a number");
                    assert!(generation >= least, "{generation} after {least} was acknowledged");
                    served.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        for i in 1..=30 {
            let bad = i % 5 == 0;
            sidelight.write("app.wat", if bad { "(module" } else { "" });
            if !bad {
                sidelight.write("app.wat", &saying(&i.to_string()));
            }
            let verdict = sidelight.reload();
            assert_eq!(verdict["result"], if bad { "failed" } else { "ok" }, "{verdict}");
            if !bad {
                acknowledged.store(i, Ordering::SeqCst);
            }
        }
        stop.store(true, Ordering::SeqCst);
    });
    assert!(served.load(Ordering::SeqCst) > 100);
    sidelight.wait_metric("sidelight_sandboxes", 0.0);
}

/// A host file with a rollout.
fn staged(rollout: &str) -> Setup {
    Setup::host(&format!("[services.it]\nmodule = \"app.wat\"\nrollout = {rollout}\n")).file("app.wat", &saying("old")).arg("--no-watch")
}

/// How many of a hundred answers say what.
fn shares(sidelight: &Sidelight, texts: &[&str]) -> Vec<usize> {
    let answers: Vec<String> = (0..100).map(|_| sidelight.get("/").text()).collect();
    texts.iter().map(|text| answers.iter().filter(|answer| answer == text).count()).collect()
}

#[test]
fn a_new_generation_takes_some_requests_and_then_all() {
    let sidelight = staged("{ percent = 20, time = \"3s\" }").start();
    assert_eq!(shares(&sidelight, &["old"]), [100]);
    sidelight.write("app.wat", &saying("new"));
    let verdict = sidelight.reload();
    assert_eq!((&verdict["result"], &verdict["on_trial"]), (&"ok".into(), &serde_json::json!(["it"])));
    assert_eq!(shares(&sidelight, &["old", "new"]), [80, 20]);
    until_all(&sidelight, "new");
    assert_eq!(status(&sidelight)["reloads"][0]["cause"], "trial");
    assert_eq!(sidelight.reload()["result"], "unchanged");
}

fn until_all(sidelight: &Sidelight, wanted: &str) {
    let deadline = Instant::now() + PATIENCE;
    while status(sidelight)["reloads"][0]["cause"] != "trial" {
        assert!(Instant::now() < deadline, "the trial does not end:\n{}", sidelight.log.text());
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(shares(sidelight, &[wanted]), [100]);
}

/// What else is written in the folder does not put the verdict off.
#[test]
fn a_trial_beside_a_busy_log() {
    let host = "[services.it]\nmodule = \"app.wat\"\nrollout = { percent = 50, time = \"60s\" }\n";
    let sidelight = Setup::host(host).file("app.wat", &saying("old")).start();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::SeqCst) {
                sidelight.write("log", "a line");
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        sidelight.write("app.wat", "(module (memory (export \"memory\") 1) (func (export \"_start\") unreachable))");
        let deadline = Instant::now() + PATIENCE;
        while status(&sidelight)["reloads"][0]["cause"] != "trial" {
            sidelight.get("/");
            assert!(Instant::now() < deadline, "{}", sidelight.log.text());
        }
        stop.store(true, Ordering::SeqCst);
    });
    assert_eq!(shares(&sidelight, &["old"]), [100]);
}

#[test]
fn a_new_generation_that_fails_is_taken_back() {
    let sidelight = staged("{ percent = 50, time = \"60s\" }").start();
    // It traps.
    sidelight.write("app.wat", "(module (memory (export \"memory\") 1) (func (export \"_start\") unreachable))");
    assert_eq!(sidelight.reload()["result"], "ok");
    let failed = (0..30).filter(|_| sidelight.get("/").status == 500).count();
    assert!((5..=20).contains(&failed), "{failed}");
    until_all(&sidelight, "old");
    sidelight.log.wait_for(&["ERROR", "answers of the new generation of `it` failed"]);
    sidelight.wait_metric("sidelight_config_last_reload_successful", 0.0);
    // It is not tried again, until it is another, and that is not well.
    let verdict = sidelight.reload();
    assert_eq!((&verdict["result"], &verdict["rejected"]), (&"unchanged".into(), &serde_json::json!(["it"])));
    sidelight.wait_metric("sidelight_config_last_reload_successful", 0.0);
    assert_eq!(status(&sidelight)["degraded"], true);
    assert_eq!(shares(&sidelight, &["old"]), [100]);
    sidelight.write("app.wat", &saying("better"));
    assert_eq!(sidelight.reload()["on_trial"], serde_json::json!(["it"]));
    assert_eq!(shares(&sidelight, &["old", "better"]), [50, 50]);
}

/// A new generation has to answer a request of ours before it gets any of clients'.
#[test]
fn smoke() {
    let sidelight = staged("{ smoke = { path = \"/healthz\" } }").start();
    assert_eq!(sidelight.get("/").text(), "old");
    sidelight.write("app.wat", "(module (memory (export \"memory\") 1) (func (export \"_start\") unreachable))");
    let verdict = sidelight.reload();
    assert_eq!(verdict["result"], "failed");
    assert!(verdict["error"].as_str().is_some_and(|error| error.contains("it must answer localhost/healthz first")), "{verdict}");
    assert_eq!(shares(&sidelight, &["old"]), [100]);
    sidelight.write("app.wat", &saying("new"));
    assert_eq!(sidelight.reload()["result"], "ok");
    assert_eq!(shares(&sidelight, &["new"]), [100]);
    let bad = Setup::host("[services.it]\nmodule = \"app.wat\"\nrollout = { smoke = { path = \"/\", status = 204 } }\n");
    let (status, log) = bad.file("app.wat", &saying("x")).fails();
    assert_eq!(status.code(), Some(4), "{log}");
    assert!(log.contains("it answered 200 and not 204"), "{log}");
}

/// What is no file in place of one, of whatever kind: reloads go on, say so, and take what is put there later.
#[test]
fn what_is_no_file_holds_up_nobody() {
    let program = guest("rust", "stores");
    let service =
        |name: &str| format!("[services.{name}]\nhosts = [\"{name}.test\"]\nmanifest = \"{name}.toml\"\nmodule = \"{name}.wasm\"\n");
    let manifest = "manifest_version = 3\nname = \"it\"\n[local_server.config_stores.settings]\nformat = \"json\"\nfile = \"data.json\"\n\
        [local_server.secret_stores]\nsecrets = [{ key = \"k\", file = \"secret\" }]\n";
    let setup = Setup::host(&[service("one"), service("two")].concat())
        .file("one.toml", manifest)
        .file("two.toml", "manifest_version = 3\nname = \"two\"\n")
        .file("data.json", "{\"a\": \"1\"}")
        .file("secret", "some-secret");
    let setup = ["one.wasm", "two.wasm"].iter().fold(setup, |setup, name| setup.copy(name, &program));
    let sidelight = setup.start();
    for name in ["one.toml", "data.json", "secret", "one.wasm", "sidelight.toml"] {
        let (path, kept) = (sidelight.path(name), sidelight.path("kept"));
        fs::rename(&path, &kept).expect("renames");
        for kind in ["a pipe", "a pipe with a writer", "a device", "a folder"] {
            let mut writer = None;
            match kind {
                "a device" => symlink("/dev/zero", &path).expect("a link"),
                "a folder" => fs::create_dir(&path).expect("a folder"),
                _ => {
                    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
                    let both = fs::OpenOptions::new().read(true).write(true).open(&path);
                    writer = (kind != "a pipe").then(|| both.expect("opens"));
                }
            }
            let verdict = sidelight.reload();
            assert_eq!(verdict["result"], "failed", "{name} {kind}: {verdict}");
            assert!(verdict.to_string().contains(name), "{name} {kind}: {verdict}");
            drop(writer);
            match kind {
                "a folder" => fs::remove_dir(&path).expect("removes"),
                _ => fs::remove_file(&path).expect("removes"),
            }
        }
        fs::rename(&kept, &path).expect("renames");
        let verdict = sidelight.reload();
        assert_ne!(verdict["result"], "failed", "{name}: {verdict}");
    }
}
