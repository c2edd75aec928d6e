//! `fastly_http_cache`: the HTTP cache as guests drive it; UNSUPPORTED makes the SDKs leave caching to the host. Every call answers UNSUPPORTED so far.

use crate::abi::Registrar;

const WHY: &str = "there is no cache yet";

pub(super) fn module(m: &mut Registrar<'_>) {
    m.unsupported("close", 1, WHY);
    m.unsupported("get_age_ns", 2, WHY);
    m.unsupported("get_found_response", 4, WHY);
    m.unsupported("get_hits", 2, WHY);
    m.unsupported("get_length", 2, WHY);
    m.unsupported("get_max_age_ns", 2, WHY);
    m.unsupported("get_sensitive_data", 2, WHY);
    m.unsupported("get_stale_if_error_ns", 2, WHY);
    m.unsupported("get_stale_while_revalidate_ns", 2, WHY);
    m.unsupported("get_state", 2, WHY);
    m.unsupported("get_suggested_backend_request", 2, WHY);
    m.unsupported("get_suggested_cache_key", 4, WHY);
    m.unsupported("get_suggested_cache_options", 6, WHY);
    m.unsupported("get_surrogate_keys", 4, WHY);
    m.unsupported("get_vary_rule", 4, WHY);
    m.unsupported("is_request_cacheable", 2, WHY);
    m.unsupported("lookup", 4, WHY);
    m.unsupported("prepare_response_for_storage", 4, WHY);
    m.unsupported("transaction_abandon", 1, WHY);
    m.unsupported("transaction_choose_stale", 1, WHY);
    m.unsupported("transaction_insert", 5, WHY);
    m.unsupported("transaction_insert_and_stream_back", 6, WHY);
    m.unsupported("transaction_lookup", 4, WHY);
    m.unsupported("transaction_record_not_cacheable", 3, WHY);
    m.unsupported("transaction_update", 4, WHY);
    m.unsupported("transaction_update_and_return_fresh", 5, WHY);
}
