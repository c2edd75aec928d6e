//! The cases, by what they are about.

use super::cases_conditions;
use super::cases_overrides;
use super::cases_ranges;
use super::cases_stale;
use super::cases_storing;
use super::cases_variants;
use super::table::*;

/// All of them.
pub fn all() -> Vec<Case> {
    [
        freshness(),
        expires(),
        ages(),
        ignored(),
        cases_storing::all(),
        cases_variants::all(),
        cases_overrides::all(),
        cases_conditions::all(),
        cases_ranges::all(),
        cases_stale::all(),
    ]
    .concat()
}

/// Why http-cache-semantics says otherwise, where it is so more than once.
pub mod why {
    pub const DEFAULT: &str = "it takes no lifetime for granted";
    pub const SURROGATE: &str = "it does not know Surrogate-Control";
    pub const QUOTES: &str = "it does not know quotes";
    pub const DATES: &str = "it knows one form of dates";
    pub const NO_CACHE: &str = "it heeds no-cache";
    pub const REQUEST: &str = "it heeds Cache-Control and Pragma of requests";
    pub const STATUS: &str = "it stores more statuses";
    pub const PASS: &str = "it does not remember that requests are to pass";
    pub const GUEST_PASS: &str = "it does not know that the guest passes";
    pub const OVERRIDE: &str = "it does not know what the guest overrides";
    pub const KEYS: &str = "it does not know keys of the guest's own";
    pub const METHODS: &str = "it takes what other methods bring for what GET does";
    pub const CHANGES: &str = "it drops nothing that other methods change";
    pub const VARIANTS: &str = "it keeps one variant";
    pub const URLS: &str = "it keeps the first URL only";
    pub const HEAD: &str = "it does not answer HEAD with what GET brought";
    pub const FIELDS: &str = "a 304 brings it no fields that were not there before";
    pub const REVALIDATE: &str = "it has no stale-while-revalidate";
}

/// How long a response is fresh (RFC 9111 §4.2; Fastly, "HTTP caching semantics").
fn freshness() -> Vec<Case> {
    vec![
        case(
            "max-age",
            "RFC 9111 5.2.2.1",
            [ok("a").control("max-age=100"), ok("b")],
            [
                miss().body("a").age(0),
                hit().after(50).body("a").age(50).has("x-cache-hits", "1"),
                hit().after(49).body("a").age(99).has("x-cache-hits", "2"),
                miss().after(2).body("b"),
            ],
        ),
        case(
            "max-age=0 is stored and stale at once",
            "RFC 9111 5.2.2.1",
            [ok("a").control("max-age=0").with("etag", "\"a\""), unchanged().with("etag", "\"a\"")],
            [miss(), confirmed().body("a").origin_gets("if-none-match", "\"a\"")],
        ),
        case("s-maxage goes before max-age", "RFC 9111 5.2.2.10", [ok("a").control("max-age=1, s-maxage=100")], [miss(), hit().after(50)]),
        case(
            "a short s-maxage goes before a long max-age",
            "RFC 9111 5.2.2.10",
            [ok("a").control("max-age=100, s-maxage=10"), ok("b").control("max-age=100")],
            [miss(), hit().after(9).body("a"), miss().after(2).body("b")],
        ),
        case(
            "Surrogate-Control goes before s-maxage and max-age",
            "Fastly: order of lifetimes",
            [ok("a").control("s-maxage=1, max-age=1").with("surrogate-control", "max-age=100"), ok("b")],
            [miss(), hit().after(99).body("a").age(99).differs(why::SURROGATE), miss().after(2).body("b")],
        ),
        case(
            "a short Surrogate-Control goes before a long s-maxage",
            "Fastly: order of lifetimes",
            [ok("a").control("s-maxage=100").with("surrogate-control", "max-age=10"), ok("b")],
            [miss(), miss().after(11).body("b").differs(why::SURROGATE)],
        ),
        case(
            "Surrogate-Control: max-age=0 is stale at once",
            "Fastly: order of lifetimes",
            [
                ok("a").control("max-age=100").with("surrogate-control", "max-age=0").with("etag", "\"a\""),
                unchanged().with("etag", "\"a\""),
            ],
            [miss(), confirmed().body("a").differs(why::SURROGATE)],
        ),
        case(
            "Surrogate-Control without a lifetime leaves it to Cache-Control",
            "Fastly: order of lifetimes",
            [ok("a").control("max-age=100").with("surrogate-control", "content=\"ESI/1.0\""), ok("b")],
            [miss(), hit().after(99).body("a"), miss().after(2).body("b")],
        ),
        case(
            "the lifetime of Surrogate-Control is found among other directives",
            "Fastly: order of lifetimes",
            [ok("a").control("max-age=1").with("surrogate-control", "content=\"ESI/1.0, max-age=2\", Max-Age=100")],
            [miss(), hit().after(50).differs(why::SURROGATE)],
        ),
        case(
            "Surrogate-Control goes before Expires",
            "Fastly: order of lifetimes",
            [ok("a").with("expires", date(1000)).with("surrogate-control", "max-age=10"), ok("b")],
            [miss(), hit().after(9), miss().after(2).body("b").differs(why::SURROGATE)],
        ),
        case(
            "max-age goes before a later Expires",
            "RFC 9111 5.3",
            [ok("a").control("max-age=10").with("expires", date(1000)), ok("b")],
            [miss(), hit().after(9).body("a"), miss().after(2).body("b")],
        ),
        case(
            "max-age goes before an Expires that is past",
            "RFC 9111 5.3",
            [ok("a").control("max-age=100").with("expires", date(-1000))],
            [miss(), hit().after(99).age(99)],
        ),
        case(
            "s-maxage goes before an Expires that is no date",
            "RFC 9111 5.3",
            [ok("a").control("s-maxage=100").with("expires", "0")],
            [miss(), hit().after(99)],
        ),
        case(
            "no lifetime is two minutes",
            "Fastly: default TTL",
            [ok("a"), ok("b")],
            [miss(), hit().after(119).differs(why::DEFAULT), miss().after(2).body("b")],
        ),
        case(
            "Cache-Control without a lifetime is two minutes",
            "Fastly: default TTL",
            [ok("a").control("public"), ok("b")],
            [miss(), hit().after(119).body("a").differs(why::DEFAULT), miss().after(2).body("b")],
        ),
        case(
            "Last-Modified makes no lifetime of its own",
            "Fastly: default TTL",
            [
                ok("a").with("last-modified", "Wed, 01 Jan 2025 00:00:00 GMT"),
                unchanged().with("last-modified", "Wed, 01 Jan 2025 00:00:00 GMT"),
            ],
            [
                miss(),
                hit().after(119).differs(why::DEFAULT),
                confirmed().after(2).origin_gets("if-modified-since", "Wed, 01 Jan 2025 00:00:00 GMT"),
            ],
        ),
        case(
            "the first of two max-age counts",
            "RFC 9111 4.2.1",
            [ok("a").control("max-age=10, max-age=100"), ok("b")],
            [miss(), hit().after(9).body("a"), miss().after(2).body("b")],
        ),
        case(
            "the first of two Cache-Control fields counts",
            "RFC 9111 4.2.1",
            [ok("a").control("max-age=100").control("max-age=10"), ok("b")],
            [miss(), hit().after(99).body("a"), miss().after(2).body("b")],
        ),
        case(
            "directives of two fields are one list",
            "RFC 9110 5.3",
            [ok("a").control("public").control("max-age=100"), ok("b")],
            [miss(), hit().after(99).body("a"), miss().after(2).body("b")],
        ),
        case(
            "the first of two lifetimes in Surrogate-Control counts",
            "RFC 9111 4.2.1",
            [ok("a").with("surrogate-control", "max-age=10").with("surrogate-control", "max-age=100"), ok("b")],
            [miss(), hit().after(9).body("a").differs(why::SURROGATE), miss().after(2).body("b")],
        ),
        case(
            "a max-age that is no number is stored and stale",
            "RFC 9111 4.2.1",
            [ok("a").control("max-age=ten").with("etag", "\"a\""), unchanged().with("etag", "\"a\"")],
            [miss(), confirmed().body("a").origin_gets("if-none-match", "\"a\"")],
        ),
        case(
            "a negative max-age is stored and stale",
            "RFC 9111 1.2.2",
            [ok("a").control("max-age=-10").with("etag", "\"a\""), unchanged().with("etag", "\"a\"")],
            [miss(), confirmed().body("a")],
        ),
        case(
            "an empty max-age is stored and stale",
            "RFC 9111 4.2.1",
            [ok("a").control("max-age=").with("etag", "\"a\""), unchanged().with("etag", "\"a\"")],
            [miss(), confirmed().body("a")],
        ),
        case(
            "a max-age without a value is stored and stale",
            "RFC 9111 4.2.1",
            [ok("a").control("max-age").with("etag", "\"a\""), unchanged().with("etag", "\"a\"")],
            [miss(), confirmed().body("a")],
        ),
        case(
            "a max-age with a fraction is no number",
            "RFC 9111 1.2.2",
            [ok("a").control("max-age=100.5"), ok("b")],
            [miss().body("a"), miss().body("b")],
        ),
        case(
            "an s-maxage that is no number does not leave it to max-age",
            "RFC 9111 4.2.1",
            [ok("a").control("s-maxage=x, max-age=100"), ok("b")],
            [miss().body("a"), miss().body("b")],
        ),
        case(
            "a Surrogate-Control lifetime that is no number does not leave it to max-age",
            "RFC 9111 4.2.1",
            [ok("a").control("max-age=100").with("surrogate-control", "max-age=x"), ok("b")],
            [miss().body("a"), miss().body("b").differs(why::SURROGATE)],
        ),
        case(
            "a max-age beyond all numbers is as good as for ever",
            "RFC 9111 1.2.2",
            [ok("a").control("max-age=99999999999999999999")],
            [miss(), hit().after(30_000_000).differs("a number that does not fit is none to it")],
        ),
        case(
            "a max-age may be quoted",
            "RFC 9111 5.2",
            [ok("a").control("max-age=\"100\""), ok("b")],
            [miss(), hit().after(99).body("a"), miss().after(2).body("b")],
        ),
        case(
            "names of directives are in any case",
            "RFC 9111 5.2",
            [ok("a").control("Max-Age=100"), ok("b")],
            [miss(), hit().after(99).body("a").differs("it knows directives in lower case only"), miss().after(2).body("b")],
        ),
        case(
            "space and empty members in the list do not matter",
            "RFC 9110 5.6.1.2",
            [ok("a").control(" ,public ,,\tmax-age=100 , "), ok("b")],
            [miss(), hit().after(99).body("a"), miss().after(2).body("b")],
        ),
        case(
            "a comma in quotes divides nothing",
            "RFC 9110 5.6.4",
            [ok("a").control("foo=\"x, max-age=1\", max-age=100")],
            [miss(), hit().after(50).differs(why::QUOTES)],
        ),
        case(
            "a quote that is escaped ends nothing",
            "RFC 9110 5.6.4",
            [ok("a").control("foo=\"\\\", max-age=1\", max-age=100")],
            [miss(), hit().after(50).differs(why::QUOTES)],
        ),
        case(
            "each URL's time is its own",
            "RFC 9111 4.2.3",
            [ok("a").control("max-age=100")],
            [
                miss().query("a"),
                miss().query("b").after(60),
                hit().query("a").after(30).age(90),
                hit().query("b").age(30).differs(why::URLS),
                miss().query("a").after(20).differs(why::URLS),
                hit().query("b").age(50).differs(why::URLS),
            ],
        ),
    ]
}

/// Lifetimes from `Expires` (RFC 9111 §5.3).
fn expires() -> Vec<Case> {
    const TOMORROW: &str = "Wed, 26 Nov 2036 12:00:00 GMT";
    const A_MINUTE_BEFORE: &str = "Wed, 26 Nov 2036 11:59:00 GMT";
    vec![
        case(
            "Expires counts from Date",
            "RFC 9111 4.2.1",
            [ok("a").with("date", A_MINUTE_BEFORE).with("expires", TOMORROW), ok("b")],
            [miss().age(0), hit().after(59).body("a").age(59), miss().after(2).body("b")],
        ),
        case(
            "Expires counts from a Date that is past",
            "RFC 9111 4.2.1",
            [ok("a").with("date", date(-500)).with("expires", date(500)), ok("b")],
            [miss(), hit().after(990).body("a"), miss().after(12).body("b")],
        ),
        case(
            "Expires without Date counts from when it came",
            "RFC 9111 5.3",
            [ok("a").with("expires", date(1000)), ok("b")],
            [miss(), hit().after(500).body("a"), miss().after(600).body("b")],
        ),
        case(
            "Expires beside a Date that is no date counts from when it came",
            "RFC 9111 5.3",
            [ok("a").with("date", "today").with("expires", date(1000)), ok("b")],
            [miss(), hit().after(500).body("a"), miss().after(600).body("b")],
        ),
        case(
            "Expires that is Date is stale at once",
            "RFC 9111 4.2.1",
            [ok("a").with("date", TOMORROW).with("expires", TOMORROW), ok("b")],
            [miss().body("a"), miss().body("b")],
        ),
        case(
            "Expires before Date is stale at once",
            "RFC 9111 4.2.1",
            [ok("a").with("date", TOMORROW).with("expires", A_MINUTE_BEFORE), ok("b")],
            [miss().body("a"), miss().body("b")],
        ),
        case(
            "an Expires that is past is stored and stale",
            "RFC 9111 5.3",
            [ok("a").with("expires", "Sun, 06 Nov 1994 08:49:37 GMT").with("etag", "\"a\""), unchanged().with("etag", "\"a\"")],
            [miss(), confirmed().body("a").origin_gets("if-none-match", "\"a\"")],
        ),
        case(
            "Expires: 0 is stored and stale",
            "RFC 9111 5.3",
            [ok("a").with("expires", "0").with("etag", "\"a\""), unchanged().with("etag", "\"a\"")],
            [miss(), confirmed().body("a").origin_gets("if-none-match", "\"a\"")],
        ),
        case(
            "an Expires that is no date is past",
            "RFC 9111 5.3",
            [ok("a").with("expires", "in an hour"), ok("b")],
            [miss().body("a"), miss().body("b")],
        ),
        case(
            "Expires in the form of RFC 850",
            "RFC 9110 5.6.7",
            [ok("a").with("date", A_MINUTE_BEFORE).with("expires", "Wednesday, 26-Nov-36 12:00:00 GMT"), ok("b")],
            [miss(), hit().after(59).body("a").differs(why::DATES), miss().after(2).body("b")],
        ),
        case(
            "Expires in the form of asctime",
            "RFC 9110 5.6.7",
            [ok("a").with("date", A_MINUTE_BEFORE).with("expires", "Wed Nov 26 12:00:00 2036"), ok("b")],
            [miss(), hit().after(59).body("a").differs(why::DATES), miss().after(2).body("b")],
        ),
        case(
            "the first of two Expires counts",
            "RFC 9111 4.2.1",
            [ok("a").with("expires", date(1000)).with("expires", date(-1000)), ok("b")],
            [miss(), hit().after(500).body("a"), miss().after(600).body("b")],
        ),
        case(
            "Cache-Control without a lifetime leaves it to Expires",
            "RFC 9111 5.3",
            [ok("a").control("public").with("date", A_MINUTE_BEFORE).with("expires", TOMORROW), ok("b")],
            [miss(), hit().after(59).body("a"), miss().after(2).body("b")],
        ),
    ]
}

/// How old a response is when it comes (RFC 9111 §4.2.3, §5.1), and what is told of it.
fn ages() -> Vec<Case> {
    vec![
        case(
            "an origin's Age counts",
            "RFC 9111 4.2.3",
            [ok("a").control("max-age=100").with("age", "60"), ok("b")],
            [miss().age(60), hit().after(39).body("a").age(99), miss().after(2).body("b")],
        ),
        case(
            "an Age as long as the lifetime is stored and stale",
            "RFC 9111 4.2.3",
            [ok("a").control("max-age=60").with("age", "60").with("etag", "\"a\""), unchanged().with("etag", "\"a\"")],
            [miss().age(60), confirmed().body("a").age(0)],
        ),
        case(
            "an origin's Age counts with the default lifetime",
            "Fastly: default TTL",
            [ok("a").with("age", "100"), ok("b")],
            [miss().age(100), hit().after(19).body("a").age(119).differs(why::DEFAULT), miss().after(2).body("b")],
        ),
        case(
            "an origin's Age counts with s-maxage",
            "RFC 9111 4.2.3",
            [ok("a").control("s-maxage=100, max-age=1").with("age", "90"), ok("b")],
            [miss().age(90), hit().after(9).age(99), miss().after(2).body("b")],
        ),
        case(
            "an origin's Age counts with Surrogate-Control",
            "Fastly: initial age",
            [ok("a").with("surrogate-control", "max-age=100").with("age", "90"), ok("b")],
            [miss().age(90), hit().after(9).body("a").age(99).differs(why::SURROGATE), miss().after(2).body("b")],
        ),
        case(
            "with Expires the origin's Age does not count",
            "Fastly: initial age",
            [ok("a").with("date", date(0)).with("expires", date(1000)).with("age", "900"), ok("b")],
            [miss().age(0), hit().after(990).body("a").age(990).differs("it counts Age here, too"), miss().after(12).body("b")],
        ),
        case(
            "Date does not age a response",
            "Fastly: initial age",
            [ok("a").control("max-age=100").with("date", date(-1000)), ok("b")],
            [miss().age(0), hit().after(99).body("a").age(99), miss().after(2).body("b")],
        ),
        case(
            "the first of two Age fields counts",
            "RFC 9111 5.1",
            [ok("a").control("max-age=50").with("age", "10").with("age", "60"), ok("b")],
            [miss().age(10), hit().after(39).body("a").age(49), miss().after(2).body("b")],
        ),
        case(
            "the first of a list of ages counts",
            "RFC 9111 5.1",
            [ok("a").control("max-age=50").with("age", "10, 60"), ok("b")],
            [miss().age(10), hit().after(30).body("a").age(40), miss().after(11).body("b").differs("a list is no age to it")],
        ),
        case(
            "an Age that is no number is none",
            "RFC 9111 5.1",
            [ok("a").control("max-age=50").with("age", "old"), ok("b")],
            [miss().age(0), hit().after(49).body("a").age(49), miss().after(2).body("b")],
        ),
        case(
            "an Age beyond all numbers is told as the largest",
            "RFC 9111 1.2.2",
            [ok("a").control("max-age=100").with("age", "99999999999999999999"), ok("b")],
            [miss().body("a").age(2_147_483_647), miss().body("b").differs("a number that does not fit is none to it")],
        ),
        case(
            "what is not stored has no Age of the cache's own",
            "RFC 9111 5.1",
            [ok("a").control("private")],
            [miss().lacks("age"), miss().lacks("age")],
        ),
    ]
}

/// Directives that Fastly does not heed.
fn ignored() -> Vec<Case> {
    vec![
        case(
            "no-cache does nothing",
            "Fastly: no-cache",
            [ok("a").control("no-cache, max-age=100"), ok("b")],
            [miss(), hit().after(99).body("a").differs(why::NO_CACHE), miss().after(2).body("b")],
        ),
        case(
            "no-cache alone leaves the default lifetime",
            "Fastly: no-cache",
            [ok("a").control("no-cache"), ok("b")],
            [miss(), hit().after(119).body("a").differs(why::NO_CACHE), miss().after(2).body("b")],
        ),
        case(
            "no-cache with names of fields does nothing",
            "Fastly: no-cache",
            [ok("a").control("no-cache=\"x-mine\", max-age=100").with("x-mine", "1")],
            [miss(), hit().has("x-mine", "1").differs(why::NO_CACHE)],
        ),
        case(
            "must-revalidate does nothing",
            "Fastly: directives it heeds",
            [ok("a").control("must-revalidate, max-age=100"), ok("b")],
            [miss(), hit().after(99).body("a"), miss().after(2).body("b")],
        ),
        case(
            "proxy-revalidate does nothing",
            "Fastly: directives it heeds",
            [ok("a").control("proxy-revalidate, max-age=100"), ok("b")],
            [miss(), hit().after(99).body("a").differs("it takes proxy-revalidate for no lifetime"), miss().after(2).body("b")],
        ),
        case(
            "immutable makes no lifetime longer",
            "RFC 9111 5.2.3",
            [ok("a").control("max-age=10, immutable"), ok("b")],
            [miss(), hit().after(9), miss().after(2).body("b")],
        ),
        case("no-transform does nothing", "RFC 9111 5.2.2.6", [ok("a").control("no-transform, max-age=100")], [miss(), hit().after(99)]),
        case(
            "unknown directives do nothing",
            "RFC 9111 5.2.3",
            [ok("a").control("foo, bar=1, max-agee=1, max-age=100, x-max-age=2")],
            [miss(), hit().after(99)],
        ),
        case(
            "Pragma of a response does nothing",
            "RFC 9111 5.4",
            [ok("a").with("pragma", "no-cache"), ok("b")],
            [miss(), hit().after(119).body("a").differs("it heeds Pragma of responses"), miss().after(2).body("b")],
        ),
        case(
            "CDN-Cache-Control does nothing",
            "Fastly: order of lifetimes",
            [ok("a").control("max-age=100").with("cdn-cache-control", "max-age=1")],
            [miss(), hit().after(99)],
        ),
        case(
            "a client's no-cache does nothing",
            "Fastly: requests' Cache-Control",
            [ok("a").control("max-age=100")],
            [miss(), hit().with("cache-control", "no-cache").body("a").differs(why::REQUEST)],
        ),
        case(
            "a client's max-age=0 does nothing",
            "Fastly: requests' Cache-Control",
            [ok("a").control("max-age=100")],
            [miss(), hit().after(10).with("cache-control", "max-age=0").body("a").differs(why::REQUEST)],
        ),
        case(
            "a client's min-fresh does nothing",
            "Fastly: requests' Cache-Control",
            [ok("a").control("max-age=100")],
            [miss(), hit().after(90).with("cache-control", "min-fresh=50").body("a").differs(why::REQUEST)],
        ),
        case(
            "a client's max-stale does nothing",
            "Fastly: requests' Cache-Control",
            [ok("a").control("max-age=10"), ok("b")],
            [miss(), miss().after(11).with("cache-control", "max-stale=100").body("b").differs(why::REQUEST)],
        ),
        case(
            "a client's only-if-cached does nothing",
            "Fastly: requests' Cache-Control",
            [ok("a").control("max-age=100")],
            [miss().with("cache-control", "only-if-cached").body("a"), hit().with("cache-control", "only-if-cached").body("a")],
        ),
        case(
            "a client's no-store keeps nothing out of the cache",
            "Fastly: requests' Cache-Control",
            [ok("a").control("max-age=100")],
            [miss().with("cache-control", "no-store"), hit().with("cache-control", "no-store").body("a").differs(why::REQUEST)],
        ),
        case(
            "a client's Pragma does nothing",
            "Fastly: requests' Cache-Control",
            [ok("a").control("max-age=100")],
            [miss().with("pragma", "no-cache"), hit().with("pragma", "no-cache").body("a").differs(why::REQUEST)],
        ),
    ]
}
