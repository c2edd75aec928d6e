//! Faults of backends for operators: what is in force, and other ones while the process runs.

use std::sync::Arc;

use serde::Deserialize as _;
use serde_json::{Value as Json, json};

use super::kv::{Refused, decode};
use crate::config::faults::Faults;
use crate::services::backend::Backend;

/// What operators may do with faults.
#[derive(Debug, PartialEq, Eq)]
pub enum Wish {
    /// See what is in force.
    Show,
    /// Say what a backend of a service does.
    Set(String, String, Faults),
    /// Have the manifest say it again.
    Reset(String, String),
}

/// Stands for all backends of a service.
const ALL: &str = "*";

/// What is asked for.
pub fn parse(method: &str, path: &str, body: &[u8]) -> Result<Wish, Refused> {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    match (method, parts[..].split_first()) {
        ("GET" | "HEAD", Some((_, []))) => Ok(Wish::Show),
        (_, Some((_, []))) => Err(Refused::Method("faults are listed by GET, and are set at /faults/SERVICE/BACKEND")),
        ("PUT", Some((_, [service, backend]))) => {
            // A list would be taken for an object whose names are left out.
            let faults: Faults = serde_json::from_slice::<serde_json::Map<_, _>>(body)
                .and_then(|object| Faults::deserialize(serde_json::Value::Object(object)))
                .map_err(|error| Refused::Bad(format!("{error}; expected JSON like {{\"latency_ms\": 200, \"errors\": 10}}")))?;
            if let Some((fault, hint)) = faults.impossible() {
                return Err(Refused::Bad(format!("{fault}; expected {hint}")));
            }
            Ok(Wish::Set(decode(service)?, decode(backend)?, faults))
        }
        ("DELETE", Some((_, [service, backend]))) => Ok(Wish::Reset(decode(service)?, decode(backend)?)),
        (_, Some((_, [_, _]))) => Err(Refused::Method("the faults of a backend take PUT and DELETE")),
        _ => Err(Refused::NotFound("there is /faults and /faults/SERVICE/BACKEND".to_owned())),
    }
}

/// The backends of the manifest of each service, by name.
pub type Found = Vec<(String, Vec<Arc<Backend>>)>;

/// Does it; gives what is in force.
pub fn fulfil(wish: Wish, services: &Found) -> Result<Json, Refused> {
    let (service, backend, faults) = match wish {
        Wish::Show => {
            return Ok(services.iter().map(|(name, backends)| (name.clone(), shown(backends))).collect::<serde_json::Map<_, _>>().into());
        }
        Wish::Set(service, backend, faults) => (service, backend, Some(faults)),
        Wish::Reset(service, backend) => (service, backend, None),
    };
    // A generation on trial has backends of its own beside those of the one before.
    let generations: Vec<_> = services.iter().filter(|(name, _)| *name == service).collect();
    if generations.is_empty() {
        return Err(Refused::NotFound(format!("there is no service `{service}`")));
    }
    let all: Vec<_> = generations.into_iter().flat_map(|(_, backends)| backends).collect();
    let meant: Vec<_> = all.iter().copied().filter(|found| backend == ALL || found.config().name == backend).cloned().collect();
    if meant.is_empty() {
        let names: Vec<&str> = all.iter().map(|found| found.config().name.as_str()).collect();
        return Err(Refused::NotFound(format!("the manifest of `{service}` has no backend `{backend}`; it has: {}", names.join(", "))));
    }
    for found in &meant {
        found.set_faults(faults.clone());
        let faults = faults.as_ref().map(|faults| json!(faults).to_string());
        tracing::warn!(
            service,
            backend = found.config().name,
            faults = faults.as_deref().unwrap_or("as in the manifest"),
            "faults on purpose were changed"
        );
    }
    Ok(shown(&meant))
}

fn shown(backends: &[Arc<Backend>]) -> Json {
    let of = |backend: &Arc<Backend>| {
        let (faults, by_operator) = backend.faults();
        let by = if by_operator { "operator" } else { "manifest" };
        (backend.config().name.clone(), json!({ "faults": faults.as_deref().cloned().unwrap_or_default(), "by": by }))
    };
    backends.iter().map(of).collect::<serde_json::Map<_, _>>().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_asked() {
        let asked = |method, path, body: &str| parse(method, path, body.as_bytes()).map_err(|refused| refused.to_string());
        assert_eq!(asked("GET", "/faults", ""), Ok(Wish::Show));
        let faults = Faults { errors: 5, ..Faults::default() };
        assert_eq!(asked("PUT", "/faults/a%2Fb/origin", r#"{"errors": 5}"#), Ok(Wish::Set("a/b".to_owned(), "origin".to_owned(), faults)));
        assert_eq!(asked("DELETE", "/faults/a/*", ""), Ok(Wish::Reset("a".to_owned(), "*".to_owned())));
        for (method, path, body, why) in [
            ("POST", "/faults", "", "faults are listed by GET"),
            ("POST", "/faults/a/b", "{}", "the faults of a backend take PUT and DELETE"),
            ("GET", "/faults/a", "", "there is /faults and /faults/SERVICE/BACKEND"),
            ("PUT", "/faults/a/b", r#"{"erors": 5}"#, "unknown field `erors`, expected one of"),
            ("PUT", "/faults/a/b", r#"{"errors": 101}"#, "errors is a share of 100, and not 101; expected 0 to 100"),
            ("PUT", "/faults/a/b", "", "expected JSON like"),
        ] {
            let error = asked(method, path, body).expect_err(path);
            assert!(error.contains(why), "{method} {path}: {error}");
        }
    }
}
