//! The record with which a guest describes a backend it makes.

use std::time::Duration;

use super::memory::GuestMemory;
use super::status::{HostError, HostResult};
use super::values::Lift;
use crate::config::{HealthCheck, TlsVersion};

/// Bits of the mask that says which fields count.
mod bits {
    pub const HOST_OVERRIDE: u32 = 1 << 1;
    pub const CONNECT_TIMEOUT: u32 = 1 << 2;
    pub const FIRST_BYTE_TIMEOUT: u32 = 1 << 3;
    pub const BETWEEN_BYTES_TIMEOUT: u32 = 1 << 4;
    pub const USE_SSL: u32 = 1 << 5;
    pub const SSL_MIN_VERSION: u32 = 1 << 6;
    pub const SSL_MAX_VERSION: u32 = 1 << 7;
    pub const CERT_HOSTNAME: u32 = 1 << 8;
    pub const CA_CERT: u32 = 1 << 9;
    pub const CIPHERS: u32 = 1 << 10;
    pub const SNI_HOSTNAME: u32 = 1 << 11;
    pub const DONT_POOL: u32 = 1 << 12;
    pub const CLIENT_CERT: u32 = 1 << 13;
    pub const GRPC: u32 = 1 << 14;
    pub const KEEPALIVE: u32 = 1 << 15;
    pub const POOLING_LIMITS: u32 = 1 << 16;
    pub const PREFER_IPV4: u32 = 1 << 17;
    pub const HEALTHCHECK: u32 = 1 << 18;
    /// All of them; bit 0 is reserved.
    pub const KNOWN: u32 = (1 << 19) - 2;
}

/// Longest name, in bytes.
const MAX_NAME: u32 = 1024;

/// Longest certificate or bundle of them, in bytes.
const MAX_PEM: u32 = 64 << 10;

/// Size of the record.
const SIZE: u32 = 108;

/// `dynamic_backend_config` (27 words) behind its mask. A field is `None` when its bit is not set.
#[derive(Clone, Debug)]
pub struct BackendRecord {
    /// `Host` of every request.
    pub override_host: Option<String>,
    /// Milliseconds.
    pub connect_timeout: Option<u32>,
    /// Milliseconds.
    pub first_byte_timeout: Option<u32>,
    /// Milliseconds.
    pub between_bytes_timeout: Option<u32>,
    /// Whether TLS is used.
    pub tls: bool,
    /// Oldest version.
    pub tls_min: Option<TlsVersion>,
    /// Newest version.
    pub tls_max: Option<TlsVersion>,
    /// Name the certificate must have.
    pub cert_host: Option<String>,
    /// Roots, as PEM.
    pub ca: Option<String>,
    /// OpenSSL's cipher list.
    pub ciphers: Option<String>,
    /// Name to send; empty sends none.
    pub sni: Option<String>,
    /// Whether connections are shared with other sandboxes.
    pub pooled: bool,
    /// Certificate chain as PEM, and the handle of the secret that is its key.
    pub client: Option<(String, u32)>,
    /// Whether to speak HTTP/2, as gRPC does.
    pub grpc: bool,
    /// HTTP keepalive in milliseconds; TCP keepalive: on or off, interval, probes, time.
    pub keepalive: Option<[u32; 5]>,
    /// Connections, uses, lifetime in milliseconds.
    pub pool: Option<[u32; 3]>,
    /// Whether IPv4 addresses are tried first.
    pub prefer_ipv4: bool,
    /// How its health is found out.
    pub healthcheck: Option<HealthCheck>,
}

/// `healthcheck_config` (56 bytes). A text that is empty is as in production; SDKs set everything else.
fn healthcheck(ptr: u32, memory: &GuestMemory<'_>) -> HostResult<HealthCheck> {
    memory.bytes(ptr, 56)?;
    let number = |offset: u32| memory.u32(ptr + offset);
    let text = |offset: u32| {
        let length = number(offset + 4)?;
        if length > MAX_NAME {
            return Err(HostError::inval("a text of a health check is too long"));
        }
        let bytes = memory.bytes(number(offset)?, length)?;
        let text = std::str::from_utf8(bytes).map_err(|_| HostError::inval("not UTF-8"))?;
        Ok(Some(text.to_owned()).filter(|text| !text.is_empty()))
    };
    let millis = |offset: u32| Ok::<_, HostError>(Duration::from_millis(u64::from(number(offset)?) | u64::from(number(offset + 4)?) << 32));
    let default = HealthCheck::default();
    let check = HealthCheck {
        interval: millis(0)?,
        timeout: millis(8)?,
        host: text(16)?,
        method: text(24)?.unwrap_or(default.method),
        path: text(32)?.unwrap_or(default.path),
        expected: u16::try_from(number(40)?).map_err(|_| HostError::inval("the status of a health check"))?,
        window: number(44)?,
        threshold: number(48)?,
        initial: number(52)?,
    };
    match check.fault() {
        None => Ok(check),
        Some(fault) => Err(HostError::inval(format!("the health check: {fault}"))),
    }
}

impl Lift for BackendRecord {
    const SLOTS: usize = 2;
    fn lift(slots: &[u32], memory: &GuestMemory<'_>) -> HostResult<Self> {
        let (mask, ptr) = (slots[0], slots[1]);
        // All of it is read, whatever the mask says.
        memory.bytes(ptr, SIZE)?;
        if mask & !bits::KNOWN != 0 {
            return Err(HostError::inval("an unknown option of a dynamic backend"));
        }
        let has = |bit: u32| mask & bit != 0;
        let word = |index: u32| memory.u32(ptr + 4 * index);
        let number = |bit: u32, index: u32| if has(bit) { word(index).map(Some) } else { Ok(None) };
        let text = |bit: u32, index: u32, max: u32, may_be_empty: bool| {
            if !has(bit) {
                return Ok(None);
            }
            let length = word(index + 1)?;
            if length > max || (length == 0 && !may_be_empty) {
                return Err(HostError::inval("a text of a dynamic backend is empty or too long"));
            }
            let bytes = memory.bytes(word(index)?, length)?;
            let text = std::str::from_utf8(bytes).map_err(|_| HostError::inval("not UTF-8"))?;
            Ok(Some(text.to_owned()))
        };
        let version = |bit: u32, index: u32| {
            Ok(match number(bit, index)? {
                None => None,
                Some(0) => Some(TlsVersion::V1_0),
                Some(1) => Some(TlsVersion::V1_1),
                Some(2) => Some(TlsVersion::V1_2),
                Some(3) => Some(TlsVersion::V1_3),
                Some(other) => return Err(HostError::inval(format!("{other} is no version of TLS"))),
            })
        };
        Ok(Self {
            override_host: text(bits::HOST_OVERRIDE, 0, MAX_NAME, false)?,
            connect_timeout: number(bits::CONNECT_TIMEOUT, 2)?,
            first_byte_timeout: number(bits::FIRST_BYTE_TIMEOUT, 3)?,
            between_bytes_timeout: number(bits::BETWEEN_BYTES_TIMEOUT, 4)?,
            tls: has(bits::USE_SSL),
            tls_min: version(bits::SSL_MIN_VERSION, 5)?,
            tls_max: version(bits::SSL_MAX_VERSION, 6)?,
            cert_host: text(bits::CERT_HOSTNAME, 7, MAX_NAME, false)?,
            ca: text(bits::CA_CERT, 9, MAX_PEM, false)?,
            ciphers: text(bits::CIPHERS, 11, MAX_PEM, false)?,
            sni: text(bits::SNI_HOSTNAME, 13, MAX_NAME, true)?,
            pooled: !has(bits::DONT_POOL),
            client: match text(bits::CLIENT_CERT, 15, MAX_PEM, false)? {
                Some(certificate) => Some((certificate, word(17)?)),
                None => None,
            },
            grpc: has(bits::GRPC),
            keepalive: if has(bits::KEEPALIVE) { Some([word(18)?, word(19)?, word(20)?, word(21)?, word(22)?]) } else { None },
            pool: if has(bits::POOLING_LIMITS) { Some([word(23)?, word(24)?, word(25)?]) } else { None },
            prefer_ipv4: has(bits::PREFER_IPV4),
            healthcheck: if has(bits::HEALTHCHECK) { Some(healthcheck(word(26)?, memory)?) } else { None },
        })
    }
}
