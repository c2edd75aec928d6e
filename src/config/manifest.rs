//! `fastly.toml`, mirrored one to one. Shape only; meaning is [`super::resolve`]'s business.
//!
//! Keys of other tools (`[scripts]`, `[setup]`, tables the Fastly CLI may add) load and are
//! ignored. In what belongs to a local server an unknown key is an error.
//!
//! The JSON Schema of these types (`sidelight schema manifest`) is what documents are compared with before they are
//! read, so that all faults are told at once.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::LazyLock;

use schemars::JsonSchema;
use serde::{Deserialize, de};
use serde_json::Value as Json;
use toml::Spanned;

use super::diagnostics::Problem;
use super::document::{Node, Value};
use super::facts::{ClientFacts, ComplianceRegion, Inspect, Product};
use super::faults::Faults;
use super::options::{CacheOptions, GeoOptions, KvOptions, LogOptions, RateOptions, SecretOptions};
use super::shape;
use super::traces::Propagate;

/// Reads a type that may be text, a list or a table, whichever is there. (What serde calls untagged would forget the
/// places of what is within.)
macro_rules! by_shape {
    ($type:ident, $expecting:literal : $($shape:ident => $make:expr),+) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Shape;
                impl<'de> de::Visitor<'de> for Shape {
                    type Value = $type;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expecting)
                    }

                    $(by_shape!(@$shape $type, $make);)+
                }
                deserializer.deserialize_any(Shape)
            }
        }
    };
    (@text $type:ident, $make:expr) => {
        fn visit_str<E: de::Error>(self, text: &str) -> Result<$type, E> {
            Ok(($make)(text.to_owned()))
        }
    };
    (@list $type:ident, $make:expr) => {
        fn visit_seq<A: de::SeqAccess<'de>>(self, list: A) -> Result<$type, A::Error> {
            Deserialize::deserialize(de::value::SeqAccessDeserializer::new(list)).map($make)
        }
    };
    (@table $type:ident, $make:expr) => {
        fn visit_map<A: de::MapAccess<'de>>(self, table: A) -> Result<$type, A::Error> {
            Deserialize::deserialize(de::value::MapAccessDeserializer::new(table)).map($make)
        }
    };
}

/// What the Fastly CLI keeps at the top of its manifest and has no meaning for a local server.
const OTHERS: [&str; 11] = [
    "manifest_version",
    "name",
    "description",
    "authors",
    "language",
    "service_id",
    "cloned_from",
    "profile",
    "scripts",
    "setup",
    "local_server",
];

/// A service manifest, `fastly.toml`. Keys of other tools are allowed beside these.
#[derive(Debug, Default, Deserialize, JsonSchema)]
pub struct Manifest {
    /// Version of the format: 1 to 3.
    #[serde(default)]
    #[schemars(with = "Json")]
    pub manifest_version: Option<de::IgnoredAny>,
    /// Name of the service.
    #[serde(default)]
    pub name: Option<String>,
    /// Fastly's identifier of the deployed service, often empty.
    #[serde(default)]
    pub service_id: Option<String>,
    /// What the Fastly CLI makes when it deploys the service for the first time; used where `local_server` is silent, if
    /// that is asked for.
    #[serde(default)]
    pub setup: Setup,
    /// What a local server serves with.
    #[serde(default)]
    pub local_server: LocalServer,
    /// What only this host reads.
    #[serde(default)]
    pub sidelight: Sidelight,
}

/// `[sidelight]`: what no other tool has a place for.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sidelight {
    /// What `downstream_compliance_region` answers.
    #[serde(default)]
    pub compliance_region: ComplianceRegion,
    /// What `has_…` answers.
    #[serde(default)]
    pub products: Vec<Product>,
    /// `[[sidelight.clients]]`.
    #[serde(default)]
    pub clients: Vec<ClientFacts>,
    /// `[sidelight.inspect]`.
    #[serde(default)]
    pub inspect: Option<Inspect>,
    /// A backend of `local_server` that stands for every name that no other has.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub catch_all_backend: Option<Spanned<String>>,
    /// `[sidelight.backends.NAME]`: more about a backend of `local_server`.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, BackendOptions>")]
    pub backends: BTreeMap<Spanned<String>, BackendOptions>,
    /// `[sidelight.kv_stores.NAME]`.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, KvOptions>")]
    pub kv_stores: BTreeMap<Spanned<String>, KvOptions>,
    /// `[sidelight.secret_stores.NAME]`.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, SecretOptions>")]
    pub secret_stores: BTreeMap<Spanned<String>, SecretOptions>,
    /// `[sidelight.geolocation]`.
    #[serde(default)]
    pub geolocation: GeoOptions,
    /// Rules of uap-core (`regexes.yaml`) by which user agents are recognised that `local_server.device_detection` does
    /// not have.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub user_agents: Option<Spanned<String>>,
    /// `[sidelight.rate_limits]`.
    #[serde(default)]
    pub rate_limits: RateOptions,
    /// `[sidelight.cache]`.
    #[serde(default)]
    pub cache: CacheOptions,
    /// `[sidelight.logs.NAME]`.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, LogOptions>")]
    pub logs: BTreeMap<Spanned<String>, LogOptions>,
}

/// `[sidelight.backends.NAME]`. What is left out is as in production.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BackendOptions {
    /// Milliseconds; default 1000.
    #[schemars(range(min = 1))]
    pub connect_timeout_ms: Option<u64>,
    /// Milliseconds an idle connection is kept; default 600000.
    pub keepalive_time_ms: Option<u64>,
    /// Whether IPv6 addresses are tried first; default true.
    pub prefer_ipv6: Option<bool>,
    /// `1.2` or `1.3`.
    #[schemars(with = "Option<String>")]
    pub tls_min_version: Option<Spanned<String>>,
    /// `1.2` or `1.3`.
    #[schemars(with = "Option<String>")]
    pub tls_max_version: Option<Spanned<String>>,
    /// OpenSSL's cipher list, for TLS 1.2.
    pub ciphers: Option<String>,
    /// The name to send; empty sends none; default: `cert_host`.
    pub sni: Option<String>,
    /// Connections at once; default: no limit.
    pub max_connections: Option<u32>,
    /// Requests on one connection; default: no limit.
    pub max_uses: Option<u32>,
    /// Milliseconds after which a connection gets no more requests; default: no limit.
    pub max_lifetime_ms: Option<u64>,
    /// TCP keepalive; default: off.
    pub tcp_keepalive: Option<TcpKeepalive>,
    /// Percentage of requests that reach it; the others are answered 502 here. Default: 100.
    #[schemars(range(min = 0, max = 100))]
    pub availability: Option<u8>,
    /// What it does to requests on purpose; default: nothing.
    #[schemars(with = "Option<Faults>")]
    pub faults: Option<Spanned<Faults>>,
    /// Whether it learns of the traces of requests (W3C `traceparent`): `always`, `internal` (if its address is not one of the
    /// public Internet), `never`. Default: as the host file says, `internal` if that says nothing.
    pub propagate: Option<Propagate>,
    /// Active health check; default: none.
    #[schemars(with = "Option<HealthCheck>")]
    pub health_check: Option<Spanned<HealthCheck>>,
}

/// `tcp_keepalive`, in seconds.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TcpKeepalive {
    /// Silence before the first probe.
    pub time: u32,
    /// Time between probes.
    pub interval: u32,
    /// Probes without an answer that end the connection.
    pub probes: u32,
}

/// `health_check`; defaults are production's.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HealthCheck {
    /// Default GET.
    pub method: Option<String>,
    /// Default /.
    pub path: Option<String>,
    /// Default: as of any request.
    pub host: Option<String>,
    /// Default 200.
    pub expected_status: Option<u16>,
    /// Default 5.
    pub window: Option<u32>,
    /// Default 3.
    pub threshold: Option<u32>,
    /// Default 4.
    pub initial: Option<u32>,
    /// Default 15000.
    pub interval_ms: Option<u64>,
    /// Default 5000.
    pub timeout_ms: Option<u64>,
}

/// `[local_server]`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LocalServer {
    /// `[local_server.backends.NAME]`.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, Backend>")]
    pub backends: BTreeMap<Spanned<String>, Backend>,

    /// Viceroy's minimum version; of no meaning here.
    #[serde(default)]
    pub viceroy_version: Option<String>,
    /// `[local_server.config_stores.NAME]`.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, ConfigStore>")]
    pub config_stores: BTreeMap<Spanned<String>, ConfigStore>,
    /// The older name of config stores.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, ConfigStore>")]
    pub dictionaries: BTreeMap<Spanned<String>, ConfigStore>,
    /// `[[local_server.kv_stores.NAME]]`.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, KvStore>")]
    pub kv_stores: BTreeMap<Spanned<String>, KvStore>,
    /// The older name of KV stores.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, KvStore>")]
    pub object_stores: BTreeMap<Spanned<String>, KvStore>,
    /// The oldest name of KV stores.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, KvStore>")]
    pub object_store: BTreeMap<Spanned<String>, KvStore>,
    /// `[[local_server.secret_stores.NAME]]`.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, SecretStore>")]
    pub secret_stores: BTreeMap<Spanned<String>, SecretStore>,
    /// `[local_server.acls]`.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, Acl>")]
    pub acls: BTreeMap<Spanned<String>, Acl>,
    /// `[local_server.geolocation]`.
    #[serde(default)]
    pub geolocation: Option<Geolocation>,
    /// `[local_server.device_detection]`.
    #[serde(default)]
    pub device_detection: Option<DeviceDetection>,
    /// `[local_server.shielding_sites]`.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, ShieldingSite>")]
    pub shielding_sites: BTreeMap<Spanned<String>, ShieldingSite>,
    /// Fastly-Key values to call valid.
    #[serde(default)]
    pub fake_valid_fastly_keys: Vec<String>,
    /// A Pushpin that speaks GRIP.
    #[serde(default)]
    pub pushpin: Option<Pushpin>,
    /// WebSocket hand-off.
    #[serde(default)]
    pub websockets_passthrough: Option<Switch>,
}

/// `pushpin`. The Fastly CLI starts one by this; here it must be running.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Pushpin {
    /// Whether it is used.
    #[serde(default)]
    pub enable: bool,
    /// Where its program is: the Fastly CLI's business.
    #[serde(default)]
    pub pushpin_path: Option<String>,
    /// Its HTTP port on this machine; default 7677.
    #[serde(default)]
    #[schemars(with = "Option<u16>")]
    pub proxy_port: Option<Spanned<u16>>,
    /// Where it takes messages: publishers' business.
    #[serde(default)]
    pub publish_port: Option<u16>,
}

/// Something that is on or off.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Switch {
    /// Which.
    #[serde(default)]
    pub enable: bool,
}

/// `[local_server.backends.NAME]`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Backend {
    /// `http://host[:port][/prefix]` or `https://…`.
    #[schemars(with = "String")]
    pub url: Spanned<String>,
    /// Replaces the `Host` header.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub override_host: Option<Spanned<String>>,
    /// The name the certificate is checked against; default: the URL's host.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub cert_host: Option<Spanned<String>>,
    /// Send a server name in the TLS handshake; default true.
    #[serde(default)]
    pub use_sni: Option<bool>,
    /// gRPC, which is HTTP/2 towards the backend.
    #[serde(default)]
    pub grpc: Option<bool>,
    /// Milliseconds; default 15000.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub first_byte_timeout_ms: Option<u64>,
    /// Milliseconds; default 10000.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub between_bytes_timeout_ms: Option<u64>,
    /// `unknown`, `healthy` or `unhealthy`, in any case.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub health: Option<Spanned<String>>,
    /// Roots to trust instead of the system's.
    #[serde(default)]
    pub ca_certificate: Option<OneOrMany>,
    /// Certificate and key to present.
    #[serde(default)]
    pub client_certificate: Option<ClientCertificate>,
}

impl Backend {
    /// One at a URL, with nothing else said.
    pub fn at(url: Spanned<String>) -> Self {
        Self {
            url,
            override_host: None,
            cert_host: None,
            use_sni: None,
            grpc: None,
            first_byte_timeout_ms: None,
            between_bytes_timeout_ms: None,
            health: None,
            ca_certificate: None,
            client_certificate: None,
        }
    }
}

/// A certificate, or several.
#[derive(Debug, JsonSchema)]
#[schemars(untagged)]
pub enum OneOrMany {
    /// One.
    One(PemSource),
    /// Several.
    Many(Vec<PemSource>),
}
by_shape!(OneOrMany, "PEM text, a table with `file` or `value`, or an array of these":
    text => |text| OneOrMany::One(PemSource::Text(text)), list => OneOrMany::Many, table => |pem| OneOrMany::One(PemSource::Table(pem)));

/// Where PEM text comes from.
#[derive(Debug, JsonSchema)]
#[schemars(untagged)]
pub enum PemSource {
    /// The text itself.
    Text(String),
    /// A file with it, or the text.
    Table(PemTable),
}
by_shape!(PemSource, "PEM text, or a table with `file` or `value`": text => PemSource::Text, table => PemSource::Table);

/// PEM text, in a table; one of the two.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PemTable {
    /// A file with it.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub file: Option<Spanned<String>>,
    /// The text itself.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub value: Option<Spanned<String>>,
}

/// `client_certificate`: each of the two inline or in a file.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClientCertificate {
    /// PEM text.
    pub certificate: Option<String>,
    /// File with the PEM text.
    #[schemars(with = "Option<String>")]
    pub certificate_file: Option<Spanned<String>>,
    /// PEM text.
    pub key: Option<String>,
    /// File with the PEM text.
    #[schemars(with = "Option<String>")]
    pub key_file: Option<Spanned<String>>,
}

/// `[local_server.config_stores.NAME]`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConfigStore {
    /// Where the entries are.
    #[schemars(with = "Format")]
    pub format: Spanned<Format>,
    /// Entries, for `inline-toml`.
    #[serde(default)]
    #[schemars(with = "Option<BTreeMap<String, String>>")]
    pub contents: Option<BTreeMap<Spanned<String>, Spanned<String>>>,
    /// A JSON object of strings, for `json`.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub file: Option<Spanned<String>>,
}

/// Where data is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// In the manifest itself.
    InlineToml,
    /// In a file of JSON.
    Json,
}

/// `[[local_server.kv_stores.NAME]]`.
#[derive(Debug, JsonSchema)]
#[schemars(untagged)]
pub enum KvStore {
    /// Entries.
    Entries(Vec<KvEntry>),
    /// A file of them.
    File(JsonFile),
}
by_shape!(KvStore, "entries, or a table with `file` and `format`": list => KvStore::Entries, table => KvStore::File);

/// An entry of a KV store.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KvEntry {
    /// Its key.
    #[schemars(with = "String")]
    pub key: Spanned<String>,
    /// Its value; one of `data` and `file`.
    #[serde(default)]
    pub data: Option<String>,
    /// The file with its value.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub file: Option<Spanned<String>>,
    /// The older name of `file`.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub path: Option<Spanned<String>>,
    /// What goes with it.
    #[serde(default)]
    pub metadata: Option<String>,
}

/// `[[local_server.secret_stores.NAME]]`.
#[derive(Debug, JsonSchema)]
#[schemars(untagged)]
pub enum SecretStore {
    /// Entries.
    Entries(Vec<SecretEntry>),
    /// A file of them.
    File(JsonFile),
}
by_shape!(SecretStore, "entries, or a table with `file` and `format`": list => SecretStore::Entries, table => SecretStore::File);

/// A secret; one of `data`, `file` and `env`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SecretEntry {
    /// Its name.
    #[schemars(with = "String")]
    pub key: Spanned<String>,
    /// The secret itself.
    #[serde(default)]
    pub data: Option<String>,
    /// The file with it.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub file: Option<Spanned<String>>,
    /// The environment variable with it.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub env: Option<Spanned<String>>,
}

impl fmt::Debug for SecretEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretEntry").field("key", self.key.get_ref()).finish_non_exhaustive()
    }
}

/// A store whose entries are in a file.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JsonFile {
    /// The file.
    #[schemars(with = "String")]
    pub file: Spanned<String>,
    /// What is in it.
    #[schemars(with = "Format")]
    pub format: Spanned<Format>,
}

/// An access list: a file of entries.
#[derive(Debug, JsonSchema)]
#[schemars(untagged)]
pub enum Acl {
    /// The file.
    File(String),
    /// The same, in a table.
    Table(AclFile),
}
by_shape!(Acl, "a file, or a table with `file`": text => Acl::File, table => Acl::Table);

/// An access list, in a table.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AclFile {
    /// The file.
    #[schemars(with = "String")]
    pub file: Spanned<String>,
}

/// `[local_server.geolocation]`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Geolocation {
    /// Whether loopback addresses are somewhere, too; default true.
    #[serde(default)]
    pub use_default_loopback: Option<bool>,
    /// Where the entries are.
    #[schemars(with = "Format")]
    pub format: Spanned<Format>,
    /// By address or network, for `inline-toml`.
    #[serde(default)]
    #[schemars(with = "Option<BTreeMap<String, BTreeMap<String, Json>>>")]
    pub addresses: Option<BTreeMap<Spanned<String>, BTreeMap<String, Json>>>,
    /// A JSON object of them, for `json`.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub file: Option<Spanned<String>>,
}

/// `[local_server.device_detection]`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeviceDetection {
    /// Where the entries are.
    #[schemars(with = "Format")]
    pub format: Spanned<Format>,
    /// By user agent, for `inline-toml`.
    #[serde(default)]
    #[schemars(with = "Option<BTreeMap<String, BTreeMap<String, Json>>>")]
    pub user_agents: Option<BTreeMap<Spanned<String>, BTreeMap<String, Json>>>,
    /// A JSON object of them, for `json`.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub file: Option<Spanned<String>>,
}

/// A shield, as `[local_server.shielding_sites]` has it.
#[derive(Debug, JsonSchema)]
#[schemars(untagged)]
pub enum ShieldingSite {
    /// `Local`, in any case: this is it.
    Word(String),
    /// Elsewhere.
    Remote(RemoteSite),
}
by_shape!(ShieldingSite, "\"Local\", or a table with `encrypted` and `unencrypted`": text => ShieldingSite::Word, table => ShieldingSite::Remote);

/// Where another shield is.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RemoteSite {
    /// Its `https` URL.
    #[schemars(with = "String")]
    pub encrypted: Spanned<String>,
    /// Its `http` URL.
    #[schemars(with = "String")]
    pub unencrypted: Spanned<String>,
}

/// `[setup]`, as far as it says what a service needs.
#[derive(Debug, Default, Deserialize, JsonSchema)]
pub struct Setup {
    /// `[setup.backends.NAME]`.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, SetupBackend>")]
    pub backends: BTreeMap<Spanned<String>, SetupBackend>,
    /// `[setup.config_stores.NAME.items.KEY]`.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, SetupStore>")]
    pub config_stores: BTreeMap<Spanned<String>, SetupStore>,
    /// The older name of config stores.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, SetupStore>")]
    pub dictionaries: BTreeMap<Spanned<String>, SetupStore>,
    /// `[setup.kv_stores.NAME.items.KEY]`.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, SetupStore>")]
    pub kv_stores: BTreeMap<Spanned<String>, SetupStore>,
    /// The older name of KV stores.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, SetupStore>")]
    pub object_stores: BTreeMap<Spanned<String>, SetupStore>,
    /// `[setup.secret_stores.NAME]`: named here, filled by the deployment.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, SetupStore>")]
    pub secret_stores: BTreeMap<Spanned<String>, SetupStore>,
}

/// `[setup.backends.NAME]`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
pub struct SetupBackend {
    /// A host, to be asked for at deployment if it is left out.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub address: Option<Spanned<String>>,
    /// Default 443.
    #[serde(default)]
    pub port: Option<u16>,
}

/// `[setup.…_stores.NAME]`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
pub struct SetupStore {
    /// Entries.
    #[serde(default)]
    pub items: BTreeMap<String, SetupItem>,
}

/// An entry.
#[derive(Debug, Default, Deserialize, JsonSchema)]
pub struct SetupItem {
    /// Its value.
    #[serde(default)]
    pub value: Option<String>,
    /// The file with it.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub file: Option<Spanned<String>>,
}

/// The JSON Schema of a manifest.
pub fn schema() -> &'static Json {
    static SCHEMA: LazyLock<Json> = LazyLock::new(|| schemars::schema_for!(Manifest).to_value());
    &SCHEMA
}

impl Manifest {
    /// Reads a document, or says everything that is wrong with it.
    pub fn read(document: &Node) -> Result<Self, Vec<Problem>> {
        let mut problems = shape::check(document, schema());
        problems.extend(near_misses(document));
        if problems.is_empty() { document.read().map_err(|problem| vec![problem]) } else { Err(problems) }
    }
}

/// Keys at the top that mean nothing to anybody and nearly are one of ours.
fn near_misses(document: &Node) -> Vec<Problem> {
    let Value::Table(entries) = &document.value else { return Vec::new() };
    let unknown = entries.iter().filter(|(key, _)| !OTHERS.contains(&key.name.as_str()) && key.name != "sidelight");
    let near = unknown.filter_map(|(key, _)| {
        let near = shape::nearest(&key.name, ["local_server", "sidelight", "service_id", "setup"].into_iter())?;
        Some(Problem::at(key.span.clone(), format!("unknown field `{}`", key.name)).hint(format!("did you mean `{near}`?")))
    });
    near.collect()
}

/// The key that one which nobody knows was perhaps meant to be.
pub fn near(key: &str) -> Option<&'static str> {
    shape::nearest(key, OTHERS.into_iter())
}

/// Keys at the top that are other tools' business, or nobody's.
pub fn ignored(document: &Node) -> Vec<&str> {
    let Value::Table(entries) = &document.value else { return Vec::new() };
    let names = entries.iter().map(|(key, _)| key.name.as_str());
    names.filter(|name| !OTHERS.contains(name) && *name != "sidelight").collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::ConfigError;

    fn parse(text: &str) -> Result<Manifest, ConfigError> {
        let file = Path::new("fastly.toml");
        let read = Node::parse(text, file, 0).and_then(|document| Manifest::read(&document));
        read.map_err(|problems| ConfigError::of(file, text, problems))
    }

    fn error(text: &str) -> String {
        parse(text).expect_err("is bad").to_string()
    }

    #[test]
    fn other_tools_tables_are_ignored() {
        let text = "manifest_version = 3\nname = \"x\"\n[scripts]\nbuild = \"cargo build\"\n[setup.backends.a]\nport = 1\n";
        assert_eq!(parse(text).expect("loads").name.as_deref(), Some("x"));
    }

    #[test]
    fn a_misspelt_key_names_the_place_and_the_right_one() {
        let got = error("[local_server.backends.a]\nurl = \"http://x\"\noverride_hots = \"y\"\n");
        assert!(got.starts_with("fastly.toml:3:1: unknown field `override_hots`"), "{got}");
        assert!(got.ends_with("hint: did you mean `override_host`?"), "{got}");
    }

    #[test]
    fn what_is_no_toml_names_line_and_column() {
        let got = error("name = \"x\"\n[local_server\n");
        assert!(got.starts_with("fastly.toml:2:"), "{got}");
    }

    #[test]
    fn a_wrong_type_says_what_was_expected() {
        let got = error("[local_server.backends.a]\nurl = 7\n");
        assert!(got.starts_with("fastly.toml:2:7: ") && got.contains("expected a string"), "{got}");
    }

    #[test]
    fn a_missing_url_is_named() {
        let got = error("[local_server.backends.a]\nuse_sni = true\n");
        assert!(got.contains("missing field `url`"), "{got}");
    }
}
