//! A client that a guest leaves to a backend: its request goes there once more, and if the backend takes
//! the connection over (101), bytes flow both ways until one side ends.

use std::sync::Arc;

use ::http::header::{self, HeaderName, HeaderValue};
use ::http::uri::PathAndQuery;
use ::http::{HeaderMap, Version};
use bytes::Bytes;
use pingora::prelude::timeout;
use tokio::io::AsyncWriteExt;

use super::Edge;
use super::tunnel::{self, Bounds, Carried, End};
use crate::http::io::SharedIo;
use crate::http::request::reread;
use crate::http::{Body, RequestHead, framing, wire};
use crate::sandbox::{HandOff, Received};
use crate::services::backend::{Request, Response, SendError, Switched};
use crate::telemetry::metrics::Held;
use crate::telemetry::trace::{Origin, Trace};

/// Names the backend to a GRIP proxy (Pushpin's routes can ask for it).
const ROUTE: HeaderName = HeaderName::from_static("pushpin-route");

/// Fields that stay as the client sent them, whatever the guest says.
static PROTECTED: [HeaderName; 16] = [
    header::HOST,
    header::SEC_WEBSOCKET_KEY,
    header::SEC_WEBSOCKET_VERSION,
    header::CONNECTION,
    header::UPGRADE,
    header::CONTENT_LENGTH,
    header::CONTENT_RANGE,
    header::EXPECT,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    HeaderName::from_static("fastly-ff"),
    HeaderName::from_static("cdn-loop"),
    ROUTE,
];

/// Sends the client's request on.
pub async fn send(received: &Received, trace: Option<&Arc<Trace>>, handed: HandOff, body: Body) -> Result<Response, SendError> {
    let HandOff { head, backend, route } = handed;
    let Some(original) = reread(&received.raw_head) else {
        return Err(SendError::Internal("the request's head cannot be read again".to_owned()));
    };
    // RFC 9110 §7.8: HTTP/1.0 has no upgrades.
    let upgrade = framing::websocket(&original.headers).filter(|_| original.version == Version::HTTP_11);
    let mut head = merge(original, head);
    if let Some(route) = route {
        head.headers.insert(ROUTE, route);
    }
    let origin = trace.map(|trace| Origin { trace: trace.clone(), call: None });
    Box::pin(backend.send(Request { head, body, decompress: false, upgrade, origin })).await
}

/// The request as the guest has changed it, but for what is the client's alone.
fn merge(original: RequestHead, changed: Option<RequestHead>) -> RequestHead {
    let mut head = match changed {
        None => original,
        Some(mut changed) => {
            for name in &PROTECTED {
                changed.headers.remove(name);
                for value in original.headers.get_all(name) {
                    changed.headers.append(name, value.clone());
                }
            }
            changed
        }
    };
    head.headers.remove(ROUTE);
    if head.uri.path_and_query().is_none_or(|path| !path.as_str().starts_with('/')) {
        let mut parts = std::mem::take(&mut head.uri).into_parts();
        parts.path_and_query = Some(PathAndQuery::from_static("/"));
        head.uri = ::http::Uri::from_parts(parts).unwrap_or_default();
    }
    head
}

/// The head of a 101 for the client.
fn switching(headers: &mut HeaderMap) {
    let protocol = headers.get(header::UPGRADE).cloned();
    framing::strip_hop_by_hop(headers);
    headers.remove(header::CONTENT_LENGTH);
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, protocol.unwrap_or_else(|| HeaderValue::from_static("websocket")));
}

/// Tells the client that the protocol changes and carries bytes both ways, as [`tunnel`] does. `rest` is what the client has sent
/// already; `over` says whether it should end as soon as nothing is under way.
pub async fn splice(
    edge: &Edge,
    client: &SharedIo,
    rest: Bytes,
    mut response: Response,
    switched: Switched,
    carried: &Carried,
    over: impl FnMut() -> bool,
) -> std::io::Result<End> {
    let metrics = &edge.telemetry.metrics;
    let _open = Held::new(&metrics.connections_upgraded);
    switching(&mut response.head.headers);
    let (mut client, mut backend) = (client.clone(), switched.io);
    let mut head = wire::response_head(response.head.status, &response.head.headers);
    head.extend_from_slice(&switched.read);
    let first = async {
        client.write_all(&head).await?;
        client.flush().await?;
        if !rest.is_empty() {
            backend.write_all(&rest).await?;
        }
        backend.flush().await
    };
    match timeout(edge.limits.client_timeout, first).await {
        Ok(written) => written?,
        Err(_) => return Err(std::io::ErrorKind::TimedOut.into()),
    }
    let bounds = Bounds { idle: edge.limits.tunnel_idle, half: edge.limits.client_timeout };
    let end = tunnel::carry(client, backend, bounds, carried, over).await?;
    if let Some(reason) = end.reason() {
        metrics.refusals.with_label_values(&[reason]).inc();
    }
    Ok(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(pairs: &[(&'static str, &'static str)]) -> RequestHead {
        let headers = pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect();
        RequestHead { headers, ..RequestHead::default() }
    }

    #[test]
    fn what_is_the_clients_stays() {
        let original = head(&[("host", "h"), ("sec-websocket-key", "k"), ("x-old", "1"), ("pushpin-route", "evil")]);
        let changed = head(&[("host", "evil"), ("sec-websocket-key", "evil"), ("x-new", "2"), ("transfer-encoding", "chunked")]);
        let merged = merge(original, Some(changed));
        assert_eq!(merged.headers, head(&[("x-new", "2"), ("host", "h"), ("sec-websocket-key", "k")]).headers);
    }

    #[test]
    fn a_target_without_a_path_has_one() {
        let original = RequestHead { uri: ::http::Uri::from_static("*"), ..RequestHead::default() };
        assert_eq!(merge(original, None).uri.path(), "/");
    }
}
