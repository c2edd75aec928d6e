//! Sockets that are bound before anything else starts, so that an address in use is an error with
//! a name, and so that port 0 works; and the acceptance of connections on them.

use std::fs;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd as _, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use async_trait::async_trait;
use pingora::apps::ServerApp;
use pingora::protocols::l4::stream::Stream as L4Stream;
use pingora::protocols::{GetSocketDigest as _, SocketDigest, Stream};
use pingora::server::{ListenFds, ShutdownWatch};
use pingora::services::Service as PingoraService;
use pingora_runtime::current_handle;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt;
use tokio::runtime::Handle;

use super::connection::stopping;
use super::places::{Place, Places};
use crate::config::host::Listen;
use crate::services::descriptors;
use crate::telemetry::Metrics;
use crate::telemetry::throttle::Throttle;

/// How long nothing is accepted after a failure to.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How many connections end at once where there are too many: of all, one in so many.
const AT_ONCE: usize = 32;

/// Connections that wait to be accepted; the kernel allows no more than `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// How often the log says so.
pub(super) const TELL_AGAIN: Duration = Duration::from_secs(5);

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
                notice_who_is_gone(&socket)?;
                // The standard library's own is short: in a rush, clients would have to try again after a second.
                rustix::net::listen(&socket, BACKLOG)?;
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

    /// Its address, if it is none of a Unix socket.
    pub fn tcp(&self) -> Option<SocketAddr> {
        match &self.address {
            Listen::Tcp(address) => Some(*address),
            Listen::Unix(_) => None,
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

    /// A pingora service that accepts here and serves on `threads` threads.
    pub fn serve<A: Serve>(self, name: &str, app: A, threads: usize, metrics: &Arc<Metrics>) -> Listening<A> {
        Listening { name: name.to_owned(), app: Some(app), bound: Some(self), threads, metrics: metrics.clone() }
    }
}

/// Has the kernel end connections whose clients are gone without a word. What is accepted on a socket has its options.
fn notice_who_is_gone(socket: &TcpListener) -> io::Result<()> {
    const PROBES: u32 = 4;
    sockopt::set_socket_keepalive(socket, true)?;
    sockopt::set_tcp_keepidle(socket, Duration::from_secs(60))?;
    sockopt::set_tcp_keepintvl(socket, Duration::from_secs(15))?;
    sockopt::set_tcp_keepcnt(socket, PROBES)?;
    Ok(())
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

/// What serves connections.
#[async_trait]
pub trait Serve: Send + Sync + 'static {
    /// Whether those that connect are clients, and not operators.
    const CLIENTS: bool;

    /// Serves one to its end.
    async fn serve(self: &Arc<Self>, stream: Stream, place: Arc<Place>, shutdown: &ShutdownWatch);
}

/// What answers operators.
pub struct ForOperators<A>(pub Arc<A>);

#[async_trait]
impl<A: ServerApp + Send + Sync + 'static> Serve for ForOperators<A> {
    const CLIENTS: bool = false;

    async fn serve(self: &Arc<Self>, stream: Stream, _: Arc<Place>, shutdown: &ShutdownWatch) {
        let mut next = Some(stream);
        while let Some(stream) = next {
            next = self.0.process_new(stream, shutdown).await;
        }
    }
}

/// Clients of all listeners.
static CLIENTS: LazyLock<Arc<Places>> = LazyLock::new(Arc::default);

/// How long a client may say nothing where others wait: what it has sent may be on its way.
const QUIET: Duration = Duration::from_millis(250);

/// How long those that end are waited for.
const LEAVING: Duration = Duration::from_millis(1);

/// A pingora service that accepts connections and gives them to its threads in turn.
///
/// pingora's own has every connection wake the thread that accepts, whichever serves it. Here a connection belongs to the thread
/// that serves it from the start.
pub struct Listening<A> {
    name: String,
    app: Option<A>,
    bound: Option<Bound>,
    threads: usize,
    metrics: Arc<Metrics>,
}

#[async_trait]
impl<A: Serve> PingoraService for Listening<A> {
    async fn start_service(&mut self, _: Option<ListenFds>, mut shutdown: ShutdownWatch, _: usize) {
        let (Some(app), Some(bound)) = (self.app.take(), self.bound.take()) else { return };
        let url = bound.url(&self.name);
        let listener = match Listener::here(bound) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!(address = url, %error, "connections cannot be accepted");
                return;
            }
        };
        let app = Arc::new(app);
        let threads = threads(self.threads);
        let mut turns = threads.iter().cycle();
        let (told, full) = (Throttle::default(), Throttle::default());
        let places = if A::CLIENTS { CLIENTS.clone() } else { Arc::default() };
        loop {
            if A::CLIENTS && descriptors::is_full() {
                let most = descriptors::most_clients();
                // Who comes has more to say than who says nothing.
                let ended = if listener.has_one_waiting() { places.end_waiting(most.div_ceil(AT_ONCE), QUIET) } else { 0 };
                if ended > 0 {
                    self.metrics.refusals.with_label_values(&["crowded"]).inc_by(ended as u64);
                } else {
                    self.metrics.refusals.with_label_values(&["accept"]).inc();
                }
                if full.is_due(TELL_AGAIN) {
                    let what = match ended {
                        0 => "no further one is accepted",
                        _ => "those that have asked for nothing for longest end, for each that comes",
                    };
                    tracing::warn!(
                        address = url,
                        most,
                        "there are as many connections as there are file descriptors for (ulimit -n): {what}"
                    );
                }
                tokio::select! {
                    () = stopping(&mut shutdown) => break,
                    () = tokio::time::sleep(if ended > 0 { LEAVING } else { ACCEPT_PAUSE }) => continue,
                }
            }
            let accepted = tokio::select! {
                biased;
                () = stopping(&mut shutdown) => break,
                accepted = listener.accept() => accepted,
            };
            let (accepted, thread) = match (accepted, turns.next()) {
                (Ok(accepted), Some(thread)) => (accepted, thread),
                (Ok(_), None) => break,
                (Err(error), _) => {
                    // A client that is gone again is nobody's trouble. Without file descriptors to spare, this would turn in circles.
                    if error.kind() != ErrorKind::ConnectionAborted {
                        self.metrics.refusals.with_label_values(&["accept"]).inc();
                        if told.is_due(TELL_AGAIN) {
                            tracing::warn!(address = url, %error, "a connection could not be accepted");
                        }
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                    continue;
                }
            };
            let (app, shutdown) = (app.clone(), shutdown.clone());
            // Who looks whether this process is alive has an answer, whoever else is connected.
            if !A::CLIENTS && places.end_oldest(descriptors::most_operators()) {
                self.metrics.refusals.with_label_values(&["accept"]).inc();
                if full.is_due(TELL_AGAIN) {
                    let most = descriptors::most_operators();
                    tracing::warn!(
                        address = url,
                        most,
                        "there are as many connections as there may be: the oldest one ends for each that comes"
                    );
                }
            }
            let counted = A::CLIENTS.then(descriptors::Client::new);
            places.add(|place, kept| {
                let serving = thread.spawn(async move {
                    let _here = (counted, kept);
                    match accepted.here() {
                        Ok(stream) => app.serve(Box::new(stream), place, &shutdown).await,
                        Err(error) => {
                            tracing::debug!(target: "sidelight::client", %error, "a connection was gone before it was served");
                        }
                    }
                });
                serving.abort_handle()
            });
        }
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn threads(&self) -> Option<usize> {
        Some(self.threads)
    }
}

/// The runtimes of this service's threads. pingora gives out one of them at random, of `count`.
fn threads(count: usize) -> Vec<Handle> {
    let mut found: Vec<Handle> = Vec::with_capacity(count);
    // So many that none is missed.
    for _ in 0..count * 64 {
        let handle = current_handle();
        if !found.iter().any(|known| known.id() == handle.id()) {
            found.push(handle);
        }
        if found.len() == count {
            break;
        }
    }
    found
}

/// A socket that is accepted on.
enum Listener {
    Tcp(tokio::net::TcpListener),
    Unix(tokio::net::UnixListener),
}

/// A connection that belongs to no thread yet.
enum Accepted {
    Tcp(std::net::TcpStream),
    Unix(UnixStream),
}

impl Listener {
    fn here(bound: Bound) -> io::Result<Self> {
        Ok(match bound.address {
            Listen::Tcp(_) => Self::Tcp(tokio::net::TcpListener::from_std(bound.socket.into())?),
            Listen::Unix(_) => Self::Unix(tokio::net::UnixListener::from_std(bound.socket.into())?),
        })
    }

    /// Whether somebody waits to be accepted.
    fn has_one_waiting(&self) -> bool {
        let descriptor = match self {
            Self::Tcp(listener) => listener.as_fd(),
            Self::Unix(listener) => listener.as_fd(),
        };
        let mut asked = [PollFd::from_borrowed_fd(descriptor, PollFlags::IN)];
        // An error is one of accepting, too.
        poll(&mut asked, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
    }

    async fn accept(&self) -> io::Result<Accepted> {
        Ok(match self {
            Self::Tcp(listener) => Accepted::Tcp(listener.accept().await?.0.into_std()?),
            Self::Unix(listener) => Accepted::Unix(listener.accept().await?.0.into_std()?),
        })
    }
}

impl Accepted {
    /// It, belonging to the thread that calls.
    fn here(self) -> io::Result<L4Stream> {
        let (descriptor, mut stream) = match self {
            Self::Tcp(stream) => {
                stream.set_nodelay(true)?;
                (stream.as_raw_fd(), L4Stream::from(tokio::net::TcpStream::from_std(stream)?))
            }
            Self::Unix(stream) => (stream.as_raw_fd(), L4Stream::from(tokio::net::UnixStream::from_std(stream)?)),
        };
        stream.set_socket_digest(SocketDigest::from_raw_fd(descriptor));
        Ok(stream)
    }
}
