//! Programs are compiled in a process of their own. Compiling is the one thing that a program has done to this host before it is in a
//! sandbox, and there are programs of a few MiB that take minutes and GiB of it: here it ends at a bound, and with it the
//! process that does it.
//!
//! The process that serves cannot start another one (it has given that up), so a helper that does is started before; it starts one for each
//! program, watches it, and ends with the process that serves.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::engine::{self, Compiled};
use crate::telemetry::clock;

/// How long a program may take to be compiled.
const TIME: Duration = Duration::from_secs(120);

/// How often whoever compiles is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// Memory that it may have at least, in bytes, and at most.
const LEAST: u64 = 256 << 20;
const MOST: u64 = 4 << 30;

/// Most bytes of what it says.
const TEXT: u64 = 8 << 10;

/// It has said what is wrong with the program.
const REFUSED: u8 = 3;

/// The helper, as this process has it.
#[derive(Debug)]
pub struct Compiler(Mutex<Helper>);

#[derive(Debug)]
struct Helper {
    /// Ends when its input does.
    _process: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

/// What is to be compiled, and how.
#[derive(Serialize, Deserialize)]
struct Job {
    /// Where the program is.
    wasm: PathBuf,
    /// Where its code goes.
    code: PathBuf,
    /// As what it is compiled.
    how: Compiled,
    /// Bytes of memory that it may take.
    memory: u64,
}

#[derive(Serialize, Deserialize)]
enum Done {
    Compiled,
    Refused(String),
    Broken(String),
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
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            // What a terminal tells this process is not for the helper.
            .process_group(0)
            .spawn()?;
        let (Some(to), Some(from)) = (process.stdin.take(), process.stdout.take()) else { return Err(io::ErrorKind::BrokenPipe.into()) };
        Ok(Self(Mutex::new(Helper { _process: process, to, from: BufReader::new(from) })))
    }

    /// Compiles a program, with so many bytes of memory to spare.
    #[cfg(target_os = "linux")]
    pub fn compile(&self, wasm: &[u8], how: Compiled, spare: u64) -> wasmtime::Result<Vec<u8>> {
        let (mut program, wasm_at) = in_memory("program")?;
        let (mut code, code_at) = in_memory("code")?;
        program.write_all(wasm)?;
        let job = Job { wasm: wasm_at, code: code_at, how, memory: spare.clamp(LEAST, MOST) };
        let mut line = serde_json::to_string(&job)?;
        line.push('\n');
        let mut answer = String::new();
        let mut helper = self.0.lock();
        helper.to.write_all(line.as_bytes())?;
        helper.from.read_line(&mut answer)?;
        drop(helper);
        match serde_json::from_str(&answer)
            .unwrap_or_else(|_| Done::Broken("the helper that compiles is gone: restart this process".to_owned()))
        {
            Done::Compiled => {
                let mut all = Vec::new();
                code.rewind()?;
                code.read_to_end(&mut all)?;
                Ok(all)
            }
            Done::Refused(text) | Done::Broken(text) => Err(wasmtime::Error::msg(text)),
        }
    }
}

/// The helper: takes jobs until there is nobody to give them.
pub fn help() -> ExitCode {
    let (lines, jobs) = mpsc::channel();
    std::thread::spawn(move || {
        for line in io::stdin().lock().lines() {
            let Ok(line) = line else { return };
            if lines.send(line).is_err() {
                return;
            }
        }
    });
    while let Ok(line) = jobs.recv() {
        let Ok(job) = serde_json::from_str::<Job>(&line) else { return ExitCode::FAILURE };
        let Some(done) = watch(&line, &job, &jobs) else { return ExitCode::SUCCESS };
        let Ok(text) = serde_json::to_string(&done) else { return ExitCode::FAILURE };
        if writeln!(io::stdout().lock(), "{text}").is_err() {
            return ExitCode::SUCCESS;
        }
    }
    ExitCode::SUCCESS
}

/// Has a program compiled; `None`: whoever wanted that is gone.
fn watch(line: &str, job: &Job, jobs: &mpsc::Receiver<String>) -> Option<Done> {
    let broken = |text: String| Some(Done::Broken(text));
    let started = Command::new("/proc/self/exe")
        .arg0("sidelight")
        .args(["compile", line])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let mut child = match started {
        Ok(child) => child,
        Err(error) => return broken(format!("nothing can be started to compile it: {error}")),
    };
    let begun = clock::now();
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) => {}
            Err(error) => return broken(format!("whoever compiles it is lost: {error}")),
        }
        let over = match resident(child.id()) {
            Some(bytes) if bytes > job.memory => Some(format!("compiling it takes more than {} MiB of memory", job.memory >> 20)),
            _ if clock::now().duration_since(begun) > TIME => Some(format!("compiling it takes more than {} s", TIME.as_secs())),
            _ => None,
        };
        // No further job comes while this one is not done.
        let gone = jobs.recv_timeout(LOOK) == Err(RecvTimeoutError::Disconnected);
        if over.is_some() || gone {
            drop(child.kill());
            drop(child.wait());
            return over.map(Done::Broken);
        }
    };
    let mut text = String::new();
    if let Some(said) = child.stdout.take() {
        drop(said.take(TEXT).read_to_string(&mut text));
    }
    match status.code() {
        Some(0) => Some(Done::Compiled),
        Some(code) if code == i32::from(REFUSED) => Some(Done::Refused(text)),
        _ => broken(format!("whoever compiles it ended: {status}")),
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
