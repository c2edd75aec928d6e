//! What the access log has of each request.

use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Decided settings of the access log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct AccessSettings {
    /// The fields of a line, in their order; none: there is no access log.
    pub fields: Vec<AccessField>,
}

macro_rules! fields {
    ($($field:ident $name:literal $what:literal),* $(,)?) => {
        /// A field of a line.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
        pub enum AccessField {
            $(
                #[doc = $what]
                #[serde(rename = $name)]
                $field,
            )*
        }

        impl AccessField {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$field),*];

            /// Its name.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$field => $name,)*
                }
            }
        }
    };
}

fields! {
    Time "time" "When the request came (RFC 3339).",
    RequestId "request_id" "Names it in logs.",
    TraceId "trace_id" "Its trace, if it has one.",
    Service "service" "The service that answered, if one did.",
    Client "client" "The client's address.",
    Method "method" "Its method.",
    Scheme "scheme" "`http` or `https`.",
    Host "host" "The host that was asked for.",
    Path "path" "The path.",
    Query "query" "The query, without the values of names that are usual for secrets.",
    Version "version" "The version of HTTP.",
    Status "status" "The status of the answer; none if there was none.",
    Bytes "bytes" "Bytes of its body that went out.",
    DurationMs "duration_ms" "Milliseconds from the head to the last byte.",
    UserAgent "user_agent" "What the client calls itself.",
    Referer "referer" "Where it says it comes from.",
}

impl AccessSettings {
    /// What most want to know.
    pub fn usual() -> Self {
        use AccessField::{Bytes, Client, DurationMs, Host, Method, Path, RequestId, Service, Status, Time, TraceId, UserAgent};
        Self { fields: vec![Time, Client, Method, Host, Path, Status, Bytes, DurationMs, Service, RequestId, TraceId, UserAgent] }
    }
}

impl FromStr for AccessSettings {
    type Err = String;

    /// Names with commas; `usual`.
    fn from_str(text: &str) -> Result<Self, String> {
        if text == "usual" {
            return Ok(Self::usual());
        }
        let field = |name: &str| {
            AccessField::ALL.iter().copied().find(|field| field.name() == name).ok_or_else(|| {
                let names: Vec<&str> = AccessField::ALL.iter().map(|field| field.name()).collect();
                format!("`{name}` is no field of the access log; there is: usual, or {}", names.join(", "))
            })
        };
        text.split(',').map(|name| field(name.trim())).collect::<Result<_, _>>().map(|fields| Self { fields })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!("status,path".parse(), Ok(AccessSettings { fields: vec![AccessField::Status, AccessField::Path] }));
        assert_eq!("usual".parse(), Ok(AccessSettings::usual()));
        let error = "status,colour".parse::<AccessSettings>().expect_err("no such field");
        assert!(error.contains("`colour`") && error.contains("duration_ms"), "{error}");
    }
}
