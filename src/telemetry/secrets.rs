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
    // A file's last line break is not what a program sends.
    let trimmed = secret.trim();
    let mut forms = forms_of(secret);
    if trimmed != secret && trimmed.len() >= SHORT {
        forms.extend(forms_of(trimmed));
    }
    forms
}

fn forms_of(secret: &str) -> Vec<String> {
    // What RFC 3986 §2.3 leaves as it is, and what JavaScript's encodeURIComponent does beside that.
    let percent = |more: &str| -> String {
        let encode = |byte: u8| match byte {
            _ if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || more.as_bytes().contains(&byte) => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        };
        secret.bytes().map(encode).collect()
    };
    let mut forms = vec![secret.to_owned()];
    // Component by component, with slashes, and as a whole address.
    for left in ["", "!*'()", "/", "!*'();/?:@&=+$,#"] {
        let text = percent(left);
        forms.extend([lower_hex(&text), text.replace("%20", "+"), text.replace('~', "%7E"), text]);
    }
    // As serializers write it: as little escaped as may be, slashes, too, and what is no ASCII or means something in HTML.
    if let Ok(json) = serde_json::to_string(secret) {
        let json = json[1..json.len() - 1].to_owned();
        let escaped = |special: &str| -> String {
            let escape = |c: char| match c {
                _ if !c.is_ascii() || special.contains(c) => {
                    c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")).collect()
                }
                _ => c.to_string(),
            };
            json.chars().map(escape).collect()
        };
        forms.extend([escaped(""), escaped("<>&"), escaped("").replace('/', "\\/"), json.replace('/', "\\/"), json]);
    }
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
        let lines = searched(["token-in-a-file/a&b<c~\u{e9}\n"].into_iter()).expect("some");
        for text in [
            "token-in-a-file/a&b<c~\u{e9}",
            "token-in-a-file/a&b<c~\\u00e9",
            "token-in-a-file\\/a&b<c~\u{e9}",
            "token-in-a-file/a\\u0026b\\u003cc~\\u00e9",
            "token-in-a-file/a%26b%3Cc~%C3%A9",
            "token-in-a-file/a&b%3Cc~%C3%A9",
            "token-in-a-file%2Fa%26b%3Cc%7E%C3%A9",
        ] {
            assert_eq!(without(&lines, text), REDACTED, "{text}");
        }
        assert_eq!(shown("nothing of that"), "nothing of that");
        assert!(searched([].into_iter()).is_none());
    }
}
