//! `fastly_http_resp`: responses, and sending one to the client.

use std::net::IpAddr;

use ::http::StatusCode;

use super::heads;
use crate::abi::{HostError, HostResult, Registrar, Status};
use crate::http::Body;
use crate::sandbox::{DownstreamResponse, GuestResponse, Handle, Sandbox};

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

/// The answer to the client: once. With `streaming`, the body's handle becomes its write end.
fn send_downstream(sandbox: &mut Sandbox, response: Response, body: Handle<Body>, streaming: u32) -> HostResult<()> {
    let status = sandbox.responses.get(response)?.head.status;
    sandbox.body(body)?;
    if status == StatusCode::EARLY_HINTS {
        return Err(HostError::unsupported("103 Early Hints"));
    }
    if status.is_informational() {
        return Err(HostError::inval("an informational status is no answer"));
    }
    let Some(responder) = sandbox.responder.take() else {
        return Err(HostError::Status(Status::Error, "the client has had its answer".into()));
    };
    let head = sandbox.responses.take(response)?.head;
    let body = match streaming {
        0 => sandbox.take_body(body)?,
        _ => sandbox.stream_body(body)?,
    };
    // A client that is gone is not the guest's fault: production tells it nothing either.
    let _ = responder.send(DownstreamResponse { head, body });
    Ok(())
}

pub(super) fn module(m: &mut Registrar<'_>) {
    heads::declare::<GuestResponse>(m);
    m.call("status_get", status_get);
    m.call("status_set", status_set);
    m.call("get_addr_dest_ip", get_addr_dest_ip);
    m.call("get_addr_dest_port", get_addr_dest_port);
    m.call_partial("send_downstream", "103 Early Hints is UNSUPPORTED", send_downstream);
    m.unsupported("send_downstream_pending", 1, "not available yet");
    m.unsupported("http_keepalive_mode_set", 2, "not available yet");
}
