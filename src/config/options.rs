//! The parts of `[sidelight]` that say more about stores, edge data and log endpoints. Shape only.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;
use toml::Spanned;

use super::logs::{Facility, LogKind};
use super::state::{Keep, KeepRates, Reseed};

/// `[sidelight.kv_stores.NAME]`. A store that is named only here is empty at first.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct KvOptions {
    /// Where it is kept; default: with Redis if the host has one, else in the data folder if it has one, else in memory.
    pub keep: Option<Keep>,
    /// When its seeds are put into it; default: `changed`.
    pub reseed: Option<Reseed>,
    /// A folder whose files are seeds: their paths are the keys.
    #[schemars(with = "Option<String>")]
    pub directory: Option<Spanned<String>>,
}

/// `[sidelight.secret_stores.NAME]`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SecretOptions {
    /// A folder with a file for each secret, as Kubernetes mounts a Secret.
    #[schemars(with = "Option<String>")]
    pub directory: Option<Spanned<String>>,
}

/// `[sidelight.geolocation]`: MaxMind databases, for addresses that `local_server.geolocation` does not have.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct GeoOptions {
    /// City or Country.
    #[schemars(with = "Option<String>")]
    pub city: Option<Spanned<String>>,
    /// ASN or ISP.
    #[schemars(with = "Option<String>")]
    pub asn: Option<Spanned<String>>,
    /// Anonymous-IP.
    #[schemars(with = "Option<String>")]
    pub anonymous_ip: Option<Spanned<String>>,
}

/// `[sidelight.rate_limits]`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RateOptions {
    /// Where rate counters and penalty boxes are kept; default: with Redis if the host has one, else in memory.
    pub keep: Option<KeepRates>,
}

/// `[sidelight.cache]`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CacheOptions {
    /// Whether responses are cached; default: true. Without, every request goes to its backend. The core cache is there either way.
    pub http: Option<bool>,
    /// Names of other services of this process whose programs may use this one's core cache, by its service id; `*`: all.
    pub open_to: Vec<String>,
}

/// `[sidelight.logs.NAME]`: where the records of a log endpoint go; `*` is for every endpoint that is not named.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LogOptions {
    /// What it is.
    #[schemars(with = "LogKind")]
    pub kind: Spanned<LogKind>,
    /// Of `file`: where.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub path: Option<Spanned<String>>,
    /// Of `file`: size above which a new one is begun; default: 100.
    #[serde(default)]
    #[schemars(range(min = 1, max = 1_048_576))]
    pub max_mib: Option<u32>,
    /// Of `file`: how many older ones are kept; default: 5.
    #[serde(default)]
    #[schemars(range(max = 1000))]
    pub keep_files: Option<u32>,
    /// Of `syslog`: `udp://`, `tcp://` or `tls://` and `HOST:PORT`; of `http` and `otlp`: an `http(s)://` URL.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub url: Option<Spanned<String>>,
    /// Of `http` and `otlp`: fields of its requests.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, String>")]
    pub headers: BTreeMap<Spanned<String>, Spanned<String>>,
    /// Of `http` and `otlp`: a file with the value of their `authorization`.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub authorization_file: Option<Spanned<String>>,
    /// Of `syslog`, `http`, `otlp` over TLS: roots to trust instead of the system's.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub ca_file: Option<Spanned<String>>,
    /// Of `syslog`: default: `local0`.
    #[serde(default)]
    pub facility: Option<Facility>,
    /// Of `redis`: the stream; default: the prefix, `logs`, the service and the endpoint, with colons between.
    #[serde(default)]
    pub stream: Option<String>,
    /// Of `redis`: about how many records the stream keeps; default: 100000.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub max_records: Option<u64>,
    /// Records that may wait; more are dropped and counted. Default: 10000.
    #[serde(default)]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub queue: Option<u32>,
    /// Records that go out at once at most; default: 500.
    #[serde(default)]
    #[schemars(range(min = 1, max = 10_000))]
    pub batch: Option<u32>,
    /// Milliseconds for which records are gathered; default: 1000.
    #[serde(default)]
    #[schemars(range(min = 1, max = 60_000))]
    pub flush_ms: Option<u32>,
}
