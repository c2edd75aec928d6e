//! Who may ask the operators' listener: nobody's web page, and only those with the token, if there is one.

use std::net::IpAddr;

use ::http::{HeaderMap, Method, StatusCode, header};

use crate::config::Secret;

/// What a request must show.
#[derive(Clone, Debug, Default)]
pub struct Guard {
    /// What `Authorization: Bearer` must say.
    pub token: Option<Secret>,
    /// Names that the listener goes by, beside addresses and `localhost`.
    pub hosts: Vec<String>,
    /// Whether it is a socket that browsers cannot reach.
    pub unreachable: bool,
}

/// Why a request is refused.
pub type Refused = (StatusCode, &'static str);

impl Guard {
    /// Whether a request may be answered. `open`: it needs no token.
    pub fn check(&self, method: &Method, headers: &HeaderMap, open: bool) -> Result<(), Refused> {
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        // A name that somebody else has led here would let their pages read what is said (DNS rebinding).
        if !self.unreachable && !self.is_own(host) {
            return Err((
                StatusCode::MISDIRECTED_REQUEST,
                "this host name is not mine; --admin-host says which are (an address will do)\n",
            ));
        }
        let reads = *method == Method::GET || *method == Method::HEAD;
        // A link to the page, in somebody's chat: it opens as if it were typed, and nobody else sees what it shows.
        let followed = open && reads && headers.get("sec-fetch-mode").is_some_and(|mode| mode == "navigate");
        if !followed && !is_same_origin(headers, host, reads) {
            return Err((StatusCode::FORBIDDEN, "pages from elsewhere may not ask this\n"));
        }
        match &self.token {
            Some(token) if !open && !bears(headers, token) => {
                Err((StatusCode::UNAUTHORIZED, "the token is missing: Authorization: Bearer …\n"))
            }
            Some(_) | None => Ok(()),
        }
    }

    fn is_own(&self, host: &str) -> bool {
        let name = name_of(host);
        let lower = name.trim_end_matches('.').to_ascii_lowercase();
        name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok()
            || lower == "localhost"
            || lower.ends_with(".localhost")
            || self.hosts.iter().any(|own| own.eq_ignore_ascii_case(&lower))
    }
}

/// `Host` without its port.
fn name_of(host: &str) -> &str {
    match host.rfind(':') {
        Some(at) if host.get(at + 1..).is_some_and(|port| port.bytes().all(|byte| byte.is_ascii_digit())) && !host.ends_with(']') => {
            &host[..at]
        }
        _ => host,
    }
}

/// Whether a request is no page's, or one of this listener's own (Fetch Metadata; for older browsers, `Origin` and `Referer`).
fn is_same_origin(headers: &HeaderMap, host: &str, reads: bool) -> bool {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    if let Some(site) = text("sec-fetch-site")
        && site != "same-origin"
        && !(site == "none" && reads)
    {
        return false;
    }
    let own = |url: &str| {
        url.strip_prefix("http://").or_else(|| url.strip_prefix("https://")).is_some_and(|rest| rest.split('/').next() == Some(host))
    };
    match (text("origin"), text("referer")) {
        (Some(origin), _) => own(origin),
        // A link from elsewhere leads to a page that shows nothing to them; what changes something is no link.
        (None, Some(referer)) => reads && text("sec-fetch-site").is_some() || own(referer),
        (None, None) => true,
    }
}

fn bears(headers: &HeaderMap, token: &Secret) -> bool {
    let given = headers.get(header::AUTHORIZATION).map(|value| value.as_bytes()).and_then(|value| value.split_at_checked(7));
    given.is_some_and(|(scheme, given)| scheme.eq_ignore_ascii_case(b"bearer ") && token.is(given.trim_ascii()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asks(guard: &Guard, method: Method, fields: &[(&'static str, &str)]) -> u16 {
        let headers = fields.iter().map(|(name, value)| (::http::HeaderName::from_static(name), value.parse().expect("a value"))).collect();
        guard.check(&method, &headers, false).err().map_or(200, |(status, _)| status.as_u16())
    }

    #[test]
    fn names() {
        let guard = Guard { hosts: vec!["ops.example".to_owned()], ..Guard::default() };
        for (host, status) in [
            ("127.0.0.1:9000", 200),
            ("[::1]:9000", 200),
            ("10.1.2.3", 200),
            ("localhost:9000", 200),
            ("LOCALHOST.", 200),
            ("x.localhost:1", 200),
            ("ops.example:9000", 200),
            ("evil.example:9000", 421),
            ("127.0.0.1.evil.example", 421),
            ("localhost.evil.example", 421),
            ("", 421),
        ] {
            assert_eq!(asks(&guard, Method::GET, &[("host", host)]), status, "{host}");
        }
        let socket = Guard { unreachable: true, ..Guard::default() };
        assert_eq!(asks(&socket, Method::GET, &[("host", "anything")]), 200);
    }

    #[test]
    fn pages() {
        let guard = Guard::default();
        let own = ("host", "127.0.0.1:9000");
        let get = |fields: &[(&'static str, &str)]| asks(&guard, Method::GET, &[&[own], fields].concat());
        let post = |fields: &[(&'static str, &str)]| asks(&guard, Method::POST, &[&[own], fields].concat());
        // Tools.
        assert_eq!((get(&[]), post(&[])), (200, 200));
        // The inspector's own page, opened by hand or by a link, and what it asks.
        assert_eq!(get(&[("sec-fetch-site", "none")]), 200);
        assert_eq!(get(&[("sec-fetch-site", "same-origin"), ("referer", "http://127.0.0.1:9000/inspector/")]), 200);
        assert_eq!(post(&[("sec-fetch-site", "same-origin"), ("origin", "http://127.0.0.1:9000")]), 200);
        // Others' pages.
        for site in ["cross-site", "same-site"] {
            assert_eq!((get(&[("sec-fetch-site", site)]), post(&[("sec-fetch-site", site)])), (403, 403));
        }
        let link: HeaderMap = [
            ("host", "127.0.0.1:9000"),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-mode", "navigate"),
            ("referer", "http://chat.example/"),
        ]
        .iter()
        .map(|(name, value)| (::http::HeaderName::from_static(name), value.parse().expect("a value")))
        .collect();
        assert!(
            guard.check(&Method::GET, &link, true).is_ok()
                && guard.check(&Method::GET, &link, false).is_err()
                && guard.check(&Method::POST, &link, true).is_err()
        );
        assert_eq!(post(&[("sec-fetch-site", "none")]), 403);
        for origin in ["http://evil.example", "null", "http://127.0.0.1:9001", "http://127.0.0.1:9000.evil.example"] {
            assert_eq!((get(&[("origin", origin)]), post(&[("origin", origin)])), (403, 403), "{origin}");
        }
        assert_eq!(post(&[("referer", "http://evil.example/127.0.0.1:9000")]), 403);
    }

    #[test]
    fn tokens() {
        let guard = Guard { token: Some(Secret::new(b"s3cret".to_vec())), ..Guard::default() };
        let own = ("host", "127.0.0.1");
        let with = |value: &str| asks(&guard, Method::GET, &[own, ("authorization", value)]);
        assert_eq!((with("Bearer s3cret"), with("bearer  s3cret ")), (200, 200));
        for wrong in ["Bearer s3cre", "Bearer s3crets", "Basic s3cret", "s3cret", "Bearer"] {
            assert_eq!(with(wrong), 401, "{wrong}");
        }
        assert_eq!(asks(&guard, Method::GET, &[own]), 401);
        let headers = [(header::HOST, "127.0.0.1".parse().expect("a value"))].into_iter().collect();
        assert!(guard.check(&Method::GET, &headers, true).is_ok());
    }
}
