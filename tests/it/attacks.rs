//! What hostile clients, origins and programs do: memory stays bounded, others are served, what is refused is counted.
//! docs/security.md has the whole table.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use nix::sys::signal::Signal;

use crate::client::Connection;
use crate::harness::{Setup, Sidelight, guest};
use crate::memory::{growth, resident};
use crate::origin::{self, Origin};

const MIB: u64 = 1 << 20;

// Types and flags of frames (RFC 9113 §6).
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// A client of HTTP/2 that sends what it likes.
struct Rude {
    stream: TcpStream,
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a length").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// `GET / http edge.test`, in HPACK (RFC 7541): three of the static table, and a literal `:authority`.
fn head() -> Vec<u8> {
    [&[0x82, 0x84, 0x86, 0x01, 9][..], b"edge.test"].concat()
}

impl Rude {
    fn open(sidelight: &Sidelight) -> Self {
        let mut stream = TcpStream::connect(sidelight.addr).expect("connects");
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").expect("writes");
        stream.write_all(&frame(SETTINGS, 0, 0, &[])).expect("writes");
        Self { stream }
    }

    /// Writes the same over and over, up to so many bytes in all, while it is taken and nothing else; true when the server has ended the
    /// connection. What the server says is not read meanwhile.
    fn flood(&mut self, piece: &[u8], most: usize) -> bool {
        self.stream.set_write_timeout(Some(Duration::from_secs(2))).expect("a timeout");
        let mut sent = 0;
        while sent < most {
            match self.stream.write(piece) {
                Ok(written) => sent += written,
                // Whoever takes no more is not flooded.
                Err(error) if [ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&error.kind()) => return false,
                Err(_) => return true,
            }
        }
        false
    }

    /// What the server has said until it closed, or until it has been silent for a while: types of frames with their payloads.
    fn said(&mut self) -> Vec<(u8, Vec<u8>)> {
        self.stream.set_read_timeout(Some(Duration::from_secs(1))).expect("a timeout");
        let mut bytes = Vec::new();
        let mut piece = [0; 16 << 10];
        while let Ok(n) = self.stream.read(&mut piece)
            && n > 0
        {
            bytes.extend_from_slice(&piece[..n]);
        }
        let mut rest = &bytes[..];
        let mut frames = Vec::new();
        while rest.len() >= 9 {
            let length = usize::from(rest[0]) << 16 | usize::from(rest[1]) << 8 | usize::from(rest[2]);
            let end = (9 + length).min(rest.len());
            frames.push((rest[3], rest[9..end].to_vec()));
            rest = &rest[end..];
        }
        frames
    }
}

fn error_code(payload: &[u8], at: usize) -> u32 {
    payload.get(at..at + 4).map_or(u32::MAX, |code| u32::from_be_bytes(code.try_into().expect("four")))
}

const ENHANCE_YOUR_CALM: u32 = 11;

/// Everything is as it was: whoever asks is served, and nothing of the attack is left.
fn is_well(sidelight: &Sidelight) {
    assert_eq!(sidelight.get("/synthetic").status, 418);
    sidelight.wait_metric("sidelight_requests_in_flight", 0.0);
    sidelight.wait_metric("sidelight_sandboxes", 0.0);
}

fn refused(sidelight: &Sidelight, reason: &str) -> f64 {
    sidelight.metric(&format!("sidelight_refusals_total{{reason=\"{reason}\"}}"))
}

#[test]
fn refusals_are_counted_and_named() {
    let sidelight = Setup::behaviours("rust")
        .arg("--max-uri 100 --max-head 4 --head-timeout 300ms --client-timeout 300ms --max-sandboxes 1 --queue-timeout 100ms")
        .start();
    let many = |n: usize, text: &str| text.repeat(n);
    for (reason, status, request) in [
        ("bad_request", 400, "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".to_owned()),
        ("uri_too_long", 414, format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", many(200, "x"))),
        ("head_too_large", 431, format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", many(300, "X-Filler: filler\r\n"))),
        ("head_timeout", 408, "GET / HTTP/1.1\r\nHo".to_owned()),
        ("method_not_allowed", 405, "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n".to_owned()),
    ] {
        let answer = crate::client::send(sidelight.addr, &request);
        assert_eq!(answer.status, status, "{reason}");
        assert!((refused(&sidelight, reason) - 1.0).abs() < 0.5, "{reason}");
    }
    let mut slow = Connection::open(sidelight.addr);
    slow.write(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nonly this");
    sidelight.wait_metric("sidelight_sandboxes", 1.0);
    assert_eq!(sidelight.get("/synthetic").status, 503);
    assert!((refused(&sidelight, "overloaded") - 1.0).abs() < 0.5);
    sidelight.wait_metric("sidelight_sandboxes", 0.0);
    assert!((refused(&sidelight, "body_timeout") - 1.0).abs() < 0.5);
}

#[test]
fn rapid_reset() {
    let sidelight = Setup::behaviours("rust").start();
    is_well(&sidelight);
    let grown = growth(&sidelight, || {
        let mut client = Rude::open(&sidelight);
        let mut ended = false;
        for id in (1_u32..40_000).step_by(2) {
            let pair = [frame(HEADERS, END_HEADERS | END_STREAM, id, &head()), frame(RST_STREAM, 0, id, &8_u32.to_be_bytes())].concat();
            if client.stream.write_all(&pair).is_err() {
                ended = true;
                break;
            }
        }
        let said = client.said();
        let calm = said.iter().any(|(kind, payload)| match *kind {
            GOAWAY => error_code(payload, 4) == ENHANCE_YOUR_CALM,
            RST_STREAM => error_code(payload, 0) == ENHANCE_YOUR_CALM,
            _ => false,
        });
        assert!(ended || calm, "it was let be: {:?}", said.iter().map(|(kind, _)| kind).collect::<Vec<_>>());
        is_well(&sidelight);
    });
    assert!(grown < 128 * MIB, "{grown}");
    assert!(refused(&sidelight, "h2_streams") + refused(&sidelight, "h2") > 0.5);
}

#[test]
fn floods_of_frames() {
    let sidelight = Setup::behaviours("rust").start();
    is_well(&sidelight);
    // A field of 16,000 bytes that is a literal without a name in the table.
    let filler: Vec<u8> = [&[0x00, 0x01, b'a', 0x7f, 0x81, 0x7c][..], &[b'x'; 16_000]].concat();
    for (what, begin, piece, must_end) in [
        ("continuation", frame(HEADERS, END_STREAM, 1, &head()), frame(CONTINUATION, 0, 1, &filler), true),
        ("empty continuation", frame(HEADERS, END_STREAM, 1, &head()), frame(CONTINUATION, 0, 1, &[]), true),
        ("ping", Vec::new(), frame(PING, 0, 0, &[7; 8]), false),
        ("settings", Vec::new(), frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0xff, 0xff]), false),
    ] {
        let grown = growth(&sidelight, || {
            let before = refused(&sidelight, "h2");
            let mut client = Rude::open(&sidelight);
            client.stream.write_all(&begin).expect("writes");
            let ended = client.flood(&piece.repeat((64 << 10) / piece.len()), 256 << 20);
            if must_end {
                assert!(ended, "{what}: it was all taken");
                sidelight.wait_until("is counted", |sidelight| refused(sidelight, "h2") > before + 0.5);
            }
            is_well(&sidelight);
        });
        assert!(grown < 32 * MIB, "{what}: {grown}");
    }
}

/// Twenty connections, on each of which fifty responses without end are asked for and none is read: of each stream as much is held as
/// the client said it would take, and all are let go when it goes on to take nothing.
#[test]
fn readers_of_http2_that_stop() {
    let origin = Origin::raw(|_| async {
        let (sender, body) = origin::streamed();
        tokio::spawn(async move {
            let piece = bytes::Bytes::from(vec![b'x'; 64 << 10]);
            while sender.send(Ok(piece.clone())).await.is_ok() {}
        });
        http::Response::new(body)
    });
    let sidelight = Setup::new(guest("rust", "passthrough"))
        .backend("origin", origin.url())
        .arg("--client-timeout 3s --max-sandboxes 5000 --queue-timeout 20s --cpu-limit 30s")
        .start();
    let grown = growth(&sidelight, || {
        let mut clients: Vec<Rude> = (0..20).map(|_| Rude::open(&sidelight)).collect();
        for client in &mut clients {
            for id in (1..100).step_by(2) {
                client.stream.write_all(&frame(HEADERS, END_HEADERS | END_STREAM, id, &head())).expect("writes");
            }
        }
        sidelight.wait_until("all asked", |sidelight| sidelight.metric("sidelight_requests_in_flight") > 900.0);
        sidelight.wait_until("all let go", |sidelight| sidelight.metric("sidelight_requests_in_flight") < 0.5);
        drop(clients);
    });
    assert!(grown < 512 * MIB, "{} MiB more", grown / MIB);
    assert!(refused(&sidelight, "reader_timeout") > 900.0);
    sidelight.wait_metric("sidelight_sandboxes", 0.0);
}

/// A field of 4 kB in the table, named again and again by one byte: 4,000 times what was sent.
#[test]
fn a_header_bomb() {
    let sidelight = Setup::behaviours("rust").start();
    is_well(&sidelight);
    let grown = growth(&sidelight, || {
        let mut client = Rude::open(&sidelight);
        // A literal with indexing, name `a`, a value of 4,000 bytes: 127 and 3,873 in seven bits each.
        let mut block = head();
        block.extend_from_slice(&[0x40, 0x01, b'a', 0x7f, 0xa1, 0x1e]);
        block.extend_from_slice(&[b'x'; 4000]);
        block.extend_from_slice(&[0xbe; 12_000]);
        for id in (1..200).step_by(2) {
            if client.stream.write_all(&frame(HEADERS, END_HEADERS | END_STREAM, id, &block)).is_err() {
                break;
            }
        }
        let said = client.said();
        // 431, or the end of the stream or of the connection: no guest has seen it.
        assert!(said.iter().any(|(kind, _)| [HEADERS, RST_STREAM, GOAWAY].contains(kind)), "{said:?}");
        is_well(&sidelight);
    });
    assert!(grown < 64 * MIB, "{grown}");
    assert!(sidelight.metric("sidelight_guests_total{service=\"it\",outcome=\"finished\"}") < 3.5);
}

#[test]
fn two_thousand_idle_connections() {
    let sidelight = Setup::behaviours("rust").arg("--idle-timeout 10s --head-timeout 60s").start();
    is_well(&sidelight);
    let before = resident(&sidelight);
    let mut idle: Vec<Connection> = (0..1000)
        .map(|_| {
            let mut connection = Connection::open(sidelight.addr);
            connection.write(b"GET /synthetic HTTP/1.1\r\nHost: a\r\n\r\n");
            assert_eq!(connection.answer().status, 418);
            connection
        })
        .collect();
    // And as many that have begun a request and do not go on.
    let begun: Vec<Connection> = (0..1000)
        .map(|_| {
            let mut connection = Connection::open(sidelight.addr);
            connection.write(b"GET /synthetic HTTP/1.1\r\nHo");
            connection
        })
        .collect();
    sidelight.wait_until("are here", |sidelight| sidelight.metric("sidelight_connections") > 1990.0);
    let grown = resident(&sidelight).saturating_sub(before);
    assert!(grown < 2000 * 24 * 1024, "{grown}");
    is_well(&sidelight);
    assert!(idle.iter_mut().all(Connection::closed));
    drop(begun);
    sidelight.wait_until("are gone", |sidelight| sidelight.metric("sidelight_connections") < 1.5);
}

#[test]
fn a_body_in_pieces_of_one_byte() {
    let sidelight = Setup::behaviours("rust").start();
    is_well(&sidelight);
    let grown = growth(&sidelight, || {
        let mut connection = Connection::open(sidelight.addr);
        connection.write(b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
        for _ in 0..100 {
            connection.write(&b"1\r\nx\r\n".repeat(2000));
        }
        connection.write(b"0\r\n\r\n");
        let answer = connection.answer();
        assert!(answer.status == 200 && answer.text().contains(&"x".repeat(200_000)), "{}", answer.status);
    });
    assert!(grown < 64 * MIB, "{grown}");
    is_well(&sidelight);
}

/// 1 GiB of nothing, in 1 MiB: read piece by piece by a program that asks for it to be decoded, and by a client that reads some of it.
#[test]
fn a_decompression_bomb() {
    let bomb = {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        let piece = vec![0; 1 << 20];
        for _ in 0..1024 {
            encoder.write_all(&piece).expect("compresses");
        }
        bytes::Bytes::from(encoder.finish().expect("compresses"))
    };
    let origin = Origin::raw(move |_| {
        let bomb = bomb.clone();
        async move {
            let length = bomb.len();
            let response = http::Response::builder().header("content-encoding", "gzip").header("content-length", length);
            response.body(origin::text(bomb)).expect("a response")
        }
    });
    let sidelight = Setup::new(guest("rust", "messages")).backend("origin", origin.url()).arg("--client-timeout 1s").start();
    let grown = growth(&sidelight, || {
        let mut connection = Connection::open(sidelight.addr);
        connection.write(b"GET /gunzip?gzip HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(connection.head().status, 200);
        assert!(connection.discard(16 << 20), "it ended early");
        // It reads no more, and is let go.
        sidelight.wait_metric("sidelight_sandboxes", 0.0);
        sidelight.wait_metric("sidelight_requests_in_flight", 0.0);
    });
    assert!(grown < 96 * MIB, "{grown}");
}

/// An origin that says without end that it will answer.
#[test]
fn interim_responses_without_end() {
    let origin = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = origin.local_addr().expect("an address");
    std::thread::spawn(move || {
        for stream in origin.incoming() {
            let mut stream = stream.expect("a connection");
            while stream.write_all(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n").is_ok() {}
        }
    });
    let sidelight = Setup::new(guest("rust", "passthrough")).backend("origin", format_args!("http://{address}")).start();
    assert!(sidelight.get("/").status >= 500);
    sidelight.log.wait_for(&["a request to a backend failed", "interim responses without end"]);
}

/// The same over HTTP/2, where what comes after the request is over is nobody's: the connection ends, also while others use it.
#[test]
fn interim_responses_without_end_over_http2() {
    let origin = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = origin.local_addr().expect("an address");
    let (ended, ends) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for stream in origin.incoming() {
            let mut stream = stream.expect("a connection");
            let ended = ended.clone();
            std::thread::spawn(move || {
                let mut reads = stream.try_clone().expect("the other half");
                std::thread::spawn(move || std::io::copy(&mut reads, &mut std::io::sink()));
                stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).expect("SETTINGS");
                // Whoever asks is there when the first of them come.
                std::thread::sleep(Duration::from_millis(300));
                // HEADERS of stream 1, `:status: 103` (RFC 7541 §6.2.2).
                let frames = [0, 0, 5, 1, 4, 0, 0, 0, 1, 8, 3, b'1', b'0', b'3'].repeat(1000);
                let mut sent = 0;
                while stream.write_all(&frames).is_ok() {
                    sent += frames.len();
                }
                let _ = ended.send(sent);
            });
        }
    });
    let manifest = format!("[local_server.backends.origin]\nurl = \"http://{address}\"\ngrpc = true\n");
    let sidelight = Setup::new(guest("rust", "passthrough")).manifest(&manifest).start();
    assert!(sidelight.get("/").status >= 500);
    sidelight.log.wait_for(&["a request to a backend failed", "interim responses without end"]);
    let sent = ends.recv_timeout(Duration::from_secs(60)).expect("its connection ends");
    assert!(sent > 100_000, "{sent}");
    sidelight.log.wait_for(&["sends what is of no use to anybody"]);
}

/// Without a file descriptor to spare: connections that are there are served, and new ones as soon as there is room.
#[test]
fn no_file_descriptors() {
    let origin = Origin::fixed("here");
    let sidelight = Setup::behaviours("rust").backend("origin", origin.url()).start();
    let mut early = Connection::open(sidelight.addr);
    let synthetic = b"GET /synthetic HTTP/1.1\r\nHost: a\r\n\r\n";
    early.write(synthetic);
    assert_eq!(early.answer().status, 418);
    let pid = rustix::process::Pid::from_raw(i32::try_from(sidelight.pid()).expect("a pid")).expect("a pid");
    let in_use = std::fs::read_dir(format!("/proc/{}/fd", sidelight.pid())).expect("its files").count() as u64;
    let hard = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    let limit = |most| rustix::process::Rlimit { current: Some(most), maximum: hard };
    let before = rustix::process::prlimit(Some(pid), rustix::process::Resource::Nofile, limit(in_use + 20)).expect("a limit");
    let held: Vec<TcpStream> = (0..60).map(|_| TcpStream::connect(sidelight.addr).expect("the kernel takes it")).collect();
    sidelight.log.wait_for(&["a connection could not be accepted", "Too many open files"]);
    early.write(synthetic);
    assert_eq!(early.answer().status, 418);
    // A backend cannot be reached without one: the program is told so.
    early.write(b"GET /pass/x HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!([200, 500, 502, 503].contains(&early.answer().status));
    drop(held);
    assert_eq!(sidelight.get("/pass/x").text(), "here");
    assert!(sidelight.log.text().matches("a connection could not be accepted").count() < 10);
    rustix::process::prlimit(Some(pid), rustix::process::Resource::Nofile, before).expect("a limit");
}

/// Stopped and woken: what was under way goes on.
#[test]
fn stopped_and_continued() {
    let sidelight = Setup::behaviours("rust").start();
    let mut connection = Connection::open(sidelight.addr);
    connection.write(b"GET /stream?n=20&ms=50 HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(connection.head().status, 200);
    let mut meanwhile = Connection::open(sidelight.addr);
    sidelight.signal(Signal::SIGSTOP);
    meanwhile.write(b"GET /synthetic HTTP/1.1\r\nHost: a\r\n\r\n");
    std::thread::sleep(Duration::from_secs(2));
    sidelight.signal(Signal::SIGCONT);
    assert_eq!(meanwhile.answer().status, 418);
    let mut text = Vec::new();
    while let Some(chunk) = connection.chunk()
        && !chunk.is_empty()
    {
        text.extend_from_slice(&chunk);
    }
    assert!(text.ends_with(b"piece 19\n"), "the stream did not go on");
    is_well(&sidelight);
}

/// A program that sends one informational head after another to a client that takes none of them, or reads all.
#[test]
fn early_heads_without_end() {
    // Until one is refused, or a thousand; then an answer with their number for a status.
    let program = |size: u32| {
        format!(
            r#"(module
            (import "fastly_http_resp" "new" (func $new (param i32) (result i32)))
            (import "fastly_http_resp" "status_set" (func $status (param i32 i32) (result i32)))
            (import "fastly_http_resp" "header_insert" (func $field (param i32 i32 i32 i32 i32) (result i32)))
            (import "fastly_http_resp" "send_downstream" (func $send (param i32 i32 i32) (result i32)))
            (import "fastly_http_body" "new" (func $body (param i32) (result i32)))
            (memory (export "memory") 2)
            (data (i32.const 100) "link")
            (func $sent (param $code i32) (result i32)
                (drop (call $new (i32.const 8)))
                (drop (call $body (i32.const 12)))
                (drop (call $status (i32.load (i32.const 8)) (local.get $code)))
                (drop (call $field (i32.load (i32.const 8)) (i32.const 100) (i32.const 4) (i32.const 1000) (i32.const {size})))
                (call $send (i32.load (i32.const 8)) (i32.load (i32.const 12)) (i32.const 0)))
            (func (export "_start") (local $count i32)
                (memory.fill (i32.const 1000) (i32.const 97) (i32.const {size}))
                (block $refused (loop $next
                    (br_if $refused (call $sent (i32.const 103)))
                    (local.set $count (i32.add (local.get $count) (i32.const 1)))
                    (br_if $next (i32.lt_u (local.get $count) (i32.const 1000)))))
                (drop (call $sent (i32.add (i32.const 200) (local.get $count))))))"#
        )
    };
    for (size, most) in [(10, 64), (60_000, 4)] {
        let sidelight = Setup::wat(&program(size)).arg("--client-timeout 500ms").start();
        let mut connection = Connection::open(sidelight.addr);
        connection.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        for _ in 0..most {
            assert_eq!(connection.head().status, 103);
        }
        assert_eq!(connection.answer().status, 200 + most);
        // Clients that read nothing, of HTTP/1.1 and of HTTP/2.
        let grown = growth(&sidelight, || {
            let mut open = Vec::new();
            for _ in 0..40 {
                let mut connection = Connection::open(sidelight.addr);
                connection.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
                open.push(connection);
            }
            let mut client = Rude::open(&sidelight);
            for id in (1_u32..80).step_by(2) {
                client.stream.write_all(&frame(HEADERS, END_HEADERS | END_STREAM, id, &head())).expect("writes");
            }
            sidelight.wait_until("all of them", |sidelight| sidelight.metric("sidelight_requests_total") >= 81.0);
            sidelight.wait_until("no sandbox", |sidelight| sidelight.metric("sidelight_sandboxes") < 0.5);
        });
        assert!(grown < 80 * MIB, "{grown}");
    }
}

/// CPU time of threads, by name.
fn cpu_by_thread(sidelight: &Sidelight) -> std::collections::HashMap<String, u64> {
    let mut all = std::collections::HashMap::new();
    let tasks = std::fs::read_dir(format!("/proc/{}/task", sidelight.pid())).expect("threads");
    for task in tasks.flatten() {
        let read = |file: &str| std::fs::read_to_string(task.path().join(file)).unwrap_or_default();
        let stat = read("stat");
        let fields: Vec<u64> = stat.rsplit(')').next().expect("fields").split_whitespace().filter_map(|field| field.parse().ok()).collect();
        // utime and stime, the 14th and 15th of all; state is no number.
        *all.entry(read("comm").trim().to_owned()).or_insert(0) += fields.get(10..12).map_or(0, |both| both.iter().sum());
    }
    all
}

/// One instruction that takes long: nothing makes way within it, so those who have it begin where they are in nobody's way.
#[test]
fn instructions_that_take_long() {
    let program = r#"(module (memory (export "memory") 1600)
        (func (export "_start") (memory.fill (i32.const 0) (i32.const 1) (i32.const 104857600))))"#;
    let sidelight = Setup::wat(program).start();
    for _ in 0..40 {
        assert_eq!(sidelight.get("/").status, 500);
    }
    let cpu = cpu_by_thread(&sidelight);
    let heavy = *cpu.get("heavy guests").expect("their threads");
    let all: u64 = cpu.values().sum();
    assert!(heavy > 2 * (all - heavy), "{cpu:?}");
    // Each, wherever it was.
    sidelight.wait_metric("sidelight_guests_heavy_total", 40.0);
}

/// A hostcall whose cost a program chooses has a bound: what each of these waits for is the host's memory.
#[test]
fn what_a_program_waits_for_at_once() {
    let program = |count: u32| {
        format!(
            r#"(module
            (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
            (import "fastly_http_body" "new" (func $body (param i32) (result i32)))
            (import "fastly_http_resp" "new" (func $new (param i32) (result i32)))
            (import "fastly_http_resp" "status_set" (func $status (param i32 i32) (result i32)))
            (import "fastly_http_resp" "send_downstream" (func $send (param i32 i32 i32) (result i32)))
            (memory (export "memory") 10)
            (func (export "_start") (local $index i32) (local $errno i32)
                (loop $next
                    ;; The clock that is monotonic, after a millisecond.
                    (i32.store (i32.add (i32.const 1016) (i32.mul (local.get $index) (i32.const 48))) (i32.const 1))
                    (i64.store (i32.add (i32.const 1024) (i32.mul (local.get $index) (i32.const 48))) (i64.const 1000000))
                    (local.set $index (i32.add (local.get $index) (i32.const 1)))
                    (br_if $next (i32.lt_u (local.get $index) (i32.const {count}))))
                (local.set $errno (call $poll (i32.const 1000) (i32.const 200000) (i32.const {count}) (i32.const 400000)))
                (drop (call $new (i32.const 8)))
                (drop (call $body (i32.const 12)))
                (drop (call $status (i32.load (i32.const 8)) (i32.add (i32.const 200) (local.get $errno))))
                (drop (call $send (i32.load (i32.const 8)) (i32.load (i32.const 12)) (i32.const 0)))))"#
        )
    };
    for (count, errno) in [(1, 0), (1024, 0), (1025, 28)] {
        assert_eq!(Setup::wat(&program(count)).start().get("/").status, 200 + errno, "{count}");
    }
}
