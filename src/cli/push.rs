//! `sidelight push`: publishes a program to an OCI registry.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::args;
use super::{end, print};
use crate::app::Exit;
use crate::runtime::LoadError;
use crate::runtime::publish::Form;
use crate::runtime::source::Store;
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

fn work(asked: &Push) -> Result<String, Exit> {
    let reference = asked.reference.strip_prefix("oci://").unwrap_or(&asked.reference);
    let auth = asked.registry_auth.clone().or_else(|| args::machine().machine.registry_auth);
    let store = Store::with_registries(auth, asked.insecure_registry.clone());
    let form = if asked.image { Form::Image } else { Form::Artifact };
    let digest =
        store.push(&asked.file, reference, form).map_err(|error| LoadError::Source { path: PathBuf::from(&asked.reference), error })?;
    // Behind the last slash: a registry has a port.
    let name = match reference.rsplit_once('/') {
        Some((before, last)) => format!("{before}/{}", last.split(':').next().unwrap_or(last)),
        None => reference.to_owned(),
    };
    Ok(format!("oci://{name}@{digest}"))
}
