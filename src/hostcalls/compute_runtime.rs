//! `fastly_compute_runtime`: what the guest has used, and which products its service has.

use crate::abi::{HostResult, Registrar};
use crate::sandbox::Sandbox;

const MIB: usize = 1 << 20;

/// CPU time so far in milliseconds, the running stretch included.
fn get_vcpu_ms(sandbox: &mut Sandbox) -> HostResult<u64> {
    Ok(u64::try_from(sandbox.meter.cpu().as_millis()).unwrap_or(u64::MAX))
}

/// Linear memory in MiB, rounded up.
fn get_heap_mib(sandbox: &mut Sandbox) -> HostResult<u32> {
    Ok(u32::try_from(sandbox.meter.memory().div_ceil(MIB)).unwrap_or(u32::MAX))
}

fn no_product(_: &mut Sandbox) -> HostResult<bool> {
    Ok(false)
}

pub(super) fn module(m: &mut Registrar<'_>) {
    const NO_PRODUCTS: &str = "no product can be enabled yet: always false";
    m.call("get_vcpu_ms", get_vcpu_ms);
    m.call("get_heap_mib", get_heap_mib);
    m.call_partial("has_domain_inspector", NO_PRODUCTS, no_product);
    m.call_partial("has_image_optimizer", NO_PRODUCTS, no_product);
    m.call_partial("has_origin_inspector", NO_PRODUCTS, no_product);
}
