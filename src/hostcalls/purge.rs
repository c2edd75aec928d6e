//! `fastly_purge`: purging by surrogate key. Every call answers UNSUPPORTED so far.

use crate::abi::Registrar;

const WHY: &str = "there is no cache to purge yet";

pub(super) fn module(m: &mut Registrar<'_>) {
    m.unsupported("purge_surrogate_key", 4, WHY);
}
