//! What one request and its answer are whatever version of HTTP carries them: the checks of a head, and the
//! guest's replies.

use std::sync::Arc;

use ::http::header::{self, HeaderValue};
use ::http::uri::{Authority, PathAndQuery, Scheme};
use ::http::{Method, Uri, Version};

use super::Edge;
use super::respond::Failure;
use crate::http::message::MAX_FIELDS;
use crate::http::request::RequestLine;
use crate::http::{RequestHead, ResponseHead, cdn_loop, framing};
use crate::runtime::{Outcome, Serving, Trial, Unserved};
use crate::sandbox::{Client, DownstreamRequest, DownstreamResponse, HandOff, Received, Reply};
use crate::telemetry::Metrics;
use crate::telemetry::access::Entry;
use crate::telemetry::clock::Ticks;
use crate::telemetry::service::ServiceMetrics;
use crate::telemetry::trace::Arrived;
use crate::telemetry::trace::Trace;

/// A fresh name for a request.
pub fn id() -> Arc<str> {
    uuid::Uuid::new_v4().hyphenated().encode_lower(&mut uuid::Uuid::encode_buffer()).to_owned().into()
}

/// Begins what is kept of a request whose head is there: its trace, if it has one, of which the guest is told, and its line in
/// the access log, if there is one.
pub fn begin(edge: &Edge, received: &Received, head: &mut RequestHead, begun: Ticks) -> (Option<Arc<Trace>>, Option<Entry>) {
    let tracer = &edge.telemetry.tracer;
    if !tracer.is_on() && edge.access.is_none() {
        return (None, None);
    }
    let arrived = Arrived {
        id: &received.id,
        method: &head.method,
        uri: &head.uri,
        version: head.version,
        raw_head: &received.raw_head,
        client: received.client.address,
        server: received.client.server,
        begun,
    };
    let trace = tracer.begin(&arrived, &mut head.headers);
    let entry = edge.access.as_ref().map(|log| log.begin(&arrived, trace.as_ref().map(|trace| trace.id())));
    (trace, entry)
}

/// The limit of production, enforced or reported.
fn check_size(edge: &Edge, id: &str, size: usize) -> Result<(), Failure> {
    let limit = edge.limits.guest.fields_report;
    let refused = size > edge.limits.guest.fields;
    if size > limit {
        edge.telemetry.metrics.fields_over.with_label_values(&["request"]).inc();
        tracing::warn!(target: "sidelight::limits", request_id = id, bytes = size, limit, refused, "a request has more header fields than production takes");
    }
    if refused { Err(Failure::FieldsTooLarge) } else { Ok(()) }
}

/// Checks a head and makes it what the guest sees.
pub fn head(edge: &Edge, client: &Client, id: &str, mut line: RequestLine) -> Result<RequestHead, Failure> {
    if line.target.path().len() + line.target.query().map_or(0, str::len) > edge.limits.uri {
        return Err(Failure::UriTooLong);
    }
    if line.headers.len() > MAX_FIELDS {
        return Err(Failure::HeadTooLarge);
    }
    check_size(edge, id, framing::size(&line.headers))?;
    if line.method == Method::CONNECT {
        return Err(Failure::NotAllowed);
    }
    if cdn_loop::is_loop(&line.headers) {
        return Err(Failure::Loop);
    }
    let scheme = if client.secure { Scheme::HTTPS } else { Scheme::HTTP };
    let uri = absolute(&mut line, scheme, client)?;
    let websocket = framing::websocket(&line.headers).filter(|_| line.version == Version::HTTP_11);
    framing::strip_hop_by_hop(&mut line.headers);
    if let Some(protocol) = websocket {
        // Programs look for this to hand the client to a backend.
        line.headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        line.headers.insert(header::UPGRADE, protocol);
    }
    Ok(RequestHead { method: line.method, uri, version: line.version, headers: line.headers, ..RequestHead::default() })
}

/// The absolute URI of a request, as the guest sees it (RFC 9112 §3.3, RFC 9113 §8.3.1). `Host` must be
/// well-formed, and there unless the target has an authority, which wins over it.
fn absolute(head: &mut RequestLine, scheme: Scheme, client: &Client) -> Result<Uri, Failure> {
    let mut hosts = head.headers.get_all(header::HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => {
            Some(host.to_str().ok().and_then(|host| host.parse::<Authority>().ok()).filter(is_place).ok_or(Failure::BadRequest)?)
        }
        (None, _) if head.version == Version::HTTP_11 => return Err(Failure::BadRequest),
        (None, _) => None,
        (Some(_), Some(_)) => return Err(Failure::BadRequest),
    };
    let mut parts = std::mem::take(&mut head.target).into_parts();
    // Of another protocol, or of CONNECT (RFC 9112 §3.2.3).
    let known = parts.scheme.as_ref().map_or(parts.authority.is_none(), |scheme| *scheme == Scheme::HTTP || *scheme == Scheme::HTTPS);
    if !known {
        return Err(Failure::BadRequest);
    }
    let authority = match (parts.authority.take(), host) {
        (Some(authority), Some(host)) if head.version == Version::HTTP_2 && authority != host => return Err(Failure::BadRequest),
        (Some(authority), _) if !is_place(&authority) => return Err(Failure::BadRequest),
        (Some(authority), _) => {
            let value = HeaderValue::from_str(authority.as_str()).map_err(|_| Failure::BadRequest)?;
            head.headers.insert(header::HOST, value);
            authority
        }
        (None, Some(host)) => host,
        (None, None) if head.version != Version::HTTP_10 => return Err(Failure::BadRequest),
        (None, None) => client.server.to_string().parse().map_err(|_| Failure::BadRequest)?,
    };
    let path = match parts.path_and_query.take() {
        Some(path) if path.as_str().starts_with('/') => path,
        Some(path) if path.as_str().is_empty() => PathAndQuery::from_static("/"),
        Some(path) if path.as_str() == "*" && head.method == Method::OPTIONS => PathAndQuery::from_static("/"),
        Some(path) if path.as_str().starts_with('?') => format!("/{path}").parse().map_err(|_| Failure::BadRequest)?,
        None => PathAndQuery::from_static("/"),
        Some(_) => return Err(Failure::BadRequest),
    };
    Uri::builder().scheme(scheme).authority(authority).path_and_query(path).build().map_err(|_| Failure::BadRequest)
}

/// Whether it says where to, and nothing else: no user (RFC 9110 §4.2.4), and a port that there can be.
fn is_place(authority: &Authority) -> bool {
    let is_port = |port: &str| port.is_empty() || (port.bytes().all(|digit| digit.is_ascii_digit()) && port.parse::<u16>().is_ok());
    let text = authority.as_str();
    !text.contains('@') && text.rsplit_once(':').is_none_or(|(_, port)| port.ends_with(']') || is_port(port))
}

/// What a guest gives a client, or the host in its stead.
pub enum Answered {
    /// An informational head; more follows.
    Early(ResponseHead),
    /// The response.
    Response(DownstreamResponse),
    /// A backend deals with the client.
    HandOff(Box<HandOff>),
}

/// A request on its way through a guest.
pub struct Answering<'a> {
    id: &'a str,
    serving: Result<Serving, Unserved>,
    /// How the generation fares that answers, if it is on trial.
    trial: Option<Arc<Trial>>,
    trace: Option<Arc<Trace>>,
    /// What is counted of the service that answers.
    pub service: Option<Arc<ServiceMetrics>>,
    metrics: &'a Metrics,
}

impl<'a> Answering<'a> {
    /// Gives the request to a guest of the service that it is for.
    pub async fn begin(edge: &'a Edge, id: &'a str, request: DownstreamRequest) -> Self {
        let uri = &request.head.uri;
        let (mut trial, mut service, trace) = (None, None, request.trace.clone());
        let serving = match edge.current.pin(uri.host().unwrap_or_default(), uri.path(), &request.head.headers) {
            Some(snapshot) => {
                trial.clone_from(&snapshot.trial);
                service = Some(snapshot.services.metrics.clone());
                if let Some(trace) = &trace {
                    trace.service(&snapshot.traced);
                }
                edge.runtime.serve(snapshot, request).await
            }
            None => {
                tracing::debug!(target: "sidelight::client", request_id = id, host = uri.host(), path = uri.path(), "no service has this host and path");
                Err(Unserved::NoService)
            }
        };
        Self { id, serving, trial, trace, service, metrics: &edge.telemetry.metrics }
    }

    /// What comes next. Behind anything but an early head there is nothing.
    pub async fn next(&mut self) -> Answered {
        let answered = self.answered().await;
        if let (Some(trial), Answered::Response(response)) = (&self.trial, &answered) {
            trial.note(response.head.status.is_server_error());
        }
        answered
    }

    fn failed(&self, failure: &'static str) {
        if let Some(trace) = &self.trace {
            trace.failed(failure);
        }
    }

    async fn answered(&mut self) -> Answered {
        let reply = match &mut self.serving {
            Ok(serving) => serving.reply().await,
            Err(unserved) => Err(unserved.clone()),
        };
        match reply {
            Ok(Reply::Early(mut head)) => {
                framing::strip_hop_by_hop(&mut head.headers);
                head.headers.remove(header::CONTENT_LENGTH);
                Answered::Early(head)
            }
            Ok(Reply::Final(response)) => Answered::Response(response),
            Ok(Reply::HandOff(handed)) => Answered::HandOff(handed),
            Ok(Reply::Failed { error, edits }) => {
                self.failed(error.name());
                tracing::warn!(target: "sidelight::guest", request_id = self.id, %error, "the backend's response was for the client");
                let mut answer = Failure::of_backend(&error).answer(self.id);
                edits.into_iter().for_each(|edit| edit.apply(&mut answer.head.headers));
                Answered::Response(answer)
            }
            Err(unserved) => {
                let service = self.service.as_ref().map(|service| &*service.name);
                match unserved {
                    Unserved::Ended(Outcome::Finished) => {
                        tracing::warn!(target: "sidelight::guest", service, request_id = self.id, "guest ended without sending a response");
                    }
                    Unserved::Overloaded { own } => {
                        self.metrics.overloaded.inc();
                        let bound = if own { "limits.sandboxes of the service" } else { "--max-sandboxes" };
                        tracing::warn!(target: "sidelight::guest", service, request_id = self.id, bound, "no sandbox came free in time (--queue-timeout): 503");
                    }
                    Unserved::NoMemory => {
                        self.metrics.overloaded.inc();
                        tracing::warn!(target: "sidelight::guest", service, request_id = self.id, "memory is short, and there was none for a sandbox in time (--total-memory, --queue-timeout; limits.sandboxes of who has it): 503");
                    }
                    Unserved::Ended(_) | Unserved::NoService => {}
                }
                self.failed(unserved.name());
                Answered::Response(Failure::of(&unserved).refuse(self.id, self.metrics))
            }
        }
    }
}
