//! Sockets that are bound before anything else starts, so that an address in use is an error with
//! a name, and so that port 0 works. pingora accepts on them.

use std::fs;
use std::io::{self, ErrorKind};
use std::net::TcpListener;
use std::os::fd::{IntoRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use pingora::apps::ServerApp;
use pingora::server::{Fds, ListenFds, ShutdownWatch};
use pingora::services::Service as PingoraService;
use pingora::services::listening::Service;

use crate::config::host::Listen;

/// A bound socket.
pub struct Bound {
    socket: OwnedFd,
    /// Where it listens: the port that was given out, for port 0.
    address: Listen,
}

impl Bound {
    /// Binds `address`. The file of a Unix socket that nobody serves any more is replaced, no other.
    pub fn bind(address: &Listen) -> io::Result<Self> {
        match address {
            Listen::Tcp(address) => {
                let socket = TcpListener::bind(address)?;
                socket.set_nonblocking(true)?;
                let address = Listen::Tcp(socket.local_addr()?);
                Ok(Self { socket: socket.into(), address })
            }
            Listen::Unix(path) => {
                vacate(path)?;
                let socket = UnixListener::bind(path)?;
                socket.set_nonblocking(true)?;
                Ok(Self { socket: socket.into(), address: address.clone() })
            }
        }
    }

    /// Its address as people write it.
    pub fn url(&self, scheme: &str) -> String {
        match &self.address {
            Listen::Tcp(address) => format!("{scheme}://{address}"),
            Listen::Unix(path) => format!("{scheme}+unix:{}", path.display()),
        }
    }

    /// The file of a Unix socket.
    pub fn file(&self) -> Option<File> {
        match &self.address {
            Listen::Tcp(_) => None,
            Listen::Unix(path) => {
                let found = fs::metadata(path).ok()?;
                Some(File { path: path.clone(), identity: (found.dev(), found.ino()) })
            }
        }
    }

    /// A pingora service that accepts here on `threads` threads.
    pub fn serve<A: ServerApp + Send + Sync + 'static>(self, name: &str, app: A, threads: usize) -> Listening<A> {
        let mut service = Service::new(name.to_owned(), app);
        let key = match &self.address {
            Listen::Tcp(address) => {
                let key = address.to_string();
                service.add_tcp(&key);
                key
            }
            Listen::Unix(path) => {
                // As the umask had it when it was made.
                let key = path.display().to_string();
                let mode = fs::metadata(path).map(|found| found.permissions()).ok();
                service.add_uds(&key, mode);
                key
            }
        };
        service.threads = Some(threads);
        let mut sockets = Fds::new();
        sockets.add(key, self.socket.into_raw_fd());
        Listening { service, sockets: Arc::new(Mutex::new(sockets)) }
    }
}

/// Makes room for a socket at `path`.
fn vacate(path: &Path) -> io::Result<()> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !found.file_type().is_socket() {
        return Err(io::Error::new(ErrorKind::AlreadyExists, "something that is no socket is there"));
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) => Err(error),
        Ok(_) => Err(ErrorKind::AddrInUse.into()),
    }
}

/// The file of a Unix socket of ours.
pub struct File {
    path: PathBuf,
    /// Device and inode: another process may have put its own socket there since.
    identity: (u64, u64),
}

impl File {
    /// Removes it.
    pub fn remove(&self) {
        let ours = fs::metadata(&self.path).is_ok_and(|found| (found.dev(), found.ino()) == self.identity);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(file = %self.path.display(), %error, "cannot remove the socket");
        }
    }
}

/// pingora's listening service, given our socket.
pub struct Listening<A> {
    service: Service<A>,
    sockets: ListenFds,
}

#[async_trait]
impl<A: ServerApp + Send + Sync + 'static> PingoraService for Listening<A> {
    async fn start_service(&mut self, _: Option<ListenFds>, shutdown: ShutdownWatch, listeners_per_fd: usize) {
        PingoraService::start_service(&mut self.service, Some(self.sockets.clone()), shutdown, listeners_per_fd).await;
    }

    fn name(&self) -> &str {
        PingoraService::name(&self.service)
    }

    fn threads(&self) -> Option<usize> {
        self.service.threads
    }
}
