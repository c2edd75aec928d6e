//! Getting a program from where it is: a file, a package, a URL, an OCI registry. What comes over the network is kept
//! by its digest, so that it is fetched once, and so that a start does not need the network.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use flate2::read::GzDecoder;
use futures_util::StreamExt as _;
use oci_client::client::{ClientConfig, ClientProtocol};
use oci_client::manifest::OciDescriptor;
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference};
use parking_lot::Mutex;
use serde_json::Value as Json;

use super::code_cache::digest;
use super::tidy;
use crate::config::{HostConfig, ModuleSource, files};
use crate::services::backend::operators::{Elsewhere, Operators};
use crate::services::memory::{HostMemory, Shortage};

/// Largest program, and largest package, in bytes.
pub const MAX_SIZE: usize = 256 << 20;

/// How often it is looked whether there is memory.
const LOOK: Duration = Duration::from_millis(2);

/// Time for a registry or server to answer, and between two pieces of what it sends.
const PATIENCE: Duration = Duration::from_secs(30);

/// A fetch that takes longer is worth a word.
const SLOW: Duration = Duration::from_secs(10);

/// Media types of layers that are a module as it is.
const WASM_LAYERS: [&str; 4] = [
    "application/wasm",
    "application/vnd.wasm.content.layer.v1+wasm",
    "application/vnd.module.wasm.content.layer.v1+wasm",
    "application/vnd.bytecodealliance.wasm.component.layer.v0+wasm",
];

/// Why nothing is fetched and unpacked.
const SHORT: &str = "this process is short of memory";
const TRY_AGAIN: &str = "what is there may have no end; else, try again when there is memory (--total-memory)";

/// Why a program cannot be got.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// A file cannot be read.
    #[error("{error}")]
    File {
        /// What the system said.
        error: io::Error,
    },
    /// A package, an image or an artifact without a program.
    #[error("{what}\n  hint: {hint}")]
    Content {
        /// What is wrong with it.
        what: String,
        /// What to do.
        hint: &'static str,
    },
    /// It does not come in the time there is.
    #[error("it cannot be fetched: it takes more than {} s\n  hint: is the server reachable from here?", .0.as_secs())]
    Late(Duration),
    /// It cannot be fetched, and nothing was kept from before.
    #[error("it cannot be fetched: {reason}\n  hint: {hint}")]
    Fetch {
        /// What went wrong.
        reason: String,
        /// What to do.
        hint: &'static str,
    },
}

impl SourceError {
    /// There is no memory for it.
    pub fn short_of_memory() -> Self {
        Self::Fetch { reason: SHORT.to_owned(), hint: TRY_AGAIN }
    }
}

/// A folder of what was fetched.
#[derive(Clone, Debug)]
pub struct Store {
    folder: Option<PathBuf>,
    /// Bytes that the folder may have.
    most: u64,
    /// Credentials of registries, as docker keeps them.
    auth: Option<PathBuf>,
    /// Registries that are spoken to without TLS, beside those on this machine.
    insecure: Vec<String>,
    /// Bytes of the largest program.
    largest: usize,
    /// Time to fetch one, if there is a bound.
    time: Option<Duration>,
    /// What the process has of memory, if a fetch ends when that is short.
    memory: Option<Arc<HostMemory>>,
    /// Set when nobody wants any more what is fetched.
    gone: Arc<AtomicBool>,
    /// Whom nothing is fetched from, for services that come and go.
    careful: Option<Arc<Operators>>,
}

impl Store {
    /// In `cache_dir`; `auth`: a file in the format of docker's `config.json` and of Kubernetes' pull secrets.
    pub fn new(cache_dir: Option<&Path>, auth: Option<PathBuf>) -> Self {
        Self {
            folder: cache_dir.map(|folder| folder.join("fetched")),
            most: u64::MAX,
            auth,
            insecure: Vec::new(),
            largest: MAX_SIZE,
            time: None,
            memory: None,
            gone: Arc::default(),
            careful: None,
        }
    }

    /// As a host's settings have it.
    pub fn of(host: &HostConfig) -> Self {
        let insecure = host.insecure_registries.clone();
        Self {
            insecure,
            most: host.cache_dir_size,
            time: Some(host.fetch_timeout),
            ..Self::new(host.cache_dir.as_deref(), host.registry_auth.clone())
        }
    }

    /// That keeps nothing: to publish programs.
    pub fn with_registries(auth: Option<PathBuf>, insecure: Vec<String>) -> Self {
        Self { insecure, ..Self::new(None, auth) }
    }

    /// The same, with programs of so many bytes at most, fetched within that time and as long as there is memory. (The library that
    /// speaks to registries reads manifests to their ends, and there are registries that have none.)
    pub fn bounded(self, largest: usize, time: Duration, memory: Arc<HostMemory>, operators: Arc<Operators>) -> Self {
        Self { largest, time: Some(time), memory: Some(memory), careful: Some(operators), ..self }
    }

    /// The same, within that time, and until `gone` is set.
    pub fn within_time(self, time: Duration, gone: Arc<AtomicBool>) -> Self {
        Self { time: Some(time), gone, ..self }
    }

    /// The bytes of a program that need not be fetched, since they are kept; `None`: they are not.
    pub fn read_kept(&self, source: &ModuleSource) -> Option<Result<Vec<u8>, SourceError>> {
        let kept = match source {
            ModuleSource::File(_) => return None,
            ModuleSource::Url { sha256, .. } => self.kept(sha256),
            ModuleSource::Oci(reference) => self.layer_of(reference).and_then(|layer| self.kept(&layer)),
        };
        kept.map(|bytes| self.unpack(bytes))
    }

    /// The bytes of a program. Blocks: not for a thread that serves requests, and not for one that runs futures.
    pub fn read(&self, source: &ModuleSource) -> Result<Vec<u8>, SourceError> {
        match source {
            ModuleSource::File(path) => {
                let bytes = files::read(path, self.largest as u64).map_err(|error| match error.kind() {
                    io::ErrorKind::FileTooLarge => too_large(self.largest),
                    _ => SourceError::File { error },
                })?;
                self.unpack(bytes)
            }
            ModuleSource::Url { url, sha256 } => {
                if let Some(kept) = self.kept(sha256) {
                    return self.unpack(kept);
                }
                tracing::info!(url, "fetching a program");
                let fetched = block_on(self.within(url, fetch(url, self.largest, self.careful.as_ref())))?;
                let actual = digest(&fetched);
                if actual != *sha256 {
                    let what = format!("what is there has the SHA-256 {actual}, not {sha256}");
                    return Err(SourceError::Content { what, hint: "if that is what it should be now, change the digest" });
                }
                self.keep(sha256, &fetched);
                self.unpack(fetched)
            }
            ModuleSource::Oci(reference) => self.unpack(self.pull(reference)?),
        }
    }

    /// As [`unpack`]; of services that come and go one at a time, and as long as there is memory.
    fn unpack(&self, bytes: Vec<u8>) -> Result<Vec<u8>, SourceError> {
        static ONE: Mutex<()> = Mutex::new(());
        let Some(memory) = &self.memory else { return unpack(bytes, self.largest) };
        let _one = ONE.lock();
        memory.read();
        if memory.shortage() != Shortage::None {
            return Err(SourceError::short_of_memory());
        }
        unpack(bytes, self.largest)
    }

    /// Fetches within the time there is for it.
    async fn within<T>(&self, what: &str, work: impl Future<Output = Result<T, SourceError>>) -> Result<T, SourceError> {
        let late = async {
            match self.time {
                Some(time) => tokio::time::sleep(time).await,
                None => std::future::pending().await,
            }
        };
        let short = async {
            match &self.memory {
                Some(memory) => {
                    while memory.shortage() == Shortage::None && !self.gone.load(Ordering::Relaxed) {
                        tokio::time::sleep(LOOK).await;
                        // What comes fast would have the rest before others look.
                        memory.read();
                    }
                }
                None => std::future::pending().await,
            }
        };
        let slow = async {
            tokio::time::sleep(SLOW).await;
            tracing::warn!("{what} is still being fetched");
            std::future::pending::<()>().await;
        };
        tokio::select! {
            biased;
            () = slow => Err(SourceError::Late(SLOW)),
            () = late => Err(SourceError::Late(self.time.unwrap_or_default())),
            () = short => Err(SourceError::short_of_memory()),
            done = work => done,
        }
    }

    fn pull(&self, text: &str) -> Result<Vec<u8>, SourceError> {
        let reference = reference(text)?;
        // What a digest stands for does not change.
        if let Some(digest) = reference.digest()
            && let Some(kept) = self.layer_of(digest).and_then(|layer| self.kept(&layer))
        {
            return Ok(kept);
        }
        if let Some(operators) = &self.careful
            // What has TLS is not theirs.
            && self.is_plain(reference.registry())
            && let Some(address) = operators.among(reference.registry())
        {
            return Err(SourceError::Content { what: Operators::refusal(address), hint: "a registry is somewhere else" });
        }
        let auth = self.credentials(reference.registry());
        let found = block_on(self.within(text, async {
            let client = Client::new(self.client_config(reference.registry()));
            let (manifest, digest) = client.pull_image_manifest(&reference, &auth).await.map_err(|error| failed(&error))?;
            let layer = choose(&manifest.layers)?;
            let name = layer.digest.trim_start_matches("sha256:").to_owned();
            if !is_digest(&name) {
                let what = format!("the registry says that its layer is `{}`, which is no SHA-256", layer.digest.escape_debug());
                return Err(SourceError::Content { what, hint: "sha256:DIGEST is what this host takes" });
            }
            if let Some(kept) = self.kept(&name) {
                return Ok((digest, name, kept));
            }
            if usize::try_from(layer.size).is_ok_and(|size| size > self.largest) {
                return Err(too_large(self.largest));
            }
            tracing::info!(reference = text, digest, bytes = layer.size, "pulling a program");
            let mut bytes = Vec::new();
            let mut blob = client.pull_blob_stream(&reference, &layer).await.map_err(|error| failed(&error))?;
            while let Some(piece) = blob.stream.next().await {
                let broken = |error: io::Error| SourceError::Fetch { reason: chained(&error), hint: "is the registry well?" };
                let piece = piece.map_err(broken)?;
                // It may send more than it has said.
                if bytes.len() + piece.len() > self.largest {
                    return Err(too_large(self.largest));
                }
                bytes.extend_from_slice(&piece);
            }
            self.keep(&name, &bytes);
            Ok((digest, name, bytes))
        }));
        match found {
            Ok((digest, layer, bytes)) => {
                self.remember(&digest, &layer);
                self.remember(text, &layer);
                Ok(bytes)
            }
            Err(error @ (SourceError::Fetch { .. } | SourceError::Late(_))) => {
                match self.layer_of(text).and_then(|layer| self.kept(&layer)) {
                    Some(kept) => {
                        tracing::warn!(reference = text, %error, "the registry does not answer; what was pulled last is used");
                        Ok(kept)
                    }
                    None => Err(error),
                }
            }
            Err(error) => Err(error),
        }
    }

    /// What was kept under a digest, if it is still what it was.
    fn kept(&self, sha256: &str) -> Option<Vec<u8>> {
        let mut file = fs::File::open(self.place_of(sha256)?).ok()?;
        let mut bytes = Vec::new();
        (&mut file).take(self.largest as u64 + 1).read_to_end(&mut bytes).ok()?;
        tidy::used(&file);
        (digest(&bytes) == sha256).then_some(bytes)
    }

    /// Where what has that digest is kept, if it is one, and no larger than it may be: registries say what they like.
    fn place_of(&self, sha256: &str) -> Option<PathBuf> {
        let path = self.folder.as_ref()?.join(Some(sha256).filter(|name| is_digest(name))?);
        fs::symlink_metadata(&path).is_ok_and(|what| what.is_file() && what.len() <= self.largest as u64).then_some(path)
    }

    /// Whether a program need not be fetched. (Whether it is still what it was is found out when it is read.)
    pub fn has(&self, source: &ModuleSource) -> bool {
        let place = match source {
            ModuleSource::File(_) => None,
            ModuleSource::Url { sha256, .. } => self.place_of(sha256),
            ModuleSource::Oci(reference) => self.layer_of(reference).and_then(|layer| self.place_of(&layer)),
        };
        place.is_some()
    }

    fn keep(&self, sha256: &str, bytes: &[u8]) {
        self.write(sha256, bytes);
    }

    /// Which layer a reference or a manifest's digest led to.
    fn layer_of(&self, reference: &str) -> Option<String> {
        let name = fs::read_to_string(self.folder.as_ref()?.join(note(reference))).ok()?;
        Some(name.trim().to_owned()).filter(|name| is_digest(name))
    }

    fn remember(&self, reference: &str, layer: &str) {
        self.write(&note(reference), layer.as_bytes());
    }

    /// Writes aside and renames. What cannot be kept is fetched again next time.
    fn write(&self, name: &str, bytes: &[u8]) {
        let Some(folder) = &self.folder else { return };
        let aside = folder.join(tidy::aside(name));
        let written = fs::create_dir_all(folder)
            .and_then(|()| fs::File::create(&aside))
            .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
            .and_then(|()| fs::rename(&aside, folder.join(name)));
        match written {
            Ok(()) => tidy::tidy(folder, self.most, &folder.join(name), |_| true),
            Err(error) => tracing::warn!(folder = %folder.display(), %error, "what was fetched could not be kept"),
        }
    }

    /// Credentials for a registry, from the file given, or else from docker's.
    pub(super) fn credentials(&self, registry: &str) -> RegistryAuth {
        let Some(path) = &self.auth else { return RegistryAuth::Anonymous };
        let config = fs::read(path).ok().and_then(|text| serde_json::from_slice::<Json>(&text).ok());
        let Some(config) = config else { return RegistryAuth::Anonymous };
        let names = [registry.to_owned(), format!("https://{registry}"), format!("https://{registry}/v1/")];
        let entry = names.iter().find_map(|name| config["auths"].get(name));
        entry.and_then(basic).unwrap_or(RegistryAuth::Anonymous)
    }

    fn is_plain(&self, registry: &str) -> bool {
        let host = registry.rsplit_once(':').map_or(registry, |(host, _)| host);
        matches!(host, "localhost" | "127.0.0.1" | "[::1]") || self.insecure.iter().any(|known| known == registry)
    }

    pub(super) fn client_config(&self, registry: &str) -> ClientConfig {
        ClientConfig {
            protocol: if self.is_plain(registry) { ClientProtocol::Http } else { ClientProtocol::Https },
            // An index for several platforms: wasm's if it says so, else the first.
            platform_resolver: Some(Box::new(|entries| {
                let wasm = entries
                    .iter()
                    .find(|entry| entry.platform.as_ref().is_some_and(|platform| platform.architecture.to_string() == "wasm"));
                wasm.or(entries.first()).map(|entry| entry.digest.clone())
            })),
            connect_timeout: Some(PATIENCE),
            read_timeout: Some(PATIENCE),
            ..ClientConfig::default()
        }
    }
}

/// Reads `REGISTRY/REPOSITORY:TAG` or `…@sha256:…`.
pub(super) fn reference(text: &str) -> Result<Reference, SourceError> {
    text.parse().map_err(|error| SourceError::Content {
        what: format!("`{text}` is no reference: {error}"),
        hint: "oci://REGISTRY/REPOSITORY:TAG or oci://REGISTRY/REPOSITORY@sha256:DIGEST",
    })
}

/// User and password of an entry of docker's configuration.
fn basic(entry: &Json) -> Option<RegistryAuth> {
    use base64::Engine as _;
    if let (Some(user), Some(password)) = (entry["username"].as_str(), entry["password"].as_str()) {
        return Some(RegistryAuth::Basic(user.to_owned(), password.to_owned()));
    }
    let decoded = base64::engine::general_purpose::STANDARD.decode(entry["auth"].as_str()?).ok()?;
    let text = String::from_utf8(decoded).ok()?;
    let (user, password) = text.split_once(':')?;
    Some(RegistryAuth::Basic(user.to_owned(), password.to_owned()))
}

/// Whether it is a SHA-256 in lower-case hexadecimal.
fn is_digest(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// The name of the note about a reference.
fn note(reference: &str) -> String {
    format!("{}.ref", digest(reference.as_bytes()))
}

/// The layer with the program: one that says it is wasm, else the last, which must be an archive.
fn choose(layers: &[OciDescriptor]) -> Result<OciDescriptor, SourceError> {
    let wasm = layers.iter().find(|layer| WASM_LAYERS.contains(&layer.media_type.as_str()));
    wasm.or(layers.last()).cloned().ok_or_else(|| SourceError::Content {
        what: "the artifact has no layers".to_owned(),
        hint: "push a layer of type application/wasm, a package.tar.gz, or an image with /app.wasm",
    })
}

/// An error with its causes.
pub fn chained(error: &dyn std::error::Error) -> String {
    let mut reason = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let more = cause.to_string();
        if !reason.contains(&more) {
            reason = format!("{reason}: {more}");
        }
        source = cause.source();
    }
    reason
}

pub(super) fn failed(error: &oci_client::errors::OciDistributionError) -> SourceError {
    let reason = chained(error);
    let hint = match () {
        () if reason.contains("uthoriz") || reason.contains("uthentic") => {
            "the registry wants credentials: registry_auth names a file like docker's config.json"
        }
        () if reason.contains("not found") || reason.contains("NotFound") || reason.contains("unknown") => {
            "is the name right, and was it pushed?"
        }
        () => "is the registry reachable from here? What was pulled before is used without it",
    };
    SourceError::Fetch { reason, hint }
}

fn too_large(largest: usize) -> SourceError {
    let what = format!("it is larger than {} MiB", largest >> 20);
    let hint = match largest {
        MAX_SIZE => "that is no program for Fastly Compute",
        _ => "programs of services that come and go may have an eighth of the process's memory (--total-memory)",
    };
    SourceError::Content { what, hint }
}

async fn fetch(url: &str, largest: usize, careful: Option<&Arc<Operators>>) -> Result<Vec<u8>, SourceError> {
    let failed = |error: reqwest::Error| SourceError::Fetch { reason: chained(&error), hint: "is the server reachable from here?" };
    let mut client = reqwest::Client::builder().connect_timeout(PATIENCE).read_timeout(PATIENCE);
    if let Some(operators) = careful {
        // Not from operators, whatever the name.
        let port = reqwest::Url::parse(url).ok().and_then(|url| url.port_or_known_default()).unwrap_or_default();
        client = client.dns_resolver(Elsewhere { operators: operators.clone(), port });
        // Nowhere but where it says: what is on this machine is not for everybody.
        client = if url.starts_with("https:") { client.https_only(true) } else { client.redirect(reqwest::redirect::Policy::none()) };
    }
    let client = client.build().map_err(failed)?;
    let mut response = client.get(url).send().await.and_then(reqwest::Response::error_for_status).map_err(failed)?;
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        if bytes.len() + chunk.len() > largest {
            return Err(too_large(largest));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// Runs `work` to its end on this thread.
pub(super) fn block_on<T: Send>(work: impl Future<Output = Result<T, SourceError>> + Send) -> Result<T, SourceError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| SourceError::File { error })?;
    // A thread that ends gives back all that it has freed; one that goes on, to wait for another program, keeps it.
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("fetching".to_owned()).spawn_scoped(scope, || {
            let done = runtime.block_on(work);
            // A name that is being looked up holds up nobody.
            runtime.shutdown_background();
            done
        });
        let lost = || SourceError::File { error: io::Error::other("fetching it broke off") };
        thread.map_err(|error| SourceError::File { error })?.join().map_err(|_| lost())?
    })
}

/// A module as it is, or the one in a package or an image's layer, of so many bytes at most.
pub fn unpack(bytes: Vec<u8>, largest: usize) -> Result<Vec<u8>, SourceError> {
    match find(&bytes, largest, |path| match path {
        path if path.ends_with("bin/main.wasm") => 4,
        path if path.ends_with("app.wasm") => 3,
        path if path.ends_with("plugin.wasm") => 2,
        path if path.ends_with(".wasm") => 1,
        _ => 0,
    })? {
        None if bytes.len() > largest => Err(too_large(largest)),
        None => Ok(bytes),
        Some(Some(module)) => Ok(module),
        Some(None) => Err(SourceError::Content {
            what: "an archive without a program".to_owned(),
            hint: "a package has NAME/bin/main.wasm, an image /app.wasm",
        }),
    }
}

/// The manifest in a package, if it is one and has one.
pub fn packed_manifest(bytes: &[u8]) -> Option<String> {
    let found = find(bytes, MAX_SIZE, |path| u8::from(path.ends_with("fastly.toml"))).ok()??;
    found.and_then(|text| String::from_utf8(text).ok())
}

/// The entry of an archive that `rank` ranks highest, if any is above 0; `None`: it is no archive.
fn find(bytes: &[u8], largest: usize, rank: impl Fn(&str) -> u8) -> Result<Option<Option<Vec<u8>>>, SourceError> {
    const TAR_MAGIC: std::ops::Range<usize> = 257..262;
    let broken = |error: io::Error| SourceError::Content {
        what: format!("an archive that is damaged: {error}"),
        hint: "the download or the build may have broken off; make it again",
    };
    let tar: Box<dyn io::Read> = if bytes.starts_with(&[0x1f, 0x8b]) {
        Box::new(GzDecoder::new(bytes))
    } else if bytes.get(TAR_MAGIC).is_some_and(|magic| magic == b"ustar") {
        Box::new(bytes)
    } else {
        return Ok(None);
    };
    // One byte more than there may be shows that there is more. It is never there as a whole: what is not wanted is passed over.
    let mut left = tar.take(largest as u64 + 1);
    let mut best: (u8, Option<Vec<u8>>) = (0, None);
    let mut read = || -> io::Result<()> {
        for entry in tar::Archive::new(&mut left).entries()? {
            let mut entry = entry?;
            let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let rank = rank(&path);
            if rank > best.0 && entry.header().entry_type().is_file() {
                // The one before is of no more use.
                best = (rank, None);
                let mut content = Vec::with_capacity(usize::try_from(entry.size()).unwrap_or(usize::MAX).min(largest));
                entry.read_to_end(&mut content)?;
                best = (rank, Some(content));
            }
        }
        Ok(())
    };
    let read = read();
    if left.limit() == 0 {
        return Err(too_large(largest));
    }
    read.map_err(broken)?;
    Ok(Some(best.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(entries: &[(&str, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
        for (path, content) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            header.set_cksum();
            builder.append_data(&mut header, path, content.as_bytes()).expect("appends");
        }
        builder.into_inner().expect("ends").finish().expect("ends")
    }

    #[test]
    fn packages() {
        let bytes = package(&[("shop/fastly.toml", "name = \"shop\""), ("shop/src/x.wasm", "other"), ("shop/bin/main.wasm", "module")]);
        assert_eq!(packed_manifest(&bytes).as_deref(), Some("name = \"shop\""));
        assert_eq!(unpack(bytes, MAX_SIZE).expect("unpacks"), b"module");
        assert_eq!(unpack(package(&[("app.wasm", "module")]), MAX_SIZE).expect("unpacks"), b"module");
        assert!(unpack(package(&[("readme", "x")]), MAX_SIZE).is_err_and(|error| error.to_string().contains("without a program")));
        assert_eq!(unpack(b"\0asm".to_vec(), MAX_SIZE).expect("is one"), b"\0asm");
        assert!(unpack(vec![0x1f, 0x8b, 8, 0], MAX_SIZE).is_err_and(|error| error.to_string().contains("damaged")));
    }

    #[test]
    fn credentials() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("config.json");
        let text = r#"{"auths": {"a.test": {"auth": "dXNlcjpwYTpzcw=="}, "https://b.test": {"username": "u", "password": "p"}}}"#;
        fs::write(&file, text).expect("a file");
        let store = Store::new(None, Some(file));
        let is = |registry: &str, user: &str, password: &str| matches!(store.credentials(registry), RegistryAuth::Basic(u, p) if u == user && p == password);
        assert!(is("a.test", "user", "pa:ss") && is("b.test", "u", "p"));
        assert!(matches!(store.credentials("c.test"), RegistryAuth::Anonymous));
    }

    #[test]
    fn what_is_kept_is_checked() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::new(Some(folder.path()), None);
        let name = digest(b"module");
        store.keep(&name, b"module");
        assert_eq!(store.kept(&name).as_deref(), Some(&b"module"[..]));
        fs::write(folder.path().join("fetched").join(&name), "other").expect("a file");
        assert_eq!(store.kept(&name), None);
        store.remember("r/a:1", &name);
        assert_eq!(store.layer_of("r/a:1"), Some(name.clone()));
        // Whatever a registry calls its layers.
        fs::write(folder.path().join("outside"), b"module").expect("a file");
        for bad in ["../outside", "/dev/zero", "", &name.to_uppercase(), &format!("./{name}")] {
            assert_eq!(store.kept(bad), None);
            store.remember("r/b:1", bad);
            assert_eq!(store.layer_of("r/b:1"), None);
        }
        // Nor what others may have, and this one may not.
        let small = Store { largest: 3, ..store.clone() };
        fs::write(folder.path().join("fetched").join(&name), "module").expect("a file");
        assert_eq!((store.kept(&name).is_some(), small.kept(&name)), (true, None));
        let url = ModuleSource::Url { url: "https://h.test/a".to_owned(), sha256: name };
        assert!(store.has(&url) && !small.has(&url));
    }

    #[test]
    fn what_is_too_large_is_refused_packed_or_not() {
        let large = "x".repeat(3 << 20);
        for bytes in [large.clone().into_bytes(), package(&[("app.wasm", &large)]), package(&[("other", &large), ("app.wasm", "module")])] {
            assert!(unpack(bytes, 2 << 20).is_err_and(|error| error.to_string().contains("larger than 2 MiB")));
        }
        // A header that says more than there is.
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        header.set_path("app.wasm").expect("a path");
        header.set_size(1 << 50);
        header.set_cksum();
        builder.append(&header, &b"module"[..]).expect("appends");
        assert!(unpack(builder.into_inner().expect("ends"), 2 << 20).is_err());
    }
}
