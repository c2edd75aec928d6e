//! `fastly_async_io`: waiting for any of several things.

use std::time::Duration;

use crate::abi::values::Handles;
use crate::abi::{HostError, HostResult, Registrar};
use crate::sandbox::{AsyncItem, Handle, Sandbox};

/// What `select` stores when its time is up.
const TIMED_OUT: u32 = u32::MAX;

/// Waits until one of the handles is ready, or `timeout` milliseconds; 0 waits for ever.
async fn select(sandbox: &mut Sandbox, handles: Handles, timeout: u32) -> HostResult<u32> {
    let Handles(handles) = handles;
    if timeout == 0 {
        if handles.is_empty() {
            return Err(HostError::inval("nothing to wait for, without a timeout"));
        }
        return Ok(sandbox.select(&handles).await? as u32);
    }
    let limit = Duration::from_millis(timeout.into());
    match tokio::time::timeout(limit, sandbox.select(&handles)).await {
        Ok(index) => Ok(index? as u32),
        Err(_) => Ok(TIMED_OUT),
    }
}

fn is_ready(sandbox: &mut Sandbox, handle: Handle<AsyncItem>) -> HostResult<bool> {
    Ok(sandbox.is_ready(handle)?)
}

pub(super) fn module(m: &mut Registrar<'_>) {
    m.wait("select", select);
    m.call("is_ready", is_ready);
}
