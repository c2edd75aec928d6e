//! What a hostcall answers, and the one table from errors to it. No wildcard: a new error must be
//! decided here.

use std::borrow::Cow;

use crate::http::BodyError;
use crate::http::body::ReaderGone;
use crate::sandbox::downstream::{ClientGone, TooManyEarly};
use crate::sandbox::{BadHandle, NextError, RegisterError, TableFull, TooMuchHeld};
use crate::services::backend::SendError;
use crate::services::{cache, erl, kv_store, log};

/// `fastly_status`, as a hostcall returns it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Status {
    /// Done.
    Ok = 0,
    /// Failed, for no reason that has a status of its own.
    Error = 1,
    /// An argument is not valid.
    Inval = 2,
    /// Not a handle, or not of this kind.
    BadHandle = 3,
    /// The buffer is too small; the needed size was stored.
    BufferLength = 4,
    /// This host does not do that.
    Unsupported = 5,
    /// A pointer is not aligned.
    BadAlign = 6,
    /// Not valid HTTP.
    HttpInvalid = 7,
    /// The guest used HTTP wrongly.
    HttpUser = 8,
    /// The message ended early.
    HttpIncomplete = 9,
    /// There is none.
    None = 10,
    /// The message's head is too large.
    HttpHeadTooLarge = 11,
    /// The status code is not one.
    HttpInvalidStatus = 12,
    /// Over a limit of the platform.
    LimitExceeded = 13,
    /// Not yet.
    Again = 14,
}

impl Status {
    /// All of them, each at the index that is its number.
    pub const ALL: [Self; 15] = [
        Self::Ok,
        Self::Error,
        Self::Inval,
        Self::BadHandle,
        Self::BufferLength,
        Self::Unsupported,
        Self::BadAlign,
        Self::HttpInvalid,
        Self::HttpUser,
        Self::HttpIncomplete,
        Self::None,
        Self::HttpHeadTooLarge,
        Self::HttpInvalidStatus,
        Self::LimitExceeded,
        Self::Again,
    ];

    /// Their names, each at the index that is its number.
    pub const NAMES: [&'static str; 15] = {
        let mut names = [""; 15];
        let mut at = 0;
        while at < names.len() {
            names[at] = Self::ALL[at].name();
            at += 1;
        }
        names
    };

    /// The label in metrics and traces.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Error => "error",
            Self::Inval => "inval",
            Self::BadHandle => "badf",
            Self::BufferLength => "buflen",
            Self::Unsupported => "unsupported",
            Self::BadAlign => "badalign",
            Self::HttpInvalid => "httpinvalid",
            Self::HttpUser => "httpuser",
            Self::HttpIncomplete => "httpincomplete",
            Self::None => "none",
            Self::HttpHeadTooLarge => "httpheadtoolarge",
            Self::HttpInvalidStatus => "httpinvalidstatus",
            Self::LimitExceeded => "limitexceeded",
            Self::Again => "again",
        }
    }
}

/// Why a hostcall did not do what it was asked.
#[derive(Debug)]
pub enum HostError {
    /// The guest gets a status; the text goes to the trace, never to the guest.
    Status(Status, Cow<'static, str>),
    /// The guest ends.
    Trap(String),
}

impl HostError {
    /// INVAL, and why.
    pub fn inval(why: impl Into<Cow<'static, str>>) -> Self {
        Self::Status(Status::Inval, why.into())
    }

    /// UNSUPPORTED, and what.
    pub fn unsupported(what: impl Into<Cow<'static, str>>) -> Self {
        Self::Status(Status::Unsupported, what.into())
    }

    /// NONE.
    pub fn none() -> Self {
        Self::Status(Status::None, Cow::Borrowed("there is none"))
    }
}

/// What every hostcall gives.
pub type HostResult<T> = Result<T, HostError>;

impl From<BadHandle> for HostError {
    fn from(error: BadHandle) -> Self {
        let BadHandle = error;
        Self::Status(Status::BadHandle, Cow::Borrowed("not a handle that is open here"))
    }
}

impl From<TableFull> for HostError {
    fn from(error: TableFull) -> Self {
        Self::Status(Status::LimitExceeded, error.to_string().into())
    }
}

impl From<TooManyEarly> for HostError {
    fn from(error: TooManyEarly) -> Self {
        Self::Status(Status::LimitExceeded, error.to_string().into())
    }
}

impl From<TooMuchHeld> for HostError {
    fn from(error: TooMuchHeld) -> Self {
        Self::Status(Status::LimitExceeded, error.to_string().into())
    }
}

impl From<BodyError> for HostError {
    fn from(error: BodyError) -> Self {
        let status = match &error {
            BodyError::Incomplete(_) | BodyError::Timeout(_) => Status::HttpIncomplete,
            BodyError::Malformed(_) => Status::HttpInvalid,
        };
        Self::Status(status, error.to_string().into())
    }
}

impl From<ReaderGone> for HostError {
    fn from(error: ReaderGone) -> Self {
        Self::Status(Status::Error, error.to_string().into())
    }
}

impl From<ClientGone> for HostError {
    fn from(error: ClientGone) -> Self {
        Self::Status(Status::Error, error.to_string().into())
    }
}

impl From<NextError> for HostError {
    fn from(error: NextError) -> Self {
        let status = match error {
            NextError::Outstanding => Status::LimitExceeded,
            NextError::Unanswered => Status::Unsupported,
            NextError::Handle(handle) => return handle.into(),
            NextError::Full(full) => return full.into(),
        };
        Self::Status(status, error.to_string().into())
    }
}

impl From<RegisterError> for HostError {
    fn from(error: RegisterError) -> Self {
        let status = match &error {
            RegisterError::NameInUse(_) => Status::Error,
            RegisterError::TooMany(_) | RegisterError::Held(_) => Status::LimitExceeded,
            RegisterError::NotAllowed(_) => Status::Unsupported,
        };
        Self::Status(status, error.to_string().into())
    }
}

impl From<log::Error> for HostError {
    fn from(error: log::Error) -> Self {
        let status = match &error {
            log::Error::Reserved(_) | log::Error::InvalidName => Status::Inval,
            log::Error::NameTooLong => Status::LimitExceeded,
        };
        Self::Status(status, error.to_string().into())
    }
}

impl From<kv_store::Error> for HostError {
    fn from(error: kv_store::Error) -> Self {
        use kv_store::Error as E;
        let status = match &error {
            E::BadRequest(_) | E::Precondition | E::TooLarge => Status::Inval,
            E::TooMany => Status::LimitExceeded,
            E::Unavailable(_) => Status::Error,
        };
        Self::Status(status, error.to_string().into())
    }
}

impl From<cache::Error> for HostError {
    fn from(error: cache::Error) -> Self {
        let status = match error {
            cache::Error::Invalid(_) => Status::Inval,
            // What SDKs take for an operation that is not one in this state.
            cache::Error::NotAsked | cache::Error::NotFound | cache::Error::BodyOpen => Status::BadHandle,
            cache::Error::Gone => Status::Error,
        };
        Self::Status(status, error.to_string().into())
    }
}

impl From<erl::Error> for HostError {
    fn from(error: erl::Error) -> Self {
        let status = match &error {
            erl::Error::Invalid(_) => Status::Inval,
            erl::Error::Unavailable(_) => Status::Error,
        };
        Self::Status(status, error.to_string().into())
    }
}

impl From<SendError> for HostError {
    fn from(error: SendError) -> Self {
        use SendError as E;
        let status = match &error {
            E::DestinationNotFound(_) | E::BadRequest(_) => Status::Inval,
            E::Incomplete(_) => Status::HttpIncomplete,
            E::RequestBody(_) => Status::HttpIncomplete,
            E::HeadTooLarge => Status::HttpHeadTooLarge,
            E::Status(_) => Status::HttpInvalidStatus,
            E::H2 { .. } | E::Upgrade | E::Protocol(_) => Status::HttpInvalid,
            E::DnsTimeout(_)
            | E::Dns { .. }
            | E::Unavailable(_)
            | E::LimitReached(_)
            | E::NoDescriptors
            | E::Unroutable(_)
            | E::Refused(_)
            | E::Terminated(_)
            | E::ConnectTimeout(_)
            | E::TlsCertificate { .. }
            | E::TlsAlert { .. }
            | E::TlsConfiguration(_)
            | E::TlsProtocol(_)
            | E::ResponseTimeout(_)
            | E::Internal(_) => Status::Error,
        };
        Self::Status(status, error.to_string().into())
    }
}

/// `send_error_detail`: what a guest learns about a failed send beyond the status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorDetail {
    /// Which kind of failure.
    pub tag: u32,
    /// The TLS alert, when one was received.
    pub tls_alert: Option<u8>,
    /// What a resolver answered (RFC 1035 §4.1.1), when it is known.
    pub dns_rcode: Option<u16>,
    /// The HTTP/2 frame's type and the code in it, when that was the failure.
    pub h2: Option<(u8, u32)>,
}

impl ErrorDetail {
    /// Nothing failed.
    pub const OK: Self = Self { tag: 1, tls_alert: None, dns_rcode: None, h2: None };
}

impl From<&SendError> for ErrorDetail {
    fn from(error: &SendError) -> Self {
        use SendError as E;
        let tag = match error {
            E::DnsTimeout(_) => 2,
            E::Dns { .. } => 3,
            E::DestinationNotFound(_) => 4,
            E::Unavailable(_) => 5,
            E::LimitReached(_) | E::NoDescriptors => 10,
            E::Unroutable(_) => 6,
            E::Refused(_) => 7,
            E::Terminated(_) => 8,
            E::ConnectTimeout(_) => 9,
            E::TlsCertificate { .. } => 11,
            E::TlsConfiguration(_) => 12,
            E::Incomplete(_) => 13,
            E::HeadTooLarge => 14,
            E::ResponseTimeout(_) => 16,
            E::Status(_) => 17,
            E::Upgrade => 18,
            E::Protocol(_) => 19,
            E::BadRequest(_) => 21,
            E::RequestBody(_) | E::Internal(_) => 22,
            E::TlsAlert { .. } => 23,
            E::TlsProtocol(_) => 24,
            E::H2 { .. } => 25,
        };
        let mut detail = Self { tag, ..Self::OK };
        match error {
            E::TlsAlert { alert, .. } => detail.tls_alert = Some(*alert),
            E::Dns { rcode, .. } => detail.dns_rcode = *rcode,
            E::H2 { frame, code, .. } => detail.h2 = Some((*frame, *code)),
            _ => {}
        }
        detail
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_is_at_its_number() {
        for (number, status) in Status::ALL.into_iter().enumerate() {
            assert_eq!(status as usize, number);
        }
    }
}
