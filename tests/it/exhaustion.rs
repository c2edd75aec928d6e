//! What there is an end of: memory, sandboxes, handles, room in stores, caches and logs. A program that takes it all must not take it
//! from the others.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use hyper::Response;
use nix::sys::signal::Signal;

use crate::client::Connection;
use crate::harness::{Setup, Sidelight, guest};
use crate::memory::{growth, resident};
use crate::origin::{self, Origin};

const MIB: u64 = 1 << 20;

/// A process with the program that takes (`greedy.test`), and one that does not (`other.test`).
fn beside(top: &str, greedy: &str) -> Setup {
    let (program, other) = (guest("rust", "exhaust"), guest("rust", "behaviours"));
    Setup::host(&format!(
        "{top}\n[services.greedy]\nhosts = [\"greedy.test\"]\nmodule = \"{}\"\n{greedy}\n\
         [services.other]\nhosts = [\"other.test\"]\nmodule = \"{}\"\n",
        program.display(),
        other.display()
    ))
}

fn others_are_served(sidelight: &Sidelight) {
    assert_eq!(sidelight.get_of("other.test", "/synthetic").status, 418);
}

fn greedy(sidelight: &Sidelight, path: &str) -> String {
    let answer = sidelight.get_of("greedy.test", path);
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    answer.text().trim().to_owned()
}

/// Twenty that would have 2 GiB, of a process that may have 400 MiB.
#[test]
fn guests_that_would_have_more_than_the_process() {
    let sidelight = beside("[limits]\ntotal_memory_mib = 400", "").start();
    others_are_served(&sidelight);
    let limit = 400 * MIB;
    assert!((sidelight.metric("sidelight_memory_limit_bytes") - limit as f64).abs() < 1.0);
    let mut got = Vec::new();
    let grown = growth(&sidelight, || {
        std::thread::scope(|scope| {
            let greedy: Vec<_> =
                (0..20).map(|_| scope.spawn(|| greedy(&sidelight, "/memory?mib=100&ms=1000").parse().expect("a number"))).collect();
            std::thread::sleep(Duration::from_millis(700));
            for _ in 0..10 {
                others_are_served(&sidelight);
                std::thread::sleep(Duration::from_millis(50));
            }
            got = greedy.into_iter().map(|one| one.join().expect("no panic")).collect::<Vec<u64>>();
        });
    });
    let sum: u64 = got.iter().sum();
    assert!((100..400).contains(&sum), "{got:?}");
    assert!(resident(&sidelight) + grown < limit + 200 * MIB, "{} MiB more", grown / MIB);
    assert!(sidelight.metric("sidelight_guest_memory_refused_total{service=\"greedy\",reason=\"shortage\"}") >= 1.0);
    sidelight.log.wait_for(&["memory is no longer short"]);
    // And it is all as before.
    sidelight.wait_until("rest", |sidelight| sidelight.metric("sidelight_sandboxes") < 0.5);
    assert_eq!(greedy(&sidelight, "/memory?mib=100"), "100");
}

/// A control group with a bound of memory; gone when this is dropped.
struct ControlGroup(PathBuf);

impl ControlGroup {
    /// Of version 1 or 2, whichever the machine has; `None`: none can be made.
    fn new(bytes: u64) -> Option<Self> {
        let name = format!("sidelight-{}", std::process::id());
        for (root, file) in [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")] {
            let group = Self(Path::new(root).join(&name));
            if std::fs::create_dir(&group.0).is_ok() && std::fs::write(group.0.join(file), bytes.to_string()).is_ok() {
                return Some(group);
            }
        }
        None
    }
}

impl Drop for ControlGroup {
    fn drop(&mut self) {
        drop(std::fs::remove_dir(&self.0));
    }
}

/// The same where the kernel ends whoever takes more: what it may have is found out, and nobody is ended.
#[test]
fn in_a_container_that_is_too_small() {
    let limit = 400 * MIB;
    let Some(group) = ControlGroup::new(limit) else {
        assert!(std::env::var_os("CI").is_none(), "CI may make control groups");
        eprintln!("skipped: no right to make a control group");
        return;
    };
    let enter = format!("echo $$ > {}/cgroup.procs && exec \"$@\"", group.0.display());
    let sidelight = beside("", "").within(&["sh", "-c", &enter, "sh"]).start();
    assert!((sidelight.metric("sidelight_memory_limit_bytes") - limit as f64).abs() < 1.0);
    for _ in 0..3 {
        std::thread::scope(|scope| {
            for _ in 0..30 {
                // Refused memory, or a place, but an answer each.
                scope.spawn(|| assert!([200, 500, 503].contains(&sidelight.get_of("greedy.test", "/memory?mib=120&ms=300").status)));
            }
        });
        others_are_served(&sidelight);
    }
    assert!(sidelight.metric("sidelight_guest_memory_refused_total{service=\"greedy\",reason=\"shortage\"}") >= 1.0);
    sidelight.signal(Signal::SIGTERM);
    assert!(sidelight.end().success());
    // Its folder can be removed when it is empty.
    drop(group);
}

#[test]
fn a_guest_that_ends_for_want_of_memory_says_whose() {
    let (program, other) = (guest("rust", "exhaust"), guest("rust", "misbehave"));
    let host = format!(
        "[limits]\ntotal_memory_mib = 200\nmemory_mib = 1024\n[services.greedy]\nhosts = [\"greedy.test\"]\nmodule = \"{}\"\n\
         [services.other]\nhosts = [\"other.test\"]\nmodule = \"{}\"\n",
        program.display(),
        other.display()
    );
    let sidelight = Setup::host(&host).start();
    let answer = sidelight.get_of("other.test", "/memory");
    assert_eq!(answer.status, 500);
    sidelight.log.wait_for(&[answer.header("x-request-id").expect("an id"), "memory_short", "--total-memory"]);
    sidelight
        .wait_until("its end", |sidelight| sidelight.metric("sidelight_guests_total{service=\"other\",outcome=\"memory_short\"}") > 0.5);
}

/// A process that has less than it needs for itself says so, and what waits is refused by name.
#[test]
fn no_memory_at_all() {
    let seeds: String = (0..4).map(|key| format!("[[local_server.kv_stores.main]]\nkey = \"{key}\"\nfile = \"value\"\n")).collect();
    let setup = Setup::new(guest("rust", "behaviours")).manifest(&seeds).file("value", "small");
    let sidelight = setup.arg("--total-memory 64 --queue-timeout 100ms").start();
    assert_eq!(sidelight.get("/synthetic").status, 418);
    // Taken by what guests have no part in.
    sidelight.write("value", &"x".repeat(20 << 20));
    sidelight.reload();
    sidelight.log.wait_for(&["memory is nearly used up"]);
    let answer = sidelight.get("/synthetic");
    assert_eq!(answer.status, 503);
    assert!(answer.header("retry-after").is_some());
    assert!(sidelight.metric("sidelight_refusals_total{reason=\"no_memory\"}") > 0.5);
    sidelight.log.wait_for(&["memory is short, and there was none", answer.header("x-request-id").expect("an id")]);
}

/// Many guests of one service, none of them large, that hold what they have: theirs are kept back, and others go on being served, those that
/// need some memory themselves too.
#[test]
fn many_small_ones_that_hold_what_they_have() {
    let sidelight = beside("[limits]\ntotal_memory_mib = 400\nqueue_timeout = \"300ms\"", "").start();
    others_are_served(&sidelight);
    std::thread::scope(|scope| {
        for _ in 0..30 {
            scope.spawn(|| assert!([200, 503].contains(&sidelight.get_of("greedy.test", "/memory?mib=30&ms=4000").status)));
        }
        sidelight.log.wait_for(&["memory is"]);
        for _ in 0..20 {
            others_are_served(&sidelight);
            std::thread::sleep(Duration::from_millis(100));
        }
    });
    assert!(sidelight.metric("sidelight_guest_memory_refused_total{service=\"greedy\",reason=\"shortage\"}") >= 1.0);
}

/// Guests that only wait for a further request have the places that somebody else needs.
#[test]
fn places_of_guests_that_wait() {
    let (program, other) = (guest("rust", "reuse"), guest("rust", "behaviours"));
    let host = format!(
        "[limits]\nsandboxes = 4\nqueue_timeout = \"2s\"\nreuse_idle = \"1h\"\n\
         [services.resting]\nhosts = [\"resting.test\"]\nmodule = \"{}\"\n\
         [services.other]\nhosts = [\"other.test\"]\nmodule = \"{}\"\n",
        program.display(),
        other.display()
    );
    let sidelight = Setup::host(&host).start();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert_eq!(sidelight.get_of("resting.test", "/burn?n=100").status, 200));
        }
    });
    sidelight.wait_until("rest", |sidelight| {
        let waiting = sidelight.metric("sidelight_sandboxes_waiting");
        waiting > 0.5 && waiting >= sidelight.metric("sidelight_sandboxes")
    });
    // As many at once as there are places: all of the resting have to go.
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut held = Connection::open(sidelight.addr);
                held.write(b"POST /echo HTTP/1.1\r\nHost: other.test\r\nContent-Length: 10\r\n\r\nhello");
                std::thread::sleep(Duration::from_millis(500));
                held.write(b"world");
                assert_eq!(held.answer().status, 200);
            });
        }
    });
    assert!(sidelight.metric("sidelight_requests_overloaded_total") < 0.5);
}

#[test]
fn handles_of_each_kind() {
    let sidelight = beside(
        "",
        "sidelight.logs.main = { kind = \"stdout\" }\nconfig_stores.main = { format = \"inline-toml\", contents = { a = \"b\" } }\n\
         secret_stores.main = [{ key = \"a\", data = \"b\" }]\nkv_stores.main = [{ key = \"a\", data = \"b\" }]",
    )
    .start();
    let before = resident(&sidelight);
    let mut text = String::new();
    let grown = growth(&sidelight, || text = greedy(&sidelight, "/handles"));
    for line in text.lines() {
        let (kind, code) = line.rsplit_once(' ').expect("a code");
        let (kind, count) = kind.rsplit_once(' ').expect("a count");
        let count: u32 = count.parse().expect("a number");
        // Either there is an end, by its name, or the same handle is given each time.
        assert!((8000..=8192).contains(&count) && code == "13" || count == 20_000 && code == "0", "{kind}: {count}, {code}");
    }
    assert!(text.starts_with("requests 81"), "{text}");
    assert!(grown < 64 * MIB, "{} MiB more than {}", grown / MIB, before / MIB);
    others_are_served(&sidelight);
}

/// 160 MiB of records for an endpoint that nobody answers for, and 20 MiB of lines.
#[test]
fn floods_of_records_and_lines() {
    let nobody = origin::refused();
    let sidelight = beside("", &format!("sidelight.logs.main = {{ kind = \"http\", url = \"http://{nobody}/\" }}")).quiet().start();
    others_are_served(&sidelight);
    let grown = growth(&sidelight, || {
        assert_eq!(greedy(&sidelight, "/logs?n=10000"), "10000");
        assert_eq!(greedy(&sidelight, "/output?n=20000"), "20000");
        others_are_served(&sidelight);
    });
    assert!(grown < 96 * MIB, "{} MiB more", grown / MIB);
    sidelight.wait_until("dropped records", |sidelight| sidelight.metric("sidelight_log_records_total{result=\"dropped\"}") >= 5000.0);
}

/// 1 GiB of values for a store in memory, which has room for half of it.
#[test]
fn a_store_in_memory_that_is_full() {
    let sidelight = beside("[limits]\nmemory_mib = 256", "sidelight.kv_stores.main = { keep = \"memory\" }\nkv_stores.main = []").start();
    let mut text = String::new();
    let grown = growth(&sidelight, || text = greedy(&sidelight, "/kv?n=64&mib=16"));
    let (taken, refused) = text.split_once(' ').expect("two parts");
    let taken: u64 = taken.parse().expect("a number");
    assert!((28..=32).contains(&taken) && refused.contains("Some("), "{text}");
    assert!(grown < 700 * MIB, "{} MiB more", grown / MIB);
    others_are_served(&sidelight);
}

/// 400 MiB of objects for a cache of 16 MiB; and as many that are never finished.
#[test]
fn a_cache_that_is_full() {
    let sidelight = beside("cache = { memory_mib = 16, object_mib = 8 }", "").start();
    others_are_served(&sidelight);
    let grown = growth(&sidelight, || _ = greedy(&sidelight, "/cache?n=100&mib=4"));
    assert!(grown < 96 * MIB, "{} MiB more", grown / MIB);
    assert!(sidelight.metric("sidelight_cache_evictions_total") >= 90.0);
    let grown = growth(&sidelight, || _ = greedy(&sidelight, "/unfinished?n=100&mib=4"));
    assert!(grown < 192 * MIB, "{} MiB more", grown / MIB);
    others_are_served(&sidelight);
}

/// 1 GiB in bodies, in fields, in secrets: each stops at what a sandbox may have of the host's memory.
#[test]
fn what_a_sandbox_may_have_of_the_hosts_memory() {
    let sidelight = beside("", "").start();
    others_are_served(&sidelight);
    for path in ["/bodies?mib=1024", "/fields?mib=1024", "/secrets?mib=1024"] {
        let mut text = String::new();
        let grown = growth(&sidelight, || text = greedy(&sidelight, path));
        assert!(grown < 192 * MIB, "{path}: {} MiB more", grown / MIB);
        let numbers: Vec<u64> = text.split(' ').map(|number| number.parse().expect("a number")).collect();
        match *numbers.as_slice() {
            [mib] => assert!((120..=128).contains(&mib), "{path}: {text}"),
            // As much as a head may be from a backend, and LIMITEXCEEDED.
            [first, all, 13] => assert!(first == 4 && (2000..=2237).contains(&all), "{path}: {text}"),
            [made, 13] => assert!((2000..=2237).contains(&made), "{path}: {text}"),
            _ => panic!("{path}: {text}"),
        }
    }
    sidelight.wait_until("the refusals", |sidelight| {
        sidelight.metric("sidelight_guest_memory_refused_total{service=\"greedy\",reason=\"limit\"}") >= 3.0
    });
    others_are_served(&sidelight);
}

/// A program that makes a hostcall 8,000 times, each with as much as it takes, and then waits for a moment.
fn filling(import: &str, call: &str) -> String {
    format!(
        r#"(module
            (import "fastly_http_req" "new" (func $request (param i32) (result i32)))
            (import "fastly_http_body" "new" (func $body (param i32) (result i32)))
            (import "fastly_http_resp" "new" (func $response (param i32) (result i32)))
            (import "fastly_http_resp" "send_downstream" (func $send (param i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
            {import}
            (memory (export "memory") 4)
            (data (i32.const 1000) "http://a.test/")
            (func (export "_start") (local $i i32)
                (memory.fill (i32.const 1014) (i32.const 97) (i32.const 100000))
                (drop (call $body (i32.const 4)))
                (drop (call $response (i32.const 8)))
                (loop $again
                    ;; Another one each time.
                    (i32.store8 (i32.const 1020) (i32.add (i32.const 97) (i32.and (local.get $i) (i32.const 15))))
                    (i32.store8 (i32.const 1021) (i32.add (i32.const 97) (i32.and (i32.shr_u (local.get $i) (i32.const 4)) (i32.const 15))))
                    (i32.store8 (i32.const 1022) (i32.add (i32.const 97) (i32.and (i32.shr_u (local.get $i) (i32.const 8)) (i32.const 15))))
                    (i32.store8 (i32.const 1023) (i32.add (i32.const 97) (i32.shr_u (local.get $i) (i32.const 12))))
                    (drop (call $request (i32.const 0)))
                    {call}
                    (local.set $i (i32.add (local.get $i) (i32.const 1)))
                    (br_if $again (i32.lt_u (local.get $i) (i32.const 8000))))
                (i32.store (i32.const 200016) (i32.const 1))
                (i64.store (i32.const 200024) (i64.const 1000000000))
                (drop (call $poll (i32.const 200000) (i32.const 200200) (i32.const 1) (i32.const 200280)))
                (drop (call $send (i32.load (i32.const 8)) (i32.load (i32.const 4)) (i32.const 0)))))"#
    )
}

/// A core cache object, begun with these options.
fn begun(mask: u32, options: &[(u32, u32)]) -> String {
    let mut call = String::from("(i64.store (i32.const 150000) (i64.const 60000000000))");
    options.iter().for_each(|(at, value)| call.push_str(&format!("(i32.store (i32.const {}) (i32.const {value}))", 150_000 + at)));
    call.push_str(&format!("(drop (call $it (i32.const 1014) (i32.const 100) (i32.const {mask}) (i32.const 150000) (i32.const 12)))"));
    filling("(import \"fastly_cache\" \"insert\" (func $it (param i32 i32 i32 i32 i32) (result i32)))", &call)
}

/// Whatever a hostcall is given and keeps is counted, four requests of it at once.
#[test]
fn what_each_hostcall_keeps() {
    let request = "(import \"fastly_http_req\" \"uri_set\" (func $uri (param i32 i32 i32) (result i32)))";
    let programs = [
        ("vary", begun(1 << 2, &[(12, 1014), (16, 60_000)])),
        ("keys", begun(1 << 5, &[(40, 1014), (44, 60_000)])),
        ("metadata", begun(1 << 7, &[(56, 1014), (60, 60_000)])),
        (
            "override",
            filling(
                "(import \"fastly_http_req\" \"cache_override_v2_set\" (func $it (param i32 i32 i32 i32 i32 i32) (result i32)))",
                "(drop (call $it (i32.load (i32.const 0)) (i32.const 2) (i32.const 60) (i32.const 60) (i32.const 1014) (i32.const 60000)))",
            ),
        ),
        ("uri", filling(request, "(drop (call $uri (i32.load (i32.const 0)) (i32.const 1000) (i32.const 8000)))")),
        (
            "method",
            filling(
                "(import \"fastly_http_req\" \"method_set\" (func $it (param i32 i32 i32) (result i32)))",
                "(drop (call $it (i32.load (i32.const 0)) (i32.const 1014) (i32.const 8000)))",
            ),
        ),
        (
            "lookup",
            filling(
                &format!("{request}(import \"fastly_http_cache\" \"lookup\" (func $it (param i32 i32 i32 i32) (result i32)))"),
                "(drop (call $uri (i32.load (i32.const 0)) (i32.const 1000) (i32.const 8000)))
                 (drop (call $it (i32.load (i32.const 0)) (i32.const 0) (i32.const 190000) (i32.const 16)))",
            ),
        ),
    ];
    for (name, program) in programs {
        let sidelight = Setup::wat(&program).start();
        assert_eq!(sidelight.get("/").status, 200, "{name}");
        let ask = || {
            std::thread::scope(|scope| {
                let asked: Vec<_> = (0..4).map(|_| scope.spawn(|| sidelight.get("/").status)).collect();
                asked.into_iter().for_each(|one| assert_eq!(one.join().expect("an answer"), 200, "{name}"));
            });
        };
        let grown = growth(&sidelight, ask);
        println!("{name}: {} MiB more", grown / MIB);
        assert!(grown < 640 * MIB, "{name}: {} MiB more", grown / MIB);
    }
}

/// A value of 20 MiB from a store on disk, asked for a hundred times at once.
#[test]
fn values_that_are_not_taken() {
    let folder = tempfile::tempdir().expect("a folder");
    let value = folder.path().join("value");
    std::fs::write(&value, vec![0xa5_u8; 20 << 20]).expect("a file");
    let stores = format!("kv_stores.main = [{{ key = \"large\", file = \"{}\" }}]", value.display());
    let sidelight = beside(&format!("data_dir = \"{}\"", folder.path().join("data").display()), &stores).start();
    others_are_served(&sidelight);
    let grown = growth(&sidelight, || assert_eq!(greedy(&sidelight, "/values?n=100"), "6"));
    assert!(grown < 512 * MIB, "{} MiB more", grown / MIB);
    others_are_served(&sidelight);
}

/// Bodies of 16 MiB to somebody who does not read them: they count until they are sent.
#[test]
fn bodies_that_nobody_reads() {
    // Nobody takes the connections.
    let deaf = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = deaf.local_addr().expect("an address");
    let sidelight = beside("", &format!("backends.origin.url = \"http://{address}\"")).start();
    others_are_served(&sidelight);
    let mut sent = 0;
    let grown = growth(&sidelight, || sent = greedy(&sidelight, "/sent?n=100&mib=16").parse().expect("a number"));
    // The kernel takes some MiB of each.
    assert!((7..=14).contains(&sent), "{sent}");
    assert!(grown < 192 * MIB, "{} MiB more", grown / MIB);
    others_are_served(&sidelight);
}

/// Twenty guests that would have 100 MiB of the host's memory each, of a process that may have 400 MiB.
#[test]
fn bodies_that_would_be_more_than_the_process() {
    let sidelight = beside("[limits]\ntotal_memory_mib = 400", "").start();
    others_are_served(&sidelight);
    let mut got = Vec::new();
    let grown = growth(&sidelight, || {
        std::thread::scope(|scope| {
            // One that is refused what it needs itself is ended.
            let ask = || {
                let answer = sidelight.get_of("greedy.test", "/bodies?mib=100&ms=1000");
                assert!([200, 500, 503].contains(&answer.status), "{}", answer.text());
                if answer.status == 200 { answer.text().trim().parse().expect("a number") } else { 0 }
            };
            let greedy: Vec<_> = (0..20).map(|_| scope.spawn(ask)).collect();
            std::thread::sleep(Duration::from_millis(700));
            let ready = sidelight.operate("GET", "/readyz");
            assert!(ready.status == 200 && ready.text().contains("memory is"), "{}", ready.text());
            for _ in 0..10 {
                others_are_served(&sidelight);
                std::thread::sleep(Duration::from_millis(50));
            }
            got = greedy.into_iter().map(|one| one.join().expect("no panic")).collect::<Vec<u64>>();
        });
    });
    let sum: u64 = got.iter().sum();
    assert!((100..400).contains(&sum), "{got:?}");
    assert!(grown < 400 * MIB, "{} MiB more", grown / MIB);
    sidelight.wait_until("the refusals", |sidelight| {
        sidelight.metric("sidelight_guest_memory_refused_total{service=\"greedy\",reason=\"shortage\"}") >= 1.0
    });
    sidelight.wait_until("rest", |sidelight| sidelight.operate("GET", "/readyz").text() == "ok\n");
}

/// 200 responses without end, of which a guest reads a piece each.
#[test]
fn responses_that_are_not_read() {
    let origin = Origin::raw(|_| async {
        let (sender, body) = origin::streamed();
        tokio::spawn(async move {
            let piece = Bytes::from(vec![b'x'; 64 << 10]);
            while sender.send(Ok(piece.clone())).await.is_ok() {}
        });
        Response::new(body)
    });
    let sidelight =
        beside("", &format!("backends.origin.url = \"{}\"\nsidelight.backends.origin.connect_timeout_ms = 60000", origin.url())).start();
    others_are_served(&sidelight);
    let grown = growth(&sidelight, || assert_eq!(greedy(&sidelight, "/unread?n=200"), "200"));
    assert!(grown < 128 * MIB, "{} MiB more", grown / MIB);
    others_are_served(&sidelight);
    sidelight.wait_until("connections that are let go", |sidelight| {
        std::fs::read_dir(format!("/proc/{}/fd", sidelight.pid())).is_ok_and(|open| open.count() < 120)
    });
}
