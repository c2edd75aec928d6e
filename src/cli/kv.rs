//! `sidelight kv`: KV stores by hand, through a running host's admin listener or directly.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use ::http::{HeaderMap, HeaderValue, header};
use bytes::Bytes;
use clap::{Args, Subcommand};

use super::args::{machine, redis};
use super::{end, print};
use crate::app::Exit;
use crate::app::kv::{self, Refused, Wish};
use crate::app::load::{Launch, ServicePlan};
use crate::config::ModuleSource;
use crate::config::settings::Settings;
use crate::services::Platform;
use crate::services::kv_store::{Error, Insert, MAX_PAGE, Page, Store};
use crate::telemetry::{Telemetry, logs};

/// Read and write KV stores. With --admin HOST:PORT of a running host, through it: stores in memory and on disk are its own
/// while it runs. Without, directly, as the configuration (-C, --data-dir, --redis) says where they are.
#[derive(Args, Debug)]
#[command(
    after_help = "Exit codes: 0 done, 1 the store or the host cannot be used, 2 it cannot be asked for, 3 bad manifest, 7 there is no such service, store or key."
)]
pub struct Kv {
    /// The service; may be left out if there is only one.
    #[arg(long, value_name = "NAME")]
    service: Option<String>,

    /// The operators' address of a running host.
    #[arg(long, value_name = "HOST:PORT", env = "SIDELIGHT_ADMIN")]
    admin: Option<String>,

    /// A file with its token, if it has one.
    #[arg(long, value_name = "FILE", env = "SIDELIGHT_ADMIN_TOKEN_FILE", requires = "admin")]
    admin_token_file: Option<PathBuf>,

    /// The manifest, or the host file; may be given twice, for both [default: ./sidelight.toml, or ./fastly.toml].
    #[arg(short = 'C', long = "config", value_name = "FILE", env = "SIDELIGHT_CONFIG", value_delimiter = ',')]
    config: Vec<PathBuf>,

    /// As in serve.
    #[arg(long, value_name = "FOLDER", env = "SIDELIGHT_DATA_DIR")]
    data_dir: Option<PathBuf>,

    /// As in serve.
    #[arg(long, value_name = "URL", env = "SIDELIGHT_REDIS", hide_env_values = true)]
    redis: Option<String>,

    /// What to do.
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand, Debug)]
enum What {
    /// Print a value.
    Get {
        /// The store.
        store: String,
        /// The key.
        key: String,
    },
    /// Write a value: the argument, or standard input.
    Put {
        /// The store.
        store: String,
        /// The key.
        key: String,
        /// The value; `-` or nothing: standard input.
        value: Option<String>,
        /// A file with the value.
        #[arg(long, value_name = "FILE", conflicts_with = "value")]
        file: Option<PathBuf>,
        /// What goes with it.
        #[arg(long)]
        metadata: Option<String>,
        /// After how long it is gone.
        #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
        ttl: Option<Duration>,
        /// What becomes of a value that is there: overwrite, add, append or prepend.
        #[arg(long)]
        mode: Option<String>,
    },
    /// Take a key out.
    Delete {
        /// The store.
        store: String,
        /// The key.
        key: String,
    },
    /// Print keys, a line for each.
    List {
        /// The store.
        store: String,
        /// What they begin with.
        #[arg(default_value = "")]
        prefix: String,
    },
    /// Write everything that a JSON file has, as a store's `file` in the manifest has it.
    Import {
        /// The store.
        store: String,
        /// The file.
        file: PathBuf,
    },
    /// Print everything as such a file; times to live are not in it.
    Export {
        /// The store.
        store: String,
    },
}

impl What {
    fn store(&self) -> &str {
        match self {
            Self::Get { store, .. }
            | Self::Put { store, .. }
            | Self::Delete { store, .. }
            | Self::List { store, .. }
            | Self::Import { store, .. }
            | Self::Export { store } => store,
        }
    }
}

/// Does it.
pub fn run(asked: &Kv) -> ExitCode {
    logs::start(0, logs::Format::Text, Some("warn"));
    drop(rustls::crypto::ring::default_provider().install_default());
    match work(asked) {
        Ok(()) => ExitCode::SUCCESS,
        Err(exit) => end(&exit),
    }
}

pub(super) fn internal(error: impl std::fmt::Display) -> Exit {
    Exit::Internal(error.to_string())
}

fn work(asked: &Kv) -> Result<(), Exit> {
    let platform = Platform::new(&Telemetry::new()).map_err(internal)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(internal)?;
    let store = match &asked.admin {
        Some(admin) => {
            let admin = admin.trim_start_matches("http://").trim_end_matches('/');
            let client = client(asked.admin_token_file.as_deref())?;
            let service = match &asked.service {
                Some(service) => service.clone(),
                None => runtime.block_on(only_service(&client, admin))?,
            };
            Place::Host { url: format!("http://{admin}/kv/{}/{}/keys", kv::encode(&service), kv::encode(asked.what.store())), client }
        }
        None => {
            let plan = asked.launch()?.plan().map_err(|unplanned| unplanned.error)?;
            let service = choose(&plan.services, asked.service.as_deref())?;
            Place::Direct(kv::open(&service.config, &platform, asked.what.store()).map_err(refused)?)
        }
    };
    runtime.block_on(act(&store, &asked.what))
}

impl Kv {
    /// What would be served, as far as it has stores.
    fn launch(&self) -> Result<Launch, Exit> {
        let mut documents = self.config.clone();
        if documents.is_empty() {
            let found = ["sidelight.toml", "fastly.toml"].iter().map(PathBuf::from).find(|file| file.exists());
            let Some(found) = found else {
                return Err(Exit::Usage("which store? -C FILE, or --admin HOST:PORT of a running host".to_owned()));
            };
            documents.push(found);
        }
        let settings = Settings { data_dir: self.data_dir.clone(), redis: redis(self.redis.as_deref())?, ..Settings::default() };
        let launch = Launch { settings, documents, ..machine() };
        // Services have programs, whether or not anybody looks at them; a single one takes any.
        let program = Some(ModuleSource::File(PathBuf::new()));
        Ok(if launch.plan().is_ok() { launch } else { Launch { program, ..launch } })
    }
}

/// What operators get for a wish that was not done.
fn refused(refused: Refused) -> Exit {
    match refused {
        Refused::NotFound(text) => Exit::NotFound(text),
        Refused::Store(error @ Error::Unavailable(_)) => Exit::Internal(error.to_string()),
        Refused::Bad(_) | Refused::Method(_) | Refused::Store(_) => Exit::Usage(refused.to_string()),
    }
}

fn choose<'p>(services: &'p [ServicePlan], name: Option<&str>) -> Result<&'p ServicePlan, Exit> {
    let names = || services.iter().map(|service| service.config.name.as_str()).collect::<Vec<_>>().join(", ");
    match (name, services) {
        (None, [only]) => Ok(only),
        (None, _) => Err(Exit::Usage(format!("which service? --service NAME: {}", names()))),
        (Some(name), _) => {
            let found = services.iter().find(|service| service.config.name == name);
            found.ok_or_else(|| Exit::NotFound(format!("there is no service `{name}`; there is: {}", names())))
        }
    }
}

/// The cause of an error that is behind all others.
fn behind(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

/// Who asks a running host, with its token if it has one.
pub(super) fn client(token: Option<&Path>) -> Result<reqwest::Client, Exit> {
    let mut headers = HeaderMap::new();
    if let Some(token) = super::args::token(token)? {
        let value = [b"Bearer ", token.as_ref()].concat();
        let mut value = HeaderValue::from_bytes(&value).map_err(|_| Exit::Usage("the token cannot be in a header field".to_owned()))?;
        value.set_sensitive(true);
        headers.insert(header::AUTHORIZATION, value);
    }
    reqwest::Client::builder().default_headers(headers).build().map_err(internal)
}

pub(super) async fn only_service(client: &reqwest::Client, admin: &str) -> Result<String, Exit> {
    let fail = |error: reqwest::Error| Exit::Internal(format!("the host at {admin}: {}", behind(&error)));
    let answer = client.get(format!("http://{admin}/status")).send().await.map_err(fail)?;
    let (status, text) = (answer.status(), answer.text().await.map_err(fail)?);
    if !status.is_success() {
        return Err(Exit::Internal(format!(
            "the host at {admin} answered {}: {}\n  hint: --admin-token-file",
            status.as_u16(),
            text.trim_end()
        )));
    }
    let status: serde_json::Value = serde_json::from_str(&text).map_err(internal)?;
    let names: Vec<&str> = status["services"].as_array().into_iter().flatten().filter_map(|service| service["name"].as_str()).collect();
    match names.as_slice() {
        [only] => Ok((*only).to_owned()),
        _ => Err(Exit::Usage(format!("which service? --service NAME: {}", names.join(", ")))),
    }
}

/// Where a store is.
enum Place {
    Direct(Store),
    Host { url: String, client: reqwest::Client },
}

impl Place {
    /// A value, or the text of a list.
    async fn get(&self, key: &str) -> Result<Bytes, Exit> {
        match self {
            Self::Direct(store) => match kv::fulfil(store, Wish::Get(key.to_owned())).await.map_err(refused)? {
                kv::Given::Entry(entry) => Ok(entry.value),
                kv::Given::Done | kv::Given::Keys(_) => Ok(Bytes::new()),
            },
            Self::Host { url, client } => answer(client.get(format!("{url}/{}", kv::encode(key)))).await,
        }
    }

    async fn put(&self, key: &str, value: Bytes, how: Insert, mode: Option<&str>) -> Result<(), Exit> {
        match self {
            Self::Direct(store) => kv::fulfil(store, Wish::Put(key.to_owned(), value, how)).await.map(drop).map_err(refused),
            Self::Host { url, client } => {
                let url = format!("{url}/{}?mode={}", kv::encode(key), mode.unwrap_or("overwrite"));
                let mut request = client.put(url).body(value);
                if !how.metadata.is_empty() {
                    request = request.header("metadata", how.metadata.to_vec());
                }
                if let Some(ttl) = how.ttl {
                    request = request.header("time-to-live-sec", ttl.as_secs());
                }
                answer(request).await.map(drop)
            }
        }
    }

    async fn delete(&self, key: &str) -> Result<(), Exit> {
        match self {
            Self::Direct(store) => kv::fulfil(store, Wish::Delete(key.to_owned())).await.map(drop).map_err(refused),
            Self::Host { url, client } => answer(client.delete(format!("{url}/{}", kv::encode(key)))).await.map(drop),
        }
    }

    async fn page(&self, prefix: &str, after: Option<&str>) -> Result<(Vec<String>, Option<String>), Exit> {
        let page = Page { prefix: prefix.to_owned(), after: after.map(str::to_owned), limit: MAX_PAGE };
        let json = match self {
            Self::Direct(store) => match kv::fulfil(store, Wish::List(page)).await.map_err(refused)? {
                kv::Given::Keys(json) => json,
                kv::Given::Entry(_) | kv::Given::Done => serde_json::Value::Null,
            },
            Self::Host { url, client } => {
                let cursor = after.map(|after| format!("&cursor={}", kv::encode(after))).unwrap_or_default();
                let text = answer(client.get(format!("{url}?prefix={}{cursor}", kv::encode(prefix)))).await?;
                serde_json::from_slice(&text).map_err(internal)?
            }
        };
        let keys = json["data"].as_array().into_iter().flatten().filter_map(|key| key.as_str().map(str::to_owned)).collect();
        Ok((keys, json["meta"]["next_cursor"].as_str().map(str::to_owned)))
    }
}

pub(super) async fn answer(request: reqwest::RequestBuilder) -> Result<Bytes, Exit> {
    let response = request.send().await.map_err(|error| Exit::Internal(format!("the host: {}", behind(&error))))?;
    let status = response.status();
    let body = response.bytes().await.map_err(internal)?;
    if status.is_success() {
        return Ok(body);
    }
    let text = String::from_utf8_lossy(&body).trim_end().to_owned();
    Err(match status.as_u16() {
        404 => Exit::NotFound(text),
        400..500 => Exit::Usage(text),
        _ => Exit::Internal(text),
    })
}

async fn act(place: &Place, what: &What) -> Result<(), Exit> {
    if let What::Get { key, .. } | What::Put { key, .. } | What::Delete { key, .. } = what {
        // URLs have a meaning for some of them.
        kv::check(key).map_err(refused)?;
    }
    match what {
        What::Get { key, .. } => {
            let value = place.get(key).await?;
            // A reader that has gone is no failure.
            drop(std::io::stdout().write_all(&value));
            Ok(())
        }
        What::Put { key, value, file, metadata, ttl, mode, .. } => {
            let value = match (value.as_deref(), file) {
                (None | Some("-"), None) => {
                    let mut all = Vec::new();
                    std::io::stdin().read_to_end(&mut all).map_err(internal)?;
                    all
                }
                (_, Some(file)) => std::fs::read(file).map_err(|error| Exit::Usage(format!("{}: {error}", file.display())))?,
                (Some(text), None) => text.as_bytes().to_vec(),
            };
            let how = Insert {
                mode: kv::mode(mode.as_deref()).map_err(refused)?,
                metadata: Bytes::copy_from_slice(metadata.as_deref().unwrap_or_default().as_bytes()),
                ttl: *ttl,
                ..Insert::default()
            };
            place.put(key, value.into(), how, mode.as_deref()).await
        }
        What::Delete { key, .. } => place.delete(key).await,
        What::List { prefix, .. } => {
            let mut after = None;
            loop {
                let (keys, next) = place.page(prefix, after.as_deref()).await?;
                print(&keys.iter().map(|key| format!("{key}\n")).collect::<String>());
                match next {
                    Some(next) => after = Some(next),
                    None => return Ok(()),
                }
            }
        }
        What::Import { file, .. } => {
            let entries = match place {
                Place::Direct(store) => kv::import(store, file).await.map_err(refused)?,
                Place::Host { .. } => {
                    let entries = kv::entries(file).map_err(refused)?;
                    for entry in &entries {
                        let how = Insert { metadata: entry.metadata.clone(), ..Insert::default() };
                        place.put(&entry.key, entry.value.clone(), how, None).await?;
                    }
                    entries.len()
                }
            };
            print(&format!("{entries} keys written\n"));
            Ok(())
        }
        What::Export { .. } => {
            let all = match place {
                Place::Direct(store) => kv::export(store).await.map_err(refused)?,
                Place::Host { url, client } => {
                    let text = answer(client.get(format!("{url}?export=1"))).await?;
                    serde_json::from_slice(&text).map_err(internal)?
                }
            };
            print(&format!("{all:#}\n"));
            Ok(())
        }
    }
}
