//! The cases of what a stored response is found by (RFC 9111 §2, §4.1), and what is told of it.

use super::cases::why;
use super::table::*;

pub fn all() -> Vec<Case> {
    [vary(), keys(), fields()].concat()
}

/// Variants (RFC 9111 §4.1).
fn vary() -> Vec<Case> {
    let of = |body, vary: &str| ok(body).control("max-age=100").with("vary", vary);
    let en = |step: Step| step.with("accept-language", "en");
    let fr = |step: Step| step.with("accept-language", "fr");
    vec![
        case(
            "the field that Vary names chooses the variant",
            "RFC 9111 4.1",
            [of("a", "accept-language"), of("b", "accept-language")],
            [
                en(miss()).body("a"),
                fr(miss()).body("b"),
                en(hit()).body("a").has("vary", "accept-language").differs(why::VARIANTS),
                fr(hit()).body("b").differs(why::VARIANTS),
            ],
        ),
        case(
            "a field that is absent is another variant than an empty one",
            "RFC 9111 4.1",
            [of("a", "x-a"), of("b", "x-a")],
            [
                miss().body("a"),
                miss().with("x-a", "").body("b"),
                hit().body("a").differs(why::VARIANTS),
                hit().with("x-a", "").body("b").differs(why::VARIANTS),
            ],
        ),
        case(
            "all fields that Vary names choose together",
            "RFC 9111 4.1",
            [of("a", "x-a, x-b"), of("b", "x-a, x-b"), of("c", "x-a, x-b")],
            [
                miss().with("x-a", "1").with("x-b", "1").body("a"),
                miss().with("x-a", "1").with("x-b", "2").body("b"),
                miss().with("x-a", "2").with("x-b", "2").body("c"),
                hit().with("x-b", "2").with("x-a", "1").body("b").differs(why::VARIANTS),
                hit().with("x-a", "1").with("x-b", "1").body("a").differs(why::VARIANTS),
            ],
        ),
        case(
            "a value is of the field it is in",
            "RFC 9111 4.1",
            [of("a", "x-a, x-b"), of("b", "x-a, x-b")],
            [miss().with("x-a", "1").body("a"), miss().with("x-b", "1").body("b"), hit().with("x-a", "1").body("a").differs(why::VARIANTS)],
        ),
        case(
            "names in Vary are in any case",
            "RFC 9110 5.1",
            [of("a", "X-A"), of("b", "X-A")],
            [miss().with("x-a", "1").body("a"), miss().with("X-a", "2").body("b"), hit().with("x-A", "1").body("a").differs(why::VARIANTS)],
        ),
        case(
            "two Vary fields are one list",
            "RFC 9110 5.3",
            [
                ok("a").control("max-age=100").with("vary", "x-a").with("vary", "x-b"),
                ok("b").control("max-age=100").with("vary", "x-a").with("vary", "x-b"),
            ],
            [
                miss().with("x-a", "1").with("x-b", "1").body("a"),
                miss().with("x-a", "1").with("x-b", "2").body("b"),
                hit().with("x-a", "1").with("x-b", "1").body("a").differs(why::VARIANTS),
            ],
        ),
        case(
            "fields that Vary does not name do not matter",
            "RFC 9111 4.1",
            [of("a", "x-a")],
            [
                miss().with("x-a", "1").with("x-b", "1"),
                hit().with("x-a", "1").with("x-b", "2").with("accept", "text/html").body("a"),
                hit().with("x-a", "1").body("a"),
            ],
        ),
        case("an empty Vary names nothing", "RFC 9111 4.1", [of("a", "")], [miss().with("x-a", "1"), hit().with("x-a", "2").body("a")]),
        case(
            "without Vary no field matters",
            "RFC 9111 4.1",
            [ok("a").control("max-age=100")],
            [miss().with("accept-encoding", "gzip"), hit().with("accept-encoding", "br").with("user-agent", "other").body("a")],
        ),
        case(
            "values are compared as they are",
            "RFC 9111 4.1",
            [of("a", "accept-language"), of("b", "accept-language")],
            [en(miss()).body("a"), miss().with("accept-language", "EN").body("b"), en(hit()).body("a").differs(why::VARIANTS)],
        ),
        case(
            "all lines of a field matter",
            "RFC 9111 4.1",
            [of("a", "x-a"), of("b", "x-a")],
            [
                miss().with("x-a", "1").body("a"),
                miss().with("x-a", "1").with("x-a", "2").body("b").differs("it looks at the first line of a field only"),
                hit().with("x-a", "1").body("a"),
                hit().with("x-a", "1").with("x-a", "2").body("b"),
            ],
        ),
        case(
            "the order of names does not matter",
            "RFC 9111 4.1",
            [of("a", "x-a, x-b"), of("b", "x-b, x-a"), of("c", "x-b, x-a")],
            [
                miss().with("x-a", "1").body("a"),
                miss().with("x-a", "2").body("b"),
                hit().with("x-a", "1").body("a").differs(why::VARIANTS),
                hit().with("x-a", "2").body("b").differs(why::VARIANTS),
            ],
        ),
        case(
            "a rule that comes later leaves what came before",
            "RFC 9111 4.1",
            [of("a", "x-a"), of("b", "x-b")],
            [
                miss().with("x-a", "1").body("a"),
                miss().with("x-a", "2").with("x-b", "2").body("b"),
                hit().with("x-a", "1").body("a").differs(why::VARIANTS),
                hit().with("x-a", "3").with("x-b", "2").body("b").differs(why::VARIANTS),
            ],
        ),
        case(
            "of two that fit the younger is used",
            "RFC 9111 4.1",
            [of("a", "x-a"), of("b", "x-b")],
            [
                miss().with("x-a", "1").body("a"),
                miss().after(10).with("x-a", "2").with("x-b", "1").body("b"),
                hit().after(10).with("x-a", "1").with("x-b", "1").body("b").age(10),
                hit().with("x-a", "1").body("a").age(20).differs(why::VARIANTS),
            ],
        ),
        case(
            "each variant has a lifetime of its own",
            "RFC 9111 4.1",
            [ok("a").control("max-age=10").with("vary", "accept-language"), of("b", "accept-language"), of("c", "accept-language")],
            [
                en(miss()).body("a"),
                fr(miss()).body("b"),
                en(miss()).after(11).body("c"),
                fr(hit()).body("b").age(11).differs(why::VARIANTS),
                en(hit()).body("c").differs(why::VARIANTS),
            ],
        ),
        case(
            "each variant is confirmed with its own tag",
            "RFC 9111 4.3.1",
            [
                ok("a").control("max-age=10").with("vary", "accept-language").with("etag", "\"en\""),
                ok("b").control("max-age=10").with("vary", "accept-language").with("etag", "\"fr\""),
                unchanged().with("etag", "\"en\""),
                unchanged().with("etag", "\"fr\""),
            ],
            [
                en(miss()).body("a"),
                fr(miss()).body("b"),
                en(confirmed()).after(11).body("a").origin_gets("if-none-match", "\"en\""),
                fr(confirmed()).body("b").origin_gets("if-none-match", "\"fr\""),
                en(hit()).body("a").differs(why::VARIANTS),
            ],
        ),
        case(
            "a new variant is not asked for with the tag of another",
            "RFC 9111 4.3.1",
            [
                ok("a").control("max-age=10").with("vary", "accept-language").with("etag", "\"en\""),
                ok("b").control("max-age=10").with("vary", "accept-language"),
            ],
            [en(miss()), fr(miss()).after(11).body("b").origin_gets("if-none-match", "")],
        ),
        case(
            "a variant that may not be stored leaves others",
            "Fastly: hit-for-pass",
            [of("a", "accept-language"), of("b", "accept-language").control("private"), of("c", "accept-language")],
            [en(miss()), fr(miss()).body("b"), fr(miss()).body("c"), en(hit()).body("a").differs(why::VARIANTS)],
        ),
        case(
            "a Vary that comes with a 304 counts from then on",
            "RFC 9111 3.2",
            [
                ok("a").control("max-age=10").with("etag", "\"a\""),
                unchanged().with("etag", "\"a\"").with("vary", "accept-language"),
                of("b", "accept-language"),
            ],
            [
                en(miss()).body("a"),
                en(confirmed()).after(11).body("a").has("vary", "accept-language"),
                fr(miss()).body("b").differs(why::FIELDS),
                en(hit()).body("a"),
                fr(hit()).body("b"),
            ],
        ),
        case(
            "a 304 without Vary leaves the rule",
            "RFC 9111 3.2",
            [
                ok("a").control("max-age=10").with("etag", "\"a\"").with("vary", "accept-language"),
                unchanged().with("etag", "\"a\""),
                of("b", "accept-language"),
            ],
            [en(miss()), en(confirmed()).after(11).body("a"), fr(miss()).body("b"), en(hit()).body("a").differs(why::VARIANTS)],
        ),
        case(
            "HEAD is of a variant, too",
            "RFC 9111 4.1",
            [of("a", "accept-language"), of("bb", "accept-language")],
            [
                en(miss()).body("a"),
                fr(miss()).method("HEAD"),
                en(hit()).method("HEAD").has("content-length", "1").differs(why::VARIANTS),
                fr(hit()).body("bb").differs(why::VARIANTS),
            ],
        ),
    ]
}

/// The URL, and keys of the guest's own.
fn keys() -> Vec<Case> {
    let a = || ok("a").control("max-age=100");
    let b = || ok("b").control("max-age=100");
    vec![
        case(
            "another query is another response",
            "RFC 9111 2",
            [a(), b()],
            [
                miss().query("x=1").body("a"),
                miss().query("x=2").body("b"),
                hit().query("x=1").body("a"),
                hit().query("x=2").body("b").differs(why::URLS),
            ],
        ),
        case("no query is not any query", "RFC 9111 2", [a(), b()], [miss().body("a"), miss().query("x").body("b"), hit().body("a")]),
        case(
            "the order in a query matters",
            "RFC 9111 2",
            [a(), b()],
            [miss().query("x=1&y=2").body("a"), miss().query("y=2&x=1").body("b"), hit().query("x=1&y=2").body("a")],
        ),
        case("case matters in a query", "RFC 9110 4.2.3", [a(), b()], [miss().query("x=a").body("a"), miss().query("x=A").body("b")]),
        case(
            "escapes in a query are not undone",
            "RFC 9111 2",
            [a(), b()],
            [miss().query("x=%41").body("a"), miss().query("x=A").body("b"), hit().query("x=%41").body("a")],
        ),
        case(
            "a key of the guest's own goes for two URLs",
            "Fastly: cache key",
            [a()],
            [
                miss().query("x=1").with("x-test-cache-key", "two URLs").body("a"),
                hit().query("x=2").with("x-test-cache-key", "two URLs").body("a").differs(why::KEYS),
            ],
        ),
        case(
            "keys of the guest's own keep one URL apart",
            "Fastly: cache key",
            [a(), b()],
            [
                miss().with("x-test-cache-key", "apart, one").body("a"),
                miss().with("x-test-cache-key", "apart, two").body("b").differs(why::KEYS),
                hit().with("x-test-cache-key", "apart, one").body("a"),
            ],
        ),
        case(
            "a key of the guest's own is not the URL's",
            "Fastly: cache key",
            [a(), b()],
            [
                miss().with("x-test-cache-key", "not the URL's").body("a"),
                miss().body("b").differs(why::KEYS),
                hit().with("x-test-cache-key", "not the URL's").body("a"),
                hit().body("b"),
            ],
        ),
        case(
            "variants are under a key of the guest's own, too",
            "Fastly: cache key",
            [a().with("vary", "x-a"), b().with("vary", "x-a")],
            [
                miss().with("x-test-cache-key", "variants").with("x-a", "1").body("a"),
                miss().with("x-test-cache-key", "variants").with("x-a", "2").query("x").body("b"),
                hit().with("x-test-cache-key", "variants").with("x-a", "1").query("x").body("a").differs(why::KEYS),
            ],
        ),
    ]
}

/// What a stored response tells (RFC 9111 §3.1), and what the cache adds and takes away.
fn fields() -> Vec<Case> {
    let of = |body| ok(body).control("max-age=100");
    let surrogate = || of("a").with("surrogate-key", "one two").with("surrogate-control", "max-age=100");
    vec![
        case(
            "all fields are stored, known or not",
            "RFC 9111 3.1",
            [of("a").with("content-type", "text/x-a").with("content-language", "en").with("x-mine", "1")],
            [miss().has("x-mine", "1"), hit().has("content-type", "text/x-a").has("content-language", "en").has("x-mine", "1")],
        ),
        case(
            "two Content-Type fields are told as they came",
            "RFC 9111 3.1",
            [of("a").with("content-type", "text/x-a").with("content-type", "text/x-b")],
            [miss().body("a").has("content-type", "text/x-a"), hit().body("a").has("content-type", "text/x-a")],
        ),
        case(
            "Cache-Control and Expires are told as they came",
            "RFC 9111 3.1",
            [ok("a").control("max-age=100, foo=\"b\"").with("expires", "Wed, 26 Nov 2036 12:00:00 GMT")],
            [
                miss().has("cache-control", "max-age=100, foo=\"b\""),
                hit().after(50).has("cache-control", "max-age=100, foo=\"b\"").has("expires", "Wed, 26 Nov 2036 12:00:00 GMT"),
            ],
        ),
        case(
            "Date is the origin's",
            "RFC 9110 6.6.1",
            [of("a").with("date", "Wed, 01 Jan 2025 00:00:00 GMT")],
            [miss().has("date", "Wed, 01 Jan 2025 00:00:00 GMT"), hit().after(50).has("date", "Wed, 01 Jan 2025 00:00:00 GMT")],
        ),
        case(
            "validators are told",
            "RFC 9111 3.1",
            [of("a").with("etag", "W/\"a\"").with("last-modified", "Wed, 01 Jan 2025 00:00:00 GMT")],
            [miss().has("etag", "W/\"a\""), hit().has("etag", "W/\"a\"").has("last-modified", "Wed, 01 Jan 2025 00:00:00 GMT")],
        ),
        case(
            "an origin's Age is told with the time since",
            "RFC 9111 5.1",
            [of("a").with("age", "7")],
            [miss().has("age", "7"), hit().after(20).age(27), hit().after(20).age(47)],
        ),
        case(
            "fields of the connection are not stored",
            "RFC 9110 7.6.1",
            [of("a").with("keep-alive", "timeout=5").with("proxy-connection", "close").with("upgrade", "h2c")],
            [
                miss().lacks("keep-alive").lacks("proxy-connection").lacks("upgrade"),
                hit().lacks("keep-alive").lacks("proxy-connection").lacks("upgrade"),
            ],
        ),
        case(
            "fields that Connection names are not stored",
            "RFC 9111 3.1",
            [of("a").with("connection", "x-hop").with("x-hop", "1").with("x-end", "1")],
            [miss().lacks("x-hop").has("x-end", "1"), hit().lacks("x-hop").has("x-end", "1")],
        ),
        case(
            "Surrogate fields are not for clients",
            "Fastly: Surrogate-Control",
            [surrogate()],
            [miss().lacks("surrogate-key").lacks("surrogate-control"), hit().lacks("surrogate-key").lacks("surrogate-control")],
        ),
        case(
            "Surrogate fields are for who debugs",
            "Fastly: Fastly-Debug",
            [surrogate()],
            [
                miss().with("fastly-debug", "1").has("surrogate-key", "one two").has("surrogate-control", "max-age=100"),
                hit().with("fastly-debug", "1").has("surrogate-key", "one two").has("surrogate-control", "max-age=100"),
                hit().lacks("surrogate-key"),
            ],
        ),
        case(
            "Surrogate fields are for a cache of Fastly's in front",
            "Fastly: Fastly-FF",
            [surrogate()],
            [
                miss().with("fastly-ff", "a!b!c").has("surrogate-key", "one two").has("surrogate-control", "max-age=100"),
                hit().with("fastly-ff", "a!b!c").has("surrogate-key", "one two"),
            ],
        ),
        case(
            "CDN-Loop tells of a cache of Fastly's in front",
            "Fastly: CDN-Loop",
            [surrogate()],
            [
                miss().with("cdn-loop", "other, Fastly").has("surrogate-key", "one two").has("surrogate-control", "max-age=100"),
                hit().with("cdn-loop", "Fastly").has("surrogate-key", "one two"),
            ],
        ),
        case(
            "Surrogate fields of what is not stored are not for clients",
            "Fastly: Surrogate-Control",
            [
                ok("a").with("surrogate-key", "one").with("surrogate-control", "no-store"),
                status(500, "b").with("surrogate-key", "one").with("surrogate-control", "max-age=1"),
            ],
            [
                miss().lacks("surrogate-key").lacks("surrogate-control"),
                miss().status(500).lacks("surrogate-key").lacks("surrogate-control"),
            ],
        ),
        case(
            "Surrogate fields pass with a guest's pass",
            "Fastly: pass",
            [surrogate()],
            [past("GET").with("x-test-pass", "1").has("surrogate-key", "one two").has("surrogate-control", "max-age=100")],
        ),
        case(
            "each use counts as a hit",
            "Fastly: X-Cache-Hits",
            [of("abc").with("etag", "\"a\"")],
            [
                miss().has("x-cache-hits", "0"),
                hit().has("x-cache-hits", "1"),
                hit().method("HEAD").has("x-cache-hits", "2").differs(why::HEAD),
                hit().with("if-none-match", "\"a\"").status(304).has("x-cache-hits", "3"),
                hit().with("range", "bytes=0-0").status(206).has("x-cache-hits", "4"),
            ],
        ),
        case(
            "each variant's hits are its own",
            "Fastly: X-Cache-Hits",
            [of("a").with("vary", "x-a")],
            [
                miss().with("x-a", "1"),
                hit().with("x-a", "1").has("x-cache-hits", "1"),
                miss().with("x-a", "2").has("x-cache-hits", "0"),
                hit().with("x-a", "2").has("x-cache-hits", "1"),
                hit().with("x-a", "1").has("x-cache-hits", "2").differs(why::VARIANTS),
            ],
        ),
        case(
            "a new response has no hits",
            "Fastly: X-Cache-Hits",
            [ok("a").control("max-age=10"), ok("b").control("max-age=10")],
            [miss(), hit().has("x-cache-hits", "1"), miss().after(11).has("x-cache-hits", "0"), hit().has("x-cache-hits", "1")],
        ),
        case(
            "what is not stored has no hits",
            "Fastly: X-Cache-Hits",
            [ok("a").control("private")],
            [miss().has("x-cache-hits", "0"), miss().has("x-cache-hits", "0")],
        ),
    ]
}
