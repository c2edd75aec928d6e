//! How values cross between guest and host: argument and result kinds, the adapter around every
//! hostcall, and the one table from errors to statuses.
//!
//! A hostcall is an ordinary function of a [`Sandbox`](crate::sandbox::Sandbox) and typed values;
//! [`register`] turns it into a wasm import. Guest pointers exist in this module only.

pub mod backend;
pub mod cache;
pub mod fields;
pub mod legacy;
pub mod memory;
pub mod register;
pub mod status;
pub mod stores;
pub mod values;
pub mod versions;

use wasmtime::Memory;
use wasmtime_wasi::WasiCtx;
use wasmtime_wasi::p1::WasiP1Ctx;

use crate::sandbox::{MemoryLimiter, Sandbox};

pub use memory::GuestMemory;
pub use register::{Entry, Registrar, Support};
pub use status::{HostError, HostResult, Status};
pub use values::{Buf, Bytes64K, Capacity, Hidden, Paged, Str, WithDetail};

/// WASI preview 1 of one guest, made when the guest first calls it: many a request goes by without.
pub struct Wasi {
    made: Option<Box<WasiP1Ctx>>,
    make: Option<Box<dyn FnOnce() -> WasiP1Ctx + Send>>,
}

impl Wasi {
    /// One that is made by `make`.
    pub fn later(make: impl FnOnce() -> WasiP1Ctx + Send + 'static) -> Self {
        Self { made: None, make: Some(Box::new(make)) }
    }

    /// It, made now if it is not there.
    pub fn get(&mut self) -> &mut WasiP1Ctx {
        let Self { made, make } = self;
        made.get_or_insert_with(|| Box::new(make.take().map_or_else(|| WasiCtx::builder().build_p1(), |make| make())))
    }
}

/// What a wasmtime store holds for one running guest.
pub struct GuestState {
    /// The guest's memory, known once it is instantiated.
    pub memory: Option<Memory>,
    /// WASI preview 1.
    pub wasi: Wasi,
    /// Bounds memory and tables.
    pub limiter: MemoryLimiter,
    /// Everything of ours.
    pub sandbox: Sandbox,
}
