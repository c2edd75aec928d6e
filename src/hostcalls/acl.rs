//! `fastly_acl`: access control lists. Every call answers UNSUPPORTED so far.

use crate::abi::Registrar;

const WHY: &str = "there are no ACLs yet";

pub(super) fn module(m: &mut Registrar<'_>) {
    m.unsupported("lookup", 5, WHY);
    m.unsupported("open", 3, WHY);
}
