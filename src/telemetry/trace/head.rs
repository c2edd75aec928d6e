//! What traces and the access log take from a request's head.

use std::borrow::Cow;

use ::http::Version;

/// Names in a query whose values nobody is to see.
const SECRET_NAMES: [&str; 16] = [
    "access_token",
    "api_key",
    "apikey",
    "auth",
    "awsaccesskeyid",
    "client_secret",
    "key",
    "password",
    "secret",
    "session",
    "sig",
    "signature",
    "token",
    "x-amz-credential",
    "x-amz-signature",
    "x-goog-signature",
];

/// The fields of a head as it came.
pub fn lines(raw_head: &[u8]) -> impl Iterator<Item = (&str, &[u8])> {
    raw_head.split(|byte| *byte == b'\n').skip(1).filter_map(|line| {
        let at = line.iter().position(|byte| *byte == b':')?;
        Some((std::str::from_utf8(line.get(..at)?).ok()?, line.get(at + 1..)?.trim_ascii()))
    })
}

/// The values of one of them.
pub fn values<'a>(raw_head: &'a [u8], name: &'a str) -> impl Iterator<Item = &'a [u8]> {
    lines(raw_head).filter(move |(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

/// A version of HTTP, as conventions have it.
pub fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        _ => "1.1",
    }
}

/// A query without the values of names that are usual for secrets.
pub fn redacted(query: &str) -> Cow<'_, str> {
    let is_secret = |pair: &str| pair.split_once('=').is_some_and(|(name, _)| SECRET_NAMES.contains(&name.to_ascii_lowercase().as_str()));
    if !query.split('&').any(is_secret) {
        return query.into();
    }
    let pairs: Vec<Cow<'_, str>> = query
        .split('&')
        .map(|pair| match pair.split_once('=') {
            Some((name, _)) if is_secret(pair) => format!("{name}=REDACTED").into(),
            _ => pair.into(),
        })
        .collect();
    pairs.join("&").into()
}

/// A name that a hostcall was given, as it may be seen: it may be a URL with a query.
pub fn shown(name: &str) -> Cow<'_, str> {
    match name.split_once('?') {
        Some((before, query)) => format!("{before}?{}", redacted(query)).into(),
        None => name.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_in_queries() {
        assert_eq!(redacted("a=b&c=d"), "a=b&c=d");
        assert_eq!(redacted("a=b&Token=x%20y&c&sig="), "a=b&Token=REDACTED&c&sig=REDACTED");
        assert_eq!(redacted(""), "");
    }

    #[test]
    fn fields_of_a_head() {
        let head = b"GET / HTTP/1.1\r\nHost: a\r\nUser-Agent:  b c \r\nuser-agent: d\r\n\r\n";
        assert_eq!(values(head, "user-agent").collect::<Vec<_>>(), [&b"b c"[..], b"d"]);
        assert_eq!(values(head, "get / http/1.1").count(), 0);
        assert_eq!(values(b"", "x").count(), 0);
    }
}
