//! The cases of ranges (RFC 9110 §14), and of HEAD (§9.3.2).

use super::cases::why;
use super::cases_conditions::MODIFIED;
use super::table::*;

pub fn all() -> Vec<Case> {
    [ranges(), conditional(), head()].concat()
}

fn hello() -> Reply {
    ok("hello").control("max-age=100")
}

fn ranges() -> Vec<Case> {
    let of = |range: &str| hit().with("range", range);
    let part = |range: &str, body, told: &str| of(range).status(206).body(body).has("content-range", told);
    let none = |range: &str| of(range).status(416).body("").has("content-range", "bytes */5").lacks("content-type");
    vec![
        case(
            "the first bytes",
            "RFC 9110 14.1.2",
            [hello().with("content-type", "text/x-a").with("etag", "\"a\"")],
            [
                miss().body("hello"),
                part("bytes=0-1", "he", "bytes 0-1/5").has("content-length", "2").has("content-type", "text/x-a").has("etag", "\"a\""),
            ],
        ),
        case(
            "bytes in the middle",
            "RFC 9110 14.1.2",
            [hello()],
            [miss(), part("bytes=1-3", "ell", "bytes 1-3/5").has("content-length", "3")],
        ),
        case(
            "bytes from somewhere to the end",
            "RFC 9110 14.1.2",
            [hello()],
            [miss(), part("bytes=3-", "lo", "bytes 3-4/5").has("content-length", "2")],
        ),
        case("all bytes as a range", "RFC 9110 14.1.2", [hello()], [miss(), part("bytes=0-", "hello", "bytes 0-4/5")]),
        case("the last bytes", "RFC 9110 14.1.2", [hello()], [miss(), part("bytes=-2", "lo", "bytes 3-4/5").has("content-length", "2")]),
        case("more last bytes than there are", "RFC 9110 14.1.2", [hello()], [miss(), part("bytes=-99", "hello", "bytes 0-4/5")]),
        case(
            "a range beyond the end is cut",
            "RFC 9110 14.1.2",
            [hello()],
            [miss(), part("bytes=3-99", "lo", "bytes 3-4/5").has("content-length", "2")],
        ),
        case(
            "a range beyond all numbers is cut",
            "RFC 9110 14.1.2",
            [hello()],
            [miss(), part("bytes=4-99999999999999999999", "o", "bytes 4-4/5")],
        ),
        case(
            "a range that begins at the end",
            "RFC 9110 15.5.17",
            [hello().with("content-type", "text/x-a")],
            [miss(), none("bytes=5-").has("content-length", "0"), hit().body("hello")],
        ),
        case("the last no bytes", "RFC 9110 14.1.2", [hello()], [miss(), none("bytes=-0")]),
        case(
            "a range of nothing",
            "RFC 9110 15.5.17",
            [ok("").control("max-age=100")],
            [miss(), of("bytes=0-0").status(416).has("content-range", "bytes */0")],
        ),
        case(
            "a range that ends before it begins is none",
            "RFC 9110 14.1.1",
            [hello()],
            [miss(), of("bytes=3-2").body("hello").lacks("content-range")],
        ),
        case(
            "a range that is no numbers is none",
            "RFC 9110 14.2",
            [hello()],
            [miss(), of("bytes=a-b").body("hello"), of("bytes=").body("hello"), of("bytes=-").body("hello"), of("bytes 0-1").body("hello")],
        ),
        case("several ranges are none", "RFC 9110 14.2", [hello()], [miss(), of("bytes=0-1,3-4").body("hello").lacks("content-range")]),
        case("ranges of other units are none", "RFC 9110 14.2", [hello()], [miss(), of("lines=0-1").body("hello").lacks("content-range")]),
        case("the unit is in any case", "RFC 9110 14.1", [hello()], [miss(), part("Bytes=0-1", "he", "bytes 0-1/5")]),
        case(
            "a range on a miss",
            "RFC 9111 3.3",
            [hello(), ok("b")],
            [
                miss().with("range", "bytes=0-1").status(206).body("he").has("content-range", "bytes 0-1/5").origin_gets("range", ""),
                hit().body("hello").lacks("content-range"),
            ],
        ),
        case(
            "a range on a miss that is not there",
            "RFC 9111 3.3",
            [hello(), ok("b")],
            [miss().with("range", "bytes=9-").status(416).has("content-range", "bytes */5").origin_gets("range", ""), hit().body("hello")],
        ),
        case(
            "If-Range on a miss is not the origin's",
            "Fastly: readthrough",
            [hello().with("etag", "\"a\"")],
            [miss()
                .with("range", "bytes=0-1")
                .with("if-range", "\"a\"")
                .status(206)
                .body("he")
                .origin_gets("if-range", "")
                .origin_gets("range", "")],
        ),
        case(
            "a range of what is confirmed",
            "RFC 9110 14.2",
            [ok("hello").control("max-age=10").with("etag", "\"a\""), unchanged().with("etag", "\"a\"")],
            [
                miss(),
                confirmed()
                    .after(11)
                    .with("range", "bytes=-1")
                    .status(206)
                    .body("o")
                    .has("content-range", "bytes 4-4/5")
                    .origin_gets("range", ""),
            ],
        ),
        case(
            "a range of what came without a length",
            "RFC 9110 14.2",
            [hello().chunked()],
            [miss().body("hello"), part("bytes=1-2", "el", "bytes 1-2/5").has("content-length", "2"), part("bytes=-1", "o", "bytes 4-4/5")],
        ),
        case(
            "a range of 404",
            "RFC 9110 14.2",
            [status(404, "hello").control("max-age=100")],
            [miss().status(404), of("bytes=0-1").status(404).body("hello").lacks("content-range")],
        ),
        case(
            "a range of what is not stored is all of it",
            "RFC 9110 14.2",
            [status(500, "hello")],
            [miss().with("range", "bytes=0-1").status(500).body("hello").lacks("content-range").origin_gets("range", "")],
        ),
        case(
            "a range of a variant",
            "RFC 9110 14.2",
            [hello().with("vary", "x-a"), ok("abc").control("max-age=100").with("vary", "x-a")],
            [
                miss().with("x-a", "1"),
                miss().with("x-a", "2"),
                part("bytes=-1", "o", "bytes 4-4/5").with("x-a", "1").differs(why::VARIANTS),
                part("bytes=-1", "c", "bytes 2-2/3").with("x-a", "2").differs(why::VARIANTS),
            ],
        ),
        case("Age is told with a range", "RFC 9111 5.1", [hello()], [miss(), part("bytes=0-0", "h", "bytes 0-0/5").after(30).age(30)]),
    ]
}

/// Ranges of what a client has a part of (RFC 9110 §13.1.5).
fn conditional() -> Vec<Case> {
    let of = |condition: &str| hit().with("range", "bytes=0-1").with("if-range", condition);
    let part = |condition: &str| of(condition).status(206).body("he").has("content-range", "bytes 0-1/5");
    let whole = |condition: &str| of(condition).body("hello").lacks("content-range");
    let dated = || hello().with("last-modified", MODIFIED).with("date", date(0));
    vec![
        case("If-Range with the tag", "RFC 9110 13.1.5", [hello().with("etag", "\"a\"")], [miss(), part("\"a\"")]),
        case("If-Range with another tag", "RFC 9110 13.1.5", [hello().with("etag", "\"a\"")], [miss(), whole("\"b\"")]),
        case("If-Range with a weak form of the tag", "RFC 9110 13.1.5", [hello().with("etag", "\"a\"")], [miss(), whole("W/\"a\"")]),
        case("If-Range with the strong form of a weak tag", "RFC 9110 13.1.5", [hello().with("etag", "W/\"a\"")], [miss(), whole("\"a\"")]),
        case("If-Range with a weak tag", "RFC 9110 13.1.5", [hello().with("etag", "W/\"a\"")], [miss(), whole("W/\"a\"")]),
        case("If-Range with a tag where there is none", "RFC 9110 13.1.5", [hello()], [miss(), whole("\"a\"")]),
        case("If-Range with the time", "RFC 9110 13.1.5", [dated()], [miss(), part(MODIFIED)]),
        case("If-Range with an earlier time", "RFC 9110 13.1.5", [dated()], [miss(), whole("Tue, 31 Dec 2024 00:00:00 GMT")]),
        case("If-Range with a later time", "RFC 9110 13.1.5", [dated()], [miss(), whole("Thu, 02 Jan 2025 00:00:00 GMT")]),
        case("If-Range with what is neither tag nor time", "RFC 9110 13.1.5", [dated().with("etag", "\"a\"")], [miss(), whole("a")]),
        case(
            "If-Range without a range is nothing",
            "RFC 9110 13.1.5",
            [hello().with("etag", "\"a\"")],
            [miss(), hit().with("if-range", "\"a\"").body("hello").lacks("content-range")],
        ),
        case(
            "If-Range that does not fit goes before a range that is not there",
            "RFC 9110 13.2.2",
            [hello().with("etag", "\"a\"")],
            [miss(), hit().with("range", "bytes=9-").with("if-range", "\"b\"").body("hello")],
        ),
        case(
            "If-None-Match goes before a range",
            "RFC 9110 13.2.2",
            [hello().with("etag", "\"a\"")],
            [
                miss(),
                hit().with("range", "bytes=0-1").with("if-none-match", "\"a\"").status(304).lacks("content-range"),
                hit().with("range", "bytes=0-1").with("if-none-match", "\"b\"").status(206).body("he"),
            ],
        ),
        case(
            "If-None-Match goes before a range that is not there",
            "RFC 9110 13.2.2",
            [hello().with("etag", "\"a\"")],
            [miss(), hit().with("range", "bytes=9-").with("if-none-match", "\"a\"").status(304)],
        ),
        case(
            "If-Modified-Since goes before a range",
            "RFC 9110 13.2.2",
            [dated()],
            [miss(), hit().with("range", "bytes=0-1").with("if-modified-since", MODIFIED).status(304).lacks("content-range")],
        ),
    ]
}

fn head() -> Vec<Case> {
    vec![
        case(
            "HEAD is answered with what GET brought",
            "RFC 9111 4",
            [hello().with("etag", "\"a\"").with("content-type", "text/x-a").with("x-mine", "1")],
            [
                miss(),
                hit()
                    .method("HEAD")
                    .after(30)
                    .body("")
                    .age(30)
                    .has("content-length", "5")
                    .has("etag", "\"a\"")
                    .has("content-type", "text/x-a")
                    .has("x-mine", "1")
                    .differs(why::HEAD),
            ],
        ),
        case(
            "HEAD brings what GET is answered with",
            "Fastly: HEAD",
            [hello(), ok("b")],
            [miss().method("HEAD").body("").has("content-length", "5"), hit().body("hello").differs(why::HEAD)],
        ),
        case(
            "HEAD tells the length that became known",
            "RFC 9110 9.3.2",
            [hello().chunked()],
            [miss().body("hello"), hit().method("HEAD").has("content-length", "5").lacks("transfer-encoding").differs(why::HEAD)],
        ),
        case(
            "HEAD of 404",
            "RFC 9111 4",
            [status(404, "hello").control("max-age=100")],
            [
                miss().method("HEAD").status(404),
                hit().method("HEAD").status(404).has("content-length", "5"),
                hit().status(404).body("hello").differs(why::HEAD),
            ],
        ),
        case(
            "HEAD of what is past its time",
            "RFC 9111 4",
            [ok("hello").control("max-age=10"), hello().with("x-mine", "1")],
            [miss(), miss().method("HEAD").after(11).has("x-mine", "1"), hit().body("hello").has("x-mine", "1")],
        ),
        case(
            "HEAD of what is not stored",
            "RFC 9110 9.3.2",
            [ok("hello").control("private"), ok("b")],
            [miss().method("HEAD").body(""), miss().body("b")],
        ),
        case(
            "HEAD of a status that is not stored",
            "RFC 9110 9.3.2",
            [status(500, "hello"), ok("b")],
            [miss().method("HEAD").status(500).body(""), miss().body("b")],
        ),
        case(
            "HEAD has no ranges",
            "RFC 9110 14.2",
            [hello()],
            [
                miss(),
                hit().method("HEAD").with("range", "bytes=0-1").has("content-length", "5").lacks("content-range").differs(why::HEAD),
                hit().method("HEAD").with("range", "bytes=9-").has("content-length", "5").differs(why::HEAD),
            ],
        ),
        case(
            "HEAD of nothing",
            "RFC 9110 9.3.2",
            [ok("").control("max-age=100")],
            [miss(), hit().method("HEAD").has("content-length", "0").differs(why::HEAD)],
        ),
    ]
}
