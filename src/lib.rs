//! Sidelight.
pub mod config;
pub mod http;
pub mod services;
pub mod telemetry;
