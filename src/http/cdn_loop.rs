//! Requests that go round in circles (RFC 8586). Every request to a backend says that it has passed
//! here; one that has too often is not passed on.

use ::http::HeaderMap;
use ::http::header::{HeaderName, HeaderValue};

/// `CDN-Loop`.
pub static CDN_LOOP: HeaderName = HeaderName::from_static("cdn-loop");

/// What this host calls itself there.
const NAME: &str = "sidelight";

/// How often a request may pass here: services behind one another are no loop.
const MAX_PASSES: usize = 8;

/// Whether a request has passed here too often.
pub fn is_loop(headers: &HeaderMap) -> bool {
    passes(headers) >= MAX_PASSES
}

/// How often a request has passed here.
pub fn passes(headers: &HeaderMap) -> usize {
    let infos = headers.get_all(&CDN_LOOP).iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    infos.filter(|info| info.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(NAME)).count()
}

/// Notes that a request passes here. What others noted stays.
pub fn mark(headers: &mut HeaderMap) {
    // No room for it: the head is too large to be sent anyhow.
    drop(headers.try_append(&CDN_LOOP, HeaderValue::from_static(NAME)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_are_counted() {
        let mut headers = HeaderMap::new();
        headers.append(&CDN_LOOP, HeaderValue::from_static("Fastly, sidelighter;v=1, other; sidelight"));
        assert_eq!(passes(&headers), 0);
        headers.append(&CDN_LOOP, HeaderValue::from_static("sidelight;v=1,Sidelight ; a=b"));
        assert_eq!(passes(&headers), 2);
        for _ in 0..MAX_PASSES - 2 {
            assert!(!is_loop(&headers));
            mark(&mut headers);
        }
        assert!(is_loop(&headers));
    }
}
