//! Sidelight runs compiled Fastly Compute programs.
pub mod abi;
pub mod config;
pub mod hostcalls;
pub mod runtime;
pub mod http;
pub mod sandbox;
pub mod server;
pub mod services;
pub mod telemetry;
