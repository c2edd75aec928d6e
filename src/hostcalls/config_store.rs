//! `fastly_config_store`: config stores. Every call answers UNSUPPORTED so far.

use crate::abi::Registrar;

const WHY: &str = "there are no config stores yet";

pub(super) fn module(m: &mut Registrar<'_>) {
    m.unsupported("get", 6, WHY);
    m.unsupported("open", 3, WHY);
}
