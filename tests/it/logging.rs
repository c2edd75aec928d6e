//! Log endpoints and standard streams.

use crate::harness::Setup;
use crate::languages;

languages!(
    fn records_reach_the_log_with_the_request_id(language) {
        let sidelight = Setup::behaviours(language).start();
        assert_eq!(sidelight.get("/log?msg=tidings").text(), "logged\n");
        let record = sidelight.log.wait_for(&["sidelight::guest_log", "events", "tidings"]);
        let id = |line: &str| line.split("request_id=").nth(1).map(|rest| rest.trim_matches('"').chars().take(36).collect::<String>());
        let request = id(&record).expect("a request id");
        assert_eq!(request.matches('-').count(), 4, "{record}");
        for stream in ["stdout", "stderr"] {
            let line = sidelight.log.wait_for(&[&format!("{stream}: tidings")]);
            assert_eq!(id(&line).as_ref(), Some(&request), "{line}");
        }
        assert!(sidelight.metric("sidelight_log_records_total{result=\"written\"}") >= 1.0);
    }
);

#[test]
fn json_lines() {
    let sidelight = Setup::behaviours("rust").arg("--log-format json").start();
    assert_eq!(sidelight.get("/log?msg=tidings").status, 200);
    let line = sidelight.log.wait_for(&["sidelight::guest_log"]);
    let json: serde_json::Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!(json["endpoint"], "events");
    assert_eq!(json["message"], "tidings");
}
