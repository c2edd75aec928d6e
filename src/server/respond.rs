//! Answers the host itself gives: the only table of status codes. They say nothing of the cause but
//! the request's id, under which the log has it.

use ::http::StatusCode;
use ::http::header::{self, HeaderMap, HeaderValue};
use bytes::Bytes;

use crate::http::{Body, ResponseHead};
use crate::runtime::{Outcome, Unserved};
use crate::sandbox::DownstreamResponse;
use crate::services::backend::SendError;
use crate::telemetry::Metrics;

/// Why a request got no answer from a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The head cannot be read.
    BadRequest,
    /// The request target is too long.
    UriTooLong,
    /// The head is too large.
    HeadTooLarge,
    /// The fields are more than production takes.
    FieldsTooLarge,
    /// The head did not come in time.
    HeadTimeout,
    /// CONNECT.
    NotAllowed,
    /// No service has the request's host and path.
    NoService,
    /// The request goes round in circles.
    Loop,
    /// No sandbox came free in time.
    Overloaded,
    /// The process is short of memory.
    NoMemory,
    /// The guest failed, or ended without an answer.
    Guest,
    /// The guest took too long.
    GuestTimeout,
    /// What the guest answered cannot be sent.
    BadAnswer,
    /// The guest gave the client the response of a backend that failed.
    Backend,
    /// The same, and the failure is that it took too long.
    BackendTimeout,
}

impl Failure {
    /// The failure when a request got no answer from a guest.
    pub fn of(unserved: &Unserved) -> Self {
        match unserved {
            Unserved::NoService => Self::NoService,
            Unserved::Overloaded { .. } => Self::Overloaded,
            Unserved::NoMemory => Self::NoMemory,
            Unserved::Ended(Outcome::WallLimit) => Self::GuestTimeout,
            Unserved::Ended(
                Outcome::Finished
                | Outcome::Exited(_)
                | Outcome::Trapped(_)
                | Outcome::CpuLimit
                | Outcome::MemoryLimit
                | Outcome::MemoryShort
                | Outcome::HostFailed(_),
            ) => Self::Guest,
        }
    }

    /// The failure when a backend's response was to be the answer and did not come.
    pub fn of_backend(error: &SendError) -> Self {
        match error {
            SendError::DnsTimeout(_) | SendError::ConnectTimeout(_) | SendError::ResponseTimeout(_) => Self::BackendTimeout,
            _ => Self::Backend,
        }
    }

    /// What it is counted as, when it is a refusal.
    fn refusal(self) -> Option<&'static str> {
        match self {
            Self::BadRequest => Some("bad_request"),
            Self::UriTooLong => Some("uri_too_long"),
            Self::HeadTooLarge => Some("head_too_large"),
            Self::FieldsTooLarge => Some("fields_too_large"),
            Self::HeadTimeout => Some("head_timeout"),
            Self::NotAllowed => Some("method_not_allowed"),
            Self::NoService => Some("no_service"),
            Self::Loop => Some("loop"),
            Self::Overloaded => Some("overloaded"),
            Self::NoMemory => Some("no_memory"),
            Self::Guest | Self::GuestTimeout | Self::BadAnswer | Self::Backend | Self::BackendTimeout => None,
        }
    }

    /// The whole answer to the request `id`; counted, if it is a refusal.
    pub fn refuse(self, id: &str, metrics: &Metrics) -> DownstreamResponse {
        if let Some(reason) = self.refusal() {
            metrics.refusals.with_label_values(&[reason]).inc();
        }
        self.answer(id)
    }

    /// The status code.
    pub fn status(self) -> StatusCode {
        match self {
            Self::BadRequest => StatusCode::BAD_REQUEST,
            Self::UriTooLong => StatusCode::URI_TOO_LONG,
            Self::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::HeadTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::NotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::NoService => StatusCode::NOT_FOUND,
            Self::Loop => StatusCode::LOOP_DETECTED,
            Self::FieldsTooLarge | Self::Overloaded | Self::NoMemory | Self::GuestTimeout => StatusCode::SERVICE_UNAVAILABLE,
            Self::Guest | Self::BadAnswer => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Backend => StatusCode::BAD_GATEWAY,
            Self::BackendTimeout => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// The whole answer to the request `id`.
    pub fn answer(self, id: &str) -> DownstreamResponse {
        let status = self.status();
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Ok(id) = HeaderValue::from_str(id) {
            headers.insert("x-request-id", id);
        }
        if matches!(self, Self::Overloaded | Self::NoMemory) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        let text = format!("{} {}\nrequest id: {id}\n", status.as_u16(), status.canonical_reason().unwrap_or_default());
        DownstreamResponse {
            head: ResponseHead { status, headers, ..ResponseHead::default() },
            body: Body::from(Bytes::from(text)),
            close: false,
        }
    }
}

/// Says that a response did not go out whole: loudly when it was not the client's doing.
pub fn not_whole(id: &str, ours: bool, error: &dyn std::fmt::Display) {
    if ours {
        tracing::warn!(target: "sidelight::client", request_id = id, %error, "the response was cut off: its body broke off");
    } else {
        tracing::debug!(target: "sidelight::client", request_id = id, %error, "the response did not go out whole: the client is gone");
    }
}
