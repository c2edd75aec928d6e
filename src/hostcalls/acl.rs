//! `fastly_acl`: access control lists.

use std::sync::Arc;

use crate::abi::stores::{AclFound, Address};
use crate::abi::{HostError, HostResult, Registrar, Status, Str};
use crate::http::Body;
use crate::sandbox::{Handle, Sandbox};
use crate::services::acl::{self, Acl};

fn open(sandbox: &mut Sandbox, name: Str) -> HostResult<Handle<Arc<Acl>>> {
    let name = name.text()?;
    let acl = sandbox.services.acls.get(name).cloned();
    let acl = acl.ok_or_else(|| HostError::Status(Status::None, format!("there is no access list `{name}`").into()))?;
    Ok(sandbox.acls.insert(acl)?)
}

/// The entry of the most specific network that an address is in, as JSON.
fn lookup(sandbox: &mut Sandbox, acl: Handle<Arc<Acl>>, address: Address) -> HostResult<AclFound> {
    let found = sandbox.acls.get(acl)?.lookup(address.0);
    Ok(AclFound(match found {
        Some((network, action)) => Some(sandbox.add_body(Body::from(bytes::Bytes::from(acl::json(network, action))))?.raw()),
        None => None,
    }))
}

pub(super) fn module(m: &mut Registrar<'_>) {
    m.call("lookup", lookup);
    m.call("open", open);
}
