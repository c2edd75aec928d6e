//! Many requests in one sandbox; tests/guests/README.md says what each path does.

use std::cell::{Cell, RefCell};
use std::hint::black_box;
use std::time::Duration;

use fastly::http::serve::Serve;
use fastly::http::StatusCode;
use fastly::{Request, Response, compute_runtime};

thread_local! {
    static SERVED: Cell<u32> = const { Cell::new(0) };
    static KEPT: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

fn main() {
    let summary = Serve::new().with_max_requests(0).with_timeout(Duration::from_secs(60)).run(answer);
    println!("served {} requests", summary.requests());
}

fn answer(req: Request) -> Response {
    let served = SERVED.get() + 1;
    SERVED.set(served);
    match req.get_path() {
        "/trap" => core::arch::wasm32::unreachable(),
        "/keep" => {
            let mib: usize = number(&req);
            KEPT.with_borrow_mut(|kept| kept.resize(mib << 20, 1));
        }
        "/burn" => {
            // By its own CPU time: others on the machine do not make it less.
            let used = || compute_runtime::elapsed_vcpu_ms().unwrap_or(u64::MAX);
            let end = used() + number(&req) as u64;
            while used() < end {
                (0..100_000_u64).for_each(|i| _ = black_box(i));
            }
        }
        "/wait" => std::thread::sleep(Duration::from_millis(number(&req) as u64)),
        _ => {}
    }
    println!("request {served}");
    let id = req.get_client_request_id().unwrap_or_default().to_owned();
    let trace = std::env::var("FASTLY_TRACE_ID").unwrap_or_default();
    Response::from_status(StatusCode::OK)
        .with_header("x-id", id)
        .with_header("x-trace", trace)
        .with_body_text_plain(&format!("{served}\n"))
}

fn number(req: &Request) -> usize {
    req.get_query_parameter("n").and_then(|n| n.parse().ok()).unwrap_or(0)
}
