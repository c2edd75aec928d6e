//! Who the client is when others stand between it and this host: proxies that are trusted to say so, by the
//! PROXY protocol for a connection or by fields for a request. Nobody else is believed.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use ::http::HeaderMap;
use ::http::header::{self, HeaderName};
use ipnet::IpNet;
use pingora::prelude::timeout;
use pingora::protocols::Stream;
use tokio::io::{AsyncRead, AsyncReadExt};

use super::Edge;
use super::listener::TELL_AGAIN;
use crate::sandbox::Client;

/// `X-Forwarded-For`.
const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// `X-Forwarded-Proto`.
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Proxies that are believed.
#[derive(Clone, Debug, Default)]
pub struct Hops {
    /// Where they are.
    pub trusted: Vec<IpNet>,
    /// Whether their connections begin with a PROXY header.
    pub proxy_protocol: bool,
}

impl Hops {
    fn trusts(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.trusted.iter().any(|network| network.contains(&address))
    }
}

/// The two ends of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Ends {
    /// The client's.
    pub client: SocketAddr,
    /// This host's, or that of the proxy the client has connected to.
    pub server: SocketAddr,
}

/// Sockets for both kinds of addresses have IPv4's within IPv6 (RFC 4291 §2.5.5.2): who knows them by the one form means the other, too.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// The ends of a fresh connection; `None` when it cannot be served.
pub async fn ends(edge: &Edge, stream: &mut Stream) -> Option<Ends> {
    let Ends { client, server } = as_told(edge, stream).await?;
    Some(Ends { client: canonical(client), server: canonical(server) })
}

async fn as_told(edge: &Edge, stream: &mut Stream) -> Option<Ends> {
    let digest = stream.get_socket_digest()?;
    let here = digest.local_addr();
    // Who comes by a Unix socket is on this machine.
    let local = here.is_some_and(|address| address.as_unix().is_some());
    let unknown = SocketAddr::from((if local { Ipv4Addr::LOCALHOST } else { Ipv4Addr::UNSPECIFIED }, 0));
    let client = digest.peer_addr().and_then(|addr| addr.as_inet().copied()).unwrap_or(unknown);
    let server = here.and_then(|addr| addr.as_inet().copied()).unwrap_or(unknown);
    let direct = Ends { client, server };
    if !edge.hops.proxy_protocol {
        return Some(direct);
    }
    let refused = |why: &dyn std::fmt::Display| {
        edge.telemetry.metrics.refusals.with_label_values(&["proxy"]).inc();
        if edge.refused.is_due(TELL_AGAIN) {
            tracing::warn!(target: "sidelight::client", %client, error = %why, "a connection without a PROXY header from a trusted proxy was closed");
        }
    };
    if !edge.hops.trusts(client.ip()) {
        refused(&"it is no trusted proxy's: with --proxy-protocol, nobody else may connect");
        return None;
    }
    match timeout(edge.limits.head_timeout, announced(stream)).await {
        Ok(Ok(told)) => return Some(told.unwrap_or(direct)),
        Ok(Err(error)) => refused(&error),
        Err(_) => refused(&"it did not come in time"),
    }
    None
}

/// Why there is no PROXY header.
#[derive(Debug, thiserror::Error)]
pub enum NoHeader {
    /// The connection ended.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// What came is none.
    #[error("{0}")]
    Malformed(String),
}

/// Reads a PROXY header of either version, and not a byte more (PROXY protocol §2). `None`: the proxy speaks for
/// itself, as in its own health checks.
pub async fn announced(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<Ends>, NoHeader> {
    const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
    const LONGEST_LINE: usize = 107;
    const LONGEST: usize = 4 << 10;
    let malformed = |text: &dyn std::fmt::Display| NoHeader::Malformed(text.to_string());
    let mut header = vec![0; 12];
    stream.read_exact(&mut header).await?;
    if header == SIGNATURE {
        header.resize(16, 0);
        stream.read_exact(&mut header[12..]).await?;
        let length = usize::from(u16::from_be_bytes([header[14], header[15]]));
        if length > LONGEST {
            return Err(malformed(&"it is too long"));
        }
        header.resize(16 + length, 0);
        stream.read_exact(&mut header[16..]).await?;
        let parsed = ppp::v2::Header::try_from(header.as_slice()).map_err(|error| malformed(&error))?;
        return Ok(match (parsed.command, parsed.addresses) {
            (ppp::v2::Command::Local, _) => None,
            (_, ppp::v2::Addresses::IPv4(ends)) => Some(Ends {
                client: (ends.source_address, ends.source_port).into(),
                server: (ends.destination_address, ends.destination_port).into(),
            }),
            (_, ppp::v2::Addresses::IPv6(ends)) => Some(Ends {
                client: (ends.source_address, ends.source_port).into(),
                server: (ends.destination_address, ends.destination_port).into(),
            }),
            (_, ppp::v2::Addresses::Unspecified | ppp::v2::Addresses::Unix(_)) => None,
        });
    }
    if !header.starts_with(b"PROXY ") {
        return Err(malformed(&"the connection begins otherwise"));
    }
    while !header.ends_with(b"\r\n") {
        if header.len() >= LONGEST_LINE {
            return Err(malformed(&"its line is too long"));
        }
        header.push(stream.read_u8().await?);
    }
    let parsed = ppp::v1::Header::try_from(header.as_slice()).map_err(|error| malformed(&error))?;
    Ok(match parsed.addresses {
        ppp::v1::Addresses::Tcp4(ends) => Some(Ends {
            client: (ends.source_address, ends.source_port).into(),
            server: (ends.destination_address, ends.destination_port).into(),
        }),
        ppp::v1::Addresses::Tcp6(ends) => Some(Ends {
            client: (ends.source_address, ends.source_port).into(),
            server: (ends.destination_address, ends.destination_port).into(),
        }),
        ppp::v1::Addresses::Unknown => None,
    })
}

/// The client of a request: that of the connection, or the one a trusted proxy names.
pub fn client_of(hops: &Hops, client: &Arc<Client>, headers: &HeaderMap) -> Arc<Client> {
    if hops.trusted.is_empty() || !hops.trusts(client.address.ip()) {
        return client.clone();
    }
    let (address, secure) = match headers.contains_key(header::FORWARDED) {
        true => forwarded(hops, headers),
        false => (x_forwarded_for(hops, headers), x_forwarded_proto(headers)),
    };
    if address.is_none() && secure.is_none() {
        return client.clone();
    }
    let mut client = Client::clone(client);
    if let Some(address) = address {
        client.address = address;
    }
    client.secure = secure.unwrap_or(client.secure);
    Arc::new(client)
}

/// The last address that no trusted proxy has: those before it may be made up.
fn x_forwarded_for(hops: &Hops, headers: &HeaderMap) -> Option<SocketAddr> {
    let words: Vec<&str> = headers.get_all(FOR).iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')).collect();
    last_untrusted(hops, words.iter().rev().map(|word| node(word.trim())))
}

fn x_forwarded_proto(headers: &HeaderMap) -> Option<bool> {
    // That of the nearest proxy.
    let value = headers.get_all(PROTO).iter().next_back()?.to_str().ok()?;
    Some(value.rsplit(',').next()?.trim().eq_ignore_ascii_case("https"))
}

/// `Forwarded` (RFC 7239).
fn forwarded(hops: &Hops, headers: &HeaderMap) -> (Option<SocketAddr>, Option<bool>) {
    let elements: Vec<&str> =
        headers.get_all(header::FORWARDED).iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')).collect();
    let parameter = |element: &str, name: &str| {
        element.split(';').find_map(|pair| {
            let (key, value) = pair.split_once('=')?;
            key.trim().eq_ignore_ascii_case(name).then(|| value.trim().trim_matches('"').to_owned())
        })
    };
    let address = last_untrusted(hops, elements.iter().rev().map(|element| node(&parameter(element, "for")?)));
    let secure = elements.last().and_then(|element| parameter(element, "proto")).map(|proto| proto.eq_ignore_ascii_case("https"));
    (address, secure)
}

/// From the nearest hop outwards: the first that is not trusted, or the outermost if all are. One that is no address
/// ends the search: what lies beyond it cannot be known.
fn last_untrusted(hops: &Hops, nearest_first: impl Iterator<Item = Option<SocketAddr>>) -> Option<SocketAddr> {
    let mut outermost = None;
    for node in nearest_first {
        let node = node?;
        outermost = Some(node);
        if !hops.trusts(node.ip()) {
            break;
        }
    }
    outermost
}

/// An address with or without a port and brackets.
fn node(text: &str) -> Option<SocketAddr> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Some(canonical(address));
    }
    let ip = text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().ok()?;
    Some(canonical(SocketAddr::new(ip, 0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(fields: &[(HeaderName, &'static str)]) -> (String, bool) {
        let hops = Hops { trusted: vec!["10.0.0.0/8".parse().expect("a network")], proxy_protocol: false };
        let address = SocketAddr::from(([10, 0, 0, 1], 5));
        let client = Arc::new(Client { address, server: address, secure: false, tls: None });
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(name, value.parse().expect("a value"));
        }
        let client = client_of(&hops, &client, &headers);
        (client.address.ip().to_string(), client.secure)
    }

    #[test]
    fn what_trusted_proxies_say() {
        let is = |address: &str, secure| (address.to_owned(), secure);
        assert_eq!(seen(&[]), is("10.0.0.1", false));
        assert_eq!(seen(&[(FOR, "1.1.1.1, 192.0.2.1, 10.0.0.2"), (PROTO, "http, https")]), is("192.0.2.1", true));
        assert_eq!(seen(&[(FOR, "192.0.2.1"), (FOR, "192.0.2.2:80")]), is("192.0.2.2", false));
        assert_eq!(seen(&[(FOR, "10.0.0.3, 10.0.0.2")]), is("10.0.0.3", false));
        assert_eq!(seen(&[(FOR, "192.0.2.1, unknown, 10.0.0.2")]), is("10.0.0.1", false));
        assert_eq!(seen(&[(FOR, "2001:db8::1")]), is("2001:db8::1", false));
        assert_eq!(seen(&[(FOR, "::ffff:192.0.2.7, [::ffff:10.0.0.2]:80")]), is("192.0.2.7", false));
        let forwarded = "for=192.0.2.43;proto=http, for=\"[2001:db8::17]:4711\";proto=https";
        assert_eq!(seen(&[(header::FORWARDED, forwarded), (FOR, "1.1.1.1")]), is("2001:db8::17", true));
    }

    async fn read(header: &[u8]) -> Result<Option<(String, String)>, NoHeader> {
        let bytes = [header, b"GET"].concat();
        let mut stream = bytes.as_slice();
        let ends = announced(&mut stream).await?;
        assert_eq!(stream, b"GET", "not a byte more");
        Ok(ends.map(|ends| (ends.client.to_string(), ends.server.to_string())))
    }

    #[tokio::test]
    async fn proxy_headers() {
        let ends = |client: &str, server: &str| Some((client.to_owned(), server.to_owned()));
        let line = b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\n";
        assert_eq!(read(line).await.expect("a header"), ends("192.0.2.1:56324", "192.0.2.2:443"));
        let line = b"PROXY TCP6 2001:db8::1 2001:db8::2 1 2\r\n";
        assert_eq!(read(line).await.expect("a header"), ends("[2001:db8::1]:1", "[2001:db8::2]:2"));
        assert_eq!(read(b"PROXY UNKNOWN\r\n").await.expect("a header"), None);
        let mut two = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
        two.extend([192, 0, 2, 1, 192, 0, 2, 2, 0, 80, 1, 187]);
        assert_eq!(read(&two).await.expect("a header"), ends("192.0.2.1:80", "192.0.2.2:443"));
        assert_eq!(read(b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0").await.expect("a header"), None);
        for bad in [&b"GET / HTTP/1.1\r\n"[..], b"PROXY TCP4 nonsense here 1 2\r\n", &[b"PROXY ", &[b'x'; 200][..]].concat()] {
            assert!(read(bad).await.is_err());
        }
    }
}
