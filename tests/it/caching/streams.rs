//! One fetch for all who ask, streamed to all of them; and what becomes of it when something breaks.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::client::{Answer, Connection};
use crate::harness::{Setup, Sidelight, guest};

use super::script::Origin;
use super::table::{Reply, down, ok, status};

fn start() -> (Origin, Sidelight) {
    let origin = Origin::start();
    let sidelight = Setup::new(guest("rust", "cache")).backend("origin", origin.url()).arg("--max-sandboxes 1200").start();
    (origin, sidelight)
}

fn request(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: edge.test\r\nConnection: close\r\n\r\n")
}

/// Asks from many connections at once. Each has to see the beginning before the origin goes on.
fn crowd(origin: &Origin, sidelight: &Sidelight, path: &'static str, count: usize) {
    origin.script(path, &[ok("first |second").control("max-age=100"), status(500, "asked again")]);
    let first = Arc::new(AtomicUsize::new(0));
    let addr = sidelight.addr;
    // Few threads: each holds many connections.
    let clients: Vec<_> = (0..20)
        .map(|_| {
            let first = first.clone();
            std::thread::spawn(move || {
                let mut connections: Vec<_> = (0..count / 20)
                    .map(|_| {
                        let mut connection = Connection::open(addr);
                        connection.write(request(path).as_bytes());
                        connection
                    })
                    .collect();
                for connection in &mut connections {
                    let head = connection.head();
                    assert_eq!(head.status, 200);
                    assert_eq!(connection.peek(6), "first ");
                    first.fetch_add(1, Ordering::Relaxed);
                }
                for connection in &mut connections {
                    assert_eq!(connection.peek(12), "first second");
                }
            })
        })
        .collect();
    sidelight.wait_until("the first bytes for everybody", |_| first.load(Ordering::Relaxed) == count);
    origin.go_on(path);
    clients.into_iter().for_each(|client| client.join().expect("all of it"));
    assert_eq!(origin.asked(path).len(), 1, "one request of the origin for all");
}

#[test]
fn a_thousand_misses_are_one_request_and_stream_together() {
    // A thousand connections here, and as many in the process that inherits the limit.
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, soft.max(hard.min(16_384)), hard).expect("sets it");
    let (origin, sidelight) = start();
    crowd(&origin, &sidelight, "/plain/crowd", 1000);
    crowd(&origin, &sidelight, "/guest/crowd", 1000);
}

/// Sends and waits for the whole answer, on a thread.
fn ask(sidelight: &Sidelight, path: &str) -> std::thread::JoinHandle<Answer> {
    let (addr, request) = (sidelight.addr, request(path));
    std::thread::spawn(move || crate::client::send(addr, &request))
}

#[test]
fn a_leader_that_fails_is_followed_by_exactly_one() {
    let (origin, sidelight) = start();
    for path in ["/plain/leader", "/guest/leader"] {
        // The first is asked while the others gather, and gives no answer.
        origin.script(path, &[Reply { wait: true, ..down() }, ok("second").control("max-age=100"), status(500, "a third")]);
        let leader = ask(&sidelight, path);
        origin.wait_asked(path, 1);
        let followers: Vec<_> = (0..50).map(|_| ask(&sidelight, path)).collect();
        std::thread::sleep(std::time::Duration::from_millis(300));
        origin.go_on(path);
        assert_eq!(leader.join().expect("an answer").status, 502);
        for follower in followers {
            let answer = follower.join().expect("an answer");
            assert_eq!((answer.status, answer.text().as_str()), (200, "second"));
        }
        assert_eq!(origin.asked(path).len(), 2);
    }
}

#[test]
fn a_leader_that_is_killed_is_followed_by_exactly_one() {
    let (_, sidelight) = start();
    let gate = Arc::new(Barrier::new(21));
    let leader = ask(&sidelight, "/core/hold?key=k&ms=700");
    std::thread::sleep(std::time::Duration::from_millis(200));
    let followers: Vec<_> = (0..20)
        .map(|index| {
            let (gate, addr) = (gate.clone(), sidelight.addr);
            std::thread::spawn(move || {
                gate.wait();
                crate::client::send(addr, &request(&format!("/core/fill?key=k&who={index}")))
            })
        })
        .collect();
    gate.wait();
    assert_eq!(leader.join().expect("an answer").status, 500);
    let answers: Vec<_> = followers.into_iter().map(|follower| follower.join().expect("an answer")).collect();
    let filled = answers.iter().filter(|answer| answer.header("x-who") == Some("filled")).count();
    assert_eq!(filled, 1, "one more, and all others have what it wrote");
    assert!(answers.iter().all(|answer| answer.status == 200 && answer.text() == answers[0].text()));
}

#[test]
fn the_fetch_goes_on_when_its_client_leaves() {
    let (origin, sidelight) = start();
    origin.script("/plain/left", &[ok("one |two").control("max-age=100"), status(500, "asked again")]);
    let mut leader = Connection::open(sidelight.addr);
    leader.write(request("/plain/left").as_bytes());
    leader.head();
    assert_eq!(leader.peek(4), "one ");
    drop(leader);
    let follower = ask(&sidelight, "/plain/left");
    std::thread::sleep(std::time::Duration::from_millis(100));
    origin.go_on("/plain/left");
    assert_eq!(follower.join().expect("an answer").text(), "one two");
    assert_eq!(origin.asked("/plain/left").len(), 1);
}

#[test]
fn what_breaks_off_is_never_an_object() {
    let (origin, sidelight) = start();
    for mode in ["plain", "guest"] {
        let cases: [(&str, Reply); 3] = [
            ("promised", ok("half").control("max-age=100").with("content-length", "100")),
            ("cut", ok("half").control("max-age=100").cut()),
            ("late", ok("half |").control("max-age=100").with("content-length", "100")),
        ];
        for (name, broken) in cases {
            let path = format!("/{mode}/{name}");
            origin.script(&path, &[broken, ok("whole").control("max-age=100")]);
            origin.go_on(&path);
            let first = sidelight.get(&path);
            assert!(!first.whole, "{path}: {first:?}");
            let second = sidelight.get(&path);
            assert_eq!((second.whole, second.text().as_str(), second.header("x-cache")), (true, "whole", Some("MISS")), "{path}");
            assert_eq!(sidelight.get(&path).header("x-cache"), Some("HIT"));
        }
    }
}

#[test]
fn an_old_response_is_back_when_its_successor_breaks_off() {
    let (origin, sidelight) = start();
    let old = ok("old").control("max-age=10, stale-while-revalidate=100").with("etag", "\"1\"");
    let broken = ok("ne").control("max-age=10").with("content-length", "100");
    origin.script("/plain/back", &[old, broken, ok("new").control("max-age=10")]);
    assert_eq!(sidelight.get("/plain/back").text(), "old");
    sidelight.operate("POST", "/cache/age?seconds=20");
    assert_eq!(sidelight.get("/plain/back").text(), "old");
    origin.wait_asked("/plain/back", 2);
    std::thread::sleep(std::time::Duration::from_millis(100));
    assert_eq!(sidelight.get("/plain/back").text(), "old");
    origin.wait_asked("/plain/back", 3);
    sidelight.wait_until("the new one", |sidelight| sidelight.get("/plain/back").text() == "new");
}

#[test]
fn a_response_larger_than_the_cache_streams_through_it() {
    let origin = crate::origin::Origin::raw(|_| async {
        let (sender, body) = crate::origin::streamed();
        tokio::spawn(async move {
            for _ in 0..320 {
                if sender.send(Ok(bytes::Bytes::from(vec![7; 100_000]))).await.is_err() {
                    return;
                }
            }
        });
        hyper::Response::builder().header("cache-control", "max-age=100").body(body).expect("a response")
    });
    let sidelight = Setup::new(guest("rust", "cache")).backend("origin", origin.url()).arg("--cache-memory 8").start();
    for path in ["/plain/large", "/guest/large"] {
        for _ in 0..2 {
            let mut connection = Connection::open(sidelight.addr);
            connection.write(request(path).as_bytes());
            assert_eq!(connection.head().header("x-cache"), Some("MISS"), "it is in no cache");
            let mut length = 0;
            loop {
                let chunk = connection.chunk().expect("it goes on");
                if chunk.is_empty() {
                    break;
                }
                length += chunk.len();
            }
            assert_eq!(length, 32_000_000);
        }
    }
    let totals = sidelight.operate("GET", "/cache").json();
    assert!(totals["bytes"].as_u64().expect("a number") <= 8 << 20, "{totals}");
}

#[test]
fn a_lookup_timeout_bounds_the_wait_for_others() {
    let (origin, sidelight) = start();
    for path in ["/plain/wait", "/guest/wait"] {
        origin.script(path, &[Reply { wait: true, ..ok("at last").control("max-age=100") }]);
        let leader = ask(&sidelight, path);
        origin.wait_asked(path, 1);
        let impatient = format!("GET {path} HTTP/1.1\r\nHost: edge.test\r\nConnection: close\r\nx-test-timeout: 200\r\n\r\n");
        let answer = crate::client::send(sidelight.addr, &impatient);
        assert_eq!(answer.status, 502, "{}", answer.text());
        origin.go_on(path);
        assert_eq!(leader.join().expect("an answer").text(), "at last");
        assert_eq!(crate::client::send(sidelight.addr, &impatient).text(), "at last");
        assert_eq!(origin.asked(path).len(), 1);
    }
}

#[test]
fn an_object_that_is_given_up_breaks_off_for_those_who_read_it() {
    let (_, sidelight) = start();
    let writer = ask(&sidelight, "/core/abandon?key=half&ms=600");
    sidelight.wait_until("the object", |sidelight| sidelight.operate("GET", "/cache/entries?about=half").text().contains("\"size\": 4"));
    let reader = sidelight.get("/core/get?key=half");
    assert_eq!((reader.status, reader.whole, reader.text().as_str()), (200, false, "half"));
    assert_eq!(writer.join().expect("an answer").text(), "abandoned");
    assert_eq!(sidelight.get("/core/get?key=half").status, 404);
}

#[test]
fn a_cache_of_one_mebibyte_serves() {
    let origin = Origin::start();
    let sidelight = Setup::new(guest("rust", "cache")).backend("origin", origin.url()).arg("--cache-memory 1").start();
    let body: &'static str = Box::leak("x".repeat(200_000).into_boxed_str());
    for round in 0..2 {
        for index in 0..20 {
            let path = format!("/plain/{index}");
            if round == 0 {
                origin.script(&path, &[ok(body).control("max-age=100")]);
            }
            let answer = sidelight.get(&path);
            assert!(answer.whole && answer.body.len() == 200_000);
        }
    }
    assert!(sidelight.operate("GET", "/cache").json()["bytes"].as_u64().expect("a number") <= 1 << 20);
    assert!(sidelight.metric("sidelight_cache_evictions_total") > 10.0);
}
