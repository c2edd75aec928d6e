//! Leaves a mark wherever a program can leave one, and looks for it wherever a program can look; tests/guests/README.md says how.
//!
//! The mark comes XORed, so that looking for it does not put it into memory.

use std::io::Write as _;
use std::time::Duration;

use fastly::cache::{core, simple};
use fastly::kv_store::KVStore;
use fastly::{Body, Request, Response};

const KEY: u8 = 0x55;
const MIB: usize = 1 << 20;
const PAGE: usize = 64 << 10;

fn main() {
    let req = Request::from_client();
    let coded: Vec<u8> = hex(req.get_header_str("x-mark").unwrap_or_default());
    let mib: usize = req.get_query_parameter("mib").and_then(|n| n.parse().ok()).unwrap_or(0);
    match req.get_path() {
        "/mark" => mark(&req, &coded, mib),
        _ => look(&coded, mib),
    }
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter_map(|digit| (digit as char).to_digit(16)).map(|digit| digit as u8).collect();
    digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

fn mark(req: &Request, coded: &[u8], mib: usize) {
    let mark: Vec<u8> = coded.iter().map(|byte| byte ^ KEY).collect();
    let text = String::from_utf8(mark.clone()).expect("a mark of letters");
    let mut heap = Vec::with_capacity(mib * MIB);
    while heap.len() + mark.len() <= mib * MIB {
        heap.extend_from_slice(&mark);
    }
    unsafe { std::env::set_var("MARK", &text) };
    let bodies: Vec<Body> = (0..50).map(|_| Body::from(text.as_str())).collect();
    let responses: Vec<Response> = (0..50).map(|_| Response::new().with_header("x-marked", text.as_str())).collect();
    if let Ok(Some(store)) = KVStore::open("catalog") {
        store.insert("mark", text.as_str()).expect("writes");
    }
    let mut cached = core::insert("mark".into(), Duration::from_secs(600)).execute().expect("a place");
    cached.write_all(&mark).expect("writes");
    cached.finish().expect("writes");
    drop(simple::get_or_set("simple", text.as_str(), Duration::from_secs(600)));
    println!("{text}");
    let handles: Vec<_> = bodies.into_iter().map(Body::into_handle).collect();
    match req.get_query_parameter("end").unwrap_or_default() {
        "trap" => std::arch::wasm32::unreachable(),
        "exit" => std::process::exit(3),
        "look" => look(coded, 0),
        "spin" => loop {
            std::hint::black_box(&heap);
        },
        _ => Response::from_body(format!("{} {} {}\n", heap.len(), handles.len(), responses.len())).send_to_client(),
    }
    std::mem::forget((heap, handles, responses));
}

fn look(coded: &[u8], mib: usize) {
    let found = in_memory(coded);
    let grown = std::arch::wasm32::memory_grow(0, mib * MIB / PAGE);
    let dirty = match grown {
        usize::MAX => usize::MAX,
        old => unsafe { std::slice::from_raw_parts((old * PAGE) as *const u8, mib * MIB) }.iter().filter(|byte| **byte != 0).count(),
    };
    let in_environment = std::env::vars().filter(|(_, value)| is(value.as_bytes(), coded)).count();
    // Every number that a handle could have: it is somebody's body if it can be read.
    let mut bodies = 0;
    for handle in 0..10_000 {
        let (mut piece, mut read) = ([0; 64], 0);
        if unsafe { fastly_sys::fastly_http_body::read(handle, piece.as_mut_ptr(), piece.len(), &mut read) } == fastly_shared::FastlyStatus::OK
            && is(&piece[..read], coded)
        {
            bodies += 1;
        }
    }
    let kv = KVStore::open("catalog").ok().flatten().is_some_and(|store| store.lookup("mark").is_ok());
    let cached = core::lookup("mark".into()).execute().is_ok_and(|found| found.is_some());
    let simple = simple::get("simple").is_ok_and(|found| found.is_some());
    Response::from_body(format!(
        "memory {found}, grown {dirty}, environment {in_environment}, bodies {bodies}, kv {kv}, cache {cached}, simple {simple}\n"
    ))
    .send_to_client();
}

fn is(bytes: &[u8], coded: &[u8]) -> bool {
    !coded.is_empty() && bytes.windows(coded.len()).any(|window| window.iter().zip(coded).all(|(byte, coded)| byte ^ KEY == *coded))
}

/// How often the mark is anywhere in linear memory.
fn in_memory(coded: &[u8]) -> usize {
    let end = std::arch::wasm32::memory_size(0) * PAGE;
    let at = |address: usize| unsafe { std::ptr::read_volatile(address as *const u8) };
    let begins = |address: usize| (0..coded.len()).all(|i| at(address + i) ^ KEY == coded[i]);
    (8..end - coded.len()).filter(|address| at(*address) ^ KEY == coded[0] && begins(*address)).count()
}
