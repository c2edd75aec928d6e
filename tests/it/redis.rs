//! Redis, for tests: a real server on a free port, that can be stopped and started again.

use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::PATIENCE;

/// One that nobody has, at this moment.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").expect("binds").local_addr().expect("an address").port()
}

pub struct Redis {
    child: Option<Child>,
    folder: tempfile::TempDir,
    program: String,
    port: u16,
}

impl Redis {
    /// `redis-server` of Debian, durable as far as a test looks.
    pub fn start() -> Self {
        Self::of("redis-server")
    }

    /// Another program that takes the same arguments.
    pub fn of(program: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut redis = Self { child: None, folder, program: program.to_owned(), port: free_port() };
        redis.again();
        redis
    }

    /// Starts it again, with what it held.
    pub fn again(&mut self) {
        let port = self.port.to_string();
        let command = Command::new(&self.program)
            .args(["--port", &port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "yes", "--appendfsync", "always", "--dir"])
            .arg(self.folder.path())
            .stdout(Stdio::null())
            .spawn();
        self.child = Some(command.unwrap_or_else(|error| panic!("{}: {error} (Debian: redis-server)", self.program)));
        let deadline = Instant::now() + PATIENCE;
        while !self.say("PING").contains("PONG") {
            assert!(Instant::now() < deadline, "{} does not answer", self.program);
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
    }

    /// Stops and continues it: it takes connections, and answers nothing.
    pub fn pause(&self, paused: bool) {
        let pid = Pid::from_raw(self.child.as_ref().expect("runs").id() as i32);
        kill(pid, if paused { Signal::SIGSTOP } else { Signal::SIGCONT }).expect("signals");
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Asks it something by hand.
    pub fn say(&self, command: &str) -> String {
        use std::io::{Read as _, Write as _};
        let Ok(mut stream) = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], self.port))) else { return String::new() };
        stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
        if stream.write_all(format!("{command}\r\n").as_bytes()).is_err() {
            return String::new();
        }
        let mut buffer = vec![0; 1 << 20];
        let read = stream.read(&mut buffer).unwrap_or(0);
        String::from_utf8_lossy(&buffer[..read]).into_owned()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}
