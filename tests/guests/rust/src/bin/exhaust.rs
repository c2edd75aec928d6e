//! Takes as much of what the host has as the host gives; tests/guests/README.md says how.

use std::io::{Read as _, Write as _};
use std::time::Duration;

use fastly::cache::core;
use fastly::http::request::PendingRequest;
use fastly::kv_store::KVStore;
use fastly::log::Endpoint;
use fastly::{Request, Response};
use fastly_shared::{BodyWriteEnd, FastlyStatus};

const MIB: usize = 1 << 20;

/// More than any host should give.
const MANY: usize = 20_000;

fn main() {
    let req = Request::from_client();
    let number = |name: &str| req.get_query_parameter(name).and_then(|n| n.parse::<usize>().ok()).unwrap_or(0);
    let (n, mib) = (number("n"), number("mib"));
    let text = match req.get_path() {
        "/memory" => memory(mib, Duration::from_millis(number("ms") as u64)),
        "/handles" => handles(),
        "/logs" => logs(n),
        "/output" => output(n),
        "/kv" => kv(n, mib),
        "/cache" => cache(n, mib, true),
        "/unfinished" => cache(n, mib, false),
        "/unread" => unread(n),
        "/bodies" => bodies(mib, Duration::from_millis(number("ms") as u64)),
        "/fields" => fields(mib),
        "/secrets" => secrets(mib),
        "/values" => values(n),
        "/sent" => sent(n, mib),
        _ => "ok".to_owned(),
    };
    Response::from_body(format!("{text}\n")).send_to_client();
}

/// Takes memory, writes to all of it and keeps it for a while: how much it got. Does not mind being refused.
fn memory(mib: usize, time: Duration) -> String {
    let mut kept: Vec<Vec<u8>> = Vec::new();
    while kept.len() < mib {
        let mut block = Vec::new();
        if block.try_reserve_exact(MIB).is_err() {
            break;
        }
        block.resize(MIB, 0xa5);
        kept.push(std::hint::black_box(block));
    }
    std::thread::sleep(time);
    kept.len().to_string()
}

/// A body of the host's memory, up to so many MiB: how many it has, and what the last write was told.
fn filled(mib: usize) -> (u32, usize, FastlyStatus) {
    let (mut body, mut written, mut bytes) = (0, 0, 0);
    let piece = vec![0xa5; 64 << 10];
    let mut last = unsafe { fastly_sys::fastly_http_body::new(&mut body) };
    while last == FastlyStatus::OK && bytes < mib * MIB {
        last = unsafe { fastly_sys::fastly_http_body::write(body, piece.as_ptr(), piece.len(), BodyWriteEnd::Back, &mut written) };
        bytes += if last == FastlyStatus::OK { written } else { 0 };
    }
    (body, bytes / MIB, last)
}

/// Puts as much into bodies of one MiB as it can, and keeps them for a while.
fn bodies(mib: usize, time: Duration) -> String {
    let made: Vec<_> = (0..mib).map(|_| filled(1)).take_while(|(_, _, last)| *last == FastlyStatus::OK).collect();
    std::thread::sleep(time);
    made.iter().for_each(|(body, _, _)| _ = unsafe { fastly_sys::fastly_http_body::close(*body) });
    made.len().to_string()
}

/// Puts fields of 60 KB into one request until that is too much, then into others, up to so many MiB: how many there were in the first, in all, and
/// what the last was told.
fn fields(mib: usize) -> String {
    let (name, value) = ("x-much", vec![b'x'; 60_000]);
    let fill = || {
        let mut request = 0;
        let mut last = unsafe { fastly_sys::fastly_http_req::new(&mut request) };
        let added = (0..mib * MIB / value.len()).take_while(|_| {
            last = unsafe { fastly_sys::fastly_http_req::header_append(request, name.as_ptr(), name.len(), value.as_ptr(), value.len()) };
            last == FastlyStatus::OK
        });
        (added.count(), last.code)
    };
    let (first, mut last) = fill();
    let mut all = first;
    while all * value.len() < mib * MIB {
        let (more, code) = fill();
        (all, last) = (all + more, code);
        if more < first {
            break;
        }
    }
    // Room for the answer.
    (1..10_000).for_each(|request| _ = unsafe { fastly_sys::fastly_http_req::close(request) });
    format!("{first} {all} {last}")
}

/// Makes secrets of 60 KB, up to so many MiB: how many, and what the last was told.
fn secrets(mib: usize) -> String {
    let (bytes, mut secret, mut last) = (vec![b'x'; 60_000], 0, FastlyStatus::OK);
    let made = (0..mib * 16).take_while(|_| {
        last = unsafe { fastly_sys::fastly_secret_store::from_bytes(bytes.as_ptr(), bytes.len(), &mut secret) };
        last == FastlyStatus::OK
    });
    format!("{} {}", made.count(), last.code)
}

/// Asks for a value as often, all at once: how often it came.
fn values(n: usize) -> String {
    let store = KVStore::open("main").expect("a store").expect("a store");
    let asked: Vec<_> = (0..n).filter_map(|_| store.build_lookup().execute_async("large").ok()).collect();
    std::thread::sleep(Duration::from_secs(1));
    let come: Vec<_> = asked.into_iter().filter_map(|one| store.pending_lookup_wait(one).ok()).collect();
    come.len().to_string()
}

/// Sends as many requests with bodies of that size to whoever does not read them: how many there are.
fn sent(n: usize, mib: usize) -> String {
    let (uri, backend) = ("http://origin/deaf", "origin");
    let all = (0..n).take_while(|_| {
        let (body, bytes, _) = filled(mib);
        let (mut request, mut pending) = (0, 0);
        if bytes < mib {
            _ = unsafe { fastly_sys::fastly_http_body::close(body) };
            return false;
        }
        unsafe {
            _ = fastly_sys::fastly_http_req::new(&mut request);
            _ = fastly_sys::fastly_http_req::method_set(request, "POST".as_ptr(), 4);
            _ = fastly_sys::fastly_http_req::uri_set(request, uri.as_ptr(), uri.len());
            fastly_sys::fastly_http_req::send_async(request, body, backend.as_ptr(), backend.len(), &mut pending) == FastlyStatus::OK
        }
    });
    all.count().to_string()
}

/// Of each kind, how many there can be and what comes then.
fn handles() -> String {
    let (name, mut handle) = ("main", 0);
    let mut found = Vec::new();
    let mut until_refused = |kind: &str, make: &mut dyn FnMut() -> FastlyStatus| {
        let mut last = FastlyStatus::OK;
        let count = (0..MANY).take_while(|_| {
            last = make();
            last == FastlyStatus::OK
        });
        found.push(format!("{kind} {} {}", count.count(), last.code));
    };
    unsafe {
        until_refused("requests", &mut || fastly_sys::fastly_http_req::new(&mut handle));
        until_refused("responses", &mut || fastly_sys::fastly_http_resp::new(&mut handle));
        until_refused("bodies", &mut || fastly_sys::fastly_http_body::new(&mut handle));
        until_refused("logs", &mut || fastly_sys::fastly_log::endpoint_get(name.as_ptr(), name.len(), &mut handle));
        until_refused("dictionaries", &mut || fastly_sys::fastly_dictionary::open(name.as_ptr(), name.len(), &mut handle));
        until_refused("kv stores", &mut || fastly_sys::fastly_kv_store::open(name.as_ptr(), name.len(), &mut handle));
        // Room for the answer.
        for raw in 0..MANY as u32 {
            _ = fastly_sys::fastly_http_body::close(raw);
            _ = fastly_sys::fastly_http_resp::close(raw);
        }
        until_refused("secret stores", &mut || fastly_sys::fastly_secret_store::open(name.as_ptr(), name.len(), &mut handle));
    }
    found.join("\n")
}

/// As many records of 16 KiB.
fn logs(n: usize) -> String {
    let mut endpoint = Endpoint::from_name("main");
    let record = "x".repeat(16 << 10);
    let taken = (0..n).filter(|_| endpoint.write_all(record.as_bytes()).and_then(|()| endpoint.flush()).is_ok()).count();
    taken.to_string()
}

/// As many lines of 1 KiB.
fn output(n: usize) -> String {
    let line = "y".repeat(1 << 10);
    (0..n).for_each(|_| println!("{line}"));
    n.to_string()
}

/// As many values of that size: how many were taken, and what the first other one was told.
fn kv(n: usize, mib: usize) -> String {
    let store = KVStore::open("main").expect("a store").expect("a store");
    let results: Vec<_> = (0..n).map(|i| store.insert(&format!("key{i}"), vec![0xa5; mib * MIB])).collect();
    let refused = results.iter().find_map(|result| result.as_ref().err());
    format!("{} {:?}", results.iter().filter(|result| result.is_ok()).count(), refused)
}

/// As many objects of that size; those that are not finished are held until all are there. How many were written whole.
fn cache(n: usize, mib: usize, finish: bool) -> String {
    let piece = vec![0xa5; MIB];
    let mut held = Vec::new();
    let mut written = 0;
    for i in 0..n {
        let Ok(mut body) = core::insert(format!("key{i}").into(), Duration::from_secs(600)).execute() else { break };
        let whole = (0..mib).all(|_| body.write_all(&piece).is_ok());
        written += usize::from(whole);
        if finish {
            _ = body.finish();
        } else {
            held.push(body);
        }
    }
    drop(held);
    written.to_string()
}

/// As many requests whose responses have no end, of which nothing more than a first piece is read: how many there are.
fn unread(n: usize) -> String {
    let sent: Vec<PendingRequest> = (0..n).filter_map(|_| Request::get("http://origin/endless").with_pass(true).send_async("origin").ok()).collect();
    let mut bodies: Vec<_> = sent.into_iter().filter_map(|one| one.wait().ok()).map(Response::into_body).collect();
    let read = bodies.iter_mut().filter_map(|body| body.read(&mut [0; 1024]).ok()).filter(|read| *read > 0).count();
    // What is on its way has time to come.
    std::thread::sleep(Duration::from_millis(500));
    read.to_string()
}
