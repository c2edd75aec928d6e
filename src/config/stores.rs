//! Stores and edge data of a service: what is in them at first, and where that comes from. Decided values; opening
//! them is `services`' business.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde_json::{Map, Value as Json};

use super::Secret;

/// Everything a service has of them, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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
    /// Shields.
    pub shields: BTreeMap<String, Shield>,
}

impl Stores {
    /// Files that are named here.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let config = self.config.values().filter_map(|store| match store {
            ConfigStore::File(path) => Some(path),
            ConfigStore::Inline(_) => None,
        });
        let kv = self.kv.values().flat_map(|store| match store {
            KvStore::File(path) => vec![path],
            KvStore::Entries(entries) => entries.iter().filter_map(|entry| entry.value.file()).collect(),
        });
        let secrets = self.secrets.values().flat_map(|store| match store {
            SecretStore::File(path) => vec![path],
            SecretStore::Entries(entries) => entries
                .values()
                .filter_map(|secret| match secret {
                    SecretText::File(path) => Some(path),
                    SecretText::Inline(_) | SecretText::Variable(_) => None,
                })
                .collect(),
        });
        let tables = self.geo.file.iter().chain(&self.devices.file);
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigStore {
    /// The entries themselves.
    Inline(BTreeMap<String, String>),
    /// A JSON object of strings.
    File(PathBuf),
}

/// What a KV store holds when it is new.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KvStore {
    /// Entries.
    Entries(Vec<KvEntry>),
    /// A JSON object: text, or tables of `data` or `file`, and `metadata`.
    File(PathBuf),
}

/// An entry of a KV store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvEntry {
    /// Its key, checked.
    pub key: String,
    /// Its value.
    pub value: Text,
    /// What goes with it.
    pub metadata: Option<String>,
}

/// Text, or the file with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Text {
    /// The text.
    Inline(String),
    /// A file, read when the store is opened.
    File(PathBuf),
}

/// What a secret store holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretStore {
    /// Secrets by name.
    Entries(BTreeMap<String, SecretText>),
    /// A JSON object of strings.
    File(PathBuf),
}

/// A secret, or where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretText {
    /// The secret.
    Inline(Secret),
    /// A file with it.
    File(PathBuf),
    /// An environment variable with it.
    Variable(String),
}

/// Where addresses are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Geo {
    /// Whether loopback addresses are somewhere, too.
    pub loopback: bool,
    /// By network, as the ABI's JSON.
    pub inline: BTreeMap<IpNet, Map<String, Json>>,
    /// A JSON object of the same.
    pub file: Option<PathBuf>,
}

impl Default for Geo {
    fn default() -> Self {
        Self { loopback: true, inline: BTreeMap::new(), file: None }
    }
}

/// JSON by key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// In the manifest.
    pub inline: BTreeMap<String, Map<String, Json>>,
    /// In a file.
    pub file: Option<PathBuf>,
}

/// A shield.
#[derive(Clone, Debug, PartialEq, Eq)]
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

/// Longest name of an entry of a config store, in bytes.
pub const CONFIG_KEY: usize = 256;

/// Longest value of one, in bytes.
pub const CONFIG_VALUE: usize = 8000;

/// What is wrong with the key of a KV store, if something is (the rules are production's).
pub fn kv_key_fault(key: &str) -> Option<&'static str> {
    match key {
        "" => Some("it is empty"),
        "." | ".." => Some("it is `.` or `..`"),
        _ if key.len() > 1024 => Some("it is longer than 1024 bytes"),
        _ if key.contains(['\r', '\n']) => Some("it has a line break"),
        _ if key.starts_with(".well-known/acme-challenge/") => Some("it begins with .well-known/acme-challenge/"),
        _ => None,
    }
}
