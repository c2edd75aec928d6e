//! Cases of HTTP caching: what an origin answers, what clients ask, and what they get. One case is run through a plain
//! send and through the guest's own use of the HTTP cache, with the same outcome.

use std::time::Duration;

/// An answer of the origin.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    /// At each `|` the origin waits until it is told to go on; the `|` is not sent.
    pub body: &'static str,
    /// Whether the body's length is told; otherwise it is chunked.
    pub sized: bool,
    /// The connection ends before any answer.
    pub broken: bool,
    /// A body without a length ends without its end.
    pub cut: bool,
    /// Nothing is said until the origin is told to go on.
    pub wait: bool,
}

/// 200 with a body.
pub fn ok(body: &'static str) -> Reply {
    status(200, body)
}

pub fn status(status: u16, body: &'static str) -> Reply {
    Reply { status, headers: Vec::new(), body, sized: true, broken: false, cut: false, wait: false }
}

/// 304.
pub fn unchanged() -> Reply {
    status(304, "")
}

/// No answer at all.
pub fn down() -> Reply {
    Reply { broken: true, ..status(500, "") }
}

impl Reply {
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// With `Cache-Control`.
    pub fn control(self, value: &'static str) -> Self {
        self.with("cache-control", value)
    }

    /// Without a length, and without an end.
    pub fn cut(self) -> Self {
        Self { sized: false, cut: true, ..self }
    }

    /// Without a length.
    pub fn chunked(self) -> Self {
        Self { sized: false, ..self }
    }
}

/// Where an answer comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// `X-Cache: HIT`, and the origin was not asked.
    Cache,
    /// `X-Cache: MISS`, and the origin was asked once.
    Origin,
    /// `X-Cache: HIT`, after the origin was asked and has confirmed what is there.
    Confirmed,
    /// What is stored, though the origin was asked, and failed: `X-Cache: MISS`, as SDKs have it.
    InPlaceOfError,
    /// The origin was asked, and the cache was not.
    Past,
}

/// A request of a client, and what it must get.
#[derive(Clone, Debug)]
pub struct Step {
    pub method: &'static str,
    pub headers: Vec<(&'static str, String)>,
    /// How much later than the step before.
    pub after: Duration,
    /// More of the URL.
    pub query: &'static str,
    pub from: From,
    pub status: u16,
    /// Of the answer; `None`: it does not matter.
    pub body: Option<&'static str>,
    /// Fields the answer has.
    pub has: Vec<(&'static str, String)>,
    /// Fields it does not have.
    pub lacks: Vec<&'static str>,
    /// In seconds; one more is fine.
    pub age: Option<u64>,
    /// Fields of the request as the origin gets it; `""`: not there.
    pub origin_gets: Vec<(&'static str, &'static str)>,
    /// After the answer the origin is asked once more, by itself.
    pub then_revalidates: bool,
    /// Why http-cache-semantics says otherwise.
    pub differs: Option<&'static str>,
}

fn step(method: &'static str, from: From) -> Step {
    Step {
        method,
        headers: Vec::new(),
        after: Duration::ZERO,
        query: "",
        from,
        status: 200,
        body: None,
        has: Vec::new(),
        lacks: Vec::new(),
        age: None,
        origin_gets: Vec::new(),
        then_revalidates: false,
        differs: None,
    }
}

/// A GET that the cache answers.
pub fn hit() -> Step {
    step("GET", From::Cache)
}

/// A GET that the origin answers.
pub fn miss() -> Step {
    step("GET", From::Origin)
}

/// A GET that the cache answers when the origin has confirmed (304) what is there.
pub fn confirmed() -> Step {
    step("GET", From::Confirmed)
}

/// A GET that the cache answers because the origin fails.
pub fn saved() -> Step {
    step("GET", From::InPlaceOfError)
}

/// A request that the cache has nothing to do with.
pub fn past(method: &'static str) -> Step {
    step(method, From::Past)
}

impl Step {
    pub fn method(self, method: &'static str) -> Self {
        Self { method, ..self }
    }

    /// A field of the request.
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// So many seconds later than the step before.
    pub fn after(self, seconds: u64) -> Self {
        Self { after: Duration::from_secs(seconds), ..self }
    }

    pub fn query(self, query: &'static str) -> Self {
        Self { query, ..self }
    }

    pub fn status(self, status: u16) -> Self {
        Self { status, ..self }
    }

    pub fn body(self, body: &'static str) -> Self {
        Self { body: Some(body), ..self }
    }

    pub fn has(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.has.push((name, value.into()));
        self
    }

    pub fn lacks(mut self, name: &'static str) -> Self {
        self.lacks.push(name);
        self
    }

    pub fn age(self, seconds: u64) -> Self {
        Self { age: Some(seconds), ..self }
    }

    /// The origin gets this field with this value; `""`: not at all.
    pub fn origin_gets(mut self, name: &'static str, value: &'static str) -> Self {
        self.origin_gets.push((name, value));
        self
    }

    pub fn then_revalidates(self) -> Self {
        Self { then_revalidates: true, ..self }
    }

    /// http-cache-semantics says otherwise, and why that is no fault of ours.
    pub fn differs(self, why: &'static str) -> Self {
        Self { differs: Some(why), ..self }
    }
}

/// A case.
#[derive(Clone, Debug)]
pub struct Case {
    pub name: &'static str,
    /// The section that says so.
    pub rule: &'static str,
    /// In the order in which the origin gives them; the last again and again.
    pub origin: Vec<Reply>,
    pub steps: Vec<Step>,
}

pub fn case(
    name: &'static str,
    rule: &'static str,
    origin: impl IntoIterator<Item = Reply>,
    steps: impl IntoIterator<Item = Step>,
) -> Case {
    Case { name, rule, origin: origin.into_iter().collect(), steps: steps.into_iter().collect() }
}

/// An HTTP date, so many seconds from now.
pub fn date(from_now: i64) -> String {
    let now = std::time::SystemTime::now();
    let time =
        if from_now < 0 { now - Duration::from_secs(from_now.unsigned_abs()) } else { now + Duration::from_secs(from_now.unsigned_abs()) };
    httpdate::fmt_http_date(time)
}
