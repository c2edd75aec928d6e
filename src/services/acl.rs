//! Access control lists: what is to be done about an address, by the most specific network that it is in.

use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use prefix_trie::PrefixMap;
use serde::Deserialize;

use super::data::{self, DataError};

/// An access list.
#[derive(Debug, Default)]
pub struct Acl {
    v4: PrefixMap<Ipv4Net, Action>,
    v6: PrefixMap<Ipv6Net, Action>,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Let it in.
    Allow,
    /// Keep it out.
    Block,
}

/// The file, as production's API takes it.
#[derive(Deserialize)]
struct Document {
    entries: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    op: Option<String>,
    prefix: String,
    #[serde(default)]
    action: Option<String>,
}

impl Acl {
    /// Reads a file. The last entry of several with the same prefix counts.
    pub fn open(path: &Path) -> Result<Arc<Self>, DataError> {
        let document: Document = data::json(path)?;
        let mut acl = Self::default();
        for (index, entry) in document.entries.into_iter().enumerate() {
            let fail = |message: String| DataError::content(path, format!("entry {}: {message}", index + 1));
            let network: IpNet = entry
                .prefix
                .parse()
                .map_err(|_| fail(format!("`{}` is no prefix; for example 192.0.2.0/24 or 2001:db8::/32", entry.prefix)))?;
            match entry.op.as_deref().unwrap_or("create") {
                "create" | "update" => {}
                "delete" => {
                    acl.remove(network);
                    continue;
                }
                other => return Err(fail(format!("`{other}` is no op: create, update or delete"))),
            }
            let action = match entry.action.as_deref().map(str::to_ascii_uppercase).as_deref() {
                Some("ALLOW") => Action::Allow,
                Some("BLOCK") => Action::Block,
                Some(other) => return Err(fail(format!("`{other}` is no action: ALLOW or BLOCK"))),
                None => return Err(fail("there is no action: ALLOW or BLOCK".to_owned())),
            };
            acl.insert(network, action);
        }
        Ok(Arc::new(acl))
    }

    /// Adds an entry.
    pub fn insert(&mut self, network: IpNet, action: Action) {
        match network.trunc() {
            IpNet::V4(network) => drop(self.v4.insert(network, action)),
            IpNet::V6(network) => drop(self.v6.insert(network, action)),
        }
    }

    fn remove(&mut self, network: IpNet) {
        match network.trunc() {
            IpNet::V4(network) => drop(self.v4.remove(&network)),
            IpNet::V6(network) => drop(self.v6.remove(&network)),
        }
    }

    /// The entry for an address: the most specific one.
    pub fn lookup(&self, address: IpAddr) -> Option<(IpNet, Action)> {
        match address {
            IpAddr::V4(address) => self.v4.get_lpm(&address.into()).map(|(network, action)| (network.into(), *action)),
            IpAddr::V6(address) => self.v6.get_lpm(&address.into()).map(|(network, action)| (network.into(), *action)),
        }
    }
}

/// An entry as production's JSON has it: prefixes of IPv6 are spelled in full.
pub fn json(network: IpNet, action: Action) -> String {
    let action = match action {
        Action::Allow => "ALLOW",
        Action::Block => "BLOCK",
    };
    let prefix = match network {
        IpNet::V4(network) => network.to_string(),
        IpNet::V6(network) => format!("{}/{}", full(network.addr()), network.prefix_len()),
    };
    format!(r#"{{"prefix":"{prefix}","action":"{action}"}}"#)
}

fn full(address: Ipv6Addr) -> String {
    address.segments().map(|segment| format!("{segment:04x}")).join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acl(text: &str) -> Result<Arc<Acl>, String> {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), text).expect("writes");
        Acl::open(file.path()).map_err(|error| error.to_string())
    }

    #[test]
    fn the_most_specific_wins_and_then_the_last() {
        let acl = acl(r#"{"entries":[
            {"op":"create","prefix":"192.0.2.7/24","action":"BLOCK"},
            {"prefix":"192.0.2.128/25","action":"allow"},
            {"prefix":"192.0.2.129/32","action":"BLOCK"},
            {"prefix":"192.0.2.129/32","action":"ALLOW"},
            {"prefix":"198.51.100.0/24","action":"BLOCK"},
            {"op":"delete","prefix":"198.51.100.0/24"},
            {"prefix":"2A03:4B80::/32","action":"ALLOW"}]}"#)
        .expect("a list");
        let found = |address: &str| acl.lookup(address.parse().expect("an address")).map(|(network, action)| json(network, action));
        assert_eq!(found("192.0.2.1").as_deref(), Some(r#"{"prefix":"192.0.2.0/24","action":"BLOCK"}"#));
        assert_eq!(found("192.0.2.130").as_deref(), Some(r#"{"prefix":"192.0.2.128/25","action":"ALLOW"}"#));
        assert_eq!(found("192.0.2.129").as_deref(), Some(r#"{"prefix":"192.0.2.129/32","action":"ALLOW"}"#));
        assert_eq!(found("198.51.100.1"), None);
        assert_eq!(found("2a03:4b80::1").as_deref(), Some(r#"{"prefix":"2a03:4b80:0000:0000:0000:0000:0000:0000/32","action":"ALLOW"}"#));
        assert_eq!(found("::1"), None);
    }

    #[test]
    fn faults_name_the_entry() {
        assert!(acl(r#"{"entries":[{"prefix":"x","action":"ALLOW"}]}"#).expect_err("bad").contains("entry 1: `x` is no prefix"));
        assert!(acl(r#"{"entries":[{"prefix":"::/1","action":"MAYBE"}]}"#).expect_err("bad").contains("ALLOW or BLOCK"));
        assert!(acl("{\n\"entries\": 7}").expect_err("bad").contains(":2:12: invalid type: integer `7`"));
    }
}
