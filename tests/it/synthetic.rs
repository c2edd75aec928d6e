//! A response made by the guest alone.

use crate::harness::Setup;
use crate::languages;

languages!(
    fn is_sent_as_made(language) {
        let sidelight = Setup::behaviours(language).start();
        let answer = sidelight.get("/synthetic");
        assert_eq!(answer.status, 418);
        assert_eq!(answer.text(), "a synthetic response\n");
        assert_eq!(answer.header("x-guest"), Some(language));
        assert_eq!(answer.header("content-type"), Some("text/plain"));
        // Go's SDK streams every response: it has a length only if it was whole when its head went out.
        if language != "go" || answer.header("transfer-encoding").is_none() {
            assert_eq!(answer.header("content-length"), Some("21"));
        }
        assert!(answer.header("date").is_some());
        // Two lines, unless the SDK joins them (JavaScript's Headers does).
        let multi = answer.values("x-multi").join(", ");
        assert_eq!(multi, "one, two");
        if language != "js" {
            assert_eq!(answer.values("x-multi"), ["one", "two"]);
        }
        assert_eq!(sidelight.get("/nothing-here").status, 404);
    }
);

languages!(
    fn every_request_has_a_sandbox_of_its_own(language) {
        let sidelight = Setup::behaviours(language).start();
        for _ in 0..20 {
            assert_eq!(sidelight.get("/synthetic").status, 418);
        }
        sidelight.wait_metric("sidelight_sandboxes", 0.0);
        assert!(sidelight.metric("sidelight_guests_total{outcome=\"finished\"}") >= 20.0);
        assert!(sidelight.metric("sidelight_requests_total{code=\"418\"}") >= 20.0);
    }
);
