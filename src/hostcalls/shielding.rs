//! `fastly_shielding`: shielding. Every call answers UNSUPPORTED so far.

use crate::abi::Registrar;

const WHY: &str = "there are no shields yet";

pub(super) fn module(m: &mut Registrar<'_>) {
    m.unsupported("backend_for_shield", 7, WHY);
    m.unsupported("shield_info", 5, WHY);
}
