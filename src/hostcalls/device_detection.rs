//! `fastly_device_detection`: device detection. Every call answers UNSUPPORTED so far.

use crate::abi::Registrar;

const WHY: &str = "there is no device data yet";

pub(super) fn module(m: &mut Registrar<'_>) {
    m.unsupported("lookup", 5, WHY);
}
