//! `sidelight probe`: whether addresses answer. For images without a shell.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;

use super::kv::internal;
use super::{end, print};
use crate::app::Exit;
use crate::runtime::source::chained;
use crate::telemetry::{clock, logs};

/// How long to wait before an address is asked again.
const AGAIN: Duration = Duration::from_millis(500);

/// Time for one answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Ask addresses until each answers as it should, or the time is over; the chart's `helm test` runs this.
#[derive(Args, Debug)]
#[command(after_help = "Exit codes: 0 all of them do, 1 one of them does not, 2 bad arguments.")]
pub struct Probe {
    /// Addresses: http://HOST:PORT/PATH.
    #[arg(value_name = "URL", required = true)]
    urls: Vec<String>,

    /// The Host field of the requests [default: the address's].
    #[arg(long, value_name = "HOST")]
    host: Option<String>,

    /// Statuses that are right, with commas: 200, 2xx, lt500.
    #[arg(long, value_name = "STATUS", value_delimiter = ',', default_value = "2xx")]
    expect_status: Vec<Expected>,

    /// For how long.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = "30s")]
    timeout: Duration,
}

/// Statuses that are right: from, and below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Expected(u16, u16);

impl std::str::FromStr for Expected {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let hundreds = text.strip_suffix("xx").and_then(|first| first.parse::<u16>().ok()).filter(|first| (1..=5).contains(first));
        let below = text.strip_prefix("lt").and_then(|below| below.parse::<u16>().ok());
        match (hundreds, below, text.parse::<u16>()) {
            (Some(first), ..) => Ok(Self(first * 100, first * 100 + 100)),
            (_, Some(below), _) => Ok(Self(100, below)),
            (.., Ok(status)) if (100..600).contains(&status) => Ok(Self(status, status + 1)),
            _ => Err(format!("`{text}` is no status; for example 200, 2xx or lt500")),
        }
    }
}

/// Does it.
pub fn run(asked: &Probe) -> ExitCode {
    logs::start(0, logs::Format::Text, Some("warn"));
    drop(rustls::crypto::ring::default_provider().install_default());
    match work(asked) {
        Ok(()) => ExitCode::SUCCESS,
        Err(exit) => end(&exit),
    }
}

fn work(asked: &Probe) -> Result<(), Exit> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(internal)?;
    runtime.block_on(async {
        let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().map_err(internal)?;
        let deadline = clock::now() + asked.timeout;
        for url in &asked.urls {
            until(&client, asked, url, deadline).await?;
        }
        Ok(())
    })
}

async fn until(client: &reqwest::Client, asked: &Probe, url: &str, deadline: Instant) -> Result<(), Exit> {
    loop {
        let left = deadline.saturating_duration_since(clock::now()).max(AGAIN);
        let request = client.get(url).timeout(left.min(PATIENCE));
        let request = match &asked.host {
            Some(host) => request.header("host", host),
            None => request,
        };
        let found = match request.send().await {
            Ok(response) => {
                let status = response.status().as_u16();
                if asked.expect_status.iter().any(|right| (right.0..right.1).contains(&status)) {
                    print(&format!("{url}: {status}\n"));
                    return Ok(());
                }
                format!("it answers {status}")
            }
            Err(error) if error.is_builder() => return Err(Exit::Usage(format!("{url}: {error}"))),
            Err(error) => chained(&error),
        };
        if clock::now() + AGAIN > deadline {
            return Err(Exit::Internal(format!("{url}: {found}")));
        }
        tokio::time::sleep(AGAIN).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses() {
        assert_eq!("204".parse(), Ok(Expected(204, 205)));
        assert_eq!("2xx".parse(), Ok(Expected(200, 300)));
        assert_eq!("lt500".parse(), Ok(Expected(100, 500)));
        for bad in ["", "9xx", "ok", "99", "lt"] {
            assert!(bad.parse::<Expected>().is_err(), "{bad}");
        }
    }
}
