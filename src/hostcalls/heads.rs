//! Calls that `fastly_http_req` and `fastly_http_resp` share: fields, version and framing of a head.

use std::sync::Arc;

use ::http::{HeaderMap, HeaderValue, Version};

use crate::abi::{Buf, HostResult, Paged, Registrar, Str, fields, versions};
use crate::http::head::Framing;
use crate::sandbox::{Account, GuestRequest, GuestResponse, Handle, Sandbox, Table};

/// A head as a guest holds it.
pub(super) trait Message: Sized + 'static {
    /// Where the sandbox keeps them, and whose memory that is.
    fn table(sandbox: &mut Sandbox) -> (&mut Table<Self>, &Arc<Account>);
    fn headers(&mut self) -> &mut HeaderMap;
    fn version(&mut self) -> &mut Version;
    fn framing(&mut self) -> &mut Framing;
}

macro_rules! message {
    ($kind:ty, $table:ident) => {
        impl Message for $kind {
            fn table(sandbox: &mut Sandbox) -> (&mut Table<Self>, &Arc<Account>) {
                (&mut sandbox.$table, &sandbox.account)
            }
            fn headers(&mut self) -> &mut HeaderMap {
                &mut self.head.headers
            }
            fn version(&mut self) -> &mut Version {
                &mut self.head.version
            }
            fn framing(&mut self) -> &mut Framing {
                &mut self.head.framing
            }
        }
    };
}
message!(GuestRequest, requests);
message!(GuestResponse, responses);

fn get<M: Message>(sandbox: &mut Sandbox, message: Handle<M>) -> HostResult<&mut M> {
    Ok(M::table(sandbox).0.get_mut(message)?)
}

fn edited<M: Message>(sandbox: &mut Sandbox, message: Handle<M>) -> HostResult<(&mut HeaderMap, &Arc<Account>)> {
    let (table, account) = M::table(sandbox);
    Ok((table.get_mut(message)?.headers(), account))
}

fn new<M: Message + Default>(sandbox: &mut Sandbox) -> HostResult<Handle<M>> {
    Ok(M::table(sandbox).0.insert(M::default())?)
}

fn close<M: Message>(sandbox: &mut Sandbox, message: Handle<M>) -> HostResult<()> {
    M::table(sandbox).0.take(message)?;
    Ok(())
}

fn version_get<M: Message>(sandbox: &mut Sandbox, message: Handle<M>) -> HostResult<u32> {
    Ok(versions::number(*get(sandbox, message)?.version()))
}

fn version_set<M: Message>(sandbox: &mut Sandbox, message: Handle<M>, version: u32) -> HostResult<()> {
    *get(sandbox, message)?.version() = versions::from_number(version)?;
    Ok(())
}

fn framing_headers_mode_set<M: Message>(sandbox: &mut Sandbox, message: Handle<M>, mode: u32) -> HostResult<()> {
    *get(sandbox, message)?.framing() = versions::framing(mode)?;
    Ok(())
}

fn header_names_get<M: Message>(sandbox: &mut Sandbox, message: Handle<M>) -> HostResult<Paged> {
    Ok(fields::names(get(sandbox, message)?.headers()))
}

fn header_value_get<M: Message>(sandbox: &mut Sandbox, message: Handle<M>, name: Str) -> HostResult<Buf<HeaderValue>> {
    fields::value(get(sandbox, message)?.headers(), &name)
}

fn header_values_get<M: Message>(sandbox: &mut Sandbox, message: Handle<M>, name: Str) -> HostResult<Paged> {
    fields::values(get(sandbox, message)?.headers(), &name)
}

fn header_values_set<M: Message>(sandbox: &mut Sandbox, message: Handle<M>, name: Str, values: Str) -> HostResult<()> {
    let (headers, account) = edited(sandbox, message)?;
    fields::set_values(headers, account, &name, &values)
}

fn header_insert<M: Message>(sandbox: &mut Sandbox, message: Handle<M>, name: Str, value: Str) -> HostResult<()> {
    let (headers, account) = edited(sandbox, message)?;
    fields::insert(headers, account, &name, &value)
}

fn header_append<M: Message>(sandbox: &mut Sandbox, message: Handle<M>, name: Str, value: Str) -> HostResult<()> {
    let (headers, account) = edited(sandbox, message)?;
    fields::append(headers, account, &name, &value)
}

fn header_remove<M: Message>(sandbox: &mut Sandbox, message: Handle<M>, name: Str) -> HostResult<()> {
    fields::remove(get(sandbox, message)?.headers(), &name)
}

/// Declares them in the current module, for heads of the kind `M`.
pub(super) fn declare<M: Message + Default>(m: &mut Registrar<'_>) {
    m.call("new", new::<M>);
    m.call("close", close::<M>);
    m.call("version_get", version_get::<M>);
    m.call("version_set", version_set::<M>);
    m.call("framing_headers_mode_set", framing_headers_mode_set::<M>);
    m.call("header_names_get", header_names_get::<M>);
    m.call("header_value_get", header_value_get::<M>);
    m.call("header_values_get", header_values_get::<M>);
    m.call("header_values_set", header_values_set::<M>);
    m.call("header_insert", header_insert::<M>);
    m.call("header_append", header_append::<M>);
    m.call("header_remove", header_remove::<M>);
}
