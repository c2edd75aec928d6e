//! What a call of a store costs a guest: a program in WebAssembly's text format that does nothing else, many times, within
//! the host's own runtime. Beside it, in the same minute, the bare thing that is asked.
//!
//! `cargo bench --bench stores`; needs `redis-server`.

#![allow(clippy::expect_used, clippy::panic, clippy::disallowed_methods, missing_docs, reason = "not part of the product")]

use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use sidelight::config::Config;
use sidelight::config::settings::{LimitSettings, Machine, Settings};
use sidelight::config::state::Redis;
use sidelight::http::{Body, RequestHead};
use sidelight::runtime::{Current, Runtime, Snapshot, Unserved};
use sidelight::sandbox::{Client, DownstreamRequest, Received};
use sidelight::services::{Platform, Services};
use sidelight::telemetry::Telemetry;

/// Where the texts of a program are: name of the store, key, address, counter, entry, box.
const TEXTS: &str = r#"(data (i32.const 1024) "store") (data (i32.const 1040) "a-key") (data (i32.const 1056) "\c0\00\02\07")
    (data (i32.const 1072) "counter") (data (i32.const 1088) "entry") (data (i32.const 1104) "box")"#;

/// A call that does nothing.
const NOTHING: &str = "(drop (call $heap (i32.const 64)))";

const CONFIG: &str =
    "(drop (call $config_get (i32.load (i32.const 0)) (i32.const 1040) (i32.const 5) (i32.const 4096) (i32.const 64) (i32.const 16)))";

const ACL: &str = "(drop (call $acl_lookup (i32.load (i32.const 4)) (i32.const 1056) (i32.const 4) (i32.const 16) (i32.const 20)))
    (drop (call $close (i32.load (i32.const 16))))";

const KV: &str = "(drop (call $kv_lookup (i32.load (i32.const 8)) (i32.const 1040) (i32.const 5) (i32.const 0) (i32.const 512) (i32.const 16)))
    (drop (call $kv_wait (i32.load (i32.const 16)) (i32.const 20) (i32.const 4096) (i32.const 64) (i32.const 24) (i32.const 32) (i32.const 40)))
    (drop (call $close (i32.load (i32.const 20))))";

const RATE: &str = "(drop (call $check (i32.const 1072) (i32.const 7) (i32.const 1088) (i32.const 5) (i32.const 1) (i32.const 60)
    (i32.const 1000000) (i32.const 1104) (i32.const 3) (i32.const 60) (i32.const 16)))";

fn program(work: &str, times: u32) -> String {
    format!(
        r#"(module
        (import "fastly_compute_runtime" "get_heap_mib" (func $heap (param i32) (result i32)))
        (import "fastly_config_store" "open" (func $config_open (param i32 i32 i32) (result i32)))
        (import "fastly_config_store" "get" (func $config_get (param i32 i32 i32 i32 i32 i32) (result i32)))
        (import "fastly_acl" "open" (func $acl_open (param i32 i32 i32) (result i32)))
        (import "fastly_acl" "lookup" (func $acl_lookup (param i32 i32 i32 i32 i32) (result i32)))
        (import "fastly_kv_store" "open" (func $kv_open (param i32 i32 i32) (result i32)))
        (import "fastly_kv_store" "lookup" (func $kv_lookup (param i32 i32 i32 i32 i32 i32) (result i32)))
        (import "fastly_kv_store" "lookup_wait_v2" (func $kv_wait (param i32 i32 i32 i32 i32 i32 i32) (result i32)))
        (import "fastly_http_body" "close" (func $close (param i32) (result i32)))
        (import "fastly_erl" "check_rate" (func $check (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
        (memory (export "memory") 2) {TEXTS}
        (func (export "_start") (local $left i32)
            (drop (call $config_open (i32.const 1024) (i32.const 5) (i32.const 0)))
            (drop (call $acl_open (i32.const 1024) (i32.const 5) (i32.const 4)))
            (drop (call $kv_open (i32.const 1024) (i32.const 5) (i32.const 8)))
            (local.set $left (i32.const {times}))
            (block $done (loop $again
                (br_if $done (i32.eqz (local.get $left)))
                (local.set $left (i32.sub (local.get $left) (i32.const 1)))
                {work}
                (br $again)))
            (call $exit (i32.const 0))))"#
    )
}

struct Stage {
    runtime: Arc<Runtime>,
    services: Arc<Services>,
    config: Arc<Config>,
    folder: tempfile::TempDir,
    _platform: Platform,
}

impl Stage {
    /// With `more` in its manifest, and the state that `config` gets.
    fn new(more: &str, state: impl FnOnce(&mut Config)) -> Self {
        let telemetry = Telemetry::new();
        let long = Some(Duration::from_secs(600));
        let limits =
            LimitSettings { sandboxes: Some(2), cpu: long, wall: long, config_lookups: Some(u32::MAX), ..LimitSettings::default() };
        let host = Settings { limits, cache_dir: Some(None), ..Settings::default() }.decide(&Machine { cores: 1, ..Machine::default() });
        let folder = tempfile::tempdir().expect("a folder");
        let mut entries = Vec::new();
        for i in 0..100_000u32 {
            let [_, a, b, c] = (i * 167).to_be_bytes();
            entries.push(format!("{{\"prefix\":\"{a}.{b}.{c}.0/{}\",\"action\":\"BLOCK\"}}", 20 + i % 12));
        }
        entries.push("{\"prefix\":\"192.0.2.0/24\",\"action\":\"BLOCK\"}".to_owned());
        std::fs::write(folder.path().join("acl.json"), format!("{{\"entries\":[{}]}}", entries.join(","))).expect("a file");
        let manifest = format!(
            "[local_server.config_stores.store]\nformat = \"inline-toml\"\n[local_server.config_stores.store.contents]\na-key = \"a value\"\n\
             [[local_server.kv_stores.store]]\nkey = \"a-key\"\ndata = \"a value\"\n[local_server.acls]\nstore = \"acl.json\"\n{more}"
        );
        let file = folder.path().join("fastly.toml");
        let mut config = Config::from_manifest(&manifest, &file).expect("a manifest");
        config.limits = host.limits.guest.clone();
        state(&mut config);
        let runtime = Arc::new(Runtime::new(&host, &telemetry).expect("an engine"));
        let platform = Platform::new(&telemetry).expect("a platform");
        let services = Services::build(&config, None, &platform);
        let services = Arc::new(services.unwrap_or_else(|errors| panic!("{}", errors[0])));
        services.seed(&platform);
        Self { runtime, services, config: Arc::new(config), folder, _platform: platform }
    }

    /// Time of one execution that does `work` so often.
    fn run(&self, tokio: &tokio::runtime::Runtime, work: &str, times: u32) -> Duration {
        let path = self.folder.path().join("program.wat");
        std::fs::write(&path, program(work, times)).expect("a file");
        let _within = tokio.enter();
        let guest = self.runtime.load(&path, &self.config).expect("a program");
        let current = Current::only(Snapshot::new(1, self.config.clone(), self.services.clone(), guest));
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        let client = Arc::new(Client { address, server: address, secure: false, tls: None });
        let head = RequestHead { uri: "http://edge.test/".parse().expect("a URI"), ..RequestHead::default() };
        let received = Received { raw_head: Bytes::new(), client, h2_fingerprint: None, id: "bench".into() };
        let request = DownstreamRequest { head, body: Body::empty(), received: Arc::new(received), trace: None };
        tokio.block_on(async {
            let begun = Instant::now();
            let mut serving = self
                .runtime
                .serve(current.pin("", "/", &::http::HeaderMap::new()).expect("a service"), request)
                .await
                .unwrap_or_else(|_| panic!("no sandbox"));
            match serving.reply().await {
                Err(Unserved::Ended(_)) | Ok(_) => begun.elapsed(),
                Err(_) => panic!("not served"),
            }
        })
    }

    /// Nanoseconds of one piece of work, the best of five runs.
    fn each(&self, tokio: &tokio::runtime::Runtime, work: &str, times: u32) -> f64 {
        let best = |times| (0..5).map(|_| self.run(tokio, work, times)).min().expect("runs");
        let (none, all) = (best(0), best(times));
        all.saturating_sub(none).as_nanos() as f64 / f64::from(times)
    }
}

struct Server(Child, u16, #[expect(dead_code, reason = "lives as long as the server")] tempfile::TempDir);

impl Server {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let port = std::net::TcpListener::bind("127.0.0.1:0").expect("binds").local_addr().expect("an address").port();
        let mut command = Command::new("redis-server");
        command.args(["--port", &port.to_string(), "--save", "", "--bind", "127.0.0.1", "--dir"]).arg(folder.path());
        let child = command.stdout(Stdio::null()).spawn().expect("redis-server (Debian: redis-server)");
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            std::thread::sleep(Duration::from_millis(20));
        }
        Self(child, port, folder)
    }

    /// Nanoseconds of a question and its answer on a socket of our own.
    fn round_trip(&self) -> f64 {
        use std::io::{Read as _, Write as _};
        let mut stream = TcpStream::connect(("127.0.0.1", self.1)).expect("connects");
        stream.set_nodelay(true).expect("no delay");
        let mut buffer = [0; 64];
        let begun = Instant::now();
        for _ in 0..5000 {
            stream.write_all(b"GET none\r\n").expect("writes");
            assert!(stream.read(&mut buffer).expect("reads") > 0);
        }
        begun.elapsed().as_nanos() as f64 / 5000.0
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn say(what: &str, nanos: f64) {
    if nanos < 10_000.0 { println!("{what:<58}{nanos:>10.0} ns") } else { println!("{what:<58}{:>10.1} µs", nanos / 1000.0) }
}

fn main() {
    // As a thread of the server's is.
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let server = Server::start();
    let memory = Stage::new("", |_| {});
    let folder = tempfile::tempdir().expect("a folder");
    let embedded = Stage::new("", |config| config.state.data_dir = Some(folder.path().to_owned()));
    let redis = Redis::parse(&format!("redis://127.0.0.1:{}", server.1)).expect("a URL");
    let shared = Stage::new("", |config| config.state.redis = Some(redis));
    say("a call that does nothing (get_heap_mib)", memory.each(&tokio, NOTHING, 200_000));
    say("config store: get", memory.each(&tokio, CONFIG, 200_000));
    say("ACL of 100,001 prefixes: lookup, close", memory.each(&tokio, ACL, 100_000));
    say("KV store in memory: lookup, wait, close", memory.each(&tokio, KV, 100_000));
    say("KV store on disk: lookup, wait, close", embedded.each(&tokio, KV, 10_000));
    say("KV store with Redis: lookup, wait, close", shared.each(&tokio, KV, 3000));
    say("rate limiting in memory: check", memory.each(&tokio, RATE, 100_000));
    say("rate limiting with Redis: check", shared.each(&tokio, RATE, 3000));
    say("Redis itself: GET on a socket, the client blocking", server.round_trip());
}
