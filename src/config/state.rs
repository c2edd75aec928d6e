//! Where the state of services is kept: in this process, on this disk, or with others.

use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Secret;

/// What there is to keep state in, beside memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct State {
    /// Folder of embedded stores: a file for each service.
    pub data_dir: Option<PathBuf>,
    /// A server that speaks Redis's protocol, for state that replicas share.
    pub redis: Option<Redis>,
}

impl State {
    /// Where a KV store is kept that does not say so: with others if there is a place for that, else on disk, else in memory.
    pub fn kv(&self) -> Keep {
        match (&self.redis, &self.data_dir) {
            (Some(_), _) => Keep::Redis,
            (None, Some(_)) => Keep::Embedded,
            (None, None) => Keep::Memory,
        }
    }

    /// Where rate counters and penalty boxes are kept that do not say so.
    pub fn rates(&self) -> KeepRates {
        if self.redis.is_some() { KeepRates::Redis } else { KeepRates::Memory }
    }
}

/// A server that speaks Redis's protocol, or a cluster of them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Redis {
    /// `redis://[user[:password]@]host[:port][/db]`, or `rediss://` for TLS; several for a cluster. Never shown: it may
    /// have a password.
    pub urls: Vec<Secret>,
    /// The same without what must not be shown.
    pub shown: String,
    /// A file with the password.
    pub password_file: Option<PathBuf>,
    /// Whether they are nodes of a cluster.
    pub cluster: bool,
    /// What the names of all its keys begin with.
    pub prefix: String,
    /// Longest wait for a connection, and for an answer.
    pub timeout: Duration,
}

impl Redis {
    /// What names begin with, if nothing is said.
    pub const PREFIX: &str = "sidelight";

    /// How long an answer may take, if nothing is said.
    pub const TIMEOUT: Duration = Duration::from_secs(1);

    /// One server, or the nodes of a cluster separated by commas; everything else by default.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut urls = Vec::new();
        let mut shown = Vec::new();
        for url in text.split(',').map(str::trim) {
            let address = url.strip_prefix("redis://").or_else(|| url.strip_prefix("rediss://"));
            let Some(address) = address.filter(|address| !address.is_empty()) else {
                return Err("expected redis://HOST:PORT, or rediss:// for TLS".to_owned());
            };
            let scheme = &url[..url.len() - address.len()];
            let place = address.rsplit_once('@').map_or(address, |(_, place)| place);
            urls.push(Secret::new(url.as_bytes().to_vec()));
            shown.push(format!("{scheme}{place}"));
        }
        let cluster = urls.len() > 1;
        Ok(Self { urls, shown: shown.join(","), password_file: None, cluster, prefix: Self::PREFIX.to_owned(), timeout: Self::TIMEOUT })
    }
}

/// Where a KV store is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, JsonSchema, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Keep {
    /// In this process: gone when it ends.
    Memory,
    /// In the service's file in the data folder.
    Embedded,
    /// With whoever speaks Redis's protocol, shared by all replicas.
    Redis,
}

impl Keep {
    /// As metrics and operators have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Embedded => "embedded",
            Self::Redis => "redis",
        }
    }
}

/// Where rate counters and penalty boxes are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, JsonSchema, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeepRates {
    /// In this process.
    Memory,
    /// Shared by all replicas.
    Redis,
}

/// When the seeds of a KV store are put into it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize, JsonSchema, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reseed {
    /// When they are new or have changed, unless the service has written or deleted the key since.
    #[default]
    Changed,
    /// Whenever the store is opened, over whatever is there.
    Always,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_not_shown() {
        let redis = Redis::parse("rediss://user:hunter2@cache:6380/2,redis://other:1").expect("two");
        assert_eq!((redis.shown.as_str(), redis.cluster), ("rediss://cache:6380/2,redis://other:1", true));
        assert!(!format!("{redis:?}").contains("hunter2"));
        assert!(Redis::parse("http://x").is_err());
    }
}
