//! Black-box tests: the real binary, real guests, real origins, real sockets.
//!
//! Guests come from `tests/guests/build.sh`; `make test` runs it first.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test ends at its first surprise, waits and reads its settings"
)]

mod abi;
mod admin;
mod attacks;
mod backends;
mod bad_input;
mod caching;
mod checks;
mod client;
mod descriptors;
mod drop_in;
mod dropins;
mod echo;
mod exhaustion;
mod facts;
mod fanout;
mod faults;
mod go_sdk;
mod handoff;
mod harness;
mod health;
mod hops;
mod http2;
mod inspector;
mod isolation;
mod kv;
mod limits;
mod logging;
mod memory;
mod messages;
mod metrics;
mod mishaps;
mod mmdb;
mod origin;
mod passthrough;
mod phases;
mod platform;
mod protocol;
mod rates;
mod redis;
mod reload;
mod reuse;
mod services;
mod shutdown;
mod sinks;
mod sources;
mod stores;
mod streaming;
mod synthetic;
mod tls;
mod tls_clients;
mod traces;
mod upload;
