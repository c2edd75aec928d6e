//! What HTTP makes of the cache (RFC 9111, with Fastly's rules): one [`Transaction`] for the guest's own calls
//! (`fastly_http_cache`) and for plain sends ([`readthrough`]).

pub mod decisions;
pub mod policy;
pub mod readthrough;
pub mod serve;

use std::sync::Arc;
use std::time::Duration;

use ::http::header;
use ::http::{HeaderMap, Method, StatusCode, Uri};
use sha2::{Digest, Sha256};

use crate::http::body::BodyWriter;
use crate::http::{Body, RequestHead, ResponseHead};
use crate::services::cache::{
    Cache, Error, Face, Found, Lookup, Object, Outcome, Phase, StoredHead, SurrogateKeys, VaryRule, WriteOptions,
};
use crate::telemetry::clock;

use decisions::Decision;
pub use policy::{Action, Reason};

/// The default key of a request's responses: its host, path and query.
pub fn default_key(request: &RequestHead) -> [u8; 32] {
    let (host, path) = address(request);
    let mut digest = Sha256::new();
    digest.update(host.to_ascii_lowercase());
    digest.update([0]);
    digest.update(path);
    digest.finalize().into()
}

/// Host, and path with query.
fn address(request: &RequestHead) -> (String, &str) {
    let path = request.uri.path_and_query().map_or("/", |path| path.as_str());
    let host = match request.headers.get(header::HOST) {
        Some(host) => String::from_utf8_lossy(host.as_bytes()).into_owned(),
        None => request.uri.authority().map(|authority| authority.as_str().to_owned()).unwrap_or_default(),
    };
    (host, path)
}

/// The address of a request, for people.
pub fn about(request: &RequestHead) -> Arc<str> {
    let (host, path) = address(request);
    let text = format!("{host}{path}");
    // For people.
    text[..text.floor_char_boundary(MAX_ABOUT)].into()
}

/// Bytes of an address that people are shown.
const MAX_ABOUT: usize = 1024;

/// What a purge of one URL is of: `host/path?query`, with or without a scheme.
pub fn key_of_url(url: &str) -> Option<[u8; 32]> {
    let rest = match url.split_once("://") {
        Some((scheme, rest)) if ["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known)) => rest,
        // In what follows the host it is a part of the path, or of the query.
        Some((before, _)) if before.contains('/') => url,
        Some(_) => return None,
        None => url,
    };
    let (host, path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, "/"),
    };
    if host.is_empty() {
        return None;
    }
    let uri: Uri = format!("http://{host}{path}").parse().ok()?;
    let port = host.rsplit_once(':').map(|(_, port)| port).filter(|port| !port.ends_with(']'));
    if host.contains('@') || port.is_some_and(|port| !port.is_empty() && uri.port_u16().is_none()) {
        return None;
    }
    Some(default_key(&RequestHead { uri, ..RequestHead::default() }))
}

/// One request's dealings with the cache, from the lookup to what comes of it.
#[derive(Debug)]
pub struct Transaction {
    cache: Cache,
    request: RequestHead,
    /// The key of its entry as SDKs have it.
    key: [u8; 32],
    lookup: Lookup,
    /// What becomes of it, for people.
    decision: Decision,
}

impl Transaction {
    /// Looks a request up; `key`: in place of the default one.
    pub fn begin(cache: &Cache, request: RequestHead, key: Option<[u8; 32]>, decision: Decision) -> Self {
        let key = key.unwrap_or_else(|| default_key(&request));
        let lookup = cache.transaction(cache.key(Face::Http, &key), &request.headers, true, &|| about(&request));
        Self::with(cache, request, lookup, decision, key)
    }

    /// Looks a request up without ever being asked for a response.
    pub fn peek(cache: &Cache, request: RequestHead, key: Option<[u8; 32]>, decision: Decision) -> Self {
        let key = key.unwrap_or_else(|| default_key(&request));
        let outcome = Outcome { found: cache.lookup(&cache.key(Face::Http, &key), &request.headers), ..Outcome::default() };
        Self::with(cache, request, outcome.into(), decision, key)
    }

    fn with(cache: &Cache, request: RequestHead, lookup: Lookup, mut decision: Decision, key: [u8; 32]) -> Self {
        decision.key = Some(cache.key(Face::Http, &key));
        decision.waited = lookup.is_waiting();
        Self { cache: cache.clone(), request, key, lookup, decision }
    }

    /// Waits until the lookup has an outcome. Cancel-safe.
    pub async fn ready(&mut self) {
        self.lookup.ready().await;
        if self.decision.lookup.is_none() {
            let outcome = self.lookup.outcome().await;
            self.decision.note_lookup(&self.cache, outcome);
        }
    }

    /// The outcome, waiting for it.
    pub async fn outcome(&mut self) -> &mut Outcome {
        self.ready().await;
        self.lookup.outcome().await
    }

    /// The request that was looked up.
    pub fn request(&self) -> &RequestHead {
        &self.request
    }

    /// The request to send for a response that may be stored.
    pub async fn backend_request(&mut self) -> RequestHead {
        let stored = self.revalidated().await.and_then(|object| object_head(&object));
        policy::backend_request(&self.request, stored.as_ref().map(|head| &head.headers))
    }

    /// What is to be revalidated.
    async fn revalidated(&mut self) -> Option<Arc<Object>> {
        let outcome = self.outcome().await;
        if let Some(stale) = &outcome.stale {
            return Some(stale.clone());
        }
        outcome.found.as_ref().filter(|found| found.phase != Phase::Fresh).map(Found::object)
    }

    /// How a response is to be stored, as it says itself. As in production, its key is one of its surrogate keys: 64
    /// hexadecimal digits.
    pub fn options(&self, response: &ResponseHead) -> WriteOptions {
        let freshness = policy::freshness(response, clock::unix());
        WriteOptions {
            max_age: freshness.max_age,
            initial_age: freshness.initial_age,
            stale_while_revalidate: freshness.stale_while_revalidate,
            stale_if_error: freshness.stale_if_error,
            vary: policy::vary(&response.headers).unwrap_or_default(),
            surrogate_keys: SurrogateKeys::parse(self.key_text().as_bytes()),
            length: content_length(response).filter(|_| response.status != StatusCode::NOT_MODIFIED),
            ..WriteOptions::default()
        }
    }

    /// The key of its entry.
    pub fn key_text(&self) -> String {
        self.key.iter().map(|byte| format!("{byte:02X}")).collect()
    }

    /// A response as it is to be stored, and what to do with it.
    pub async fn prepare(&mut self, response: &ResponseHead) -> (Action, ResponseHead) {
        if response.status == StatusCode::NOT_MODIFIED
            && let Some(stored) = self.revalidated().await
            && let Some(stored) = object_head(&stored)
        {
            // Whatever it says about storing: what is stored is the answer, and its bytes are nowhere else.
            self.decision.note_action(Action::Update, Reason::Revalidated);
            return (Action::Update, policy::freshened(&stored, response));
        }
        let (action, reason) = policy::judge(response, content_length(response), self.cache.largest());
        if matches!(reason, Reason::TooLarge) {
            self.cache.too_large();
        }
        self.decision.note_action(action, reason);
        (action, response.clone())
    }

    fn take_obligation(outcome: &mut Outcome) -> Result<crate::services::cache::Obligation, Error> {
        outcome.obligation.take().ok_or(Error::NotAsked)
    }

    /// Stores a response: its body is written from now on, and the new transaction has it.
    pub async fn insert(&mut self, head: &ResponseHead, mut options: WriteOptions) -> Result<(BodyWriter, Self), Error> {
        self.complete(head, &mut options);
        let obligation = Self::take_obligation(self.outcome().await)?;
        let (writer, found) = obligation.insert(options)?;
        Ok((writer, self.follow(found)))
    }

    /// Writes what is stored anew but for its bytes; the new transaction has it.
    pub async fn update(&mut self, head: &ResponseHead, mut options: WriteOptions) -> Result<Self, Error> {
        let base = self.revalidated().await.ok_or(Error::NotFound)?;
        options.length = None;
        self.complete(head, &mut options);
        let obligation = Self::take_obligation(self.outcome().await)?;
        let found = obligation.update(&base, options)?;
        Ok(self.follow(found))
    }

    /// Some SDKs add the surrogate keys of the response to those suggested; for one that stores what was suggested, they are
    /// added here.
    fn complete(&mut self, head: &ResponseHead, options: &mut WriteOptions) {
        let own = self.key_text();
        if head.headers.contains_key(policy::SURROGATE_KEY) && options.surrogate_keys.to_string() == own {
            let told = head.headers.get_all(policy::SURROGATE_KEY).into_iter().map(::http::HeaderValue::as_bytes);
            let all: Vec<&[u8]> = std::iter::once(own.as_bytes()).chain(told).collect();
            options.surrogate_keys = SurrogateKeys::parse(&all.join(&b' '));
        }
        options.head = Some(StoredHead::new(head));
        self.decision.note_options(options);
    }

    fn follow(&self, found: Found) -> Self {
        let outcome = Outcome { found: Some(found), ..Outcome::default() };
        Self { cache: self.cache.clone(), request: self.request.clone(), key: self.key, lookup: outcome.into(), decision: Decision::none() }
    }

    /// Takes what was stored before, since no new response can be had; so do all who wait for it.
    pub async fn choose_stale(&mut self) -> Result<(), Error> {
        let outcome = self.outcome().await;
        let stale = outcome.stale.take().filter(|_| outcome.stale_if_error).ok_or(Error::NotFound)?;
        let obligation = match Self::take_obligation(outcome) {
            Ok(obligation) => obligation,
            Err(error) => {
                outcome.stale = Some(stale);
                return Err(error);
            }
        };
        outcome.found = Some(obligation.choose_stale(&stale));
        self.decision.note_stale_if_error();
        Ok(())
    }

    /// Has requests like this one do without the cache.
    pub async fn record_uncacheable(&mut self, max_age: Duration, vary: VaryRule) -> Result<(), Error> {
        self.decision.note_action(Action::RecordUncacheable, Reason::Guest);
        let obligation = Self::take_obligation(self.outcome().await)?;
        obligation.record_uncacheable(policy::pass_time(max_age), vary);
        Ok(())
    }

    /// Gives the duty to get a response up.
    pub async fn abandon(&mut self) -> Result<(), Error> {
        let obligation = Self::take_obligation(self.outcome().await)?;
        drop(obligation);
        Ok(())
    }

    /// Notes what decided.
    pub fn note(&mut self, action: Action, reason: Reason) {
        self.decision.note_action(action, reason);
    }

    /// The object that was found, waiting for it.
    pub async fn found(&mut self) -> Option<&Found> {
        self.outcome().await.found.as_ref()
    }

    /// The stored response, as an answer to the request if `for_client`.
    pub async fn response(&mut self, for_client: bool) -> Option<(ResponseHead, Body)> {
        self.ready().await;
        let request = &self.request;
        let found = self.lookup.outcome().await.found.as_ref()?;
        let head = found.head().map(StoredHead::head).unwrap_or_default();
        if for_client {
            let mut head = head;
            if !is_of_fastly(&request.headers) {
                head.headers.remove(policy::SURROGATE_KEY);
                head.headers.remove(policy::SURROGATE_CONTROL);
            }
            let (head, part) = serve::answer(request, head, found.length(), found.age());
            return Some((head, serve::body(part, |at, end| found.body(at, end))));
        }
        let mut head = head;
        head.headers.insert(header::AGE, ::http::HeaderValue::from(found.age().as_secs()));
        Some((head, found.body(0, None)))
    }
}

/// Whether another of Fastly's caches asks: it gets the fields that are for caches.
fn is_of_fastly(headers: &HeaderMap) -> bool {
    let caches = headers.get_all("cdn-loop").into_iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    headers.contains_key("fastly-ff")
        || headers.contains_key("fastly-debug")
        || caches.map(<[u8]>::trim_ascii).any(|cache| cache.len() >= 6 && cache[..6].eq_ignore_ascii_case(b"fastly"))
}

fn object_head(object: &Object) -> Option<ResponseHead> {
    object.options().head.as_ref().map(StoredHead::head)
}

/// The length that a response's head tells; told twice, or badly, it is none.
fn content_length(response: &ResponseHead) -> Option<u64> {
    let mut values = response.headers.get_all(header::CONTENT_LENGTH).iter();
    let text = values.next()?.to_str().ok()?;
    (values.next().is_none()).then(|| text.trim().parse().ok()).flatten()
}

/// Requests that change what they are sent to make what is stored of it doubtful: it goes, if they went well (RFC 9111
/// §4.4).
pub fn invalidate(cache: &Cache, request: &RequestHead, status: StatusCode) {
    if policy::is_unsafe(&request.method) && (status.is_success() || status.is_redirection()) {
        let key = cache.key(Face::Http, &default_key(request));
        cache.invalidate(&key);
    }
}

/// Whether the cache is asked for a request.
pub fn is_cacheable(method: &Method) -> bool {
    policy::is_cacheable(method)
}
