//! W3C Trace Context: what clients and backends are told of a trace, and tell us.

use std::fmt;

use ::http::{HeaderMap, HeaderName, HeaderValue};

/// The field with trace, parent and flags.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// The field with what tracing systems add.
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Most bytes of `tracestate` that are taken along.
const MAX_STATE: usize = 2048;

/// The id of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TraceId(pub u128);

/// The id of a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SpanId(pub u64);

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A span of somebody else's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remote {
    /// Its trace.
    pub trace: TraceId,
    /// The span.
    pub span: SpanId,
    /// Whether it is recorded.
    pub sampled: bool,
}

impl Remote {
    /// What a head says. A field that is not as the specification wants it, or that is there twice, says nothing
    /// (W3C Trace Context §3.2, §4.3).
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut fields = headers.get_all(TRACEPARENT).iter();
        let (field, None) = (fields.next()?, fields.next()) else { return None };
        Self::parse(field.as_bytes())
    }

    fn parse(text: &[u8]) -> Option<Self> {
        let (known, rest) = text.split_at_checked(55)?;
        let lower = |byte: &u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte);
        let dashes = [2, 35, 52];
        if !known.iter().enumerate().all(|(at, byte)| if dashes.contains(&at) { *byte == b'-' } else { lower(byte) }) {
            return None;
        }
        let known = std::str::from_utf8(known).ok()?;
        let version = u8::from_str_radix(known.get(..2)?, 16).ok()?;
        // Later versions may have more behind.
        let ends = match version {
            0xff => false,
            0 => rest.is_empty(),
            _ => rest.is_empty() || rest.starts_with(b"-"),
        };
        let trace = u128::from_str_radix(known.get(3..35)?, 16).ok()?;
        let span = u64::from_str_radix(known.get(36..52)?, 16).ok()?;
        let flags = u8::from_str_radix(known.get(53..55)?, 16).ok()?;
        (ends && trace != 0 && span != 0).then_some(Self { trace: TraceId(trace), span: SpanId(span), sampled: flags & 1 == 1 })
    }

    /// The field that says it, version 00.
    pub fn field(&self) -> HeaderValue {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
        for (at, digit) in (3..35).zip((0..32).rev()) {
            text[at] = HEX[(self.trace.0 >> (digit * 4) & 15) as usize];
        }
        for (at, digit) in (36..52).zip((0..16).rev()) {
            text[at] = HEX[(self.span.0 >> (digit * 4) & 15) as usize];
        }
        text[54] = if self.sampled { b'1' } else { b'0' };
        HeaderValue::from_bytes(&text).unwrap_or_else(|_| HeaderValue::from_static(""))
    }
}

/// What a head says in `tracestate`, in one; of too much, nothing (§3.3.1.5).
pub fn state_of(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut fields = headers.get_all(TRACESTATE).iter();
    let first = fields.next()?;
    let mut whole = first.as_bytes().to_vec();
    for more in fields {
        whole.push(b',');
        whole.extend_from_slice(more.as_bytes());
    }
    (whole.len() <= MAX_STATE && !whole.is_empty()).then(|| HeaderValue::from_bytes(&whole).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(fields: &[&str]) -> HeaderMap {
        fields.iter().map(|text| (TRACEPARENT, HeaderValue::from_str(text).expect("a value"))).collect()
    }

    #[test]
    fn what_is_one_and_what_is_none() {
        let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let remote = Remote::of(&head(&[text])).expect("a context");
        assert_eq!(remote.trace, TraceId(0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736));
        assert_eq!((remote.span, remote.sampled), (SpanId(0x00f0_67aa_0ba9_02b7), true));
        assert_eq!(remote.field(), text);
        assert_eq!((remote.trace.to_string().as_str(), remote.span.to_string().as_str()), (&text[3..35], &text[36..52]));
        let unsampled = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
        assert_eq!(Remote::of(&head(&[unsampled])).expect("a context").field(), unsampled);
        // A later version, with more; other flags than sampled are not ours.
        assert!(Remote::of(&head(&["cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-02-more"])).is_some_and(|remote| !remote.sampled));
        for wrong in [
            "",
            "00",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01more",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-001",
            "00_4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7_01",
            "0x-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(Remote::of(&head(&[wrong])), None, "{wrong}");
        }
        assert_eq!(Remote::of(&head(&[text, text])), None);
        assert_eq!(Remote::of(&head(&[])), None);
    }

    #[test]
    fn state_comes_along() {
        let mut headers = HeaderMap::new();
        assert_eq!(state_of(&headers), None);
        headers.append(TRACESTATE, HeaderValue::from_static("a=1"));
        headers.append(TRACESTATE, HeaderValue::from_static("b=2"));
        assert_eq!(state_of(&headers).expect("a state"), "a=1,b=2");
        headers.append(TRACESTATE, HeaderValue::from_str(&"x".repeat(MAX_STATE)).expect("a value"));
        assert_eq!(state_of(&headers), None);
    }
}
