//! The cases of what guests override, and of what makes a stored response go (RFC 9111 §4.4).

use super::cases::why;
use super::table::*;

pub fn all() -> Vec<Case> {
    [overrides(), invalidation()].concat()
}

/// What a guest says about caching.
fn overrides() -> Vec<Case> {
    let private = || ok("a").control("private, max-age=100");
    vec![
        case(
            "a guest's lifetime where there is none",
            "Fastly: TTL override",
            [ok("a"), ok("b")],
            [miss().with("x-test-ttl", "10"), hit().after(9).body("a").differs(why::OVERRIDE), miss().after(2).body("b")],
        ),
        case(
            "a guest's lifetime goes before the response's",
            "Fastly: TTL override",
            [ok("a").control("s-maxage=1, max-age=2").with("surrogate-control", "max-age=3"), ok("b")],
            [miss().with("x-test-ttl", "100"), hit().after(99).body("a").age(99).differs(why::OVERRIDE), miss().after(2).body("b")],
        ),
        case(
            "a guest's short lifetime goes before the response's",
            "Fastly: TTL override",
            [ok("a").control("max-age=100"), ok("b")],
            [miss().with("x-test-ttl", "10"), hit().after(9).body("a"), miss().after(2).body("b").differs(why::OVERRIDE)],
        ),
        case(
            "a guest's lifetime counts from when the response came",
            "Fastly: TTL override",
            [ok("a").control("max-age=31").with("age", "30"), ok("b")],
            [miss().with("x-test-ttl", "50").age(30), hit().after(49).body("a").age(79).differs(why::OVERRIDE), miss().after(2).body("b")],
        ),
        case(
            "a guest's lifetime goes before Expires",
            "Fastly: TTL override",
            [ok("a").with("expires", "0").with("age", "30"), ok("b")],
            [miss().with("x-test-ttl", "50").age(0), hit().after(49).body("a").age(49).differs(why::OVERRIDE), miss().after(2).body("b")],
        ),
        case(
            "a guest's lifetime of nothing is stored and stale",
            "Fastly: TTL override",
            [ok("a").control("max-age=100").with("etag", "\"a\""), unchanged().with("etag", "\"a\"")],
            [
                miss().with("x-test-ttl", "0"),
                confirmed().body("a").origin_gets("if-none-match", "\"a\"").differs(why::OVERRIDE),
                hit().body("a"),
            ],
        ),
        case(
            "a guest's lifetime makes nothing private storable",
            "Fastly: TTL override",
            [private(), ok("b")],
            [miss().with("x-test-ttl", "50").body("a"), miss().with("x-test-ttl", "50").body("b")],
        ),
        case(
            "a guest's lifetime makes no other status storable",
            "Fastly: TTL override",
            [status(500, "a"), ok("b")],
            [miss().status(500).with("x-test-ttl", "50").body("a"), miss().with("x-test-ttl", "50").body("b")],
        ),
        case(
            "requests pass as long as a guest's lifetime says",
            "Fastly: hit-for-pass",
            [private(), ok("b").control("max-age=100"), ok("c").control("max-age=100")],
            [miss().with("x-test-ttl", "10"), miss().after(9).body("b"), miss().after(2).body("c").differs(why::OVERRIDE), hit().body("c")],
        ),
        case(
            "a guest's lifetime is of the request that fetches",
            "Fastly: TTL override",
            [ok("a").control("max-age=10"), ok("b")],
            [miss(), hit().after(5).with("x-test-ttl", "100").body("a"), miss().after(6).body("b")],
        ),
        case(
            "a guest's lifetime goes with a 304, too",
            "Fastly: TTL override",
            [ok("a").control("max-age=10").with("etag", "\"a\""), unchanged().with("etag", "\"a\"").control("max-age=1"), ok("b")],
            [
                miss(),
                confirmed().after(11).with("x-test-ttl", "50"),
                hit().after(49).body("a").differs(why::OVERRIDE),
                miss().after(2).body("b"),
            ],
        ),
        case(
            "a 304 ends a guest's lifetime of before",
            "Fastly: TTL override",
            [ok("a").control("max-age=10").with("etag", "\"a\""), unchanged().with("etag", "\"a\"")],
            [miss().with("x-test-ttl", "50"), confirmed().after(51), hit().after(9), confirmed().after(2)],
        ),
        case(
            "a guest's lifetime leaves stale-while-revalidate",
            "Fastly: TTL override",
            [ok("a").control("max-age=1, stale-while-revalidate=20"), ok("b").control("max-age=100")],
            [
                miss().with("x-test-ttl", "10"),
                hit().after(9).body("a").differs(why::OVERRIDE),
                hit().after(10).body("a").then_revalidates(),
                hit().body("b"),
            ],
        ),
        case(
            "a guest's stale-while-revalidate where there is none",
            "Fastly: SWR override",
            [ok("a").control("max-age=10"), ok("b").control("max-age=100")],
            [miss().with("x-test-swr", "20"), hit().after(25).body("a").then_revalidates().differs(why::OVERRIDE), hit().body("b")],
        ),
        case(
            "a guest's stale-while-revalidate goes before the response's",
            "Fastly: SWR override",
            [ok("a").control("max-age=10, stale-while-revalidate=100").with("surrogate-control", "stale-while-revalidate=100"), ok("b")],
            [miss().with("x-test-swr", "5"), miss().after(16).body("b")],
        ),
        case(
            "a guest's stale-while-revalidate of nothing",
            "Fastly: SWR override",
            [ok("a").control("max-age=10, stale-while-revalidate=100"), ok("b")],
            [miss().with("x-test-swr", "0"), miss().after(11).body("b")],
        ),
        case(
            "a guest's lifetime and stale-while-revalidate together",
            "Fastly: SWR override",
            [ok("a"), ok("b"), ok("c")],
            [
                miss().with("x-test-ttl", "5").with("x-test-swr", "10"),
                hit().after(6).with("x-test-ttl", "5").with("x-test-swr", "10").body("a").then_revalidates().differs(why::OVERRIDE),
                hit().body("b").differs(why::OVERRIDE),
                miss().after(16).body("c"),
            ],
        ),
        case(
            "a guest's surrogate keys are beside the response's",
            "Fastly: surrogate keys",
            [ok("a").control("max-age=100").with("surrogate-key", "one")],
            [
                miss().with("x-test-keys", "two three").lacks("surrogate-key"),
                hit().with("fastly-debug", "1").body("a").has("surrogate-key", "one"),
            ],
        ),
        case(
            "what is sensitive is stored, too",
            "Fastly: PCI",
            [ok("a").control("max-age=100")],
            [miss().with("x-test-pci", "1"), hit().with("x-test-pci", "1").body("a"), hit().body("a")],
        ),
    ]
}

/// Requests that change what is stored (RFC 9111 §4.4). Sent past the cache, so that both ways tell the same of them.
fn invalidation() -> Vec<Case> {
    let a = || ok("a").control("max-age=100");
    let c = || ok("c").control("max-age=100");
    let sent = |method| past(method).with("x-test-pass", "1");
    vec![
        case(
            "a POST drops what is stored",
            "RFC 9111 4.4",
            [a(), ok("b"), c()],
            [miss().body("a"), hit().body("a"), sent("POST").body("b"), miss().body("c"), hit().body("c")],
        ),
        case(
            "a POST that the guest does not send past the cache drops it, too",
            "RFC 9111 4.4",
            [a(), ok("b"), c()],
            [miss().body("a"), miss().method("POST").body("b"), miss().body("c")],
        ),
        case(
            "a PUT that creates drops what is stored",
            "RFC 9111 4.4",
            [status(404, "a").control("max-age=100"), status(201, ""), c()],
            [miss().status(404), sent("PUT").status(201), miss().body("c").differs(why::CHANGES)],
        ),
        case(
            "a DELETE without content drops what is stored",
            "RFC 9111 4.4",
            [a(), status(204, ""), status(404, "c")],
            [miss(), sent("DELETE").status(204), miss().status(404)],
        ),
        case(
            "a PATCH that is accepted drops what is stored",
            "RFC 9111 4.4",
            [a(), status(202, ""), c()],
            [miss(), sent("PATCH").status(202), miss().body("c").differs(why::CHANGES)],
        ),
        case(
            "a POST that leads elsewhere drops what is stored",
            "RFC 9111 4.4",
            [a(), status(303, "").with("location", "/elsewhere"), c()],
            [miss(), sent("POST").status(303), miss().body("c").differs(why::CHANGES)],
        ),
        case(
            "a method that nobody knows drops what is stored",
            "RFC 9111 4.4",
            [a(), ok("b"), c()],
            [miss(), sent("FROBNICATE").body("b"), miss().body("c")],
        ),
        case(
            "a POST that is refused drops nothing",
            "RFC 9111 4.4",
            [a(), status(403, "b")],
            [miss(), sent("POST").status(403), hit().body("a")],
        ),
        case(
            "a DELETE that fails drops nothing",
            "RFC 9111 4.4",
            [a(), status(500, "b")],
            [miss(), sent("DELETE").status(500), hit().body("a")],
        ),
        case("a PUT without an answer drops nothing", "RFC 9111 4.4", [a(), down()], [miss(), sent("PUT").status(502), hit().body("a")]),
        case(
            "safe methods drop nothing",
            "RFC 9110 9.2.1",
            [a(), ok("b")],
            [miss(), sent("OPTIONS"), sent("GET").body("b"), sent("HEAD"), hit().body("a").differs(why::METHODS)],
        ),
        case(
            "a POST to another URL drops nothing",
            "RFC 9111 4.4",
            [a(), ok("b")],
            [miss().query("x=1"), sent("POST").query("x=2"), hit().query("x=1").differs(why::URLS)],
        ),
        case(
            "a POST drops all variants",
            "RFC 9111 4.4",
            [a().with("vary", "x-a"), a().with("vary", "x-a"), ok("b"), c().with("vary", "x-a")],
            [
                miss().with("x-a", "1"),
                miss().with("x-a", "2"),
                sent("POST").with("x-a", "1"),
                miss().with("x-a", "1").body("c"),
                miss().with("x-a", "2").body("c"),
            ],
        ),
        case(
            "what is dropped is not asked about",
            "RFC 9111 4.4",
            [a().with("etag", "\"a\""), ok("b"), c()],
            [miss(), sent("POST"), miss().body("c").origin_gets("if-none-match", "")],
        ),
        case(
            "what is dropped is not used while it is revalidated",
            "RFC 9111 4.4",
            [ok("a").control("max-age=10, stale-while-revalidate=100"), ok("b"), c()],
            [miss(), sent("POST").after(11), miss().body("c")],
        ),
        case(
            "what is dropped is not used in case of an error",
            "RFC 9111 4.4",
            [ok("a").control("max-age=10, stale-if-error=100"), ok("b"), down()],
            [miss(), sent("POST").after(11), past("GET").status(502)],
        ),
    ]
}
