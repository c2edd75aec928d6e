//! The cache as clients and origins see it.

mod cases;
mod cases_conditions;
mod cases_overrides;
mod cases_ranges;
mod cases_stale;
mod cases_storing;
mod cases_variants;
mod faces;
mod operators;
mod room;
mod script;
mod streams;
mod table;

use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

use http_cache_semantics::{AfterResponse, BeforeRequest, CacheOptions, CachePolicy};

use crate::client::{self, Answer};
use crate::harness::{Setup, Sidelight, guest};

use script::Origin;
use table::{Case, From, Reply, Step};

fn send(sidelight: &Sidelight, step: &Step, path: &str) -> Answer {
    let query = if step.query.is_empty() { String::new() } else { format!("?{}", step.query) };
    let mut request = format!("{} {path}{query} HTTP/1.1\r\nHost: edge.test\r\nConnection: close\r\n", step.method);
    for (name, value) in &step.headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str("\r\n");
    client::send_as(sidelight.addr, &request, step.method)
}

fn later(sidelight: &Sidelight, by: Duration) {
    if !by.is_zero() {
        let moved = sidelight.operate("POST", &format!("/cache/age?seconds={}", by.as_secs_f64()));
        assert_eq!(moved.status, 200, "{}", moved.text());
    }
}

fn check(sidelight: &Sidelight, origin: &Origin, case: &Case, path: &str) -> Result<(), String> {
    origin.script(path, &case.origin);
    for (index, step) in case.steps.iter().enumerate() {
        let fail = |what: String| Err(format!("step {}: {what}", index + 1));
        later(sidelight, step.after);
        let before = origin.asked(path).len();
        let got = send(sidelight, step, path);
        let after = origin.asked(path).len() - before;
        let x_cache = got.header("x-cache").unwrap_or("none");
        let (wanted, requests) = match step.from {
            From::Cache => ("HIT", 0),
            From::Origin => ("MISS", 1),
            From::Confirmed => ("HIT", 1),
            From::InPlaceOfError => ("MISS", 1),
            From::Past => ("none", 1),
        };
        if got.status != step.status {
            return fail(format!("status {} in place of {}: {}", got.status, step.status, got.text()));
        }
        if x_cache != wanted {
            return fail(format!("x-cache is {x_cache}, not {wanted}: {got:?}"));
        }
        if !step.then_revalidates && after != requests {
            return fail(format!("the origin was asked {after} times, not {requests}"));
        }
        if let Some(body) = step.body
            && got.text() != body
        {
            return fail(format!("body `{}` in place of `{body}`", got.text()));
        }
        if !got.whole {
            return fail("the body broke off".to_owned());
        }
        for (name, value) in &step.has {
            if got.header(name) != Some(value) {
                return fail(format!("{name} is {:?}, not {value}", got.header(name)));
            }
        }
        for name in &step.lacks {
            if got.header(name).is_some() {
                return fail(format!("{name} is there: {:?}", got.header(name)));
            }
        }
        if let Some(age) = step.age {
            let told = got.header("age").and_then(|text| text.parse::<u64>().ok());
            if !told.is_some_and(|told| (age..=age + 1).contains(&told)) {
                return fail(format!("age is {told:?}, not {age}"));
            }
        }
        if step.then_revalidates {
            sidelight.wait_until("a request by itself", |_| origin.asked(path).len() == before + 1);
            // The answer to it has to get into the cache, too.
            std::thread::sleep(Duration::from_millis(50));
        }
        if let Some(request) = origin.asked(path).last() {
            for (name, value) in &step.origin_gets {
                let got = request.values(name);
                let fits = if value.is_empty() { got.is_empty() } else { got == [*value] };
                if !fits {
                    return fail(format!("the origin got {name} {got:?}, not {value:?}"));
                }
            }
        }
    }
    Ok(())
}

/// What http-cache-semantics says to the same: for each step whether it needs the origin.
fn oracle(case: &Case) -> Vec<bool> {
    let options = CacheOptions { shared: true, cache_heuristic: 0.0, ..CacheOptions::default() };
    let start = SystemTime::now();
    let mut now = start;
    let mut replies: VecDeque<Reply> = case.origin.iter().cloned().collect();
    let mut stored: Option<CachePolicy> = None;
    let mut verdicts = Vec::new();
    for step in &case.steps {
        now += step.after;
        let mut request = hyper::Request::builder().method(step.method).uri(format!("http://edge.test/{}", step.query));
        for (name, value) in step.headers.iter().filter(|(name, _)| !name.starts_with("x-test-")) {
            request = request.header(*name, value);
        }
        let request = request.body(()).expect("a request");
        let ask = match stored.as_ref().map(|policy| policy.before_request(&request, now)) {
            Some(BeforeRequest::Fresh(_)) => None,
            Some(BeforeRequest::Stale { request: ask, .. }) => Some(ask),
            None => Some(request.into_parts().0),
        };
        verdicts.push(ask.is_some());
        let Some(ask) = ask else { continue };
        let reply = if replies.len() > 1 { replies.pop_front() } else { replies.front().cloned() }.expect("a reply");
        let mut response = hyper::Response::builder().status(reply.status);
        for (name, value) in &reply.headers {
            response = response.header(*name, value);
        }
        let response = response.body(()).expect("a response");
        let ask = hyper::Request::from_parts(ask, ());
        stored = match stored {
            Some(policy) if reply.status == 304 => match policy.after_response(&ask, &response, now) {
                AfterResponse::NotModified(policy, _) | AfterResponse::Modified(policy, _) => Some(policy),
            },
            other => {
                let policy = CachePolicy::new_options(&ask, &response, now, options);
                if policy.is_storable() { Some(policy) } else { other }
            }
        };
    }
    verdicts
}

fn table(mode: &str) {
    let origin = Origin::start();
    let sidelight = Setup::new(guest("rust", "cache")).backend("origin", origin.url()).start();
    let mut failures = Vec::new();
    let cases = cases::all();
    for (index, case) in cases.iter().enumerate() {
        if let Err(what) = check(&sidelight, &origin, case, &format!("/{mode}/{index}")) {
            failures.push(format!("{} ({}): {what}", case.name, case.rule));
        }
    }
    assert!(failures.is_empty(), "{} of {} cases fail:\n{}", failures.len(), cases.len(), failures.join("\n"));
}

#[test]
fn every_case_holds_for_a_plain_send() {
    table("plain");
}

#[test]
fn every_case_holds_for_the_guests_own_caching() {
    table("guest");
}

#[test]
fn there_are_enough_cases_each_of_its_own() {
    let cases = cases::all();
    assert!(cases.len() >= 150, "{}", cases.len());
    let names: std::collections::BTreeSet<_> = cases.iter().map(|case| case.name).collect();
    assert_eq!(names.len(), cases.len(), "two cases have one name");
}

#[test]
fn http_cache_semantics_says_the_same_but_where_it_is_explained() {
    let mut failures = Vec::new();
    for case in cases::all() {
        for (index, (asks, step)) in oracle(&case).into_iter().zip(&case.steps).enumerate() {
            let ours = step.from != From::Cache;
            if (asks == ours) == step.differs.is_some() {
                let said = if asks { "asks the origin" } else { "uses what is stored" };
                failures.push(format!("{} ({}), step {}: it {said}", case.name, case.rule, index + 1));
            }
        }
    }
    assert!(failures.is_empty(), "differences that are not explained, or explained and not there:\n{}", failures.join("\n"));
}
