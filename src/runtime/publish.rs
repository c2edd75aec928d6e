//! Publishing a program to an OCI registry: as an artifact (CNCF "Wasm OCI Artifact layout"), or as an image `FROM scratch` with
//! `/app.wasm`, which Kubernetes can mount as an image volume.
//!
//! The same program gives the same digests: nothing says when it was published.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use oci_client::client::{Client, Config, ImageLayer};
use oci_client::config::{Architecture, Os};
use oci_client::manifest::{
    IMAGE_CONFIG_MEDIA_TYPE, IMAGE_LAYER_GZIP_MEDIA_TYPE, ImageIndexEntry, OCI_IMAGE_INDEX_MEDIA_TYPE, OCI_IMAGE_MEDIA_TYPE, OciImageIndex,
    OciImageManifest, OciManifest, Platform, WASM_CONFIG_MEDIA_TYPE, WASM_LAYER_MEDIA_TYPE,
};
use oci_client::secrets::RegistryAuth;
use oci_client::{Reference, RegistryOperation};
use serde_json::{Value as Json, json};

use super::code_cache::digest;
use super::source::{self, SourceError, Store};

/// What a program is published as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// An artifact whose layer is the module.
    Artifact,
    /// An image for every platform that mounts it.
    Image,
}

/// Platforms of images: a node takes those of its own only, though nothing in it is native.
const PLATFORMS: [(&str, Architecture); 2] = [("amd64", Architecture::Amd64), ("arm64", Architecture::ARM64)];

impl Store {
    /// Pushes the program in a file (a module, or a package) to `reference`, `REGISTRY/REPOSITORY:TAG`; gives the digest that stands
    /// for it there. Blocks.
    pub fn push(&self, file: &Path, reference: &str, form: Form) -> Result<String, SourceError> {
        let reference = source::reference(reference)?;
        if reference.digest().is_some() {
            let what = format!("`{reference}` names a digest, which is the program's to decide");
            return Err(SourceError::Content { what, hint: "oci://REGISTRY/REPOSITORY:TAG" });
        }
        let wasm = source::unpack(std::fs::read(file).map_err(|error| SourceError::File { error })?, source::MAX_SIZE)?;
        if !wasm.starts_with(b"\0asm") {
            let what = format!("{} is no WebAssembly module", file.display());
            return Err(SourceError::Content { what, hint: "a .wasm file, or a package as `fastly compute build` makes it" });
        }
        let auth = self.credentials(reference.registry());
        let client = Client::new(self.client_config(reference.registry()));
        source::block_on(async {
            client.auth(&reference, &auth, RegistryOperation::Push).await.map_err(|error| source::failed(&error))?;
            match form {
                Form::Artifact => artifact(&client, &reference, &auth, wasm).await,
                Form::Image => image(&client, &reference, &auth, &wasm).await,
            }
        })
    }
}

async fn artifact(client: &Client, reference: &Reference, auth: &RegistryAuth, wasm: Vec<u8>) -> Result<String, SourceError> {
    let config = json!({
        "architecture": "wasm",
        "created": "1970-01-01T00:00:00Z",
        "layerDigests": [format!("sha256:{}", digest(&wasm))],
        "os": "wasip1",
    });
    let layer = ImageLayer::new(wasm, WASM_LAYER_MEDIA_TYPE.to_owned(), None);
    push(client, reference, auth, layer, &config, WASM_CONFIG_MEDIA_TYPE).await.map(|pushed| pushed.0)
}

async fn image(client: &Client, reference: &Reference, auth: &RegistryAuth, wasm: &[u8]) -> Result<String, SourceError> {
    let tar = tar(wasm).map_err(|error| SourceError::File { error })?;
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    let compressed = gzip.write_all(&tar).and_then(|()| gzip.finish()).map_err(|error| SourceError::File { error })?;
    let mut manifests = Vec::new();
    for (name, architecture) in PLATFORMS {
        let config = json!({
            "architecture": name,
            "config": {},
            "os": "linux",
            "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", digest(&tar))] },
        });
        let layer = ImageLayer::new(compressed.clone(), IMAGE_LAYER_GZIP_MEDIA_TYPE.to_owned(), None);
        // Reached through the index only.
        let platform_tag = reference.tag().map(|tag| format!("{tag}-{name}"));
        let tag = platform_tag.unwrap_or_else(|| name.to_owned());
        let own = Reference::with_tag(reference.registry().to_owned(), reference.repository().to_owned(), tag);
        let (digest, size) = push(client, &own, auth, layer, &config, IMAGE_CONFIG_MEDIA_TYPE).await?;
        let platform = Platform { architecture, os: Os::Linux, os_version: None, os_features: None, variant: None, features: None };
        manifests.push(ImageIndexEntry {
            media_type: OCI_IMAGE_MEDIA_TYPE.to_owned(),
            digest,
            size,
            platform: Some(platform),
            artifact_type: None,
            annotations: None,
        });
    }
    let index = OciImageIndex {
        schema_version: 2,
        media_type: Some(OCI_IMAGE_INDEX_MEDIA_TYPE.to_owned()),
        manifests,
        artifact_type: None,
        annotations: None,
    };
    let failed = |error| source::failed(&error);
    client.push_manifest(reference, &OciManifest::ImageIndex(index)).await.map_err(failed)?;
    client.fetch_manifest_digest(reference, auth).await.map_err(failed)
}

/// One manifest with one layer: its digest and its size.
async fn push(
    client: &Client,
    reference: &Reference,
    auth: &RegistryAuth,
    layer: ImageLayer,
    config: &Json,
    config_type: &str,
) -> Result<(String, i64), SourceError> {
    let failed = |error| source::failed(&error);
    let config = Config::new(config.to_string().into_bytes(), config_type.to_owned(), None);
    let layers = [layer];
    let manifest = OciImageManifest::build(&layers, &config, None::<BTreeMap<String, String>>);
    client.push(reference, &layers, config, auth, Some(manifest)).await.map_err(failed)?;
    let (stored, digest) = client.pull_manifest_raw(reference, auth, &[OCI_IMAGE_MEDIA_TYPE]).await.map_err(failed)?;
    Ok((digest, i64::try_from(stored.len()).unwrap_or(i64::MAX)))
}

/// An archive with the program and nothing else.
fn tar(wasm: &[u8]) -> io::Result<Vec<u8>> {
    let mut header = tar::Header::new_ustar();
    header.set_size(wasm.len() as u64);
    header.set_mode(0o444);
    header.set_entry_type(tar::EntryType::Regular);
    header.set_cksum();
    let mut archive = tar::Builder::new(Vec::new());
    archive.append_data(&mut header, "app.wasm", wasm)?;
    archive.into_inner()
}
