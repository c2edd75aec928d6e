//! Sidelight runs compiled Fastly Compute programs (WebAssembly) as a server: in front of real
//! services, as a preview of a change, as a target for load.
//!
//! # Layers
//!
//! Highest first. A module may use those below it and none above; `tests/architecture.rs` checks it.
//!
//! ```text
//! main, cli          the process, its arguments
//! embed              the host within another program
//! app                builds every layer, serves, drains
//! server             clients: pingora, HTTP in and out
//! runtime            wasm: engine, guest, one execution, snapshot
//! hostcalls          what crosses: one file per module of the ABI
//! abi                how it crosses: kinds of values, adapter, statuses
//! sandbox            host state of one execution: handles, bodies, pending work, meters
//! services           the platform: backends, stores, rate counters, edge data, logs
//! http   telemetry   heads, bodies, framing | metrics, logs, clock (neither uses the other)
//! config             manifest text in, decided settings out
//! ```
//!
//! # Life of a request
//!
//! ```text
//! client ─▶ server::connection ─▶ runtime::admit, start ─▶ guest (a task of its own)
//!               ▲    │ body, as asked for                     │ hostcall
//!               │    └──────────▶ http::Body ◀────────┐       ▼
//!               │                                     │   abi::register ─▶ hostcalls::<module>
//!           Responder ◀── http_resp::send_downstream ─┤       │
//!               │                                     │       ▼
//!               ▼                                 sandbox ◀───┤
//!         server::respond                                     ▼
//!         (guest failed: status)                 services::backend (send_v2, send_async, …)
//! ```
//!
//! # Words
//!
//! *Guest*: the compiled program. *Sandbox*: one instance of it with its host state, for one
//! request. *Hostcall*: a function the guest imports. *Downstream*: the client's side. *Backend*: a
//! named origin. *Snapshot*: settings, platform and guest of a service at one moment.
//!
//! # Where to look
//!
//! A hostcall: `src/hostcalls/<module>.rs`, by its name (`sidelight hostcalls` lists them all). An
//! error's status: `src/abi/status.rs`. A status code of ours: `src/server/respond.rs`. A metric:
//! `src/telemetry/metrics.rs`. A default: `src/config/host.rs` and `src/config/resolve.rs`.

pub mod abi;
pub mod app;
pub mod cli;
pub mod config;
pub mod embed;
pub mod hostcalls;
pub mod http;
pub mod runtime;
pub mod sandbox;
pub mod server;
pub mod services;
pub mod telemetry;
