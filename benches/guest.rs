//! Costs inside one process: a hostcall through the adapter and bare, an instantiation, a whole
//! request in the hello guest. Guests come from `tests/guests/build.sh`.

#![allow(clippy::expect_used, clippy::panic, clippy::disallowed_methods, missing_docs, reason = "not part of the product")]

use std::hint::black_box;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use sidelight::abi::GuestState;
use sidelight::config::Config;
use sidelight::config::settings::{LimitSettings, Machine, Settings};
use sidelight::hostcalls;
use sidelight::http::{Body, RequestHead};
use sidelight::runtime::{Current, Execution, Runtime, Snapshot, Stay};
use sidelight::sandbox::{Client, DownstreamRequest, Parcel, Received, Responder};
use sidelight::services::{Platform, Services};
use sidelight::telemetry::Telemetry;
use wasmtime::{Caller, Engine, Linker, Module, Store};

/// The product's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SANDBOXES: usize = 64;

struct Bench {
    runtime: Arc<Runtime>,
    current: Current,
    telemetry: Telemetry,
    client: Arc<Client>,
    tokio: tokio::runtime::Runtime,
}

fn load(name: &str) -> Bench {
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let telemetry = Telemetry::new();
    let limits = LimitSettings { sandboxes: Some(SANDBOXES as u32), ..LimitSettings::default() };
    let host = Settings { limits, cache_dir: Some(None), ..Settings::default() }.decide(&Machine { cores: 1, ..Machine::default() });
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guests/out/rust").join(format!("{name}.wasm"));
    let config = Config::bare();
    let _context = tokio.enter();
    let runtime = Arc::new(Runtime::new(&host, &telemetry).expect("an engine"));
    let guest = runtime.load(&path, &config).expect("a guest; run tests/guests/build.sh rust");
    // For as long as the process runs.
    let platform = Box::leak(Box::new(Platform::new(&telemetry).expect("a platform")));
    let services = Services::build(&config, None, platform).unwrap_or_else(|_| panic!("no backend, no fault"));
    let current = Current::only(Snapshot::new(1, Arc::new(config), Arc::new(services), guest));
    let address = SocketAddr::from(([127, 0, 0, 1], 1));
    drop(_context);
    Bench { runtime, current, telemetry, client: Arc::new(Client { address, server: address, secure: false, tls: None }), tokio }
}

impl Bench {
    fn request(&self) -> DownstreamRequest {
        let head = RequestHead { uri: "http://edge.test/".parse().expect("a URI"), ..RequestHead::default() };
        let id = "00000000-0000-4000-8000-000000000000".into();
        let received = Received { raw_head: bytes::Bytes::new(), client: self.client.clone(), h2_fingerprint: None, id };
        DownstreamRequest { head, body: Body::empty(), received: Arc::new(received), trace: None }
    }

    fn stay(&self) -> Arc<Stay> {
        Stay::new(&self.runtime, self.current.pin("", "/", &::http::HeaderMap::new()).expect("a service"))
    }

    /// A sandbox's state, ready to be instantiated.
    fn state(&self, stay: &Arc<Stay>) -> GuestState {
        let (responder, _) = Responder::new();
        let parcel = Parcel { request: self.request(), responder };
        let execution = Execution::new(&parcel.request);
        self.runtime.state(stay, parcel, &execution)
    }
}

fn instantiate(c: &mut Criterion) {
    let bench = load("hello");
    c.bench_function("instantiate", |b| {
        b.iter(|| {
            bench.tokio.block_on(async {
                let stay = bench.stay();
                black_box(bench.runtime.instantiate(&stay, bench.state(&stay)).await.expect("a sandbox"));
            });
        });
    });
}

fn request(c: &mut Criterion) {
    let bench = load("hello");
    c.bench_function("request/hello", |b| {
        b.iter(|| {
            bench.tokio.block_on(async {
                let mut serving = bench
                    .runtime
                    .serve(bench.current.pin("", "/", &::http::HeaderMap::new()).expect("a service"), bench.request())
                    .await
                    .expect("a sandbox");
                black_box(serving.reply().await.expect("an answer"));
                // To the guest's end.
                while bench.runtime.free() < SANDBOXES {
                    tokio::task::yield_now().await;
                }
            });
        });
    });
    let bench = load("hello_reuse");
    c.bench_function("request/reuse", |b| {
        b.iter(|| {
            bench.tokio.block_on(async {
                let mut serving = bench
                    .runtime
                    .serve(bench.current.pin("", "/", &::http::HeaderMap::new()).expect("a service"), bench.request())
                    .await
                    .expect("a sandbox");
                black_box(serving.reply().await.expect("an answer"));
            });
        });
    });
}

const CALLS: u64 = 10_000;

/// A program that calls `module.name` with `args` 10,000 times.
fn caller(module: &str, name: &str, args: &[u32]) -> String {
    let params = "i32 ".repeat(args.len());
    let args: String = args.iter().map(|arg| format!("(i32.const {arg})")).collect();
    format!(
        r#"(module (import "{module}" "{name}" (func $f (param {params}) (result i32)))
           (memory (export "memory") 1)
           (func (export "run") (local $i i32)
             (loop $again
               (drop (call $f {args}))
               (local.set $i (i32.add (local.get $i) (i32.const 1)))
               (br_if $again (i32.lt_u (local.get $i) (i32.const {CALLS}))))))"#
    )
}

fn hostcall(c: &mut Criterion) {
    let bench = load("hello");
    let engine = Engine::default();
    let mut linker: Linker<GuestState> = Linker::new(&engine);
    hostcalls::link_all(&mut linker, &bench.telemetry).expect("links");
    // The same work as get_heap_mib, by hand.
    linker
        .func_wrap("bare", "get_heap_mib", |mut caller: Caller<'_, GuestState>, out: u32| -> u32 {
            let memory = caller.data().memory.expect("memory");
            let (bytes, state) = memory.data_and_store_mut(&mut caller);
            let mib = state.sandbox.meter.memory().div_ceil(1 << 20) as u32;
            match bytes.get_mut(out as usize..out as usize + 4) {
                Some(place) => {
                    place.copy_from_slice(&mib.to_le_bytes());
                    0
                }
                None => 2,
            }
        })
        .expect("links");
    linker
        .func_wrap_async("bare", "nothing", |mut caller: Caller<'_, GuestState>, (out,): (u32,)| {
            Box::new(async move {
                let memory = caller.data().memory.expect("memory");
                let (bytes, _) = memory.data_and_store_mut(&mut caller);
                bytes[out as usize..out as usize + 4].fill(0);
                0u32
            })
        })
        .expect("links");
    let mut group = c.benchmark_group("hostcall");
    group.throughput(Throughput::Elements(CALLS));
    let cases: [(&str, &str, &[u32]); 4] = [
        ("bare", "get_heap_mib", &[64]),
        ("fastly_compute_runtime", "get_heap_mib", &[64]),
        ("bare", "nothing", &[64]),
        // An empty body's end: the shortest call that could have waited. Handle 0 is made below.
        ("fastly_http_body", "read", &[0, 128, 16, 64]),
    ];
    for (module, name, args) in cases {
        let compiled = Module::new(&engine, caller(module, name, args)).expect("compiles");
        let (mut store, run) = bench.tokio.block_on(async {
            let mut state = bench.state(&bench.stay());
            state.sandbox.add_body(Body::empty()).expect("room");
            let mut store = Store::new(&engine, state);
            let instance = linker.instantiate_async(&mut store, &compiled).await.expect("a sandbox");
            store.data_mut().memory = instance.get_memory(&mut store, "memory");
            let run = instance.get_typed_func::<(), ()>(&mut store, "run").expect("a function");
            (store, run)
        });
        group.bench_function(format!("{module}.{name}"), |b| {
            b.iter(|| bench.tokio.block_on(run.call_async(&mut store, ())).expect("runs"));
        });
    }
    group.finish();
}

criterion_group!(benches, hostcall, instantiate, request);
criterion_main!(benches);
