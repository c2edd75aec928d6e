//! `fastly_image_optimizer`: the image optimizer. Every call answers UNSUPPORTED so far.

use crate::abi::Registrar;

const WHY: &str = "there is no image optimizer yet";

pub(super) fn module(m: &mut Registrar<'_>) {
    m.unsupported("transform_image_optimizer_request", 9, WHY);
}
