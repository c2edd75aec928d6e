//! How a message body is delimited (RFC 9112 §6), and the fields that belong to a connection
//! and not to a message (RFC 9110 §7.6.1).

use ::http::header::{self, HeaderMap, HeaderName};
use ::http::{HeaderValue, Method, StatusCode};

use super::head::Framing;

/// How a body's end is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyFraming {
    /// There is no body.
    None,
    /// `Content-Length`.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
    /// The connection's end is the body's end.
    UntilClose,
}

/// Removes the fields that speak about the connection a message came on. That its sender takes trailers
/// (`TE: trailers`, RFC 9110 §10.1.4) holds from end to end, since this host passes them on.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    static NAMES: [HeaderName; 6] = [
        header::CONNECTION,
        header::TRANSFER_ENCODING,
        header::TE,
        header::UPGRADE,
        HeaderName::from_static("keep-alive"),
        HeaderName::from_static("proxy-connection"),
    ];
    // Most messages have none of them when this is asked: a look at the names is faster than a search for each.
    if !headers.keys().any(|name| NAMES.contains(name)) {
        return;
    }
    let takes_trailers = headers.get_all(header::TE).iter().any(|value| {
        let mut words = value.as_bytes().split(|b| *b == b',').map(|word| word.split(|b| *b == b';').next().unwrap_or_default());
        words.any(|word| word.trim_ascii().eq_ignore_ascii_case(b"trailers"))
    });
    static END_TO_END: [HeaderName; 11] = [
        header::HOST,
        header::CONTENT_LENGTH,
        header::CONTENT_TYPE,
        header::CACHE_CONTROL,
        header::AUTHORIZATION,
        header::COOKIE,
        header::FORWARDED,
        HeaderName::from_static("x-forwarded-for"),
        HeaderName::from_static("x-forwarded-proto"),
        HeaderName::from_static("cdn-loop"),
        HeaderName::from_static("fastly-key"),
    ];
    if headers.contains_key(header::CONNECTION) {
        let tokens = headers.get_all(header::CONNECTION).into_iter().flat_map(|value| value.as_bytes().split(|b| *b == b','));
        let named: Vec<HeaderName> = tokens.filter_map(|token| HeaderName::from_bytes(token.trim_ascii()).ok()).collect();
        // Fields that are for everybody on the way are not the connection's, whatever its sender says (RFC 9110 §7.6.1): who
        // could take them away could change what a program sees of a request.
        for name in named.iter().filter(|name| !END_TO_END.contains(name)) {
            headers.remove(name);
        }
    }
    for name in &NAMES {
        headers.remove(name);
    }
    if takes_trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
}

/// Whether the sender wants the connection to become a WebSocket (RFC 6455 §4.1), and how it spells that.
pub fn websocket(headers: &HeaderMap) -> Option<HeaderValue> {
    let protocol = headers.get(header::UPGRADE)?;
    let named = headers.get_all(header::CONNECTION).iter().any(|value| {
        let mut words = value.as_bytes().split(|b| *b == b',');
        words.any(|word| word.trim_ascii().eq_ignore_ascii_case(b"upgrade"))
    });
    (named && protocol.as_bytes().eq_ignore_ascii_case(b"websocket")).then(|| protocol.clone())
}

/// Removes the fields that have no place behind a body: those that frame, route or describe it (RFC 9110
/// §6.5.1).
pub fn strip_from_trailers(trailers: &mut HeaderMap) {
    static NAMES: [HeaderName; 9] = [
        header::CONTENT_LENGTH,
        header::CONTENT_ENCODING,
        header::CONTENT_TYPE,
        header::CONTENT_RANGE,
        header::HOST,
        header::TRAILER,
        header::AUTHORIZATION,
        header::SET_COOKIE,
        header::EXPECT,
    ];
    strip_hop_by_hop(trailers);
    for name in &NAMES {
        trailers.remove(name);
    }
}

/// The guest's own framing was asked for and cannot be followed.
#[derive(Debug, thiserror::Error)]
#[error("content-length is not a number, or told twice, differently")]
pub struct BadFraming;

/// The one length that is told, in digits; told twice, it must be the same.
fn content_length(headers: &HeaderMap) -> Result<Option<u64>, BadFraming> {
    let mut length = None;
    for value in headers.get_all(header::CONTENT_LENGTH) {
        let digits = value.to_str().ok().map(str::trim).filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
        let told = digits.and_then(|digits| digits.parse().ok()).ok_or(BadFraming)?;
        if length.is_some_and(|length| length != told) {
            return Err(BadFraming);
        }
        length = Some(told);
    }
    Ok(length)
}

fn is_chunked(headers: &HeaderMap) -> bool {
    headers.get(header::TRANSFER_ENCODING).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"chunked"))
}

/// Decides a response's framing and sets the fields that say so.
///
/// `known` is the body's length when every byte of it is accounted for; `chunked_ok` is false for
/// HTTP/1.0 clients.
pub fn response(
    headers: &mut HeaderMap,
    mode: Framing,
    method: &Method,
    status: StatusCode,
    known: Option<u64>,
    chunked_ok: bool,
) -> Result<BodyFraming, BadFraming> {
    let manual = match mode {
        Framing::Manual => Some((content_length(headers)?, is_chunked(headers))),
        Framing::Automatic => None,
    };
    strip_hop_by_hop(headers);
    let bodiless = status.is_informational() || status == StatusCode::NO_CONTENT;
    if bodiless {
        headers.remove(header::CONTENT_LENGTH);
        return Ok(BodyFraming::None);
    }
    if *method == Method::HEAD || status == StatusCode::NOT_MODIFIED {
        // The length of the body that a GET would have had may be told; a known, non-empty body is that one.
        let known = known.filter(|length| *length > 0 && mode == Framing::Automatic);
        match known.or(content_length(headers).unwrap_or_default()) {
            Some(length) => drop(headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length))),
            None => drop(headers.remove(header::CONTENT_LENGTH)),
        }
        return Ok(BodyFraming::None);
    }
    let framing = match manual {
        Some((Some(length), false)) => BodyFraming::Length(length),
        Some((_, true)) if chunked_ok => BodyFraming::Chunked,
        Some(_) | None => match known {
            Some(length) => BodyFraming::Length(length),
            None if chunked_ok => BodyFraming::Chunked,
            None => BodyFraming::UntilClose,
        },
    };
    set(headers, framing);
    Ok(framing)
}

/// Decides a request's framing and sets the fields that say so.
pub fn request(headers: &mut HeaderMap, mode: Framing, method: &Method, known: Option<u64>) -> Result<BodyFraming, BadFraming> {
    let manual = match mode {
        Framing::Manual => Some((content_length(headers)?, is_chunked(headers))),
        Framing::Automatic => None,
    };
    strip_hop_by_hop(headers);
    let framing = match (manual, known) {
        (Some((Some(length), false)), _) => BodyFraming::Length(length),
        (Some((_, true)), _) => BodyFraming::Chunked,
        // RFC 9110 §8.6: a method that expects content says that there is none.
        (_, Some(0)) if *method == Method::POST || *method == Method::PUT || *method == Method::PATCH => BodyFraming::Length(0),
        (_, Some(0)) => BodyFraming::None,
        (_, Some(length)) => BodyFraming::Length(length),
        (_, None) => BodyFraming::Chunked,
    };
    set(headers, framing);
    Ok(framing)
}

fn set(headers: &mut HeaderMap, framing: BodyFraming) {
    match framing {
        BodyFraming::Length(length) => {
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        }
        BodyFraming::Chunked => {
            headers.remove(header::CONTENT_LENGTH);
            headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        BodyFraming::None | BodyFraming::UntilClose => {
            headers.remove(header::CONTENT_LENGTH);
        }
    }
}

/// Bytes of the fields, as HTTP/1.1 writes them.
pub fn size(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + ": \r\n".len()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn fields_of_the_connection_go() {
        let mut given =
            headers(&[("connection", "close, X-Mine"), ("x-mine", "1"), ("keep-alive", "1"), ("upgrade", "h2c"), ("x-stays", "1")]);
        strip_hop_by_hop(&mut given);
        assert_eq!(given, headers(&[("x-stays", "1")]));
    }

    #[test]
    fn websockets() {
        let asks = |pairs| websocket(&headers(pairs)).is_some();
        assert!(asks(&[("connection", "keep-alive, Upgrade"), ("upgrade", "WebSocket")]));
        assert!(!asks(&[("connection", "keep-alive"), ("upgrade", "websocket")]));
        assert!(!asks(&[("connection", "upgrade"), ("upgrade", "h2c")]));
        assert!(!asks(&[("connection", "upgrade")]));
    }

    #[test]
    fn taking_trailers_is_passed_on() {
        let mut given = headers(&[("connection", "te"), ("te", "gzip;q=0.5, Trailers;q=1")]);
        strip_hop_by_hop(&mut given);
        assert_eq!(given, headers(&[("te", "trailers")]));
        let mut given = headers(&[("te", "gzip")]);
        strip_hop_by_hop(&mut given);
        assert!(given.is_empty());
    }

    #[test]
    fn automatic_replaces_what_the_guest_said() {
        let mut given = headers(&[("content-length", "999"), ("transfer-encoding", "chunked")]);
        let got = response(&mut given, Framing::Automatic, &Method::GET, StatusCode::OK, Some(3), true).expect("frames");
        assert_eq!(got, BodyFraming::Length(3));
        assert_eq!(given, headers(&[("content-length", "3")]));
    }

    #[test]
    fn unknown_length_is_chunked_or_until_close() {
        let mut given = headers(&[]);
        assert_eq!(
            response(&mut given, Framing::Automatic, &Method::GET, StatusCode::OK, None, true).expect("frames"),
            BodyFraming::Chunked
        );
        assert_eq!(given, headers(&[("transfer-encoding", "chunked")]));
        let mut given = headers(&[]);
        assert_eq!(
            response(&mut given, Framing::Automatic, &Method::GET, StatusCode::OK, None, false).expect("frames"),
            BodyFraming::UntilClose
        );
    }

    #[test]
    fn never_both_length_and_chunked() {
        let mut given = headers(&[("content-length", "5"), ("transfer-encoding", "chunked")]);
        assert_eq!(response(&mut given, Framing::Manual, &Method::GET, StatusCode::OK, None, true).expect("frames"), BodyFraming::Chunked);
        assert_eq!(given, headers(&[("transfer-encoding", "chunked")]));
    }

    #[test]
    fn head_keeps_the_length_it_was_given() {
        let mut given = headers(&[("content-length", "5")]);
        assert_eq!(
            response(&mut given, Framing::Automatic, &Method::HEAD, StatusCode::OK, Some(0), true).expect("frames"),
            BodyFraming::None
        );
        assert_eq!(given, headers(&[("content-length", "5")]));
    }

    #[test]
    fn head_tells_no_length_that_is_none() {
        for lengths in [&[("content-length", "+5")][..], &[("content-length", "5"), ("content-length", "6")], &[("content-length", "")]] {
            let mut given = headers(lengths);
            response(&mut given, Framing::Automatic, &Method::HEAD, StatusCode::OK, None, true).expect("frames");
            assert!(given.is_empty(), "{given:?}");
            assert!(response(&mut headers(lengths), Framing::Manual, &Method::HEAD, StatusCode::OK, None, true).is_err());
        }
    }

    #[test]
    fn no_content_has_no_length() {
        let mut given = headers(&[("content-length", "5")]);
        assert_eq!(
            response(&mut given, Framing::Automatic, &Method::GET, StatusCode::NO_CONTENT, Some(5), true).expect("frames"),
            BodyFraming::None
        );
        assert!(given.is_empty());
    }

    #[test]
    fn a_request_without_content_says_so_only_where_it_must() {
        let mut given = headers(&[]);
        assert_eq!(request(&mut given, Framing::Automatic, &Method::GET, Some(0)).expect("frames"), BodyFraming::None);
        assert!(given.is_empty());
        assert_eq!(request(&mut given, Framing::Automatic, &Method::POST, Some(0)).expect("frames"), BodyFraming::Length(0));
        assert_eq!(given, headers(&[("content-length", "0")]));
    }

    #[test]
    fn a_length_that_is_no_number_is_refused_in_manual_mode() {
        let mut given = headers(&[("content-length", "ten")]);
        assert!(response(&mut given, Framing::Manual, &Method::GET, StatusCode::OK, Some(3), true).is_err());
    }
}
