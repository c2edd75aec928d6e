//! What objects are found by: the key of an entry, the fields of requests that tell its variants apart, and the keys that
//! purges name.

use std::sync::Arc;

use ::http::{HeaderMap, HeaderName};
use sha2::{Digest, Sha256};

use super::Error;

/// Longest key of the core cache, in bytes, as production takes it.
pub const MAX_KEY: usize = 8135;

/// Longest surrogate key, in bytes.
pub const MAX_SURROGATE_KEY: usize = 1024;

/// Most bytes of an object's surrogate keys together.
pub const MAX_SURROGATE_KEYS: usize = 16 << 10;

/// Which of the cache's faces an entry belongs to: the same bytes are two keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Face {
    /// The core cache, and what SDKs make of it.
    Core,
    /// Responses.
    Http,
}

/// Names an entry: a digest of the service, the face and the key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(pub(super) [u8; 32]);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.hex())
    }
}

impl Key {
    pub(super) fn new(service: &str, face: Face, key: &[u8]) -> Self {
        let mut digest = Sha256::new();
        digest.update((service.len() as u64).to_le_bytes());
        digest.update(service);
        digest.update([face as u8]);
        digest.update(key);
        Self(digest.finalize().into())
    }

    /// 64 hexadecimal digits.
    pub fn hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// A key in hexadecimal digits.
    pub fn from_hex(text: &str) -> Option<Self> {
        let mut key = [0; 32];
        if text.len() != 64 || !text.is_ascii() {
            return None;
        }
        for (byte, digits) in key.iter_mut().zip(text.as_bytes().chunks(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        }
        Some(Self(key))
    }

    /// Spreads over `count`, a power of two.
    pub(super) fn spread(&self, count: usize) -> usize {
        usize::from(self.0[31]) & (count - 1)
    }
}

/// A key is as good as random already.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct KeyHasher(u64);

impl std::hash::Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk::<8>() {
            self.0 = u64::from_le_bytes(*first);
        }
    }

    fn write_usize(&mut self, _: usize) {
        // The length of what follows, always the same.
    }
}

/// Names of fields of a request that tell variants of an entry apart (RFC 9110 §12.5.5).
#[derive(Clone, Debug, Default)]
pub struct VaryRule(Option<Arc<Rule>>);

#[derive(Debug)]
struct Rule {
    /// Sorted, each once.
    names: Box<[HeaderName]>,
    /// As it was told.
    text: Box<str>,
}

impl PartialEq for VaryRule {
    fn eq(&self, other: &Self) -> bool {
        self.names() == other.names()
    }
}

impl Eq for VaryRule {}

/// Which variant of an entry: a digest of a rule, and of a request's fields that it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Variant(u128);

impl Variant {
    pub(super) fn to_bits(self) -> u128 {
        self.0
    }

    pub(super) fn from_bits(bits: u128) -> Self {
        Self(bits)
    }
}

impl VaryRule {
    /// Bytes that it takes.
    pub(super) fn bytes(&self) -> usize {
        let of = |name: &HeaderName| size_of::<HeaderName>() + name.as_str().len();
        self.0.as_ref().map_or(0, |rule| rule.text.len() + rule.names.iter().map(of).sum::<usize>())
    }

    /// Names with spaces between them, or commas, as some programs have it.
    pub fn parse(text: &[u8]) -> Result<Self, Error> {
        let names = text.split(|byte| matches!(*byte, b' ' | b',')).filter(|name| !name.is_empty());
        let names: Result<Vec<_>, _> = names.map(HeaderName::from_bytes).collect();
        let names = names.map_err(|_| Error::Invalid("a vary rule has names of fields with spaces between them"))?;
        Ok(Self::told(names, String::from_utf8_lossy(text).into()))
    }

    /// Of these names.
    pub fn new(names: Vec<HeaderName>) -> Self {
        let text = names.iter().map(HeaderName::as_str).collect::<Vec<_>>().join(" ");
        Self::told(names, text.into())
    }

    fn told(mut names: Vec<HeaderName>, text: Box<str>) -> Self {
        names.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
        names.dedup();
        Self((!names.is_empty()).then(|| Arc::new(Rule { names: names.into(), text })))
    }

    /// The names.
    pub fn names(&self) -> &[HeaderName] {
        self.0.as_ref().map_or(&[], |rule| &rule.names)
    }

    /// Whether there is only one variant.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    pub(super) fn variant(&self, headers: &HeaderMap) -> Variant {
        if self.is_empty() {
            return Variant(0);
        }
        let mut digest = Sha256::new();
        for name in self.names() {
            digest.update(name.as_str());
            digest.update([0]);
            for value in headers.get_all(name) {
                digest.update((value.len() as u64).to_le_bytes());
                digest.update(value.as_bytes());
            }
            digest.update([0xff]);
        }
        let digest: [u8; 32] = digest.finalize().into();
        let mut half = [0; 16];
        half.copy_from_slice(&digest[..16]);
        Variant(u128::from_le_bytes(half))
    }
}

impl std::fmt::Display for VaryRule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0.as_ref().map_or("", |rule| &rule.text))
    }
}

/// The keys that purges find an object by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SurrogateKeys(Box<[Arc<str>]>);

impl SurrogateKeys {
    /// Keys with spaces between them, each once, in their order. As in production, a key of more than
    /// [`MAX_SURROGATE_KEY`] bytes is left out, and so is what follows [`MAX_SURROGATE_KEYS`] bytes of them.
    pub fn parse(text: &[u8]) -> Self {
        let mut keys: Vec<Arc<str>> = Vec::new();
        let mut room = MAX_SURROGATE_KEYS;
        for key in text.split(|byte| *byte == b' ').filter(|key| !key.is_empty()) {
            let Some(left) = room.checked_sub(key.len() + 1) else { break };
            room = left;
            if is_surrogate_key(key)
                && let Ok(key) = std::str::from_utf8(key)
                && !keys.iter().any(|known| **known == *key)
            {
                keys.push(key.into());
            }
        }
        Self(keys.into_boxed_slice())
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<str>> {
        self.0.iter()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Bytes of memory.
    pub(super) fn held(&self) -> u64 {
        self.0.iter().map(|key| key.len() as u64 + 64).sum()
    }
}

/// Whether it can be a surrogate key: printable ASCII, and not too long.
pub fn is_surrogate_key(key: &[u8]) -> bool {
    !key.is_empty() && key.len() <= MAX_SURROGATE_KEY && key.iter().all(u8::is_ascii_graphic)
}

impl std::fmt::Display for SurrogateKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, key) in self.iter().enumerate() {
            if index > 0 {
                f.write_str(" ")?;
            }
            f.write_str(key)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use ::http::HeaderValue;

    use super::*;

    #[test]
    fn variants() {
        let rule = VaryRule::parse(b"b  A").expect("a rule");
        assert_eq!((rule.to_string().as_str(), VaryRule::parse(b"a,b").expect("a rule") == rule), ("b  A", true));
        assert!(VaryRule::parse(b" ").expect("a rule").is_empty());
        assert!(VaryRule::parse(b"a b:c").is_err());
        let of = |pairs: &[(&'static str, &'static str)]| {
            let headers = pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
            let mut map = HeaderMap::new();
            headers.for_each(|(name, value)| {
                map.append(name, value);
            });
            rule.variant(&map)
        };
        assert_eq!(of(&[("a", "1"), ("c", "2")]), of(&[("c", "3"), ("a", "1")]));
        let all = [of(&[]), of(&[("a", "")]), of(&[("a", "1")]), of(&[("b", "1")]), of(&[("a", "1"), ("a", "")]), of(&[("a", "11")])];
        for (index, one) in all.iter().enumerate() {
            assert!(!all[index + 1..].contains(one));
        }
    }

    #[test]
    fn surrogate_keys() {
        let long = "x".repeat(1025);
        let keys = SurrogateKeys::parse(format!("a  b a {long} c\u{e9} d").as_bytes());
        assert_eq!(keys.to_string(), "a b d");
        let many = (0..10_000).map(|index| format!("key-{index}")).collect::<Vec<_>>().join(" ");
        assert!(SurrogateKeys::parse(many.as_bytes()).to_string().len() <= MAX_SURROGATE_KEYS);
    }

    #[test]
    fn services_and_faces_have_keys_of_their_own() {
        let keys = [Key::new("a", Face::Core, b"k"), Key::new("a", Face::Http, b"k"), Key::new("ak", Face::Core, b"")];
        assert!(keys[0] != keys[1] && keys[0] != keys[2]);
        assert_eq!(Key::from_hex(&keys[0].hex()), Some(keys[0]));
        assert_eq!(Key::from_hex("zz"), None);
    }
}
