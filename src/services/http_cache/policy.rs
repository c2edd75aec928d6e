//! Whether a response may be stored and for how long, as its fields say (RFC 9111 §3 and §4.2, and Fastly's rules where
//! they differ: `docs/caching.md` lists them). Pure: no clock but what is given.

use std::time::{Duration, UNIX_EPOCH};

use ::http::header::{self, HeaderName};
use ::http::{HeaderMap, Method, StatusCode};

use crate::http::{RequestHead, ResponseHead};
use crate::services::cache::{PASS_TIME, VaryRule};

/// How long a response is fresh that does not say so.
pub const DEFAULT_TTL: Duration = Duration::from_secs(120);

/// `Surrogate-Control` (W3C Edge Architecture).
pub const SURROGATE_CONTROL: HeaderName = HeaderName::from_static("surrogate-control");

/// `Surrogate-Key`.
pub const SURROGATE_KEY: HeaderName = HeaderName::from_static("surrogate-key");

/// What to do with a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Action {
    /// Store it.
    Insert = 0,
    /// It confirms what is stored.
    Update = 1,
    /// Only pass it on.
    DoNotStore = 2,
    /// Pass it on, and do without the cache for a while.
    RecordUncacheable = 3,
}

impl Action {
    /// As operators read it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Insert => "insert",
            Self::Update => "update",
            Self::DoNotStore => "do-not-store",
            Self::RecordUncacheable => "record-uncacheable",
        }
    }
}

/// What decided about a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it; `text` says it to people")]
pub enum Reason {
    Cacheable,
    Revalidated,
    Status,
    Private,
    NoStore,
    SurrogateNoStore,
    VaryAll,
    SetCookie,
    TooLarge,
    Guest,
}

impl Reason {
    /// For people.
    pub fn text(self) -> &'static str {
        match self {
            Self::Cacheable => "the response may be stored",
            Self::Revalidated => "304 confirms what is stored (RFC 9111 4.3.4)",
            Self::Status => "the status is none of 200, 203, 300, 301, 302, 404, 410",
            Self::Private => "Cache-Control: private (RFC 9111 5.2.2.7)",
            Self::NoStore => "Cache-Control: no-store (RFC 9111 5.2.2.5)",
            Self::SurrogateNoStore => "Surrogate-Control: no-store or private",
            Self::VaryAll => "Vary: * (RFC 9111 4.1)",
            Self::SetCookie => "the response sets cookies",
            Self::TooLarge => "the response is larger than an object may be",
            Self::Guest => "the guest decided",
        }
    }
}

/// Directives of a response that matter here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Directives {
    max_age: Option<Duration>,
    s_maxage: Option<Duration>,
    stale_while_revalidate: Option<Duration>,
    stale_if_error: Option<Duration>,
    private: bool,
    no_store: bool,
}

/// How long a response is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Freshness {
    /// How old it may become and be fresh.
    pub max_age: Duration,
    /// How old it is.
    pub initial_age: Duration,
    /// How long it may be used while it is revalidated.
    pub stale_while_revalidate: Duration,
    /// How long it may be used if that fails.
    pub stale_if_error: Duration,
}

/// Whether the cache is asked for a request (RFC 9111 §3; Fastly asks it for GET and HEAD only).
pub fn is_cacheable(method: &Method) -> bool {
    *method == Method::GET || *method == Method::HEAD
}

/// Whether a request may change what it is sent to (RFC 9110 §9.2.1), so that what is stored of it is doubtful.
pub fn is_unsafe(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::CONNECT) && method.as_str() != "PURGE"
}

/// Statuses whose responses are stored (Fastly, "HTTP caching semantics").
fn is_cacheable_status(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200 | 203 | 300 | 301 | 302 | 404 | 410)
}

/// The directives of a list field: names in lower case, arguments without their quotes (RFC 9110 §5.6).
fn directives<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = (String, Option<String>)> + 'a {
    headers.get_all(name).into_iter().flat_map(|value| split(value.as_bytes()).into_iter())
}

fn split(text: &[u8]) -> Vec<(String, Option<String>)> {
    let text = String::from_utf8_lossy(text);
    let mut found = Vec::new();
    let (mut part, mut quoted, mut escaped) = (String::new(), false, false);
    let mut end = |part: &mut String| {
        let (name, argument) = match part.split_once('=') {
            Some((name, argument)) => (name.trim(), Some(argument.trim().to_owned())),
            None => (part.trim(), None),
        };
        if !name.is_empty() {
            found.push((name.to_ascii_lowercase(), argument));
        }
        part.clear();
    };
    for letter in text.chars() {
        match letter {
            _ if escaped => {
                escaped = false;
                part.push(letter);
            }
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            ',' if !quoted => end(&mut part),
            _ => part.push(letter),
        }
    }
    end(&mut part);
    found
}

/// Seconds (RFC 9111 §1.2.2). What is no number is nothing: a response with such a lifetime is stale (§4.2.1).
fn seconds(argument: Option<&str>) -> Duration {
    // `Surrogate-Control` may say `N+M`, fresh and stale.
    let argument = argument.map(|text| text.split('+').next().unwrap_or_default());
    let digits = argument.filter(|text| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()));
    // More than fits is as good as for ever.
    Duration::from_secs(digits.map_or(0, |digits| digits.parse().unwrap_or(i32::MAX as u64)).min(i32::MAX as u64))
}

impl Directives {
    fn of(headers: &HeaderMap, name: &HeaderName) -> Self {
        let mut found = Self::default();
        for (name, argument) in directives(headers, name) {
            // Of several, the first counts (RFC 9111 §4.2.1).
            let first = |slot: &mut Option<Duration>| {
                slot.get_or_insert_with(|| seconds(argument.as_deref()));
            };
            match name.as_str() {
                "max-age" => first(&mut found.max_age),
                "s-maxage" => first(&mut found.s_maxage),
                "stale-while-revalidate" => first(&mut found.stale_while_revalidate),
                "stale-if-error" => first(&mut found.stale_if_error),
                // With names of fields it speaks of these only (§5.2.2.7); who cannot keep them apart stores nothing.
                "private" => found.private = true,
                "no-store" => found.no_store = true,
                _ => {}
            }
        }
        found
    }
}

/// How long a response is good for: `Surrogate-Control`, `s-maxage`, `max-age`, `Expires`, and if it does not say, two
/// minutes. `now`: since the Unix epoch.
pub fn freshness(response: &ResponseHead, now: Duration) -> Freshness {
    let headers = &response.headers;
    let surrogate = Directives::of(headers, &SURROGATE_CONTROL);
    let control = Directives::of(headers, &header::CACHE_CONTROL);
    let explicit = surrogate.max_age.or(control.s_maxage).or(control.max_age);
    let age = headers.get(header::AGE).map_or(Duration::ZERO, |value| {
        // Of a list, the first counts (RFC 9111 §5.1).
        let text = String::from_utf8_lossy(value.as_bytes());
        seconds(text.split(',').next().map(str::trim))
    });
    let (max_age, initial_age) = match (explicit, headers.get(header::EXPIRES)) {
        (Some(max_age), _) => (max_age, age),
        (None, Some(expires)) => {
            // What is no date is in the past (§5.3). Its time counts from when it came, whatever its age.
            let expires = expires.to_str().ok().and_then(date);
            let made = headers.get(header::DATE).and_then(|value| value.to_str().ok()).and_then(date).unwrap_or(now);
            (expires.map_or(Duration::ZERO, |expires| expires.saturating_sub(made)), Duration::ZERO)
        }
        (None, None) => (DEFAULT_TTL, age),
    };
    Freshness {
        max_age,
        initial_age,
        stale_while_revalidate: surrogate.stale_while_revalidate.or(control.stale_while_revalidate).unwrap_or_default(),
        stale_if_error: surrogate.stale_if_error.or(control.stale_if_error).unwrap_or_default(),
    }
}

/// An HTTP date (RFC 9110 §5.6.7), since the Unix epoch.
pub fn date(text: &str) -> Option<Duration> {
    httpdate::parse_http_date(text.trim()).ok()?.duration_since(UNIX_EPOCH).ok()
}

/// The names of a response's `Vary`; `None`: no other request is like this one.
pub fn vary(headers: &HeaderMap) -> Option<VaryRule> {
    let mut names = Vec::new();
    for value in headers.get_all(header::VARY) {
        for name in value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|name| !name.is_empty()) {
            if name == b"*" {
                return None;
            }
            // What is no name of a field is in no request.
            names.extend(HeaderName::from_bytes(name));
        }
    }
    Some(VaryRule::new(names))
}

/// What a response's own fields say about storing it; `length`: of its body, if known.
pub fn judge(response: &ResponseHead, length: Option<u64>, largest: u64) -> (Action, Reason) {
    let control = Directives::of(&response.headers, &header::CACHE_CONTROL);
    let surrogate = Directives::of(&response.headers, &SURROGATE_CONTROL);
    if !is_cacheable_status(response.status) {
        (Action::DoNotStore, Reason::Status)
    } else if surrogate.no_store || surrogate.private {
        (Action::RecordUncacheable, Reason::SurrogateNoStore)
    } else if control.private {
        (Action::RecordUncacheable, Reason::Private)
    } else if control.no_store {
        (Action::RecordUncacheable, Reason::NoStore)
    } else if vary(&response.headers).is_none() {
        (Action::RecordUncacheable, Reason::VaryAll)
    } else if length.is_some_and(|length| length > largest) {
        (Action::DoNotStore, Reason::TooLarge)
    } else {
        (Action::Insert, Reason::Cacheable)
    }
}

/// For how long requests do without the cache after a response like this.
pub fn pass_time(max_age: Duration) -> Duration {
    if max_age.is_zero() { PASS_TIME } else { max_age }
}

/// A request as a backend is to see it so that its response can be stored: whole, and whatever it is (RFC 9111 §4.3.1).
/// `stored`: what is there and past its time.
pub fn backend_request(request: &RequestHead, stored: Option<&HeaderMap>) -> RequestHead {
    let mut head = request.clone();
    if head.method == Method::HEAD {
        head.method = Method::GET;
    }
    for name in [header::RANGE, header::IF_RANGE, header::IF_NONE_MATCH, header::IF_MODIFIED_SINCE] {
        head.headers.remove(name);
    }
    if let Some(stored) = stored {
        if let Some(tag) = stored.get(header::ETAG) {
            head.headers.insert(header::IF_NONE_MATCH, tag.clone());
        }
        if let Some(time) = stored.get(header::LAST_MODIFIED) {
            head.headers.insert(header::IF_MODIFIED_SINCE, time.clone());
        }
    }
    head
}

/// What is stored, after a 304 (RFC 9111 §3.2): its fields replace those of the same name, but for those that describe
/// the bytes that are stored.
pub fn freshened(stored: &ResponseHead, confirmed: &ResponseHead) -> ResponseHead {
    // Cookies are for whoever asked this time.
    static NOT_THESE: [HeaderName; 6] = [
        header::CONTENT_LENGTH,
        header::CONTENT_ENCODING,
        header::CONTENT_RANGE,
        header::CONTENT_TYPE,
        header::TRANSFER_ENCODING,
        header::SET_COOKIE,
    ];
    let mut head = stored.clone();
    // It is as old as the confirmation says.
    head.headers.remove(header::AGE);
    for name in confirmed.headers.keys().filter(|name| !NOT_THESE.contains(name)) {
        head.headers.remove(name);
        for value in confirmed.headers.get_all(name) {
            head.headers.append(name, value.clone());
        }
    }
    head
}

#[cfg(test)]
mod tests {
    use ::http::HeaderValue;

    use super::*;

    fn response(pairs: &[(&'static str, &str)]) -> ResponseHead {
        let mut head = ResponseHead::default();
        for (name, value) in pairs {
            head.headers.append(HeaderName::from_static(name), HeaderValue::from_str(value).expect("a value"));
        }
        head
    }

    fn ttl(pairs: &[(&'static str, &str)]) -> (u64, u64) {
        let now = date("Thu, 26 Nov 2026 12:00:00 GMT").expect("a date");
        let freshness = freshness(&response(pairs), now);
        (freshness.max_age.as_secs(), freshness.initial_age.as_secs())
    }

    #[test]
    fn lifetimes() {
        let control = |text: &str| ttl(&[("cache-control", text)]).0;
        assert_eq!(ttl(&[]), (120, 0));
        assert_eq!(control("max-age=1, s-maxage=2"), 2);
        assert_eq!(control("max-age=1, max-age=2"), 1);
        assert_eq!(control("x=\"a, max-age=5\", MAX-AGE = \"7\""), 7);
        assert_eq!((control("max-age=x"), control("max-age=-1"), control("max-age")), (0, 0, 0));
        assert_eq!(control("max-age=99999999999999999999"), i32::MAX as u64);
        assert_eq!(ttl(&[("cache-control", "s-maxage=2"), ("surrogate-control", "max-age=3"), ("age", "1")]), (3, 1));
        assert_eq!(ttl(&[("cache-control", "max-age=9"), ("age", "4, 5"), ("age", "6")]), (9, 4));
        let expires = "Thu, 26 Nov 2026 12:01:00 GMT";
        assert_eq!(ttl(&[("expires", expires), ("age", "10")]), (60, 0));
        assert_eq!(ttl(&[("expires", expires), ("date", "Thu, 26 Nov 2026 12:00:50 GMT")]), (10, 0));
        assert_eq!(ttl(&[("expires", expires), ("date", "Thu, 26 Nov 2026 13:00:00 GMT")]), (0, 0));
        assert_eq!(ttl(&[("expires", "0")]), (0, 0));
        assert_eq!(ttl(&[("expires", expires), ("cache-control", "max-age=1")]), (1, 0));
    }

    #[test]
    fn what_is_stored() {
        let of = |pairs: &[(&'static str, &str)]| judge(&response(pairs), Some(10), 100);
        assert_eq!(of(&[]).0, Action::Insert);
        assert_eq!(of(&[("cache-control", "private=\"x\", max-age=1")]), (Action::RecordUncacheable, Reason::Private));
        assert_eq!(of(&[("cache-control", "no-cache, must-revalidate")]).0, Action::Insert);
        assert_eq!(of(&[("cache-control", "max-age=1"), ("cache-control", "No-Store")]).1, Reason::NoStore);
        assert_eq!(of(&[("surrogate-control", "no-store")]).1, Reason::SurrogateNoStore);
        assert_eq!(of(&[("vary", "accept, *")]).1, Reason::VaryAll);
        assert_eq!(judge(&response(&[]), Some(101), 100), (Action::DoNotStore, Reason::TooLarge));
        let partial = ResponseHead { status: StatusCode::PARTIAL_CONTENT, ..ResponseHead::default() };
        assert_eq!(judge(&partial, None, 100), (Action::DoNotStore, Reason::Status));
    }
}
