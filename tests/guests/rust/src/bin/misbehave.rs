//! What a program should not do, chosen by path, so that the host's limits can be tested.
//!
//! Everything here uses a plain `main` and the explicit send calls: `#[fastly::main]` would answer
//! on the program's behalf.

use std::hint::black_box;
use std::io::Write;
use std::process;
use std::thread;
use std::time::Duration;

use fastly::log::Endpoint;
use fastly::{Request, Response};

const MIB: usize = 1024 * 1024;

fn main() {
    let req = Request::from_client();
    match req.get_path() {
        "/trap" => trap(),
        "/loop" => spin(),
        "/memory" => exhaust_memory(),
        "/exit" => process::exit(exit_code(&req)),
        "/silent" => {}
        "/late" => answer_then_work(),
        "/late-trap" => {
            answer("sent before the trap\n");
            trap();
        }
        _ => answer("fine\n"),
    }
}

fn answer(body: &str) {
    Response::from_body(body).send_to_client();
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
fn exhaust_memory() {
    let mut kept = Vec::new();
    loop {
        let mut block: Vec<u8> = Vec::new();
        if block.try_reserve_exact(MIB).is_err() || kept.try_reserve(1).is_err() {
            break;
        }
        block.resize(MIB, 0xa5);
        kept.push(black_box(block));
    }
    let mib = kept.len();
    // Without free memory not even the answer could be formatted.
    drop(kept);
    answer(&format!("refused after {mib} MiB\n"));
}

fn exit_code(req: &Request) -> i32 {
    req.get_query_parameter("code")
        .and_then(|code| code.parse().ok())
        .unwrap_or(0)
}

/// Keeps the instance alive after the client has its answer, first waiting, then logging.
fn answer_then_work() {
    answer("late\n");
    thread::sleep(Duration::from_millis(300));
    // A failed write has nowhere to be reported: the answer is gone.
    let _ = Endpoint::from_name("events").write_all(b"logged after the response");
}
