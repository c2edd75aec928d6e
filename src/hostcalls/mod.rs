//! The ABI: one file per module, `fastly_<file name>`, and `heads`, `client` and `lookup` for what two of
//! them share. What a call does is in its file; how values cross is [`abi`](crate::abi)'s business.

mod abi;
mod acl;
mod async_io;
mod backend;
mod cache;
mod client;
mod compute_runtime;
mod config_store;
mod device_detection;
mod dictionary;
mod erl;
mod geo;
mod heads;
mod http_body;
mod http_cache;
mod http_downstream;
mod http_req;
mod http_resp;
mod image_optimizer;
mod kv_store;
mod log;
mod lookup;
mod object_store;
mod purge;
mod secret_store;
mod shielding;
mod uap;

use wasmtime::Linker;

use crate::abi::{Entry, GuestState, Registrar, legacy};
use crate::telemetry::Telemetry;

type Module = fn(&mut Registrar<'_>);

/// Every module of the published ABI.
const MODULES: &[(&str, Module)] = &[
    ("fastly_abi", abi::module),
    ("fastly_acl", acl::module),
    ("fastly_async_io", async_io::module),
    ("fastly_backend", backend::module),
    ("fastly_cache", cache::module),
    ("fastly_compute_runtime", compute_runtime::module),
    ("fastly_config_store", config_store::module),
    ("fastly_device_detection", device_detection::module),
    ("fastly_dictionary", dictionary::module),
    ("fastly_erl", erl::module),
    ("fastly_geo", geo::module),
    ("fastly_http_body", http_body::module),
    ("fastly_http_cache", http_cache::module),
    ("fastly_http_downstream", http_downstream::module),
    ("fastly_http_req", http_req::module),
    ("fastly_http_resp", http_resp::module),
    ("fastly_image_optimizer", image_optimizer::module),
    ("fastly_kv_store", kv_store::module),
    ("fastly_log", log::module),
    ("fastly_object_store", object_store::module),
    ("fastly_purge", purge::module),
    ("fastly_secret_store", secret_store::module),
    ("fastly_shielding", shielding::module),
    ("fastly_uap", uap::module),
];

fn declare(registrar: &mut Registrar<'_>) {
    for (name, module) in MODULES {
        registrar.module(name);
        module(registrar);
    }
    for (old, module, name) in legacy::aliases() {
        registrar.alias(module, name, "env", &old);
    }
}

/// Links every hostcall, under its name and the old one if it has one.
pub fn link_all(linker: &mut Linker<GuestState>, telemetry: &Telemetry) -> wasmtime::Result<()> {
    let mut registrar = Registrar::linking(linker, telemetry);
    declare(&mut registrar);
    registrar.finish().map(drop)
}

/// Every hostcall with what it does, sorted by module and name.
pub fn listing() -> Vec<Entry> {
    let mut registrar = Registrar::listing();
    declare(&mut registrar);
    // Without a linker nothing can fail.
    let mut entries = registrar.finish().unwrap_or_default();
    entries.sort_by_key(|entry| (entry.module, entry.name));
    entries
}
