//! Where a program comes from, as text: a file, `https://…#sha256=…`, or `oci://…`.

use std::fmt;
use std::path::{Path, PathBuf};

/// Where a program comes from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ModuleSource {
    /// A file: a module, or a package as `fastly compute build` makes it.
    File(PathBuf),
    /// Fetched over HTTPS.
    Url {
        /// Where, without the fragment.
        url: String,
        /// SHA-256 of what is there, in lower-case hexadecimal.
        sha256: String,
    },
    /// Pulled from an OCI registry: `registry/repository:tag`, or `…@sha256:…`.
    Oci(String),
}

impl fmt::Display for ModuleSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Url { url, .. } => f.write_str(url),
            Self::Oci(reference) => write!(f, "oci://{reference}"),
        }
    }
}

impl ModuleSource {
    /// Reads a text; a file is taken to be in `folder`.
    pub fn parse(text: &str, folder: &Path) -> Result<Self, String> {
        if let Some(reference) = text.strip_prefix("oci://") {
            let (name, behind) = reference.split_once('/').unwrap_or((reference, ""));
            if name.is_empty() || behind.is_empty() {
                return Err(format!(
                    "`{text}` is no reference; expected oci://REGISTRY/REPOSITORY:TAG or oci://REGISTRY/REPOSITORY@sha256:DIGEST"
                ));
            }
            return Ok(Self::Oci(reference.to_owned()));
        }
        let is_loopback = text.strip_prefix("http://").is_some_and(|rest| {
            let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
            let port = |host: &str| authority.strip_prefix(host).is_some_and(|behind| behind.is_empty() || behind.starts_with(':'));
            ["127.0.0.1", "localhost", "[::1]"].into_iter().any(port) && !authority.contains('@')
        });
        if text.starts_with("https://") || is_loopback {
            let (url, fragment) = text.split_once('#').unwrap_or((text, ""));
            let sha256 = fragment.strip_prefix("sha256=").unwrap_or_default().to_ascii_lowercase();
            if sha256.len() != 64 || !sha256.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                return Err(format!("`{text}` does not say what is to be there; add #sha256=DIGEST (sha256sum of the file)"));
            }
            return Ok(Self::Url { url: url.to_owned(), sha256 });
        }
        match text.split_once("://") {
            Some((scheme, _)) => Err(format!("a program does not come by `{scheme}`; expected a file, https:// with #sha256=, or oci://")),
            None => Ok(Self::File(folder.join(text))),
        }
    }

    /// The file, if it is one.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path),
            Self::Url { .. } | Self::Oci(_) => None,
        }
    }

    /// Whether what is there may change without this text changing.
    pub fn may_move(&self) -> bool {
        matches!(self, Self::Oci(reference) if !reference.contains('@'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_what() {
        let folder = Path::new("dir");
        let parse = |text: &str| ModuleSource::parse(text, folder);
        assert_eq!(parse("bin/main.wasm"), Ok(ModuleSource::File("dir/bin/main.wasm".into())));
        assert_eq!(parse("oci://r.test:5000/a/b:v1"), Ok(ModuleSource::Oci("r.test:5000/a/b:v1".to_owned())));
        let digest = "ab".repeat(32);
        let url = parse(&format!("https://h.test/a.wasm#sha256={}", digest.to_uppercase()));
        assert_eq!(url, Ok(ModuleSource::Url { url: "https://h.test/a.wasm".to_owned(), sha256: digest }));
        for bad in
            ["https://h.test/a.wasm", "https://h.test/a#sha256=12", "http://h.test/a#sha256=x", "ftp://x", "oci://registry", "oci:///x"]
        {
            assert!(parse(bad).is_err(), "{bad}");
        }
        let at = |place: &str| parse(&format!("http://{place}/a.wasm#sha256={}", "ab".repeat(32))).is_ok();
        assert!(at("127.0.0.1") && at("localhost:80") && at("[::1]:80"));
        assert!(!["127.0.0.1.h.test", "localhost.h.test:80", "localhost.", "localhost:80@h.test", "h.test"].into_iter().any(at));
        assert!(parse("oci://r/a").is_ok_and(|source| source.may_move()));
        assert!(parse("oci://r/a@sha256:00").is_ok_and(|source| !source.may_move()));
    }
}
