//! `fastly_http_body`: reading, writing and joining bodies.

use std::sync::LazyLock;

use ::http::{HeaderMap, HeaderValue};

use crate::abi::{Buf, Bytes64K, Capacity, HostError, HostResult, Paged, Registrar, Status, Str, fields};
use crate::http::Body;
use crate::sandbox::{AsyncItem, BadHandle, Handle, Sandbox};

type BodyHandle = Handle<Body>;

fn new(sandbox: &mut Sandbox) -> HostResult<BodyHandle> {
    Ok(sandbox.add_body(Body::empty())?)
}

/// Gives as soon as there is a byte; nothing is the end.
async fn read(sandbox: &mut Sandbox, body: BodyHandle, room: Capacity) -> HostResult<Buf<bytes::Bytes>> {
    let body = sandbox.body(body)?;
    if room.0 == 0 {
        return Ok(Buf(bytes::Bytes::new()));
    }
    let failed_before = body.has_failed();
    let read = body.read(room.0).await;
    if let Err(error) = &read
        && !failed_before
    {
        tracing::warn!(target: "sidelight::guest", service = sandbox.config.name, request_id = sandbox.id(), %error, "a body that a guest reads broke off");
    }
    Ok(Buf(read?))
}

/// `end`: 0 the back, 1 the front of what has not been read; a body that is being sent has no front
/// that could be written to.
async fn write(sandbox: &mut Sandbox, body: BodyHandle, data: Bytes64K, end: u32) -> HostResult<u32> {
    let length = data.0.len();
    let front = match end {
        0 => false,
        1 => true,
        other => return Err(HostError::inval(format!("{other} is no end of a body"))),
    };
    match sandbox.items.get_mut(body)? {
        AsyncItem::Body(body) => {
            let bytes = sandbox.account.keep(data.0)?;
            if front {
                body.push_front(bytes);
            } else {
                body.push_back(bytes);
            }
        }
        AsyncItem::Streaming(..) if front => return Err(BadHandle.into()),
        AsyncItem::Streaming(writer, _) => writer.write(data.0).await?,
        AsyncItem::Pending(_) | AsyncItem::Promise(_) | AsyncItem::Kv(_) | AsyncItem::Cache(_) | AsyncItem::HttpCache(_) => {
            return Err(BadHandle.into());
        }
    }
    Ok(length as u32)
}

/// Moves all of `from` to the end of `to`; `from` is dead then.
async fn append(sandbox: &mut Sandbox, to: BodyHandle, from: BodyHandle) -> HostResult<()> {
    if to.raw() == from.raw() {
        return Err(HostError::inval("a body cannot be appended to itself"));
    }
    match sandbox.items.get(to)? {
        AsyncItem::Body(_) | AsyncItem::Streaming(..) => {}
        AsyncItem::Pending(_) | AsyncItem::Promise(_) | AsyncItem::Kv(_) | AsyncItem::Cache(_) | AsyncItem::HttpCache(_) => {
            return Err(BadHandle.into());
        }
    }
    let moved = sandbox.take_body(from)?;
    match sandbox.items.get_mut(to)? {
        AsyncItem::Body(body) => body.append(moved),
        AsyncItem::Streaming(writer, _) => writer.append(moved).await?,
        AsyncItem::Pending(_) | AsyncItem::Promise(_) | AsyncItem::Kv(_) | AsyncItem::Cache(_) | AsyncItem::HttpCache(_) => {
            return Err(BadHandle.into());
        }
    }
    Ok(())
}

/// Ends a body that is being sent, or drops one that is not.
async fn close(sandbox: &mut Sandbox, body: BodyHandle) -> HostResult<()> {
    match sandbox.items.get(body)? {
        AsyncItem::Body(_) | AsyncItem::Streaming(..) => {}
        AsyncItem::Pending(_) | AsyncItem::Promise(_) | AsyncItem::Kv(_) | AsyncItem::Cache(_) | AsyncItem::HttpCache(_) => {
            return Err(BadHandle.into());
        }
    }
    match sandbox.items.take(body)? {
        // Whether anybody still reads it is not this call's business.
        AsyncItem::Streaming(writer, _) => drop(writer.finish().await),
        AsyncItem::Body(_)
        | AsyncItem::Pending(_)
        | AsyncItem::Promise(_)
        | AsyncItem::Kv(_)
        | AsyncItem::Cache(_)
        | AsyncItem::HttpCache(_) => {}
    }
    Ok(())
}

/// Gives a body up: whoever receives it sees it truncated.
fn abandon(sandbox: &mut Sandbox, body: BodyHandle) -> HostResult<()> {
    match sandbox.items.get(body)? {
        AsyncItem::Body(_) | AsyncItem::Streaming(..) => {}
        AsyncItem::Pending(_) | AsyncItem::Promise(_) | AsyncItem::Kv(_) | AsyncItem::Cache(_) | AsyncItem::HttpCache(_) => {
            return Err(BadHandle.into());
        }
    }
    sandbox.items.take(body)?;
    Ok(())
}

fn known_length(sandbox: &mut Sandbox, body: BodyHandle) -> HostResult<u64> {
    match sandbox.items.get(body)? {
        AsyncItem::Body(body) => body.known_length().ok_or_else(HostError::none),
        AsyncItem::Streaming(..) => Err(HostError::Status(Status::None, "a body that is being sent".into())),
        AsyncItem::Pending(_) | AsyncItem::Promise(_) | AsyncItem::Kv(_) | AsyncItem::Cache(_) | AsyncItem::HttpCache(_) => {
            Err(BadHandle.into())
        }
    }
}

/// Adds a trailer; it goes out behind the body's end.
fn trailer_append(sandbox: &mut Sandbox, body: BodyHandle, name: Str, value: Str) -> HostResult<()> {
    let trailers = match sandbox.items.get_mut(body)? {
        AsyncItem::Body(body) => body.trailers_mut(),
        AsyncItem::Streaming(writer, _) => writer.trailers_mut(),
        AsyncItem::Pending(_) | AsyncItem::Promise(_) | AsyncItem::Kv(_) | AsyncItem::Cache(_) | AsyncItem::HttpCache(_) => {
            return Err(BadHandle.into());
        }
    };
    fields::append(trailers, &sandbox.account, &name, &value)
}

/// The trailers of a body that has been read to its end; AGAIN before that.
fn trailers(sandbox: &mut Sandbox, body: BodyHandle) -> HostResult<&HeaderMap> {
    static NONE: LazyLock<HeaderMap> = LazyLock::new(HeaderMap::new);
    match sandbox.items.get(body)? {
        AsyncItem::Body(body) if body.is_read() => Ok(body.trailers().unwrap_or(&NONE)),
        AsyncItem::Body(_) => Err(HostError::Status(Status::Again, "the body has not been read to its end".into())),
        AsyncItem::Streaming(..) => Err(HostError::inval("a body that is being sent")),
        AsyncItem::Pending(_) | AsyncItem::Promise(_) | AsyncItem::Kv(_) | AsyncItem::Cache(_) | AsyncItem::HttpCache(_) => {
            Err(BadHandle.into())
        }
    }
}

fn trailer_names_get(sandbox: &mut Sandbox, body: BodyHandle) -> HostResult<Paged> {
    Ok(fields::names(trailers(sandbox, body)?))
}

fn trailer_value_get(sandbox: &mut Sandbox, body: BodyHandle, name: Str) -> HostResult<Buf<HeaderValue>> {
    fields::value(trailers(sandbox, body)?, &name)
}

fn trailer_values_get(sandbox: &mut Sandbox, body: BodyHandle, name: Str) -> HostResult<Paged> {
    fields::values(trailers(sandbox, body)?, &name)
}

pub(super) fn module(m: &mut Registrar<'_>) {
    m.call("new", new);
    m.wait("read", read);
    m.wait("write", write);
    m.wait("append", append);
    m.wait("close", close);
    m.call("abandon", abandon);
    m.call("known_length", known_length);
    m.call("trailer_append", trailer_append);
    m.call("trailer_names_get", trailer_names_get);
    m.call("trailer_value_get", trailer_value_get);
    m.call("trailer_values_get", trailer_values_get);
}
