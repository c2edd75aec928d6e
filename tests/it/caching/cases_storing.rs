//! The cases of what is stored, and what is not (RFC 9111 §3; Fastly, "HTTP caching semantics").

use super::cases::why;
use super::table::*;

pub fn all() -> Vec<Case> {
    [stored_statuses(), other_statuses(), refusals(), passes(), requests(), bodies()].concat()
}

fn stored_statuses() -> Vec<Case> {
    vec![
        case(
            "203 is stored",
            "Fastly: statuses",
            [status(203, "a").control("max-age=100")],
            [miss().status(203), hit().status(203).after(99).body("a")],
        ),
        case(
            "300 is stored",
            "Fastly: statuses",
            [status(300, "a").control("max-age=100")],
            [miss().status(300), hit().status(300).body("a")],
        ),
        case(
            "301 is stored with its Location",
            "Fastly: statuses",
            [status(301, "").control("max-age=100").with("location", "/elsewhere")],
            [miss().status(301), hit().status(301).has("location", "/elsewhere")],
        ),
        case(
            "302 without a lifetime is stored",
            "Fastly: statuses",
            [status(302, "a").with("location", "/elsewhere"), ok("b")],
            [
                miss().status(302),
                hit().status(302).after(119).body("a").has("location", "/elsewhere").differs(why::DEFAULT),
                miss().after(2).body("b"),
            ],
        ),
        case(
            "404 is stored",
            "Fastly: statuses",
            [status(404, "a").control("max-age=10"), ok("b").control("max-age=10")],
            [miss().status(404), hit().status(404).after(9).body("a").age(9), miss().after(2).body("b"), hit().body("b")],
        ),
        case(
            "404 without a lifetime is stored for two minutes",
            "Fastly: default TTL",
            [status(404, "a"), ok("b")],
            [miss().status(404), hit().status(404).after(119).differs(why::DEFAULT), miss().after(2)],
        ),
        case(
            "410 is stored",
            "Fastly: statuses",
            [status(410, "a").control("max-age=100")],
            [miss().status(410), hit().status(410).body("a")],
        ),
    ]
}

fn other_statuses() -> Vec<Case> {
    vec![
        case(
            "201 is not stored",
            "Fastly: statuses",
            [status(201, "a").control("max-age=100"), ok("b")],
            [miss().status(201).body("a"), miss().body("b")],
        ),
        case(
            "204 is not stored",
            "Fastly: statuses",
            [status(204, "").control("max-age=100"), ok("b")],
            [miss().status(204).lacks("content-length"), miss().body("b").differs(why::STATUS)],
        ),
        case(
            "205 is not stored",
            "Fastly: statuses",
            [status(205, "").control("max-age=100"), ok("b")],
            [miss().status(205), miss().body("b")],
        ),
        case(
            "206 that nobody asked for is not stored",
            "RFC 9111 3.3",
            [status(206, "ab").control("max-age=100").with("content-range", "bytes 0-1/5"), ok("abcde")],
            [miss().status(206).body("ab").has("content-range", "bytes 0-1/5"), miss().body("abcde")],
        ),
        case(
            "303 with a lifetime is not stored",
            "Fastly: statuses",
            [status(303, "").control("max-age=100").with("location", "/elsewhere"), ok("b")],
            [miss().status(303).has("location", "/elsewhere"), miss().body("b").differs(why::STATUS)],
        ),
        case(
            "304 without anything stored is passed on and not stored",
            "RFC 9111 4.3.3",
            [unchanged().control("max-age=100").with("etag", "\"a\""), ok("b")],
            [miss().status(304).has("etag", "\"a\""), miss().body("b")],
        ),
        case(
            "307 with a lifetime is not stored",
            "Fastly: statuses",
            [status(307, "").control("max-age=100").with("location", "/elsewhere"), ok("b")],
            [miss().status(307), miss().body("b").differs(why::STATUS)],
        ),
        case(
            "308 is not stored",
            "Fastly: statuses",
            [status(308, "").control("max-age=100").with("location", "/elsewhere"), ok("b")],
            [miss().status(308), miss().body("b").differs(why::STATUS)],
        ),
        case(
            "400 is not stored",
            "Fastly: statuses",
            [status(400, "a").control("max-age=100"), ok("b")],
            [miss().status(400).body("a"), miss().body("b")],
        ),
        case(
            "403 is not stored",
            "Fastly: statuses",
            [status(403, "a").control("s-maxage=100"), ok("b")],
            [miss().status(403).body("a"), miss().body("b")],
        ),
        case(
            "405 is not stored",
            "Fastly: statuses",
            [status(405, "a").control("max-age=100").with("allow", "PUT"), ok("b")],
            [miss().status(405).has("allow", "PUT"), miss().body("b").differs(why::STATUS)],
        ),
        case(
            "500 is not stored",
            "Fastly: statuses",
            [status(500, "a").control("max-age=100"), ok("b")],
            [miss().status(500).body("a"), miss().body("b")],
        ),
        case(
            "501 is not stored",
            "Fastly: statuses",
            [status(501, "a").control("public"), ok("b")],
            [miss().status(501), miss().body("b")],
        ),
        case(
            "503 with a Surrogate-Control is not stored",
            "Fastly: statuses",
            [status(503, "a").with("surrogate-control", "max-age=100").with("retry-after", "7"), ok("b")],
            [miss().status(503).has("retry-after", "7"), miss().body("b")],
        ),
        case(
            "a status nobody knows is not stored",
            "RFC 9111 3",
            [status(299, "a").control("max-age=100"), ok("b")],
            [miss().status(299).body("a"), miss().body("b")],
        ),
        case(
            "a status that is not stored keeps nothing else out",
            "Fastly: statuses",
            [status(500, "a"), ok("b").control("max-age=100")],
            [miss().status(500), miss().body("b"), hit().body("b")],
        ),
        case(
            "a private response of another status keeps nothing else out",
            "Fastly: hit-for-pass",
            [status(500, "a").control("private"), ok("b").control("max-age=100")],
            [miss().status(500), miss().body("b"), hit().body("b")],
        ),
    ]
}

/// Responses that may not be stored.
fn refusals() -> Vec<Case> {
    vec![
        case(
            "private is not stored",
            "RFC 9111 5.2.2.7",
            [ok("a").control("private, max-age=100"), ok("b")],
            [miss().body("a"), miss().body("b")],
        ),
        case(
            "private with names of fields is not stored",
            "RFC 9111 5.2.2.7",
            [ok("a").control("private=\"x-mine\", max-age=100"), ok("b")],
            [miss().body("a"), miss().body("b")],
        ),
        case(
            "private goes before s-maxage and public",
            "RFC 9111 5.2.2.7",
            [ok("a").control("public, s-maxage=100, private"), ok("b")],
            [miss().body("a"), miss().body("b")],
        ),
        case(
            "Surrogate-Control does not make private storable",
            "RFC 9111 5.2.2.7",
            [ok("a").control("private").with("surrogate-control", "max-age=100"), ok("b")],
            [miss().body("a"), miss().body("b")],
        ),
        case("private in quotes is no directive", "RFC 9110 5.6.4", [ok("a").control("foo=\"a, private\", max-age=100")], [miss(), hit()]),
        case("no-store is not stored", "RFC 9111 5.2.2.5", [ok("a").control("no-store"), ok("b")], [miss().body("a"), miss().body("b")]),
        case(
            "no-store beside a lifetime is not stored",
            "RFC 9111 5.2.2.5",
            [ok("a").control("max-age=100, No-Store"), ok("b")],
            [miss().body("a"), miss().body("b").differs("it knows directives in lower case only")],
        ),
        case(
            "no-store in the second field is not stored",
            "RFC 9111 5.2.2.5",
            [ok("a").control("max-age=100").control("no-store"), ok("b")],
            [miss().body("a"), miss().body("b")],
        ),
        case(
            "Surrogate-Control: no-store is not stored",
            "Fastly: Surrogate-Control",
            [ok("a").control("max-age=100").with("surrogate-control", "no-store"), ok("b")],
            [miss().body("a"), miss().body("b").differs(why::SURROGATE)],
        ),
        case(
            "Surrogate-Control: private is not stored",
            "Fastly: Surrogate-Control",
            [ok("a").control("max-age=100").with("surrogate-control", "private, max-age=100"), ok("b")],
            [miss().body("a"), miss().body("b").differs(why::SURROGATE)],
        ),
        case(
            "Vary: * is not stored",
            "RFC 9111 4.1",
            [ok("a").control("max-age=100").with("vary", "*"), ok("b")],
            [miss().body("a"), miss().body("b")],
        ),
        case(
            "Vary with * among names is not stored",
            "RFC 9111 4.1",
            [ok("a").control("max-age=100").with("vary", "accept, *"), ok("b")],
            [miss().body("a"), miss().body("b")],
        ),
        case(
            "Vary: * in a second field is not stored",
            "RFC 9111 4.1",
            [ok("a").control("max-age=100").with("vary", "accept").with("vary", "*"), ok("b")],
            [miss().body("a"), miss().body("b")],
        ),
        case(
            "a response that sets cookies is not stored",
            "Fastly: Set-Cookie",
            [ok("a").control("max-age=100").with("set-cookie", "a=b"), ok("b")],
            [miss().has("set-cookie", "a=b"), miss().body("b")],
        ),
        case(
            "public does not make cookies storable",
            "Fastly: Set-Cookie",
            [ok("a").control("public, max-age=100").with("set-cookie", "a=b")],
            [miss(), miss().differs("it stores cookies that are public")],
        ),
        case(
            "a redirect that sets cookies is not stored",
            "Fastly: Set-Cookie",
            [status(302, "").control("max-age=100").with("set-cookie", "a=b").with("location", "/")],
            [miss().status(302), miss().status(302)],
        ),
        case(
            "Set-Cookie2 is only a field",
            "Fastly: Set-Cookie",
            [ok("a").control("max-age=100").with("set-cookie2", "a=b")],
            [miss(), hit().has("set-cookie2", "a=b")],
        ),
    ]
}

/// Requests that do without the cache, since a response was not to be stored or the guest says so.
fn passes() -> Vec<Case> {
    vec![
        case(
            "what comes while requests pass is not stored",
            "Fastly: hit-for-pass",
            [ok("a").control("private, max-age=100"), ok("b").control("max-age=100"), ok("c").control("max-age=100")],
            [miss().body("a"), miss().body("b"), miss().after(90).body("c").differs(why::PASS)],
        ),
        case(
            "requests pass as long as the response would have been fresh",
            "Fastly: hit-for-pass",
            [ok("a").control("private, max-age=10"), ok("b").control("max-age=100"), ok("c").control("max-age=100")],
            [miss().body("a"), miss().after(9).body("b"), miss().after(2).body("c").differs(why::PASS), hit().body("c")],
        ),
        case(
            "requests pass for two minutes without a lifetime",
            "Fastly: hit-for-pass",
            [ok("a").control("no-store"), ok("b").control("max-age=100"), ok("c").control("max-age=100")],
            [miss().body("a"), miss().after(119).body("b"), miss().after(2).body("c").differs(why::PASS), hit().body("c")],
        ),
        case(
            "requests pass for two minutes after max-age=0",
            "Fastly: hit-for-pass",
            [ok("a").control("private, max-age=0"), ok("b").control("max-age=100"), ok("c").control("max-age=100")],
            [miss().body("a"), miss().after(119).body("b"), miss().after(2).body("c").differs(why::PASS), hit().body("c")],
        ),
        case(
            "requests pass after a response that sets cookies",
            "Fastly: Set-Cookie",
            [ok("a").control("max-age=10").with("set-cookie", "a=b"), ok("b").control("max-age=100"), ok("c").control("max-age=100")],
            [miss().body("a"), miss().after(9).body("b"), miss().after(2).body("c").differs(why::PASS), hit().body("c")],
        ),
        case(
            "only requests of that URL pass",
            "Fastly: hit-for-pass",
            [ok("a").control("private"), ok("b").control("max-age=100")],
            [miss().query("a").body("a"), miss().query("b").body("b"), hit().query("b").body("b"), miss().query("a").body("b")],
        ),
        case(
            "a request that passes keeps its conditions",
            "Fastly: hit-for-pass",
            [ok("a").control("private").with("etag", "\"a\""), unchanged().with("etag", "\"a\"")],
            [
                miss().with("if-none-match", "\"a\"").body("a").origin_gets("if-none-match", ""),
                miss().with("if-none-match", "\"a\"").status(304).origin_gets("if-none-match", "\"a\""),
            ],
        ),
        case(
            "a request that passes keeps its range",
            "Fastly: hit-for-pass",
            [ok("abcde").control("private"), status(206, "ab").with("content-range", "bytes 0-1/5")],
            [
                miss().with("range", "bytes=0-1").body("abcde").origin_gets("range", ""),
                miss().with("range", "bytes=0-1").status(206).body("ab").origin_gets("range", "bytes=0-1"),
            ],
        ),
        case(
            "a guest's pass neither asks the cache nor fills it",
            "Fastly: pass",
            [ok("a").control("max-age=100"), ok("b").control("max-age=100"), ok("c").control("max-age=100")],
            [
                past("GET").with("x-test-pass", "1").body("a").lacks("x-cache-hits"),
                miss().body("b").differs(why::GUEST_PASS),
                past("GET").with("x-test-pass", "1").body("c").differs(why::GUEST_PASS),
                hit().body("b"),
            ],
        ),
        case(
            "a guest's pass keeps conditions and range",
            "Fastly: pass",
            [status(206, "ab").with("content-range", "bytes 0-1/5")],
            [past("GET")
                .with("x-test-pass", "1")
                .with("range", "bytes=0-1")
                .with("if-none-match", "\"x\"")
                .status(206)
                .origin_gets("range", "bytes=0-1")
                .origin_gets("if-none-match", "\"x\"")],
        ),
        case(
            "a guest's pass of HEAD is none of the cache's",
            "Fastly: pass",
            [ok("a").control("max-age=100"), ok("b").control("max-age=100")],
            [past("HEAD").with("x-test-pass", "1"), miss().body("b")],
        ),
        case(
            "a guest's pass of what is private leaves no mark",
            "Fastly: pass",
            [ok("a").control("private"), ok("b").control("max-age=100")],
            [past("GET").with("x-test-pass", "1"), miss(), hit().body("b")],
        ),
        case(
            "other methods do without the cache",
            "Fastly: methods",
            [ok("a").control("max-age=100")],
            [
                miss().method("POST").body("a"),
                miss().method("POST").body("a").differs("it stores what a POST brings with a lifetime"),
                miss().method("PUT").body("a"),
                miss().method("PATCH").body("a"),
                miss().method("DELETE").body("a"),
                miss().method("OPTIONS").body("a"),
            ],
        ),
        case(
            "a POST is not answered with what a GET brought",
            "RFC 9111 4",
            [ok("a").control("max-age=100"), status(404, "b").control("max-age=100")],
            [miss().body("a"), past("POST").with("x-test-pass", "1").status(404).body("b"), hit().body("a")],
        ),
        case(
            "a GET is not answered with what a POST brought",
            "Fastly: methods",
            [ok("a").control("max-age=100"), ok("b").control("max-age=100")],
            [miss().method("POST").body("a"), miss().body("b"), hit().body("b").differs("it stores what a POST brings with a lifetime")],
        ),
        case(
            "OPTIONS is not answered with what a GET brought",
            "RFC 9110 9.3.7",
            [ok("a").control("max-age=100"), status(204, "").with("allow", "GET")],
            [
                miss(),
                past("OPTIONS").with("x-test-pass", "1").status(204).has("allow", "GET"),
                hit().body("a").differs("it stores what other methods bring as if it were of GET"),
            ],
        ),
    ]
}

/// Requests that other caches would treat with care.
fn requests() -> Vec<Case> {
    vec![
        case(
            "what comes for a request with Authorization is stored",
            "Fastly: Authorization",
            [ok("a").control("max-age=100")],
            [
                miss().with("authorization", "Basic YTpi").origin_gets("authorization", "Basic YTpi"),
                hit().body("a").differs("it does not store what is for somebody, unless that is public"),
            ],
        ),
        case(
            "a request with Authorization is answered from the cache",
            "Fastly: Authorization",
            [ok("a").control("max-age=100")],
            [miss(), hit().with("authorization", "Basic YTpi").body("a")],
        ),
        case(
            "public and Authorization",
            "RFC 9111 3.5",
            [ok("a").control("public, max-age=100")],
            [miss().with("authorization", "Basic YTpi"), hit().with("authorization", "Basic Yzpk").body("a")],
        ),
        case(
            "a request's cookies do not matter",
            "Fastly: Cookie",
            [ok("a").control("max-age=100")],
            [miss().with("cookie", "a=b").origin_gets("cookie", "a=b"), hit().with("cookie", "c=d").body("a"), hit().body("a")],
        ),
        case(
            "fields of the first request go to the origin",
            "Fastly: readthrough",
            [ok("a").control("max-age=100")],
            [miss().with("x-mine", "1").with("accept", "text/html").origin_gets("x-mine", "1").origin_gets("accept", "text/html"), hit()],
        ),
    ]
}

/// Bodies of all kinds.
fn bodies() -> Vec<Case> {
    vec![
        case(
            "an empty body is stored",
            "RFC 9111 3",
            [ok("").control("max-age=100"), ok("b")],
            [miss().body("").has("content-length", "0"), hit().body("").has("content-length", "0")],
        ),
        case(
            "a body without a length is stored",
            "RFC 9111 3.3",
            [ok("hello").chunked().control("max-age=100"), ok("b")],
            [miss().body("hello"), hit().body("hello").has("content-length", "5")],
        ),
        case(
            "an empty body without a length is stored",
            "RFC 9111 3.3",
            [ok("").chunked().control("max-age=100"), ok("b")],
            [miss().body(""), hit().body("")],
        ),
        case(
            "a body that is not text is told as it came",
            "RFC 9110 8.4",
            [ok("no gzip at all").control("max-age=100").with("content-encoding", "gzip").with("content-type", "application/x-a")],
            [
                miss().body("no gzip at all").has("content-encoding", "gzip"),
                hit().body("no gzip at all").has("content-encoding", "gzip").has("content-type", "application/x-a"),
            ],
        ),
        case(
            "what is not stored is told whole",
            "RFC 9111 3",
            [ok("hello").chunked().control("private")],
            [miss().body("hello"), miss().body("hello")],
        ),
    ]
}
