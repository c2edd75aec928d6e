//! `fastly_erl`: edge rate limiting: rate counters and penalty boxes. Every call answers UNSUPPORTED so far.

use crate::abi::Registrar;

const WHY: &str = "there are no rate counters yet";

pub(super) fn module(m: &mut Registrar<'_>) {
    m.unsupported("check_rate", 11, WHY);
    m.unsupported("penaltybox_add", 5, WHY);
    m.unsupported("penaltybox_has", 5, WHY);
    m.unsupported("ratecounter_increment", 5, WHY);
    m.unsupported("ratecounter_lookup_count", 6, WHY);
    m.unsupported("ratecounter_lookup_rate", 6, WHY);
}
