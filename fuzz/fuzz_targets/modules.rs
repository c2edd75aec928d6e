//! Arbitrary programs that make arbitrary hostcalls, in a sandbox: the host answers or ends them, and the next program runs.

#![no_main]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use sidelight::config::Config;
use sidelight::config::settings::{LimitSettings, Machine, Settings};
use sidelight::http::{Body, RequestHead};
use sidelight::runtime::{Current, Runtime, Snapshot};
use sidelight::sandbox::{Client, DownstreamRequest, Received};
use sidelight::services::{Platform, Services};
use sidelight::telemetry::Telemetry;
use wasm_smith::{Config as Smith, Module};

/// A program with imports of the whole ABI that the demo uses, whose types are the real ones.
const IMPORTS: &[u8] = include_bytes!("../../manifests/demo/bin/main.wasm");

/// What a program has to export.
static EXPORTS: LazyLock<Vec<u8>> =
    LazyLock::new(|| wat::parse_str("(module (func (export \"_start\")) (memory (export \"memory\") 1))").expect("a module"));

struct World {
    runtime: Arc<Runtime>,
    platform: Platform,
    config: Arc<Config>,
    client: Arc<Client>,
    tokio: tokio::runtime::Runtime,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let telemetry = Telemetry::new();
    let limits = LimitSettings {
        sandboxes: Some(2),
        cpu: Some(Duration::from_millis(50)),
        wall: Some(Duration::from_millis(300)),
        ..LimitSettings::default()
    };
    let host = Settings { limits, cache_dir: Some(None), ..Settings::default() }.decide(&Machine { cores: 1, ..Machine::default() });
    let context = tokio.enter();
    let runtime = Arc::new(Runtime::new(&host, &telemetry).expect("an engine"));
    let platform = Platform::new(&telemetry).expect("a platform");
    drop(context);
    let address = SocketAddr::from(([127, 0, 0, 1], 1));
    let client = Arc::new(Client { address, server: address, secure: false, tls: None });
    let manifest = "manifest_version = 3\nname = \"fuzz\"\n[[local_server.kv_stores.catalog]]\nkey = \"a\"\ndata = \"b\"\n";
    let config = Arc::new(Config::from_manifest(manifest, Path::new("fastly.toml")).expect("a manifest"));
    World { runtime, platform, config, client, tokio }
});

fn program(input: &[u8]) -> Result<Vec<u8>> {
    let mut bytes = Unstructured::new(input);
    let config = Smith {
        available_imports: Some(IMPORTS.to_vec()),
        exports: Some(EXPORTS.clone()),
        allow_start_export: false,
        min_funcs: 1,
        max_funcs: 20,
        max_memories: 1,
        max_memory32_bytes: 1 << 24,
        memory64_enabled: false,
        multi_value_enabled: true,
        threads_enabled: false,
        shared_everything_threads_enabled: false,
        exceptions_enabled: false,
        gc_enabled: false,
        custom_page_sizes_enabled: false,
        wide_arithmetic_enabled: false,
        ..Smith::default()
    };
    let mut module = Module::new(config, &mut bytes)?;
    // Most of what loops never ends, and would cost 50 ms each time.
    drop(module.ensure_termination(10_000));
    Ok(module.to_bytes())
}

fuzz_target!(|input: &[u8]| {
    let Ok(wasm) = program(input) else { return };
    let world = &*WORLD;
    world.tokio.block_on(async {
        // What cannot be a program is said so.
        let Ok(guest) = world.runtime.load_bytes(&wasm, Path::new("fuzz.wasm"), &world.config) else { return };
        let services = Services::build(&world.config, None, &world.platform).unwrap_or_else(|_| panic!("no backend, no fault"));
        let current = Current::only(Snapshot::new(1, world.config.clone(), Arc::new(services), guest));
        let head = RequestHead { uri: "http://edge.test/".parse().expect("a URI"), ..RequestHead::default() };
        let id = "00000000-0000-4000-8000-000000000000".into();
        let received = Received { raw_head: bytes::Bytes::new(), client: world.client.clone(), h2_fingerprint: None, id };
        let request = DownstreamRequest { head, body: Body::empty(), received: Arc::new(received), trace: None };
        let snapshot = current.pin("", "/", &http::HeaderMap::new()).expect("a service");
        let Ok(mut serving) = world.runtime.serve(snapshot, request).await else { panic!("the last program still has its sandbox") };
        drop(serving.reply().await);
        drop(serving);
        let ended = async {
            while world.runtime.free() < 2 {
                tokio::time::sleep(Duration::from_micros(100)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), ended).await.expect("the sandbox is not given back");
    });
});
