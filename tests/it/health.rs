//! Health checks, and bounds on a backend's connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use hyper::Response;

use crate::harness::{Setup, Sidelight, guest};
use crate::origin::{Origin, text};

/// An origin that is well for as long as it is told to be.
fn origin() -> (Origin, Arc<AtomicBool>) {
    let well = Arc::new(AtomicBool::new(true));
    let is_well = well.clone();
    let origin = Origin::new(move |seen| {
        let status = if seen.target == "/base/well" && !is_well.load(Ordering::Relaxed) { 500 } else { 200 };
        Response::builder().status(status).body(text("an answer")).expect("a response")
    });
    (origin, well)
}

fn checked(origin: &Origin, check: &str) -> Sidelight {
    let manifest = format!("[sidelight.backends.origin]\nhealth_check = {{ path = \"/well\", interval_ms = 1000, {check} }}\n");
    Setup::new(guest("rust", "facts")).backend("origin", format_args!("{}/base", origin.url())).manifest(&manifest).start()
}

fn becomes(sidelight: &Sidelight, wanted: &str) {
    sidelight.wait_until(wanted, |sidelight| sidelight.get("/health").text().starts_with(wanted));
}

#[test]
fn a_backend_that_falls_ill_and_gets_well() {
    let (origin, well) = origin();
    let sidelight = checked(&origin, "window = 2, threshold = 1, initial = 1, host = \"checked.test\"");
    assert_eq!(sidelight.get("/health").text(), "Ok(Healthy) Ok(\"an answer\")\n");
    sidelight.wait_metric("sidelight_backend_healthy{backend=\"origin\"}", 1.0);
    well.store(false, Ordering::Relaxed);
    becomes(&sidelight, "Ok(Unhealthy)");
    // It is sent nothing but checks.
    let told = sidelight.get("/health").text();
    assert!(told.contains("Err(") && told.contains("DestinationUnavailable"), "{told}");
    sidelight.log.wait_for(&["backend is unhealthy", "it answered 500 and not 200"]);
    sidelight.wait_metric("sidelight_backend_healthy{backend=\"origin\"}", 0.0);
    well.store(true, Ordering::Relaxed);
    becomes(&sidelight, "Ok(Healthy) Ok(\"an answer\")");
    let check = origin.seen().into_iter().find(|seen| seen.target == "/base/well").expect("a check");
    assert_eq!((check.method.as_str(), check.values("host")), ("GET", vec!["checked.test"]));
}

#[test]
fn before_the_first_check_it_is_as_assumed() {
    let dead = format!("http://{}", crate::origin::refused());
    let manifest = "[sidelight.backends.origin]\nhealth_check = { interval_ms = 1000, window = 4, threshold = 2, initial = 1 }\n";
    let sidelight = Setup::new(guest("rust", "facts")).backend("origin", &dead).manifest(manifest).start();
    assert!(sidelight.get("/health").text().starts_with("Ok(Unhealthy)"));
    // Four assumed ones, two of them enough: it takes three that fail.
    let manifest = "[sidelight.backends.origin]\nhealth_check = { interval_ms = 1000, window = 4, threshold = 2, initial = 4 }\n";
    let sidelight = Setup::new(guest("rust", "facts")).backend("origin", &dead).manifest(manifest).start();
    let told = sidelight.get("/health").text();
    assert!(told.starts_with("Ok(Healthy)") && told.contains("ConnectionRefused"), "{told}");
    becomes(&sidelight, "Ok(Unhealthy)");
}

#[test]
fn a_dynamic_backend_is_checked() {
    let (origin, well) = origin();
    let sidelight = Setup::new(guest("rust", "backends")).arg("--dynamic-backends any").start();
    let ask = || sidelight.get(&format!("/?target={}&check=/base/well&health", origin.addr)).text();
    // None of the last two went well yet; then both have.
    assert_eq!(ask(), "Ok(Unhealthy)\n");
    sidelight.wait_until("health", |_| ask() == "Ok(Healthy)\n");
    well.store(false, Ordering::Relaxed);
    sidelight.wait_until("illness", |_| ask() == "Ok(Unhealthy)\n");
    // Nobody has it any more: nobody need know.
    well.store(true, Ordering::Relaxed);
    sidelight.wait_until("the end of its checks", |_| {
        let before = origin.count();
        std::thread::sleep(std::time::Duration::from_secs(3));
        origin.count() == before
    });
    sidelight.wait_until("health again", |_| ask() == "Ok(Healthy)\n");
}

#[test]
fn the_manifests_health_is_an_answer_only() {
    let (origin, _) = origin();
    let manifest = format!("[local_server.backends.origin]\nurl = \"{}\"\nhealth = \"unhealthy\"\n", origin.url());
    let sidelight = Setup::new(guest("rust", "facts")).manifest(&manifest).start();
    assert_eq!(sidelight.get("/health").text(), "Ok(Unhealthy) Ok(\"an answer\")\n");
}

/// More requests at once than there may be connections: they wait their turn, and no longer than to connect.
#[test]
fn connections_are_bounded() {
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (count, peak) = (now.clone(), most.clone());
    let origin = Origin::raw(move |request| {
        let (count, peak) = (count.clone(), peak.clone());
        async move {
            peak.fetch_max(count.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
            let pause = if request.uri().path() == "/slow" { 2000 } else { 20 };
            tokio::time::sleep(std::time::Duration::from_millis(pause)).await;
            count.fetch_sub(1, Ordering::Relaxed);
            Response::new(text("an answer"))
        }
    });
    let manifest = "[sidelight.backends.origin]\nmax_connections = 2\nconnect_timeout_ms = 1000\n";
    let sidelight = Setup::behaviours("rust").backend("origin", origin.url()).manifest(manifest).start();
    let together = |count: usize, path: &str| -> Vec<(u16, String)> {
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..count).map(|_| scope.spawn(|| sidelight.get(path))).collect();
            let answers = threads.into_iter().map(|thread| thread.join().expect("an answer"));
            answers.map(|answer| (answer.status, answer.header("x-error").unwrap_or_default().to_owned())).collect()
        })
    };
    assert!(together(12, "/pass/x").iter().all(|(status, _)| *status == 200));
    assert_eq!(most.load(Ordering::Relaxed), 2);
    assert_eq!(origin.connections(), 2);
    let answers = together(3, "/pass/slow");
    let refused: Vec<_> = answers.iter().filter(|(status, _)| *status == 502).collect();
    assert_eq!(refused.len(), 1, "{answers:?}");
    assert!(refused[0].1.to_lowercase().contains("limit"), "{answers:?}");
    sidelight.wait_until("a count", |it| {
        it.metric("sidelight_backend_requests_total{backend=\"origin\",result=\"connection_limit_reached\"}") > 0.5
    });
}
