//! TLS towards clients, and what a handshake says of a client.

use std::sync::Arc;

use async_trait::async_trait;
use base64::prelude::{BASE64_STANDARD, Engine as _};
use bytes::Bytes;
use pingora::prelude::timeout;
use pingora::protocols::Stream;
use pingora::protocols::l4::stream::Stream as L4Stream;
use pingora::server::ShutdownWatch;
use rustls::ProtocolVersion;
use rustls::pki_types::CertificateDer;

use super::certificates::{Certificates, Material};
use super::listener::Serve;
use super::places::Place;
use super::{Edge, connection, hops};
use crate::http::client_hello::{self, ClientHello};
use crate::http::io::TlsIo;
use crate::sandbox::{CertificateCheck, ClientTls};
use crate::services::backend::ciphers;

/// What serves clients behind TLS.
pub struct Secure {
    /// What serves them then.
    pub edge: Arc<Edge>,
    /// With what.
    pub certificates: Arc<Certificates>,
}

impl Secure {
    async fn accept(&self, stream: Stream) -> Option<(TlsIo, ClientTls)> {
        let material = self.certificates.current();
        let l4 = stream.into_any().downcast::<L4Stream>().ok()?;
        // A client has as long for its handshake as for a head.
        let (io, sent) = match timeout(self.edge.limits.head_timeout, TlsIo::accept(material.config.clone(), *l4)).await {
            Ok(Ok(accepted)) => accepted,
            Ok(Err(error)) => {
                self.edge.telemetry.metrics.tls_handshakes_failed.inc();
                tracing::debug!(target: "sidelight::client", %error, "TLS handshake failed");
                return None;
            }
            Err(_) => {
                self.edge.telemetry.metrics.tls_handshakes_failed.inc();
                return None;
            }
        };
        let tls = describe(&io, &sent, &material);
        Some((io, tls))
    }
}

/// What a finished handshake says.
fn describe(io: &TlsIo, sent: &[u8], material: &Material) -> ClientTls {
    let session = io.session();
    let message = client_hello::message(sent).unwrap_or_default();
    let hello = ClientHello::parse(&message);
    let chain = session.peer_certificates().unwrap_or_default();
    ClientTls {
        protocol: match session.protocol_version() {
            Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
            _ => "TLSv1.3",
        },
        cipher: session.negotiated_cipher_suite().map(|suite| ciphers::name(suite.suite())).unwrap_or_default(),
        server_name: io.server_name().map(str::to_owned),
        hello: Bytes::from(message),
        ja3: hello.as_ref().map(ClientHello::ja3),
        ja4: hello.as_ref().map(ClientHello::ja4),
        certificate: (!chain.is_empty()).then(|| chain.iter().map(|certificate| pem(certificate)).collect()),
        verified: match (chain, &material.clients) {
            ([], _) => CertificateCheck::Missing,
            (_, None) => CertificateCheck::Unknown,
            ([leaf, rest @ ..], Some(clients)) => clients.check(leaf, rest),
        },
    }
}

#[async_trait]
impl Serve for Secure {
    const CLIENTS: bool = true;

    async fn serve(self: &Arc<Self>, mut stream: Stream, place: Arc<Place>, shutdown: &ShutdownWatch) {
        let Some(ends) = hops::ends(&self.edge, &mut stream).await else { return };
        if let Some((io, tls)) = self.accept(stream).await {
            connection::serve(&self.edge, Box::new(io), ends, Some(tls), place, shutdown.clone()).await;
        }
    }
}

/// RFC 7468.
fn pem(certificate: &CertificateDer<'_>) -> String {
    let text = BASE64_STANDARD.encode(certificate);
    let mut out = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in text.as_bytes().chunks(64) {
        out.extend(line.iter().map(|byte| char::from(*byte)));
        out.push('\n');
    }
    out.push_str("-----END CERTIFICATE-----\n");
    out
}
