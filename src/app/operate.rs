//! What operators may ask for, and get.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ::http::StatusCode;
use async_trait::async_trait;
use bytes::Bytes;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

use super::reload::Reloader;
use super::verdict::{self, Outcome as Attempt};
use super::watch::Asked;
use super::{cache, faults, kv, watch};
use crate::config::{HostConfig, files};
use crate::runtime::{Runtime, Snapshot};
use crate::server::admin::{AdminRequest, AdminResponse, Operate};
use crate::services::Platform;
use crate::services::kv_store::Error as StoreError;
use crate::telemetry::secrets;
use crate::telemetry::trace::head::redacted;

/// A document that was read, and what it is now.
fn document(path: &Path) -> Value {
    let digest = files::read(path, files::LARGEST)
        .map(|content| Sha256::digest(&content).iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    json!({ "path": path.display().to_string(), "sha256": digest.ok() })
}

/// Times as people write them: serde makes tables of them.
fn readable(value: &mut Value) {
    match value {
        Value::Object(table) => {
            if let (2, Some(seconds), Some(nanos)) =
                (table.len(), table.get("secs").and_then(Value::as_u64), table.get("nanos").and_then(Value::as_u64))
            {
                let time = Duration::new(seconds, u32::try_from(nanos).unwrap_or_default());
                *value = humantime::format_duration(time).to_string().into();
                return;
            }
            table.values_mut().for_each(readable);
        }
        Value::Array(list) => list.iter_mut().for_each(readable),
        Value::String(text) => {
            if let Some((path, query)) = text.split_once('?') {
                *text = format!("{path}?{}", redacted(query));
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// After this time it is ready, whatever there is to be got ready still: well within the time that Kubernetes gives a start
/// (the chart's startupProbe).
const PATIENCE: Duration = Duration::from_secs(60);

/// What operators may ask for.
pub(super) struct Control {
    pub(super) reloader: Arc<Reloader>,
    pub(super) platform: Arc<Platform>,
    pub(super) runtime: Arc<Runtime>,
    pub(super) host: HostConfig,
    pub(super) ask: mpsc::Sender<Asked>,
    /// Whether everything that is to be served at the start is known.
    pub(super) known: Arc<AtomicBool>,
    /// Whether it was served, once, but for what takes long.
    pub(super) complete: AtomicBool,
}

#[async_trait]
impl Operate for Control {
    fn status(&self) -> String {
        serde_json::to_string_pretty(&self.reloader.status()).unwrap_or_default()
    }

    fn begins(&self) -> Option<String> {
        if self.complete.load(Ordering::Relaxed) {
            return None;
        }
        if !self.known.load(Ordering::Relaxed) {
            return Some("the cluster's services are not known yet".to_owned());
        }
        let pending = self.reloader.pending();
        if pending.is_empty() || self.reloader.age() > PATIENCE {
            self.complete.store(true, Ordering::Relaxed);
            return None;
        }
        Some(format!("programs are got ready: {}", pending.join(", ")))
    }

    fn degraded(&self) -> Vec<String> {
        verdict::away(&self.platform, &self.runtime)
    }

    fn settings(&self) -> Value {
        let of_service = |service: &Arc<Snapshot>| {
            let mut settings = serde_json::to_value(&*service.config).unwrap_or_default();
            settings["generation"] = service.generation.into();
            settings["digest"] = service.guest.digest().into();
            settings
        };
        let services: Vec<Value> = self.reloader.current().routes().services().iter().map(of_service).collect();
        let documents: Vec<Value> = self.reloader.documents().iter().map(|path| document(path)).collect();
        let mut all = json!({ "documents": documents, "host": self.host, "services": services });
        readable(&mut all);
        all
    }

    fn services(&self) -> Value {
        let routes = self.reloader.current().routes();
        let status = self.reloader.status();
        let services = status.services.iter().map(|service| {
            let snapshot = routes.services().iter().rfind(|found| found.config.name == service.name);
            let backends =
                snapshot.map(|snapshot| snapshot.services.backends.all().iter().map(|backend| backend.shown()).collect::<Vec<_>>());
            json!({
                "name": service.name,
                "generation": service.generation,
                "module": service.module,
                "digest": service.digest,
                "hosts": service.hosts,
                "paths": service.paths,
                "trial": service.trial.is_some(),
                "backends": backends.unwrap_or_default(),
            })
        });
        let mut all = json!({ "services": services.collect::<Vec<_>>(), "reloads": status.reloads });
        secrets::hide(&mut all);
        all
    }

    fn redactor(&self) -> Box<dyn Fn(&str) -> String + Send + '_> {
        Box::new(|text| secrets::hidden(text).into_owned())
    }

    async fn profile(&self, service: &str, seconds: u64) -> Result<Vec<u8>, (StatusCode, String)> {
        let routes = self.reloader.current().routes();
        let all = routes.services();
        let found = match all {
            [only] if service.is_empty() => Some(only.clone()),
            all => all.iter().rfind(|found| found.config.name == service).cloned(),
        };
        let Some(found) = found else {
            let names: Vec<&str> = all.iter().map(|service| service.config.name.as_str()).collect();
            return Err((StatusCode::NOT_FOUND, format!("there is no service `{service}`; there is: {}\n", names.join(", "))));
        };
        match self.runtime.profile(&found.guest, Duration::from_secs(seconds)).await {
            None => Err((StatusCode::CONFLICT, "a profile is being recorded; wait until it is done\n".to_owned())),
            Some(Ok(profile)) => Ok(profile),
            Some(Err(error)) => Err((StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}\n"))),
        }
    }

    fn quit(&self) {
        tracing::info!("an operator ends this process");
        if let Err(error) = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::TERM) {
            tracing::error!(%error, "the process cannot be ended");
        }
    }

    async fn kv(&self, asked: AdminRequest) -> AdminResponse {
        let AdminRequest { method, path, query, headers, body } = asked;
        let work = async {
            let (service, store, wish) = kv::parse(&method, &path, &query, &headers, body)?;
            let services = self.reloader.current().routes().services().iter().find(|found| found.config.name == service).cloned();
            let services = services.ok_or_else(|| kv::Refused::NotFound(format!("there is no service `{service}`")))?;
            kv::fulfil(&kv::find(&services.services, &store)?, wish).await
        };
        match work.await {
            Ok(kv::Given::Entry(entry)) => {
                let metadata = String::from_utf8_lossy(&entry.metadata).into_owned();
                let fields = vec![("generation", entry.generation.to_string()), ("metadata", metadata)];
                AdminResponse { status: StatusCode::OK, json: false, fields, body: entry.value }
            }
            Ok(kv::Given::Done) => AdminResponse { status: StatusCode::NO_CONTENT, json: false, fields: Vec::new(), body: Bytes::new() },
            Ok(kv::Given::Keys(keys)) => {
                AdminResponse { status: StatusCode::OK, json: true, fields: Vec::new(), body: keys.to_string().into() }
            }
            Err(refused) => {
                let status = match &refused {
                    kv::Refused::NotFound(_) => StatusCode::NOT_FOUND,
                    kv::Refused::Method(_) => StatusCode::METHOD_NOT_ALLOWED,
                    kv::Refused::Bad(_) | kv::Refused::Store(StoreError::BadRequest(_)) => StatusCode::BAD_REQUEST,
                    kv::Refused::Store(StoreError::Precondition) => StatusCode::PRECONDITION_FAILED,
                    kv::Refused::Store(StoreError::TooLarge) => StatusCode::PAYLOAD_TOO_LARGE,
                    kv::Refused::Store(StoreError::TooMany) => StatusCode::TOO_MANY_REQUESTS,
                    kv::Refused::Store(StoreError::Unavailable(_)) => StatusCode::SERVICE_UNAVAILABLE,
                };
                AdminResponse { status, json: false, fields: Vec::new(), body: format!("{refused}\n").into() }
            }
        }
    }

    async fn cache(&self, asked: AdminRequest) -> AdminResponse {
        let AdminRequest { method, path, query, headers, body } = asked;
        let named = |found: &Arc<Snapshot>| cache::Named {
            name: found.config.name.clone(),
            id: found.config.service_id.clone(),
            cache: found.services.cache.clone(),
        };
        let services: Vec<_> = self.reloader.current().routes().services().iter().map(named).collect();
        let work = async { cache::fulfil(cache::parse(&method, &path, &query, &headers, &body)?, &self.platform, &services).await };
        let (status, body) = match work.await {
            Ok(json) => (StatusCode::OK, format!("{json:#}\n")),
            Err(error @ cache::Failed::Unheard(_)) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")),
            Err(error @ cache::Failed::Method(_)) => (StatusCode::METHOD_NOT_ALLOWED, format!("{error}\n")),
            Err(cache::Failed::Refused(refused @ kv::Refused::NotFound(_))) => (StatusCode::NOT_FOUND, format!("{refused}\n")),
            Err(error) => (StatusCode::BAD_REQUEST, format!("{error}\n")),
        };
        AdminResponse { status, json: status == StatusCode::OK, fields: Vec::new(), body: body.into() }
    }

    async fn faults(&self, asked: AdminRequest) -> AdminResponse {
        let of_manifest = |service: &Arc<Snapshot>| {
            let backends = service.services.backends.all().into_iter().filter(|backend| !backend.config().dynamic).collect();
            (service.config.name.clone(), backends)
        };
        let services = self.reloader.current().routes().services().iter().map(of_manifest).collect();
        let done = faults::parse(&asked.method, &asked.path, &asked.body).and_then(|wish| faults::fulfil(wish, &services));
        let (status, body) = match done {
            Ok(json) => (StatusCode::OK, format!("{json:#}\n")),
            Err(refused @ kv::Refused::NotFound(_)) => (StatusCode::NOT_FOUND, format!("{refused}\n")),
            Err(refused @ kv::Refused::Method(_)) => (StatusCode::METHOD_NOT_ALLOWED, format!("{refused}\n")),
            Err(refused @ (kv::Refused::Bad(_) | kv::Refused::Store(_))) => (StatusCode::BAD_REQUEST, format!("{refused}\n")),
        };
        AdminResponse { status, json: status == StatusCode::OK, fields: Vec::new(), body: body.into() }
    }

    async fn reload(&self) -> Option<(bool, String)> {
        let verdict = watch::ask(&self.ask, "request").await?;
        Some((verdict.result != Attempt::Failed, serde_json::to_string_pretty(&verdict).unwrap_or_default()))
    }
}
