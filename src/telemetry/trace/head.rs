//! What traces and the access log take from a request's head.

use std::borrow::Cow;

use ::http::Version;

/// Names in a query whose values nobody is to see.
const SECRET_NAMES: [&str; 11] = ["auth", "code", "jwt", "key", "otp", "passwd", "pwd", "sig", "signature", "ticket", "x-amz-credential"];

/// Parts of such names.
const SECRET_PARTS: [&str; 7] = ["accesskey", "apikey", "credential", "password", "secret", "session", "token"];

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

/// Whether what has this name in a query is likely to be a secret. Names may be percent-encoded.
fn is_secret(name: &str) -> bool {
    let pair = format!("http://a/?{name}=");
    let decoded = reqwest::Url::parse(&pair).ok().and_then(|url| url.query_pairs().next().map(|(name, _)| name.to_ascii_lowercase()));
    let name = decoded.unwrap_or_else(|| name.to_ascii_lowercase());
    let letters: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
    SECRET_NAMES.contains(&name.as_str()) || name.ends_with("-signature") || SECRET_PARTS.iter().any(|part| letters.contains(part))
}

/// A query without the values of names that are usual for secrets.
pub fn redacted(query: &str) -> Cow<'_, str> {
    let is_secret = |pair: &str| pair.split_once('=').is_some_and(|(name, _)| is_secret(name));
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

/// A name that a hostcall was given, as it may be seen: it may be a URL, with a user and a query.
pub fn shown(name: &str) -> Cow<'_, str> {
    let (before, query) = name.split_once('?').map_or((name, None), |(before, query)| (before, Some(query)));
    let place = before.split_once("://").and_then(|(scheme, rest)| {
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        authority.rsplit_once('@').map(|(_, host)| format!("{scheme}://{host}{path}"))
    });
    match (place, query) {
        (None, None) => name.into(),
        (Some(place), None) => place.into(),
        (place, Some(query)) => format!("{}?{}", place.as_deref().unwrap_or(before), redacted(query)).into(),
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
        assert_eq!(
            redacted("api%5Fkey=a&sessionid=b&passwd=c&X-Amz-Signature=d&code=e"),
            "api%5Fkey=REDACTED&sessionid=REDACTED&passwd=REDACTED&X-Amz-Signature=REDACTED&code=REDACTED"
        );
        assert_eq!(redacted("keyword=a&monkey=b&page=2"), "keyword=a&monkey=b&page=2");
        assert_eq!(shown("http://u:p@x/?token=a"), "http://x/?token=REDACTED");
        assert_eq!((&*shown("http://u:p@x/y"), &*shown("a?b"), &*shown("name@x")), ("http://x/y", "a?b", "name@x"));
    }

    #[test]
    fn fields_of_a_head() {
        let head = b"GET / HTTP/1.1\r\nHost: a\r\nUser-Agent:  b c \r\nuser-agent: d\r\n\r\n";
        assert_eq!(values(head, "user-agent").collect::<Vec<_>>(), [&b"b c"[..], b"d"]);
        assert_eq!(values(head, "get / http/1.1").count(), 0);
        assert_eq!(values(b"", "x").count(), 0);
    }
}
