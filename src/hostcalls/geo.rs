//! `fastly_geo`: geolocation of addresses.

use crate::abi::stores::Address;
use crate::abi::{Buf, HostError, HostResult, Registrar};
use crate::sandbox::Sandbox;

fn lookup(sandbox: &mut Sandbox, address: Address) -> HostResult<Buf<String>> {
    sandbox.services.geo.lookup(address.0).map(Buf).ok_or_else(HostError::none)
}

pub(super) fn module(m: &mut Registrar<'_>) {
    m.call("lookup", lookup);
}
