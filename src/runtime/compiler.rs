//! Programs are compiled in a process of their own. Compiling is the one thing that a program has done to this host before it is in a
//! sandbox, and there are programs of a few MiB that take minutes and GiB of it: here it ends at a bound, and with it the
//! process that does it.
//!
//! The process that serves cannot start another one (it has given that up), so a helper that does is started before; it starts one for each
//! program, several at once if it is asked to, watches them, and ends with the process that serves.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::engine::{self, Compiled};
use crate::services::memory;
use crate::telemetry::clock;

/// How long a program may take to be compiled.
const TIME: Duration = Duration::from_secs(120);

/// How often whoever compiles is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// Memory that it may have at least, in bytes, and at most.
const LEAST: u64 = 256 << 20;
const MOST: u64 = 4 << 30;

/// How much more, or less, it has when that is told again, in bytes.
const MUCH: u64 = 16 << 20;

/// Most bytes of what it says.
const TEXT: u64 = 8 << 10;

/// It has said what is wrong with the program.
const REFUSED: u8 = 3;

/// How much a program may take of what there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// All that a program may take.
    Whole,
    /// All the time, and most of the memory: somebody else's may be compiled beside it.
    Most,
    /// Fifteen seconds and some memory. Nearly all programs need no more.
    Some,
    /// Three seconds and as much memory: small programs.
    Quick,
}

impl Effort {
    fn time(self) -> Duration {
        match self {
            Self::Whole | Self::Most => TIME,
            Self::Some => TIME / 8,
            Self::Quick => TIME / 40,
        }
    }

    /// Of so many bytes of memory to spare.
    fn memory(self, spare: u64) -> u64 {
        let its = match self {
            Self::Whole => spare,
            Self::Most => spare / 2,
            Self::Some | Self::Quick => spare / 4,
        };
        its.clamp(LEAST, MOST)
    }
}

/// Compiling a program was ended: it took more than it might.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct TooMuch(String);

/// Compiling a program could not be tried.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unable(String);

/// The helper, as this process has it.
#[derive(Debug)]
pub struct Compiler {
    /// Ends when its input does.
    _process: Child,
    to: Mutex<ChildStdin>,
    waiting: Arc<Mutex<Waiting>>,
    /// Set when it is not wanted any more.
    over: Arc<AtomicBool>,
    /// Bytes that all who compile now may have together.
    promised: Mutex<u64>,
}

/// What one that compiles may have.
struct Promise<'a> {
    all: &'a Mutex<u64>,
    bytes: u64,
}

impl Drop for Promise<'_> {
    fn drop(&mut self) {
        *self.all.lock() -= self.bytes;
    }
}

/// Who waits for which job; `None`: the helper is gone.
type Waiting = Option<HashMap<u64, mpsc::Sender<Done>>>;

/// What is to be compiled, and how.
#[derive(Serialize, Deserialize)]
struct Job {
    /// Its number.
    id: u64,
    /// Where the program is.
    wasm: PathBuf,
    /// Where its code goes.
    code: PathBuf,
    /// As what it is compiled.
    how: Compiled,
    /// Bytes of memory that it may take.
    memory: u64,
    /// Time that it may take.
    time: Duration,
}

#[derive(Serialize, Deserialize)]
enum Done {
    Compiled,
    Refused(String),
    TooMuch(String),
    Broken(String),
    /// So many bytes of memory are used by now; it goes on.
    Has(u64),
}

/// A file in memory, and the path by which another process of this user opens it.
#[cfg(target_os = "linux")]
fn in_memory(name: &str) -> io::Result<(File, PathBuf)> {
    let file = File::from(rustix::fs::memfd_create(name, rustix::fs::MemfdFlags::CLOEXEC)?);
    let path = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
    Ok((file, path.into()))
}

impl Compiler {
    /// Starts the helper: before this process gives up starting others.
    #[cfg(target_os = "linux")]
    pub fn start() -> io::Result<Self> {
        let mut process = Command::new("/proc/self/exe")
            .arg0("sidelight")
            .arg("compiler")
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            // What a terminal tells this process is not for the helper.
            .process_group(0)
            .spawn()?;
        let (Some(to), Some(from)) = (process.stdin.take(), process.stdout.take()) else { return Err(io::ErrorKind::BrokenPipe.into()) };
        let waiting: Arc<Mutex<Waiting>> = Arc::new(Mutex::new(Some(HashMap::new())));
        let answered = waiting.clone();
        let over = Arc::new(AtomicBool::new(false));
        let wanted = over.clone();
        std::thread::Builder::new().name("compiler".to_owned()).spawn(move || {
            let mut used = HashMap::new();
            for line in BufReader::new(from).lines().map_while(Result::ok) {
                let Ok((id, done)) = serde_json::from_str::<(u64, Done)>(&line) else { break };
                match done {
                    Done::Has(bytes) => drop(used.insert(id, bytes)),
                    _ => drop(used.remove(&id)),
                }
                memory::compilers_have(used.values().sum());
                if matches!(done, Done::Has(_)) {
                    continue;
                }
                if let Some(waits) = answered.lock().as_mut().and_then(|waiting| waiting.remove(&id)) {
                    // Whoever waits does so to the end.
                    drop(waits.send(done));
                }
            }
            *answered.lock() = None;
            memory::compilers_have(0);
            if !wanted.load(Ordering::Relaxed) {
                tracing::error!("{GONE}");
            }
        })?;
        Ok(Self { _process: process, to: Mutex::new(to), waiting, over, promised: Mutex::default() })
    }

    /// Compiles a program, with so many bytes of memory to spare.
    #[cfg(target_os = "linux")]
    pub fn compile(&self, wasm: &[u8], how: Compiled, spare: u64, effort: Effort) -> wasmtime::Result<Vec<u8>> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let (mut program, wasm_at) = in_memory("program")?;
        let (mut code, code_at) = in_memory("code")?;
        program.write_all(wasm)?;
        let id = COUNT.fetch_add(1, Ordering::Relaxed);
        let promise = self.promise(spare, effort);
        let job = Job { id, wasm: wasm_at, code: code_at, how, memory: promise.bytes, time: effort.time() };
        let mut line = serde_json::to_string(&job)?;
        line.push('\n');
        let (sender, answer) = mpsc::channel();
        match self.waiting.lock().as_mut() {
            Some(waiting) => drop(waiting.insert(id, sender)),
            None => return Err(Unable(GONE.to_owned()).into()),
        }
        self.to.lock().write_all(line.as_bytes())?;
        match answer.recv() {
            Ok(Done::Compiled) => {
                let mut all = Vec::new();
                code.rewind()?;
                code.read_to_end(&mut all)?;
                Ok(all)
            }
            Ok(Done::TooMuch(text)) => Err(TooMuch(text).into()),
            Ok(Done::Refused(text)) => Err(wasmtime::Error::msg(text)),
            Ok(Done::Broken(text)) => Err(Unable(text).into()),
            Ok(Done::Has(_)) | Err(_) => Err(Unable(GONE.to_owned()).into()),
        }
    }

    /// Why nothing can be compiled any more, if that is so.
    pub fn trouble(&self) -> Option<&'static str> {
        self.waiting.lock().is_none().then_some(GONE)
    }

    /// A part of the memory there is to spare, without what others may have that compile now.
    fn promise(&self, spare: u64, effort: Effort) -> Promise<'_> {
        let mut all = self.promised.lock();
        // What they have of it by now is not to spare, and is theirs.
        let bytes = effort.memory((spare + memory::of_compilers()).saturating_sub(*all));
        *all += bytes;
        Promise { all: &self.promised, bytes }
    }
}

/// Why nothing can be compiled any more: nobody here may start another one.
const GONE: &str = "the helper that compiles is gone, and programs that are new or changed are refused: restart this process";

impl Drop for Compiler {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

/// The helper: takes jobs until there is nobody to give them.
pub fn help() -> ExitCode {
    let alone = Arc::new(AtomicBool::new(false));
    let mut works = Vec::new();
    for line in io::stdin().lock().lines().map_while(Result::ok) {
        let Ok(job) = serde_json::from_str::<Job>(&line) else { break };
        let alone = alone.clone();
        works.retain(|work: &JoinHandle<()>| !work.is_finished());
        works.push(std::thread::spawn(move || {
            let tell = |done: Done| {
                if let Ok(text) = serde_json::to_string(&(job.id, done)) {
                    // Nobody reads it: the end of the input comes, too.
                    drop(writeln!(io::stdout().lock(), "{text}"));
                }
            };
            tell(watch(&line, &job, &alone, tell));
        }));
    }
    alone.store(true, Ordering::Relaxed);
    for work in works {
        drop(work.join());
    }
    ExitCode::SUCCESS
}

/// Has a program compiled. `alone`: whoever wanted that is gone. `tell` hears how much memory that takes.
fn watch(line: &str, job: &Job, alone: &AtomicBool, tell: impl Fn(Done)) -> Done {
    let started = Command::new("/proc/self/exe")
        .arg0("sidelight")
        .args(["compile", line])
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let mut child = match started {
        Ok(child) => child,
        Err(error) => return Done::Broken(format!("nothing can be started to compile it: {error}")),
    };
    let (begun, mut told) = (clock::now(), 0);
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) => {}
            Err(error) => return Done::Broken(format!("whoever compiles it is lost: {error}")),
        }
        let resident = resident(child.id());
        if let Some(bytes) = resident.filter(|bytes| bytes.abs_diff(told) >= MUCH) {
            told = bytes;
            tell(Done::Has(bytes));
        }
        let over = match resident {
            Some(bytes) if bytes > job.memory => Some(format!("compiling it takes more than {} MiB of memory", job.memory >> 20)),
            _ if clock::now().duration_since(begun) > job.time => Some(format!("compiling it takes more than {} s", job.time.as_secs())),
            _ => None,
        };
        if over.is_some() || alone.load(Ordering::Relaxed) {
            drop(child.kill());
            drop(child.wait());
            return Done::TooMuch(over.unwrap_or_default());
        }
        std::thread::sleep(LOOK);
    };
    let mut text = String::new();
    if let Some(said) = child.stdout.take() {
        drop(said.take(TEXT).read_to_string(&mut text));
    }
    match status.code() {
        Some(0) => Done::Compiled,
        Some(code) if code == i32::from(REFUSED) => Done::Refused(text),
        // Somebody has ended it: the kernel, for want of memory.
        None => Done::TooMuch(format!("whoever compiles it ended: {status}")),
        Some(_) => Done::Broken(format!("whoever compiles it ended: {status}")),
    }
}

/// Memory that a process has, in bytes.
fn resident(process: u32) -> Option<u64> {
    let pages = std::fs::read_to_string(format!("/proc/{process}/statm")).ok()?;
    let pages: u64 = pages.split(' ').nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

/// One program: what the helper starts.
pub fn compile(job: &str) -> ExitCode {
    super::stand_back();
    // Nobody looks after it without whoever started it.
    #[cfg(target_os = "linux")]
    if rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL)).is_err() {
        return ExitCode::FAILURE;
    }
    // Should the kernel have to end somebody.
    drop(std::fs::write("/proc/self/oom_score_adj", "1000"));
    let compiled = || -> wasmtime::Result<()> {
        let job: Job = serde_json::from_str(job)?;
        let wasm = std::fs::read(&job.wasm)?;
        let code = engine::to_compile(job.how)?.precompile_module(&wasm)?;
        std::fs::OpenOptions::new().write(true).open(&job.code)?.write_all(&code)?;
        Ok(())
    };
    match compiled() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            drop(write!(io::stdout().lock(), "{error:#}"));
            ExitCode::from(REFUSED)
        }
    }
}
