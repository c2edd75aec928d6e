//! `fastly_geo`: geolocation of addresses. Every call answers UNSUPPORTED so far.

use crate::abi::Registrar;

const WHY: &str = "there is no geolocation data yet";

pub(super) fn module(m: &mut Registrar<'_>) {
    m.unsupported("lookup", 5, WHY);
}
