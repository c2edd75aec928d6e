//! Figures that need the whole server: how late events of an origin arrive, memory for a GiB in
//! each direction, what 10,000 requests with abuse leave behind, system calls of a request.
//!
//! `cargo bench --bench figures [-- PART…]` with the parts `events`, `memory`, `abuse`, `syscalls`.

#![allow(clippy::expect_used, clippy::panic, clippy::disallowed_methods, missing_docs, reason = "not part of the product")]
#![allow(dead_code, unused_imports, reason = "the parts are shared with the tests")]

#[path = "../tests/it/client.rs"]
mod client;
#[path = "../tests/it/harness.rs"]
mod harness;
#[path = "../tests/it/memory.rs"]
mod memory;
#[path = "../tests/it/origin.rs"]
mod origin;

use std::process::Command;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::Response;

use client::Connection;
use harness::{Setup, guest};
use origin::Origin;

const MIB: u64 = 1 << 20;

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let parts: [(&str, fn()); 4] = [("events", events), ("memory", memory), ("abuse", abuse), ("syscalls", syscalls)];
    for (name, part) in parts {
        if wanted.is_empty() || wanted.iter().any(|w| w == name) {
            part();
        }
    }
}

/// Time from an origin's write of an event to the client's read of it.
fn events() {
    const EVENTS: usize = 200;
    let begun = Instant::now();
    let origin = Origin::raw(move |_| async move {
        let (sender, body) = origin::streamed();
        tokio::spawn(async move {
            for _ in 0..EVENTS {
                let at = begun.elapsed().as_nanos();
                if sender.send(Ok(Bytes::from(format!("data: {at:020}\n\n")))).await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        Response::builder().header("content-type", "text/event-stream").body(body).expect("a response")
    });
    let sidelight = Setup::new(guest("rust", "passthrough")).backend("origin", origin.url()).start();
    let mut connection = Connection::open(sidelight.addr);
    connection.write(b"GET /events HTTP/1.1\r\nHost: a\r\n\r\n");
    connection.head();
    let mut late = Vec::new();
    while let Some(chunk) = connection.chunk().filter(|chunk| !chunk.is_empty()) {
        let now = begun.elapsed().as_nanos();
        let text = String::from_utf8(chunk).expect("text");
        assert_eq!(text.matches("data: ").count(), 1, "events came together: {text}");
        let sent: u128 = text.trim_start_matches("data: ").trim().parse().expect("a time");
        late.push((now - sent) as f64 / 1e6);
    }
    assert_eq!(late.len(), EVENTS);
    late.sort_by(f64::total_cmp);
    println!(
        "events: {EVENTS} one by one; late by {:.2} ms (median), {:.2} ms (99 %), {:.2} ms (most)",
        late[EVENTS / 2],
        late[EVENTS * 99 / 100],
        late[EVENTS - 1]
    );
}

fn memory() {
    let sidelight = memory::gibibyte();
    let begun = Instant::now();
    let down = memory::growth(&sidelight, || memory::download(&sidelight));
    let down_time = begun.elapsed();
    let begun = Instant::now();
    let up = memory::growth(&sidelight, || memory::upload(&sidelight));
    let up_time = begun.elapsed();
    println!("memory: 1 GiB from the origin grew the process by {:.1} MiB ({:.2} s)", down as f64 / MIB as f64, down_time.as_secs_f64());
    println!("memory: 1 GiB to the origin grew the process by {:.1} MiB ({:.2} s)", up as f64 / MIB as f64, up_time.as_secs_f64());
}

fn abuse() {
    let begun = Instant::now();
    let damage = memory::abuse(10_000);
    println!(
        "abuse: 10,000 requests in {:.0} s, all others answered right, no sandbox lost; {:.1} MiB before, {:.1} MiB after",
        begun.elapsed().as_secs_f64(),
        damage.before as f64 / MIB as f64,
        damage.after as f64 / MIB as f64
    );
}

/// `strace -c` over 1,000 hello requests on one connection.
fn syscalls() {
    const REQUESTS: usize = 1000;
    let sidelight = Setup::new(guest("rust", "hello")).start_quiet();
    let mut connection = Connection::open(sidelight.addr);
    let mut get = |count: usize| {
        for _ in 0..count {
            connection.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            assert_eq!(connection.answer().status, 200);
        }
    };
    get(100);
    let report = std::env::temp_dir().join(format!("sidelight-strace-{}", std::process::id()));
    let mut strace = match Command::new("strace").args(["-f", "-c", "-o"]).arg(&report).args(["-p", &sidelight.pid().to_string()]).spawn() {
        Ok(strace) => strace,
        Err(error) => {
            println!("syscalls: strace cannot be started ({error})");
            return;
        }
    };
    std::thread::sleep(Duration::from_secs(1));
    get(REQUESTS);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(strace.id() as i32), nix::sys::signal::Signal::SIGINT).expect("signals");
    strace.wait().expect("ends");
    let text = std::fs::read_to_string(&report).expect("a report");
    drop(std::fs::remove_file(&report));
    println!("syscalls: of {REQUESTS} hello requests on one connection, per request");
    for line in text.lines().skip(2) {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let (Some(calls), Some(name)) = (columns.get(3).and_then(|calls| calls.parse::<f64>().ok()), columns.last()) else { continue };
        if calls >= REQUESTS as f64 / 100.0 || *name == "madvise" {
            println!("  {name}: {:.2}", calls / REQUESTS as f64);
        }
    }
}
