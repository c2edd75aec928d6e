//! Values that nobody is to see, wherever they turn up in what is shown: traces, the access log, the inspector.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};

use aho_corasick::{AhoCorasick, MatchKind};
use arc_swap::ArcSwapOption;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;

use crate::config::Secret;

/// What stands in the place of a secret.
pub const REDACTED: &str = "‹redacted›";

/// Bytes below which a secret is not looked for: a short one would be found everywhere.
const SHORT: usize = 6;

/// What is looked for, if anything is.
static KNOWN: LazyLock<ArcSwapOption<AhoCorasick>> = LazyLock::new(ArcSwapOption::default);

/// These are all there are.
pub fn know<'a>(secrets: impl Iterator<Item = &'a Secret>) {
    let texts = secrets.filter_map(|secret| std::str::from_utf8(secret.as_ref()).ok()).filter(|text| text.len() >= SHORT);
    KNOWN.store(searched(texts).map(Arc::new));
}

fn searched<'a>(secrets: impl Iterator<Item = &'a str>) -> Option<AhoCorasick> {
    let forms: BTreeSet<String> = secrets.flat_map(forms).collect();
    if forms.is_empty() {
        return None;
    }
    // The longest of what begins at one place. It fails for patterns of GiB.
    AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(forms).ok()
}

/// A secret as it turns up: as it is, as a part of a URL or a form, in JSON, and within base64 (as in `Authorization: Basic`), wherever it begins there.
fn forms(secret: &str) -> Vec<String> {
    // What RFC 3986 §2.3 leaves as it is, and what JavaScript's encodeURIComponent does beside that.
    let percent = |more: &str| -> String {
        let encode = |byte: u8| match byte {
            _ if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || more.as_bytes().contains(&byte) => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        };
        secret.bytes().map(encode).collect()
    };
    let (strict, script) = (percent(""), percent("!*'()"));
    let mut forms = vec![secret.to_owned(), strict.replace("%20", "+"), lower_hex(&strict), strict, lower_hex(&script), script];
    forms.extend(serde_json::to_string(secret).map(|text| text.trim_matches('"').to_owned()));
    for before in 0..3 {
        let bytes = [&[0; 2][..before], secret.as_bytes()].concat();
        let encoded = STANDARD_NO_PAD.encode(&bytes);
        // Without what depends on bytes before and behind it.
        let (from, to) = ((before * 8).div_ceil(6), bytes.len() * 8 / 6);
        let text = &encoded[from..to];
        forms.extend([text.to_owned(), text.replace('+', "-").replace('/', "_")]);
    }
    forms
}

/// With the digits of `%XX` in lower case.
fn lower_hex(text: &str) -> String {
    let mut left = 0;
    let lower = |c: char| match c {
        '%' => {
            left = 2;
            c
        }
        _ if left > 0 => {
            left -= 1;
            c.to_ascii_lowercase()
        }
        _ => c,
    };
    text.chars().map(lower).collect()
}

/// A text without them.
pub fn hidden(text: &str) -> Cow<'_, str> {
    match &*KNOWN.load() {
        Some(known) => without(known, text),
        None => text.into(),
    }
}

fn without<'t>(known: &AhoCorasick, text: &'t str) -> Cow<'t, str> {
    if !known.is_match(text) {
        return text.into();
    }
    let mut shown = String::with_capacity(text.len());
    known.replace_all_with(text, &mut shown, |_, _, shown| {
        shown.push_str(REDACTED);
        true
    });
    shown.into()
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

    use super::*;

    #[test]
    fn whatever_they_look_like() {
        let secret = "s3cr\u{e9}t/+\"key with*all";
        let known = searched([secret, "other-secret"].into_iter()).expect("some");
        let shown = |text: &str| without(&known, text).into_owned();
        assert_eq!(shown(&format!("a {secret} b other-secret")), format!("a {REDACTED} b {REDACTED}"));
        assert_eq!(shown("/?token=s3cr%C3%A9t%2F%2B%22key%20with%2Aall&x"), format!("/?token={REDACTED}&x"));
        assert_eq!(shown("/?token=s3cr%c3%a9t%2f%2b%22key%20with*all"), format!("/?token={REDACTED}"));
        assert_eq!(shown("token=s3cr%C3%A9t%2F%2B%22key+with%2Aall"), format!("token={REDACTED}"));
        assert_eq!(shown(&serde_json::to_string(&["x", secret]).expect("JSON")), format!("[\"x\",\"{REDACTED}\"]"));
        for before in ["", "u:", "user:", "someone:", "ab", "a"] {
            for behind in ["", "x", "xy", "xyz"] {
                let text = format!("{before}{secret}{behind}");
                for encoded in [STANDARD.encode(&text), URL_SAFE_NO_PAD.encode(&text)] {
                    let told = shown(&encoded);
                    assert!(told.contains(REDACTED), "{text}: {encoded}");
                    // What is left is not more than a byte of it at each end.
                    let left = told.replace(REDACTED, "");
                    assert!(left.len() <= (before.len() + behind.len()).div_ceil(3) * 4 + 8, "{encoded}: {told}");
                }
            }
        }
        assert_eq!(shown("nothing of that"), "nothing of that");
        assert!(searched([].into_iter()).is_none());
    }
}
