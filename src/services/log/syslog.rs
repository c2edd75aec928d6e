//! Syslog: messages of RFC 5424 by UDP (RFC 5426), TCP (RFC 6587, octet counting) and TLS (RFC 5425).

use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio_rustls::TlsConnector;

use super::Record;
use super::sinks::{Failure, PATIENCE, message, time};
use crate::config::logs::{SyslogSink, Transport};
use crate::services::backend::operators::Operators;
use crate::services::data::DataError;

/// Informational (RFC 5424 §6.2.1).
const SEVERITY: u8 = 6;

/// Longest message that goes by UDP.
const MAX_DATAGRAM: usize = 65_000;

trait Stream: AsyncRead + AsyncWrite + Send + Sync + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Stream for T {}

enum Connection {
    Udp(UdpSocket),
    Stream(Box<dyn Stream>),
}

/// A syslog server.
pub(super) struct Syslog {
    settings: SyslogSink,
    tls: Option<TlsConnector>,
    connection: Option<Connection>,
    operators: Arc<Operators>,
}

impl Syslog {
    pub(super) fn open(settings: &SyslogSink, ca: Option<&[u8]>, operators: &Arc<Operators>) -> Result<Self, DataError> {
        let tls = (settings.transport == Transport::Tls).then(|| connector(settings, ca)).transpose()?;
        Ok(Self { settings: settings.clone(), tls, connection: None, operators: operators.clone() })
    }

    pub(super) async fn write(&mut self, service: &str, records: &[Record]) -> Result<(), Failure> {
        let result = match tokio::time::timeout(PATIENCE, self.deliver(service, records)).await {
            Ok(result) => result,
            Err(_) => Err(Failure::Passing("it takes nothing".to_owned())),
        };
        if result.is_err() {
            self.connection = None;
        }
        result
    }

    async fn deliver(&mut self, service: &str, records: &[Record]) -> Result<(), Failure> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        let facility = self.settings.facility as u8;
        match &mut connection {
            Connection::Udp(socket) => {
                for record in records {
                    let mut text = line(facility, service, record).into_bytes();
                    text.truncate(MAX_DATAGRAM);
                    socket.send(&text).await?;
                }
            }
            Connection::Stream(stream) => {
                // Nothing is ever answered: what can be read is the end.
                let mut byte = [0];
                if let Ok(Ok(0)) = tokio::time::timeout(std::time::Duration::ZERO, stream.read(&mut byte)).await {
                    return Err(Failure::Passing("it closed the connection".to_owned()));
                }
                let mut all = Vec::new();
                for record in records {
                    let text = line(facility, service, record);
                    all.extend_from_slice(format!("{} ", text.len()).as_bytes());
                    all.extend_from_slice(text.as_bytes());
                }
                stream.write_all(&all).await?;
                stream.flush().await?;
            }
        }
        self.connection = Some(connection);
        Ok(())
    }

    async fn connect(&self) -> Result<Connection, Failure> {
        let place = (self.settings.host.as_str(), self.settings.port);
        if self.settings.transport == Transport::Udp {
            let mut addresses = tokio::net::lookup_host(place).await?;
            let address = addresses.next().ok_or_else(|| Failure::Passing("its name has no address".to_owned()))?;
            let local = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = UdpSocket::bind(local).await?;
            socket.connect(address).await?;
            return Ok(Connection::Udp(socket));
        }
        let addresses: Vec<_> = tokio::net::lookup_host(place).await?.collect();
        if let Some(address) = addresses.iter().find(|address| self.operators.has(**address)) {
            return Err(Failure::Final(Operators::refusal(*address)));
        }
        let stream = TcpStream::connect(&*addresses).await?;
        let Some(tls) = &self.tls else { return Ok(Connection::Stream(Box::new(stream))) };
        let name = ServerName::try_from(self.settings.host.clone()).map_err(|error| Failure::Final(error.to_string()))?;
        Ok(Connection::Stream(Box::new(tls.connect(name, stream).await?)))
    }
}

fn connector(settings: &SyslogSink, ca: Option<&[u8]>) -> Result<TlsConnector, DataError> {
    let mut roots = RootCertStore::empty();
    match (ca, &settings.ca) {
        (Some(pem), Some(path)) => {
            for certificate in CertificateDer::pem_slice_iter(pem) {
                let certificate = certificate.map_err(|error| DataError::content(path, format!("no certificates: {error}")))?;
                roots.add(certificate).map_err(|error| DataError::content(path, format!("a certificate cannot be used: {error}")))?;
            }
            if roots.is_empty() {
                return Err(DataError::content(path, "there is no certificate in it"));
            }
        }
        _ => drop(roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs)),
    }
    Ok(TlsConnector::from(Arc::new(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth())))
}

/// A name of printable ASCII without spaces, as the head of a message has them; `-` is none.
fn name(text: &str, most: usize) -> String {
    let plain: String = text.chars().map(|c| if c.is_ascii_graphic() { c } else { '_' }).take(most).collect();
    if plain.is_empty() { "-".to_owned() } else { plain }
}

/// One message (RFC 5424 §6). The request's id is structured data, under the number that is kept for examples.
fn line(facility: u8, service: &str, record: &Record) -> String {
    let mut id = String::new();
    for character in record.request_id.chars() {
        if matches!(character, '"' | '\\' | ']') {
            id.push('\\');
        }
        id.push(character);
    }
    format!(
        "<{}>1 {} - {} {} {} [sidelight@32473 request_id=\"{id}\"] {}",
        facility * 8 + SEVERITY,
        time(record),
        name(service, 48),
        std::process::id(),
        name(&record.endpoint, 32),
        message(record)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message() {
        let record = Record {
            at: std::time::Duration::from_millis(1_700_000_000_123),
            endpoint: "my events".into(),
            request_id: "a\"]b".into(),
            span: None,
            content: "hello\nthere\n".into(),
            cut: 0,
        };
        let wanted = format!(
            "<134>1 2023-11-14T22:13:20.123Z - shop {} my_events [sidelight@32473 request_id=\"a\\\"\\]b\"] hello\nthere",
            std::process::id()
        );
        assert_eq!(line(16, "shop", &record), wanted);
    }
}
