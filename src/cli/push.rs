//! `sidelight push`: publishes a program to an OCI registry.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::args;
use super::{end, print};
use crate::app::Exit;
use crate::runtime::publish::Form;
use crate::runtime::source::{SourceError, Store};
use crate::telemetry::logs;

/// Publish a program to an OCI registry, where hosts, and image volumes of Kubernetes, find it.
#[derive(Args, Debug)]
#[command(after_help = "Exit codes: 0 done, 2 bad arguments, 4 there is no such program, or the registry does not take it.")]
pub struct Push {
    /// The program: a module, or a package as `fastly compute build` makes it.
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// Where to: oci://REGISTRY/REPOSITORY:TAG.
    #[arg(value_name = "REFERENCE")]
    reference: String,

    /// As an image with /app.wasm, for image volumes, in place of a Wasm artifact.
    #[arg(long)]
    image: bool,

    /// Credentials, a file like docker's config.json [default: docker's].
    #[arg(long, value_name = "FILE", env = "SIDELIGHT_REGISTRY_AUTH")]
    registry_auth: Option<PathBuf>,

    /// Registries that are spoken to without TLS, HOST:PORT with commas, beside those on this machine.
    #[arg(long, value_name = "REGISTRIES", env = "SIDELIGHT_INSECURE_REGISTRIES", value_delimiter = ',')]
    insecure_registry: Vec<String>,
}

/// Does it, and prints the reference by digest.
pub fn run(asked: &Push) -> ExitCode {
    logs::start(0, logs::Format::Text, Some("warn"));
    drop(rustls::crypto::ring::default_provider().install_default());
    match work(asked) {
        Ok(pushed) => {
            print(&format!("{pushed}\n"));
            ExitCode::SUCCESS
        }
        Err(exit) => end(&exit),
    }
}

/// What went wrong, for whoever publishes.
fn told(asked: &Push, error: SourceError) -> String {
    match error {
        SourceError::File { error } => format!("{}: {error}", asked.file.display()),
        error @ (SourceError::Content { .. } | SourceError::Late(_)) => error.to_string(),
        SourceError::Fetch { reason, .. } => {
            let hint = if reason.contains("uthoriz") || reason.contains("uthentic") {
                "--registry-auth FILE (like docker's config.json, with the credentials themselves), or docker login"
            } else {
                "is the registry reachable from here? Without TLS: --insecure-registry; with an authority of your own: SSL_CERT_FILE"
            };
            format!("{}: it cannot be pushed: {reason}\n  hint: {hint}", asked.reference)
        }
    }
}

fn work(asked: &Push) -> Result<String, Exit> {
    let usage = |what: &str| Exit::Usage(format!("`{}`: {what}; expected oci://REGISTRY/REPOSITORY:TAG", asked.reference));
    let reference = asked.reference.strip_prefix("oci://").ok_or_else(|| usage("this is no reference of ours"))?;
    let (registry, name) = reference.split_once('/').ok_or_else(|| usage("there is no registry in it"))?;
    if !registry.contains(['.', ':']) && registry != "localhost" {
        return Err(usage("this is no registry's name"));
    }
    if !name.contains([':', '@']) {
        return Err(usage("there is no tag in it"));
    }
    if let Some(file) = &asked.registry_auth {
        let read = std::fs::read(file).map_err(|error| error.to_string());
        let read = read.and_then(|text| serde_json::from_slice::<serde_json::Value>(&text).map_err(|error| error.to_string()));
        read.map_err(|error| Exit::Usage(format!("--registry-auth {}: {error}", file.display())))?;
    }
    let auth = asked.registry_auth.clone().or_else(|| args::machine().machine.registry_auth);
    let store = Store::with_registries(auth, asked.insecure_registry.clone());
    let form = if asked.image { Form::Image } else { Form::Artifact };
    let pushed = store.push(&asked.file, reference, form);
    let digest = pushed.map_err(|error| Exit::Services { code: 4, text: told(asked, error) })?;
    // Behind the last slash: a registry has a port.
    let name = match reference.rsplit_once('/') {
        Some((before, last)) => format!("{before}/{}", last.split(':').next().unwrap_or(last)),
        None => reference.to_owned(),
    };
    Ok(format!("oci://{name}@{digest}"))
}
