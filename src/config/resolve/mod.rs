//! Manifest → [`Config`]: defaults and cross-checks live here, and nowhere else.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ::http::Uri;
use ::http::uri::Authority;
use toml::Spanned;

use super::diagnostics::{ConfigError, Problem, Sources};
use super::document::Node;
use super::facts::Product;
use super::manifest::Manifest;
use super::state::State;
use super::{
    Backend, BackendTls, ClientCertificate, Config, Environment, Facts, GuestLimits, Health, HealthCheck, HttpVersions, Note, Pem,
    PoolLimits, Secret, Stores, Targets, TcpKeepalive, TlsVersion, manifest,
};

mod logs;
mod stores;

/// Production's defaults for a backend (fastly:compute WIT, `backend` interface).
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// As above.
pub const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(15);
/// As above.
pub const BETWEEN_BYTES_TIMEOUT: Duration = Duration::from_secs(10);
/// As above.
pub const KEEPALIVE_TIME: Duration = Duration::from_secs(600);

/// The name of a service that has none.
const DEFAULT_NAME: &str = "service";

/// The identifier of a service that has none.
const DEFAULT_ID: &str = "0000000000000000000000";

/// Where the Fastly CLI has Pushpin take HTTP.
const GRIP_PROXY_PORT: u16 = 7677;

impl Config {
    /// Reads and decides a manifest. `file` names it in errors; relative paths resolve against its
    /// folder.
    pub fn from_manifest(text: &str, file: &Path) -> Result<Self, ConfigError> {
        let mut sources = Sources::default();
        let base = sources.add(file, text);
        let decided = Node::parse(text, file, base).and_then(|document| Self::decide(&document, &sources, false));
        decided.map_err(|problems| ConfigError::new(sources, problems))
    }

    /// Decides a manifest that has been read from `sources`, or says everything that is wrong with it. `use_setup`: what
    /// `local_server` lacks comes from `[setup]`.
    pub fn decide(document: &Node, sources: &Sources, use_setup: bool) -> Result<Self, Vec<Problem>> {
        let manifest = Manifest::read(document)?;
        let mut resolve = Resolve { sources, problems: Vec::new(), notes: Vec::new() };
        let (local, more) = (manifest.local_server, manifest.sidelight);
        let mut backends = BTreeMap::new();
        for (name, backend) in &local.backends {
            if let Some(backend) = resolve.backend(name, backend) {
                backends.insert(name.get_ref().clone(), backend);
            }
        }
        if use_setup {
            for (name, from) in manifest.setup.backends.iter().filter(|(name, _)| !local.backends.contains_key(name.get_ref().as_str())) {
                if let Some(backend) = resolve.setup_backend(name, from) {
                    backends.insert(name.get_ref().clone(), backend);
                }
            }
        }
        for (name, options) in &more.backends {
            match backends.get_mut(name.get_ref()) {
                Some(backend) => resolve.options(backend, options),
                None if local.backends.contains_key(name.get_ref().as_str()) => {}
                None => resolve.problem(
                    name,
                    format!("there is no backend `{}`", name.get_ref()),
                    "[sidelight.backends.NAME] adds to a [local_server.backends.NAME]",
                ),
            }
        }
        if let Some(name) = &more.catch_all_backend
            && !local.backends.contains_key(name.get_ref().as_str())
        {
            resolve.problem(name, format!("there is no backend `{}`", name.get_ref()), "it is the name of a [local_server.backends.NAME]");
        }
        let stores = resolve.stores(&local, &more, use_setup.then_some(&manifest.setup));
        let logs = resolve.logs(&more.logs);
        if more.products.contains(&Product::ImageOptimizer) {
            let text = "the image optimizer is not there yet: programs are told that the service does not have it".to_owned();
            resolve.notes.push(Note { important: true, text });
        }
        let facts = Facts {
            compliance_region: more.compliance_region,
            products: more.products,
            fastly_keys: local.fake_valid_fastly_keys.iter().map(|key| Secret::new(key.clone().into_bytes())).collect(),
            clients: more.clients,
            inspect: more.inspect,
        };
        for key in manifest::ignored(document) {
            let near = manifest::near(key);
            let hint = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
            let text = format!("`{key}` is no key of a local server and is passed over{hint}");
            resolve.notes.push(Note { important: near.is_some(), text });
        }
        if !resolve.problems.is_empty() {
            return Err(resolve.problems);
        }
        let name = manifest.name.filter(|n| !n.is_empty()).unwrap_or_else(|| DEFAULT_NAME.to_owned());
        Ok(Self {
            name,
            service_id: manifest.service_id.filter(|id| !id.is_empty()).unwrap_or_else(|| DEFAULT_ID.to_owned()),
            backends,
            catch_all: more.catch_all_backend.map(Spanned::into_inner),
            cache_http: more.cache.http.unwrap_or(true),
            cache_open_to: more.cache.open_to,
            stores,
            logs,
            grip_proxy: local.pushpin.filter(|pushpin| pushpin.enable).map(|pushpin| {
                let port = pushpin.proxy_port.map_or(GRIP_PROXY_PORT, |port| *port.get_ref());
                SocketAddr::from(([127, 0, 0, 1], port))
            }),
            facts,
            websockets: local.websockets_passthrough.is_none_or(|switch| switch.enable),
            notes: resolve.notes,
            dropin: None,
            ..Self::bare()
        })
    }

    /// A service without a manifest: no backends, no stores.
    pub fn bare() -> Self {
        Self {
            name: DEFAULT_NAME.to_owned(),
            service_id: DEFAULT_ID.to_owned(),
            backends: BTreeMap::new(),
            catch_all: None,
            stores: Stores::default(),
            state: State::default(),
            cache_http: true,
            cache_open_to: Vec::new(),
            logs: BTreeMap::new(),
            limits: GuestLimits::default(),
            environment: Environment::default(),
            dynamic_targets: Targets::default(),
            grip_proxy: None,
            facts: Facts::default(),
            websockets: true,
            notes: Vec::new(),
            dropin: None,
        }
    }
}

struct Resolve<'a> {
    sources: &'a Sources,
    problems: Vec<Problem>,
    notes: Vec<Note>,
}

impl Resolve<'_> {
    fn problem<T>(&mut self, at: &Spanned<T>, message: impl Into<String>, hint: &str) {
        self.problems.push(Problem::at(at.span(), message).hint(hint));
    }

    fn backend(&mut self, name: &Spanned<String>, from: &manifest::Backend) -> Option<Backend> {
        let faults = self.problems.len();
        if name.get_ref().is_empty() {
            self.problem(name, "a backend needs a name", "[local_server.backends.NAME]");
        }
        let url = self.url(&from.url);
        let override_host = from.override_host.as_ref().map(|host| {
            if host.get_ref().parse::<Authority>().is_err() || host.get_ref().contains('@') {
                self.problem(
                    host,
                    "override_host must be a host name, with a port if needed",
                    "for example \"www.example.com\", or leave the key out",
                );
            }
            host.get_ref().clone()
        });
        let health = from.health.as_ref().map_or(Health::Unknown, |given| match given.get_ref().to_ascii_lowercase().as_str() {
            "unknown" => Health::Unknown,
            "healthy" => Health::Healthy,
            "unhealthy" => Health::Unhealthy,
            other => {
                let message = format!("`{other}` is no health");
                self.problem(given, message, "one of \"unknown\", \"healthy\", \"unhealthy\"");
                Health::Unknown
            }
        });
        let ca = self.pems(from.ca_certificate.as_ref());
        let client = self.client_certificate(name, from.client_certificate.as_ref());
        let (tls, host, port, path_prefix) = url?;
        let cert_host = from.cert_host.as_ref().map_or_else(|| host.clone(), |name| name.get_ref().clone());
        if tls && rustls_pki_types::ServerName::try_from(cert_host.as_str()).is_err() {
            let message = format!("`{cert_host}` is no name a certificate can have");
            match &from.cert_host {
                Some(at) => self.problem(at, message, "a DNS name or an IP address, without a port"),
                None => self.problem(&from.url, message, "set cert_host to the name on the certificate"),
            }
        }
        let sni_name = rustls_pki_types::ServerName::try_from(cert_host.as_str())
            .ok()
            .filter(|name| matches!(name, rustls_pki_types::ServerName::DnsName(_)))
            .map(|_| cert_host.clone());
        (self.problems.len() == faults).then(|| Backend {
            name: name.get_ref().clone(),
            host,
            port,
            path_prefix,
            override_host,
            tls: tls.then(|| BackendTls {
                sni: sni_name.filter(|_| from.use_sni.unwrap_or(true)),
                cert_host: Some(cert_host),
                min: TlsVersion::V1_2,
                max: TlsVersion::V1_3,
                ciphers: None,
                ca,
                client,
            }),
            http: if from.grpc.unwrap_or(false) { HttpVersions::Two } else { HttpVersions::One },
            connect_timeout: CONNECT_TIMEOUT,
            first_byte_timeout: from.first_byte_timeout_ms.map_or(FIRST_BYTE_TIMEOUT, Duration::from_millis),
            between_bytes_timeout: from.between_bytes_timeout_ms.map_or(BETWEEN_BYTES_TIMEOUT, Duration::from_millis),
            keepalive_time: KEEPALIVE_TIME,
            pool: PoolLimits::default(),
            tcp_keepalive: TcpKeepalive::default(),
            prefer_ipv6: true,
            health,
            availability: 100,
            faults: None,
            check: None,
            propagate: None,
            dynamic: false,
        })
    }

    /// What `[sidelight.backends.NAME]` adds.
    fn options(&mut self, backend: &mut Backend, from: &manifest::BackendOptions) {
        let millis = |given: Option<u64>, default: Duration| given.map_or(default, Duration::from_millis);
        backend.connect_timeout = millis(from.connect_timeout_ms, backend.connect_timeout);
        backend.keepalive_time = millis(from.keepalive_time_ms, backend.keepalive_time);
        backend.availability = from.availability.unwrap_or(backend.availability);
        if let Some(given) = &from.faults {
            if let Some((fault, hint)) = given.get_ref().impossible() {
                self.problem(given, fault, hint);
            }
            backend.faults = Some(given.get_ref().clone());
        }
        backend.propagate = from.propagate;
        backend.prefer_ipv6 = from.prefer_ipv6.unwrap_or(backend.prefer_ipv6);
        backend.pool = PoolLimits {
            connections: from.max_connections.unwrap_or_default(),
            uses: from.max_uses.unwrap_or_default(),
            lifetime: millis(from.max_lifetime_ms, Duration::ZERO),
        };
        if let Some(manifest::TcpKeepalive { time, interval, probes }) = from.tcp_keepalive {
            backend.tcp_keepalive = TcpKeepalive { enabled: true, time, interval, probes };
        }
        let (min, max) = (self.version(from.tls_min_version.as_ref()), self.version(from.tls_max_version.as_ref()));
        if let (None, Some(given)) = (&backend.tls, from.tls_min_version.as_ref().or(from.tls_max_version.as_ref())) {
            self.problem(given, "TLS of a backend whose URL is http:", "make the URL https:, or leave this out");
        }
        if let Some(tls) = &mut backend.tls {
            tls.min = min.unwrap_or(tls.min);
            tls.max = max.unwrap_or(tls.max);
            if let (true, Some(given)) = (tls.min > tls.max, from.tls_min_version.as_ref().or(from.tls_max_version.as_ref())) {
                self.problem(given, "the oldest version of TLS is newer than the newest", "tls_min_version is at most tls_max_version");
            }
            tls.ciphers = from.ciphers.clone();
            if let Some(sni) = &from.sni {
                tls.sni = Some(sni.clone()).filter(|sni| !sni.is_empty());
            }
        }
        if let Some(given) = &from.health_check {
            let (check, default) = (given.get_ref(), HealthCheck::default());
            let check = HealthCheck {
                method: check.method.clone().unwrap_or(default.method),
                path: check.path.clone().unwrap_or(default.path),
                host: check.host.clone(),
                expected: check.expected_status.unwrap_or(default.expected),
                window: check.window.unwrap_or(default.window),
                threshold: check.threshold.unwrap_or(default.threshold),
                initial: check.initial.unwrap_or(default.initial),
                interval: millis(check.interval_ms, default.interval),
                timeout: millis(check.timeout_ms, default.timeout),
            };
            if let Some(fault) = check.fault() {
                self.problem(given, format!("this health check cannot work: {fault}"), "what is left out is as in production");
            }
            backend.check = Some(check);
        }
    }

    fn version(&mut self, given: Option<&Spanned<String>>) -> Option<TlsVersion> {
        let given = given?;
        match given.get_ref().as_str() {
            "1.2" => Some(TlsVersion::V1_2),
            "1.3" => Some(TlsVersion::V1_3),
            other => {
                self.problem(given, format!("`{other}` is no version of TLS that this host speaks"), "\"1.2\" or \"1.3\"");
                None
            }
        }
    }

    /// TLS or not, host, port, path prefix.
    fn url(&mut self, url: &Spanned<String>) -> Option<(bool, String, u16, String)> {
        const HINT: &str = "for example \"https://origin.example.com\" or \"http://127.0.0.1:8080/prefix\"";
        let text = url.get_ref();
        let uri: Uri = match text.parse() {
            Ok(uri) => uri,
            Err(error) => {
                self.problem(url, format!("`{text}` is no URL: {error}"), HINT);
                return None;
            }
        };
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            Some(other) => {
                self.problem(url, format!("a backend cannot be reached by `{other}`"), "use http:// or https://");
                return None;
            }
            None => {
                self.problem(url, format!("`{text}` has no scheme"), HINT);
                return None;
            }
        };
        let Some(host) = uri.host().filter(|h| !h.is_empty()) else {
            self.problem(url, format!("`{text}` has no host"), HINT);
            return None;
        };
        if uri.query().is_some() {
            self.problem(url, "this URL cannot have a query", "leave out everything from the `?` on");
            return None;
        }
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        if authority.contains('@') {
            self.problem(url, "this URL cannot have a user name", "programs set the Authorization field themselves");
            return None;
        }
        if text.contains('#') {
            self.problem(url, "this URL cannot have a fragment", "leave out everything from the `#` on");
            return None;
        }
        let behind_host =
            authority.rsplit_once(']').map_or_else(|| authority.split_once(':').map_or("", |(_, port)| port), |(_, rest)| rest);
        if uri.port_u16().is_none() && !behind_host.trim_start_matches(':').is_empty() {
            self.problem(url, format!("`{}` is no port", behind_host.trim_start_matches(':')), "a port is a number up to 65535");
            return None;
        }
        let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let prefix = uri.path().trim_end_matches('/').to_owned();
        Some((tls, host, port, prefix))
    }

    /// A file that a document names: beside that document, or else, as the peers take it, in the working directory.
    fn path(&self, file: &Spanned<String>) -> PathBuf {
        let folder = self.sources.file(file.span().start).parent().unwrap_or(Path::new(""));
        let (beside, file) = (folder.join(file.get_ref()), Path::new(file.get_ref()));
        if !beside.exists() && file.exists() { file.to_owned() } else { beside }
    }

    fn pem(&mut self, source: &manifest::PemSource) -> Option<Pem> {
        match source {
            manifest::PemSource::Text(text) => Some(Pem::Inline(text.clone())),
            manifest::PemSource::Table(manifest::PemTable { value: Some(text), file: None }) => Some(Pem::Inline(text.get_ref().clone())),
            manifest::PemSource::Table(manifest::PemTable { file: Some(file), value: None }) => Some(Pem::File(self.path(file))),
            manifest::PemSource::Table(manifest::PemTable { file: Some(file), value: Some(_) }) => {
                self.problem(file, "both `file` and `value`", "leave one of them out");
                None
            }
            manifest::PemSource::Table(manifest::PemTable { file: None, value: None }) => {
                self.problems.push(Problem { span: None, message: "a ca_certificate without `file` and `value`".to_owned(), hint: None });
                None
            }
        }
    }

    fn pems(&mut self, source: Option<&manifest::OneOrMany>) -> Vec<Pem> {
        match source {
            None => Vec::new(),
            Some(manifest::OneOrMany::One(one)) => self.pem(one).into_iter().collect(),
            Some(manifest::OneOrMany::Many(many)) => many.iter().filter_map(|pem| self.pem(pem)).collect(),
        }
    }

    fn client_certificate(&mut self, backend: &Spanned<String>, from: Option<&manifest::ClientCertificate>) -> Option<ClientCertificate> {
        let from = from?;
        let mut one = |what: &str, inline: &Option<String>, file: &Option<Spanned<String>>| match (inline, file) {
            (Some(text), None) => Some(Pem::Inline(text.clone())),
            (None, Some(file)) => Some(Pem::File(self.path(file))),
            (None, None) | (Some(_), Some(_)) => {
                let message =
                    format!("client_certificate of backend `{}` needs exactly one of `{what}` and `{what}_file`", backend.get_ref());
                self.problems.push(Problem::at(backend.span(), message));
                None
            }
        };
        let certificate = one("certificate", &from.certificate, &from.certificate_file);
        let key = one("key", &from.key, &from.key_file);
        Some(ClientCertificate { certificate: certificate?, key: key? })
    }

    /// `[setup.backends.NAME]`: TLS at port 443, as a deployment makes it.
    fn setup_backend(&mut self, name: &Spanned<String>, from: &manifest::SetupBackend) -> Option<Backend> {
        let Some(address) = from.address.as_ref().filter(|address| !address.get_ref().is_empty()) else {
            self.problem(
                name,
                format!("setup.backends.{} has no address", name.get_ref()),
                "a deployment would ask for it; say it here, or in [local_server.backends]",
            );
            return None;
        };
        let port = from.port.unwrap_or(443);
        let scheme = if port == 443 { "https" } else { "http" };
        let url = Spanned::new(address.span(), format!("{scheme}://{}:{port}", address.get_ref()));
        self.backend(name, &manifest::Backend::at(url))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Config, ConfigError> {
        Config::from_manifest(text, Path::new("dir/fastly.toml"))
    }

    #[test]
    fn defaults_are_productions() {
        let config = load("[local_server.backends.a]\nurl = \"https://example.com/base/\"\n").expect("loads");
        let backend = &config.backends["a"];
        assert_eq!((backend.host.as_str(), backend.port, backend.path_prefix.as_str()), ("example.com", 443, "/base"));
        assert_eq!(backend.connect_timeout, Duration::from_secs(1));
        assert_eq!(backend.first_byte_timeout, Duration::from_secs(15));
        assert_eq!(backend.between_bytes_timeout, Duration::from_secs(10));
        let tls = backend.tls.as_ref().expect("https");
        assert_eq!((tls.sni.as_deref(), tls.cert_host.as_deref()), (Some("example.com"), Some("example.com")));
    }

    #[test]
    fn an_ip_address_is_no_server_name() {
        let config = load("[local_server.backends.a]\nurl = \"https://[::1]:8443\"\n").expect("loads");
        let backend = &config.backends["a"];
        assert_eq!((backend.host.as_str(), backend.port), ("::1", 8443));
        assert_eq!(backend.tls.as_ref().expect("https").sni, None);
    }

    #[test]
    fn all_faults_are_reported_together() {
        let error =
            load("[local_server.backends.a]\nurl = \"ftp://x\"\n[local_server.backends.b]\nurl = \"example.com\"\nhealth = \"ill\"\n")
                .expect_err("is bad");
        let lines: Vec<_> = error.problems().iter().map(|p| p.message.as_str()).collect();
        assert_eq!(lines, ["a backend cannot be reached by `ftp`", "`example.com` has no scheme", "`ill` is no health"]);
        assert!(error.to_string().contains("dir/fastly.toml:4:7: "));
    }

    #[test]
    fn files_are_beside_the_manifest() {
        let config = load(
            "[local_server.backends.a]\nurl = \"https://x.test\"\nca_certificate = { file = \"ca.pem\" }\nclient_certificate = { certificate = \"PEM\", key_file = \"key.pem\" }\n",
        )
        .expect("loads");
        let tls = config.backends["a"].tls.clone().expect("https");
        assert_eq!(tls.ca, [Pem::File("dir/ca.pem".into())]);
        assert_eq!(tls.client.expect("given").key, Pem::File("dir/key.pem".into()));
    }

    #[test]
    fn what_has_no_effect_yet_is_said() {
        let config = load("[other]\n[sidelight]\nproducts = [\"image_optimizer\"]\n").expect("loads");
        let notes: Vec<_> = config.notes.iter().map(|note| (note.important, note.text.as_str())).collect();
        let expected = [
            "the image optimizer is not there yet: programs are told that the service does not have it",
            "`other` is no key of a local server and is passed over",
        ];
        assert_eq!(notes, [(true, expected[0]), (false, expected[1])]);
    }

    #[test]
    fn setup_fills_what_local_server_lacks_when_that_is_asked_for() {
        let text = "[local_server.backends.a]\nurl = \"http://a\"\n[setup.backends.a]\naddress = \"elsewhere.test\"\n\
             [setup.backends.b]\naddress = \"b.test\"\n[setup.backends.c]\naddress = \"c.test\"\nport = 8080\n\
             [setup.config_stores.s.items.k]\nvalue = \"v\"\n[setup.secret_stores.t.entries.e]\n";
        assert_eq!(load(text).expect("loads").backends.keys().collect::<Vec<_>>(), ["a"]);
        let read = |text: &str| {
            let mut sources = Sources::default();
            let file = Path::new("fastly.toml");
            let base = sources.add(file, text);
            Config::decide(&Node::parse(text, file, base).expect("parses"), &sources, true)
        };
        let config = read(text).expect("loads");
        let of = |name: &str| (config.backends[name].host.as_str(), config.backends[name].port, config.backends[name].tls.is_some());
        assert_eq!((of("a"), of("b"), of("c")), (("a", 80, false), ("b.test", 443, true), ("c.test", 8080, false)));
        assert_eq!((config.stores.config.len(), config.stores.secrets.len()), (1, 1));
        let problems = read("[setup.backends.x]\ndescription = \"asked for\"\n").expect_err("is bad");
        assert!(problems[0].message.contains("has no address"));
    }
}
