//! The cache for operators: purges in the form of Fastly's own API, what is in it, why a response is or is not, and moving
//! its time on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value as Json, json};

use super::kv::{Refused, decode};
use crate::services::Platform;
use crate::services::cache::inspect::Filter;
use crate::services::cache::{Face, Key, Purge, key};
use crate::services::http_cache::{self, decisions::Record};
use crate::telemetry::secrets;

/// A service as purges name it.
pub struct Named {
    /// Its name.
    pub name: String,
    /// Its id.
    pub id: String,
    /// Its cache.
    pub cache: crate::services::cache::Cache,
}

/// What operators may ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// To forget something of a service, by its id or name.
    Purge(String, Vec<Purge>),
    /// To forget an address, of all services.
    PurgeUrl(String, bool),
    /// How much there is.
    Totals,
    /// What there is.
    Entries(BTreeMap<String, String>),
    /// Why.
    Decisions(BTreeMap<String, String>),
    /// To make everything older.
    Age(Duration),
}

/// Most seconds that time is moved on at once.
const MOST_AGE: f64 = 3_153_600_000.0;

/// Most objects or decisions that are told at once, if nothing is said.
const PAGE: usize = 100;

fn query(text: &str) -> Result<BTreeMap<String, String>, Refused> {
    let pairs = text.split('&').filter(|pair| !pair.is_empty()).map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.map(|(name, value)| Ok((name.to_owned(), decode(&value.replace('+', " "))?))).collect()
}

/// What a request asks for: `POST /purge/HOST/PATH`, `POST /service/ID/purge_all`, `/service/ID/purge/KEY` and
/// `/service/ID/purge` with keys in `Surrogate-Key`, `GET /cache`, `/cache/entries` and `/cache/decisions`, `POST
/// /cache/age?seconds=N`.
pub fn parse(method: &str, path: &str, query_text: &str, headers: &[(String, String)], body: &[u8]) -> Result<Wish, Failed> {
    let bad = |what: &str| Refused::Bad(what.to_owned());
    let header = |name: &str| headers.iter().find(|(given, _)| given == name).map(|(_, value)| value.as_str());
    let soft = match header("fastly-soft-purge") {
        None | Some("0") => false,
        Some("1") => true,
        Some(_) => return Err(bad("Fastly-Soft-Purge is 1 or 0").into()),
    };
    let reads = method == "GET" || method == "HEAD";
    let posts = || if method == "POST" { Ok(()) } else { Err(Failed::Method("POST")) };
    let gets = || if reads { Ok(()) } else { Err(Failed::Method("GET")) };
    match path {
        "/cache" => return gets().map(|()| Wish::Totals),
        "/cache/entries" => {
            gets()?;
            return Ok(Wish::Entries(known(query(query_text)?, &["service", "about", "key", "surrogate_key", "limit"])?));
        }
        "/cache/decisions" => {
            gets()?;
            return Ok(Wish::Decisions(known(query(query_text)?, &["service", "about", "request", "limit"])?));
        }
        "/cache/age" => {
            posts()?;
            let query = known(query(query_text)?, &["seconds"])?;
            let seconds = query.get("seconds").ok_or_else(|| bad("how much older? /cache/age?seconds=N"))?;
            let seconds = seconds.parse::<f64>().ok().filter(|seconds| (0.0..=MOST_AGE).contains(seconds));
            let seconds = seconds.ok_or_else(|| bad("seconds is a number from 0 to 3153600000, a hundred years"))?;
            return Ok(Wish::Age(Duration::from_secs_f64(seconds)));
        }
        _ if path.starts_with("/cache/") => {
            let there = "there is GET /cache, /cache/entries, /cache/decisions, and POST /cache/age?seconds=N";
            return Err(Refused::NotFound(there.to_owned()).into());
        }
        _ => {}
    }
    if let Some(url) = path.strip_prefix("/purge/") {
        posts()?;
        let url = if query_text.is_empty() { url.to_owned() } else { format!("{url}?{query_text}") };
        return Ok(Wish::PurgeUrl(url, soft));
    }
    if path == "/purge" {
        posts()?;
        let query = query(query_text)?;
        let url = query.get("url").ok_or_else(|| bad("POST /purge/HOST/PATH, or /purge?url=URL"))?;
        return Ok(Wish::PurgeUrl(url.clone(), soft));
    }
    let unknown = || Refused::NotFound("there is POST /service/ID/purge/KEY, /service/ID/purge and /service/ID/purge_all".to_owned());
    let mut parts = path.strip_prefix("/service/").ok_or_else(unknown)?.splitn(3, '/');
    let service = decode(parts.next().unwrap_or_default())?;
    let what = parts.next().ok_or_else(unknown)?;
    if ["purge", "purge_all"].contains(&what) {
        posts()?;
    }
    let purges = match (what, parts.next()) {
        ("purge_all", None) => {
            if soft {
                return Err(bad("everything can only be purged hard").into());
            }
            vec![Purge::All]
        }
        ("purge", Some(name)) if !name.is_empty() => vec![Purge::Key { key: decode(name)?, soft }],
        ("purge", None | Some("")) => {
            let told = "keys go into the field Surrogate-Key, with spaces between them, or as {\"surrogate_keys\": [\"…\"]} into the body";
            let keys: Vec<String> = match header("surrogate-key") {
                Some(keys) => keys.split_ascii_whitespace().map(str::to_owned).collect(),
                None => {
                    let json: Json = serde_json::from_slice(body).map_err(|_| bad(told))?;
                    let list = json["surrogate_keys"].as_array().ok_or_else(|| bad(told))?;
                    list.iter().map(|key| key.as_str().map(str::to_owned)).collect::<Option<_>>().ok_or_else(|| bad(told))?
                }
            };
            if keys.is_empty() || keys.len() > 256 {
                return Err(bad("1 to 256 keys at once").into());
            }
            keys.into_iter().map(|key| Purge::Key { key, soft }).collect()
        }
        _ => return Err(unknown().into()),
    };
    posts()?;
    for purge in &purges {
        if let Purge::Key { key: name, .. } = purge
            && !key::is_surrogate_key(name.as_bytes())
        {
            return Err(bad("a surrogate key has 1 to 1024 printable characters of ASCII").into());
        }
    }
    Ok(Wish::Purge(service, purges))
}

/// A query that asks for nothing else.
fn known(query: BTreeMap<String, String>, names: &[&str]) -> Result<BTreeMap<String, String>, Refused> {
    match query.keys().find(|name| !names.contains(&name.as_str())) {
        Some(name) => Err(Refused::Bad(format!("`{name}` cannot be asked for; there is {}", names.join(", ")))),
        None => Ok(query),
    }
}

/// Why a wish was not done.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    /// It cannot be.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// It is for another method.
    #[error("this is for {0}")]
    Method(&'static str),
    /// It is done here, and other replicas have not heard of it.
    #[error("purged here, and other replicas have not heard of it: {0}")]
    Unheard(String),
}

/// Does it; JSON.
pub async fn fulfil(wish: Wish, platform: &Arc<Platform>, services: &[Named]) -> Result<Json, Failed> {
    // All that are called that, or have it for an id: several may have one, as previews of one service do, and one that comes and goes may have
    // another's id for a name, or its name for an id, which keeps no purge from who it is meant for.
    let named = |service: &str| -> Result<Vec<&Named>, Refused> {
        let found: Vec<&Named> = services.iter().filter(|named| named.id == service || named.name == service).collect();
        if found.is_empty() { Err(Refused::NotFound(format!("there is no service `{service}`"))) } else { Ok(found) }
    };
    let heard = |error: crate::services::redis::Unavailable| Failed::Unheard(error.to_string());
    match wish {
        Wish::Purge(service, purges) => {
            let all = named(&service)?;
            let mut done = serde_json::Map::new();
            for purge in &purges {
                let (mut id, mut objects) = (String::new(), 0);
                for Named { cache, .. } in &all {
                    let purged = cache.purge_everywhere(purge).await.map_err(heard)?;
                    (id, objects) = (purged.id, objects + purged.objects);
                }
                match purge {
                    Purge::Key { key, .. } if purges.len() > 1 => drop(done.insert(key.clone(), id.into())),
                    // Nobody has counted them.
                    Purge::All => return Ok(json!({ "status": "ok", "id": id })),
                    Purge::Key { .. } | Purge::Entry { .. } => {
                        return Ok(json!({ "status": "ok", "id": id, "objects": objects }));
                    }
                }
            }
            Ok(Json::Object(done))
        }
        Wish::PurgeUrl(url, soft) => {
            let key = http_cache::key_of_url(&url).ok_or_else(|| Refused::Bad(format!("`{url}` is no address: HOST/PATH")))?;
            let (mut id, mut objects) = (String::new(), 0);
            for Named { cache, .. } in services {
                let purge = Purge::Entry { key: cache.key(Face::Http, &key), soft };
                let purged = cache.purge_everywhere(&purge).await.map_err(heard)?;
                (id, objects) = (purged.id, objects + purged.objects);
            }
            Ok(json!({ "status": "ok", "id": id, "objects": objects }))
        }
        Wish::Totals => {
            let generations: serde_json::Map<_, _> =
                services.iter().map(|named| (named.name.clone(), (named.cache.space().generation() + 1).into())).collect();
            let mut totals = serde_json::to_value(platform.cache.totals()).unwrap_or_default();
            totals["generations"] = Json::Object(generations);
            Ok(totals)
        }
        Wish::Entries(query) => {
            let key = match query.get("key") {
                Some(text) => Some(Key::from_hex(text).ok_or_else(|| Refused::Bad("key has 64 hexadecimal digits".to_owned()))?),
                None => None,
            };
            let filter = Filter {
                service: query.get("service").cloned(),
                about: query.get("about").cloned(),
                key,
                surrogate_key: query.get("surrogate_key").cloned(),
                limit: limit(&query)?,
            };
            Ok(shown(json!({ "entries": platform.cache.views(&filter) })))
        }
        Wish::Decisions(query) => {
            let (service, request, about) = (query.get("service"), query.get("request"), query.get("about"));
            let wanted = |record: &Record| {
                service.is_none_or(|service| **service == *record.service)
                    && request.is_none_or(|id| **id == *record.request_id)
                    && about.is_none_or(|about| record.about.contains(about.as_str()))
            };
            let records = platform.decisions.latest(limit(&query)?, wanted);
            Ok(shown(json!({ "decisions": records.iter().map(record).collect::<Vec<_>>() })))
        }
        Wish::Age(by) => {
            platform.cache.move_on(by);
            tracing::info!(target: "sidelight::cache", seconds = by.as_secs_f64(), "everything cached is made older");
            Ok(json!({ "status": "ok" }))
        }
    }
}

fn limit(query: &BTreeMap<String, String>) -> Result<usize, Refused> {
    let limit = query.get("limit").map_or(Ok(PAGE), |text| text.parse());
    limit.map_err(|_| Refused::Bad("limit is a number".to_owned()))
}

fn record(record: &Record) -> Json {
    let mut json = json!({
        "time": humantime::format_rfc3339_millis(std::time::UNIX_EPOCH + record.at).to_string(),
        "service": &*record.service,
        "request_id": &*record.request_id,
        "request": &*record.about,
        "caching": if record.by_guest { "guest" } else { "host" },
        "lookup": record.lookup.map(http_cache::decisions::Answer::name),
        "waited_for_another_request": record.waited,
    });
    if let Some(key) = &record.key {
        json["key"] = key.hex().into();
    }
    if let Some(age) = record.age {
        json["age"] = age.as_secs().into();
    }
    if let Some((action, reason)) = record.action {
        json["action"] = action.name().into();
        json["reason"] = reason.text().into();
    }
    if let Some(stored) = &record.stored {
        json["stored"] = json!({
            "max_age": stored.max_age.as_secs(),
            "initial_age": stored.initial_age.as_secs(),
            "stale_while_revalidate": stored.stale_while_revalidate.as_secs(),
            "stale_if_error": stored.stale_if_error.as_secs(),
            "vary": stored.vary,
            "surrogate_keys": stored.surrogate_keys,
        });
    }
    json
}

/// A document as operators may see it: URLs and surrogate keys may have secrets in them.
fn shown(mut document: Json) -> Json {
    secrets::hide(&mut document);
    document
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wishes() {
        let soft = [("fastly-soft-purge".to_owned(), "1".to_owned())];
        let key = |name: &str, soft| Purge::Key { key: name.to_owned(), soft };
        let wish = |method, path, query, headers: &[(String, String)]| parse(method, path, query, headers, b"");
        assert_eq!(wish("POST", "/service/id/purge/a%2Fb", "", &soft).ok(), Some(Wish::Purge("id".to_owned(), vec![key("a/b", true)])));
        let keys = [("surrogate-key".to_owned(), "a b".to_owned())];
        let both = Wish::Purge("id".to_owned(), vec![key("a", false), key("b", false)]);
        assert_eq!(wish("POST", "/service/id/purge", "", &keys).ok(), Some(both.clone()));
        let json = br#"{"surrogate_keys": ["a", "b"]}"#;
        assert_eq!(parse("POST", "/service/id/purge", "", &[], json).ok(), Some(both));
        assert_eq!(wish("POST", "/service/id/purge_all", "", &[]).ok(), Some(Wish::Purge("id".to_owned(), vec![Purge::All])));
        assert_eq!(wish("POST", "/purge/h/p", "q=1", &[]).ok(), Some(Wish::PurgeUrl("h/p?q=1".to_owned(), false)));
        assert_eq!(wish("POST", "/cache/age", "seconds=1.5", &[]).ok(), Some(Wish::Age(Duration::from_millis(1500))));
        for (method, path, query) in [
            ("GET", "/service/id/purge/a", ""),
            ("POST", "/service/id/purge/a%20b", ""),
            ("POST", "/service/id/purge", ""),
            ("POST", "/service/id/other", ""),
            ("POST", "/cache/age", "seconds=-1"),
            ("POST", "/cache/age", "seconds=1e18"),
            ("GET", "/cache/entries", "bogus=1"),
            ("GET", "/cache/nope", ""),
            ("POST", "/cache", ""),
            ("POST", "/purge", ""),
        ] {
            assert!(wish(method, path, query, &[]).is_err(), "{method} {path}");
        }
        assert!(wish("POST", "/service/id/purge_all", "", &soft).is_err());
    }
}
