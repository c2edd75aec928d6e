//! Nothing of one request is there for the next, and nothing of one service for another: a program leaves a mark wherever it can, and the
//! next looks for it wherever it can.

use crate::client::Answer;
use crate::harness::{Setup, Sidelight, guest};

/// The mark, and how the programs are told it.
const MARK: &str = "a-mark-that-nobody-else-makes";

fn coded() -> String {
    MARK.bytes().map(|byte| format!("{:02x}", byte ^ 0x55)).collect()
}

fn ask(sidelight: &Sidelight, host: &str, path: &str) -> Answer {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nX-Mark: {}\r\nConnection: close\r\n\r\n", coded());
    crate::client::send(sidelight.addr, &request)
}

const NOTHING: &str = "memory 0, grown 0, environment 0, bodies 0, kv false, cache false, simple false\n";

#[test]
fn the_next_request_in_the_same_place_sees_nothing() {
    let sidelight = Setup::new(guest("rust", "isolation")).arg("--max-sandboxes 1 --queue-timeout 30s --cpu-limit 2s").start();
    // The program finds a mark that is there: what is looked for below could be found.
    let own = ask(&sidelight, "a", "/mark?mib=1&end=look").text();
    let times: usize = own.strip_prefix("memory ").and_then(|rest| rest.split(',').next()?.parse().ok()).expect("a number");
    assert!(times > 1000 && own.contains("environment 1, bodies 50, kv false, cache true, simple true"), "{own}");
    // Little, which is cleared in place, and much, which is given back to the kernel; each end that there is.
    for mib in [0, 1, 60, 100] {
        for end in ["answer", "trap", "exit", "spin"] {
            let answer = ask(&sidelight, "a", &format!("/mark?mib={mib}&end={end}"));
            assert_eq!(answer.status, if end == "answer" { 200 } else { 500 }, "{mib} {end}");
            for look in ["/look?mib=1", "/look?mib=100"] {
                let told = ask(&sidelight, "a", look).text();
                // What is for all requests of a service, the caches, is there: it was marked on purpose.
                let (own, _) = told.split_once(", kv").expect("a line");
                assert_eq!(own, "memory 0, grown 0, environment 0, bodies 0", "{mib} {end} {look}: {told}");
            }
        }
    }
}

/// A sandbox that has served one request after another, with bodies that its program read or did not, leaves nothing of them when its place
/// is another's.
#[test]
fn nothing_is_left_of_a_sandbox_that_was_reused() {
    let (program, reusing) = (guest("rust", "isolation"), guest("rust", "reuse"));
    let host = format!(
        "[services.looking]\nmodule = \"{}\"\nhosts = [\"looking.test\"]\nmanifest = \"looking.toml\"\n\
         [services.resting]\nmodule = \"{}\"\nhosts = [\"resting.test\"]\n",
        program.display(),
        reusing.display()
    );
    let manifest = "manifest_version = 3\nname = \"looking\"\n[local_server.kv_stores]\ncatalog = []\n";
    let sidelight = Setup::host(&host).file("looking.toml", manifest).arg("--max-sandboxes 1 --queue-timeout 30s --reuse-idle 1h").start();
    let body = MARK.repeat(2000);
    for path in ["/", "/keep", "/trap", "/"] {
        for _ in 0..3 {
            let length = body.len();
            let request = format!(
                "POST {path} HTTP/1.1\r\nHost: resting.test\r\nX-Marked: {MARK}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
            );
            let answer = crate::client::send(sidelight.addr, &request);
            assert_eq!(answer.status, if path == "/trap" { 500 } else { 200 });
        }
        // The one sandbox there is ends for this.
        assert_eq!(ask(&sidelight, "looking.test", "/look?mib=100").text(), NOTHING, "{path}");
    }
    assert!(sidelight.metric("sidelight_sandboxes_reused_total") >= 6.0);
}

#[test]
fn another_service_sees_nothing() {
    let program = guest("rust", "isolation");
    let service = |name: &str| {
        format!("[services.{name}]\nmodule = \"{}\"\nhosts = [\"{name}.test\"]\nmanifest = \"{name}.toml\"\n", program.display())
    };
    let manifest = |name: &str| format!("manifest_version = 3\nname = \"{name}\"\n[local_server.kv_stores]\ncatalog = []\n");
    let sidelight = Setup::host(&[service("one"), service("two")].concat())
        .file("one.toml", &manifest("one"))
        .file("two.toml", &manifest("two"))
        .arg("--max-sandboxes 1 --queue-timeout 30s")
        .start();
    assert_eq!(ask(&sidelight, "two.test", "/look?mib=100").text(), NOTHING);
    assert_eq!(ask(&sidelight, "one.test", "/mark?mib=20").status, 200);
    let own = ask(&sidelight, "one.test", "/look").text();
    assert!(own.ends_with("kv true, cache true, simple true\n"), "{own}");
    assert_eq!(ask(&sidelight, "two.test", "/look?mib=100").text(), NOTHING);
    // Metrics name nothing that a program has made up, and the log says whose line it is.
    assert!(!sidelight.operate("GET", "/metrics").text().contains(MARK));
    let line = sidelight.log.wait_for(&[MARK]);
    assert!(line.contains("service=\"one\"") && !line.contains("two"), "{line}");
}

/// Globals, tables and dropped segments: what a program changes of its instance is gone with it.
#[test]
fn instances_begin_anew() {
    let program = r#"(module
        (import "fastly_http_resp" "new" (func $new (param i32) (result i32)))
        (import "fastly_http_resp" "status_set" (func $status (param i32 i32) (result i32)))
        (import "fastly_http_resp" "send_downstream" (func $send (param i32 i32 i32) (result i32)))
        (import "fastly_http_body" "new" (func $body (param i32) (result i32)))
        (memory (export "memory") 1)
        (data $segment "mark")
        (table $table 4 8 funcref)
        (global $global (mut i32) (i32.const 0))
        (func $f)
        (elem declare func $f)
        (func (export "_start") (local $seen i32)
            ;; What an earlier one has left would be seen in a bit each.
            (local.set $seen (global.get $global))
            (if (i32.eqz (ref.is_null (table.get $table (i32.const 1)))) (then (local.set $seen (i32.or (local.get $seen) (i32.const 2)))))
            (if (i32.ne (table.size $table) (i32.const 4)) (then (local.set $seen (i32.or (local.get $seen) (i32.const 4)))))
            (if (i32.ne (memory.size) (i32.const 1)) (then (local.set $seen (i32.or (local.get $seen) (i32.const 8)))))
            (if (i32.load (i32.const 60000)) (then (local.set $seen (i32.or (local.get $seen) (i32.const 16)))))
            (memory.init $segment (i32.const 100) (i32.const 0) (i32.const 4))
            (global.set $global (i32.const 1))
            (table.set $table (i32.const 1) (ref.func $f))
            (drop (table.grow $table (ref.func $f) (i32.const 4)))
            (drop (memory.grow (i32.const 3)))
            (i32.store (i32.const 60000) (i32.const 7))
            (data.drop $segment)
            (drop (call $new (i32.const 8)))
            (drop (call $body (i32.const 12)))
            (drop (call $status (i32.load (i32.const 8)) (i32.add (i32.const 200) (local.get $seen))))
            (drop (call $send (i32.load (i32.const 8)) (i32.load (i32.const 12)) (i32.const 0)))))"#;
    let sidelight = Setup::wat(program).arg("--max-sandboxes 1 --queue-timeout 30s").start();
    for _ in 0..50 {
        assert_eq!(sidelight.get("/").status, 200);
    }
}

/// Random numbers are nobody else's: neither of an earlier request nor of another process.
#[test]
fn random_numbers_are_each_ones_own() {
    let program = r#"(module
        (import "fastly_http_resp" "new" (func $new (param i32) (result i32)))
        (import "fastly_http_resp" "send_downstream" (func $send (param i32 i32 i32) (result i32)))
        (import "fastly_http_body" "new" (func $body (param i32) (result i32)))
        (import "fastly_http_body" "write" (func $write (param i32 i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
        (memory (export "memory") 1)
        (func (export "_start")
            (drop (call $random (i32.const 100) (i32.const 32)))
            (drop (call $new (i32.const 8)))
            (drop (call $body (i32.const 12)))
            (drop (call $write (i32.load (i32.const 12)) (i32.const 100) (i32.const 32) (i32.const 0) (i32.const 16)))
            (drop (call $send (i32.load (i32.const 8)) (i32.load (i32.const 12)) (i32.const 0)))))"#;
    let mut seen = std::collections::HashSet::new();
    let (first, second) = (Setup::wat(program).start(), Setup::wat(program).start());
    for _ in 0..200 {
        for sidelight in [&first, &second] {
            let numbers = sidelight.get("/").body;
            assert_eq!(numbers.len(), 32);
            // Halves, too: a generator that begins anew would repeat itself in them.
            for half in numbers.chunks(16) {
                assert!(seen.insert(half.to_vec()), "seen twice: {half:?}");
            }
        }
    }
}
