//! Plain sends through the cache: what a guest gets from `send` is from the cache if it is there, and in it afterwards if
//! it may be.

use std::sync::Arc;
use std::time::Duration;

use ::http::header::{self, HeaderName, HeaderValue};
use ::http::{HeaderMap, Method, StatusCode};
use bytes::Bytes;

use super::decisions::{Asker, Decision};
use super::policy::{SURROGATE_CONTROL, SURROGATE_KEY};
use super::{Action, Reason, Transaction};
use crate::http::{Body, RequestHead, ResponseHead, encoding};
use crate::services::backend::{Backend, Request, Response, SendError};
use crate::services::cache::{self, Cache, Face, Purge, SurrogateKeys, WriteOptions};

/// What a guest said about caching a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Override {
    /// The cache is not asked.
    pub pass: bool,
    /// How long what comes is fresh.
    pub ttl: Option<Duration>,
    /// How long it may be used after that while it is revalidated.
    pub stale_while_revalidate: Option<Duration>,
    /// Whether it must not be stored where it outlives the process.
    pub sensitive: bool,
    /// More surrogate keys, with spaces between them.
    pub surrogate_keys: Bytes,
    /// Longest wait for others who ask for the same.
    pub lookup_timeout: Option<Duration>,
}

/// Who sends, and through which cache.
#[derive(Clone, Debug)]
pub struct Sender {
    /// The service's cache.
    pub cache: Cache,
    /// Whose request it is.
    pub asker: Asker,
    /// The name of this host in `X-Served-By`.
    pub served_by: HeaderValue,
    /// Whether responses are cached.
    pub caches: bool,
}

/// The key of a request's responses in place of the default one, in hexadecimal digits (a convention of the SDKs).
pub const KEY_FIELD: HeaderName = HeaderName::from_static("fastly-xqd-cache-key");

const X_CACHE: HeaderName = HeaderName::from_static("x-cache");
const X_CACHE_HITS: HeaderName = HeaderName::from_static("x-cache-hits");
const X_SERVED_BY: HeaderName = HeaderName::from_static("x-served-by");
const SOFT_PURGE: HeaderName = HeaderName::from_static("fastly-soft-purge");

/// The key that a request names itself, taken off it.
pub fn take_key(headers: &mut HeaderMap) -> Option<[u8; 32]> {
    let field = headers.remove(KEY_FIELD)?;
    let digits = field.as_bytes();
    let mut bytes = Vec::with_capacity(digits.len() / 2);
    for pair in digits.chunks(2) {
        bytes.push(u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?);
    }
    match <[u8; 32]>::try_from(bytes.as_slice()) {
        Ok(key) => Some(key),
        Err(_) => {
            use sha2::{Digest, Sha256};
            Some(Sha256::digest(&bytes).into())
        }
    }
}

impl Sender {
    /// Sends a request, through the cache if that may be.
    pub async fn send(self, backend: Arc<Backend>, mut request: Request, how: Override) -> Result<Response, SendError> {
        let key = take_key(&mut request.head.headers);
        if request.head.method.as_str() == "PURGE" {
            return Ok(self.purge(&request.head, key).await);
        }
        if how.pass {
            return self.direct(backend, request).await;
        }
        // Whether the answer may have Fastly's own fields: one that another of its caches asks for.
        let keeps = super::is_of_fastly(&request.head.headers);
        let mut response = match self.caches && super::is_cacheable(&request.head.method) {
            // In a box: what passes by the cache has no use for so large a future.
            true => Box::pin(self.through(backend, request, key, &how)).await?,
            false => self.direct(backend, request).await.map(missed)?,
        };
        if !keeps {
            response.head.headers.remove(SURROGATE_KEY);
            response.head.headers.remove(SURROGATE_CONTROL);
        }
        add(&mut response.head.headers, X_SERVED_BY, &self.served_by);
        Ok(response)
    }

    /// Sends a request past the cache.
    pub async fn direct(&self, backend: Arc<Backend>, mut request: Request) -> Result<Response, SendError> {
        request.origin.clone_from(&self.asker.origin);
        if !super::policy::is_unsafe(&request.head.method) {
            return backend.send(request).await;
        }
        let head = RequestHead { headers: host_of(&request.head.headers), ..bare(&request.head) };
        let response = backend.send(request).await?;
        super::invalidate(&self.cache, &head, response.head.status);
        Ok(response)
    }

    /// What is stored is as the backend sent it; a guest that wants it decoded gets it so.
    async fn through(&self, backend: Arc<Backend>, request: Request, key: Option<[u8; 32]>, how: &Override) -> Result<Response, SendError> {
        let decompress = request.decompress;
        let mut response = self.stored(backend, Request { decompress: false, ..request }, key, how).await?;
        if decompress && response.head.status != StatusCode::PARTIAL_CONTENT {
            response.body = encoding::gunzip(&mut response.head.headers, std::mem::take(&mut response.body));
        }
        Ok(response)
    }

    async fn stored(&self, backend: Arc<Backend>, request: Request, key: Option<[u8; 32]>, how: &Override) -> Result<Response, SendError> {
        let Request { head, body, decompress, upgrade, origin: _ } = request;
        let decision = Decision::new(&self.asker, format!("{} {}", head.method, super::about(&head)).into(), false);
        let mut transaction = Transaction::begin(&self.cache, head, key, decision);
        if let Some(limit) = how.lookup_timeout
            && tokio::time::timeout(limit, transaction.ready()).await.is_err()
        {
            return Err(SendError::ResponseTimeout(limit.as_millis()));
        }
        let outcome = transaction.outcome().await;
        let (found, asked, usable_if_error) = (outcome.found.is_some(), outcome.obligation.is_some(), outcome.stale_if_error);
        if found {
            let response = cached(&mut transaction, None).await;
            if asked {
                // The answer is here; the next one will be newer.
                let (sender, how) = (self.clone(), how.clone());
                tokio::spawn(async move {
                    let fetched = sender.fetch(&backend, &mut transaction, body, &how).await;
                    if let Err(error) = fetched {
                        tracing::info!(target: "sidelight::cache", request_id = &*sender.asker.request_id, %error, "a response could not be revalidated");
                    }
                });
            }
            return Ok(response);
        }
        if !asked {
            // Requests like this do without the cache.
            let head = transaction.request().clone();
            let response = backend.send(Request { head, body, decompress, upgrade, origin: self.asker.origin.clone() }).await;
            return response.map(missed);
        }
        match self.fetch(&backend, &mut transaction, body, how).await {
            Err(error) if usable_if_error => match transaction.choose_stale().await {
                Ok(()) => {
                    tracing::info!(target: "sidelight::cache", request_id = &*self.asker.request_id, %error, "a stale response in place of an error");
                    // It counts as a miss, as SDKs have it: the backend was asked.
                    Ok(cached(&mut transaction, Some(None)).await)
                }
                Err(_) => Err(error),
            },
            fetched => fetched,
        }
    }

    /// Gets a response from the backend and stores it, if that may be.
    async fn fetch(
        &self,
        backend: &Arc<Backend>,
        transaction: &mut Transaction,
        body: Body,
        how: &Override,
    ) -> Result<Response, SendError> {
        let head = transaction.backend_request().await;
        let asked = transaction.request().method.clone();
        let Response { head, body, peer, switched } =
            backend.clone().send(Request { head, body, decompress: false, upgrade: None, origin: self.asker.origin.clone() }).await?;
        let (mut action, head) = transaction.prepare(&head).await;
        if head.headers.contains_key(header::SET_COOKIE) && action == Action::Insert {
            action = Action::RecordUncacheable;
            transaction.note(action, Reason::SetCookie);
        }
        let options = options(transaction, &head, &body, how);
        // It says what is stored; whoever has it as an answer reads that again.
        let internal = |error: cache::Error| SendError::Internal(error.to_string());
        match action {
            Action::Insert => {
                let (mut writer, mut stored) = transaction.insert(&head, options).await.map_err(internal)?;
                // Into the cache, whoever reads it: what is here at once, the rest by itself.
                if writer.append(body).await.is_ok() {
                    drop(writer.finish().await);
                }
                Ok(cached(&mut stored, Some(peer)).await)
            }
            Action::Update => {
                let mut fresh = transaction.update(&head, options).await.map_err(internal)?;
                Ok(cached(&mut fresh, None).await)
            }
            Action::DoNotStore => {
                transaction.abandon().await.map_err(internal)?;
                Ok(missed(unstored(Response { head, body, peer, switched }, &asked)))
            }
            Action::RecordUncacheable => {
                transaction.record_uncacheable(options.max_age, options.vary).await.map_err(internal)?;
                Ok(missed(unstored(Response { head, body, peer, switched }, &asked)))
            }
        }
    }

    /// A request to forget an address, answered here.
    async fn purge(&self, request: &RequestHead, key: Option<[u8; 32]>) -> Response {
        let key = self.cache.key(Face::Http, &key.unwrap_or_else(|| super::default_key(request)));
        let soft = request.headers.get(SOFT_PURGE).is_some_and(|value| value.as_bytes() == b"1");
        let done = self.cache.purge_everywhere(&Purge::Entry { key, soft }).await;
        let mut head = ResponseHead::default();
        let text = match done {
            Ok(done) => serde_json::json!({ "status": "ok", "id": done.id }),
            Err(error) => {
                tracing::warn!(target: "sidelight::cache", request_id = &*self.asker.request_id, %error, "a purge did not reach everybody");
                head.status = StatusCode::SERVICE_UNAVAILABLE;
                serde_json::json!({ "status": "error" })
            }
        };
        head.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Response { head, body: Body::from(Bytes::from(text.to_string())), peer: None, switched: None }
    }
}

/// The address of a request, without its other fields.
fn bare(head: &RequestHead) -> RequestHead {
    RequestHead { method: head.method.clone(), uri: head.uri.clone(), ..RequestHead::default() }
}

fn host_of(headers: &HeaderMap) -> HeaderMap {
    headers.get(header::HOST).map(|host| (header::HOST, host.clone())).into_iter().collect()
}

fn options(transaction: &Transaction, head: &ResponseHead, body: &Body, how: &Override) -> WriteOptions {
    let mut options = transaction.options(head);
    if let Some(ttl) = how.ttl {
        options.max_age = ttl.saturating_add(options.initial_age);
    }
    if let Some(time) = how.stale_while_revalidate {
        options.stale_while_revalidate = time;
    }
    options.sensitive = how.sensitive;
    options.length = body.framed_length();
    let mut keys = transaction.key_text().into_bytes();
    keys.push(b' ');
    keys.extend_from_slice(&how.surrogate_keys);
    for value in head.headers.get_all(SURROGATE_KEY) {
        keys.push(b' ');
        keys.extend_from_slice(value.as_bytes());
    }
    options.surrogate_keys = SurrogateKeys::parse(&keys);
    options
}

/// A response that is in the cache, as an answer. `fetched`: it has just come, from there.
async fn cached(transaction: &mut Transaction, fetched: Option<Option<std::net::SocketAddr>>) -> Response {
    let hits = transaction.found().await.map_or(0, |found| found.hits);
    let (mut head, body) = transaction.response(true).await.unwrap_or_default();
    if fetched.is_some() {
        mark_miss(&mut head.headers);
    } else {
        add(&mut head.headers, X_CACHE, &HeaderValue::from_static("HIT"));
        add(&mut head.headers, X_CACHE_HITS, &HeaderValue::from(hits));
    }
    Response { head, body, peer: fetched.flatten(), switched: None }
}

/// A whole response to a HEAD request that was sent as GET: the client gets no body.
fn unstored(mut response: Response, asked: &Method) -> Response {
    if *asked == Method::HEAD {
        if let Some(length) = response.body.known_length().filter(|length| *length > 0) {
            response.head.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        }
        response.body = Body::empty();
    }
    response
}

fn missed(mut response: Response) -> Response {
    mark_miss(&mut response.head.headers);
    response
}

fn mark_miss(headers: &mut HeaderMap) {
    add(headers, X_CACHE, &HeaderValue::from_static("MISS"));
    add(headers, X_CACHE_HITS, &HeaderValue::from_static("0"));
}

/// Adds to a list, behind what other caches have said.
fn add(headers: &mut HeaderMap, name: HeaderName, value: &HeaderValue) {
    let list = match headers.get(&name) {
        Some(before) => HeaderValue::from_bytes(&[before.as_bytes(), b", ", value.as_bytes()].concat()).unwrap_or_else(|_| value.clone()),
        None => value.clone(),
    };
    headers.insert(name, list);
}
