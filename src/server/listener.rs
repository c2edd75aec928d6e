//! Sockets that are bound before anything else starts, so that an address in use is an error with
//! a name, and so that port 0 works. pingora accepts on them.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::IntoRawFd;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use pingora::apps::ServerApp;
use pingora::server::{Fds, ListenFds, ShutdownWatch};
use pingora::services::Service as PingoraService;
use pingora::services::listening::Service;

/// A bound socket.
pub struct Bound {
    socket: TcpListener,
    /// Where it listens: the port that was given out, for port 0.
    pub address: SocketAddr,
}

impl Bound {
    /// Binds `address`.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = TcpListener::bind(address)?;
        socket.set_nonblocking(true)?;
        let address = socket.local_addr()?;
        Ok(Self { socket, address })
    }

    /// A pingora service that accepts here on `threads` threads.
    pub fn serve<A: ServerApp + Send + Sync + 'static>(self, name: &str, app: A, threads: usize) -> Listening<A> {
        let mut service = Service::new(name.to_owned(), app);
        service.add_tcp(&self.address.to_string());
        service.threads = Some(threads);
        let mut sockets = Fds::new();
        sockets.add(self.address.to_string(), self.socket.into_raw_fd());
        Listening { service, sockets: Arc::new(Mutex::new(sockets)) }
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
