//! Tells what the platform knows of its client and its service; tests/guests/README.md says how.

use fastly::experimental::BackendExt;
use fastly::handle::BodyHandle;
use fastly::security::{InspectConfig, inspect};
use fastly::{Backend, Request, Response};
use fastly_shared::FastlyStatus;

#[link(wasm_import_module = "fastly_http_downstream")]
unsafe extern "C" {
    fn downstream_visits_this_service(count: *mut u32) -> FastlyStatus;
}

#[link(wasm_import_module = "wasi_snapshot_preview1")]
unsafe extern "C" {
    fn clock_time_get(clock: u32, precision: u64, time: *mut u64) -> u32;
    fn poll_oneoff(subscriptions: *const u64, events: *mut u64, count: u32, happened: *mut u32) -> u32;
}

fn main() {
    let req = Request::from_client();
    if req.get_path() == "/health" {
        let health = |name: &str| Backend::from_name(name).expect("a name").is_healthy();
        let sent = Request::get("http://asked.test/").with_pass(true).send("origin");
        let sent = sent.map(|mut response| response.take_body_str()).map_err(|error| format!("{:?}", error.root_cause()));
        Response::from_body(format!("{:?} {sent:?}\n", health("origin"))).send_to_client();
        return;
    }
    if req.get_path() == "/clock" {
        Response::from_body(clocks()).send_to_client();
        return;
    }
    let mut visits = u32::MAX;
    let status = unsafe { downstream_visits_this_service(&mut visits) };
    let flag = |call: unsafe extern "C" fn(*mut u32) -> FastlyStatus| {
        let mut out = 7;
        (unsafe { call(&mut out) }, out)
    };
    let has = [
        flag(fastly_sys::fastly_compute_runtime::has_image_optimizer),
        flag(fastly_sys::fastly_compute_runtime::has_domain_inspector),
        flag(fastly_sys::fastly_compute_runtime::has_origin_inspector),
    ];
    let own = Request::get("http://own.test/");
    let lines = [
        format!("region: {:?}", req.get_compliance_region()),
        format!("ddos: {:?}", req.get_client_ddos_detected()),
        format!("key: {:?}", req.fastly_key_is_valid()),
        format!("bots: {:?} {:?}", req.get_bot_analyzed(), req.get_bot_detected()),
        format!("bot: {:?} {:?} {:?}", req.get_bot_name(), req.get_bot_category(), req.get_bot_verified()),
        format!("kind: {:?}", req.get_bot_category_kind().map(|kind| kind.to_string())),
        format!("vpn: {:?} {:?}", req.get_vpn_proxy_is_anonymous(), req.get_vpn_proxy_is_tor_exit_node()),
        format!("vpn name: {:?}", req.get_vpn_proxy_service_name()),
        format!("has: {has:?}"),
        format!("visits: {status:?} {visits}"),
        format!("own: {:?} {:?} {:?}", own.get_bot_analyzed(), own.fastly_key_is_valid(), own.get_compliance_region()),
        format!("inspect: {}", waf(&req)),
    ];
    Response::from_body(lines.join("\n") + "\n").send_to_client();
}

/// What the clocks of WASI show, and how long a wait took that ends at a time of the monotonic one.
fn clocks() -> String {
    let read = |clock| {
        let mut time = 0_u64;
        (unsafe { clock_time_get(clock, 1, &mut time) }, time)
    };
    let (begun, wall) = (read(1).1, read(0).1);
    // A subscription: user data, clock (tag 0), which clock, when, precision, absolute.
    let mut subscription = [0_u64; 6];
    subscription[2] = 1;
    subscription[3] = begun + 20_000_000;
    subscription[5] = 1;
    let (mut event, mut count) = ([0_u64; 4], 0_u32);
    let waited = unsafe { poll_oneoff(subscription.as_ptr(), event.as_mut_ptr(), 1, &mut count) };
    format!("{begun} {wall} {waited} {count} {} {} {} {}\n", read(1).1 - begun, read(2).0, read(3).0, read(4).0)
}

fn waf(req: &Request) -> String {
    let (handle, body) = req.clone_without_body().into_handles();
    let body = body.unwrap_or_else(BodyHandle::new);
    match inspect(InspectConfig::from_handles(&handle, &body).corp("corp").workspace("space")) {
        Ok(answer) => format!("{:?} {} {:?} {:?}", answer.verdict(), answer.status(), answer.tags(), answer.redirect_url()),
        Err(error) => format!("{error}"),
    }
}
