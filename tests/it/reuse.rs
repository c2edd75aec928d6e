//! Further requests in the same sandbox, with the SDKs' own serve loops.

use nix::sys::signal::Signal;

use crate::client::{Answer, Connection};
use crate::harness::{Setup, Sidelight, guest};
use crate::languages;

fn reuse(language: &str) -> Setup {
    Setup::new(guest(language, "reuse"))
}

/// Answers of a sandbox after another: what each says is how many requests its sandbox has served.
fn get(sidelight: &Sidelight, path: &str) -> Answer {
    let answer = sidelight.get(path);
    // The guest has ended, or waits for the next.
    sidelight.wait_until("rest", |sidelight| sidelight.metric("sidelight_sandboxes_waiting") >= sidelight.metric("sidelight_sandboxes"));
    answer
}

fn served(sidelight: &Sidelight, path: &str) -> String {
    get(sidelight, path).text().trim().to_owned()
}

languages! {
    fn as_many_requests_as_allowed_then_a_fresh_one(language) {
        let sidelight = reuse(language).arg("--reuse-requests 3").start();
        let counts: Vec<String> = (0..7).map(|_| served(&sidelight, "/")).collect();
        assert_eq!(counts, ["1", "2", "3", "1", "2", "3", "1"]);
        assert!((sidelight.metric("sidelight_sandboxes_reused_total") - 4.0).abs() < 0.5);
    }
}

languages! {
    fn each_request_has_its_own_id(language) {
        let sidelight = reuse(language).start();
        let ids: Vec<String> = (0..3).map(|_| get(&sidelight, "/").header("x-id").expect("an id").to_owned()).collect();
        assert!(ids[0] != ids[1] && ids[1] != ids[2] && ids[0] != ids[2], "{ids:?}");
        for (i, id) in ids.iter().enumerate() {
            assert_eq!(id.len(), 36);
            sidelight.log.wait_for(&[&format!("request {}", i + 1), id]);
        }
    }
}

languages! {
    fn no_reuse_when_it_is_off(language) {
        let sidelight = reuse(language).arg("--reuse-requests 1").start();
        for _ in 0..3 {
            assert_eq!(served(&sidelight, "/"), "1");
        }
        assert!(sidelight.metric("sidelight_sandboxes_reused_total") < 0.5);
    }
}

/// Age counts while it waits, too.
#[test]
fn a_sandbox_that_waits_grows_old() {
    let sidelight = reuse("rust").arg("--reuse-lifetime 300ms --reuse-idle 30s").start();
    assert_eq!(served(&sidelight, "/"), "1");
    sidelight.wait_metric("sidelight_sandboxes", 0.0);
    assert_eq!(served(&sidelight, "/"), "1");
}

#[test]
fn the_sandbox_keeps_its_trace_id() {
    let sidelight = reuse("rust").start();
    let first = get(&sidelight, "/").header("x-trace").expect("an id").to_owned();
    assert_eq!(get(&sidelight, "/").header("x-trace"), Some(first.as_str()));
}

#[test]
fn a_trap_affects_its_request_only() {
    let sidelight = reuse("rust").start();
    assert_eq!(served(&sidelight, "/"), "1");
    assert_eq!(served(&sidelight, "/"), "2");
    let answer = get(&sidelight, "/trap");
    assert_eq!(answer.status, 500);
    sidelight.log.wait_for(&[answer.header("x-request-id").expect("an id"), "unreachable"]);
    assert_eq!(served(&sidelight, "/"), "1");
    assert_eq!(served(&sidelight, "/"), "2");
}

#[test]
fn limits_of_time_are_those_of_each_request() {
    let sidelight = reuse("rust").arg("--cpu-limit 250ms --cpu-report 60ms --wall-limit 2s").start();
    for i in 1..=5 {
        assert_eq!(served(&sidelight, "/burn?n=100"), i.to_string());
    }
    for i in 6..=9 {
        assert_eq!(served(&sidelight, "/wait?n=800"), i.to_string());
    }
    assert_eq!(get(&sidelight, "/burn?n=1000").status, 500);
    assert_eq!(served(&sidelight, "/"), "1");
    assert_eq!(get(&sidelight, "/wait?n=5000").status, 503);
    assert_eq!(served(&sidelight, "/"), "1");
    // Each is reported by itself: were it by sandbox, those that waited after the first five would be too, and make ten.
    let reported = sidelight.metric("sidelight_guest_cpu_over_production_total");
    assert!((5.5..9.5).contains(&reported), "{reported}");
}

#[test]
fn a_guest_does_not_wait_for_ever() {
    let sidelight = reuse("rust").arg("--reuse-idle 100ms").start();
    assert_eq!(sidelight.get("/").text(), "1\n");
    sidelight.wait_metric("sidelight_sandboxes", 0.0);
    sidelight.wait_metric("sidelight_guests_total{outcome=\"finished\"}", 1.0);
    // Sandboxes that work on are what the process's end waits for: those that wait are told from them.
    assert_eq!(sidelight.metric("sidelight_sandboxes_waiting"), 0.0);
    sidelight.log.wait_for(&["served 1 requests"]);
}

#[test]
fn an_old_sandbox_gets_no_more() {
    let sidelight = reuse("rust").arg("--reuse-lifetime 1ms").start();
    for _ in 0..3 {
        assert_eq!(served(&sidelight, "/wait?n=5"), "1");
    }
}

#[test]
fn a_large_sandbox_gets_no_more() {
    let sidelight = reuse("rust").arg("--reuse-memory 8").start();
    assert_eq!(served(&sidelight, "/"), "1");
    assert_eq!(served(&sidelight, "/keep?n=16"), "2");
    assert_eq!(served(&sidelight, "/"), "1");
}

#[test]
fn guests_that_wait_do_not_hold_up_the_end() {
    let sidelight = reuse("rust").arg("--reuse-idle 1h --drain-timeout 1h").start();
    assert_eq!(served(&sidelight, "/"), "1");
    sidelight.wait_metric("sidelight_sandboxes_waiting", 1.0);
    sidelight.signal(Signal::SIGTERM);
    assert_eq!(sidelight.end().code(), Some(0));
}

#[test]
fn one_sandbox_serves_all_who_queue_for_it() {
    let sidelight = reuse("rust").arg("--max-sandboxes 1 --reuse-requests 1000000 --queue-timeout 1m").start();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..25 {
                    assert_eq!(sidelight.get("/").status, 200);
                }
            });
        }
    });
    assert_eq!(served(&sidelight, "/"), "201");
}

#[test]
fn many_at_once() {
    let sidelight = reuse("rust").arg("--reuse-requests 7").start();
    std::thread::scope(|scope| {
        for client in 0..8 {
            let sidelight = &sidelight;
            scope.spawn(move || {
                let mut connection = Connection::open(sidelight.addr);
                for i in 0..100 {
                    // Some traps in between: they hit nobody else.
                    let trap = client == 0 && i % 5 == 0;
                    connection.write(if trap { b"GET /trap HTTP/1.1\r\nHost: a\r\n\r\n" } else { b"GET /it HTTP/1.1\r\nHost: a\r\n\r\n" });
                    let answer = connection.answer();
                    assert_eq!(answer.status, if trap { 500 } else { 200 });
                    assert!(trap || (1..=7).contains(&answer.text().trim().parse::<u32>().expect("a count")));
                }
            });
        }
    });
    sidelight.wait_metric("sidelight_guests_total{outcome=\"trapped\"}", 20.0);
    assert!(sidelight.metric("sidelight_sandboxes_reused_total") > 100.0);
}

/// A program that writes the statuses of three calls into its answer's status: `promise` twice, then a wait
/// before it has answered.
const IMPATIENT: &str = r#"(module
  (import "fastly_http_downstream" "next_request" (func $next (param i32 i32 i32) (result i32)))
  (import "fastly_http_downstream" "next_request_wait" (func $wait (param i32 i32 i32) (result i32)))
  (import "fastly_http_downstream" "next_request_abandon" (func $abandon (param i32) (result i32)))
  (import "fastly_async_io" "is_ready" (func $ready (param i32 i32) (result i32)))
  (import "fastly_http_resp" "new" (func $response (param i32) (result i32)))
  (import "fastly_http_resp" "status_set" (func $status (param i32 i32) (result i32)))
  (import "fastly_http_resp" "send_downstream" (func $send (param i32 i32 i32) (result i32)))
  (import "fastly_http_body" "new" (func $body (param i32) (result i32)))
  (memory (export "memory") 1)
  (func $must (param $got i32) (param $wanted i32)
    (if (i32.ne (local.get $got) (local.get $wanted)) (then unreachable)))
  (func (export "_start")
    ;; An unknown option, then a promise, then a second one while the first is open.
    (call $must (call $next (i32.const 5) (i32.const 64) (i32.const 0)) (i32.const 5))
    (call $must (call $next (i32.const 0) (i32.const 64) (i32.const 0)) (i32.const 0))
    (call $must (call $next (i32.const 0) (i32.const 64) (i32.const 4)) (i32.const 13))
    ;; The client has no answer yet.
    (call $must (call $ready (i32.load (i32.const 0)) (i32.const 8)) (i32.const 0))
    (call $must (i32.load (i32.const 8)) (i32.const 0))
    (call $must (call $wait (i32.load (i32.const 0)) (i32.const 8) (i32.const 12)) (i32.const 5))
    (call $must (call $abandon (i32.load (i32.const 0))) (i32.const 0))
    (call $must (call $abandon (i32.load (i32.const 0))) (i32.const 3))
    (call $must (call $response (i32.const 16)) (i32.const 0))
    (call $must (call $status (i32.load (i32.const 16)) (i32.const 204)) (i32.const 0))
    (call $must (call $body (i32.const 20)) (i32.const 0))
    (call $must (call $send (i32.load (i32.const 16)) (i32.load (i32.const 20)) (i32.const 0)) (i32.const 0))
    ;; Nothing comes within a millisecond.
    (i64.store (i32.const 64) (i64.const 1))
    (call $must (call $next (i32.const 2) (i32.const 64) (i32.const 0)) (i32.const 0))
    (call $must (call $wait (i32.load (i32.const 0)) (i32.const 8) (i32.const 12)) (i32.const 10))
    (call $must (call $wait (i32.load (i32.const 0)) (i32.const 8) (i32.const 12)) (i32.const 3))))"#;

#[test]
fn promises_are_kept_in_order() {
    let sidelight = Setup::wat(IMPATIENT).start();
    assert_eq!(sidelight.get("/").status, 204);
    sidelight.wait_metric("sidelight_guests_total{outcome=\"finished\"}", 1.0);
}
