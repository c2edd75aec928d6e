//! A stored response as an answer to one request: conditions (RFC 9110 §13), ranges (§14), HEAD, and its age.

use std::time::Duration;

use ::http::header;
use ::http::{HeaderMap, HeaderValue, Method, StatusCode};

use super::policy::date;
use crate::http::{Body, RequestHead, ResponseHead};

/// Which bytes of a stored response an answer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All of them.
    All,
    /// From here, before there.
    Range(u64, u64),
    /// None.
    Nothing,
}

/// The head of the answer, and which bytes go with it. `length`: of the stored bytes, if known.
pub fn answer(request: &RequestHead, mut head: ResponseHead, length: Option<u64>, age: Duration) -> (ResponseHead, Part) {
    head.headers.insert(header::AGE, HeaderValue::from(age.as_secs()));
    let reads = request.method == Method::GET || request.method == Method::HEAD;
    if reads && head.status == StatusCode::OK && is_known(request, &head.headers) {
        head.status = StatusCode::NOT_MODIFIED;
        for name in
            [header::CONTENT_LENGTH, header::CONTENT_TYPE, header::CONTENT_ENCODING, header::CONTENT_RANGE, header::CONTENT_LANGUAGE]
        {
            head.headers.remove(name);
        }
        return (head, Part::Nothing);
    }
    if request.method == Method::HEAD {
        if let Some(length) = length {
            head.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        }
        return (head, Part::Nothing);
    }
    if request.method != Method::GET || head.status != StatusCode::OK {
        return (head, Part::All);
    }
    let (Some(asked), Some(length)) = (range(&request.headers), length) else { return (head, Part::All) };
    if !is_same(request, &head.headers) {
        return (head, Part::All);
    }
    let text = |start: u64, end: u64| HeaderValue::try_from(format!("bytes {start}-{}/{length}", end - 1));
    match asked.within(length) {
        Some((start, end)) => {
            let Ok(content_range) = text(start, end) else { return (head, Part::All) };
            head.status = StatusCode::PARTIAL_CONTENT;
            head.headers.insert(header::CONTENT_RANGE, content_range);
            head.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(end - start));
            (head, Part::Range(start, end))
        }
        None => {
            head.status = StatusCode::RANGE_NOT_SATISFIABLE;
            if let Ok(all) = HeaderValue::try_from(format!("bytes */{length}")) {
                head.headers.insert(header::CONTENT_RANGE, all);
            }
            for name in [header::CONTENT_LENGTH, header::CONTENT_TYPE, header::CONTENT_ENCODING] {
                head.headers.remove(name);
            }
            (head, Part::Nothing)
        }
    }
}

/// The bytes of a part.
pub fn body(part: Part, read: impl FnOnce(u64, Option<u64>) -> Body) -> Body {
    match part {
        Part::All => read(0, None),
        Part::Range(start, end) => read(start, Some(end)),
        Part::Nothing => Body::empty(),
    }
}

/// Whether the client has it already (RFC 9110 §13.2.2: a tag goes before a time).
fn is_known(request: &RequestHead, stored: &HeaderMap) -> bool {
    let mut tags = request.headers.get_all(header::IF_NONE_MATCH).iter().peekable();
    if tags.peek().is_some() {
        let own = stored.get(header::ETAG).map(|tag| weak(tag.as_bytes()));
        return tags.any(|list| each_tag(list.as_bytes()).any(|tag| tag == b"*" || own.is_some_and(|own| weak(tag) == own)));
    }
    let time = |headers: &HeaderMap, name| headers.get(name).and_then(|value| value.to_str().ok()).and_then(date);
    let since = time(&request.headers, header::IF_MODIFIED_SINCE);
    let modified = time(stored, header::LAST_MODIFIED);
    matches!((since, modified), (Some(since), Some(modified)) if modified <= since)
}

/// Tags of a list; commas may be in them.
fn each_tag(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = list;
    std::iter::from_fn(move || {
        while let Some((first, more)) = rest.split_first()
            && (first.is_ascii_whitespace() || *first == b',')
        {
            rest = more;
        }
        if rest.is_empty() {
            return None;
        }
        let open = rest.iter().position(|byte| *byte == b'"');
        let comma = rest.iter().position(|byte| *byte == b',').unwrap_or(rest.len());
        let end = match open {
            Some(open) if open < comma => {
                let close = rest[open + 1..].iter().position(|byte| *byte == b'"');
                close.map_or(rest.len(), |close| open + 1 + close + 1)
            }
            _ => comma,
        };
        let (tag, more) = rest.split_at(end);
        rest = more;
        Some(tag.trim_ascii())
    })
}

/// A tag as weak comparison has it (RFC 9110 §8.8.3.2).
fn weak(tag: &[u8]) -> &[u8] {
    tag.strip_prefix(b"W/").unwrap_or(tag)
}

/// Whether a range that was asked for is of what is stored (RFC 9110 §13.1.5).
fn is_same(request: &RequestHead, stored: &HeaderMap) -> bool {
    let Some(condition) = request.headers.get(header::IF_RANGE) else { return true };
    let condition = condition.as_bytes();
    if condition.starts_with(b"\"") {
        return stored.get(header::ETAG).is_some_and(|tag| tag.as_bytes() == condition);
    }
    if condition.starts_with(b"W/") {
        return false;
    }
    // A time is exact, or it is another.
    stored.get(header::LAST_MODIFIED).is_some_and(|time| time.as_bytes() == condition)
}

/// One range of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Range {
    From(u64, Option<u64>),
    Last(u64),
}

impl Range {
    /// From here, before there; `None`: nothing of it is there.
    fn within(self, length: u64) -> Option<(u64, u64)> {
        match self {
            Self::From(start, end) if start < length => Some((start, end.map_or(length, |end| end.saturating_add(1).min(length)))),
            Self::Last(count) if count > 0 && length > 0 => Some((length.saturating_sub(count), length)),
            Self::From(..) | Self::Last(_) => None,
        }
    }
}

/// The range that is asked for. Several at once, and what is none, are as if nothing had been asked (RFC 9110 §14.2).
fn range(headers: &HeaderMap) -> Option<Range> {
    let mut values = headers.get_all(header::RANGE).iter();
    let text = values.next()?.to_str().ok()?;
    if values.next().is_some() {
        return None;
    }
    let (unit, set) = text.split_once('=')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") || set.contains(',') {
        return None;
    }
    let (first, last) = set.trim().split_once('-')?;
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| text.parse().unwrap_or(u64::MAX))
    };
    match (first, last) {
        ("", last) => Some(Range::Last(number(last)?)),
        (first, "") => Some(Range::From(number(first)?, None)),
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then_some(Range::From(first, Some(last)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(text: &'static str) -> Option<(u64, u64)> {
        range(&HeaderMap::from_iter([(header::RANGE, HeaderValue::from_static(text))])).and_then(|range| range.within(10))
    }

    #[test]
    fn ranges() {
        assert_eq!((asked("bytes=0-0"), asked("bytes=5-"), asked("bytes=-3")), (Some((0, 1)), Some((5, 10)), Some((7, 10))));
        assert_eq!((asked("bytes=8-99"), asked("bytes=-99"), asked("Bytes = 1-2")), (Some((8, 10)), Some((0, 10)), Some((1, 3))));
        for none in ["bytes=10-", "bytes=-0", "bytes=3-2", "bytes=a-b", "bytes=1", "items=0-1", "bytes=0-1,3-4", "bytes=", "bytes=-"] {
            assert_eq!(asked(none), None, "{none}");
        }
        assert_eq!(asked("bytes=0-99999999999999999999999"), Some((0, 10)));
    }

    #[test]
    fn tags() {
        let tags: Vec<_> = each_tag(b" \"a,b\" , W/\"c\",*,d").collect();
        assert_eq!(tags, [&b"\"a,b\""[..], b"W/\"c\"", b"*", b"d"]);
    }
}
