//! The client side of a sandbox: what whoever serves connections must supply, and gets back.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::http::{Body, RequestHead, ResponseHead};

/// What is known about a client and its connection.
#[derive(Clone, Debug)]
pub struct Client {
    /// The client's address.
    pub address: SocketAddr,
    /// The address it connected to.
    pub server: SocketAddr,
}

/// A client's request on its way to a guest.
#[derive(Debug)]
pub struct DownstreamRequest {
    /// The head, its URI absolute.
    pub head: RequestHead,
    /// The head as it came.
    pub raw_head: Bytes,
    /// The body, read from the client only as it is read here.
    pub body: Body,
    /// Who asks.
    pub client: Arc<Client>,
    /// Names this request in logs, traces and error answers: a UUID.
    pub id: Arc<str>,
}

/// A guest's answer.
#[derive(Debug)]
pub struct DownstreamResponse {
    /// The head.
    pub head: ResponseHead,
    /// The body, which the guest may still be writing.
    pub body: Body,
}

/// The way back to the client; one answer fits through it.
#[derive(Debug)]
pub struct Responder(oneshot::Sender<DownstreamResponse>);

/// The client is gone.
#[derive(Debug, thiserror::Error)]
#[error("the client is gone")]
pub struct ClientGone;

impl Responder {
    /// A responder, and where its answer arrives. The receiver fails when the responder is dropped
    /// unused: the guest ended without an answer.
    pub fn new() -> (Self, oneshot::Receiver<DownstreamResponse>) {
        let (sender, receiver) = oneshot::channel();
        (Self(sender), receiver)
    }

    /// Answers.
    pub fn send(self, response: DownstreamResponse) -> Result<(), ClientGone> {
        self.0.send(response).map_err(|_| ClientGone)
    }
}
