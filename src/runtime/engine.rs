//! wasmtime's settings and the thread that ticks its epochs.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use wasmtime::{
    Config, Enabled, Engine, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig, ProfilingStrategy, WasmBacktraceDetails,
};

use crate::config::host::{Limits, Profile};

/// How often a running guest is interrupted to let others run and to look at its CPU time.
const TICK: Duration = Duration::from_millis(5);

/// Most table elements of one guest.
pub const TABLE_ELEMENTS: usize = 100_000;

/// Stack of wasm code, as production.
const WASM_STACK: usize = 1 << 20;

/// Stack of a fiber: wasm's and the host's above it.
const FIBER_STACK: usize = 2 << 20;

/// An engine whose guests come from a pool made beforehand.
pub fn build(limits: &Limits, profile: Option<&Profile>, core_dumps: bool) -> wasmtime::Result<Engine> {
    let sandboxes = limits.sandboxes;
    // Keeping pages is only cheaper than dropping them when the kernel tells which are dirty.
    let keep = if PoolingAllocationConfig::is_pagemap_scan_available() { limits.keep_resident } else { 0 };
    let mut pool = PoolingAllocationConfig::new();
    pool.total_core_instances(sandboxes)
        .total_memories(sandboxes)
        .total_tables(sandboxes)
        .total_stacks(sandboxes)
        .max_memories_per_module(1)
        .max_tables_per_module(1)
        .table_elements(TABLE_ELEMENTS)
        .max_core_instance_size(1 << 20)
        .max_memory_size(limits.memory)
        .max_unused_warm_slots((sandboxes / 4).max(1))
        .linear_memory_keep_resident(keep)
        .table_keep_resident(64 << 10)
        .pagemap_scan(Enabled::Auto)
        .decommit_batch_size(1);
    let mut config = config(Compiled::new(profile, core_dumps));
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    Engine::new(&config)
}

/// What code depends on, of how an engine is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compiled {
    core_dumps: bool,
    perf_map: bool,
    jit_dump: bool,
}

impl Compiled {
    /// For an engine that is set up like this.
    pub fn new(profile: Option<&Profile>, core_dumps: bool) -> Self {
        let (perf_map, jit_dump) = (matches!(profile, Some(Profile::PerfMap)), matches!(profile, Some(Profile::JitDump)));
        Self { core_dumps, perf_map, jit_dump }
    }
}

/// An engine that only compiles: its code is that of one that [`build`] gives.
pub fn to_compile(how: Compiled) -> wasmtime::Result<Engine> {
    Engine::new(&config(how))
}

fn config(how: Compiled) -> Config {
    let mut config = Config::new();
    config
        .memory_init_cow(true)
        .memory_reservation(4 << 30)
        .memory_guard_size(32 << 20)
        .signals_based_traps(true)
        .epoch_interruption(true)
        .max_wasm_stack(WASM_STACK)
        .async_stack_size(FIBER_STACK)
        .cranelift_opt_level(OptLevel::Speed)
        .wasm_backtrace_max_frames(NonZeroUsize::new(32))
        .wasm_backtrace_details(WasmBacktraceDetails::Disable)
        .concurrency_support(false)
        .coredump_on_trap(how.core_dumps)
        .wasm_memory64(false)
        .profiler(match how {
            Compiled { perf_map: true, .. } => ProfilingStrategy::PerfMap,
            Compiled { jit_dump: true, .. } => ProfilingStrategy::JitDump,
            Compiled { .. } => ProfilingStrategy::None,
        });
    config
}

/// Ticks `engine`'s epoch until it is gone: more often when guests are sampled. `finer`: nanoseconds between ticks, while it is
/// not 0. `beside` is called at each tick.
pub fn tick(
    engine: &Engine,
    profile: Option<&Profile>,
    finer: &Arc<AtomicU64>,
    mut beside: impl FnMut() + Send + 'static,
) -> wasmtime::Result<()> {
    let tick = match profile {
        Some(Profile::Guests(profiles)) => profiles.interval.min(TICK),
        Some(Profile::PerfMap | Profile::JitDump) | None => TICK,
    };
    let (engine, finer) = (engine.weak(), finer.clone());
    std::thread::Builder::new()
        .name("epoch".to_owned())
        .spawn(move || {
            while let Some(engine) = engine.upgrade() {
                engine.increment_epoch();
                drop(engine);
                beside();
                std::thread::sleep(match finer.load(Ordering::Relaxed) {
                    0 => tick,
                    nanos => Duration::from_nanos(nanos).min(tick),
                });
            }
        })
        .map_err(|error| wasmtime::Error::msg(format!("starting the epoch thread: {error}")))?;
    Ok(())
}
