//! The cache in all its faces, by path and query; tests/guests/README.md is the contract that this program shares with its
//! JavaScript and Go twins.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::thread::sleep;
use std::time::Duration;

use fastly::cache::core::{self, CacheKey, Found, Replace, Transaction};
use fastly::cache::core::{ReplaceStrategy, replace};
use fastly::cache::simple::{self, CacheEntry};
use fastly::experimental::RequestHandleCacheKey;
use fastly::handle::{BodyHandle, CacheOverride, RequestHandle};
use fastly::http::purge::{purge_surrogate_key, soft_purge_surrogate_key};
use fastly::http::{HeaderName, HeaderValue};
use fastly::{Body, Request, Response};
use sha2::{Digest, Sha256};

type Answer = Result<Response, (u16, String)>;

fn text(body: impl Into<String>) -> Answer {
    Ok(Response::from_body(body.into()).with_content_type(fastly::mime::TEXT_PLAIN))
}

fn error(error: impl std::fmt::Debug) -> (u16, String) {
    (500, format!("{error:?}"))
}

fn none() -> Answer {
    Err((404, "none".to_owned()))
}

struct Query(HashMap<String, String>);

impl Query {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    fn text(&self, name: &str) -> &str {
        self.get(name).unwrap_or_default()
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.get(name).and_then(|text| text.parse().ok())
    }

    fn seconds(&self, name: &str) -> Option<Duration> {
        self.number(name).map(Duration::from_secs)
    }

    fn ttl(&self) -> Duration {
        self.seconds("ttl").unwrap_or(Duration::from_secs(60))
    }

    fn pause(&self) {
        if let Some(ms) = self.number("ms") {
            sleep(Duration::from_millis(ms));
        }
    }

    fn key(&self) -> CacheKey {
        CacheKey::copy_from_slice(self.text("key").as_bytes())
    }
}

fn main() {
    let request = Request::from_client();
    let response = match answer(request) {
        Ok(response) => response,
        Err((status, body)) => Response::from_status(status).with_body(body),
    };
    response.send_to_client();
}

fn answer(mut request: Request) -> Answer {
    let path = request.get_path().to_owned();
    let query = Query(request.get_query().unwrap_or_default());
    match path.as_str() {
        _ if path.starts_with("/plain/") => plain(request),
        _ if path.starts_with("/guest/") => guest(request),
        "/core/get" => match core::lookup(query.key()).header_of(&request, &query).execute().map_err(error)? {
            Some(found) => show(&found, None, None),
            None => none(),
        },
        "/core/range" => match core::lookup(query.key()).execute().map_err(error)? {
            Some(found) => show(&found, query.number("from"), query.number("to")),
            None => none(),
        },
        "/core/set" => set(&mut request, &query),
        "/core/fill" => fill(&request, &query),
        "/core/cancel" => {
            let transaction = Transaction::lookup(query.key()).execute().map_err(error)?;
            if !transaction.must_insert_or_update() {
                return text("found");
            }
            transaction.cancel_insert_or_update().map_err(error)?;
            text("cancelled")
        }
        "/core/replace" => replaced(&query),
        "/core/abandon" => {
            let transaction = Transaction::lookup(query.key()).execute().map_err(error)?;
            let mut body = transaction.insert(query.ttl()).execute().map_err(error)?;
            body.write_all(b"half").map_err(error)?;
            body.flush().map_err(error)?;
            query.pause();
            drop(body);
            text("abandoned")
        }
        "/core/again" => again(&query),
        "/core/key" => {
            let key = CacheKey::from(vec![b'k'; query.number("length").unwrap_or(1) as usize]);
            match core::insert(key, query.ttl()).execute().map(|body| body.finish()) {
                Ok(_) => text("ok"),
                Err(refused) => text(format!("{refused:?}")),
            }
        }
        "/core/service" => match core::lookup(query.key()).on_behalf_of(query.text("id")).execute() {
            Ok(Some(found)) => show(&found, None, None),
            Ok(None) => none(),
            Err(refused) => text(format!("{refused:?}")),
        },
        "/core/async" => {
            let pending = Transaction::lookup(query.key()).execute_async().map_err(error)?;
            let was_pending = pending.pending().map_err(error)?;
            let transaction = pending.wait().map_err(error)?;
            let outcome = if transaction.must_insert_or_update() { "asked" } else { "found" };
            text(format!("{was_pending} {outcome}"))
        }
        "/core/hold" => {
            let transaction = Transaction::lookup(query.key()).execute().map_err(error)?;
            let asked = transaction.must_insert_or_update();
            query.pause();
            if asked {
                std::process::abort();
            }
            text("found")
        }
        "/simple" => {
            let value = query.text("value").to_owned();
            let ttl = query.ttl();
            let body = simple::get_or_set(query.text("key").to_owned(), value, ttl).map_err(error)?;
            text(body.into_string())
        }
        "/simple/entry" => {
            let made = simple::get_or_set_with(query.text("key").to_owned(), || Ok(CacheEntry { value: query.text("value").into(), ttl: query.ttl() }));
            text(made.map_err(error)?.map(Body::into_string).unwrap_or_default())
        }
        "/simple/purge" => {
            simple::purge(query.text("key").to_owned()).map_err(error)?;
            text("ok")
        }
        "/purge" => {
            let purge = if query.get("soft").is_some() { soft_purge_surrogate_key } else { purge_surrogate_key };
            purge(query.text("key")).map_err(error)?;
            text("ok")
        }
        _ => Err((404, "no such behaviour\n".to_owned())),
    }
}

/// What a test says about caching, taken off the request.
struct Asked {
    pass: bool,
    ttl: Option<u32>,
    swr: Option<u32>,
    sie: Option<u32>,
    keys: Option<HeaderValue>,
    key: Option<Vec<u8>>,
    pci: bool,
    timeout: Option<Duration>,
    after: Option<String>,
}

fn asked(request: &mut Request) -> Asked {
    let mut take = |name: &str| request.remove_header_str(format!("x-test-{name}").as_str());
    Asked {
        pass: take("pass").is_some(),
        ttl: take("ttl").and_then(|text| text.parse().ok()),
        swr: take("swr").and_then(|text| text.parse().ok()),
        sie: take("sie").and_then(|text| text.parse().ok()),
        keys: take("keys").and_then(|text| HeaderValue::from_str(&text).ok()),
        key: take("cache-key").map(|text| Sha256::digest(text).to_vec()),
        pci: take("pci").is_some(),
        timeout: take("timeout").and_then(|text| text.parse().ok()).map(Duration::from_millis),
        after: take("after"),
    }
}

/// By the request's handle: the host caches.
fn plain(mut request: Request) -> Answer {
    let asked = asked(&mut request);
    let (mut handle, body) = request.into_handles();
    let mut how = CacheOverride::None;
    if asked.pass {
        how = CacheOverride::pass();
    } else {
        asked.ttl.into_iter().for_each(|ttl| how.set_ttl(ttl));
        asked.swr.into_iter().for_each(|swr| how.set_stale_while_revalidate(swr));
        asked.keys.into_iter().for_each(|keys| how.set_surrogate_key(keys));
        asked.timeout.into_iter().for_each(|timeout| how.set_lookup_timeout(timeout));
        if asked.pci {
            how.set_pci(true);
        }
    }
    handle.set_cache_override(&how);
    asked.key.into_iter().for_each(|key| handle.set_cache_key(key));
    match send(handle, body.unwrap_or_else(BodyHandle::new)) {
        Ok(response) => Ok(response),
        Err(failed) => Err((502, format!("error: {failed}"))),
    }
}

fn send(handle: RequestHandle, body: BodyHandle) -> Result<Response, String> {
    let sent = handle.send(body, "origin").map_err(|failed| failed.to_string())?;
    Ok(Response::from(sent))
}

/// By the SDK's HTTP cache.
fn guest(mut request: Request) -> Answer {
    let asked = asked(&mut request);
    request.set_pass(asked.pass);
    if !asked.pass {
        asked.ttl.into_iter().for_each(|ttl| request.set_ttl(ttl));
        asked.swr.into_iter().for_each(|swr| request.set_stale_while_revalidate(swr));
        asked.sie.into_iter().for_each(|sie| request.set_stale_if_error(sie));
        asked.keys.into_iter().for_each(|keys| request.set_surrogate_key(keys));
        asked.timeout.into_iter().for_each(|timeout| request.set_lookup_timeout(timeout));
        if asked.pci {
            request.set_pci(true);
        }
    }
    asked.key.into_iter().for_each(|key| request.set_cache_key(key));
    if let Some(after) = asked.after {
        request.set_after_send(move |candidate| {
            if let Some(ttl) = after.strip_prefix("ttl=").and_then(|text| text.parse().ok()) {
                candidate.set_ttl(Duration::from_secs(ttl));
            }
            match after.as_str() {
                "uncacheable" => candidate.set_uncacheable(true),
                "fail-on-5xx" if candidate.get_status().is_server_error() => {
                    return Err(fastly::http::request::SendErrorCause::HttpIncompleteResponse);
                }
                "upper" => candidate.set_body_transform(|mut from, to| {
                    let mut text = String::new();
                    from.read_to_string(&mut text).map_err(|_| fastly::http::request::SendErrorCause::HttpIncompleteResponse)?;
                    to.write_all(text.to_uppercase().as_bytes()).map_err(|_| fastly::http::request::SendErrorCause::HttpIncompleteResponse)?;
                    Ok(())
                }),
                _ => {}
            }
            Ok(())
        });
    }
    match request.send("origin") {
        Ok(response) => Ok(response),
        Err(failed) => Err((502, format!("error: {}", failed.root_cause()))),
    }
}

fn show(found: &Found, from: Option<u64>, to: Option<u64>) -> Answer {
    let body = found.to_stream_from_range(from, to).map_err(error)?;
    let length = found.known_length().map_or("none".to_owned(), |length| length.to_string());
    Ok(Response::from_body(body)
        .with_header("x-state", if found.is_stale() { "stale" } else { "usable" })
        .with_header("x-age", found.age().as_secs().to_string())
        .with_header("x-max-age", found.max_age().as_secs().to_string())
        .with_header("x-swr", found.stale_while_revalidate().as_secs().to_string())
        .with_header("x-hits", found.hits().to_string())
        .with_header("x-length", length)
        .with_header("x-meta", String::from_utf8_lossy(&found.user_metadata()).into_owned()))
}

trait Headers: Sized {
    fn header_of(self, request: &Request, query: &Query) -> Self;
}

macro_rules! headers {
    ($kind:ty) => {
        impl Headers for $kind {
            fn header_of(self, request: &Request, query: &Query) -> Self {
                let Some(name) = query.get("vary") else { return self };
                let name: HeaderName = name.parse().expect("a name");
                let values: Vec<_> = request.get_header_all(&name).collect();
                self.header_values(&name, values)
            }
        }
    };
}
headers!(core::LookupBuilder);
headers!(core::InsertBuilder);
headers!(core::TransactionLookupBuilder);

macro_rules! options {
    ($builder:expr, $query:expr, $age:ident) => {{
        let (mut builder, query) = ($builder, $query);
        if let Some(swr) = query.seconds("swr") {
            builder = builder.stale_while_revalidate(swr);
        }
        if let Some(age) = query.seconds("age") {
            builder = builder.$age(age);
        }
        if let Some(keys) = query.get("keys") {
            builder = builder.surrogate_keys(keys.split(' '));
        }
        if let Some(meta) = query.get("meta") {
            builder = builder.user_metadata(meta.as_bytes().to_vec().into());
        }
        let names: Vec<HeaderName> = query.get("vary").map(|name| name.parse().expect("a name")).into_iter().collect();
        builder.vary_by(&names)
    }};
}

fn set(request: &mut Request, query: &Query) -> Answer {
    let mut builder = core::insert(query.key(), query.ttl()).header_of(request, query);
    if let Some(length) = query.number("length") {
        builder = builder.known_length(length);
    }
    let mut body = options!(builder, query, initial_age).execute().map_err(error)?;
    body.append(request.take_body());
    body.finish().map_err(error)?;
    text("ok")
}

fn fill(request: &Request, query: &Query) -> Answer {
    let transaction = Transaction::lookup(query.key()).header_of(request, query).execute().map_err(error)?;
    if !transaction.must_insert_or_update() {
        let found = transaction.found().ok_or((500, "neither found nor asked".to_owned()))?;
        return show(&found, None, None).map(|response| response.with_header("x-who", "found"));
    }
    query.pause();
    if query.get("update").is_some() && transaction.found().is_some() {
        options!(transaction.update(query.ttl()), query, age).execute().map_err(error)?;
        return text("updated").map(|response| response.with_header("x-who", "updated"));
    }
    let mut builder = transaction.insert(query.ttl());
    if let Some(length) = query.number("length") {
        builder = builder.known_length(length);
    }
    let (mut body, found) = options!(builder, query, initial_age).execute_and_stream_back().map_err(error)?;
    body.write_all(format!("filled by {}", query.text("who")).as_bytes()).map_err(error)?;
    body.finish().map_err(error)?;
    show(&found, None, None).map(|response| response.with_header("x-who", "filled"))
}

fn replaced(query: &Query) -> Answer {
    let strategy = match query.text("strategy") {
        "force" => ReplaceStrategy::ImmediateForceMiss,
        "wait" => ReplaceStrategy::Wait,
        _ => ReplaceStrategy::Immediate,
    };
    let replace: Replace = replace(query.key()).replace_strategy(strategy).begin().map_err(error)?;
    let before = match replace.existing_object() {
        Some(found) => {
            let body = found.to_stream().map_err(error)?.into_string();
            format!("{body} {} {}", found.hits(), found.max_age().as_secs())
        }
        None => "none".to_owned(),
    };
    query.pause();
    let mut body = replace.execute(query.ttl()).map_err(error)?;
    body.write_all(format!("replaced by {}", query.text("who")).as_bytes()).map_err(error)?;
    body.finish().map_err(error)?;
    text(before)
}

fn again(query: &Query) -> Answer {
    let mut body = core::insert(query.key(), query.ttl()).execute().map_err(error)?;
    body.write_all("0123456789".as_bytes()).map_err(error)?;
    body.finish().map_err(error)?;
    let Some(found) = core::lookup(query.key()).execute().map_err(error)? else { return none() };
    let length = found.known_length();
    let part = found.to_stream_from_range(Some(2), Some(4)).map_err(error)?.into_string();
    text(format!("{length:?} {part}"))
}
