//! What a program should not do, chosen by path, so that the host's limits can be tested.
//!
//! Everything here uses a plain `main` and the explicit send calls: `#[fastly::main]` would answer
//! on the program's behalf.

use std::hint::black_box;
use std::io::{self, Write};
use std::process;
use std::thread;
use std::time::{Duration, Instant};

use fastly::http::body::StreamingBody;
use fastly::http::header::CONTENT_TYPE;
use fastly::{Request, Response, compute_runtime};

const MIB: usize = 1024 * 1024;

fn main() -> io::Result<()> {
    let req = Request::from_client();
    match req.get_path() {
        "/trap" => trap(),
        "/loop" => spin(),
        "/memory" => exhaust_memory(),
        "/exit" => process::exit(exit_code(&req)),
        "/silent" => Ok(()),
        "/late" => late(),
        "/heavy" => heavy(req),
        "/many" => many(&req),
        "/meter" => {
            meter();
            Ok(())
        }
        "/late-trap" => {
            let _body = first_piece()?;
            trap()
        }
        path => {
            if path == "/fill" {
                black_box(vec![1_u8; 100 * MIB]);
            }
            plain().with_body("ok\n").send_to_client();
            Ok(())
        }
    }
}

/// CPU time and memory as the program is told them, before and after using some.
fn meter() {
    let told = || (compute_runtime::elapsed_vcpu_ms().unwrap_or(u64::MAX), compute_runtime::heap_memory_snapshot_mib().unwrap_or(u32::MAX));
    let before = told();
    let kept = black_box(vec![1_u8; 20 * MIB]);
    let begun = Instant::now();
    while told().0 < before.0 + 20 && begun.elapsed() < Duration::from_secs(20) {
        (0..100_000_u64).for_each(|i| _ = black_box(i));
    }
    let after = told();
    let grown = after.1 - before.1;
    plain().with_body(format!("{} {} {}\n", after.0 >= before.0 + 20, (20..40).contains(&grown), kept.len())).send_to_client();
}

/// As many requests to the backend as asked for, one after another; how many went well, and what came instead.
fn many(req: &Request) -> io::Result<()> {
    let count: usize = req.get_query_parameter("n").and_then(|n| n.parse().ok()).unwrap_or(0);
    let url = if req.get_query_parameter("large").is_some() { "http://a.test/large" } else { "http://a.test/" };
    let sent: Vec<_> = (0..count).map(|_| Request::get(url).with_pass(true).send("origin")).collect();
    let well = sent.iter().filter(|sent| sent.is_ok()).count();
    let other = sent.iter().find_map(|sent| sent.as_ref().err()).map(|error| format!("{:?}", error.root_cause()));
    plain().with_body(format!("{well} {other:?}\n")).send_to_client();
    Ok(())
}

fn plain() -> Response {
    Response::new().with_header(CONTENT_TYPE, "text/plain")
}

/// Executes the WebAssembly `unreachable` instruction.
fn trap() -> ! {
    core::arch::wasm32::unreachable()
}

/// Burns CPU for ever. The black box keeps the compiler from seeing that the sum is not used.
fn spin() -> ! {
    let mut sum = 0_u64;
    loop {
        sum = black_box(sum.wrapping_add(1));
    }
}

/// Takes one MiB after another, writes to all of it, and keeps it, until the host refuses more.
fn exhaust_memory() -> ! {
    let mut kept = Vec::new();
    loop {
        let mut block: Vec<u8> = Vec::new();
        if block.try_reserve_exact(MIB).is_err() || kept.try_reserve(1).is_err() {
            process::abort();
        }
        block.resize(MIB, 0xa5);
        kept.push(black_box(block));
    }
}

/// Computes for so long that the host notices, between using everything a program uses: the client's
/// body, a backend, a streamed response.
fn heavy(mut req: Request) -> io::Result<()> {
    let mut incoming = req.take_body();
    compute();
    let mut text = incoming.read_chunks(1024).collect::<io::Result<Vec<_>>>()?.concat();
    compute();
    let sent = Request::post("http://origin/heavy").with_body(text.clone()).with_pass(true).send("origin");
    text = sent.map_err(io::Error::other)?.into_body_bytes();
    let mut body = plain().stream_to_client();
    for byte in text {
        compute();
        body.write_all(&[byte])?;
        body.flush()?;
    }
    body.finish()
}

/// Computes for 30 ms.
fn compute() {
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(30) {
        (0..100_000_u64).for_each(|i| _ = black_box(i));
    }
}

fn exit_code(req: &Request) -> i32 {
    req.get_query_parameter("code")
        .and_then(|code| code.parse().ok())
        .unwrap_or(0)
}

/// Starts a response and makes sure that its first piece has left the guest.
fn first_piece() -> io::Result<StreamingBody> {
    let mut body = plain().stream_to_client();
    body.write_all(b"first piece\n")?;
    body.flush()?;
    Ok(body)
}

/// Keeps the client waiting for the end of the response, then ends it as one should.
fn late() -> io::Result<()> {
    let body = first_piece()?;
    thread::sleep(Duration::from_millis(200));
    body.finish()
}
