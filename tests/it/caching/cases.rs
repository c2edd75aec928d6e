//! The cases, by what they are about.

use super::table::*;

/// All of them.
pub fn all() -> Vec<Case> {
    [freshness(), storing()].concat()
}

/// How long a response is fresh (RFC 9111 §4.2; Fastly, "HTTP caching semantics").
fn freshness() -> Vec<Case> {
    vec![
        case("max-age", "RFC 9111 5.2.2.1", [ok("a").control("max-age=100"), ok("b")], [
            miss().body("a").age(0),
            hit().after(50).body("a").age(50).has("x-cache-hits", "1"),
            hit().after(49).body("a").age(99).has("x-cache-hits", "2"),
            miss().after(2).body("b"),
        ]),
        case("s-maxage goes before max-age", "RFC 9111 5.2.2.10", [ok("a").control("max-age=1, s-maxage=100")], [
            miss(),
            hit().after(50),
        ]),
        case("no lifetime is two minutes", "Fastly: default TTL", [ok("a"), ok("b")], [
            miss(),
            hit().after(119).differs("it takes no lifetime for granted without Last-Modified"),
            miss().after(2).body("b"),
        ]),
    ]
}

/// What is stored (RFC 9111 §3).
fn storing() -> Vec<Case> {
    vec![
        case("private is not stored", "RFC 9111 5.2.2.7", [ok("a").control("private, max-age=100"), ok("b")], [
            miss().body("a"),
            miss().body("b"),
        ]),
        case("a response that sets cookies is not stored", "Fastly: Set-Cookie", [ok("a").control("max-age=100").with("set-cookie", "a=b")], [
            miss(),
            miss().differs("it stores what sets cookies"),
        ]),
    ]
}
