//! Values that nobody is to see, wherever they turn up in what is shown: traces, the access log, the inspector.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Arc, LazyLock};

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};
use arc_swap::ArcSwapOption;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;

use crate::config::Secret;

/// What stands in the place of a secret.
pub const REDACTED: &str = "‹redacted›";

/// Bytes below which a secret is not looked for: a short one would be found everywhere.
const SHORT: usize = 6;

/// Bytes of a secret by which it is found; whether the rest follows is seen then.
const BEGINNING: usize = 32;

/// How many forms of secrets are looked for: some hundred bytes of memory each.
const MOST: usize = 100_000;

/// Bytes of all of them.
const MOST_BYTES: usize = 64 << 20;

/// Bytes of them that are compared with one text. One that is made to be slow is not shown at all.
const MOST_COMPARED: usize = 16 << 20;

/// What is looked for, if anything is.
static KNOWN: LazyLock<ArcSwapOption<Known>> = LazyLock::new(ArcSwapOption::default);

/// Finds secrets.
struct Known {
    beginnings: AhoCorasick,
    /// What may follow each of them.
    rests: Vec<Vec<Box<str>>>,
    /// What it was made of.
    texts: Vec<Box<str>>,
}

/// These are all there are; those that come first go before others where there are too many.
pub fn know<'a>(secrets: impl Iterator<Item = &'a Secret>) {
    let mut seen = BTreeSet::new();
    let texts = secrets.filter_map(|secret| std::str::from_utf8(secret.as_ref()).ok()).filter(|text| text.len() >= SHORT);
    let texts: Vec<Box<str>> = texts.filter(|text| seen.insert(*text)).map(Box::from).collect();
    if KNOWN.load().as_ref().map_or(texts.is_empty(), |known| known.texts == texts) {
        return;
    }
    KNOWN.store(Known::of(texts).map(Arc::new));
}

impl Known {
    fn of(texts: Vec<Box<str>>) -> Option<Self> {
        let mut beginnings: BTreeMap<Box<[u8]>, BTreeSet<Box<str>>> = BTreeMap::new();
        let (mut count, mut bytes) = (0, 0);
        for text in &texts {
            // All forms of one, or none.
            let forms = forms(text);
            count += forms.len();
            bytes += forms.iter().map(String::len).sum::<usize>();
            if count > MOST || bytes > MOST_BYTES {
                tracing::warn!(
                    "there are more secrets than are looked for in what is shown (traces, the access log, the inspector): not all of them are redacted"
                );
                break;
            }
            for form in forms {
                let (beginning, _) = form.as_bytes().split_at(form.len().min(BEGINNING));
                beginnings.entry(beginning.into()).or_default().insert(form.into());
            }
        }
        if beginnings.is_empty() {
            return None;
        }
        let rests = beginnings.values().map(|forms| forms.iter().rev().cloned().collect()).collect();
        // Slower than the others, and some ten times smaller.
        let kind = Some(AhoCorasickKind::ContiguousNFA);
        let beginnings = AhoCorasick::builder().kind(kind).match_kind(MatchKind::Standard).build(beginnings.keys()).ok()?;
        Some(Self { beginnings, rests, texts })
    }

    /// Where they are in a text, one behind another.
    fn found(&self, text: &str) -> Vec<Range<usize>> {
        let (mut found, mut compared): (Vec<Range<usize>>, usize) = (Vec::new(), 0);
        for begun in self.beginnings.find_overlapping_iter(text) {
            let rest = &text.as_bytes()[begun.start()..];
            compared += self.rests[begun.pattern().as_usize()].iter().map(|form| form.len().min(rest.len())).sum::<usize>();
            if compared > MOST_COMPARED {
                return vec![Range { start: 0, end: text.len() }];
            }
            let whole =
                self.rests[begun.pattern().as_usize()].iter().filter(|form| rest.starts_with(form.as_bytes())).map(|form| form.len()).max();
            if let Some(length) = whole {
                found.push(begun.start()..begun.start() + length);
            }
        }
        found.sort_by_key(|range| range.start);
        found.dedup_by(|next, last| {
            let within = next.start < last.end;
            if within {
                last.end = last.end.max(next.end);
            }
            within
        });
        found
    }
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
    for left in ["", "*", "!*'()", "/", "!*'();/?:@&=+$,#"] {
        let text = percent(left);
        let of_a_form = text.replace("%20", "+");
        forms.extend([lower_hex(&text), of_a_form.replace('~', "%7E"), of_a_form, text.replace('~', "%7E"), text]);
    }
    // Byte by byte.
    let all: String = secret.bytes().map(|byte| format!("%{byte:02X}")).collect();
    forms.extend([all.to_ascii_lowercase(), all]);
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
        forms.extend([escaped(""), escaped("<>&"), escaped("<>&='"), escaped("").replace('/', "\\/"), json.replace('/', "\\/"), json]);
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

/// A document without them, in whatever texts it has.
pub fn hide(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::String(text) => {
            if let Cow::Owned(shown) = hidden(text) {
                *text = shown;
            }
        }
        serde_json::Value::Array(list) => list.iter_mut().for_each(hide),
        serde_json::Value::Object(table) => table.values_mut().for_each(hide),
        serde_json::Value::Null | serde_json::Value::Bool(_) | serde_json::Value::Number(_) => {}
    }
}

fn without<'t>(known: &Known, text: &'t str) -> Cow<'t, str> {
    let found = known.found(text);
    if found.is_empty() {
        return text.into();
    }
    let (mut shown, mut from) = (String::with_capacity(text.len()), 0);
    for range in found {
        shown.push_str(&text[from..range.start]);
        shown.push_str(REDACTED);
        from = range.end;
    }
    shown.push_str(&text[from..]);
    shown.into()
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

    use super::*;

    #[test]
    fn whatever_they_look_like() {
        let secret = "s3cr\u{e9}t/+\"key with*all";
        let searched = |texts: &[&str]| Known::of(texts.iter().map(|text| Box::from(*text)).collect());
        let known = searched(&[secret, "other-secret"]).expect("some");
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
        let lines = searched(&["token-in-a-file/a&b<c~\u{e9}\n"]).expect("some");
        for text in [
            "token-in-a-file/a&b<c~\u{e9}",
            "token-in-a-file/a&b<c~\\u00e9",
            "token-in-a-file\\/a&b<c~\u{e9}",
            "token-in-a-file/a\\u0026b\\u003cc~\\u00e9",
            "token-in-a-file/a%26b%3Cc~%C3%A9",
            "token-in-a-file/a&b%3Cc~%C3%A9",
            "token-in-a-file%2Fa%26b%3Cc%7E%C3%A9",
            "%74%6f%6b%65%6e%2d%69%6e%2d%61%2d%66%69%6c%65%2f%61%26%62%3c%63%7e%c3%a9",
        ] {
            assert_eq!(without(&lines, text), REDACTED, "{text}");
        }
        assert_eq!(shown("nothing of that"), "nothing of that");
        assert!(searched(&[]).is_none());
        // Long ones that begin alike, one in another, one behind another.
        let (one, two) = (format!("{}one{}", "-".repeat(60), "x".repeat(70_000)), format!("{}two", "-".repeat(60)));
        let known = searched(&[&one, &two, "xxxxxx-two"]).expect("some");
        assert_eq!(
            without(&known, &format!("a{one}b{two}c{}three", "-".repeat(60))),
            format!("a{REDACTED}b{REDACTED}c{}three", "-".repeat(60))
        );
        assert_eq!(without(&known, &format!("{one}-two!{}", &one[..100])), format!("{REDACTED}!{}", &one[..100]));
        assert!(known.beginnings.memory_usage() < 1 << 20);
    }

    #[test]
    fn many_take_little_memory() {
        let many: Vec<Box<str>> = (0..10_000).map(|n| format!("a-secret-of-many-{n:08}-and-more-of-it").into()).collect();
        let known = Known::of(many).expect("some");
        assert!(known.beginnings.memory_usage() < 64 << 20, "{}", known.beginnings.memory_usage());
        assert_eq!(without(&known, "x a-secret-of-many-00000001-and-more-of-it y"), format!("x {REDACTED} y"));
    }
}
