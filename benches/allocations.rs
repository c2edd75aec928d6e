//! Allocations of a request: how many, of how many bytes, and where they are made. The server is this program itself, under an allocator
//! that counts; the rest is the product's, from its command line on.
//!
//! `cargo bench --bench allocations [-- sites]`: with `sites`, the places that allocate, and how often in a request.

#![allow(clippy::expect_used, clippy::panic, clippy::disallowed_methods, missing_docs, reason = "not part of the product")]
#![allow(unsafe_code, reason = "an allocator that counts")]
#![allow(dead_code, unused_imports, reason = "the parts are shared with the tests")]

#[path = "../tests/it/client.rs"]
mod client;
#[path = "../tests/it/harness.rs"]
mod harness;
#[path = "../tests/it/origin.rs"]
mod origin;

use std::alloc::{GlobalAlloc, Layout};
use std::backtrace::Backtrace;
use std::cell::Cell;
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use client::Connection;
use harness::{Setup, guest};
use origin::Origin;

/// Where the server tells its counts: a Unix socket that answers every line.
const SOCKET: &str = "SIDELIGHT_ALLOCATIONS";

const REQUESTS: u64 = 1000;

static COUNT: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);
static RECORDS: AtomicBool = AtomicBool::new(false);
static SITES: Mutex<Option<HashMap<String, u64>>> = Mutex::new(None);

thread_local! {
    static RECORDING: Cell<bool> = const { Cell::new(false) };
}

/// The product's allocator, counted.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

impl Counting {
    fn count(bytes: usize) {
        COUNT.fetch_add(1, Ordering::Relaxed);
        BYTES.fetch_add(bytes as u64, Ordering::Relaxed);
        // What the record itself allocates is not recorded.
        if RECORDS.load(Ordering::Relaxed) && !RECORDING.replace(true) {
            let site = site(&Backtrace::force_capture().to_string());
            *SITES.lock().expect("no panic").get_or_insert_default().entry(format!("{site} [{bytes}]")).or_default() += 1;
            RECORDING.set(false);
        }
    }
}

// SAFETY: everything is the inner allocator's.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::count(layout.size());
        // SAFETY: as the caller's.
        unsafe { mimalloc::MiMalloc.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: as the caller's.
        unsafe { mimalloc::MiMalloc.dealloc(ptr, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        Self::count(layout.size());
        // SAFETY: as the caller's.
        unsafe { mimalloc::MiMalloc.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        Self::count(size);
        // SAFETY: as the caller's.
        unsafe { mimalloc::MiMalloc.realloc(ptr, layout, size) }
    }
}

/// The innermost three functions that are not the allocator's or the standard library's. Those that were inlined have names without a path,
/// which tell little: left out.
fn site(backtrace: &str) -> String {
    const OWN: [&str; 7] = ["std::", "core::", "alloc::", "bytes::", "hashbrown::", "__rust", "allocations::"];
    let names = backtrace.lines().filter_map(|line| line.trim_start().split_once(": ")).filter(|(n, _)| n.parse::<u32>().is_ok());
    let places = names.map(|(_, name)| name).filter(|name| name.contains("::"));
    let places: Vec<&str> = places.filter(|name| !OWN.iter().any(|own| name.trim_start_matches('<').starts_with(own))).take(3).collect();
    places.join(" < ")
}

/// The server: tells what was allocated so far when it is asked.
fn serve(socket: &str) -> ExitCode {
    let listener = UnixListener::bind(socket).expect("a socket");
    std::thread::spawn(move || {
        for peer in listener.incoming() {
            let mut peer = BufReader::new(peer.expect("a peer"));
            let mut line = String::new();
            while peer.read_line(&mut line).is_ok_and(|n| n > 0) {
                let told = match line.trim() {
                    "record" => {
                        RECORDS.store(true, Ordering::Relaxed);
                        String::new()
                    }
                    "sites" => {
                        RECORDS.store(false, Ordering::Relaxed);
                        let sites = SITES.lock().expect("no panic").take().unwrap_or_default();
                        sites.iter().fold(String::new(), |all, (site, count)| format!("{all}{count}\t{site}\x1e"))
                    }
                    _ => format!("{} {}", COUNT.load(Ordering::Relaxed), BYTES.load(Ordering::Relaxed)),
                };
                peer.get_mut().write_all(format!("{told}\n").as_bytes()).expect("writes");
                line.clear();
            }
        }
    });
    sidelight::cli::run()
}

/// Asks the server's socket.
struct Counts(BufReader<UnixStream>);

impl Counts {
    fn ask(&mut self, what: &str) -> String {
        self.0.get_mut().write_all(format!("{what}\n").as_bytes()).expect("writes");
        let mut line = String::new();
        self.0.read_line(&mut line).expect("a line");
        line.trim_end().to_owned()
    }

    fn now(&mut self) -> (u64, u64) {
        let told = self.ask("counts");
        let (count, bytes) = told.split_once(' ').expect("two numbers");
        (count.parse().expect("a number"), bytes.parse().expect("a number"))
    }
}

fn main() -> ExitCode {
    if let (Ok(socket), Some("serve")) = (std::env::var(SOCKET), std::env::args().nth(1).as_deref()) {
        return serve(&socket);
    }
    let this = std::env::current_exe().expect("a program");
    if harness::binary() != this {
        // Again, with this as what the harness starts.
        let status = Command::new(&this).args(std::env::args().skip(1)).env("SIDELIGHT_BIN", &this).status().expect("starts");
        return if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let sites = std::env::args().any(|arg| arg == "sites");
    let origin = Origin::fixed("Hello, world!\n");
    let works = [
        ("hello", "hello", "/"),
        ("hello, sandbox reuse", "hello_reuse", "/"),
        ("pass-through, 14 bytes", "passthrough", "/small"),
        ("KV lookup", "work", "/kv"),
        ("hit in the cache", "cached", "/"),
        ("hello, JavaScript", "js", "/"),
    ];
    println!("{:<24} {:>12} {:>12}", "a request", "allocations", "bytes");
    for (title, name, path) in works {
        measure(title, name, path, &origin, sites);
    }
    ExitCode::SUCCESS
}

fn measure(title: &str, name: &str, path: &str, origin: &Origin, sites: bool) {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("counts");
    let program = if name == "js" { guest("js", "hello") } else { guest("rust", name) };
    let store = "[[local_server.kv_stores.catalog]]\nkey = \"apple\"\ndata = \"red\"\n";
    let sidelight = Setup::new(program)
        .backend("origin", origin.url())
        .manifest(store)
        .env(SOCKET, socket.to_str().expect("text"))
        .arg("--threads")
        .arg("1")
        .quiet()
        .start();
    let mut counts = Counts(BufReader::new(UnixStream::connect(Path::new(&socket)).expect("the server's socket")));
    let mut connection = Connection::open(sidelight.addr);
    let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut get = |count: u64| {
        for _ in 0..count {
            connection.write(request.as_bytes());
            assert_eq!(connection.answer().status, 200, "{title}");
        }
    };
    get(200);
    let before = counts.now();
    get(REQUESTS);
    let after = counts.now();
    let each = |after: u64, before: u64| (after - before) as f64 / REQUESTS as f64;
    println!("{title:<24} {:>12.1} {:>12.0}", each(after.0, before.0), each(after.1, before.1));
    if sites {
        counts.ask("record");
        get(50);
        let told = counts.ask("sites");
        let mut places: Vec<(u64, &str)> = told
            .split('\x1e')
            .filter_map(|place| place.split_once('\t'))
            .filter_map(|(count, site)| Some((count.parse().ok()?, site)))
            .collect();
        places.sort_unstable_by(|a, b| b.cmp(a));
        for (count, site) in places.iter().filter(|(count, _)| *count >= 10) {
            println!("    {:>6.2}  {site}", *count as f64 / 50.0);
        }
    }
}
