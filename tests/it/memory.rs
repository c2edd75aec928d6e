//! Memory of the process: what passes through it does not stay in it, and what guests take comes
//! back.

use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::Response;

use crate::client::Connection;
use crate::harness::{PATIENCE, Setup, Sidelight, guest};
use crate::origin::{self, Origin};

const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;

/// A line of `/proc/PID/status`, in bytes.
pub fn status(pid: u32, name: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).expect("a line");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
}

/// Memory the process holds now, in bytes.
pub fn resident(sidelight: &Sidelight) -> u64 {
    status(sidelight.pid(), "VmRSS")
}

/// Growth of the highest memory use while `work` runs, in bytes.
pub fn growth(sidelight: &Sidelight, work: impl FnOnce()) -> u64 {
    let before = resident(sidelight);
    // 5: the high-water mark starts again.
    std::fs::write(format!("/proc/{}/clear_refs", sidelight.pid()), "5").expect("resets");
    work();
    status(sidelight.pid(), "VmHWM").saturating_sub(before)
}

/// A pass-through in front of an origin that takes anything and gives 1 GiB.
pub fn gibibyte() -> Sidelight {
    let origin = Origin::raw(|mut request| async move {
        if request.method() == "POST" {
            let mut taken = 0;
            while let Some(Ok(frame)) = request.body_mut().frame().await {
                taken += frame.data_ref().map_or(0, Bytes::len);
            }
            return Response::new(origin::text(format!("{taken}")));
        }
        let (sender, body) = origin::streamed();
        tokio::spawn(async move {
            let piece = Bytes::from(vec![b'x'; 256 << 10]);
            for _ in 0..GIB / piece.len() as u64 {
                if sender.send(Ok(piece.clone())).await.is_err() {
                    return;
                }
            }
        });
        Response::builder().header("content-length", GIB).body(body).expect("a response")
    });
    let sidelight = Setup::new(guest("rust", "passthrough")).backend("origin", origin.url()).start();
    // Warm: pools, buffers and connections are there.
    assert_eq!(sidelight.post("/", "x").text(), "1");
    sidelight
}

pub fn download(sidelight: &Sidelight) {
    let mut connection = Connection::open(sidelight.addr);
    connection.write(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert_eq!(connection.head().status, 200);
    assert!(connection.discard(GIB), "it ended early");
    assert!(connection.closed());
}

pub fn upload(sidelight: &Sidelight) {
    let mut connection = Connection::open(sidelight.addr);
    connection.write(format!("POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {GIB}\r\n\r\n").as_bytes());
    let piece = vec![b'x'; 256 << 10];
    for _ in 0..GIB / piece.len() as u64 {
        connection.write(&piece);
    }
    assert_eq!(connection.answer().text(), GIB.to_string());
}

#[test]
fn a_gibibyte_from_the_origin_does_not_stay() {
    let sidelight = gibibyte();
    let grown = growth(&sidelight, || download(&sidelight));
    assert!(grown < 32 * MIB, "grew by {} MiB", grown / MIB);
}

#[test]
fn a_gibibyte_to_the_origin_does_not_stay() {
    let sidelight = gibibyte();
    let grown = growth(&sidelight, || upload(&sidelight));
    assert!(grown < 32 * MIB, "grew by {} MiB", grown / MIB);
}

/// What abuse did.
pub struct Damage {
    pub before: u64,
    pub after: u64,
}

/// `requests` requests from 16 clients at once, of which every tenth traps, every tenth loops for
/// ever and every tenth takes all memory, under a CPU limit of 50 ms. All others must be answered
/// right, and every sandbox must come back.
pub fn abuse(requests: usize) -> Damage {
    const CLIENTS: usize = 16;
    const SANDBOXES: usize = 32;
    let setup = Setup::new(guest("rust", "misbehave")).arg(&format!("--cpu-limit 50ms --max-sandboxes {SANDBOXES} --queue-timeout 60s"));
    let sidelight = setup.start();
    // Every slot has been used by the greedy once: the level to come back to.
    let fill = |path: &'static str, count: usize| {
        std::thread::scope(|scope| {
            for _ in 0..CLIENTS {
                scope.spawn(|| (0..count).for_each(|_| assert!([200, 500].contains(&sidelight.get(path).status))));
            }
        });
        sidelight.wait_metric("sidelight_sandboxes", 0.0);
    };
    fill("/memory", 4);
    fill("/ok", 4);
    let before = resident(&sidelight);
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    if i >= requests {
                        return;
                    }
                    let (path, status) = match i % 10 {
                        1 => ("/trap", 500),
                        4 => ("/loop", 500),
                        7 => ("/memory", 500),
                        _ => ("/ok", 200),
                    };
                    let answer = sidelight.get(path);
                    assert_eq!(answer.status, status, "request {i}, {path}");
                    if status == 200 {
                        assert_eq!(answer.text(), "ok\n");
                    }
                }
            });
        }
    });
    sidelight.wait_metric("sidelight_sandboxes", 0.0);
    sidelight.wait_metric("sidelight_requests_in_flight", 0.0);
    // No slot is lost: as many as there are run at once.
    fill("/ok", 4);
    let tenth = (requests / 10) as f64;
    assert!((sidelight.metric("sidelight_guests_total{outcome=\"trapped\"}") - tenth).abs() < 0.5);
    assert!((sidelight.metric("sidelight_guests_total{outcome=\"host_failed\"}")).abs() < 0.5);
    let looped = sidelight.metric("sidelight_guests_total{outcome=\"cpu_limit\"}");
    assert!(looped >= tenth, "{looped} were stopped for their CPU time");
    let deadline = std::time::Instant::now() + PATIENCE;
    let mut after = resident(&sidelight);
    while after > before + 8 * MIB && std::time::Instant::now() < deadline {
        std::thread::sleep(std::time::Duration::from_millis(100));
        after = resident(&sidelight);
    }
    Damage { before, after }
}

#[test]
fn abuse_leaves_nothing_behind() {
    let damage = abuse(500);
    assert!(damage.after < damage.before + 32 * MIB, "{} MiB became {} MiB", damage.before / MIB, damage.after / MIB);
}
