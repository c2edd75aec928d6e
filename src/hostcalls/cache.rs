//! `fastly_cache`: the core cache. Every call answers UNSUPPORTED so far.

use crate::abi::Registrar;

const WHY: &str = "there is no cache yet";

pub(super) fn module(m: &mut Registrar<'_>) {
    m.unsupported("cache_busy_handle_wait", 2, WHY);
    m.unsupported("close", 1, WHY);
    m.unsupported("close_busy", 1, WHY);
    m.unsupported("get_age_ns", 2, WHY);
    m.unsupported("get_body", 4, WHY);
    m.unsupported("get_hits", 2, WHY);
    m.unsupported("get_length", 2, WHY);
    m.unsupported("get_max_age_ns", 2, WHY);
    m.unsupported("get_stale_while_revalidate_ns", 2, WHY);
    m.unsupported("get_state", 2, WHY);
    m.unsupported("get_user_metadata", 4, WHY);
    m.unsupported("insert", 5, WHY);
    m.unsupported("lookup", 5, WHY);
    m.unsupported("replace", 5, WHY);
    m.unsupported("replace_get_age_ns", 2, WHY);
    m.unsupported("replace_get_body", 4, WHY);
    m.unsupported("replace_get_hits", 2, WHY);
    m.unsupported("replace_get_length", 2, WHY);
    m.unsupported("replace_get_max_age_ns", 2, WHY);
    m.unsupported("replace_get_stale_while_revalidate_ns", 2, WHY);
    m.unsupported("replace_get_state", 2, WHY);
    m.unsupported("replace_get_user_metadata", 4, WHY);
    m.unsupported("replace_insert", 4, WHY);
    m.unsupported("transaction_cancel", 1, WHY);
    m.unsupported("transaction_insert", 4, WHY);
    m.unsupported("transaction_insert_and_stream_back", 5, WHY);
    m.unsupported("transaction_lookup", 5, WHY);
    m.unsupported("transaction_lookup_async", 5, WHY);
    m.unsupported("transaction_update", 3, WHY);
}
