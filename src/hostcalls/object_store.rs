//! `fastly_object_store`: object stores, the older interface to KV stores. Every call answers UNSUPPORTED so far.

use crate::abi::Registrar;

const WHY: &str = "there are no KV stores yet";

pub(super) fn module(m: &mut Registrar<'_>) {
    m.unsupported("delete_async", 4, WHY);
    m.unsupported("insert", 4, WHY);
    m.unsupported("insert_async", 5, WHY);
    m.unsupported("lookup", 4, WHY);
    m.unsupported("lookup_async", 4, WHY);
    m.unsupported("open", 3, WHY);
    m.unsupported("pending_delete_wait", 1, WHY);
    m.unsupported("pending_insert_wait", 1, WHY);
    m.unsupported("pending_lookup_wait", 2, WHY);
}
