//! The adapter around every hostcall: lift, run, lower, status, and the one hook for metrics and
//! traces.
//!
//! A sync hostcall becomes a plain wasm import without any future; one that waits becomes an async
//! import. Each is monomorphised up to [`SyncCall`] / [`AsyncCall`] and called through one pointer
//! from a small shim per parameter count; `docs/decisions/0001-hostcalls.md` has the figures.

use std::future::Future;
use std::panic::Location;
use std::sync::Arc;

use wasmtime::{Caller, Linker, Memory};

use super::GuestState;
use super::memory::GuestMemory;
use super::status::{HostError, HostResult, Status};
use super::values::{Lift, Lower};
use crate::sandbox::Sandbox;
use crate::telemetry::Telemetry;
use crate::telemetry::clock::{self, Ticks};
use crate::telemetry::hostcalls::{Function, Hostcalls};
use crate::telemetry::trace::record;

/// How far a hostcall does what the ABI says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    /// As production.
    Done,
    /// Some of it; the text says what is missing.
    Partial(&'static str),
    /// Answers UNSUPPORTED; the text says why.
    Unsupported(&'static str),
}

impl Support {
    /// `done`, `partial` or `unsupported`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Partial(_) => "partial",
            Self::Unsupported(_) => "unsupported",
        }
    }

    /// What is missing, if anything.
    pub fn note(self) -> &'static str {
        match self {
            Self::Done => "",
            Self::Partial(note) | Self::Unsupported(note) => note,
        }
    }
}

/// One hostcall in the listing.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The wasm module it is imported from.
    pub module: &'static str,
    /// Its name there.
    pub name: &'static str,
    /// Wasm parameters, a letter each: `i` for i32, `l` for i64. The result is always an i32.
    pub signature: String,
    /// How far it does what it should.
    pub support: Support,
    /// Where it is, from the package's root.
    pub file: &'static str,
    /// The line of its registration.
    pub line: u32,
}

/// A hostcall that does not wait: a function of the sandbox and arguments that lift.
pub trait Call<Args, Out>: Copy + Send + Sync + 'static {
    /// Runs it.
    fn call(self, sandbox: &mut Sandbox, args: Args) -> HostResult<Out>;
}

/// A hostcall that may wait. One lifetime, so that `for<'a> Wait<'a, …>` takes an `async fn`.
pub trait Wait<'a, Args, Out>: Copy + Send + Sync + 'static {
    /// What it is while it runs.
    type Running: Future<Output = HostResult<Out>> + Send + 'a;
    /// Starts it.
    fn wait(self, sandbox: &'a mut Sandbox, args: Args) -> Self::Running;
}

macro_rules! functions {
    ($($arg:ident)*) => {
        impl<F, Out, $($arg),*> Call<($($arg,)*), Out> for F
        where
            F: Fn(&mut Sandbox, $($arg),*) -> HostResult<Out> + Copy + Send + Sync + 'static,
        {
            #[allow(non_snake_case, reason = "named after their types")]
            fn call(self, sandbox: &mut Sandbox, args: ($($arg,)*)) -> HostResult<Out> {
                let ($($arg,)*) = args;
                self(sandbox, $($arg),*)
            }
        }

        impl<'a, F, Running, Out, $($arg),*> Wait<'a, ($($arg,)*), Out> for F
        where
            F: Fn(&'a mut Sandbox, $($arg),*) -> Running + Copy + Send + Sync + 'static,
            Running: Future<Output = HostResult<Out>> + Send + 'a,
        {
            type Running = Running;
            #[allow(non_snake_case, reason = "named after their types")]
            fn wait(self, sandbox: &'a mut Sandbox, args: ($($arg,)*)) -> Running {
                let ($($arg,)*) = args;
                self(sandbox, $($arg),*)
            }
        }
    };
}
functions!();
functions!(A);
functions!(A B);
functions!(A B C);
functions!(A B C D);
functions!(A B C D E);
functions!(A B C D E G);

/// Most wasm parameters of any hostcall.
const MAX_SLOTS: usize = 14;

type SyncCall = Box<dyn Fn(&mut GuestMemory<'_>, &mut Sandbox, &[u32]) -> HostResult<()> + Send + Sync>;
type AsyncFuture<'a> = Box<dyn Future<Output = wasmtime::Result<u32>> + Send + 'a>;
type AsyncCall = Box<dyn for<'a> Fn(Caller<'a, GuestState>, [u32; MAX_SLOTS]) -> AsyncFuture<'a> + Send + Sync>;

/// Counts, times and traces one hostcall. Every call passes here, and only here.
struct Probe {
    module: &'static str,
    name: &'static str,
    calls: Hostcalls,
    function: Function,
}

impl Probe {
    fn new(module: &'static str, name: &'static str, telemetry: &Telemetry) -> Self {
        let calls = telemetry.metrics.calls.clone();
        let function = calls.function(module, name, &Status::NAMES);
        Self { module, name, calls, function }
    }

    /// When a call begins, if that is of interest.
    fn begin(&self, sandbox: &Sandbox) -> Ticks {
        if self.calls.is_on() || sandbox.calls.is_some() { clock::ticks() } else { Ticks(0) }
    }

    fn count(&self, status: Status, sandbox: &mut Sandbox, called: Called) {
        if called.begun == Ticks(0) {
            return;
        }
        let ended = clock::ticks();
        if self.calls.is_on() {
            self.calls.count(self.function, status as usize, called.begun, ended);
        }
        if let Some(calls) = &mut sandbox.calls {
            let call = record::Call {
                function: self.function.number(),
                status: status as u8,
                sent: false,
                waits: called.waits,
                count: 1,
                handle: called.argument,
                bytes: called.moved,
                pages: (sandbox.meter.memory() >> 16) as u32,
                begun: called.begun,
                ended,
                time: ended.0.saturating_sub(called.begun.0),
                name: 0,
            };
            calls.push(call, called.name.as_deref());
        }
    }

    /// Counts, traces, and turns the result into what wasm gets.
    fn finish(&self, result: HostResult<()>, sandbox: &mut Sandbox, called: Called) -> wasmtime::Result<u32> {
        let status = match &result {
            Ok(()) => Status::Ok,
            Err(HostError::Status(status, _)) => *status,
            Err(HostError::Trap(_)) => Status::Error,
        };
        self.count(status, sandbox, called);
        let request_id = sandbox.id();
        match result {
            Ok(()) => {
                tracing::trace!(target: "sidelight::hostcall", request_id, module = self.module, name = self.name, status = "ok");
                Ok(Status::Ok as u32)
            }
            Err(HostError::Status(status, reason)) => {
                tracing::trace!(target: "sidelight::hostcall", request_id, module = self.module, name = self.name, status = status.name(), %reason);
                Ok(status as u32)
            }
            Err(HostError::Trap(reason)) => {
                tracing::trace!(target: "sidelight::hostcall", request_id, module = self.module, name = self.name, status = "trap", %reason);
                Err(wasmtime::Error::msg(format!("{}.{}: {reason}", self.module, self.name)))
            }
        }
    }
}

/// A call on its way.
struct Called {
    begun: Ticks,
    /// Its first argument.
    argument: u32,
    /// Bytes that went to or from the guest.
    moved: u32,
    /// Whether it may wait.
    waits: bool,
    /// The first name among its arguments, if it is recorded.
    name: Option<String>,
}

fn memory_of(caller: &mut Caller<'_, GuestState>) -> wasmtime::Result<Memory> {
    if let Some(memory) = caller.data().memory {
        return Ok(memory);
    }
    // Only while the module's start function runs.
    let export = caller.get_export("memory").and_then(wasmtime::Extern::into_memory);
    export.ok_or_else(|| wasmtime::Error::msg("the module exports no memory"))
}

fn run_sync(caller: &mut Caller<'_, GuestState>, call: &SyncCall, probe: &Probe, slots: &[u32]) -> wasmtime::Result<u32> {
    let begun = probe.begin(&caller.data().sandbox);
    let memory = memory_of(caller)?;
    let (bytes, state) = memory.data_and_store_mut(caller);
    let mut memory = GuestMemory::new(bytes);
    let result = call(&mut memory, &mut state.sandbox, slots);
    let name = state.sandbox.calls.as_ref().and_then(|_| memory.name().map(str::to_owned));
    let called = Called { begun, argument: slots.first().copied().unwrap_or_default(), moved: memory.moved(), waits: false, name };
    probe.finish(result, &mut state.sandbox, called)
}

/// Where hostcalls are declared: collects the listing and, when there is a linker, links them.
pub struct Registrar<'a> {
    module: &'static str,
    target: Option<(&'a mut Linker<GuestState>, &'a Telemetry)>,
    entries: Vec<Entry>,
    failure: Option<wasmtime::Error>,
}

macro_rules! shims {
    ($slots:expr; $($count:literal => ($($arg:ident)*)),* $(,)?) => {
        fn link_sync(linker: &mut Linker<GuestState>, probe: Probe, slots: usize, call: SyncCall) -> wasmtime::Result<()> {
            let (module, name) = (probe.module, probe.name);
            match slots {
                $($count => linker.func_wrap(module, name, move |mut caller: Caller<'_, GuestState>, $($arg: u32),*| {
                    run_sync(&mut caller, &call, &probe, &[$($arg),*])
                }),)*
                more => return Err(wasmtime::Error::msg(format!("no shim for {more} parameters"))),
            }?;
            Ok(())
        }

        fn link_async(linker: &mut Linker<GuestState>, module: &'static str, name: &'static str, slots: usize, call: AsyncCall) -> wasmtime::Result<()> {
            match slots {
                $($count => linker.func_wrap_async(module, name, move |caller: Caller<'_, GuestState>, ($($arg,)*): ($(shims!(@u32 $arg),)*)| {
                    #[allow(unused_mut, unused_assignments, unused_variables, reason = "the case without parameters")]
                    let slots = {
                        let mut slots = [0; MAX_SLOTS];
                        let mut at = 0;
                        $(slots[at] = $arg; at += 1;)*
                        slots
                    };
                    call(caller, slots)
                }),)*
                more => return Err(wasmtime::Error::msg(format!("no shim for {more} parameters"))),
            }?;
            Ok(())
        }
    };
    (@u32 $arg:ident) => { u32 };
}

shims! { MAX_SLOTS;
    0 => (),
    1 => (a),
    2 => (a b),
    3 => (a b c),
    4 => (a b c d),
    5 => (a b c d e),
    6 => (a b c d e f),
    7 => (a b c d e f g),
    8 => (a b c d e f g h),
    9 => (a b c d e f g h i),
    10 => (a b c d e f g h i j),
    11 => (a b c d e f g h i j k),
    12 => (a b c d e f g h i j k l),
    13 => (a b c d e f g h i j k l m),
    14 => (a b c d e f g h i j k l m n),
}

impl<'a> Registrar<'a> {
    /// Links into `linker`.
    pub fn linking(linker: &'a mut Linker<GuestState>, telemetry: &'a Telemetry) -> Self {
        Self { module: "", target: Some((linker, telemetry)), entries: Vec::new(), failure: None }
    }

    /// Only collects the listing.
    pub fn listing() -> Self {
        Self { module: "", target: None, entries: Vec::new(), failure: None }
    }

    /// The wasm module the next calls belong to.
    pub fn module(&mut self, name: &'static str) {
        self.module = name;
    }

    /// Every entry, or what went wrong.
    pub fn finish(self) -> wasmtime::Result<Vec<Entry>> {
        match self.failure {
            Some(error) => Err(error),
            None => Ok(self.entries),
        }
    }

    fn entry(&mut self, name: &'static str, signature: String, support: Support, place: &'static Location<'static>) {
        self.entries.push(Entry { module: self.module, name, signature, support, file: place.file(), line: place.line() });
    }

    fn sync<F, Args, Out>(&mut self, name: &'static str, support: Support, f: F, place: &'static Location<'static>)
    where
        F: Call<Args, Out>,
        Args: Lift,
        Out: Lower,
    {
        let slots = Args::SLOTS + Out::SLOTS;
        self.entry(name, "i".repeat(slots), support, place);
        let Some((linker, telemetry)) = &mut self.target else { return };
        let call: SyncCall = Box::new(move |memory, sandbox, slots| {
            let args = Args::lift(slots, memory)?;
            f.call(sandbox, args)?.lower(&slots[Args::SLOTS..], memory)
        });
        if let Err(error) = link_sync(linker, Probe::new(self.module, name, telemetry), slots, call) {
            self.failure.get_or_insert(error);
        }
    }

    fn waiting<F, Args, Out>(&mut self, name: &'static str, support: Support, f: F, place: &'static Location<'static>)
    where
        F: for<'s> Wait<'s, Args, Out>,
        Args: Lift + Send + 'static,
        Out: Lower + Send + 'static,
    {
        let slots = Args::SLOTS + Out::SLOTS;
        self.entry(name, "i".repeat(slots), support, place);
        let Some((linker, telemetry)) = &mut self.target else { return };
        let probe = Arc::new(Probe::new(self.module, name, telemetry));
        let call: AsyncCall = Box::new(move |mut caller, slots| {
            let probe = probe.clone();
            Box::new(async move {
                let begun = probe.begin(&caller.data().sandbox);
                let memory = memory_of(&mut caller)?;
                let (args, taken, name) = {
                    let (bytes, state) = memory.data_and_store_mut(&mut caller);
                    if let Some(calls) = &state.sandbox.calls {
                        calls.waits(probe.function);
                    }
                    let memory = GuestMemory::new(bytes);
                    let args = Args::lift(&slots, &memory);
                    let name = state.sandbox.calls.as_ref().and_then(|_| memory.name().map(str::to_owned));
                    (args, memory.moved(), name)
                };
                let result = match args {
                    Ok(args) => f.wait(&mut caller.data_mut().sandbox, args).await,
                    Err(error) => Err(error),
                };
                let (bytes, state) = memory.data_and_store_mut(&mut caller);
                if let Some(calls) = &state.sandbox.calls {
                    calls.goes_on();
                }
                let mut memory = GuestMemory::new(bytes);
                let stored = result.and_then(|out| out.lower(&slots[Args::SLOTS..], &mut memory));
                probe.finish(
                    stored,
                    &mut state.sandbox,
                    Called { begun, argument: slots[0], moved: taken + memory.moved(), waits: true, name },
                )
            })
        });
        if let Err(error) = link_async(linker, self.module, name, slots, call) {
            self.failure.get_or_insert(error);
        }
    }

    /// A call that does not wait and does what it should.
    #[track_caller]
    pub fn call<F, Args, Out>(&mut self, name: &'static str, f: F)
    where
        F: Call<Args, Out>,
        Args: Lift,
        Out: Lower,
    {
        self.sync(name, Support::Done, f, Location::caller());
    }

    /// A call that does not wait and does some of what it should.
    #[track_caller]
    pub fn call_partial<F, Args, Out>(&mut self, name: &'static str, missing: &'static str, f: F)
    where
        F: Call<Args, Out>,
        Args: Lift,
        Out: Lower,
    {
        self.sync(name, Support::Partial(missing), f, Location::caller());
    }

    /// A call that may wait and does what it should.
    #[track_caller]
    pub fn wait<F, Args, Out>(&mut self, name: &'static str, f: F)
    where
        F: for<'s> Wait<'s, Args, Out>,
        Args: Lift + Send + 'static,
        Out: Lower + Send + 'static,
    {
        self.waiting(name, Support::Done, f, Location::caller());
    }

    /// A call that may wait and does some of what it should.
    #[track_caller]
    pub fn wait_partial<F, Args, Out>(&mut self, name: &'static str, missing: &'static str, f: F)
    where
        F: for<'s> Wait<'s, Args, Out>,
        Args: Lift + Send + 'static,
        Out: Lower + Send + 'static,
    {
        self.waiting(name, Support::Partial(missing), f, Location::caller());
    }

    /// A call of `slots` parameters that answers UNSUPPORTED.
    #[track_caller]
    pub fn unsupported(&mut self, name: &'static str, slots: usize, why: &'static str) {
        self.entry(name, "i".repeat(slots), Support::Unsupported(why), Location::caller());
        let Some((linker, telemetry)) = &mut self.target else { return };
        let call: SyncCall = Box::new(move |_, _, _| Err(HostError::unsupported(why)));
        if let Err(error) = link_sync(linker, Probe::new(self.module, name, telemetry), slots, call) {
            self.failure.get_or_insert(error);
        }
    }

    /// The one call with a 64-bit parameter: `fastly_abi.init`.
    #[track_caller]
    pub fn version_handshake(&mut self, name: &'static str, accept: fn(u64) -> HostResult<()>) {
        self.entry(name, "l".to_owned(), Support::Done, Location::caller());
        let Some((linker, telemetry)) = &mut self.target else { return };
        let probe = Probe::new(self.module, name, telemetry);
        let linked = linker.func_wrap(self.module, name, move |mut caller: Caller<'_, GuestState>, version: u64| {
            let called =
                Called { begun: probe.begin(&caller.data().sandbox), argument: version as u32, moved: 0, waits: false, name: None };
            probe.finish(accept(version), &mut caller.data_mut().sandbox, called)
        });
        if let Err(error) = linked {
            self.failure.get_or_insert(error);
        }
    }

    /// Another name for a call that is already declared.
    pub fn alias(&mut self, module: &'static str, name: &'static str, old_module: &str, old_name: &str) {
        let Some((linker, _)) = &mut self.target else { return };
        if let Err(error) = linker.alias(module, name, old_module, old_name) {
            self.failure.get_or_insert(error);
        }
    }
}
