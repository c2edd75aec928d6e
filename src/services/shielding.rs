//! Shields: other places that a service may send its requests by. Every one is this host, unless the manifest says where
//! it is.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::config::stores::Shield as Settings;
use crate::config::{self, BackendTls, TlsVersion};

/// What is known of shields.
#[derive(Debug, Default)]
pub struct Shields {
    sites: BTreeMap<String, Settings>,
    /// By URL.
    targets: BTreeMap<String, config::Backend>,
}

/// What a guest is told of a shield.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info<'a> {
    /// Whether it is this host.
    pub is_me: bool,
    /// Its `http` URL.
    pub unencrypted: &'a str,
    /// Its `https` URL.
    pub encrypted: &'a str,
}

/// What backends of shields are called begins with this.
const NAME: &str = "shield ";

impl Shields {
    /// Those of the manifest, whose URLs have been checked.
    pub fn new(sites: &BTreeMap<String, Settings>) -> Self {
        let mut targets = BTreeMap::new();
        for site in sites.values() {
            if let Settings::Remote { encrypted, unencrypted } = site {
                for url in [encrypted, unencrypted] {
                    if let Some(backend) = backend(url) {
                        targets.insert(url.clone(), backend);
                    }
                }
            }
        }
        Self { sites: sites.clone(), targets }
    }

    /// What is known of one.
    pub fn info(&self, name: &str) -> Info<'_> {
        match self.sites.get(name) {
            Some(Settings::Remote { encrypted, unencrypted }) => Info { is_me: false, unencrypted, encrypted },
            Some(Settings::Local) | None => Info { is_me: true, unencrypted: "", encrypted: "" },
        }
    }

    /// The backend that one of their URLs stands for, with these timeouts where they are given. Its name is another for
    /// other timeouts.
    pub fn backend(&self, url: &str, first_byte: Option<Duration>, between_bytes: Option<Duration>) -> Option<config::Backend> {
        let mut backend = self.targets.get(url)?.clone();
        if let Some(timeout) = first_byte {
            backend.first_byte_timeout = timeout;
            backend.name.push_str(&format!(" {}", timeout.as_millis()));
        }
        if let Some(timeout) = between_bytes {
            backend.between_bytes_timeout = timeout;
            backend.name.push_str(&format!(" /{}", timeout.as_millis()));
        }
        Some(backend)
    }
}

fn backend(url: &str) -> Option<config::Backend> {
    let uri: ::http::Uri = url.parse().ok()?;
    let host = uri.host()?.trim_start_matches('[').trim_end_matches(']').to_owned();
    let tls = uri.scheme_str() == Some("https");
    let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
    let name = format!("{NAME}{url}");
    let settings = config::Backend::plain(&name, std::net::SocketAddr::from(([0, 0, 0, 0], port)));
    let is_name = host.parse::<std::net::IpAddr>().is_err();
    Some(config::Backend {
        path_prefix: uri.path().trim_end_matches('/').to_owned(),
        tls: tls.then(|| BackendTls {
            sni: is_name.then(|| host.clone()),
            cert_host: Some(host.clone()),
            min: TlsVersion::V1_2,
            max: TlsVersion::V1_3,
            ciphers: None,
            ca: Vec::new(),
            client: None,
        }),
        host,
        dynamic: true,
        ..settings
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_me_that_is_nowhere_else() {
        let site = Settings::Remote { encrypted: "https://a.example/p/".to_owned(), unencrypted: "http://a.example:81".to_owned() };
        let shields = Shields::new(&BTreeMap::from([("far".to_owned(), site), ("near".to_owned(), Settings::Local)]));
        assert!(shields.info("near").is_me && shields.info("other").is_me && !shields.info("far").is_me);
        let backend = shields.backend("https://a.example/p/", None, Some(Duration::from_millis(5))).expect("a shield's");
        assert_eq!((backend.host.as_str(), backend.port, backend.path_prefix.as_str()), ("a.example", 443, "/p"));
        assert_eq!(backend.between_bytes_timeout, Duration::from_millis(5));
        assert_eq!(shields.backend("http://a.example:81", None, None).map(|backend| backend.port), Some(81));
        assert!(shields.backend("https://elsewhere.example", None, None).is_none(), "no other place");
    }
}
