//! `fastly_uap`: user-agent parsing, deprecated. Every call answers UNSUPPORTED so far.

use crate::abi::Registrar;

const WHY: &str = "deprecated; comes with device detection";

pub(super) fn module(m: &mut Registrar<'_>) {
    m.unsupported("parse", 14, WHY);
}
