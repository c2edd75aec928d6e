//! `fastly_kv_store`: kV stores. Every call answers UNSUPPORTED so far.

use crate::abi::Registrar;

const WHY: &str = "there are no KV stores yet";

pub(super) fn module(m: &mut Registrar<'_>) {
    m.unsupported("delete", 6, WHY);
    m.unsupported("delete_wait", 2, WHY);
    m.unsupported("insert", 7, WHY);
    m.unsupported("insert_wait", 2, WHY);
    m.unsupported("list", 4, WHY);
    m.unsupported("list_wait", 3, WHY);
    m.unsupported("lookup", 6, WHY);
    m.unsupported("lookup_wait", 7, WHY);
    m.unsupported("lookup_wait_v2", 7, WHY);
    m.unsupported("open", 3, WHY);
}
