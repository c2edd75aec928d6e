//! The cases of what is used past its time: while it is revalidated (RFC 5861 §3), and in case of an error (§4).

use super::cases::why;
use super::table::*;

pub fn all() -> Vec<Case> {
    [while_revalidating(), revalidated(), if_error(), no_error()].concat()
}

/// 10 seconds, and 20 more.
fn swr(body: &'static str) -> Reply {
    ok(body).control("max-age=10, stale-while-revalidate=20")
}

/// 10 seconds, and 20 more if there is an error.
fn sie(body: &'static str) -> Reply {
    ok(body).control("max-age=10, stale-if-error=20")
}

fn fresh(body: &'static str) -> Reply {
    ok(body).control("max-age=100")
}

/// When what is stale is used at once.
fn while_revalidating() -> Vec<Case> {
    vec![
        case(
            "stale-while-revalidate",
            "RFC 5861 3",
            [swr("a"), fresh("b")],
            [
                miss().body("a"),
                hit().after(9).body("a"),
                hit().after(6).body("a").age(15).then_revalidates().differs(why::REVALIDATE),
                hit().body("b").age(0),
            ],
        ),
        case(
            "stale-while-revalidate to its end and no longer",
            "RFC 5861 3",
            [swr("a"), swr("b"), fresh("c")],
            [miss().body("a"), hit().after(29).body("a").age(29).then_revalidates().differs(why::REVALIDATE), miss().after(31).body("c")],
        ),
        case(
            "stale-while-revalidate counts with the origin's Age",
            "RFC 5861 3",
            [swr("a").with("age", "20"), fresh("b")],
            [miss().age(20), hit().after(5).body("a").age(25).then_revalidates().differs(why::REVALIDATE), hit().body("b")],
        ),
        case(
            "stale-while-revalidate that is over by the origin's Age",
            "RFC 5861 3",
            [swr("a").with("age", "30"), fresh("b")],
            [miss().age(30), miss().body("b")],
        ),
        case(
            "Surrogate-Control's stale-while-revalidate goes first",
            "Fastly: order of SWR",
            [ok("a").control("max-age=10, stale-while-revalidate=100").with("surrogate-control", "stale-while-revalidate=5"), fresh("b")],
            [miss(), miss().after(16).body("b")],
        ),
        case(
            "Surrogate-Control's lifetime, Cache-Control's stale-while-revalidate",
            "Fastly: order of SWR",
            [ok("a").control("max-age=100, stale-while-revalidate=20").with("surrogate-control", "max-age=10"), fresh("b")],
            [miss(), hit().after(15).body("a").then_revalidates(), hit().body("b")],
        ),
        case(
            "Surrogate-Control has both",
            "Fastly: order of SWR",
            [ok("a").control("no-cache").with("surrogate-control", "max-age=10, stale-while-revalidate=20"), fresh("b")],
            [miss(), hit().after(15).body("a").then_revalidates().differs(why::REVALIDATE), hit().body("b")],
        ),
        case(
            "stale-while-revalidate after the default lifetime",
            "RFC 5861 3",
            [ok("a").control("stale-while-revalidate=20"), fresh("b")],
            [
                miss(),
                hit().after(119).body("a").differs(why::REVALIDATE),
                hit().after(10).body("a").age(129).then_revalidates(),
                hit().body("b"),
            ],
        ),
        case(
            "stale-while-revalidate after Expires",
            "RFC 5861 3",
            [
                ok("a")
                    .control("stale-while-revalidate=20")
                    .with("date", "Wed, 26 Nov 2036 11:59:00 GMT")
                    .with("expires", "Wed, 26 Nov 2036 12:00:00 GMT"),
                fresh("b"),
            ],
            [miss(), hit().after(70).body("a").then_revalidates().differs(why::REVALIDATE), hit().body("b")],
        ),
        case(
            "stale-while-revalidate with max-age=0",
            "RFC 5861 3",
            [
                ok("a").control("max-age=0, stale-while-revalidate=20"),
                ok("b").control("max-age=0, stale-while-revalidate=20"),
                ok("c").control("max-age=0, stale-while-revalidate=20"),
            ],
            [
                miss().body("a"),
                hit().body("a").then_revalidates().differs(why::REVALIDATE),
                hit().body("b").then_revalidates().differs(why::REVALIDATE),
                miss().after(21),
            ],
        ),
        case(
            "a stale-while-revalidate that is no number is none",
            "RFC 9111 4.2.1",
            [ok("a").control("max-age=10, stale-while-revalidate=x"), fresh("b")],
            [miss(), miss().after(11).body("b")],
        ),
        case(
            "the first of two stale-while-revalidate counts",
            "RFC 9111 4.2.1",
            [ok("a").control("max-age=10, stale-while-revalidate=0, stale-while-revalidate=100"), fresh("b")],
            [miss(), miss().after(11).body("b")],
        ),
        case(
            "must-revalidate does not stop stale-while-revalidate",
            "Fastly: directives it heeds",
            [ok("a").control("max-age=10, must-revalidate, stale-while-revalidate=20"), fresh("b")],
            [miss(), hit().after(15).body("a").then_revalidates().differs(why::REVALIDATE), hit().body("b")],
        ),
        case(
            "a client's no-cache does not stop stale-while-revalidate",
            "Fastly: requests' Cache-Control",
            [swr("a"), fresh("b")],
            [
                miss(),
                hit().after(15).with("cache-control", "no-cache").body("a").then_revalidates().differs(why::REVALIDATE),
                hit().body("b"),
            ],
        ),
        case(
            "404 while it is revalidated",
            "RFC 5861 3",
            [status(404, "a").control("max-age=10, stale-while-revalidate=20"), fresh("b")],
            [miss().status(404), hit().status(404).after(15).body("a").then_revalidates().differs(why::REVALIDATE), hit().body("b")],
        ),
        case(
            "HEAD of what is stale revalidates it whole",
            "RFC 5861 3",
            [swr("hello"), fresh("b")],
            [
                miss(),
                hit().method("HEAD").after(15).has("content-length", "5").then_revalidates().differs(why::REVALIDATE),
                hit().body("b"),
            ],
        ),
        case(
            "a range of what is stale revalidates it whole",
            "RFC 5861 3",
            [swr("hello"), fresh("other")],
            [
                miss(),
                hit()
                    .after(15)
                    .with("range", "bytes=0-1")
                    .status(206)
                    .body("he")
                    .then_revalidates()
                    .origin_gets("range", "")
                    .differs(why::REVALIDATE),
                hit().body("other"),
            ],
        ),
        case(
            "a client that has what is stale is told so",
            "RFC 5861 3",
            [swr("a").with("etag", "\"a\""), fresh("b").with("etag", "\"b\"")],
            [
                miss(),
                hit()
                    .after(15)
                    .with("if-none-match", "\"a\"")
                    .status(304)
                    .then_revalidates()
                    .origin_gets("if-none-match", "\"a\"")
                    .differs(why::REVALIDATE),
                hit().with("if-none-match", "\"a\"").body("b"),
            ],
        ),
        case(
            "each variant is revalidated by itself",
            "RFC 5861 3",
            [swr("a").with("vary", "x-a"), fresh("b").with("vary", "x-a"), fresh("c").with("vary", "x-a")],
            [
                miss().with("x-a", "1").body("a"),
                miss().with("x-a", "2").body("b"),
                hit().with("x-a", "1").after(15).body("a").then_revalidates().origin_gets("x-a", "1").differs(why::REVALIDATE),
                hit().with("x-a", "1").body("c"),
                hit().with("x-a", "2").body("b").differs(why::REVALIDATE),
            ],
        ),
        case(
            "a guest's own key while it is revalidated",
            "Fastly: cache key",
            [swr("a"), fresh("b")],
            [
                miss().with("x-test-cache-key", "stale").query("x=1"),
                hit().after(15).with("x-test-cache-key", "stale").query("x=2").body("a").then_revalidates().differs(why::KEYS),
                hit().with("x-test-cache-key", "stale").body("b").differs(why::KEYS),
            ],
        ),
    ]
}

/// What comes of a revalidation that nobody waits for.
fn revalidated() -> Vec<Case> {
    vec![
        case(
            "a 304 that nobody waits for",
            "RFC 9111 4.3.4",
            [swr("a").with("etag", "\"a\"").with("x-mine", "1"), unchanged().with("etag", "\"a\"").with("x-mine", "2")],
            [
                miss().has("x-mine", "1"),
                hit()
                    .after(15)
                    .body("a")
                    .has("x-mine", "1")
                    .then_revalidates()
                    .origin_gets("if-none-match", "\"a\"")
                    .differs(why::REVALIDATE),
                hit().body("a").age(0).has("x-mine", "2"),
            ],
        ),
        case(
            "a 304 begins stale-while-revalidate anew",
            "RFC 9111 4.3.4",
            [swr("a").with("etag", "\"a\""), unchanged().with("etag", "\"a\"")],
            [
                miss(),
                hit().after(25).body("a").age(25).then_revalidates().differs(why::REVALIDATE),
                hit().after(9).body("a").age(9),
                hit().after(16).body("a").age(25).then_revalidates().differs(why::REVALIDATE),
                hit().body("a").age(0),
            ],
        ),
        case(
            "a 304 that ends stale-while-revalidate",
            "RFC 9111 4.3.4",
            [swr("a").with("etag", "\"a\""), unchanged().with("etag", "\"a\"").control("max-age=10")],
            [miss(), hit().after(15).then_revalidates().differs(why::REVALIDATE), hit().after(9), confirmed().after(2)],
        ),
        case(
            "an origin that is down leaves what is stale",
            "RFC 5861 3",
            [swr("a"), down(), fresh("b")],
            [
                miss(),
                hit().after(15).body("a").then_revalidates().differs(why::REVALIDATE),
                hit().after(1).body("a").age(16).then_revalidates().differs(why::REVALIDATE),
                hit().body("b"),
            ],
        ),
        case(
            "a server error leaves what is stale",
            "Fastly: 5xx on revalidation",
            [swr("a"), status(500, "x"), fresh("b")],
            [
                miss(),
                hit().after(15).body("a").then_revalidates().differs(why::REVALIDATE),
                hit().after(1).body("a").age(16).then_revalidates().differs(why::REVALIDATE),
                hit().body("b"),
            ],
        ),
        case(
            "an error that nobody waits for makes nothing last longer",
            "RFC 5861 3",
            [swr("a"), down(), fresh("b")],
            [miss(), hit().after(15).body("a").then_revalidates().differs(why::REVALIDATE), miss().after(16).body("b")],
        ),
        case(
            "what has become private is not used any more",
            "Fastly: hit-for-pass",
            [swr("a"), ok("b").control("private"), ok("c")],
            [miss(), hit().after(15).body("a").then_revalidates().differs(why::REVALIDATE), miss().body("c"), miss().body("c")],
        ),
        case(
            "what has gone is not used any more",
            "RFC 9111 4.3.3",
            [swr("a"), status(410, "b").control("max-age=100")],
            [miss(), hit().after(15).body("a").then_revalidates().differs(why::REVALIDATE), hit().status(410).body("b")],
        ),
        case(
            "what has come without a length",
            "RFC 9111 4.3.3",
            [swr("a"), fresh("hello").chunked()],
            [miss(), hit().after(15).body("a").then_revalidates().differs(why::REVALIDATE), hit().body("hello")],
        ),
    ]
}

/// When what is stale is used since there is nothing else.
fn if_error() -> Vec<Case> {
    vec![
        case(
            "stale-if-error",
            "RFC 5861 4",
            [sie("a"), down(), down(), fresh("b")],
            [miss().body("a"), saved().after(15).body("a").age(15), saved().after(10).body("a").age(25), miss().body("b"), hit().body("b")],
        ),
        case(
            "stale-if-error asks with the tag first",
            "RFC 5861 4",
            [sie("a").with("etag", "\"a\""), down(), unchanged().with("etag", "\"a\"")],
            [
                miss(),
                saved().after(15).body("a").origin_gets("if-none-match", "\"a\""),
                confirmed().body("a").age(0),
                hit().after(9).body("a"),
            ],
        ),
        case(
            "Surrogate-Control's stale-if-error goes first",
            "Fastly: order of SIE",
            [ok("a").control("max-age=10, stale-if-error=1").with("surrogate-control", "stale-if-error=100"), down()],
            [miss(), saved().after(50).body("a")],
        ),
        case(
            "stale-while-revalidate goes before stale-if-error",
            "RFC 5861 4",
            [ok("a").control("max-age=10, stale-while-revalidate=10, stale-if-error=30"), down()],
            [
                miss(),
                hit().after(15).body("a").then_revalidates().differs(why::REVALIDATE),
                saved().after(10).body("a").age(25),
                past("GET").after(16).status(502),
            ],
        ),
        case(
            "stale-if-error with max-age=0",
            "RFC 5861 4",
            [ok("a").control("max-age=0, stale-if-error=20"), down()],
            [miss(), saved().body("a"), saved().after(19).body("a")],
        ),
        case(
            "stale-if-error of 404",
            "RFC 5861 4",
            [status(404, "a").control("max-age=10, stale-if-error=20"), down()],
            [miss().status(404), saved().after(15).status(404).body("a")],
        ),
        case(
            "stale-if-error for HEAD, ranges and conditions",
            "RFC 5861 4",
            [sie("hello").with("etag", "\"a\""), down()],
            [
                miss(),
                saved().after(15).method("HEAD").has("content-length", "5"),
                saved().with("range", "bytes=0-1").status(206).body("he"),
                saved().with("if-none-match", "\"a\"").status(304),
            ],
        ),
        case(
            "stale-if-error of a variant",
            "RFC 5861 4",
            [sie("a").with("vary", "x-a"), down()],
            [miss().with("x-a", "1"), saved().with("x-a", "1").after(15).body("a"), past("GET").with("x-a", "2").status(502)],
        ),
    ]
}

/// When it is not.
fn no_error() -> Vec<Case> {
    vec![
        case(
            "stale-if-error is over some day",
            "RFC 5861 4",
            [sie("a"), down()],
            [miss(), hit().after(9).body("a"), past("GET").after(22).status(502)],
        ),
        case(
            "without stale-if-error nothing takes the place of an error",
            "RFC 9111 4.2.4",
            [ok("a").control("max-age=10"), down()],
            [miss(), past("GET").after(11).status(502)],
        ),
        case(
            "Surrogate-Control's stale-if-error of nothing goes first",
            "Fastly: order of SIE",
            [ok("a").control("max-age=10, stale-if-error=100").with("surrogate-control", "stale-if-error=0"), down()],
            [miss(), past("GET").after(11).status(502)],
        ),
        case(
            "a stale-if-error that is no number is none",
            "RFC 9111 4.2.1",
            [ok("a").control("max-age=10, stale-if-error=x"), down()],
            [miss(), past("GET").after(11).status(502)],
        ),
        case(
            "a server error is an answer",
            "Fastly: stale-if-error",
            [sie("a").with("etag", "\"a\""), status(500, "b"), unchanged().with("etag", "\"a\"")],
            [miss(), miss().after(15).status(500).body("b"), confirmed().body("a").origin_gets("if-none-match", "\"a\"")],
        ),
        case(
            "502 of an origin is an answer",
            "Fastly: stale-if-error",
            [sie("a"), status(502, "b"), status(504, "c")],
            [miss(), miss().after(15).status(502).body("b"), miss().status(504).body("c")],
        ),
        case(
            "stale-if-error does nothing while the origin answers",
            "RFC 5861 4",
            [sie("a"), fresh("b")],
            [miss(), miss().after(15).body("b").age(0), hit().body("b")],
        ),
        case(
            "an error is not stored",
            "Fastly: errors",
            [down(), fresh("b")],
            [past("GET").status(502), miss().body("b"), hit().body("b")],
        ),
        case(
            "what is private is not there in case of an error",
            "RFC 9111 5.2.2.7",
            [ok("a").control("private, max-age=10, stale-if-error=100"), down()],
            [miss(), past("GET").status(502), past("GET").after(11).status(502)],
        ),
        case(
            "what is fresh needs no origin",
            "RFC 9111 4.2",
            [fresh("a"), down()],
            [miss(), hit().after(99).body("a"), past("GET").after(2).status(502)],
        ),
    ]
}
