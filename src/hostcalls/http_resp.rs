//! `fastly_http_resp`: responses, and sending one to the client.

use std::net::IpAddr;

use ::http::StatusCode;

use super::heads;
use crate::abi::{HostError, HostResult, Registrar, Status};
use crate::http::Body;
use crate::sandbox::{DownstreamResponse, GuestResponse, Handle, PendingRequest, Reply, Sandbox};

type Response = Handle<GuestResponse>;

fn status_get(sandbox: &mut Sandbox, response: Response) -> HostResult<u16> {
    Ok(sandbox.responses.get(response)?.head.status.as_u16())
}

fn status_set(sandbox: &mut Sandbox, response: Response, status: u32) -> HostResult<()> {
    let head = &mut sandbox.responses.get_mut(response)?.head;
    let code = u16::try_from(status).ok().and_then(|code| StatusCode::from_u16(code).ok());
    head.status = code.ok_or_else(|| HostError::inval("not a status code"))?;
    Ok(())
}

fn get_addr_dest_ip(sandbox: &mut Sandbox, response: Response) -> HostResult<IpAddr> {
    sandbox.responses.get(response)?.peer.map(|peer| peer.ip()).ok_or_else(HostError::none)
}

fn get_addr_dest_port(sandbox: &mut Sandbox, response: Response) -> HostResult<u16> {
    sandbox.responses.get(response)?.peer.map(|peer| peer.port()).ok_or_else(HostError::none)
}

/// The answer to the client: once, and informational heads (103) before it. With `streaming`, the
/// body's handle becomes its write end.
fn send_downstream(sandbox: &mut Sandbox, response: Response, body: Handle<Body>, streaming: u32) -> HostResult<()> {
    let status = sandbox.responses.get(response)?.head.status;
    sandbox.body(body)?;
    if status.is_informational() && status != StatusCode::EARLY_HINTS {
        return Err(HostError::inval("an informational status is no answer"));
    }
    // A client that is gone is not the guest's fault: production tells it nothing either.
    if status == StatusCode::EARLY_HINTS {
        let Some(responder) = &mut sandbox.responder else { return Err(answered()) };
        responder.count_early(&sandbox.responses.get(response)?.head)?;
        responder.early(sandbox.responses.take(response)?.head);
        sandbox.take_body(body)?;
        return Ok(());
    }
    let Some(responder) = sandbox.responder.take() else { return Err(answered()) };
    let GuestResponse { head, close, .. } = sandbox.responses.take(response)?;
    let body = match streaming {
        0 => sandbox.take_body(body)?,
        _ => sandbox.stream_body(body)?,
    };
    let _ = responder.send(Reply::Final(DownstreamResponse { head, body, close }));
    Ok(())
}

/// The response of a backend becomes the answer when it comes; the guest does not wait for it.
fn send_downstream_pending(sandbox: &mut Sandbox, pending: Handle<PendingRequest>) -> HostResult<()> {
    sandbox.pending(pending)?;
    let Some(responder) = sandbox.responder.take() else { return Err(answered()) };
    sandbox.take_pending(pending)?.forward(responder);
    Ok(())
}

fn answered() -> HostError {
    HostError::Status(Status::Error, "the client has had its answer".into())
}

/// `mode`: 0 the host decides, 1 the client's connection ends with this response.
fn http_keepalive_mode_set(sandbox: &mut Sandbox, response: Response, mode: u32) -> HostResult<()> {
    sandbox.responses.get_mut(response)?.close = match mode {
        0 => false,
        1 => true,
        other => return Err(HostError::inval(format!("{other} is no keep-alive mode"))),
    };
    Ok(())
}

pub(super) fn module(m: &mut Registrar<'_>) {
    heads::declare::<GuestResponse>(m);
    m.call("status_get", status_get);
    m.call("status_set", status_set);
    m.call("get_addr_dest_ip", get_addr_dest_ip);
    m.call("get_addr_dest_port", get_addr_dest_port);
    m.call("send_downstream", send_downstream);
    m.call("send_downstream_pending", send_downstream_pending);
    m.call("http_keepalive_mode_set", http_keepalive_mode_set);
}
