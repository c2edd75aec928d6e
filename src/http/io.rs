//! One connection, two halves: pingora's HTTP/1 sessions read from it while our writer writes.
//!
//! Reader and writer of one connection must be polled from the same task: with TLS a read may wait
//! for writability and a write for readability, and a stream keeps one waker of each kind.

use std::io::{IoSlice, Result};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use async_trait::async_trait;
use parking_lot::Mutex;
use pingora::protocols::l4::stream::Stream as L4Stream;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::tls::SslDigest;
use pingora::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, Stream, TimingDigest, UniqueID, UniqueIDType,
};
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

use super::client_hello;

/// A handle on a connection; clones share it.
#[derive(Debug, Clone)]
pub struct SharedIo(Arc<Mutex<Stream>>);

impl SharedIo {
    /// Takes a connection over.
    pub fn new(stream: Stream) -> Self {
        Self(Arc::new(Mutex::new(stream)))
    }

    /// The connection itself, when this is the last handle on it.
    pub fn into_stream(self) -> Option<Stream> {
        Arc::try_unwrap(self.0).ok().map(Mutex::into_inner)
    }
}

impl AsyncRead for SharedIo {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        Pin::new(&mut *self.0.lock()).poll_read(cx, buf)
    }
}

impl AsyncWrite for SharedIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<Result<usize>> {
        Pin::new(&mut *self.0.lock()).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut *self.0.lock()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut *self.0.lock()).poll_shutdown(cx)
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<Result<usize>> {
        Pin::new(&mut *self.0.lock()).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.lock().is_write_vectored()
    }
}

#[async_trait]
impl Shutdown for SharedIo {
    async fn shutdown(&mut self) {
        let _ = AsyncWriteExt::shutdown(self).await;
    }
}

impl UniqueID for SharedIo {
    fn id(&self) -> UniqueIDType {
        self.0.lock().id()
    }
}

impl Ssl for SharedIo {
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.0.lock().get_ssl_digest()
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.0.lock().selected_alpn_proto()
    }
}

impl GetTimingDigest for SharedIo {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.0.lock().get_timing_digest()
    }
}

impl GetProxyDigest for SharedIo {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        self.0.lock().get_proxy_digest()
    }
}

impl GetSocketDigest for SharedIo {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.0.lock().get_socket_digest()
    }
}

impl Peek for SharedIo {}

/// A TCP connection that keeps the first bytes that are read from it, for as long as it is told to.
#[derive(Debug)]
pub struct Tap {
    l4: L4Stream,
    kept: Option<Vec<u8>>,
}

/// What a tap keeps at most: the largest ClientHello that is looked at, in small records.
const MAX_KEPT: usize = 2 * client_hello::MAX;

impl AsyncRead for Tap {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.l4).poll_read(cx, buf);
        if let Some(kept) = self.kept.as_mut().filter(|kept| kept.len() < MAX_KEPT) {
            kept.extend_from_slice(&buf.filled()[before..]);
        }
        polled
    }
}

impl AsyncWrite for Tap {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<Result<usize>> {
        Pin::new(&mut self.l4).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.l4).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.l4).poll_shutdown(cx)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<Result<usize>> {
        Pin::new(&mut self.l4).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.l4.is_write_vectored()
    }
}

/// A TLS connection, to a backend or from a client.
///
/// pingora's own handshakes flatten an error to text; ours keep the cause, so that a guest learns
/// whether it was the certificate, an alert or something else. They also keep what a client sent first.
#[derive(Debug)]
pub struct TlsIo(tokio_rustls::TlsStream<Tap>);

impl TlsIo {
    /// Does a client's handshake over a fresh TCP connection.
    pub async fn connect(config: Arc<ClientConfig>, name: ServerName<'static>, l4: L4Stream) -> Result<Self> {
        let tls = tokio_rustls::TlsConnector::from(config).connect(name, Tap { l4, kept: None }).await?;
        Ok(Self(tls.into()))
    }

    /// Does a server's handshake over a fresh TCP connection. Also gives what the client sent at first.
    pub async fn accept(config: Arc<ServerConfig>, l4: L4Stream) -> Result<(Self, Vec<u8>)> {
        let tls = tokio_rustls::TlsAcceptor::from(config).accept(Tap { l4, kept: Some(Vec::new()) }).await?;
        let mut tls = tokio_rustls::TlsStream::from(tls);
        let sent = tls.get_mut().0.kept.take().unwrap_or_default();
        Ok((Self(tls), sent))
    }

    /// The session.
    pub fn session(&self) -> &rustls::CommonState {
        self.0.get_ref().1
    }

    /// The name the client asked for, on a server's side.
    pub fn server_name(&self) -> Option<&str> {
        match &self.0 {
            tokio_rustls::TlsStream::Server(server) => server.get_ref().1.server_name(),
            tokio_rustls::TlsStream::Client(_) => None,
        }
    }

    fn l4(&self) -> &L4Stream {
        &self.0.get_ref().0.l4
    }
}

impl AsyncRead for TlsIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for TlsIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[async_trait]
impl Shutdown for TlsIo {
    async fn shutdown(&mut self) {
        let _ = AsyncWriteExt::shutdown(&mut self.0).await;
    }
}

impl UniqueID for TlsIo {
    fn id(&self) -> UniqueIDType {
        self.l4().id()
    }
}

impl Ssl for TlsIo {
    fn selected_alpn_proto(&self) -> Option<ALPN> {
        (self.session().alpn_protocol()? == b"h2").then_some(ALPN::H2)
    }
}

impl GetTimingDigest for TlsIo {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.l4().get_timing_digest()
    }
}

impl GetProxyDigest for TlsIo {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        self.l4().get_proxy_digest()
    }
}

impl GetSocketDigest for TlsIo {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.l4().get_socket_digest()
    }
}

impl Peek for TlsIo {}
