//! Figures that need the whole server: how late events of an origin arrive, memory for a GiB in
//! each direction, what 10,000 requests with abuse leave behind, system calls of a request, a minute of load
//! while everything is swapped, the first answer after a start, two hundred services.
//!
//! `cargo bench --bench figures [-- PART…]` with the parts `events`, `memory`, `abuse`, `syscalls`, `swap`, `start`,
//! `services`.

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
#[path = "../tests/it/reload.rs"]
mod reload;

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::Response;

use client::Connection;
use harness::{Setup, guest};
use origin::Origin;

const MIB: u64 = 1 << 20;

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let parts: [(&str, fn()); 7] = [
        ("events", events),
        ("memory", memory),
        ("abuse", abuse),
        ("syscalls", syscalls),
        ("swap", swap),
        ("start", start),
        ("services", services),
    ];
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
    let sidelight = Setup::new(guest("rust", "hello")).quiet().start();
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

/// wrk at full speed while program, manifest, backend and a store's file are swapped every second, and every fifth time
/// by something bad. `SWAP_SECONDS` says for how long.
fn swap() {
    let seconds: u64 = std::env::var("SWAP_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(60);
    let origin = Origin::fixed("x");
    let manifest = |i: u64| {
        let store = "[local_server.config_stores.settings]\nformat = \"json\"\nfile = \"settings.json\"\n";
        format!("name = \"it\"\n[local_server.backends.origin]\nurl = \"{}/{i}\"\n{store}", origin.url())
    };
    let sidelight = Setup::host("[services.it]\nmanifest = \"fastly.toml\"\nmodule = \"app.wat\"\n")
        .file("fastly.toml", &manifest(0))
        .file("settings.json", "{\"generation\": \"0\"}")
        .file("app.wat", &reload::saying("0"))
        .arg("--no-watch")
        .quiet()
        .start();
    let url = format!("http://{}/", sidelight.addr);
    let mut wrk = Command::new("wrk");
    wrk.args(["-t1", "-c16", &format!("-d{seconds}s"), &url]).stdout(Stdio::piped());
    let wrk = wrk.spawn().expect("wrk is needed (Debian: apt-get install wrk)");
    let (stop, acknowledged) = (AtomicBool::new(false), AtomicU64::new(0));
    let (checked, wrong, failed) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let resident = |pid: u32| memory::status(pid, "VmRSS") as f64 / MIB as f64;
    let mut times = Vec::new();
    let (mut early, mut swaps, mut refused) = (0.0, 0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut connection = Connection::open(sidelight.addr);
            while !stop.load(Ordering::SeqCst) {
                let least = acknowledged.load(Ordering::SeqCst);
                connection.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
                let answer = connection.answer();
                checked.fetch_add(1, Ordering::Relaxed);
                match answer.text().parse::<u64>() {
                    Ok(generation) if answer.status == 200 && generation >= least => {}
                    Ok(_) if answer.status == 200 => drop(wrong.fetch_add(1, Ordering::Relaxed)),
                    Ok(_) | Err(_) => drop(failed.fetch_add(1, Ordering::Relaxed)),
                }
                std::thread::sleep(Duration::from_micros(200));
            }
        });
        let begun = Instant::now();
        for i in 1.. {
            let next = Duration::from_secs(i);
            if next + Duration::from_millis(500) >= Duration::from_secs(seconds) {
                break;
            }
            std::thread::sleep(next.saturating_sub(begun.elapsed()));
            if i == seconds / 4 {
                early = resident(sidelight.pid());
            }
            let bad = i % 5 == 0;
            sidelight.write("settings.json", &format!("{{\"generation\": \"{i}\"}}"));
            sidelight.write("fastly.toml", &if bad { "[local_server.backends.origin]\nurll = 1\n".to_owned() } else { manifest(i) });
            sidelight.write("app.wat", &reload::saying(&i.to_string()));
            let asked = Instant::now();
            let verdict = sidelight.reload();
            times.push(asked.elapsed().as_secs_f64() * 1e3);
            if bad {
                assert_eq!(verdict["result"], "failed", "{verdict}");
                refused += 1;
            } else {
                assert_eq!(verdict["result"], "ok", "{verdict}");
                acknowledged.store(i, Ordering::SeqCst);
                swaps += 1;
            }
        }
        let output = wrk.wait_with_output().expect("ends");
        stop.store(true, Ordering::SeqCst);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let line = |start: &str| text.lines().find(|line| line.trim_start().starts_with(start)).map_or("none", str::trim).to_owned();
        let total = text.lines().find(|line| line.contains("requests in")).map_or("", str::trim).to_owned();
        println!("swap: {total}; {}; failed: {}, {}", line("Requests/sec"), line("Non-2xx"), line("Socket errors"));
    });
    times.sort_by(f64::total_cmp);
    println!(
        "swap: {swaps} swaps and {refused} refusals, {:.1} ms (median), {:.1} ms (most) each; {} answers checked, {} failed, {} of an older generation than acknowledged",
        times[times.len() / 2],
        times[times.len() - 1],
        checked.load(Ordering::Relaxed),
        failed.load(Ordering::Relaxed),
        wrong.load(Ordering::Relaxed)
    );
    std::thread::sleep(Duration::from_secs(1));
    println!("swap: resident {early:.1} MiB after a quarter, {:.1} MiB at the end", resident(sidelight.pid()));
}

/// From the process's start to its first answer: an 11 MB JavaScript program, compiled and from the cache.
fn start() {
    for (language, name) in [("js", "behaviours"), ("rust", "behaviours")] {
        let cache = tempfile::tempdir().expect("a folder");
        let program = guest(language, name);
        let size = std::fs::metadata(&program).expect("a guest").len();
        let first = |cache: &std::path::Path| {
            let address = origin::refused();
            let begun = Instant::now();
            let mut child = Command::new(harness::binary())
                .args(["serve", "--addr", &address.to_string(), "--cache-dir"])
                .arg(cache)
                .arg(&program)
                .stderr(Stdio::null())
                .spawn()
                .expect("starts");
            loop {
                if std::net::TcpStream::connect(address).is_ok() {
                    let answer = client::send(address, "GET /synthetic HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
                    assert_eq!(answer.status, 418);
                    break;
                }
                assert!(begun.elapsed() < Duration::from_secs(120), "it does not start");
                std::thread::sleep(Duration::from_millis(1));
            }
            let time = begun.elapsed();
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id() as i32), nix::sys::signal::Signal::SIGTERM).expect("signals");
            drop(child.wait());
            time.as_secs_f64() * 1e3
        };
        let cold = first(cache.path());
        let mut warm: Vec<f64> = (0..10).map(|_| first(cache.path())).collect();
        warm.sort_by(f64::total_cmp);
        println!(
            "start: {language}, {:.1} MB: first answer after {cold:.0} ms compiled, {:.0} ms from the cache (median of 10; {:.0} to {:.0})",
            size as f64 / 1e6,
            warm[5],
            warm[0],
            warm[9]
        );
    }
}

/// What 200 services of one program cost.
fn services() {
    let module = guest("rust", "behaviours");
    let table = |count: usize| -> String {
        (0..count).map(|i| format!("[services.s{i}]\nhosts = [\"s{i}.test\"]\nmodule = \"{}\"\n", module.display())).collect()
    };
    let start = |count: usize| {
        let begun = Instant::now();
        let sidelight = Setup::host(&table(count)).arg("--no-watch").quiet().start();
        (sidelight, begun.elapsed().as_secs_f64() * 1e3)
    };
    let (one, one_ms) = start(1);
    let (many, many_ms) = start(200);
    for i in 0..200 {
        assert_eq!(many.get_of(&format!("s{i}.test"), "/synthetic").status, 418);
    }
    for _ in 0..200 {
        assert_eq!(one.get_of("s0.test", "/synthetic").status, 418);
    }
    let (a, b) = (memory::resident(&one) as f64, memory::resident(&many) as f64);
    println!(
        "services: 1 in {one_ms:.0} ms with {:.1} MiB, 200 in {many_ms:.0} ms with {:.1} MiB: {:.0} KiB for each more",
        a / MIB as f64,
        b / MIB as f64,
        (b - a) / 199.0 / 1024.0
    );
    many.write("sidelight.toml", &table(200).replacen("[services.s7]", "[services.s7]\nlimits = { sandboxes = 3 }", 1));
    let begun = Instant::now();
    let verdict = many.reload();
    println!("services: a reload of one of 200 takes {:.0} ms; changed: {}", begun.elapsed().as_secs_f64() * 1e3, verdict["changed"]);
}
