//! `fastly_compute_runtime`: what the guest has used, and which products its service has.

use crate::abi::{HostResult, Registrar};
use crate::config::facts::Product;
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

fn has_domain_inspector(sandbox: &mut Sandbox) -> HostResult<bool> {
    Ok(sandbox.config.facts.products.contains(&Product::DomainInspector))
}

/// Never: there is none here yet, whatever the manifest says. The SDKs then pass responses through.
fn has_image_optimizer(_: &mut Sandbox) -> HostResult<bool> {
    Ok(false)
}

fn has_origin_inspector(sandbox: &mut Sandbox) -> HostResult<bool> {
    Ok(sandbox.config.facts.products.contains(&Product::OriginInspector))
}

pub(super) fn module(m: &mut Registrar<'_>) {
    m.call("get_vcpu_ms", get_vcpu_ms);
    m.call("get_heap_mib", get_heap_mib);
    m.call("has_domain_inspector", has_domain_inspector);
    m.call("has_image_optimizer", has_image_optimizer);
    m.call("has_origin_inspector", has_origin_inspector);
}
