//! `fastly.toml`, mirrored one to one. Shape only; meaning is [`super::resolve`]'s business.
//!
//! Keys of other tools (`[scripts]`, `[setup]`, tables the Fastly CLI may add) load and are
//! ignored. In what belongs to a local server an unknown key is an error.

use serde::Deserialize;
use serde::de::IgnoredAny;
use std::collections::BTreeMap;
use std::path::Path;
use toml::Spanned;

use super::diagnostics::{ConfigError, Problem};
use super::facts::{ClientFacts, ComplianceRegion, Inspect, Product};

/// The whole document.
#[derive(Debug, Default, Deserialize)]
pub struct Manifest {
    /// Name of the service.
    #[serde(default)]
    pub name: Option<String>,
    /// Fastly's identifier of the deployed service, often empty.
    #[serde(default)]
    pub service_id: Option<String>,
    /// What a local server serves with.
    #[serde(default)]
    pub local_server: LocalServer,
    /// What only this host reads.
    #[serde(default)]
    pub sidelight: Sidelight,
}

/// `[sidelight]`: what no other tool has a place for.
#[derive(Debug, Default, Deserialize)]
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
    /// `[sidelight.backends.NAME]`: more about a backend of `local_server`.
    #[serde(default)]
    pub backends: BTreeMap<Spanned<String>, BackendOptions>,
}

/// `[sidelight.backends.NAME]`. What is left out is as in production.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackendOptions {
    /// Milliseconds; default 1000.
    pub connect_timeout_ms: Option<u64>,
    /// Milliseconds an idle connection is kept; default 600000.
    pub keepalive_time_ms: Option<u64>,
    /// Whether IPv6 addresses are tried first; default true.
    pub prefer_ipv6: Option<bool>,
    /// `1.2` or `1.3`.
    pub tls_min_version: Option<Spanned<String>>,
    /// `1.2` or `1.3`.
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
    /// Active health check; default: none.
    pub health_check: Option<Spanned<HealthCheck>>,
}

/// `tcp_keepalive`, in seconds.
#[derive(Debug, Deserialize)]
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
#[derive(Debug, Deserialize)]
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
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LocalServer {
    /// `[local_server.backends.NAME]`.
    #[serde(default)]
    pub backends: BTreeMap<Spanned<String>, Backend>,

    // Accepted; `resolve` says which of them have no effect yet.
    /// Viceroy's minimum version; of no meaning here.
    #[serde(default)]
    pub viceroy_version: Option<String>,
    /// `[local_server.config_stores]`.
    #[serde(default)]
    pub config_stores: Option<IgnoredAny>,
    /// The older name of config stores.
    #[serde(default)]
    pub dictionaries: Option<IgnoredAny>,
    /// `[local_server.kv_stores]`.
    #[serde(default)]
    pub kv_stores: Option<IgnoredAny>,
    /// The older name of KV stores.
    #[serde(default)]
    pub object_stores: Option<IgnoredAny>,
    /// The oldest name of KV stores.
    #[serde(default)]
    pub object_store: Option<IgnoredAny>,
    /// `[local_server.secret_stores]`.
    #[serde(default)]
    pub secret_stores: Option<IgnoredAny>,
    /// `[local_server.acls]`.
    #[serde(default)]
    pub acls: Option<IgnoredAny>,
    /// `[local_server.geolocation]`.
    #[serde(default)]
    pub geolocation: Option<IgnoredAny>,
    /// `[local_server.device_detection]`.
    #[serde(default)]
    pub device_detection: Option<IgnoredAny>,
    /// `[local_server.shielding_sites]`.
    #[serde(default)]
    pub shielding_sites: Option<IgnoredAny>,
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
#[derive(Debug, Deserialize)]
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
    pub proxy_port: Option<Spanned<u16>>,
    /// Where it takes messages: publishers' business.
    #[serde(default)]
    pub publish_port: Option<u16>,
}

/// Something that is on or off.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Switch {
    /// Which.
    #[serde(default)]
    pub enable: bool,
}

/// `[local_server.backends.NAME]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Backend {
    /// `http://host[:port][/prefix]` or `https://…`.
    pub url: Spanned<String>,
    /// Replaces the `Host` header.
    #[serde(default)]
    pub override_host: Option<Spanned<String>>,
    /// The name the certificate is checked against; default: the URL's host.
    #[serde(default)]
    pub cert_host: Option<Spanned<String>>,
    /// Send a server name in the TLS handshake; default true.
    #[serde(default)]
    pub use_sni: Option<bool>,
    /// gRPC, which is HTTP/2 towards the backend.
    #[serde(default)]
    pub grpc: Option<bool>,
    /// Milliseconds; default 15000.
    #[serde(default)]
    pub first_byte_timeout_ms: Option<u64>,
    /// Milliseconds; default 10000.
    #[serde(default)]
    pub between_bytes_timeout_ms: Option<u64>,
    /// `unknown`, `healthy` or `unhealthy`, in any case.
    #[serde(default)]
    pub health: Option<Spanned<String>>,
    /// Roots to trust instead of the system's.
    #[serde(default)]
    pub ca_certificate: Option<OneOrMany>,
    /// Certificate and key to present.
    #[serde(default)]
    pub client_certificate: Option<ClientCertificate>,
}

/// A certificate, or several.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected PEM text, { file = \"…\" }, { value = \"…\" } or an array of these")]
pub enum OneOrMany {
    /// One.
    One(PemSource),
    /// Several.
    Many(Vec<PemSource>),
}

/// Where PEM text comes from.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected PEM text, { file = \"…\" } or { value = \"…\" }")]
pub enum PemSource {
    /// The text itself.
    Text(String),
    /// A file beside the manifest.
    File {
        /// Its path.
        file: String,
    },
    /// The text itself, in a table.
    Value {
        /// PEM text.
        value: String,
    },
}

/// `client_certificate`: each of the two inline or in a file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientCertificate {
    /// PEM text.
    pub certificate: Option<String>,
    /// File with the PEM text.
    pub certificate_file: Option<String>,
    /// PEM text.
    pub key: Option<String>,
    /// File with the PEM text.
    pub key_file: Option<String>,
}

impl Manifest {
    /// Reads the text of a manifest. `file` is only named in errors.
    pub fn parse(text: &str, file: &Path) -> Result<Self, ConfigError> {
        toml::from_str(text).map_err(|error| {
            let message = error.message().to_owned();
            let hint = nearest(&message);
            let problem = Problem { span: error.span(), message, hint };
            ConfigError::new(file, text, vec![problem])
        })
    }
}

/// For "unknown field `x`, expected one of `a`, `b`": the expected name nearest to the given one.
fn nearest(message: &str) -> Option<String> {
    let mut names = message.strip_prefix("unknown field ")?.split('`').skip(1).step_by(2);
    let given = names.next()?;
    let (distance, name) = names.map(|name| (edits(given, name), name)).min()?;
    (distance <= 2.max(given.len() / 3)).then(|| format!("did you mean `{name}`?"))
}

/// Levenshtein distance.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let up = row[j + 1];
            row[j + 1] = (diagonal + usize::from(x != *y)).min(up + 1).min(row[j] + 1);
            diagonal = up;
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        Manifest::parse(text, Path::new("fastly.toml")).expect_err("is bad").to_string()
    }

    #[test]
    fn other_tools_tables_are_ignored() {
        let text = "manifest_version = 3\nname = \"x\"\n[scripts]\nbuild = \"cargo build\"\n[setup.backends.a]\nport = 1\n";
        assert_eq!(Manifest::parse(text, Path::new("f")).expect("loads").name.as_deref(), Some("x"));
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
