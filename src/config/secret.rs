//! A value that must not be seen.

use std::sync::Arc;

use zeroize::Zeroizing;

/// The bytes of a secret: shared, not copied; overwritten when nobody has them any more; never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<Zeroizing<Vec<u8>>>);

impl Secret {
    /// Most bytes of a secret (production's limit for a stored one).
    pub const MAX: usize = 64 << 10;

    /// Takes the bytes over.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Arc::new(Zeroizing::new(bytes)))
    }

    /// Whether it is just these bytes; that takes as long for all of the same length.
    pub fn is(&self, given: &[u8]) -> bool {
        given.len() == self.0.len() && given.iter().zip(self.0.iter()).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
    }

    /// The content of a file, without white space around it.
    pub fn of_file(path: &std::path::Path) -> std::io::Result<Self> {
        let text = Zeroizing::new(super::files::read(path, super::files::LARGEST)?);
        if text.trim_ascii().is_empty() {
            return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, "it is empty"));
        }
        Ok(Self::new(text.trim_ascii().to_vec()))
    }
}

impl serde::Serialize for Secret {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("‹redacted›")
    }
}

impl AsRef<[u8]> for Secret {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl std::hash::Hash for Secret {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.as_ref().hash(state);
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// What may be seen of a URL: where it leads, without user, password and query.
pub fn place<S: serde::Serializer>(url: &str, serializer: S) -> Result<S::Ok, S::Error> {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = authority.rsplit('@').next().unwrap_or_default();
    serializer.collect_str(&format_args!("{scheme}://{host}{path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_not_shown() {
        assert_eq!(format!("{:?}", Secret::new(b"hunter2".to_vec())), "Secret(…)");
    }
}
