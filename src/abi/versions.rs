//! Numbers of small ABI enumerations.

use ::http::Version;

use super::status::{HostError, HostResult};
use crate::http::head::Framing;

/// `http_version`: 0 to 4 for HTTP/0.9, 1.0, 1.1, 2 and 3.
pub fn number(version: Version) -> u32 {
    match version {
        Version::HTTP_09 => 0,
        Version::HTTP_10 => 1,
        Version::HTTP_2 => 3,
        Version::HTTP_3 => 4,
        _ => 2,
    }
}

/// The version of a number.
pub fn from_number(number: u32) -> HostResult<Version> {
    Ok(match number {
        0 => Version::HTTP_09,
        1 => Version::HTTP_10,
        2 => Version::HTTP_11,
        3 => Version::HTTP_2,
        4 => Version::HTTP_3,
        other => return Err(HostError::inval(format!("{other} is no HTTP version"))),
    })
}

/// `framing_headers_mode`: 0 automatic, 1 manual.
pub fn framing(mode: u32) -> HostResult<Framing> {
    match mode {
        0 => Ok(Framing::Automatic),
        1 => Ok(Framing::Manual),
        other => Err(HostError::inval(format!("{other} is no framing mode"))),
    }
}
