//! `sidelight expire`: removes a preview environment whose time is over.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::kv::internal;
use super::{end, print};
use crate::app::Exit;
use crate::app::expire::{self, Fate, Preview};
use crate::telemetry::logs;

/// What is removed.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum What {
    /// The release's objects, as helm uninstall would.
    Release,
    /// The namespace, with everything in it.
    Namespace,
}

/// Remove a preview environment (a release of the Helm chart) whose time is over; the chart's mode preview runs this.
#[derive(Args, Debug)]
#[command(after_help = "Exit codes: 0 removed, or its time is not over, 1 the cluster does not let us, 2 bad arguments.")]
pub struct Expire {
    /// Its namespace.
    #[arg(long, value_name = "NAMESPACE", env = "SIDELIGHT_NAMESPACE")]
    namespace: String,

    /// The Helm release.
    #[arg(long, value_name = "RELEASE")]
    release: String,

    /// The name of the CronJob that runs this, and of its permissions [default: that of the release's CronJob].
    #[arg(long, value_name = "NAME")]
    name: Option<String>,

    /// How long it lives after it was deployed last.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    ttl: Duration,

    /// What is removed then.
    #[arg(long, value_enum, default_value = "release")]
    delete: What,
}

/// Does it.
pub fn run(asked: &Expire) -> ExitCode {
    logs::start(0, logs::Format::Text, Some("warn"));
    drop(rustls::crypto::ring::default_provider().install_default());
    match work(asked) {
        Ok(told) => {
            print(&told);
            ExitCode::SUCCESS
        }
        Err(exit) => end(&exit),
    }
}

fn work(asked: &Expire) -> Result<String, Exit> {
    let preview = Preview {
        namespace: asked.namespace.clone(),
        release: asked.release.clone(),
        name: asked.name.clone(),
        ttl: asked.ttl,
        what: match asked.delete {
            What::Release => expire::What::Release,
            What::Namespace => expire::What::Namespace,
        },
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(internal)?;
    let (namespace, release) = (&asked.namespace, &asked.release);
    Ok(match runtime.block_on(expire::run(&preview))? {
        Fate::Lives(until) => format!("{release} in {namespace} lives until {}\n", humantime::format_rfc3339_seconds(until)),
        Fate::Removed(_) if matches!(asked.delete, What::Namespace) => {
            format!("namespace {namespace} is removed: the time of {release} is over\n")
        }
        Fate::Removed(count) => format!("{release} in {namespace} is removed: its time is over ({count} objects)\n"),
        Fate::Unknown => format!("there is no release {release} in {namespace}\n"),
    })
}
