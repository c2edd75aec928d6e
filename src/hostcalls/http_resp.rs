//! `fastly_http_resp`: responses, and sending one to the client.

use std::net::IpAddr;

use ::http::StatusCode;

use ::http::HeaderValue;

use crate::abi::{Buf, HostError, HostResult, Paged, Registrar, Status, Str, fields, versions};
use crate::http::Body;
use crate::sandbox::{DownstreamResponse, GuestResponse, Handle, Sandbox};

type Response = Handle<GuestResponse>;

fn new(sandbox: &mut Sandbox) -> HostResult<Response> {
    Ok(Handle::from_raw(sandbox.responses.insert(GuestResponse::default())?.raw()))
}

fn close(sandbox: &mut Sandbox, response: Response) -> HostResult<()> {
    sandbox.responses.take(response)?;
    Ok(())
}

fn header_names_get(sandbox: &mut Sandbox, response: Response) -> HostResult<Paged> {
    Ok(fields::names(&sandbox.responses.get(response)?.head.headers))
}

fn header_value_get(sandbox: &mut Sandbox, response: Response, name: Str) -> HostResult<Buf<HeaderValue>> {
    fields::value(&sandbox.responses.get(response)?.head.headers, &name)
}

fn header_values_get(sandbox: &mut Sandbox, response: Response, name: Str) -> HostResult<Paged> {
    fields::values(&sandbox.responses.get(response)?.head.headers, &name)
}

fn header_values_set(sandbox: &mut Sandbox, response: Response, name: Str, values: Str) -> HostResult<()> {
    fields::set_values(&mut sandbox.responses.get_mut(response)?.head.headers, &name, &values)
}

fn header_insert(sandbox: &mut Sandbox, response: Response, name: Str, value: Str) -> HostResult<()> {
    fields::insert(&mut sandbox.responses.get_mut(response)?.head.headers, &name, &value)
}

fn header_append(sandbox: &mut Sandbox, response: Response, name: Str, value: Str) -> HostResult<()> {
    fields::append(&mut sandbox.responses.get_mut(response)?.head.headers, &name, &value)
}

fn header_remove(sandbox: &mut Sandbox, response: Response, name: Str) -> HostResult<()> {
    fields::remove(&mut sandbox.responses.get_mut(response)?.head.headers, &name)
}

fn version_get(sandbox: &mut Sandbox, response: Response) -> HostResult<u32> {
    Ok(versions::number(sandbox.responses.get(response)?.head.version))
}

fn version_set(sandbox: &mut Sandbox, response: Response, version: u32) -> HostResult<()> {
    sandbox.responses.get_mut(response)?.head.version = versions::from_number(version)?;
    Ok(())
}

fn status_get(sandbox: &mut Sandbox, response: Response) -> HostResult<u16> {
    Ok(sandbox.responses.get(response)?.head.status.as_u16())
}

fn status_set(sandbox: &mut Sandbox, response: Response, status: u32) -> HostResult<()> {
    let head = &mut sandbox.responses.get_mut(response)?.head;
    let code = u16::try_from(status).ok().and_then(|code| StatusCode::from_u16(code).ok());
    head.status = code.ok_or_else(|| HostError::inval("not a status code"))?;
    Ok(())
}

fn framing_headers_mode_set(sandbox: &mut Sandbox, response: Response, mode: u32) -> HostResult<()> {
    sandbox.responses.get_mut(response)?.head.framing = versions::framing(mode)?;
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
    m.call("new", new);
    m.call("close", close);
    m.call("header_names_get", header_names_get);
    m.call("header_value_get", header_value_get);
    m.call("header_values_get", header_values_get);
    m.call("header_values_set", header_values_set);
    m.call("header_insert", header_insert);
    m.call("header_append", header_append);
    m.call("header_remove", header_remove);
    m.call("version_get", version_get);
    m.call("version_set", version_set);
    m.call("status_get", status_get);
    m.call("status_set", status_set);
    m.call("framing_headers_mode_set", framing_headers_mode_set);
    m.call("get_addr_dest_ip", get_addr_dest_ip);
    m.call("get_addr_dest_port", get_addr_dest_port);
    m.call_partial("send_downstream", "103 Early Hints is UNSUPPORTED", send_downstream);
    m.unsupported("send_downstream_pending", 1, "not available yet");
    m.unsupported("http_keepalive_mode_set", 2, "not available yet");
}
