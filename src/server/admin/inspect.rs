//! What the inspector asks for, and its page.

use std::time::Duration;

use ::http::{HeaderValue, Method, Response, StatusCode, header};
use serde_json::json;

use super::{Admin, JSON, ok_json, only, page, reads, told};
use crate::telemetry::trace::show::{self, Show};

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// The page: files that are a part of the program.
const FILES: &[(&str, &str, &[u8])] = &[
    ("", HTML, include_bytes!("../inspector/index.html")),
    ("api.js", SCRIPT, include_bytes!("../inspector/api.js")),
    ("app.js", SCRIPT, include_bytes!("../inspector/app.js")),
    ("curl.js", SCRIPT, include_bytes!("../inspector/curl.js")),
    ("detail.js", SCRIPT, include_bytes!("../inspector/detail.js")),
    ("dom.js", SCRIPT, include_bytes!("../inspector/dom.js")),
    ("drawing.js", SCRIPT, include_bytes!("../inspector/drawing.js")),
    ("facts.js", SCRIPT, include_bytes!("../inspector/facts.js")),
    ("feed.js", SCRIPT, include_bytes!("../inspector/feed.js")),
    ("filter.js", SCRIPT, include_bytes!("../inspector/filter.js")),
    ("hostcalls.js", SCRIPT, include_bytes!("../inspector/hostcalls.js")),
    ("profile.js", SCRIPT, include_bytes!("../inspector/profile.js")),
    ("refresher.js", SCRIPT, include_bytes!("../inspector/refresher.js")),
    ("requests.js", SCRIPT, include_bytes!("../inspector/requests.js")),
    ("route.js", SCRIPT, include_bytes!("../inspector/route.js")),
    ("services.js", SCRIPT, include_bytes!("../inspector/services.js")),
    ("theme.js", SCRIPT, include_bytes!("../inspector/theme.js")),
    ("timeline-rows.js", SCRIPT, include_bytes!("../inspector/timeline-rows.js")),
    ("timeline.js", SCRIPT, include_bytes!("../inspector/timeline.js")),
    ("tip.js", SCRIPT, include_bytes!("../inspector/tip.js")),
    ("virtual.js", SCRIPT, include_bytes!("../inspector/virtual.js")),
    ("style.css", "text/css; charset=utf-8", include_bytes!("../inspector/style.css")),
];

/// What the page may do: nothing but ask here.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; base-uri 'none'; \
                      form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

/// Longest profile.
const MAX_SECONDS: u64 = 300;

/// A file of the page.
pub(super) fn file(path: &str) -> Response<Vec<u8>> {
    let Some(name) = path.strip_prefix("/inspector/") else {
        let mut response = told(StatusCode::SEE_OTHER, "the inspector is at /inspector/\n");
        response.headers_mut().insert(header::LOCATION, HeaderValue::from_static("/inspector/"));
        return response;
    };
    let Some((_, kind, content)) = FILES.iter().find(|(file, ..)| *file == name) else {
        return told(StatusCode::NOT_FOUND, "the inspector has no such file\n");
    };
    let mut response = page(StatusCode::OK, kind, *content);
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    response.headers_mut().insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

/// The value of a name in a query, decoded.
fn parameter(query: &str, name: &str) -> Option<String> {
    let url = reqwest::Url::parse(&format!("http://a/?{query}")).ok()?;
    url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

/// A body to save.
fn download(content: impl Into<Vec<u8>>, name: &str) -> Response<Vec<u8>> {
    let mut response = page(StatusCode::OK, JSON, content);
    if let Ok(value) = HeaderValue::from_str(&format!("attachment; filename=\"{name}\"")) {
        response.headers_mut().insert(header::CONTENT_DISPOSITION, value);
    }
    response
}

impl Admin {
    pub(super) async fn inspect(&self, method: &Method, path: &str, query: &str) -> Response<Vec<u8>> {
        let rest = path.trim_start_matches("/inspect/");
        if rest == "profile" {
            return if *method == Method::POST { self.profile(query).await } else { only("POST") };
        }
        let known = ["requests", "hostcalls", "services"].contains(&rest) || rest.starts_with("requests/");
        match (known, reads(method)) {
            (false, _) => told(StatusCode::NOT_FOUND, "there is no such thing to inspect; /openapi.json says what there is\n"),
            (true, false) => only("GET, HEAD"),
            (true, true) => self.look(rest, query),
        }
    }

    fn look(&self, rest: &str, query: &str) -> Response<Vec<u8>> {
        let redact = self.control.redactor();
        let tracer = &self.telemetry.tracer;
        let show = Show { assembler: tracer.assembler(), redact: &*redact };
        match rest {
            "requests" => match parameter(query, "after").map_or(Ok(0), |after| after.parse()) {
                Ok(after) => ok_json(&show::list(tracer.recent(), after, &show)),
                Err(_) => told(StatusCode::BAD_REQUEST, "after= takes the number of a request\n"),
            },
            "hostcalls" => ok_json(&self.hostcalls()),
            "services" => ok_json(&self.control.services()),
            _ => {
                let (id, form) = rest.trim_start_matches("requests/").split_once('/').unwrap_or((rest.trim_start_matches("requests/"), ""));
                let Some((number, trace)) = tracer.recent().find(id) else {
                    return told(StatusCode::NOT_FOUND, "this request is not kept, or not any more\n");
                };
                match form {
                    "" => ok_json(&show.detail(number, &trace)),
                    "otlp" => download(show.otlp(&trace).to_string(), &format!("{id}.otlp.json")),
                    "chrome" => download(show.chrome(&trace).to_string(), &format!("{id}.trace.json")),
                    "firefox" => download(show.firefox(&trace).to_string(), &format!("{id}.profile.json")),
                    _ => told(StatusCode::NOT_FOUND, "a request can be had as otlp, chrome or firefox\n"),
                }
            }
        }
    }

    fn hostcalls(&self) -> serde_json::Value {
        let totals = self.telemetry.metrics.calls.totals();
        let all = totals.iter().map(|total| {
            let statuses: serde_json::Map<_, _> =
                total.statuses.iter().map(|(name, count)| ((*name).to_owned(), (*count).into())).collect();
            let micros = |quantile: f64| total.quantile(quantile).map(|seconds| seconds * 1e6);
            json!({
                "interface": total.module,
                "function": total.name,
                "count": total.statuses.iter().map(|(_, count)| count).sum::<u64>(),
                "seconds": total.seconds,
                "p50_us": micros(0.5),
                "p99_us": micros(0.99),
                "statuses": statuses,
            })
        });
        json!({ "hostcalls": all.collect::<Vec<_>>() })
    }

    async fn profile(&self, query: &str) -> Response<Vec<u8>> {
        let seconds = parameter(query, "seconds").map_or(Ok(10), |seconds| seconds.parse::<u64>());
        let Some(seconds) = seconds.ok().filter(|seconds| (1..=MAX_SECONDS).contains(seconds)) else {
            return told(StatusCode::BAD_REQUEST, "seconds= takes a number from 1 to 300\n");
        };
        let service = parameter(query, "service").unwrap_or_default();
        let longest = Duration::from_secs(seconds + 30);
        match tokio::time::timeout(longest, self.control.profile(&service, seconds)).await {
            Ok(Ok(profile)) => download(profile, &format!("{}.profile.json", service.replace(|c: char| !c.is_ascii_alphanumeric(), "-"))),
            Ok(Err((status, why))) => told(status, why),
            Err(_) => told(StatusCode::INTERNAL_SERVER_ERROR, "the profile took too long\n"),
        }
    }
}
