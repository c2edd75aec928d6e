//! Services that come and go: folders within a folder.
//!
//! Whoever may write there decides about their own service and nothing else. A faulty one is a fault of its own, and what a
//! service names must be in its own folder: neither files nor variables of the process are anybody's to take.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Component, Path, PathBuf};
use std::time::SystemTime;

use toml::Spanned;

use super::{DropIn, Reader, ServicePlan};
use crate::app::files::settings_files;
use crate::config::diagnostics::Problem;
use crate::config::host_file::{DropIns, Host};
use crate::config::logs::Sink;
use crate::config::services::ServiceEntry;
use crate::config::stores::{SecretStore, SecretText};
use crate::config::{Config, ConfigError, DroppedIn, GuestLimits, HostConfig};
use crate::services::data;
use crate::telemetry::process;

/// What a service's own settings are in.
const SETTINGS: [&str; 2] = ["service.toml", "service.json"];

/// Its manifest, unless its settings name another.
const MANIFESTS: [&str; 2] = ["fastly.toml", "fastly.json"];

/// A point in time (RFC 3339) at which the service ends, beside what its settings say: for programs that write such folders.
pub const EXPIRES: &str = ".expires";

/// Since when it is there (RFC 3339), in place of what the file system says of its folder.
pub const SINCE: &str = ".since";

/// Reads every service of a folder. The reader of the others is told what they were read from.
pub fn read(from: &DropIns, host: &HostConfig, all: &mut Reader) -> std::io::Result<Vec<DropIn>> {
    all.documents.insert(from.folder.clone());
    let mut folders = folders(&from.folder)?;
    // What is in logs, metrics and answers is one line, and text.
    folders.retain(|path| {
        let is_name = path.file_name().and_then(|name| name.to_str()).is_some_and(|name| !name.chars().any(char::is_control));
        if !is_name {
            tracing::warn!("the folder {path:?} is no service: its name has characters that are none of a name");
        }
        is_name
    });
    let service = |folder: PathBuf| {
        let name = folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let mut reader = Reader { before: all.before.clone(), most_text: Some(MOST_TEXT), ..Reader::default() };
        let plan = catch_unwind(AssertUnwindSafe(|| reader.dropped(&name, &folder, &from.hosts, host))).unwrap_or_else(|_| {
            reader.fault("reading its settings broke off", "that is a fault of this host; its log has more");
            None
        });
        let (since, identity) = (since(&folder), identity(&folder));
        if !reader.problems.is_empty() {
            // What was not read for that is as it was.
            reader.written.extend(all.before.iter().filter(|path| path.starts_with(&folder)).cloned());
        }
        all.documents.extend([folder.join(EXPIRES), folder]);
        all.documents.append(&mut reader.documents);
        all.written.append(&mut reader.written);
        let plan = match plan {
            Some(mut plan) if reader.problems.is_empty() => {
                plan.config.dropin = Some(DroppedIn { since: identity });
                Ok(plan)
            }
            _ => Err(ConfigError::new(reader.sources, reader.problems)),
        };
        DropIn { name, since, plan }
    };
    Ok(folders.into_iter().map(service).collect())
}

/// Whether a failure is for want of something that this process has not now. (A link that leads nowhere, or in a circle, is whoever's who made it.)
fn is_ours(error: &std::io::Error) -> bool {
    let code = error.raw_os_error().map(rustix::io::Errno::from_raw_os_error);
    matches!(code, Some(rustix::io::Errno::MFILE | rustix::io::Errno::NFILE | rustix::io::Errno::NOMEM | rustix::io::Errno::IO))
}

/// The folders in it, in the order of their names; none if it is not there: it may come later. What cannot be read is not gone.
fn folders(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let is_gone = |error: &std::io::Error| error.kind() == std::io::ErrorKind::NotFound;
    let entries = match std::fs::read_dir(folder) {
        Err(error) if is_gone(&error) => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".")) {
            continue;
        }
        match std::fs::metadata(&path) {
            Ok(what) if what.is_dir() => found.push(path),
            // Of this host, not of what is there.
            Err(error) if is_ours(&error) => return Err(error),
            Ok(_) | Err(_) => {}
        }
    }
    found.sort();
    Ok(found)
}

/// Of the host's sandboxes, what one has: a quarter.
const SHARE: u32 = 4;

/// Bytes of its settings, and of its manifest.
const MOST_TEXT: u64 = 1 << 20;

/// How many backends one has.
const MOST_BACKENDS: usize = 1000;

/// Bytes of all files that the settings of one name, its program apart: they are read as a whole. And of the process's memory, one in so many.
const MOST_DATA: u64 = 64 << 20;
const OF_MEMORY: u64 = 64;

/// Bytes of all files of its log endpoints, and how many endpoints it has.
const MOST_LOGS: u64 = 4 << 30;
const MOST_ENDPOINTS: usize = 64;

/// Limits of a service that are beyond those of the host. (Memory is looked at for every service.)
fn beyond(limits: &GuestLimits, host: &HostConfig) -> Vec<&'static str> {
    let most = &host.limits.guest;
    let all = [
        ("sandboxes", limits.sandboxes > host.limits.sandboxes),
        ("queue_timeout", limits.queue_timeout > most.queue_timeout),
        ("cpu", limits.cpu > most.cpu),
        ("wall", limits.wall > most.wall),
        ("backend_requests", limits.backend_requests > most.backend_requests),
        ("dynamic_backends", limits.dynamic_backends > most.dynamic_backends),
        ("kv_mib", limits.kv > most.kv),
        ("fields_kib", limits.fields > most.fields),
        ("reuse_requests", limits.reuse.requests > most.reuse.requests),
        ("reuse_idle", limits.reuse.idle > most.reuse.idle),
        ("reuse_lifetime", limits.reuse.lifetime > most.reuse.lifetime),
        ("reuse_memory_mib", limits.reuse.memory > most.reuse.memory),
    ];
    all.into_iter().filter(|(_, beyond)| *beyond).map(|(name, _)| name).collect()
}

impl Reader {
    fn dropped(&mut self, name: &str, folder: &Path, allowed: &[String], host: &HostConfig) -> Option<ServicePlan> {
        let there = |names: [&str; 2]| {
            names.map(|name| folder.join(name)).into_iter().filter(|path| is_regular(path) && is_within(path, folder)).collect::<Vec<_>>()
        };
        let [settings] = &there(SETTINGS)[..] else {
            // Whichever comes, it is seen.
            self.documents.extend(SETTINGS.map(|name| folder.join(name)));
            let base = self.sources.add(&folder.join(SETTINGS[0]), "");
            let message = format!("a service needs one of {} in its folder, and not both", SETTINGS.join(" and "));
            self.problems.push(Problem::at(base..base, message).hint("hosts = [\"pr-123.preview.example.com\"]"));
            return None;
        };
        let document = self.read(settings, None)?;
        let place = document.span.start;
        let decided = Host::decide_service(name, document, &self.sources);
        let mut entry = self.keep(decided)?;
        if entry.manifest.is_none()
            && let Some(manifest) = there(MANIFESTS).into_iter().next()
        {
            entry.manifest = Some((Spanned::new(place..place, manifest.display().to_string()), manifest));
        }
        // Before it is read.
        if let Some((_, manifest)) = &entry.manifest
            && !is_within(manifest, folder)
        {
            self.problems.push(Problem::at(entry.name.span(), outside(manifest)).hint(OWN_FILES));
            return None;
        }
        match end(folder) {
            Ok(None) => {}
            Ok(Some(end)) => entry.expires = Some(entry.expires.map_or(end, |expires| expires.min(end))),
            Err(error) => self.fault(
                format!("when it ends cannot be understood: {error}"),
                "a time (sidelight.dev/ttl: 72h), or a point in time (sidelight.dev/expires: 2026-12-01T00:00:00Z)",
            ),
        }
        self.hosts(&entry, allowed);
        // Unless it says otherwise, it leaves sandboxes to others.
        entry.limits.sandboxes.get_or_insert((host.limits.sandboxes / SHARE).max(1));
        let plan = self.service(&entry, host)?;
        self.confine(&entry, &plan, folder, host);
        Some(plan)
    }

    /// Which hosts it may have.
    fn hosts(&mut self, entry: &ServiceEntry, allowed: &[String]) {
        if entry.hosts.is_empty() {
            let message = "a service that comes and goes must say which hosts are its";
            self.problems.push(Problem::at(entry.name.span(), message).hint("hosts = [\"pr-123.preview.example.com\"]"));
        }
        let fits = |host: &String| {
            allowed.iter().any(|rule| match rule.strip_prefix('*') {
                // All of them would be every host that nobody has yet.
                Some(below) => host != rule && host.len() > below.len() && host.ends_with(below),
                None => host == rule,
            })
        };
        if let Some(host) = entry.hosts.iter().find(|host| !allowed.is_empty() && !fits(host)) {
            let (message, hint) = match allowed.contains(host) {
                true => (format!("host `{host}` is that of all services here together"), "one of them has a name in place of the *"),
                false => (
                    format!("host `{host}` is none that services here may have: {}", allowed.join(", ")),
                    "services_hosts of the host file says which they may",
                ),
            };
            self.problems.push(Problem::at(entry.name.span(), message).hint(hint));
        }
    }

    /// It has what is in its folder, and nothing else of the machine's.
    fn confine(&mut self, entry: &ServiceEntry, plan: &ServicePlan, folder: &Path, host: &HostConfig) {
        let sinks = plan.config.logs.values().filter_map(|log| match &log.sink {
            Sink::File(sink) => Some(sink.path.as_path()),
            _ => None,
        });
        let manifest = entry.manifest.iter().map(|(_, path)| path.as_path());
        let named = plan.config.own_files().into_iter().chain(sinks).chain(manifest).chain(plan.module.file());
        let elsewhere: BTreeSet<&Path> = named.filter(|path| !is_within(path, folder)).collect();
        let mut faults: Vec<(String, &str)> = elsewhere.into_iter().map(|path| (outside(path), OWN_FILES)).collect();
        if let Some(variable) = variable(&plan.config) {
            let message = format!("a secret is to be the environment variable {variable}, which is the host's");
            faults.push((message, "file = \"name\", beside its settings"));
        }
        if plan.config.logs.values().any(|log| matches!(&log.sink, Sink::Redis { stream: Some(_), .. })) {
            faults.push((
                "a log endpoint names its stream in Redis".to_owned(),
                "leave `stream` out: it is named after service and endpoint",
            ));
        }
        let size: u64 = settings_files(&plan.config).iter().filter_map(|path| path.metadata().ok()).map(|what| what.len()).sum();
        let memory = host.limits.total_memory.or_else(process::memory_limit).unwrap_or(u64::MAX);
        let most = MOST_DATA.min(memory / OF_MEMORY).max(MOST_TEXT);
        if size > most {
            faults.push((
                format!("the files that its settings name have more than {} MiB together", most >> 20),
                "a store with `keep` has values that are written to it",
            ));
        }
        let files = plan.config.logs.values().filter_map(|log| match &log.sink {
            Sink::File(sink) => Some(sink.max_bytes.saturating_mul(u64::from(sink.keep) + 1)),
            _ => None,
        });
        if files.fold(0, u64::saturating_add) > MOST_LOGS {
            faults.push((
                format!("the files of its log endpoints may have more than {} MiB together", MOST_LOGS >> 20),
                "max_mib and keep_files say how much each has",
            ));
        }
        if plan.config.backends.len() > MOST_BACKENDS {
            faults.push((format!("it has more than {MOST_BACKENDS} backends"), "a program makes those that it needs (dynamic backends)"));
        }
        if plan.config.stores.user_agents.is_some() {
            faults.push((
                "it has rules for user agents of its own, which may take any amount of memory".to_owned(),
                "`devices` has a table of them; rules are for services of the host file",
            ));
        }
        if plan.config.logs.len() > MOST_ENDPOINTS {
            faults
                .push((format!("it has more than {MOST_ENDPOINTS} log endpoints"), "one of the name `*` takes the records of all others"));
        }
        for limit in beyond(&plan.config.limits, host) {
            faults.push((
                format!("limits.{limit} is more than what the host's own services have"),
                "[limits] of the host file is the most that others may have",
            ));
        }
        for (message, hint) in faults {
            self.problems.push(Problem::at(entry.name.span(), message).hint(hint));
        }
    }
}

const OWN_FILES: &str =
    "a service that comes and goes has the files beside its settings: files and folders, no links out of its folder, no pipes, no devices";

fn outside(path: &Path) -> String {
    match std::fs::metadata(path) {
        Ok(what) if !what.is_file() && !what.is_dir() => format!("{} is a pipe, a socket or a device", path.display()),
        Ok(_) | Err(_) => format!("{} is not in the service's folder", path.display()),
    }
}

/// Since when there is this service and no earlier one of the same name, in milliseconds since the epoch; nothing: that is not known. (Times of
/// change are no evidence.)
fn identity(folder: &Path) -> Option<u64> {
    let told = said(folder, SINCE).ok().and_then(|text| humantime::parse_rfc3339(text.trim()).ok());
    let since = told.or_else(|| std::fs::metadata(folder).and_then(|found| found.created()).ok())?;
    since.duration_since(SystemTime::UNIX_EPOCH).ok().and_then(|since| u64::try_from(since.as_millis()).ok())
}

/// Since when a service is there: of two that want the same, the older has it, also after a restart.
fn since(folder: &Path) -> SystemTime {
    let told = said(folder, SINCE).ok().and_then(|text| humantime::parse_rfc3339(text.trim()).ok());
    told.or_else(|| std::fs::metadata(folder).and_then(|found| found.created().or_else(|_| found.modified())).ok())
        .unwrap_or(SystemTime::UNIX_EPOCH)
}

/// When a service ends, as whoever wrote its folder says.
fn end(folder: &Path) -> Result<Option<SystemTime>, String> {
    match said(folder, EXPIRES) {
        Ok(text) => humantime::parse_rfc3339(text.trim()).map(Some).map_err(|_| text.trim().to_owned()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}

/// No step of its name leads out of the folder, and no link either; and it is a file or a folder, if it is there: what else there is holds up
/// whoever reads it, or has no end. (A link that is put in its place after this moment, by somebody who is quick, is followed.)
fn is_within(path: &Path, folder: &Path) -> bool {
    let by_name =
        path.strip_prefix(folder).is_ok_and(|rest| rest.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)));
    let Ok(folder) = folder.canonicalize() else { return false };
    let leads_within = |path: &Path| path.canonicalize().is_ok_and(|found| found.starts_with(&folder));
    by_name
        && match std::fs::metadata(path) {
            Ok(what) if what.is_dir() => {
                // Each of what is in it, however deep.
                leads_within(path)
                    && data::files(path, true).is_ok_and(|files| files.iter().all(|(_, file)| is_regular(file) && leads_within(file)))
            }
            Ok(what) => what.is_file() && leads_within(path),
            // Not there, or not yet, as a log; nor is it a link to what is not there.
            Err(_) => {
                std::fs::symlink_metadata(path).is_err() && path.ancestors().skip(1).find(|above| above.exists()).is_some_and(leads_within)
            }
        }
}

fn is_regular(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|what| what.is_file())
}

/// What a small file of the folder says; nothing, if it leads elsewhere.
fn said(folder: &Path, name: &str) -> std::io::Result<String> {
    let path = folder.join(name);
    match is_within(&path, folder) {
        true => crate::config::files::read_text(&path, 1 << 20),
        false => Err(std::io::Error::other("it is not in the service's folder")),
    }
}

/// A variable of the process that a secret is to be read from.
fn variable(config: &Config) -> Option<&str> {
    config.stores.secrets.values().find_map(|store| match store {
        SecretStore::File(_) | SecretStore::Directory(_) => None,
        SecretStore::Entries(entries) => entries.values().find_map(|secret| match secret {
            SecretText::Variable(name) => Some(name.as_str()),
            SecretText::Inline(_) | SecretText::File(_) => None,
        }),
    })
}
