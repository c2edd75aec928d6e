//! `fastly_abi`: the version handshake.

use crate::abi::{HostError, HostResult, Registrar};

/// The only version of the ABI there has been.
const VERSION: u64 = 1;

fn init(version: u64) -> HostResult<()> {
    if version == VERSION { Ok(()) } else { Err(HostError::inval(format!("ABI version {version}; this host speaks {VERSION}"))) }
}

pub(super) fn module(m: &mut Registrar<'_>) {
    m.version_handshake("init", init);
}
