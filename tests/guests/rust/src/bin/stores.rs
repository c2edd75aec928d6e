//! Stores and edge data, by path and query; tests/guests/README.md is the contract that this program shares with its
//! JavaScript and Go twins.

#![allow(deprecated, reason = "older interfaces are what is asked for, too")]

use std::collections::HashMap;
use std::time::Duration;

use fastly::acl::Acl;
use fastly::config_store::ConfigStore;
use fastly::dictionary::Dictionary;
use fastly::erl::{CounterDuration, ERL, Penaltybox, RateCounter, RateWindow};
use fastly::kv_store::{InsertMode, KVStore, KVStoreError};
use fastly::secret_store::SecretStore;
use fastly::shielding::Shield;
use fastly::{Request, Response, device_detection, geo};

type Answer = Result<Response, (u16, String)>;

fn text(body: impl Into<String>) -> Answer {
    Ok(Response::from_body(body.into()))
}

fn none() -> Answer {
    Err((404, "none".to_owned()))
}

fn error(error: impl std::fmt::Debug) -> (u16, String) {
    (500, format!("{error:?}"))
}

struct Query(Request, HashMap<String, String>);

impl Query {
    fn get(&self, name: &str) -> Option<&str> {
        self.1.get(name).map(String::as_str)
    }

    fn text(&self, name: &str) -> &str {
        self.get(name).unwrap_or_default()
    }

    fn number(&self, name: &str, default: u64) -> u64 {
        self.get(name).and_then(|text| text.parse().ok()).unwrap_or(default)
    }
}

fn main() {
    let request = Request::from_client();
    let pairs = request.get_query().unwrap_or_default();
    let query = Query(request, pairs);
    let response = match answer(query) {
        Ok(response) => response,
        Err((status, body)) => Response::from_status(status).with_body(body),
    };
    response.send_to_client();
}

fn answer(mut query: Query) -> Answer {
    let path = query.0.get_path().to_owned();
    let (store, key) = (query.text("store").to_owned(), query.text("key").to_owned());
    match path.as_str() {
        "/config" => match ConfigStore::try_open(&store).map_err(error)?.try_get(&key).map_err(error)? {
            Some(value) => text(value),
            None => none(),
        },
        "/dictionary" => match Dictionary::try_open(&store).map_err(error)?.try_get(&key).map_err(error)? {
            Some(value) => text(value),
            None => none(),
        },
        "/configs" => {
            let store = ConfigStore::try_open(&store).map_err(error)?;
            for _ in 0..query.number("n", 1) {
                store.try_get(&key).map_err(error)?;
            }
            text("ok")
        }
        "/secret" => match SecretStore::open(&store).map_err(error)?.try_get(&key).map_err(error)? {
            Some(secret) => Ok(Response::from_body(secret.plaintext().to_vec())),
            None => none(),
        },
        "/acl" => {
            let acl = Acl::open(&store).map_err(error)?;
            match acl.try_lookup(query.text("ip").parse().map_err(error)?).map_err(error)? {
                Some(found) if found.is_block() => text(format!("BLOCK {}", found.prefix())),
                Some(found) if found.is_allow() => text(format!("ALLOW {}", found.prefix())),
                Some(_) => text("?"),
                None => none(),
            }
        }
        "/geo" => match geo::geo_lookup(query.text("ip").parse().map_err(error)?) {
            Some(geo) => text(format!("{} {} {} {}", geo.city(), geo.country_code(), geo.country_code3(), geo.as_number())),
            None => none(),
        },
        "/device" => match device_detection::lookup(query.text("ua")) {
            Some(device) => {
                text(format!("{:?} {:?} {:?} {:?}", device.brand(), device.model(), device.user_agent_name(), device.is_mobile()))
            }
            None => none(),
        },
        "/uap" => uap(query.text("ua")),
        "/shield" => {
            let shield = Shield::new(&store).map_err(error)?;
            let backend = shield.unencrypted_backend().map(|backend| backend.name().to_owned());
            let again = shield.unencrypted_backend().map(|backend| backend.name().to_owned());
            if backend != again {
                return Err((500, format!("{backend:?} and then {again:?}")));
            }
            let body = match shield.unencrypted_backend() {
                Ok(backend) => Request::get("http://shield.test/through").with_pass(true).send(backend).map_err(error)?.take_body_str(),
                Err(status) => format!("{status:?}"),
            };
            text(format!("{} {backend:?} {body}", shield.running_on()))
        }
        "/kv" => kv(&mut query, &store, &key),
        "/kv-list" => {
            let Some(opened) = open(&store)? else { return none() };
            let mut list = opened.build_list();
            if let Some(prefix) = query.get("prefix") {
                list = list.prefix(prefix);
            }
            if let Some(cursor) = query.get("cursor") {
                list = list.cursor(cursor);
            }
            if query.get("eventual").is_some() {
                list = list.eventual_consistency();
            }
            let page = list.limit(query.number("limit", 100) as u32).execute().map_err(kv_error)?;
            let next = page.next_cursor().unwrap_or_default();
            Ok(Response::from_body(page.keys().join(",")).with_header("x-next", next).with_header("x-limit", page.limit().to_string()))
        }
        "/kv-many" => {
            // Reads are all on their way before any is waited for.
            let Some(opened) = open(&store)? else { return none() };
            let pending: Vec<_> = key.split(',').map(|key| opened.build_lookup().execute_async(key).map_err(kv_error)).collect();
            let mut values = Vec::new();
            for pending in pending {
                let value = opened.pending_lookup_wait(pending?);
                values.push(value.map_or_else(|error| format!("{error:?}"), |mut value| String::from_utf8_lossy(&value.take_body_bytes()).into_owned()));
            }
            text(values.join(","))
        }
        "/kv-stream" => {
            // From a backend into the store, and from there to the client.
            let Some(opened) = open(&store)? else { return none() };
            let mut response = Request::get("http://origin.test/").with_pass(true).send("origin").map_err(error)?;
            opened.insert(&key, response.take_body()).map_err(kv_error)?;
            Ok(Response::from_body(opened.lookup(&key).map_err(kv_error)?.take_body()))
        }
        "/kv-old" => kv_old(&store, &key),
        "/check" => {
            let limiter = ERL::open(RateCounter::open(query.text("counter")), Penaltybox::open(query.text("box")));
            let ttl = Duration::from_secs(query.number("ttl", 60));
            let window = window(query.number("window", 1))?;
            let (delta, limit) = (query.number("delta", 1) as u32, query.number("limit", 10) as u32);
            text(limiter.check_rate(query.text("entry"), delta, window, limit, ttl).map_err(error)?.to_string())
        }
        "/increment" => {
            let counter = RateCounter::open(query.text("counter"));
            counter.increment(query.text("entry"), query.number("delta", 1) as u32).map_err(error)?;
            text("ok")
        }
        "/rate" => {
            let counter = RateCounter::open(query.text("counter"));
            text(counter.lookup_rate(query.text("entry"), window(query.number("window", 1))?).map_err(error)?.to_string())
        }
        "/count" => {
            let counter = RateCounter::open(query.text("counter"));
            let duration = match query.number("window", 10) {
                20 => CounterDuration::TwentySecs,
                60 => CounterDuration::SixtySecs,
                _ => CounterDuration::TenSec,
            };
            text(counter.lookup_count(query.text("entry"), duration).map_err(error)?.to_string())
        }
        "/penalize" => {
            let ttl = Duration::from_secs(query.number("ttl", 60));
            Penaltybox::open(query.text("box")).add(query.text("entry"), ttl).map_err(error)?;
            text("ok")
        }
        "/penalized" => text(Penaltybox::open(query.text("box")).has(query.text("entry")).map_err(error)?.to_string()),
        _ => Err((404, "no such path".to_owned())),
    }
}

fn window(seconds: u64) -> Result<RateWindow, (u16, String)> {
    match seconds {
        1 => Ok(RateWindow::OneSec),
        10 => Ok(RateWindow::TenSecs),
        60 => Ok(RateWindow::SixtySecs),
        other => Err((400, format!("{other} is no window"))),
    }
}

fn open(store: &str) -> Result<Option<KVStore>, (u16, String)> {
    match KVStore::open(store) {
        Ok(store) => Ok(store),
        Err(KVStoreError::StoreNotFound(_)) => Ok(None),
        Err(other) => Err(error(other)),
    }
}

fn kv_error(error: KVStoreError) -> (u16, String) {
    let status = match &error {
        KVStoreError::ItemNotFound => 404,
        KVStoreError::ItemPreconditionFailed => 412,
        KVStoreError::ItemPayloadTooLarge => 413,
        KVStoreError::TooManyRequests => 429,
        KVStoreError::ItemBadRequest | KVStoreError::InvalidKey => 400,
        _ => 500,
    };
    (status, format!("{error:?}"))
}

fn kv(query: &mut Query, store: &str, key: &str) -> Answer {
    let body = query.0.take_body();
    let Some(opened) = open(store)? else { return Err((404, "no store".to_owned())) };
    match query.0.get_method_str() {
        "PUT" => {
            let mode = match query.text("mode") {
                "add" => InsertMode::Add,
                "append" => InsertMode::Append,
                "prepend" => InsertMode::Prepend,
                _ => InsertMode::Overwrite,
            };
            let mut insert = opened.build_insert().mode(mode).metadata(query.text("metadata"));
            if let Some(generation) = query.get("generation") {
                insert = insert.if_generation_match(generation.parse().map_err(error)?);
            }
            if let Some(ttl) = query.get("ttl") {
                insert = insert.time_to_live(Duration::from_secs(ttl.parse().map_err(error)?));
            }
            insert.execute(key, body).map_err(kv_error)?;
            text("ok")
        }
        "DELETE" => {
            opened.delete(key).map_err(kv_error)?;
            text("ok")
        }
        _ => {
            let mut found = opened.lookup(key).map_err(kv_error)?;
            let metadata = found.metadata().unwrap_or_default().to_vec();
            let generation = found.current_generation().to_string();
            Ok(Response::from_body(found.take_body()).with_header("x-metadata", metadata).with_header("x-generation", generation))
        }
    }
}

/// The older interface, which the SDK has left.
fn kv_old(store: &str, key: &str) -> Answer {
    use fastly_sys::fastly_kv_store as sys;
    let mut handle = 0;
    let status = unsafe { sys::open(store.as_ptr(), store.len(), &mut handle) };
    if status != fastly_shared::FastlyStatus::OK {
        return Err((404, format!("{status:?}")));
    }
    let body = fastly::handle::BodyHandle::from("an old value");
    let written = unsafe { sys::insert(handle, key.as_ptr(), key.len(), body.into_u32()) };
    let mut found = u32::MAX - 1;
    let read = unsafe { sys::lookup(handle, key.as_ptr(), key.len(), &mut found) };
    let value = unsafe { fastly::handle::BodyHandle::from_u32(found) }.into_string();
    let mut pending = 0;
    let deleting = unsafe { sys::delete_async(handle, key.as_ptr(), key.len(), &mut pending) };
    let deleted = unsafe { sys::pending_delete_wait(pending) };
    let mut gone = 7;
    let absent = unsafe { sys::lookup(handle, key.as_ptr(), key.len(), &mut gone) };
    text(format!("{written:?} {read:?} {value} {deleting:?} {deleted:?} {absent:?} {}", gone == u32::MAX - 1))
}

fn uap(agent: &str) -> Answer {
    let mut buffers = [[0u8; 64]; 4];
    let mut written = [0usize; 4];
    let [family, major, minor, patch] = &mut buffers;
    let [a, b, c, d] = &mut written;
    let status = unsafe {
        fastly_sys::fastly_uap::parse(
            agent.as_ptr(),
            agent.len(),
            family.as_mut_ptr(),
            64,
            a,
            major.as_mut_ptr(),
            64,
            b,
            minor.as_mut_ptr(),
            64,
            c,
            patch.as_mut_ptr(),
            64,
            d,
        )
    };
    if status != fastly_shared::FastlyStatus::OK {
        return Err((501, format!("{status:?}")));
    }
    let parts = buffers.iter().zip(written).map(|(buffer, length)| String::from_utf8_lossy(&buffer[..length]).into_owned());
    text(parts.collect::<Vec<_>>().join("|"))
}
