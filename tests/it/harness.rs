//! Starts and stops `sidelight`, and names the guests.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::client::{self, Answer};

/// How long anything may take before a test gives up. Not a speed claim.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The binary to test: cargo's, or the one that `SIDELIGHT_BIN` names.
pub fn binary() -> PathBuf {
    std::env::var_os("SIDELIGHT_BIN").map_or_else(|| env!("CARGO_BIN_EXE_sidelight").into(), PathBuf::from)
}

/// Guests that have been compiled into the modules' cache, so that tests do not all compile at once.
static COMPILED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// A guest by language and name.
pub fn guest(language: &str, name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guests/out").join(language).join(format!("{name}.wasm"));
    assert!(path.exists(), "{} is not there: run tests/guests/build.sh", path.display());
    path
}

/// Declares a test for each language: `languages!(fn name(language) { … })`.
#[macro_export]
macro_rules! languages {
    ($(#[$meta:meta])* fn $name:ident($language:ident) $body:block) => {
        mod $name {
            #[allow(unused_imports, reason = "not every test needs all")]
            use super::*;

            fn check($language: &str) $body

            #[test]
            fn rust() {
                check("rust");
            }

            #[test]
            fn js() {
                check("js");
            }

            #[test]
            fn go() {
                check("go");
            }
        }
    };
}

/// Lines a process has written so far.
#[derive(Clone, Default)]
pub struct Log(Arc<(Mutex<Vec<String>>, Condvar)>);

impl Log {
    pub fn follow(&self, stream: impl std::io::Read + Send + 'static) {
        let log = self.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                log.0.0.lock().unwrap_or_else(PoisonError::into_inner).push(line);
                log.0.1.notify_all();
            }
            log.0.0.lock().unwrap_or_else(PoisonError::into_inner).push(END.to_owned());
            log.0.1.notify_all();
        });
    }

    /// The first line that `wanted` takes, waiting for it.
    pub fn wait<T>(&self, what: &str, wanted: impl Fn(&str) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        let mut lines = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut seen = 0;
        loop {
            if let Some(found) = lines[seen..].iter().find_map(|line| wanted(line)) {
                return found;
            }
            assert!(lines.last().is_none_or(|line| line != END), "the process ended without {what}:\n{}", lines.join("\n"));
            seen = lines.len();
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no {what} in the log:\n{}", lines.join("\n"));
            lines = self.0.1.wait_timeout(lines, left).expect("the log").0;
        }
    }

    /// Waits for a line that holds all of `parts`.
    pub fn wait_for(&self, parts: &[&str]) -> String {
        self.wait(&format!("line with {parts:?}"), |line| parts.iter().all(|part| line.contains(part)).then(|| line.to_owned()))
    }

    /// Everything so far.
    pub fn text(&self) -> String {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner).join("\n")
    }
}

const END: &str = "(end of output)";

/// What to start.
pub struct Setup {
    manifest: String,
    guest: PathBuf,
    args: Vec<String>,
    env: Vec<(String, String)>,
    files: Vec<(String, String)>,
    copies: Vec<(String, PathBuf)>,
    quiet: bool,
    /// The host file, in place of manifest and guest.
    host: Option<String>,
    /// Whether `args` is the whole command line.
    raw: bool,
    /// What becomes it, if not the binary itself.
    within: Vec<String>,
}

impl Setup {
    /// With just this command line, in the folder of its files; `$guest` is a guest's path.
    pub fn command_line(line: &str, guest: &Path) -> Self {
        let args = line.split_whitespace().map(|arg| arg.replace("$guest", &guest.display().to_string())).collect();
        Self { raw: true, args, ..Self::new(guest.to_owned()) }
    }

    /// As a host file says; its services' files are made with [`file`](Self::file).
    pub fn host(text: &str) -> Self {
        Self { host: Some(text.to_owned()), ..Self::new(PathBuf::new()) }
    }

    pub fn new(guest: PathBuf) -> Self {
        Self {
            raw: false,
            host: None,
            manifest: "manifest_version = 3\nname = \"it\"\n".to_owned(),
            guest,
            args: Vec::new(),
            env: Vec::new(),
            files: Vec::new(),
            copies: Vec::new(),
            quiet: false,
            within: Vec::new(),
        }
    }

    /// A guest in WebAssembly's text format, for what no SDK does.
    pub fn wat(text: &str) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("{}-{}.wat", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::write(&path, text).expect("a file");
        Self::new(path)
    }

    /// A guest program `behaviours` of a language.
    pub fn behaviours(language: &str) -> Self {
        Self::new(guest(language, "behaviours"))
    }

    pub fn backend(self, name: &str, url: impl std::fmt::Display) -> Self {
        self.manifest(&format!("[local_server.backends.{name}]\nurl = \"{url}\"\n"))
    }

    pub fn manifest(mut self, more: &str) -> Self {
        self.manifest.push_str(more);
        self
    }

    pub fn arg(mut self, arg: &str) -> Self {
        self.args.extend(arg.split(' ').map(str::to_owned));
        self
    }

    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.push((name.to_owned(), value.into()));
        self
    }

    /// A command that it is an argument of, and that becomes it.
    pub fn within(mut self, command: &[&str]) -> Self {
        self.within = command.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    /// A file beside the manifest.
    pub fn file(mut self, name: &str, text: &str) -> Self {
        self.files.push((name.to_owned(), text.to_owned()));
        self
    }

    /// A copy of a file beside the manifest.
    pub fn copy(mut self, name: &str, of: &Path) -> Self {
        self.copies.push((name.to_owned(), of.to_owned()));
        self
    }

    /// Logging as little as can be: for figures.
    #[allow(dead_code, reason = "benches use it")]
    pub fn quiet(mut self) -> Self {
        self.quiet = true;
        self
    }

    fn command(&self, folder: &Path) -> Command {
        for (name, text) in &self.files {
            write(&folder.join(name), text);
        }
        for (name, of) in &self.copies {
            std::fs::copy(of, folder.join(name)).expect("copies");
        }
        match &self.host {
            Some(text) => write(&folder.join("sidelight.toml"), text),
            None => write(&folder.join("fastly.toml"), &self.manifest),
        }
        let modules = Path::new(env!("CARGO_TARGET_TMPDIR")).join("modules");
        let mut command = match self.within.split_first() {
            Some((program, more)) => {
                let mut command = Command::new(program);
                command.args(more).arg(binary());
                command
            }
            None => Command::new(binary()),
        };
        if self.raw {
            command.args(&self.args).current_dir(folder).env("SIDELIGHT_CACHE_DIR", modules);
            command.envs(self.env.iter().map(|(name, value)| (name, value)));
            command.env_remove("RUST_LOG").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
            return command;
        }
        command
            .arg("serve")
            .args(if self.args.iter().any(|arg| arg == "--admin") { &[] as &[&str] } else { &["--admin", "127.0.0.1:0"] })
            .args([if self.quiet { "--log-format=text" } else { "-vv" }])
            .args(if self.args.iter().any(|arg| arg == "--addr") { &[] as &[&str] } else { &["--addr", "127.0.0.1:0"] })
            .args(&self.args)
            .env("SIDELIGHT_CACHE_DIR", modules)
            .args(match &self.host {
                Some(_) => vec![folder.join("sidelight.toml")],
                None => vec![folder.join("fastly.toml"), self.guest.clone()],
            })
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        command
    }

    /// Starts it, and does not wait.
    pub fn spawn(self, folder: &Path) -> Child {
        self.command(folder).spawn().expect("the binary starts")
    }

    /// Starts it and waits until it serves.
    pub fn start(self) -> Sidelight {
        let mut compiled = COMPILED.lock().unwrap_or_else(PoisonError::into_inner);
        if compiled.contains(&self.guest) {
            drop(compiled);
            return self.start_now();
        }
        let guest = self.guest.clone();
        let started = self.start_now();
        compiled.insert(guest);
        started
    }

    fn start_now(self) -> Sidelight {
        let folder = tempfile::tempdir().expect("a folder");
        let mut child = self.command(folder.path()).spawn().expect("the binary starts");
        let log = Log::default();
        log.follow(child.stderr.take().expect("a pipe"));
        let admin = log.wait("admin address", |line| address_after(line, "metrics on http://"));
        let addr = log.wait("address", |line| address_after(line, "Listening on http://"));
        Sidelight { child: Some(child), addr, admin, log, folder }
    }

    /// Runs it to its end, which must come by itself.
    pub fn fails(self) -> (ExitStatus, String) {
        let folder = tempfile::tempdir().expect("a folder");
        let mut child = self.command(folder.path()).spawn().expect("the binary starts");
        let log = Log::default();
        log.follow(child.stderr.take().expect("a pipe"));
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = child.try_wait().expect("a status") {
                log.wait("end", |line| (line == END).then_some(()));
                return (status, log.text().replace(&folder.path().display().to_string(), "FOLDER"));
            }
            if Instant::now() > deadline {
                child.kill().expect("dies");
                panic!("still running:\n{}", log.text());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn address_after(line: &str, mark: &str) -> Option<SocketAddr> {
    let rest = &line[line.find(mark)? + mark.len()..];
    rest.split(|c: char| !c.is_ascii_hexdigit() && !".:[]".contains(c)).next()?.parse().ok()
}

/// A running server; killed when dropped.
pub struct Sidelight {
    child: Option<Child>,
    pub addr: SocketAddr,
    pub admin: SocketAddr,
    pub log: Log,
    folder: tempfile::TempDir,
}

/// Writes a file, and its folder if need be.
fn write(path: &Path, text: &str) {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).expect("a folder");
    }
    std::fs::write(path, text).expect("a file");
}

impl Sidelight {
    /// A path in the folder of its manifest.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file there, in place.
    pub fn write(&self, name: &str, text: &str) {
        write(&self.path(name), text);
    }

    /// As a request to `host`.
    pub fn get_of(&self, host: &str, path: &str) -> Answer {
        client::send(self.addr, &format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"))
    }

    /// What the operators' listener answers.
    pub fn operate(&self, method: &str, path: &str) -> Answer {
        client::send(self.admin, &format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"))
    }

    /// Asks for a reload; the verdict.
    pub fn reload(&self) -> serde_json::Value {
        serde_json::from_str(&self.operate("POST", "/reload").text()).expect("a verdict")
    }

    pub fn get(&self, path: &str) -> Answer {
        client::send(self.addr, &format!("GET {path} HTTP/1.1\r\nHost: edge.test\r\nConnection: close\r\n\r\n"))
    }

    pub fn post(&self, path: &str, body: &str) -> Answer {
        let length = body.len();
        client::send(
            self.addr,
            &format!("POST {path} HTTP/1.1\r\nHost: edge.test\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"),
        )
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("running").id()
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid() as i32), signal).expect("signals");
    }

    /// Waits for the process's end.
    pub fn end(mut self) -> ExitStatus {
        let mut child = self.child.take().expect("running");
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = child.try_wait().expect("a status") {
                return status;
            }
            if Instant::now() > deadline {
                child.kill().expect("dies");
                panic!("did not end:\n{}", self.log.text());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// A metric's value: the sum of all series that have these labels, and maybe more; 0 when there are none.
    pub fn metric(&self, wanted: &str) -> f64 {
        let text = client::send(self.admin, "GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").text();
        let parts = |series: &str| {
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            let labels: Vec<String> =
                labels.trim_end_matches('}').split(',').filter(|label| !label.is_empty()).map(str::to_owned).collect();
            (name.to_owned(), labels)
        };
        let (name, labels) = parts(wanted);
        let values = text.lines().filter(|line| line.starts_with(&name)).filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let (found, has) = parts(series);
            (found == name && labels.iter().all(|label| has.contains(label))).then(|| value.parse::<f64>().ok()).flatten()
        });
        values.sum()
    }

    /// Waits until a metric has a value.
    pub fn wait_metric(&self, name: &str, wanted: f64) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let value = self.metric(name);
            if (value - wanted).abs() < f64::EPSILON {
                return;
            }
            assert!(Instant::now() < deadline, "{name} is {value}, not {wanted}:\n{}", self.log.text());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Sidelight {
    /// Where it serves HTTPS.
    pub fn secure_addr(&self) -> SocketAddr {
        self.log.wait("HTTPS address", |line| address_after(line, "Listening on https://"))
    }

    /// Waits until `done` says so.
    pub fn wait_until(&self, what: &str, done: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !done(self) {
            assert!(Instant::now() < deadline, "{what} did not come:\n{}", self.log.text());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Sidelight {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
        if std::thread::panicking() {
            eprintln!("--- log of sidelight ---\n{}", self.log.text());
        }
    }
}

/// A file system in memory, of so many MiB; gone with this. It takes root.
pub struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    pub fn new(mib: u32) -> Self {
        let disk = Self(tempfile::tempdir().expect("a folder"));
        disk.mount(&["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs"]);
        disk
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Has so much room from now on.
    pub fn resize(&self, mib: u32) {
        self.mount(&["-o", &format!("remount,size={mib}m")]);
    }

    fn mount(&self, args: &[&str]) {
        let mounted = Command::new("mount").args(args).arg(self.path()).status().expect("mount");
        assert!(mounted.success(), "a file system in memory, which takes root");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Whoever still has files there keeps it until then.
        drop(Command::new("umount").arg("-l").arg(self.path()).status());
    }
}
