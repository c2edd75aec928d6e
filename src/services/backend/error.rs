//! Why a request to a backend failed, in the terms of the ABI's `SendErrorDetail`.

use pingora::{Error as PingoraError, ErrorType};

use crate::http::response::ReadError;

/// One failed request. The variants are the ABI's error detail tags that can happen here.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The name could not be resolved in time.
    #[error("resolving {0} timed out")]
    DnsTimeout(String),
    /// The name does not resolve.
    #[error("resolving {host}: {reason}")]
    Dns {
        /// The name.
        host: String,
        /// What the resolver said.
        reason: String,
        /// Its answer's code, when that is known.
        rcode: Option<u16>,
    },
    /// No backend of that name.
    #[error("no backend named `{0}`")]
    DestinationNotFound(String),
    /// Its health checks say that it is not well.
    #[error("backend `{0}` is unhealthy")]
    Unavailable(String),
    /// It has as many connections as it may.
    #[error("all {0} connections that the backend may have are in use")]
    LimitReached(u32),
    /// All services together have as many connections as they may.
    #[error("there are no more file descriptors for connections to backends (ulimit -n)")]
    NoDescriptors,
    /// No route to the address.
    #[error("{0}")]
    Unroutable(String),
    /// The peer refused.
    #[error("{0} refused the connection")]
    Refused(String),
    /// The connection ended before the response head was whole.
    #[error("connection ended: {0}")]
    Terminated(String),
    /// No connection within the connect timeout.
    #[error("connecting to {0} (TCP and TLS) timed out")]
    ConnectTimeout(String),
    /// The peer's certificate is not acceptable.
    #[error("certificate of {host}: {reason}")]
    TlsCertificate {
        /// Who was asked.
        host: String,
        /// What is wrong.
        reason: String,
    },
    /// The peer sent a TLS alert.
    #[error("TLS alert {alert} received: {reason}")]
    TlsAlert {
        /// The alert's number (RFC 8446 §6).
        alert: u8,
        /// Its text.
        reason: String,
    },
    /// The backend's TLS settings cannot work.
    #[error("TLS settings: {0}")]
    TlsConfiguration(String),
    /// The TLS handshake failed otherwise.
    #[error("TLS: {0}")]
    TlsProtocol(String),
    /// The response head ended early.
    #[error("incomplete response: {0}")]
    Incomplete(String),
    /// The response head is larger than accepted.
    #[error("response head too large")]
    HeadTooLarge,
    /// No response head within the first-byte timeout.
    #[error("no response within {0} ms")]
    ResponseTimeout(u128),
    /// The response's status is none.
    #[error("{0}")]
    Status(String),
    /// The backend changes the protocol, which was not asked of it.
    #[error("unexpected 101 Switching Protocols")]
    Upgrade,
    /// The backend ended the stream or the connection with an error (RFC 9113 §5.4).
    #[error("HTTP/2 error {code}: {reason}")]
    H2 {
        /// The type of the frame that said so: RST_STREAM 3, GOAWAY 7.
        frame: u8,
        /// The code in it.
        code: u32,
        /// Its text.
        reason: String,
    },
    /// What came is not HTTP.
    #[error("not an HTTP response: {0}")]
    Protocol(String),
    /// The guest's request cannot be sent as it is.
    #[error("request cannot be sent: {0}")]
    BadRequest(String),
    /// The request's body failed before its end; the backend saw it truncated.
    #[error("request body failed: {0}")]
    RequestBody(String),
    /// A fault of this host.
    #[error("internal: {0}")]
    Internal(String),
}

impl SendError {
    /// The ABI's name of this failure; the label in metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::DnsTimeout(_) => "dns_timeout",
            Self::Dns { .. } => "dns_error",
            Self::DestinationNotFound(_) => "destination_not_found",
            Self::Unavailable(_) => "destination_unavailable",
            Self::LimitReached(_) | Self::NoDescriptors => "connection_limit_reached",
            Self::Unroutable(_) => "destination_ip_unroutable",
            Self::Refused(_) => "connection_refused",
            Self::Terminated(_) => "connection_terminated",
            Self::ConnectTimeout(_) => "connection_timeout",
            Self::TlsCertificate { .. } => "tls_certificate_error",
            Self::TlsAlert { .. } => "tls_alert_received",
            Self::TlsConfiguration(_) => "tls_configuration_error",
            Self::TlsProtocol(_) => "tls_protocol_error",
            Self::Incomplete(_) => "http_incomplete_response",
            Self::HeadTooLarge => "http_response_header_section_too_large",
            Self::ResponseTimeout(_) => "http_response_timeout",
            Self::Status(_) => "http_response_status_invalid",
            Self::Upgrade => "http_upgrade_failed",
            Self::H2 { .. } => "h2_error",
            Self::Protocol(_) => "http_protocol_error",
            Self::BadRequest(_) => "http_request_uri_invalid",
            Self::RequestBody(_) => "http_request_body_incomplete",
            Self::Internal(_) => "internal_error",
        }
    }

    /// A failure to resolve `host`. The system's resolver keeps the answer's code to itself; what it says
    /// stands for one.
    pub(super) fn resolving(host: &str, error: &std::io::Error) -> Self {
        let reason = error.to_string();
        let rcode = if reason.contains("Name or service not known") || reason.contains("No address associated") {
            Some(3)
        } else if reason.contains("Temporary failure") {
            Some(2)
        } else {
            None
        };
        Self::Dns { host: host.to_owned(), reason, rcode }
    }

    /// A failure to get a TCP connection to `host`.
    pub(super) fn connecting(host: &str, error: &PingoraError) -> Self {
        let io = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<std::io::Error>());
        match error.etype() {
            ErrorType::ConnectTimedout => Self::ConnectTimeout(host.to_owned()),
            ErrorType::ConnectRefused => Self::Refused(host.to_owned()),
            ErrorType::ConnectNoRoute => Self::Unroutable(format!("no route to {host}")),
            _ => match io.map(std::io::Error::kind) {
                Some(std::io::ErrorKind::ConnectionRefused) => Self::Refused(host.to_owned()),
                Some(std::io::ErrorKind::HostUnreachable | std::io::ErrorKind::NetworkUnreachable) => {
                    Self::Unroutable(format!("no route to {host}"))
                }
                Some(std::io::ErrorKind::TimedOut) => Self::ConnectTimeout(host.to_owned()),
                _ => Self::Terminated(format!("connecting to {host}: {error}")),
            },
        }
    }

    /// A failed TLS handshake with `host`.
    pub(super) fn handshake(host: &str, error: &std::io::Error) -> Self {
        let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
            return Self::Terminated(format!("during the TLS handshake with {host}: {error}"));
        };
        match tls {
            rustls::Error::InvalidCertificate(reason) => Self::TlsCertificate { host: host.to_owned(), reason: reason.to_string() },
            rustls::Error::NoCertificatesPresented => Self::TlsCertificate { host: host.to_owned(), reason: tls.to_string() },
            rustls::Error::AlertReceived(alert) => Self::TlsAlert { alert: u8::from(*alert), reason: format!("{alert:?}") },
            other => Self::TlsProtocol(other.to_string()),
        }
    }

    /// A failure of an HTTP/2 connection or stream.
    pub(super) fn h2(error: &h2::Error) -> Self {
        match error.reason() {
            _ if error.is_io() => Self::Terminated(error.to_string()),
            Some(reason) if error.is_remote() => {
                Self::H2 { frame: if error.is_go_away() { 7 } else { 3 }, code: reason.into(), reason: error.to_string() }
            }
            Some(_) | None => Self::Protocol(error.to_string()),
        }
    }

    /// A failure to read the response head.
    pub(super) fn reading(error: &ReadError) -> Self {
        match error {
            ReadError::Closed { .. } => Self::Incomplete(error.to_string()),
            ReadError::Io { .. } => Self::Terminated(error.to_string()),
            ReadError::TooLarge => Self::HeadTooLarge,
            ReadError::Status => Self::Status(error.to_string()),
            ReadError::Malformed(_) => Self::Protocol(error.to_string()),
        }
    }
}
