//! `fastly_http_cache`: the HTTP cache as guests drive it. Of what a response means for the cache this file knows nothing.

use std::time::Duration;

use crate::abi::cache::state::{FOUND, MUST_INSERT_OR_UPDATE, STALE, USABLE, USABLE_IF_ERROR};
use crate::abi::cache::{HttpLookup, HttpWrite, Suggested, Wanted, nanos};
use crate::abi::{Buf, HostError, HostResult, Registrar};
use crate::http::Body;
use crate::sandbox::{GuestRequest, GuestResponse, Handle, Sandbox};
use crate::services::cache::{Found, Phase};
use crate::services::http_cache::decisions::Decision;
use crate::services::http_cache::{self, Transaction};

type Entry = Handle<Transaction>;
type Request = Handle<GuestRequest>;
type Response = Handle<GuestResponse>;
type BodyHandle = Handle<Body>;

fn is_request_cacheable(sandbox: &mut Sandbox, request: Request) -> HostResult<bool> {
    Ok(http_cache::is_cacheable(&sandbox.requests.get(request)?.head.method) && sandbox.config.cache_http)
}

fn get_suggested_cache_key(sandbox: &mut Sandbox, request: Request) -> HostResult<Buf<[u8; 32]>> {
    Ok(Buf(http_cache::default_key(&sandbox.requests.get(request)?.head)))
}

fn begin(sandbox: &mut Sandbox, request: Request, options: &HttpLookup, waits: bool) -> HostResult<Entry> {
    let head = sandbox.requests.get(request)?.head.clone();
    if let Some(backend) = &options.backend
        && sandbox.backend(backend.text()?).is_none()
    {
        return Err(HostError::inval("no backend of that name"));
    }
    sandbox.items.has_room()?;
    let about = format!("{} {}", head.method, http_cache::about(&head));
    let charge = sandbox.charge_lookup(head.headers.len(), 2 * about.len() + head.method.as_str().len())?;
    let decision = Decision::new(&sandbox.asker(), about.into(), true);
    let cache = &sandbox.services.cache;
    let transaction = match waits {
        true => Transaction::begin(cache, head, options.key, decision),
        false => Transaction::peek(cache, head, options.key, decision),
    };
    Ok(sandbox.add_http_cache(transaction, charge)?)
}

fn lookup(sandbox: &mut Sandbox, request: Request, options: HttpLookup) -> HostResult<Entry> {
    begin(sandbox, request, &options, false)
}

fn transaction_lookup(sandbox: &mut Sandbox, request: Request, options: HttpLookup) -> HostResult<Entry> {
    begin(sandbox, request, &options, true)
}

/// Takes the response, whatever becomes of the write.
fn response(sandbox: &mut Sandbox, entry: Entry, response: Response) -> HostResult<GuestResponse> {
    sandbox.http_cache(entry)?;
    Ok(sandbox.responses.take(response)?)
}

async fn transaction_insert(sandbox: &mut Sandbox, entry: Entry, given: Response, options: HttpWrite) -> HostResult<BodyHandle> {
    let response = response(sandbox, entry, given)?;
    sandbox.items.has_room()?;
    let object = sandbox.charge_object(&options.0)?;
    let (writer, _) = sandbox.http_cache(entry)?.insert(&response.head, options.0).await?;
    Ok(sandbox.add_writer(writer, object)?)
}

/// The response stays the guest's: the JavaScript SDK goes on to set fields of it, though the ABI calls it consumed.
async fn transaction_insert_and_stream_back(
    sandbox: &mut Sandbox,
    entry: Entry,
    given: Response,
    options: HttpWrite,
) -> HostResult<(BodyHandle, Entry)> {
    let head = sandbox.responses.get(given)?.head.clone();
    sandbox.items.has_room()?;
    let charge = sandbox.charge_lookup(0, 0)?;
    let object = sandbox.charge_object(&options.0)?;
    let (writer, back) = sandbox.http_cache(entry)?.insert(&head, options.0).await?;
    Ok((sandbox.add_writer(writer, object)?, sandbox.add_http_cache(back, charge)?))
}

async fn transaction_update(sandbox: &mut Sandbox, entry: Entry, given: Response, options: HttpWrite) -> HostResult<()> {
    let response = response(sandbox, entry, given)?;
    sandbox.http_cache(entry)?.update(&response.head, options.0).await?;
    Ok(())
}

async fn transaction_update_and_return_fresh(
    sandbox: &mut Sandbox,
    entry: Entry,
    given: Response,
    options: HttpWrite,
) -> HostResult<Entry> {
    let response = response(sandbox, entry, given)?;
    sandbox.items.has_room()?;
    let charge = sandbox.charge_lookup(0, 0)?;
    let fresh = sandbox.http_cache(entry)?.update(&response.head, options.0).await?;
    Ok(sandbox.add_http_cache(fresh, charge)?)
}

async fn transaction_choose_stale(sandbox: &mut Sandbox, entry: Entry) -> HostResult<()> {
    Ok(sandbox.http_cache(entry)?.choose_stale().await?)
}

async fn transaction_record_not_cacheable(sandbox: &mut Sandbox, entry: Entry, options: HttpWrite) -> HostResult<()> {
    let HttpWrite(options) = options;
    Ok(sandbox.http_cache(entry)?.record_uncacheable(options.max_age, options.vary).await?)
}

async fn transaction_abandon(sandbox: &mut Sandbox, entry: Entry) -> HostResult<()> {
    Ok(sandbox.http_cache(entry)?.abandon().await?)
}

fn close(sandbox: &mut Sandbox, entry: Entry) -> HostResult<()> {
    Ok(sandbox.close_http_cache(entry)?)
}

async fn get_suggested_backend_request(sandbox: &mut Sandbox, entry: Entry) -> HostResult<Request> {
    let head = sandbox.http_cache(entry)?.backend_request().await;
    let charge = sandbox.charge_method(&head.method)?;
    Ok(sandbox.requests.insert(GuestRequest { head, charge, ..GuestRequest::default() })?)
}

fn get_suggested_cache_options(sandbox: &mut Sandbox, entry: Entry, given: Response, wanted: Wanted) -> HostResult<Suggested> {
    let head = sandbox.responses.get(given)?.head.clone();
    let options = sandbox.http_cache(entry)?.options(&head);
    Ok(Suggested { wanted, options })
}

/// What to do with it, and the response as it is to be stored: another one, the given one stays.
async fn prepare_response_for_storage(sandbox: &mut Sandbox, entry: Entry, given: Response) -> HostResult<(u32, Response)> {
    let response = sandbox.responses.get(given)?;
    let (head, peer, close) = (response.head.clone(), response.peer, response.close);
    let (action, head) = sandbox.http_cache(entry)?.prepare(&head).await;
    let prepared = sandbox.responses.insert(GuestResponse { head, peer, close })?;
    Ok((action as u32, prepared))
}

async fn get_found_response(sandbox: &mut Sandbox, entry: Entry, for_client: u32) -> HostResult<(Response, BodyHandle)> {
    let found = sandbox.http_cache(entry)?.response(for_client != 0).await;
    let (head, body) = found.ok_or_else(HostError::none)?;
    let response = sandbox.responses.insert(GuestResponse { head, peer: None, close: false })?;
    Ok((response, sandbox.add_body(body)?))
}

async fn get_state(sandbox: &mut Sandbox, entry: Entry) -> HostResult<u32> {
    let outcome = sandbox.http_cache(entry)?.outcome().await;
    let mut state = match (&outcome.found, &outcome.stale) {
        (Some(found), _) if found.phase == Phase::Fresh => FOUND | USABLE,
        (Some(_), _) => FOUND | USABLE | STALE,
        (None, Some(_)) => STALE,
        (None, None) => 0,
    };
    if outcome.obligation.is_some() {
        state |= MUST_INSERT_OR_UPDATE;
    }
    if outcome.stale_if_error {
        state |= USABLE_IF_ERROR;
    }
    Ok(state)
}

async fn found(sandbox: &mut Sandbox, entry: Entry) -> HostResult<&Found> {
    sandbox.http_cache(entry)?.found().await.ok_or_else(HostError::none)
}

async fn time(sandbox: &mut Sandbox, entry: Entry, of: fn(&Found) -> Duration) -> HostResult<u64> {
    Ok(nanos(of(found(sandbox, entry).await?)))
}

async fn get_length(sandbox: &mut Sandbox, entry: Entry) -> HostResult<u64> {
    found(sandbox, entry).await?.length().ok_or_else(HostError::none)
}

async fn get_max_age_ns(sandbox: &mut Sandbox, entry: Entry) -> HostResult<u64> {
    time(sandbox, entry, |found| found.options().max_age).await
}

async fn get_stale_while_revalidate_ns(sandbox: &mut Sandbox, entry: Entry) -> HostResult<u64> {
    time(sandbox, entry, |found| found.options().stale_while_revalidate).await
}

async fn get_stale_if_error_ns(sandbox: &mut Sandbox, entry: Entry) -> HostResult<u64> {
    time(sandbox, entry, |found| found.options().stale_if_error).await
}

async fn get_age_ns(sandbox: &mut Sandbox, entry: Entry) -> HostResult<u64> {
    time(sandbox, entry, Found::age).await
}

async fn get_hits(sandbox: &mut Sandbox, entry: Entry) -> HostResult<u64> {
    Ok(found(sandbox, entry).await?.hits)
}

async fn get_sensitive_data(sandbox: &mut Sandbox, entry: Entry) -> HostResult<bool> {
    Ok(found(sandbox, entry).await?.options().sensitive)
}

async fn get_surrogate_keys(sandbox: &mut Sandbox, entry: Entry) -> HostResult<Buf<String>> {
    Ok(Buf(found(sandbox, entry).await?.options().surrogate_keys.to_string()))
}

async fn get_vary_rule(sandbox: &mut Sandbox, entry: Entry) -> HostResult<Buf<String>> {
    Ok(Buf(found(sandbox, entry).await?.options().vary.to_string()))
}

pub(super) fn module(m: &mut Registrar<'_>) {
    m.call("close", close);
    m.wait("get_age_ns", get_age_ns);
    m.wait("get_found_response", get_found_response);
    m.wait("get_hits", get_hits);
    m.wait("get_length", get_length);
    m.wait("get_max_age_ns", get_max_age_ns);
    m.wait("get_sensitive_data", get_sensitive_data);
    m.wait("get_stale_if_error_ns", get_stale_if_error_ns);
    m.wait("get_stale_while_revalidate_ns", get_stale_while_revalidate_ns);
    m.wait("get_state", get_state);
    m.wait("get_suggested_backend_request", get_suggested_backend_request);
    m.call("get_suggested_cache_key", get_suggested_cache_key);
    m.call("get_suggested_cache_options", get_suggested_cache_options);
    m.wait("get_surrogate_keys", get_surrogate_keys);
    m.wait("get_vary_rule", get_vary_rule);
    m.call("is_request_cacheable", is_request_cacheable);
    m.call("lookup", lookup);
    m.wait("prepare_response_for_storage", prepare_response_for_storage);
    m.wait("transaction_abandon", transaction_abandon);
    m.wait("transaction_choose_stale", transaction_choose_stale);
    m.wait("transaction_insert", transaction_insert);
    m.wait("transaction_insert_and_stream_back", transaction_insert_and_stream_back);
    m.call("transaction_lookup", transaction_lookup);
    m.wait("transaction_record_not_cacheable", transaction_record_not_cacheable);
    m.wait("transaction_update", transaction_update);
    m.wait("transaction_update_and_return_fresh", transaction_update_and_return_fresh);
}
