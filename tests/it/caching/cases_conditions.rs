//! The cases of conditions: those that the cache asks an origin with (RFC 9111 §4.3), and those of clients (RFC 9110 §13).

use super::cases::why;
use super::table::*;

pub const MODIFIED: &str = "Wed, 01 Jan 2025 00:00:00 GMT";
const BEFORE: &str = "Tue, 31 Dec 2024 23:59:59 GMT";
const AFTER: &str = "Wed, 01 Jan 2025 00:00:01 GMT";

pub fn all() -> Vec<Case> {
    [revalidation(), freshening(), tags(), times(), answers()].concat()
}

/// 10 seconds, and a tag.
fn tagged(body: &'static str) -> Reply {
    ok(body).control("max-age=10").with("etag", "\"a\"")
}

/// 304 of that tag, which it has to tell (RFC 9110 §15.4.5).
fn same() -> Reply {
    unchanged().with("etag", "\"a\"")
}

/// What is past its time is asked about (RFC 9111 §4.3.1, §4.3.3).
fn revalidation() -> Vec<Case> {
    vec![
        case(
            "a tag is asked about",
            "RFC 9111 4.3.1",
            [tagged("a"), same()],
            [
                miss().origin_gets("if-none-match", "").origin_gets("if-modified-since", ""),
                confirmed().after(11).body("a").origin_gets("if-none-match", "\"a\"").origin_gets("if-modified-since", ""),
                hit().after(9).body("a"),
                confirmed().after(2),
            ],
        ),
        case(
            "a weak tag is asked about as it is",
            "RFC 9111 4.3.1",
            [ok("a").control("max-age=10").with("etag", "W/\"a\""), unchanged().with("etag", "W/\"a\"")],
            [miss(), confirmed().after(11).body("a").origin_gets("if-none-match", "W/\"a\"")],
        ),
        case(
            "a time is asked about",
            "RFC 9111 4.3.1",
            [ok("a").control("max-age=10").with("last-modified", MODIFIED), unchanged().with("last-modified", MODIFIED)],
            [
                miss(),
                confirmed().after(11).body("a").origin_gets("if-modified-since", MODIFIED).origin_gets("if-none-match", ""),
                hit().after(9).body("a"),
            ],
        ),
        case(
            "a tag and a time are asked about together",
            "RFC 9111 4.3.1",
            [tagged("a").with("last-modified", MODIFIED), same()],
            [miss(), confirmed().after(11).body("a").origin_gets("if-none-match", "\"a\"").origin_gets("if-modified-since", MODIFIED)],
        ),
        case(
            "without validators there is nothing to ask about",
            "RFC 9111 4.3.1",
            [ok("a").control("max-age=10"), ok("b")],
            [miss(), miss().after(11).body("b").origin_gets("if-none-match", "").origin_gets("if-modified-since", "")],
        ),
        case(
            "a new response takes the place of a stale one",
            "RFC 9111 4.3.3",
            [tagged("a"), ok("b").control("max-age=10").with("etag", "\"b\""), unchanged().with("etag", "\"b\"")],
            [
                miss(),
                miss().after(11).body("b").age(0).has("etag", "\"b\"").origin_gets("if-none-match", "\"a\""),
                hit().body("b"),
                confirmed().after(11).body("b").origin_gets("if-none-match", "\"b\""),
            ],
        ),
        case(
            "a new response has nothing of the one before",
            "RFC 9111 4.3.3",
            [tagged("a").with("x-mine", "1"), ok("b").control("max-age=10")],
            [miss(), miss().after(11).lacks("x-mine").lacks("etag"), hit().lacks("x-mine").lacks("etag")],
        ),
        case(
            "404 takes the place of a stale response",
            "RFC 9111 4.3.3",
            [tagged("a"), status(404, "b").control("max-age=10")],
            [miss(), miss().after(11).status(404).origin_gets("if-none-match", "\"a\""), hit().status(404).body("b")],
        ),
        case(
            "a server error leaves the stale response",
            "Fastly: 5xx on revalidation",
            [tagged("a"), status(503, "b"), same()],
            [miss(), miss().after(11).status(503).body("b"), confirmed().body("a").origin_gets("if-none-match", "\"a\"")],
        ),
        case(
            "a client error that is not stored leaves the stale response",
            "RFC 9111 4.3.3",
            [tagged("a"), status(403, "b"), same()],
            [miss(), miss().after(11).status(403).body("b"), confirmed().body("a")],
        ),
        case(
            "an origin that is down leaves the stale response",
            "RFC 9111 4.3.3",
            [tagged("a"), down(), same()],
            [miss(), past("GET").after(11).status(502), confirmed().body("a").origin_gets("if-none-match", "\"a\"")],
        ),
        case(
            "a private response takes the place of a stale one",
            "Fastly: hit-for-pass",
            [tagged("a"), ok("b").control("private"), ok("c")],
            [miss(), miss().after(11).body("b").origin_gets("if-none-match", "\"a\""), miss().body("c").origin_gets("if-none-match", "")],
        ),
        case(
            "404 is confirmed",
            "RFC 9111 4.3.4",
            [status(404, "a").control("max-age=10").with("etag", "\"a\""), same()],
            [miss().status(404), confirmed().after(11).status(404).body("a"), hit().status(404).body("a")],
        ),
        case(
            "a body without a length is confirmed",
            "RFC 9111 4.3.4",
            [tagged("hello").chunked(), same()],
            [miss().body("hello"), confirmed().after(11).body("hello").has("content-length", "5")],
        ),
        case(
            "HEAD confirms, too",
            "RFC 9111 4.3.1",
            [tagged("hello"), same()],
            [
                miss(),
                confirmed().method("HEAD").after(11).has("content-length", "5").origin_gets("if-none-match", "\"a\""),
                hit().body("hello"),
            ],
        ),
        case(
            "a client's conditions are not the origin's",
            "Fastly: readthrough",
            [ok("a").control("max-age=10")],
            [miss()
                .with("if-none-match", "\"x\"")
                .with("if-modified-since", BEFORE)
                .body("a")
                .origin_gets("if-none-match", "")
                .origin_gets("if-modified-since", "")],
        ),
        case(
            "the cache's conditions go in place of a client's",
            "RFC 9111 4.3.1",
            [tagged("a").with("last-modified", MODIFIED), same()],
            [
                miss(),
                confirmed()
                    .after(11)
                    .with("if-none-match", "\"x\"")
                    .with("if-modified-since", AFTER)
                    .body("a")
                    .origin_gets("if-none-match", "\"a\"")
                    .origin_gets("if-modified-since", MODIFIED),
            ],
        ),
        case(
            "a client that has what is confirmed is told so",
            "RFC 9111 4.3.2",
            [tagged("a"), same()],
            [miss(), confirmed().after(11).with("if-none-match", "\"a\"").status(304).body("").has("etag", "\"a\""), hit().body("a")],
        ),
        case(
            "a client that has what is new is told so",
            "RFC 9111 4.3.2",
            [tagged("a"), ok("b").control("max-age=10").with("etag", "\"b\"")],
            [miss(), miss().after(11).with("if-none-match", "\"b\"").status(304).body("").has("etag", "\"b\""), hit().body("b")],
        ),
    ]
}

/// What a 304 makes of what is stored (RFC 9111 §3.2, §4.3.4).
fn freshening() -> Vec<Case> {
    vec![
        case(
            "a 304 brings a new lifetime",
            "RFC 9111 4.3.4",
            [tagged("a"), same().control("max-age=100"), ok("b")],
            [
                miss(),
                confirmed().after(11).has("cache-control", "max-age=100"),
                hit().after(99).body("a").age(99).has("cache-control", "max-age=100"),
                miss().after(2).body("b"),
            ],
        ),
        case(
            "a 304 without Cache-Control leaves the lifetime",
            "RFC 9111 4.3.4",
            [tagged("a"), same(), ok("b")],
            [miss(), confirmed().after(11).has("cache-control", "max-age=10"), hit().after(9).body("a"), miss().after(2).body("b")],
        ),
        case(
            "a 304 of what has no lifetime is for two minutes more",
            "Fastly: default TTL",
            [ok("a").with("etag", "\"a\""), same(), ok("b")],
            [miss(), confirmed().after(121), hit().after(119).body("a").differs(why::DEFAULT), miss().after(2).body("b")],
        ),
        case(
            "a 304 brings a new Expires",
            "RFC 9111 4.3.4",
            [
                ok("a").with("expires", "0").with("etag", "\"a\""),
                same().with("date", "Wed, 26 Nov 2036 11:59:00 GMT").with("expires", "Wed, 26 Nov 2036 12:00:00 GMT"),
                ok("b"),
            ],
            [miss(), confirmed(), hit().after(59).body("a"), miss().after(2).body("b").differs(why::FIELDS)],
        ),
        case(
            "a 304's Cache-Control does not go before a stored Surrogate-Control",
            "Fastly: order of lifetimes",
            [ok("a").control("max-age=1").with("surrogate-control", "max-age=10").with("etag", "\"a\""), same().control("max-age=1000")],
            [miss(), confirmed().after(11), hit().after(9), confirmed().after(2).differs(why::SURROGATE)],
        ),
        case(
            "a 304's Surrogate-Control goes before a stored Cache-Control",
            "Fastly: order of lifetimes",
            [tagged("a"), same().with("surrogate-control", "max-age=100")],
            [
                miss(),
                confirmed().after(11).lacks("surrogate-control"),
                hit().after(99).lacks("surrogate-control").differs(why::SURROGATE),
                confirmed().after(2).differs(why::SURROGATE),
            ],
        ),
        case(
            "a 304 brings fields and leaves others",
            "RFC 9111 3.2",
            [tagged("a").with("x-old", "1").with("x-both", "1"), same().with("x-new", "2").with("x-both", "2")],
            [
                miss().has("x-both", "1").lacks("x-new"),
                confirmed().after(11).has("x-old", "1").has("x-both", "2").has("x-new", "2"),
                hit().has("x-old", "1").has("x-both", "2").has("x-new", "2"),
            ],
        ),
        case(
            "a 304 does not change what describes the body",
            "RFC 9111 3.2",
            [
                tagged("hello").with("content-type", "text/x-a"),
                same()
                    .with("content-type", "text/x-b")
                    .with("content-length", "99")
                    .with("content-encoding", "gzip")
                    .with("content-range", "bytes 0-1/2"),
            ],
            [
                miss(),
                confirmed()
                    .after(11)
                    .body("hello")
                    .has("content-type", "text/x-a")
                    .has("content-length", "5")
                    .lacks("content-encoding")
                    .lacks("content-range"),
                hit().body("hello").has("content-type", "text/x-a").has("content-length", "5").lacks("content-encoding"),
            ],
        ),
        case(
            "a 304 does not keep fields of its connection",
            "RFC 9111 3.2",
            [tagged("a"), same().with("keep-alive", "timeout=5")],
            [miss(), confirmed().after(11).lacks("keep-alive"), hit().lacks("keep-alive")],
        ),
        case(
            "a 304 without Age makes it young",
            "RFC 9111 4.2.3",
            [tagged("a").with("age", "5"), same()],
            [
                miss().age(5),
                confirmed().after(6).age(0),
                hit().after(9).age(9).differs("it keeps the Age of before"),
                confirmed().after(2).age(0).differs("it keeps the Age of before"),
            ],
        ),
        case(
            "a 304's Age counts",
            "RFC 9111 4.2.3",
            [tagged("a"), same().with("age", "7")],
            [miss().age(0), confirmed().after(11).age(7), hit().after(2).age(9), confirmed().after(2).age(7).differs(why::FIELDS)],
        ),
        case(
            "a 304 brings a new Date",
            "RFC 9111 3.2",
            [tagged("a").with("date", BEFORE), same().with("date", AFTER)],
            [miss().has("date", BEFORE), confirmed().after(11).has("date", AFTER), hit().has("date", AFTER)],
        ),
        case(
            "a 304 brings a new Last-Modified to ask about",
            "RFC 9111 3.2",
            [tagged("a").with("last-modified", MODIFIED), same().with("last-modified", AFTER)],
            [
                miss(),
                confirmed().after(11).has("last-modified", AFTER).origin_gets("if-modified-since", MODIFIED),
                confirmed().after(11).origin_gets("if-modified-since", AFTER),
            ],
        ),
        case(
            "a 304 that does not tell the tag confirms, too",
            "RFC 9111 4.3.4",
            [tagged("a"), unchanged()],
            [
                miss(),
                confirmed().after(11).body("a").has("etag", "\"a\""),
                hit().body("a").has("etag", "\"a\"").differs("a 304 without the tag confirms nothing to it"),
            ],
        ),
        case(
            "a 304 with a weak form of the tag confirms",
            "RFC 9111 4.3.4",
            [ok("a").control("max-age=10").with("etag", "W/\"a\""), unchanged().with("etag", "W/\"a\"")],
            [miss(), confirmed().after(11).body("a").has("etag", "W/\"a\""), hit().body("a")],
        ),
        case(
            "a 304 confirms what has no validators, either",
            "RFC 9111 4.3.4",
            [ok("a").control("max-age=10"), unchanged()],
            [miss(), confirmed().after(11).body("a"), hit().after(9).body("a")],
        ),
        case(
            "a 304 that says private leaves what is stored",
            "Fastly: update",
            [tagged("a"), same().control("private, max-age=100"), ok("b")],
            [
                miss(),
                confirmed().after(11).body("a"),
                hit().after(99).body("a").differs("it stores no more what a 304 calls private"),
                miss().after(2).body("b"),
            ],
        ),
        case(
            "a 304's cookies are not for the next client",
            "Fastly: Set-Cookie",
            [tagged("a"), same().with("set-cookie", "a=b")],
            [miss(), confirmed().after(11).body("a"), hit().body("a").lacks("set-cookie")],
        ),
    ]
}

fn tags() -> Vec<Case> {
    let of = |tag: &str| ok("hello").control("max-age=100").with("etag", tag);
    let asks = |tags: &str| hit().with("if-none-match", tags);
    vec![
        case(
            "a client has the tag",
            "RFC 9110 13.1.2",
            [of("\"a\"").with("content-type", "text/x-a")],
            [miss().body("hello"), asks("\"a\"").status(304).body("").has("etag", "\"a\"").lacks("content-length").lacks("content-type")],
        ),
        case("a client has another tag", "RFC 9110 13.1.2", [of("\"a\"")], [miss(), asks("\"b\"").body("hello")]),
        case(
            "a client has several tags",
            "RFC 9110 13.1.2",
            [of("\"a\"")],
            [miss(), asks("\"x\", W/\"y\" ,\"a\"").status(304), asks("\"x\", \"y\"").body("hello")],
        ),
        case(
            "a client has tags in two fields",
            "RFC 9110 5.3",
            [of("\"a\"")],
            [miss(), asks("\"x\"").with("if-none-match", "\"a\"").status(304)],
        ),
        case("a client has anything at all", "RFC 9110 13.1.2", [of("\"a\"")], [miss(), asks("*").status(304).has("etag", "\"a\"")]),
        case(
            "a client has anything of what has no tag",
            "RFC 9110 13.1.2",
            [ok("a").control("max-age=100")],
            [miss(), asks("*").status(304), asks("\"a\"").body("a")],
        ),
        case("a client has a weak form of the tag", "RFC 9110 8.8.3.2", [of("\"a\"")], [miss(), asks("W/\"a\"").status(304)]),
        case(
            "a client has a strong form of a weak tag",
            "RFC 9110 8.8.3.2",
            [of("W/\"a\"")],
            [miss(), asks("\"a\"").status(304).has("etag", "W/\"a\"")],
        ),
        case(
            "a comma in a tag divides nothing",
            "RFC 9110 8.8.3",
            [of("\"a,b\"")],
            [miss(), asks("\"x\", \"a,b\"").status(304), asks("\"a\", \"b\"").body("hello")],
        ),
        case("case matters in a tag", "RFC 9110 8.8.3", [of("\"a\"")], [miss(), asks("\"A\"").body("hello")]),
        case(
            "a tag is not part of another",
            "RFC 9110 8.8.3.2",
            [of("\"a\"")],
            [miss(), asks("\"aa\"").body("hello"), asks("\"\"").body("hello")],
        ),
        case("an empty tag is one", "RFC 9110 8.8.3", [of("\"\"")], [miss(), asks("\"\"").status(304), asks("\"a\"").body("hello")]),
        case(
            "a tag goes before a time that fits",
            "RFC 9110 13.2.2",
            [of("\"a\"").with("last-modified", MODIFIED)],
            [miss(), asks("\"b\"").with("if-modified-since", MODIFIED).body("hello")],
        ),
        case(
            "a tag goes before a time that does not fit",
            "RFC 9110 13.2.2",
            [of("\"a\"").with("last-modified", MODIFIED)],
            [miss(), asks("\"a\"").with("if-modified-since", BEFORE).status(304)],
        ),
        case(
            "a tag is of its variant",
            "RFC 9111 4.3.2",
            [of("\"a\"").with("vary", "x-a"), of("\"b\"").with("vary", "x-a")],
            [
                miss().with("x-a", "1"),
                miss().with("x-a", "2"),
                asks("\"a\"").with("x-a", "1").status(304).differs(why::VARIANTS),
                asks("\"a\"").with("x-a", "2").body("hello").differs(why::VARIANTS),
            ],
        ),
    ]
}

fn times() -> Vec<Case> {
    let of = || ok("hello").control("max-age=100").with("last-modified", MODIFIED);
    let since = |time: &str| hit().with("if-modified-since", time);
    vec![
        case(
            "not modified since just then",
            "RFC 9110 13.1.3",
            [of()],
            [miss(), since(MODIFIED).status(304).body("").has("last-modified", MODIFIED).lacks("content-length")],
        ),
        case("not modified since later", "RFC 9110 13.1.3", [of()], [miss(), since(AFTER).status(304)]),
        case("modified since earlier", "RFC 9110 13.1.3", [of()], [miss(), since(BEFORE).body("hello")]),
        case("a time that is none is no condition", "RFC 9110 13.1.3", [of()], [miss(), since("yesterday").body("hello")]),
        case("a time in the form of RFC 850", "RFC 9110 5.6.7", [of()], [miss(), since("Wednesday, 01-Jan-25 00:00:00 GMT").status(304)]),
        case("a time in the form of asctime", "RFC 9110 5.6.7", [of()], [miss(), since("Wed Jan  1 00:00:00 2025").status(304)]),
        case(
            "a Last-Modified that is no time fits nothing",
            "RFC 9110 13.1.3",
            [ok("a").control("max-age=100").with("last-modified", "lately")],
            [miss(), since(AFTER).body("a")],
        ),
    ]
}

/// Which answers conditions are for, and what these look like.
fn answers() -> Vec<Case> {
    vec![
        case(
            "a tag on a miss",
            "RFC 9111 4.3.2",
            [tagged("hello")],
            [
                miss()
                    .with("if-none-match", "\"a\"")
                    .status(304)
                    .body("")
                    .has("etag", "\"a\"")
                    .lacks("content-length")
                    .origin_gets("if-none-match", ""),
                hit().body("hello"),
            ],
        ),
        case(
            "another tag on a miss",
            "RFC 9111 4.3.2",
            [tagged("hello")],
            [miss().with("if-none-match", "\"b\"").body("hello"), hit().body("hello")],
        ),
        case(
            "a time on a miss",
            "RFC 9111 4.3.2",
            [ok("hello").control("max-age=10").with("last-modified", MODIFIED)],
            [miss().with("if-modified-since", MODIFIED).status(304).body("").origin_gets("if-modified-since", ""), hit().body("hello")],
        ),
        case(
            "a time before on a miss",
            "RFC 9111 4.3.2",
            [ok("hello").control("max-age=10").with("last-modified", MODIFIED)],
            [miss().with("if-modified-since", BEFORE).body("hello"), hit().body("hello")],
        ),
        case(
            "conditions are not for 404",
            "RFC 9110 13.2.1",
            [status(404, "a").control("max-age=10").with("etag", "\"a\"")],
            [
                miss().with("if-none-match", "\"a\"").status(404).body("a"),
                hit().with("if-none-match", "\"a\"").status(404).body("a"),
                hit().with("if-none-match", "*").status(404).body("a"),
            ],
        ),
        case(
            "conditions are not for redirects",
            "RFC 9110 13.2.1",
            [status(301, "a").control("max-age=10").with("last-modified", MODIFIED).with("location", "/elsewhere")],
            [miss().status(301), hit().with("if-modified-since", AFTER).status(301).has("location", "/elsewhere")],
        ),
        case(
            "a 304 has what a client needs to go on",
            "RFC 9110 15.4.5",
            [tagged("a")
                .with("vary", "x-a")
                .with("date", BEFORE)
                .with("expires", AFTER)
                .with("content-location", "/a")
                .with("content-encoding", "x-a")
                .with("content-language", "en")],
            [
                miss(),
                hit()
                    .after(5)
                    .with("if-none-match", "\"a\"")
                    .status(304)
                    .age(5)
                    .has("cache-control", "max-age=10")
                    .has("vary", "x-a")
                    .has("date", BEFORE)
                    .has("expires", AFTER)
                    .has("content-location", "/a")
                    .lacks("content-encoding")
                    .lacks("content-language"),
            ],
        ),
        case(
            "HEAD has conditions, too",
            "RFC 9110 13.1.2",
            [tagged("hello").with("last-modified", MODIFIED)],
            [
                miss(),
                hit().method("HEAD").with("if-none-match", "\"a\"").status(304).differs(why::HEAD),
                hit().method("HEAD").with("if-none-match", "\"b\"").has("content-length", "5").differs(why::HEAD),
                hit().method("HEAD").with("if-modified-since", MODIFIED).status(304).differs(why::HEAD),
            ],
        ),
        case("If-Match is the origin's", "RFC 9110 13.1.1", [tagged("a")], [miss(), hit().with("if-match", "\"b\"").body("a")]),
        case(
            "If-Unmodified-Since is the origin's",
            "RFC 9110 13.1.4",
            [ok("a").control("max-age=10").with("last-modified", MODIFIED)],
            [miss(), hit().with("if-unmodified-since", BEFORE).body("a")],
        ),
        case(
            "a condition of what is not stored is not met",
            "RFC 9110 13.2.1",
            [ok("a").control("private").with("etag", "\"a\"")],
            [miss().with("if-none-match", "\"a\"").body("a")],
        ),
    ]
}
