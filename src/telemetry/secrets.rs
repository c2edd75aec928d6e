//! Values that nobody is to see, wherever they turn up in what is shown: traces, the access log, the inspector.

use std::borrow::Cow;
use std::sync::LazyLock;

use arc_swap::ArcSwap;

use crate::config::Secret;

/// What stands in the place of a secret.
pub const REDACTED: &str = "‹redacted›";

/// Bytes below which a secret is not looked for: a short one would be found everywhere.
const SHORT: usize = 6;

/// Those that this process knows, the longest first.
static KNOWN: LazyLock<ArcSwap<Vec<String>>> = LazyLock::new(ArcSwap::default);

/// These are all there are.
pub fn know<'a>(secrets: impl Iterator<Item = &'a Secret>) {
    let texts = secrets.filter_map(|secret| std::str::from_utf8(secret.as_ref()).ok()).filter(|text| text.len() >= SHORT);
    let mut texts: Vec<String> = texts.map(str::to_owned).collect();
    texts.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
    texts.dedup();
    KNOWN.store(texts.into());
}

/// A text without them.
pub fn hidden(text: &str) -> Cow<'_, str> {
    let known = KNOWN.load();
    let mut shown = Cow::from(text);
    for secret in known.iter().filter(|secret| text.contains(secret.as_str())) {
        shown = shown.replace(secret.as_str(), REDACTED).into();
    }
    shown
}
