//! A program, loaded: checked, compiled, its imports resolved.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use wasmtime::{ExternType, InstancePre, Module, ModuleExport, UnknownImportError};

use super::Runtime;
use super::code_cache;
use super::compiler::{Effort, TooMuch, Unable};
use super::wasi;
use crate::abi::GuestState;
use crate::config::host::UnknownImports;
use crate::config::{Config, files};
use crate::telemetry::clock;

/// A loaded program, ready to be instantiated any number of times, for one service.
#[derive(Clone)]
pub struct Guest {
    pub(super) program: Arc<Program>,
    pub(super) variables: Arc<[(String, String)]>,
}

/// A loaded program; services that run the same share it.
pub struct Program {
    pub(super) pre: InstancePre<GuestState>,
    pub(super) start: ModuleExport,
    pub(super) memory: ModuleExport,
    pub(super) digest: String,
}

impl Guest {
    /// SHA-256 of the wasm, in hexadecimal.
    pub fn digest(&self) -> &str {
        &self.program.digest
    }
}

/// Programs that some service runs, by digest.
pub(super) type Programs = Mutex<HashMap<String, Weak<Program>>>;

/// Module and name of an import.
type Import = (String, String);

/// Why a program cannot be loaded. The text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file cannot be read.
    #[error("{}: {error}\n  hint: {hint}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
        /// What to do.
        hint: &'static str,
    },
    /// It cannot be got.
    #[error("{}: {error}", path.display())]
    Source {
        /// Which program.
        path: PathBuf,
        /// Why.
        error: super::source::SourceError,
    },
    /// It did not answer the request that it must answer before it is served.
    #[error("{}: it must answer {request} first, and {told}\n  hint: rollout.smoke says which request, and what is expected", path.display())]
    Smoke {
        /// Which program.
        path: PathBuf,
        /// Which request.
        request: String,
        /// What came of it.
        told: String,
    },
    /// The file is something else.
    #[error("{}: {what}\n  hint: {hint}", path.display())]
    NotAModule {
        /// Which file.
        path: PathBuf,
        /// What it is.
        what: String,
        /// What to do.
        hint: &'static str,
    },
    /// It is wasm, but does not validate or compile.
    #[error("{}: {reason}\n  hint: the file may be truncated, or use wasm features this host does not run; build it again", path.display())]
    Invalid {
        /// Which file.
        path: PathBuf,
        /// What the compiler said.
        reason: String,
    },
    /// Compiling it was ended.
    #[error("{}: {reason}\n  hint: that is no usual program; is it one large function, or has it very many?", path.display())]
    TooMuch {
        /// Which file.
        path: PathBuf,
        /// Which bound it was.
        reason: String,
    },
    /// It is not the program: something to compile it with is missing.
    #[error("{}: it cannot be compiled now: {reason}\n  hint: that is no fault of the program; reload when it is mended (memory, processes, file descriptors)", path.display())]
    Unable {
        /// Which file.
        path: PathBuf,
        /// What is missing.
        reason: String,
    },
    /// It needs more memory at its start than sandboxes have.
    #[error("{}: {reason}\n  hint: it needs more memory than sandboxes have; raise --memory-limit", path.display())]
    Memory {
        /// Which file.
        path: PathBuf,
        /// What the runtime said.
        reason: String,
    },
    /// It imports a function of ours with another signature.
    #[error("{}: {reason}\n  hint: it was built for another version of the ABI; build it with a published SDK", path.display())]
    ImportType {
        /// Which file.
        path: PathBuf,
        /// What the linker said.
        reason: String,
    },
    /// It wants functions nobody has.
    #[error("{}: imports this host does not have:\n{list}\n  hint: was it built for Fastly Compute? `--unknown-import-behavior trap` loads it all the same and traps when one is called", path.display())]
    MissingImports {
        /// Which file.
        path: PathBuf,
        /// All of them, one a line.
        list: String,
    },
    /// It lacks what every program exports.
    #[error("{}: exports no {what}\n  hint: a Compute program is a command: a `main` built for wasm32-wasip1, not a library", path.display())]
    MissingExport {
        /// Which file.
        path: PathBuf,
        /// What it lacks.
        what: &'static str,
    },
}

impl LoadError {
    /// A file that cannot be read.
    pub fn unread(path: &Path, error: std::io::Error) -> Self {
        let hint = match error.kind() {
            std::io::ErrorKind::NotFound => {
                "build the program first (`fastly compute build`), or say where it is: sidelight serve fastly.toml PATH"
            }
            _ => "it must be a wasm file this user may read",
        };
        Self::Read { path: path.to_owned(), error, hint }
    }
}

impl Runtime {
    /// Reads, checks and compiles a program. Takes as long as compiling takes: not for a thread that
    /// serves requests.
    pub fn load(&self, path: &Path, config: &Config) -> Result<Guest, LoadError> {
        let wasm = files::read(path, files::LARGEST).map_err(|error| LoadError::unread(path, error))?;
        self.load_bytes(&wasm, path, config)
    }

    /// As [`load`](Self::load), from memory; `path` names it in errors. What some service runs already is not compiled
    /// again.
    pub fn load_bytes(&self, wasm: &[u8], path: &Path, config: &Config) -> Result<Guest, LoadError> {
        self.load_within(wasm, path, config, Effort::Whole)
    }

    /// As [`load_bytes`](Self::load_bytes), unless compiling takes more than that.
    pub fn load_within(&self, wasm: &[u8], path: &Path, config: &Config, effort: Effort) -> Result<Guest, LoadError> {
        let digest = code_cache::digest(wasm);
        let variables = wasi::variables(&config.environment, config);
        let known = self.programs.lock().get(&digest).and_then(Weak::upgrade);
        let program = match known {
            Some(program) => program,
            None => {
                let begun = clock::now();
                let program = Arc::new(self.program(wasm, digest.clone(), path, effort)?);
                self.telemetry.metrics.module_load.observe(clock::now().duration_since(begun).as_secs_f64());
                let mut programs = self.programs.lock();
                programs.retain(|_, program| program.strong_count() > 0);
                programs.insert(digest, Arc::downgrade(&program));
                program
            }
        };
        Ok(Guest { program, variables })
    }

    /// Its code: made in another process, if there is one for that.
    fn compiled(&self, wasm: &[u8], effort: Effort) -> wasmtime::Result<Vec<u8>> {
        #[cfg(target_os = "linux")]
        if let Some(compiler) = &self.compiler {
            self.memory.read();
            let spare = (self.memory.most() / 10 * 9).saturating_sub(self.memory.used());
            return compiler.compile(wasm, self.compiled, spare, effort);
        }
        self.engine.precompile_module(wasm)
    }

    fn program(&self, wasm: &[u8], digest: String, path: &Path, effort: Effort) -> Result<Program, LoadError> {
        recognise(wasm, path)?;
        let invalid = |error: wasmtime::Error| {
            let (path, reason) = (path.to_owned(), format!("{error:#}"));
            // wasmtime tells these by their texts only.
            match () {
                () if error.is::<TooMuch>() => LoadError::TooMuch { path, reason },
                () if error.is::<Unable>() || error.is::<std::io::Error>() => LoadError::Unable { path, reason },
                () if reason.contains("memory") && reason.contains("exceeds the limit") => LoadError::Memory { path, reason },
                () if reason.contains("incompatible import type") => LoadError::ImportType { path, reason },
                () => LoadError::Invalid { path, reason },
            }
        };
        let module = match &self.cache {
            Some(cache) => cache.module(&self.engine, wasm, |wasm| self.compiled(wasm, effort)),
            // Whether that can be done within bounds is found out elsewhere.
            None if self.compiler.is_some() => self.compiled(wasm, effort).and_then(|_| Module::new(&self.engine, wasm)),
            None => Module::new(&self.engine, wasm),
        }
        .map_err(invalid)?;
        let start = module.get_export_index("_start").filter(|_| matches!(module.get_export("_start"), Some(ExternType::Func(_))));
        let memory = module.get_export_index("memory").filter(|_| matches!(module.get_export("memory"), Some(ExternType::Memory(_))));
        let (Some(start), Some(memory)) = (start, memory) else {
            let what = if start.is_none() { "function `_start`" } else { "memory `memory`" };
            return Err(LoadError::MissingExport { path: path.to_owned(), what });
        };
        let (pre, missing) = self.resolve(&module).map_err(invalid)?;
        if !missing.is_empty() {
            let list = lines(&missing);
            if self.unknown_imports == UnknownImports::LinkError {
                return Err(LoadError::MissingImports { path: path.to_owned(), list });
            }
            tracing::warn!(module = %path.display(), "unknown imports will trap when called:\n{list}");
        }
        module.initialize_copy_on_write_image().map_err(invalid)?;
        Ok(Program { pre, start, memory, digest })
    }

    /// Resolves every import. Functions nobody has are stood in for by ones that trap, and named.
    fn resolve(&self, module: &Module) -> wasmtime::Result<(InstancePre<GuestState>, Vec<Import>)> {
        let mut linker = Cow::Borrowed(&self.linker);
        let mut missing = Vec::new();
        loop {
            let error = match linker.instantiate_pre(module) {
                Ok(pre) => return Ok((pre, missing)),
                Err(error) => error,
            };
            let Some(unknown) = error.downcast_ref::<UnknownImportError>() else { return Err(error) };
            let (from, name) = (unknown.module().to_owned(), unknown.name().to_owned());
            let Some(ExternType::Func(ty)) =
                module.imports().find(|import| import.module() == from && import.name() == name).map(|import| import.ty())
            else {
                return Err(error);
            };
            let called = format!("this host has no {from}.{name}");
            linker.to_mut().func_new(&from, &name, ty, move |_, _, _| Err(wasmtime::Error::msg(called.clone())))?;
            missing.push((from, name));
        }
    }
}

/// A line for each module with the names imported from it.
fn lines(imports: &[Import]) -> String {
    let mut by_module: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (module, name) in imports {
        by_module.entry(module).or_default().push(name);
    }
    let lines: Vec<String> = by_module.into_iter().map(|(module, names)| format!("  {module}: {}", names.join(", "))).collect();
    lines.join("\n")
}

fn recognise(wasm: &[u8], path: &Path) -> Result<(), LoadError> {
    let not = |what: String, hint| Err(LoadError::NotAModule { path: path.to_owned(), what, hint });
    const BUILD: &str = "give the .wasm file that the build made, usually bin/main.wasm";
    match wasm {
        [] => not("the file is empty".to_owned(), "the build may have failed half-way; build it again"),
        [0, b'a', b's', b'm', 1, 0, 0, 0, ..] => Ok(()),
        [0, b'a', b's', b'm', 0x0d, 0, 1, 0, ..] => not(
            "this is a WebAssembly component; this version runs core modules".to_owned(),
            "build for wasm32-wasip1 instead of wasm32-wasip2",
        ),
        [0, b'a', b's', b'm', ..] => not("a wasm file of an unknown version, or a truncated one".to_owned(), BUILD),
        [0x1f, 0x8b, ..] => not("this is a gzip archive, not a module".to_owned(), "unpack the package and give its bin/main.wasm"),
        other => {
            // Text format, for tests and experiments.
            let text = std::str::from_utf8(other).map(str::trim_start);
            if text.is_ok_and(|text| text.starts_with("(module") || text.starts_with(";;")) {
                return Ok(());
            }
            not("not a WebAssembly module".to_owned(), BUILD)
        }
    }
}
