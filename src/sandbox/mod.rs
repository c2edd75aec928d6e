//! What the host keeps for one running guest: handle tables, bodies, pending work, meters.
//!
//! Hostcalls work on a [`Sandbox`]; it knows neither guest memory nor the network. What it needs
//! from above it names in [`downstream`].

pub mod account;
pub mod backends;
pub mod cache;
pub mod downstream;
pub mod handles;
pub mod items;
pub mod kv;
pub mod limits;
pub mod next;

use std::collections::HashMap;
use std::sync::Arc;

use ::http::Method;

use tokio::sync::Semaphore;

use crate::config::{Config, Secret};
use crate::http::{RequestHead, ResponseHead};
use crate::services::Services;
use crate::services::acl::Acl;
use crate::services::backend::Backend;
use crate::services::config_store::ConfigStore;
use crate::services::http_cache::decisions::Asker;
use crate::services::http_cache::readthrough::{Override, Sender};
use crate::services::kv_store;
use crate::services::log::Endpoint;
use crate::services::secret_store::SecretStore;
use crate::telemetry::trace::context::Remote;
use crate::telemetry::trace::{Calls, Origin, Trace};

pub use account::{Account, Charge, TooMuchHeld};
pub use backends::RegisterError;
pub use downstream::{
    CertificateCheck, Client, ClientTls, Current, Delivery, DownstreamRequest, DownstreamResponse, HandOff, NextRequests, Parcel, Received,
    Reply, Responder, Wait,
};
pub use handles::{BadHandle, Handle, Table, TableFull};
pub use items::{AsyncItem, Edit, EditTarget, Edits, PendingRequest};
pub use kv::{KvDone, KvOperation, PendingKv};
pub use limits::{MemoryLimiter, Meter};
pub use next::{NextError, RequestPromise};

/// A response as a guest holds it, with where it came from.
#[derive(Debug, Default)]
pub struct GuestResponse {
    /// The head the guest edits.
    pub head: ResponseHead,
    /// The backend it came from, if one.
    pub peer: Option<std::net::SocketAddr>,
    /// Whether the client's connection is to end with it.
    pub close: bool,
}

/// A request as a guest holds it.
#[derive(Debug, Default)]
pub struct GuestRequest {
    /// The head the guest edits.
    pub head: RequestHead,
    /// What the guest said about caching it.
    pub cache: Override,
    /// Whether a gzip-coded response is to be decoded.
    pub decompress: bool,
    /// For a request from a client: where it came from.
    pub received: Option<Arc<Received>>,
    /// For a method that is long.
    pub charge: Option<Charge>,
}

/// Bytes of a method that are charged for with its request's handle.
const USUAL_METHOD: usize = 64;

/// A secret that a guest has.
#[derive(Debug)]
pub struct HeldSecret {
    /// Its bytes.
    pub secret: Secret,
    /// For one of the guest's own making.
    pub charge: Option<Charge>,
}

/// The state of one execution of a guest.
pub struct Sandbox {
    /// The platform, pinned for the whole execution.
    pub services: Arc<Services>,
    /// The service's settings, pinned likewise.
    pub config: Arc<Config>,
    /// Requests the guest holds.
    pub requests: Table<GuestRequest>,
    /// Responses the guest holds.
    pub responses: Table<GuestResponse>,
    /// Everything `async_io` can wait for, bodies included.
    pub items: Table<AsyncItem>,
    /// Log endpoints the guest has opened.
    pub logs: Table<Endpoint>,
    /// Secrets the guest has made, or got from a store.
    pub secrets: Table<HeldSecret>,
    /// Secret stores the guest has opened.
    pub secret_stores: Table<Arc<SecretStore>>,
    /// Config stores and dictionaries the guest has opened.
    pub config_stores: Table<Arc<ConfigStore>>,
    /// KV stores the guest has opened.
    pub kv_stores: Table<kv_store::Store>,
    /// Access lists the guest has opened.
    pub acls: Table<Arc<Acl>>,
    /// Room for operations of KV stores.
    kv_room: Option<Arc<Semaphore>>,
    /// Backends the guest has made.
    dynamic: HashMap<String, (Arc<Backend>, Charge)>,
    /// The client's request until the guest takes it.
    pub incoming: Option<DownstreamRequest>,
    /// The way back to the client until the guest has answered.
    pub responder: Option<Responder>,
    /// The request from a client that the guest works on, as it came.
    pub received: Arc<Received>,
    /// Tells others which one that is.
    pub current: Current,
    /// Its trace, if it has one.
    trace: Option<Arc<Trace>>,
    /// What is called for it, if that is recorded.
    pub calls: Option<Box<Calls>>,
    /// Where further requests come from.
    pub next: Arc<dyn NextRequests>,
    /// The promise of one, if there is one.
    promise: Option<Handle<RequestPromise>>,
    /// CPU and memory used.
    pub meter: Arc<Meter>,
    /// What backends and requests to them are held to.
    pub bounds: Bounds,
    /// Memory of the host that the guest fills.
    pub account: Arc<Account>,
}

/// Bounds of backends and of requests to them.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// How many one request from a client may lead to.
    pub sends: u32,
    /// Entries of config stores that one request may look up.
    pub lookups: u32,
    /// Backends the guest may make.
    pub dynamic: u32,
    /// Above how many of them it is reported.
    pub dynamic_report: u32,
    /// Bytes of a response's header fields.
    pub fields: usize,
    /// Above how many of them a response is reported.
    pub fields_report: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            sends: u32::MAX,
            lookups: u32::MAX,
            dynamic: u32::MAX,
            dynamic_report: u32::MAX,
            fields: usize::MAX,
            fields_report: usize::MAX,
        }
    }
}

impl Sandbox {
    /// The state for answering a first request.
    pub fn new(
        services: Arc<Services>,
        config: Arc<Config>,
        parcel: Parcel,
        current: Current,
        next: Arc<dyn NextRequests>,
        account: Arc<Account>,
    ) -> Self {
        Self {
            services,
            config,
            requests: Table::default(),
            responses: Table::default(),
            items: Table::default(),
            logs: Table::default(),
            secrets: Table::default(),
            secret_stores: Table::default(),
            config_stores: Table::default(),
            kv_stores: Table::default(),
            acls: Table::default(),
            kv_room: None,
            dynamic: HashMap::new(),
            received: parcel.request.received.clone(),
            calls: parcel.request.trace.as_ref().and_then(|trace| Calls::begin(trace, true)),
            trace: parcel.request.trace.clone(),
            current,
            next,
            promise: None,
            incoming: Some(parcel.request),
            responder: Some(parcel.responder),
            meter: account.meter().clone(),
            bounds: Bounds::default(),
            account,
        }
    }

    /// Charges for a method that a request has, unless it is as usual.
    pub fn charge_method(&self, method: &Method) -> Result<Option<Charge>, TooMuchHeld> {
        let length = method.as_str().len();
        (length > USUAL_METHOD).then(|| self.account.charge(length)).transpose()
    }

    /// Names the current request in logs and traces.
    pub fn id(&self) -> &str {
        &self.received.id
    }

    /// The span of the guest's work for the current request, if that has a trace that others know.
    pub fn span(&self) -> Option<Remote> {
        self.trace.as_ref().filter(|trace| trace.is_told()).map(|trace| trace.guest())
    }

    /// Whose decisions about caching are remembered.
    pub fn asker(&self) -> Asker {
        let origin = self.trace.as_ref().map(|trace| Origin { trace: trace.clone(), call: None });
        self.services.asker(&self.received.id, origin)
    }

    /// Who sends the guest's requests, through the cache if that may be. For a hostcall that does that.
    pub fn sender(&mut self) -> Sender {
        let call = self.calls.as_mut().map(|calls| calls.sends());
        let origin = self.trace.as_ref().map(|trace| Origin { trace: trace.clone(), call });
        self.services.sender(&self.received.id, origin)
    }

    /// The guest goes on to another request.
    fn turn(&mut self, request: &DownstreamRequest) {
        self.received = request.received.clone();
        self.trace.clone_from(&request.trace);
        self.current.set(self.received.id.clone(), self.trace.clone());
        self.calls = self.trace.as_ref().and_then(|trace| Calls::begin(trace, false));
    }

    /// The guest waits for another request: however long that takes, the one before is over.
    fn rest(&mut self) {
        self.end_trace();
        if let Some(trace) = self.current.take_trace() {
            trace.ended("finished", String::new);
        }
    }

    /// The guest is through with its request.
    fn end_trace(&mut self) {
        if let Some(calls) = self.calls.take() {
            calls.end(self.meter.request_cpu(), self.meter.memory());
        }
        self.trace = None;
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.end_trace();
    }
}
