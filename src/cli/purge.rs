//! `sidelight purge`: purges by hand, through a running host's admin listener.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::kv::{answer, client, internal, only_service};
use super::{end, print};
use crate::app::{Exit, kv};
use crate::services::cache::key::is_surrogate_key;
use crate::telemetry::logs;

/// Forget cached objects, here and on all replicas that share a Redis with the host.
#[derive(Args, Debug)]
#[command(
    after_help = "Exit codes: 0 done, 1 the host cannot be reached or other replicas have not heard of it, 2 it cannot be asked for, 7 there is no such service."
)]
pub struct Purge {
    /// The operators' address of a running host.
    #[arg(long, value_name = "HOST:PORT", env = "SIDELIGHT_ADMIN")]
    admin: String,

    /// A file with its token, if it has one.
    #[arg(long, value_name = "FILE", env = "SIDELIGHT_ADMIN_TOKEN_FILE")]
    admin_token_file: Option<PathBuf>,

    /// The service, by name or id; may be left out if there is only one.
    #[arg(long, value_name = "NAME", conflicts_with = "url")]
    service: Option<String>,

    /// Make objects stale instead of forgetting them.
    #[arg(long, conflicts_with = "all")]
    soft: bool,

    /// Everything of the service.
    #[arg(long, conflicts_with_all = ["keys", "url"])]
    all: bool,

    /// An address, of all services: HOST/PATH, with or without a scheme.
    #[arg(long, value_name = "URL", conflicts_with = "keys")]
    url: Option<String>,

    /// Surrogate keys.
    #[arg(value_name = "KEY", required_unless_present_any = ["all", "url"])]
    keys: Vec<String>,
}

/// Does it.
pub fn run(asked: &Purge) -> ExitCode {
    logs::start(0, logs::Format::Text, Some("warn"));
    drop(rustls::crypto::ring::default_provider().install_default());
    match work(asked) {
        Ok(()) => ExitCode::SUCCESS,
        Err(exit) => end(&exit),
    }
}

fn work(asked: &Purge) -> Result<(), Exit> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(internal)?;
    runtime.block_on(async {
        let admin = asked.admin.trim_start_matches("http://").trim_end_matches('/');
        let client = client(asked.admin_token_file.as_deref())?;
        let mut urls = Vec::new();
        if let Some(key) = asked.keys.iter().find(|key| !is_surrogate_key(key.as_bytes())) {
            return Err(Exit::Usage(format!("`{key}` is no surrogate key: 1 to 1024 printable characters of ASCII, none of them a space")));
        }
        if let Some(url) = &asked.url {
            urls.push(format!("http://{admin}/purge?url={}", kv::encode(url)));
        } else {
            let service = match &asked.service {
                Some(service) => service.clone(),
                None => only_service(&client, admin).await?,
            };
            let base = format!("http://{admin}/service/{}", kv::encode(&service));
            if asked.all {
                urls.push(format!("{base}/purge_all"));
            }
            urls.extend(asked.keys.iter().map(|key| format!("{base}/purge/{}", kv::encode(key))));
        }
        for url in urls {
            let mut request = client.post(url);
            if asked.soft {
                request = request.header("fastly-soft-purge", "1");
            }
            let answer = answer(request).await?;
            print(&format!("{}\n", String::from_utf8_lossy(&answer).trim_end()));
        }
        Ok(())
    })
}
