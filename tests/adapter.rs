//! Every hostcall with arguments no SDK would pass: wild pointers, lengths, handles and masks. A call answers
//! with a status or traps; nothing panics, and the host goes on.
//!
//! In one process, because it takes some ten thousand guests. The arguments come from a fixed seed; a failure
//! names the call and them.

#![allow(clippy::expect_used, clippy::panic, clippy::disallowed_methods, reason = "a test ends at its first surprise")]

use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sidelight::abi::GuestState;
use sidelight::config::Config;
use sidelight::config::settings::{LimitSettings, Machine, Settings};
use sidelight::hostcalls;
use sidelight::http::{Body, RequestHead};
use sidelight::runtime::{Current, Outcome, Runtime, Snapshot, Unserved};
use sidelight::sandbox::{Client, DownstreamRequest, Received};
use sidelight::services::{Platform, Services};
use sidelight::telemetry::Telemetry;
use tokio::task::JoinSet;
use wasmtime::Linker;

/// Calls of each hostcall.
const VARIATIONS: u32 = 200;

/// Most parameters of a call.
const MAX_ARGS: usize = 16;

/// Pages of the guest's memory.
const PAGES: u32 = 2;

/// The exit code for a status that is none.
const NO_STATUS: i32 = 42;

/// Everything a guest may hold is made first, so that small numbers are handles of it; then one call.
fn program() -> String {
    let calls = hostcalls::listing();
    let mut text = String::from("(module\n");
    for (i, call) in calls.iter().enumerate() {
        let params: Vec<&str> = call.signature.chars().map(|kind| if kind == 'l' { "i64" } else { "i32" }).collect();
        writeln!(text, "(import \"{}\" \"{}\" (func $f{i} (param {}) (result i32)))", call.module, call.name, params.join(" "))
            .expect("text");
    }
    let find = |module: &str, name: &str| {
        let at = calls.iter().position(|call| call.module == module && call.name == name);
        at.unwrap_or_else(|| panic!("no {module}::{name}"))
    };
    writeln!(text, "(import \"wasi_snapshot_preview1\" \"proc_exit\" (func $exit (param i32)))").expect("text");
    writeln!(text, "(memory (export \"memory\") {PAGES})").expect("text");
    writeln!(text, "(data (i32.const 1024) \"GET\\00x-name\\00value\\00origin\\00http://a.test/b\\00127.0.0.1\\00\")").expect("text");
    writeln!(text, "(func (export \"_start\") (local $status i32)").expect("text");
    // The index and the arguments are the request's body.
    writeln!(text, "(drop (call $f{} (i32.const 0) (i32.const 4)))", find("fastly_http_req", "body_downstream_get")).expect("text");
    let read = find("fastly_http_body", "read");
    writeln!(text, "(drop (call $f{read} (i32.load (i32.const 4)) (i32.const 16) (i32.const 128) (i32.const 8)))").expect("text");
    for (module, name) in
        [("fastly_http_req", "new"), ("fastly_http_body", "new"), ("fastly_http_resp", "new"), ("fastly_http_body", "new")]
    {
        writeln!(text, "(drop (call $f{} (i32.const 8)))", find(module, name)).expect("text");
    }
    for module in ["fastly_kv_store", "fastly_config_store", "fastly_secret_store"] {
        // The name is that of the backend, in the data above.
        writeln!(text, "(drop (call $f{} (i32.const 1041) (i32.const 6) (i32.const 8)))", find(module, "open")).expect("text");
    }
    writeln!(text, "(block $done").expect("text");
    for i in (0..calls.len()).rev() {
        writeln!(text, "(block $b{i}").expect("text");
    }
    let labels: Vec<String> = (0..calls.len()).map(|i| format!("$b{i}")).collect();
    writeln!(text, "(br_table {} (i32.load (i32.const 16)))", labels.join(" ")).expect("text");
    for (i, call) in calls.iter().enumerate() {
        writeln!(text, ") (local.set $status (call $f{i}").expect("text");
        for (n, kind) in call.signature.chars().enumerate() {
            let load = if kind == 'l' { "i64.load" } else { "i32.load" };
            writeln!(text, "({load} (i32.const {}))", 20 + 4 * n).expect("text");
        }
        writeln!(text, ")) (br $done)").expect("text");
    }
    writeln!(text, ")\n(if (i32.gt_u (local.get $status) (i32.const 14)) (then (call $exit (i32.const {NO_STATUS})))))\n)").expect("text");
    text
}

/// Numbers, the same in every run.
struct Seed(u64);

impl Seed {
    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as u32
    }

    /// Mostly what is near a limit of something.
    fn argument(&mut self) -> u32 {
        const END: u32 = PAGES << 16;
        const POINTS: [u32; 30] = [
            0,
            0,
            1,
            1,
            2,
            3,
            4,
            7,
            8,
            16,
            20,
            64,
            104,
            1024,
            1028,
            1035,
            1041,
            1048,
            4096,
            65_535,
            65_536,
            END - 1,
            END,
            END - 20,
            END - 108,
            1 << 30,
            0x7fff_ffff,
            0x8000_0000,
            u32::MAX - 1,
            u32::MAX,
        ];
        match self.next() % 8 {
            0 => self.next(),
            1 => self.next() % END,
            2 => self.next() % 300,
            _ => POINTS[self.next() as usize % POINTS.len()],
        }
    }
}

/// A program in WebAssembly's text format, ready to be asked.
struct Stage {
    telemetry: Telemetry,
    _platform: Platform,
    runtime: Arc<Runtime>,
    current: Arc<Current>,
}

impl Stage {
    /// `more` are functions that the program can import besides the ABI.
    fn new(program: &str, wall: Duration, more: impl FnOnce(&mut Linker<GuestState>) -> wasmtime::Result<()>) -> Self {
        let telemetry = Telemetry::new();
        let limits = LimitSettings {
            sandboxes: Some(64),
            wall: Some(wall),
            reuse_idle: Some(Duration::from_millis(5)),
            queue_timeout: Some(Duration::from_secs(60)),
            ..LimitSettings::default()
        };
        let host = Settings { limits, cache_dir: Some(None), ..Settings::default() }.decide(&Machine { cores: 1, ..Machine::default() });
        let runtime = Arc::new(Runtime::with_imports(&host, &telemetry, more).expect("an engine"));
        let manifest = "[local_server.backends.origin]\nurl = \"http://127.0.0.1:1\"\n[local_server.config_stores.origin]\n\
             format = \"inline-toml\"\n[local_server.config_stores.origin.contents]\nvalue = \"x\"\n\
             [[local_server.kv_stores.origin]]\nkey = \"value\"\ndata = \"x\"\n[[local_server.secret_stores.origin]]\nkey = \"value\"\n\
             data = \"x\"\n[sidelight.inspect]\n[[sidelight.clients]]\nvpn = {}\n";
        let mut config = Config::from_manifest(manifest, "fastly.toml".as_ref()).expect("a manifest");
        config.limits = host.limits.guest.clone();
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("program.wat");
        std::fs::write(&path, program).expect("a file");
        let guest = runtime.load(&path, &config).expect("a program");
        let platform = Platform::new(&telemetry).expect("a platform");
        let services = Arc::new(Services::build(&config, None, &platform).unwrap_or_else(|_| panic!("no fault")));
        services.seed(&platform);
        let current = Arc::new(Current::only(Snapshot::new(1, Arc::new(config), services, guest)));
        Self { telemetry, runtime, current, _platform: platform }
    }

    /// How the program ends for a request with this body; `None` when it answers.
    fn ask(&self, id: usize, body: Vec<u8>) -> impl Future<Output = Option<Outcome>> + Send + 'static {
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        let client = Arc::new(Client { address, server: address, secure: false, tls: None });
        let head = RequestHead { uri: "http://edge.test/".parse().expect("a URI"), ..RequestHead::default() };
        let raw_head = Bytes::from_static(b"GET / HTTP/1.1\r\nHost: a\r\nX-One: 1\r\n\r\n");
        let received = Received { raw_head, client, h2_fingerprint: None, id: id.to_string().into() };
        let request = DownstreamRequest { head, body: Body::from(Bytes::from(body)), received: Arc::new(received), trace: None };
        let (runtime, snapshot) = (self.runtime.clone(), self.current.pin("", "/", &::http::HeaderMap::new()).expect("a service"));
        async move {
            match runtime.serve(snapshot, request).await {
                Ok(mut serving) => match serving.reply().await {
                    Ok(_) => None,
                    Err(Unserved::Ended(outcome)) => Some(outcome),
                    Err(Unserved::Overloaded { .. } | Unserved::NoMemory | Unserved::NoService) => panic!("no sandbox came free"),
                },
                Err(_) => panic!("no sandbox came free"),
            }
        }
    }

    fn guests(&self, outcome: &str) -> u64 {
        let text = self.telemetry.metrics.text(sidelight::telemetry::exposition::Format::Text);
        let outcome = format!("outcome=\"{outcome}\"");
        let counted = text.lines().filter(|line| line.starts_with("sidelight_guests_total{") && line.contains(&outcome));
        counted.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
    }
}

#[test]
fn every_hostcall_survives_any_arguments() {
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let _context = tokio.enter();
    // Some calls wait for what never comes.
    let stage = Stage::new(&program(), Duration::from_millis(300), |_| Ok(()));
    let calls = hostcalls::listing();
    let (mut seed, mut running, mut traps, mut ends) = (Seed(7), JoinSet::new(), 0, 0);
    let mut count = |ended: (usize, Vec<u32>, Option<Outcome>)| match ended {
        (index, arguments, Some(outcome @ (Outcome::HostFailed(_) | Outcome::Exited(_)))) => {
            panic!("{}::{} {arguments:?}: {outcome:?}", calls[index].module, calls[index].name)
        }
        (_, _, Some(Outcome::Trapped(_))) => traps += 1,
        _ => ends += 1,
    };
    tokio.block_on(async {
        for index in 0..calls.len() {
            for _ in 0..VARIATIONS {
                let arguments: Vec<u32> = (0..MAX_ARGS).map(|_| seed.argument()).collect();
                let mut bytes = (index as u32).to_le_bytes().to_vec();
                arguments.iter().for_each(|argument| bytes.extend_from_slice(&argument.to_le_bytes()));
                let ended = stage.ask(index, bytes);
                running.spawn(async move { (index, arguments, ended.await) });
                if running.len() >= 48 {
                    count(running.join_next().await.expect("some run").expect("no panic"));
                }
            }
        }
        while let Some(ended) = running.join_next().await {
            count(ended.expect("no panic"));
        }
    });
    // Those that were answered before their end count here.
    assert_eq!(stage.guests("host_failed"), 0);
    assert_eq!(stage.guests("exited"), 0);
    // Both kinds of end are common: the arguments reach what they are meant for.
    assert!(traps > 1000 && ends > 1000, "{traps} traps, {ends} ends");
}

/// Answers, unless the import it calls first panics; before it calls it again, it computes for as many rounds as
/// that said.
const CARELESS: &str = r#"(module
  (import "test" "panic" (func $panic (param i32) (result i32)))
  (import "fastly_http_req" "body_downstream_get" (func $downstream (param i32 i32) (result i32)))
  (import "fastly_http_body" "read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "fastly_http_body" "new" (func $body (param i32) (result i32)))
  (import "fastly_http_resp" "new" (func $response (param i32) (result i32)))
  (import "fastly_http_resp" "send_downstream" (func $send (param i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func $must (param i32) (if (local.get 0) (then unreachable)))
  (func (export "_start") (local $rounds i32)
    (call $must (call $downstream (i32.const 0) (i32.const 4)))
    (call $must (call $read (i32.load (i32.const 4)) (i32.const 16) (i32.const 4) (i32.const 8)))
    (local.set $rounds (call $panic (i32.load (i32.const 16))))
    (if (local.get $rounds) (then
      (loop $spin (br_if $spin (local.tee $rounds (i32.sub (local.get $rounds) (i32.const 1)))))
      (drop (call $panic (i32.const 1)))))
    (call $must (call $response (i32.const 20)))
    (call $must (call $body (i32.const 24)))
    (call $must (call $send (i32.load (i32.const 20)) (i32.load (i32.const 24)) (i32.const 0)))))"#;

#[test]
fn a_panic_in_a_hostcall_costs_that_request_only() {
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let _context = tokio.enter();
    let stage = Stage::new(CARELESS, Duration::from_secs(60), |linker| {
        let panicking = |wish: u32| match wish {
            0 => 0,
            1 => panic!("a fault of the host"),
            // Long enough for the guest to be moved to the threads of those that compute.
            _ => 30_000_000,
        };
        linker.func_wrap("test", "panic", panicking).map(drop)
    });
    let free = stage.runtime.free();
    tokio.block_on(async {
        // All at once: those that panic at once, after a move to other threads, and not at all.
        let mut running = JoinSet::new();
        for index in 0..60 {
            let wish = (index % 3) as u32;
            let ended = stage.ask(index, wish.to_le_bytes().to_vec());
            running.spawn(async move { (wish, ended.await) });
        }
        while let Some(ended) = running.join_next().await {
            match ended.expect("a panic that went further") {
                (0, None) => {}
                (1 | 2, Some(Outcome::HostFailed(reason))) => assert_eq!(reason, "a fault of the host"),
                (wish, outcome) => panic!("{wish}: {outcome:?}"),
            }
        }
    });
    assert_eq!(stage.guests("host_failed"), 40);
    assert!(stage.telemetry.metrics.guests_heavy.get() > 0);
    // Their sandboxes are free again.
    tokio.block_on(async {
        while stage.runtime.free() < free || stage.telemetry.metrics.sandboxes.get() > 0 {
            tokio::task::yield_now().await;
        }
    });
}
