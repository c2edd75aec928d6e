//! `fastly_secret_store`: secret stores. Every call answers UNSUPPORTED so far.

use crate::abi::Registrar;

const WHY: &str = "there are no secret stores yet";

pub(super) fn module(m: &mut Registrar<'_>) {
    m.unsupported("from_bytes", 3, WHY);
    m.unsupported("get", 4, WHY);
    m.unsupported("open", 3, WHY);
    m.unsupported("plaintext", 4, WHY);
}
