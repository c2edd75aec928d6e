//! KV stores for operators: the same for the admin listener and for the command line.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::{Value as Json, json};

use crate::config::state::{Keep, KeepRates};
use crate::config::stores::{KvStore, kv_key_fault};
use crate::config::{Config, stores};
use crate::services::kv_store::{Entry, Error, Insert, MAX_METADATA, MAX_PAGE, Page, Seed, Store, seeds};

/// Why an operator's wish was not done.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The method is none of this path's.
    #[error("{0}")]
    Method(&'static str),
    /// There is no such service, store or key.
    #[error("{0}")]
    NotFound(String),
    /// It cannot be asked for.
    #[error("{0}")]
    Bad(String),
    /// The store would not.
    #[error(transparent)]
    Store(#[from] Error),
}

/// What operators may do with a store.
#[derive(Clone, Debug)]
pub enum Wish {
    /// A value.
    Get(String),
    /// To write one.
    Put(String, Bytes, Insert),
    /// To take one out.
    Delete(String),
    /// A page of keys.
    List(Page),
    /// Everything.
    Export,
}

/// What came of it.
#[derive(Clone, Debug)]
pub enum Given {
    /// The value.
    Entry(Entry),
    /// It is done.
    Done,
    /// JSON: keys as `data`, and in `meta` how to go on; or everything.
    Keys(Json),
}

/// Whether it can be a key.
pub fn check(key: &str) -> Result<(), Refused> {
    match kv_key_fault(key) {
        None => Ok(()),
        Some(fault) => Err(Refused::Bad(format!("this key cannot be: {fault}"))),
    }
}

/// Does it.
pub async fn fulfil(store: &Store, wish: Wish) -> Result<Given, Refused> {
    let none = |key: &str| Refused::NotFound(format!("there is no key `{key}`"));
    match wish {
        Wish::Get(key) => {
            check(&key)?;
            store.lookup(&key).await?.map(Given::Entry).ok_or_else(|| none(&key))
        }
        Wish::Put(key, value, how) => {
            check(&key)?;
            if how.metadata.len() > MAX_METADATA {
                return Err(Refused::Bad(format!("metadata have at most {MAX_METADATA} bytes")));
            }
            store.insert(&key, value, &how).await?;
            Ok(Given::Done)
        }
        Wish::Delete(key) => {
            check(&key)?;
            if store.delete(&key).await? { Ok(Given::Done) } else { Err(none(&key)) }
        }
        Wish::List(page) => {
            if page.limit == 0 || page.limit > MAX_PAGE {
                return Err(Refused::Bad(format!("limit is 1 to {MAX_PAGE}")));
            }
            let listing = store.list(&page).await?;
            let next = listing.more.then(|| listing.keys.last().cloned()).flatten();
            let mut meta = json!({ "limit": page.limit });
            if !page.prefix.is_empty() {
                meta["prefix"] = page.prefix.into();
            }
            if let Some(next) = next {
                meta["next_cursor"] = next.into();
            }
            Ok(Given::Keys(json!({ "data": listing.keys, "meta": meta })))
        }
        Wish::Export => Ok(Given::Keys(export(store).await?)),
    }
}

/// Every key of a store, with its value, as a file of seeds has them. Times to live are not in it.
pub async fn export(store: &Store) -> Result<Json, Refused> {
    let mut all = serde_json::Map::new();
    let mut after = None;
    loop {
        let listing = store.list(&Page { prefix: String::new(), after: after.take(), limit: MAX_PAGE }).await?;
        for key in &listing.keys {
            // One that is gone by now is none.
            let Some(Entry { value, metadata, .. }) = store.lookup(key).await? else { continue };
            let mut entry = match std::str::from_utf8(&value) {
                Ok(text) => json!({ "data": text }),
                Err(_) => json!({ "base64": STANDARD.encode(&value) }),
            };
            if !metadata.is_empty() {
                entry["metadata"] = String::from_utf8_lossy(&metadata).into();
            }
            all.insert(key.clone(), entry);
        }
        if !listing.more {
            return Ok(Json::Object(all));
        }
        after = listing.keys.last().cloned();
    }
}

/// What a file of seeds has.
pub fn entries(file: &Path) -> Result<Vec<Seed>, Refused> {
    let settings = KvStore { seeds: stores::KvSeeds::File(file.to_owned()), ..KvStore::default() };
    seeds::read(&settings).map_err(|error| Refused::Bad(error.to_string()))
}

/// Puts everything in that a file of seeds has; gives how many.
pub async fn import(store: &Store, file: &Path) -> Result<usize, Refused> {
    let entries = entries(file)?;
    for Seed { key, value, metadata } in &entries {
        store.insert(key, value.clone(), &Insert { metadata: metadata.clone(), ..Insert::default() }).await?;
    }
    Ok(entries.len())
}

/// A wish by HTTP, in the form of Fastly's own API: `/kv/SERVICE/STORE/keys` and `/kv/SERVICE/STORE/keys/KEY`, names and key
/// percent-encoded. Gives service, store, and the wish.
pub fn parse(method: &str, path: &str, query: &str, headers: &[(String, String)], body: Bytes) -> Result<(String, String, Wish), Refused> {
    let bad = |what: &str| Refused::Bad(what.to_owned());
    let unknown = || Refused::NotFound("there is /kv/SERVICE/STORE/keys and /kv/SERVICE/STORE/keys/KEY".to_owned());
    let mut parts = path.trim_start_matches('/').splitn(5, '/');
    let (_, service, store, keys, key) = (parts.next(), parts.next(), parts.next(), parts.next(), parts.next());
    let (Some(service), Some(store), Some("keys")) = (service, store, keys) else { return Err(unknown()) };
    let (service, store) = (decode(service)?, decode(store)?);
    let query: BTreeMap<String, String> = query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| Ok((name.to_owned(), decode(&value.replace('+', " "))?)))
        .collect::<Result<_, Refused>>()?;
    let header = |name: &str| headers.iter().find(|(given, _)| given == name).map(|(_, value)| value.as_str());
    let number =
        |text: Option<&str>, what: &str| text.map(|text| text.parse::<u64>().map_err(|_| bad(&format!("{what} is a number")))).transpose();
    let wish = match (method, key.filter(|key| !key.is_empty())) {
        ("GET", None) if query.contains_key("export") => Wish::Export,
        ("GET" | "HEAD", None) => Wish::List(Page {
            prefix: query.get("prefix").cloned().unwrap_or_default(),
            after: query.get("cursor").cloned(),
            limit: number(query.get("limit").map(String::as_str), "limit")?
                .map_or(MAX_PAGE, |limit| u32::try_from(limit).unwrap_or(u32::MAX)),
        }),
        ("GET" | "HEAD", Some(key)) => Wish::Get(decode(key)?),
        ("DELETE", Some(key)) => Wish::Delete(decode(key)?),
        ("PUT", Some(key)) => {
            let how = Insert {
                mode: mode(query.get("mode").map(String::as_str))?,
                if_generation: number(header("if-generation-match"), "if-generation-match")?,
                metadata: Bytes::copy_from_slice(header("metadata").unwrap_or_default().as_bytes()),
                ttl: number(header("time_to_live_sec").or(header("time-to-live-sec")), "time_to_live_sec")?.map(Duration::from_secs),
                interval: Duration::ZERO,
            };
            Wish::Put(decode(key)?, body, how)
        }
        _ => return Err(Refused::Method("a key takes GET, PUT and DELETE, the list of keys GET")),
    };
    Ok((service, store, wish))
}

/// How a value is written, by its name.
pub fn mode(name: Option<&str>) -> Result<crate::services::kv_store::Mode, Refused> {
    use crate::services::kv_store::Mode;
    match name {
        None | Some("overwrite") => Ok(Mode::Overwrite),
        Some("add") => Ok(Mode::Add),
        Some("append") => Ok(Mode::Append),
        Some("prepend") => Ok(Mode::Prepend),
        Some(_) => Err(Refused::Bad("mode is overwrite, add, append or prepend".to_owned())),
    }
}

/// Percent-decoded (RFC 3986 §2.1).
pub fn decode(text: &str) -> Result<String, Refused> {
    let bad = || Refused::Bad("a name or a key is not percent-encoded UTF-8".to_owned());
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits = [rest.next().ok_or_else(bad)?, rest.next().ok_or_else(bad)?];
        let digits = std::str::from_utf8(&digits).map_err(|_| bad())?;
        bytes.push(u8::from_str_radix(digits, 16).map_err(|_| bad())?);
    }
    String::from_utf8(bytes).map_err(|_| bad())
}

/// Percent-encoded, so that it is one part of a path.
pub fn encode(text: &str) -> String {
    use std::fmt::Write as _;
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            encoded.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

/// A store of a service that is not served here: opened as serving would.
pub fn open(config: &Config, platform: &crate::services::Platform, name: &str) -> Result<Store, Refused> {
    if !config.stores.kv.contains_key(name) {
        let known = config.stores.kv.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        return Err(Refused::NotFound(format!("there is no KV store `{name}`; there is: {known}")));
    }
    let keep = config.stores.kv.get(name).and_then(|store| store.keep).unwrap_or_else(|| config.state.kv());
    match (keep, &config.state.data_dir) {
        (Keep::Memory, _) => {
            let text = format!(
                "the KV store `{name}` is in the memory of the host that serves it\n  hint: --admin HOST:PORT of that host, or --data-dir or --redis"
            );
            return Err(Refused::Bad(text));
        }
        (Keep::Embedded, Some(folder)) if !folder.is_dir() => {
            return Err(Refused::Bad(format!("{}: there is no such folder", folder.display())));
        }
        (Keep::Embedded | Keep::Redis, _) => {}
    }
    // Nothing else of the service is needed.
    let mut config = config.clone();
    config.stores = stores::Stores {
        kv: config.stores.kv.iter().filter(|(found, _)| *found == name).map(|(name, store)| (name.clone(), store.clone())).collect(),
        rates: Some(KeepRates::Memory),
        ..stores::Stores::default()
    };
    config.logs.clear();
    config.backends.clear();
    if keep != Keep::Redis {
        config.state.redis = None;
    }
    let services = crate::services::Services::build(&config, None, platform);
    let services = services.map_err(|errors| Error::Unavailable(errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")))?;
    find(&Arc::new(services), name)
}

/// A store of a service.
pub fn find(services: &Arc<crate::services::Services>, name: &str) -> Result<Store, Refused> {
    let known = || services.kv_stores.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
    services.kv_stores.get(name).cloned().ok_or_else(|| Refused::NotFound(format!("there is no KV store `{name}`; there is: {}", known())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wishes_by_http() {
        let key = "a b/ä%";
        let path = format!("/kv/my%20shop/store/keys/{}", encode(key));
        let (service, store, wish) = parse("GET", &path, "", &[], Bytes::new()).expect("a wish");
        assert_eq!((service.as_str(), store.as_str()), ("my shop", "store"));
        assert!(matches!(wish, Wish::Get(got) if got == key));
        let headers = [("metadata".to_owned(), "m".to_owned()), ("time_to_live_sec".to_owned(), "5".to_owned())];
        let (_, _, wish) = parse("PUT", "/kv/a/b/keys/k", "mode=add", &headers, Bytes::from_static(b"v")).expect("a wish");
        let Wish::Put(_, _, how) = wish else { panic!("a put") };
        assert_eq!((how.metadata, how.ttl), (Bytes::from_static(b"m"), Some(Duration::from_secs(5))));
        assert!(
            matches!(parse("GET", "/kv/a/b/keys", "prefix=x%2F&limit=5", &[], Bytes::new()), Ok((_, _, Wish::List(page))) if page.prefix == "x/" && page.limit == 5)
        );
        assert!(matches!(parse("GET", "/kv/a/b", "", &[], Bytes::new()), Err(Refused::NotFound(_))));
        assert!(matches!(parse("GET", "/kv/a/b/keys/%zz", "", &[], Bytes::new()), Err(Refused::Bad(_))));
        assert!(matches!(parse("PUT", "/kv/a/b/keys/k", "mode=odd", &[], Bytes::new()), Err(Refused::Bad(_))));
    }
}
