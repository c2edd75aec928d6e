//! What a guest learns about its surroundings.

use crate::harness::Setup;
use crate::languages;

languages!(
    fn the_environment_is_complete(language) {
        let sidelight = Setup::behaviours(language).arg("--pop LAX --service-version 7 --hostname cache-1").start();
        let answer = sidelight.get("/env");
        assert_eq!(answer.status, 200, "{}", answer.text());
        let env = answer.json();
        assert_eq!(env["FASTLY_POP"], "LAX");
        assert_eq!(env["FASTLY_HOSTNAME"], "cache-1");
        assert_eq!(env["FASTLY_SERVICE_VERSION"], "7");
        assert_eq!(env["FASTLY_IS_STAGING"], "1");
        for name in ["FASTLY_CACHE_GENERATION", "FASTLY_CUSTOMER_ID", "FASTLY_REGION", "FASTLY_SERVICE_ID", "FASTLY_TRACE_ID"] {
            assert!(env[name].as_str().is_some_and(|value| !value.is_empty()), "{name}: {env}");
        }
        let again = sidelight.get("/env").json();
        assert_ne!(env["FASTLY_TRACE_ID"], again["FASTLY_TRACE_ID"], "each request has its own");
    }
);

languages!(
    fn the_clients_address(language) {
        let sidelight = Setup::behaviours(language).start();
        assert_eq!(sidelight.get("/client").text(), "127.0.0.1\n");
    }
);
