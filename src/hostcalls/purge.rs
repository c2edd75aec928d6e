//! `fastly_purge`: purging by surrogate key.

use crate::abi::cache::{PurgeAnswer, PurgeOptions};
use crate::abi::{HostError, HostResult, Registrar, Status, Str};
use crate::sandbox::Sandbox;
use crate::services::cache::{Purge, key};

/// Purges here and on all replicas; the answer is as of Fastly's purge API.
async fn purge_surrogate_key(sandbox: &mut Sandbox, name: Str, options: PurgeOptions) -> HostResult<PurgeAnswer> {
    if !key::is_surrogate_key(&name) {
        return Err(HostError::inval("a surrogate key has 1 to 1024 printable characters of ASCII"));
    }
    let purge = Purge::Key { key: name.text()?.to_owned(), soft: options.soft };
    let cache = sandbox.services.cache.clone();
    let done = cache.purge_everywhere(&purge).await;
    let done = done.map_err(|error| HostError::Status(Status::Error, format!("other replicas have not heard of it: {error}").into()))?;
    Ok(PurgeAnswer { to: options.answer, text: serde_json::json!({ "status": "ok", "id": done.id }).to_string() })
}

pub(super) fn module(m: &mut Registrar<'_>) {
    m.wait("purge_surrogate_key", purge_surrogate_key);
}
