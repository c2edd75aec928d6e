//! `fastly_dictionary`: dictionaries, the older name of config stores.

use super::lookup;
use crate::abi::Registrar;

pub(super) fn module(m: &mut Registrar<'_>) {
    m.call("open", lookup::open_config);
    m.call("get", lookup::get_config);
}
