//! What objects of a cluster say of services.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1::{ConfigMap, ObjectReference, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use zeroize::Zeroizing;

/// Its value is a service's name.
pub const LABEL: &str = "sidelight.dev/service";

/// How long a service lives after the last change of its object: `72h`.
const TTL: &str = "sidelight.dev/ttl";

/// Until when it lives, whatever changes (RFC 3339).
const EXPIRES: &str = "sidelight.dev/expires";

/// One object's part of a service.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// The service.
    pub service: String,
    /// `ConfigMap` or `Secret`.
    pub kind: &'static str,
    /// The object's name.
    pub name: String,
    /// Its identity.
    pub uid: String,
    /// Its version.
    pub version: String,
    /// When it was made.
    pub created: SystemTime,
    /// When its time is over; or what was said of that and cannot be understood.
    pub expires: Result<Option<SystemTime>, String>,
    /// Files by name. They may be secret.
    pub files: BTreeMap<String, Zeroizing<Vec<u8>>>,
}

/// Objects that may be parts of services.
pub trait Object: Clone {
    /// Its part, if it is one of a service.
    fn part(&self) -> Option<Part>;
}

impl Object for ConfigMap {
    fn part(&self) -> Option<Part> {
        let texts = self.data.iter().flatten().map(|(name, text)| (name, text.as_bytes()));
        let binary = self.binary_data.iter().flatten().map(|(name, bytes)| (name, &*bytes.0));
        part("ConfigMap", &self.metadata, texts.chain(binary))
    }
}

impl Object for Secret {
    fn part(&self) -> Option<Part> {
        part("Secret", &self.metadata, self.data.iter().flatten().map(|(name, bytes)| (name, &*bytes.0)))
    }
}

fn part<'a>(kind: &'static str, about: &ObjectMeta, files: impl Iterator<Item = (&'a String, &'a [u8])>) -> Option<Part> {
    let service = about.labels.as_ref()?.get(LABEL)?.clone();
    // A label's value begins and ends with a letter or digit; an empty one names nothing.
    if service.is_empty() {
        return None;
    }
    let created = about.creation_timestamp.as_ref().map_or(SystemTime::UNIX_EPOCH, |time| SystemTime::from(time.0));
    let changes = about.managed_fields.iter().flatten().filter_map(|entry| entry.time.as_ref());
    let changed = changes.map(|time| SystemTime::from(time.0)).fold(created, SystemTime::max);
    let said = |name: &str| about.annotations.as_ref().and_then(|annotations| annotations.get(name)).map(|text| text.trim());
    Some(Part {
        service,
        kind,
        name: about.name.clone().unwrap_or_default(),
        uid: about.uid.clone().unwrap_or_default(),
        version: about.resource_version.clone().unwrap_or_default(),
        created,
        expires: expires(changed, said(TTL), said(EXPIRES)),
        files: files
            // These would be ours.
            .filter(|(name, _)| !name.starts_with('.'))
            .map(|(name, content)| (name.clone(), Zeroizing::new(content.to_vec())))
            .collect(),
    })
}

/// The earlier of the two, if there are any.
fn expires(changed: SystemTime, ttl: Option<&str>, until: Option<&str>) -> Result<Option<SystemTime>, String> {
    let ttl = match ttl.map(|text| (text, text.parse::<humantime::Duration>())) {
        None => None,
        Some((_, Ok(time))) => changed.checked_add(Duration::from(time)),
        Some((text, Err(_))) => return Err(format!("{TTL}: {text}")),
    };
    let until = match until.map(|text| (text, humantime::parse_rfc3339(text))) {
        None => None,
        Some((_, Ok(time))) => Some(time),
        Some((text, Err(_))) => return Err(format!("{EXPIRES}: {text}")),
    };
    Ok(ttl.into_iter().chain(until).min())
}

impl Part {
    /// The object, for events about it.
    pub fn reference(&self, namespace: &str) -> ObjectReference {
        ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some(self.kind.to_owned()),
            name: Some(self.name.clone()),
            namespace: Some(namespace.to_owned()),
            uid: Some(self.uid.clone()),
            resource_version: Some(self.version.clone()),
            field_path: None,
        }
    }
}

/// A service, of all its parts.
#[derive(Debug, Default)]
pub struct Whole {
    /// Its parts, the oldest first.
    pub parts: Vec<Part>,
    /// Of which some are not taken, and why.
    pub refused: Vec<(Part, String)>,
}

impl Whole {
    /// All services that there are parts of.
    pub fn of(parts: impl Iterator<Item = Part>) -> BTreeMap<String, Self> {
        let mut parts: Vec<Part> = parts.collect();
        // Who comes later takes nothing away.
        parts.sort_by(|a, b| (a.created, a.kind, &a.name).cmp(&(b.created, b.kind, &b.name)));
        let mut all: BTreeMap<String, Self> = BTreeMap::new();
        for part in parts {
            let whole = all.entry(part.service.clone()).or_default();
            let twice = whole.parts.iter().find_map(|other| {
                let file = part.files.keys().find(|name| other.files.contains_key(*name))?;
                Some(format!("{file} of service `{}` is in {} {} already", part.service, other.kind, other.name))
            });
            match twice {
                None => whole.parts.push(part),
                Some(why) => whole.refused.push((part, why)),
            }
        }
        all
    }

    /// When its time is over, as text for its folder.
    pub fn expires(&self) -> Option<String> {
        let mut first: Option<SystemTime> = None;
        for part in &self.parts {
            match &part.expires {
                // Its reader says that this is no point in time.
                Err(text) => return Some(text.clone()),
                Ok(None) => {}
                Ok(Some(time)) => first = Some(first.map_or(*time, |first| first.min(*time))),
            }
        }
        first.map(|time| humantime::format_rfc3339(time).to_string())
    }

    /// Since when it is there, as text for its folder.
    pub fn since(&self) -> String {
        let oldest = self.parts.iter().map(|part| part.created).min().unwrap_or(SystemTime::UNIX_EPOCH);
        humantime::format_rfc3339(oldest).to_string()
    }

    /// When its time is over.
    pub fn end(&self) -> Option<SystemTime> {
        self.parts.iter().filter_map(|part| part.expires.as_ref().ok().copied().flatten()).min()
    }

    /// Whether its time is over.
    pub fn is_over(&self, now: SystemTime) -> bool {
        self.end().is_some_and(|end| end <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(name: &str, created: i64, files: &[&str], annotations: &[(&str, &str)]) -> Part {
        let time = |seconds| {
            k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(k8s_openapi::jiff::Timestamp::from_second(seconds).expect("a time"))
        };
        let texts = |pairs: &[(&str, &str)]| Some(pairs.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect());
        let metadata = ObjectMeta {
            name: Some(name.to_owned()),
            creation_timestamp: Some(time(created)),
            labels: texts(&[(LABEL, "pr-1")]),
            annotations: texts(annotations),
            ..ObjectMeta::default()
        };
        let data = files.iter().map(|name| ((*name).to_owned(), String::new())).collect();
        ConfigMap { metadata, data: Some(data), ..ConfigMap::default() }.part().expect("a part")
    }

    #[test]
    fn the_older_part_keeps_its_files() {
        let all =
            Whole::of([map("late", 2, &["a", "b"], &[]), map("early", 1, &["b", "c"], &[]), map("other", 3, &["d"], &[])].into_iter());
        let whole = &all["pr-1"];
        assert_eq!(whole.parts.iter().map(|part| part.name.as_str()).collect::<Vec<_>>(), ["early", "other"]);
        assert_eq!(whole.refused[0].1, "b of service `pr-1` is in ConfigMap early already");
    }

    #[test]
    fn time_is_over_by_what_comes_first() {
        let expires = |annotations: &[(&str, &str)]| Whole::of([map("a", 1000, &["a"], annotations)].into_iter())["pr-1"].expires();
        assert_eq!(expires(&[]), None);
        assert_eq!(expires(&[(TTL, "1h")]).as_deref(), Some("1970-01-01T01:16:40Z"));
        assert_eq!(expires(&[(TTL, "1h"), (EXPIRES, "1970-01-01T00:20:00Z")]).as_deref(), Some("1970-01-01T00:20:00Z"));
        assert_eq!(expires(&[(TTL, "soon")]).as_deref(), Some("sidelight.dev/ttl: soon"));
    }

    #[test]
    fn hidden_files_and_other_labels_are_not_ours() {
        assert_eq!(map("a", 1, &["..data", ".expires", "x"], &[]).files.keys().collect::<Vec<_>>(), ["x"]);
        assert_eq!(ConfigMap::default().part(), None);
    }
}
