//! Stores and edge data of a service: what is in them at first, and where that comes from. Decided values; opening
//! them is `services`' business.

use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde_json::{Map, Value as Json};

use super::Secret;
use super::state::{Keep, KeepRates, Reseed};

/// Everything a service has of them, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Stores {
    /// Config stores (dictionaries are the same).
    pub config: BTreeMap<String, ConfigStore>,
    /// KV stores.
    pub kv: BTreeMap<String, KvStore>,
    /// Secret stores.
    pub secrets: BTreeMap<String, SecretStore>,
    /// Access lists: files of JSON.
    pub acls: BTreeMap<String, PathBuf>,
    /// Where addresses are.
    pub geo: Geo,
    /// Which devices user agents stand for.
    pub devices: Table,
    /// Rules of uap-core for those that are not in the table.
    pub user_agents: Option<PathBuf>,
    /// Shields.
    pub shields: BTreeMap<String, Shield>,
    /// Where rate counters and penalty boxes are kept; `None`: where the host has it.
    pub rates: Option<KeepRates>,
}

impl Stores {
    /// Files that are named here.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let config = self.config.values().filter_map(|store| match store {
            ConfigStore::File(path) => Some(path),
            ConfigStore::Inline(_) => None,
        });
        let kv = self.kv.values().flat_map(|store| {
            let seeds = match &store.seeds {
                KvSeeds::File(path) => vec![path],
                KvSeeds::Entries(entries) => entries.iter().filter_map(|entry| entry.value.file()).collect(),
            };
            seeds.into_iter().chain(&store.directory)
        });
        let secrets = self.secrets.values().flat_map(|store| match store {
            SecretStore::File(path) | SecretStore::Directory(path) => vec![path],
            SecretStore::Entries(entries) => entries
                .values()
                .filter_map(|secret| match secret {
                    SecretText::File(path) => Some(path),
                    SecretText::Inline(_) | SecretText::Variable(_) => None,
                })
                .collect(),
        });
        let geo = [&self.geo.file, &self.geo.city, &self.geo.asn, &self.geo.anonymous];
        let tables = geo.into_iter().flatten().chain(&self.devices.file).chain(&self.user_agents);
        config.chain(kv).chain(secrets).chain(self.acls.values()).chain(tables).map(PathBuf::as_path)
    }
}

impl Text {
    fn file(&self) -> Option<&PathBuf> {
        match self {
            Self::File(path) => Some(path),
            Self::Inline(_) => None,
        }
    }
}

/// Entries of a config store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum ConfigStore {
    /// The entries themselves.
    Inline(BTreeMap<String, String>),
    /// A JSON object of strings.
    File(PathBuf),
}

/// A KV store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct KvStore {
    /// What it holds when it is new.
    pub seeds: KvSeeds,
    /// A folder of more of that: paths are keys.
    pub directory: Option<PathBuf>,
    /// When that is put into it.
    pub reseed: Reseed,
    /// Where it is kept; `None`: where the host has it.
    pub keep: Option<Keep>,
}

/// What a KV store holds when it is new.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum KvSeeds {
    /// Entries.
    Entries(Vec<KvEntry>),
    /// A JSON object: text, or tables of `data` or `file`, and `metadata`.
    File(PathBuf),
}

impl Default for KvSeeds {
    fn default() -> Self {
        Self::Entries(Vec::new())
    }
}

/// An entry of a KV store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KvEntry {
    /// Its key, checked.
    pub key: String,
    /// Its value.
    pub value: Text,
    /// What goes with it.
    pub metadata: Option<String>,
}

/// Text, or the file with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Text {
    /// The text.
    Inline(String),
    /// A file, read when the store is opened.
    File(PathBuf),
}

/// What a secret store holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum SecretStore {
    /// Secrets by name.
    Entries(BTreeMap<String, SecretText>),
    /// A JSON object of strings.
    File(PathBuf),
    /// A folder with a file for each secret.
    Directory(PathBuf),
}

/// A secret, or where it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum SecretText {
    /// The secret.
    Inline(Secret),
    /// A file with it.
    File(PathBuf),
    /// An environment variable with it.
    Variable(String),
}

/// Where addresses are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Geo {
    /// Whether loopback addresses are somewhere, too.
    pub loopback: bool,
    /// By network, as the ABI's JSON.
    pub inline: BTreeMap<IpNet, Map<String, Json>>,
    /// A JSON object of the same.
    pub file: Option<PathBuf>,
    /// A MaxMind database of cities or countries.
    pub city: Option<PathBuf>,
    /// One of autonomous systems.
    pub asn: Option<PathBuf>,
    /// One of anonymous addresses.
    pub anonymous: Option<PathBuf>,
}

impl Default for Geo {
    fn default() -> Self {
        Self { loopback: true, inline: BTreeMap::new(), file: None, city: None, asn: None, anonymous: None }
    }
}

/// JSON by key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Table {
    /// In the manifest.
    pub inline: BTreeMap<String, Map<String, Json>>,
    /// In a file.
    pub file: Option<PathBuf>,
}

/// A shield.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Shield {
    /// This host.
    Local,
    /// Another place.
    Remote {
        /// Its `https` URL.
        encrypted: String,
        /// Its `http` URL.
        unencrypted: String,
    },
}

/// Longest name of an entry of a config store, in characters.
pub const CONFIG_KEY: usize = 256;

/// Longest value of one, in characters.
pub const CONFIG_VALUE: usize = 8000;

/// What is wrong with the key of a KV store, if something is (the rules are production's).
pub fn kv_key_fault(key: &str) -> Option<&'static str> {
    match key {
        "" => Some("it is empty"),
        "." | ".." => Some("it is `.` or `..`"),
        _ if key.len() > 1024 => Some("it is longer than 1024 bytes"),
        _ if key.contains(['\r', '\n']) => Some("it has a line break"),
        _ if key.starts_with(".well-known/acme-challenge/") => Some("it begins with .well-known/acme-challenge/"),
        _ if key.contains(['#', ';', '?', '^', '|']) => Some("it has one of # ; ? ^ |"),
        _ if key.contains("../") || key.ends_with("/..") || key.contains("./") || key.ends_with("/.") => {
            Some("a part of it is `.` or `..`")
        }
        _ if key.chars().count() == 1 && key.starts_with(|only: char| only <= ' ' || matches!(only, '\u{fffe}' | '\u{ffff}')) => {
            Some("it is a single control character or space")
        }
        _ => None,
    }
}

/// Whether a name can be a secret's (the rules are production's).
pub fn is_secret_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    !name.is_empty() && name.len() <= 255 && name.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_kv_stores() {
        let long = "k".repeat(1025);
        for bad in [
            "",
            ".",
            "..",
            "a\nb",
            "a\rb",
            ".well-known/acme-challenge/x",
            "a#",
            "a;b",
            "q?",
            "^",
            "a|b",
            "a/../b",
            "./a",
            "a/..",
            " ",
            "\t",
            &long,
        ] {
            assert!(kv_key_fault(bad).is_some(), "{bad:?}");
        }
        for good in ["a", "a b", "a/b", "ä", "\u{1f600}", "a.b", ".a", "..a", "\u{1}\u{2}", "a\0b", &long[..1024]] {
            assert_eq!(kv_key_fault(good), None, "{good:?}");
        }
    }
}
