//! Where the operators of this process are answered: nothing that a manifest or a program names leads there. Their listeners may be open to whoever is
//! on this machine, and a program is.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// The operators' listeners of this process.
#[derive(Debug, Default)]
pub struct Operators(OnceLock<Vec<SocketAddr>>);

impl Operators {
    /// Says where they are: once, at the start.
    pub fn are_at(&self, addresses: Vec<SocketAddr>) {
        drop(self.0.set(addresses));
    }

    /// Whether an address leads to one of them.
    pub fn has(&self, address: SocketAddr) -> bool {
        let ours = self.0.get().is_some_and(|all| all.iter().any(|one| one.port() == address.port()));
        ours && is_local(address.ip())
    }

    /// One of them that a registry or server leads to: `HOST:PORT`, the name of a machine looked up.
    pub fn among(&self, place: &str) -> Option<SocketAddr> {
        use std::net::ToSocketAddrs as _;
        // Without a port it is one of the usual ones.
        let found = place.to_socket_addrs().or_else(|_| (place, 443).to_socket_addrs()).ok()?;
        found.into_iter().find(|address| self.has(*address))
    }

    /// What is said to who would go there.
    pub fn refusal(address: SocketAddr) -> String {
        format!("{address} is where operators of this host are answered")
    }
}

/// Whether an address is one of this machine's: something can listen there.
fn is_local(ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    let elsewhere = || {
        let bound = std::net::UdpSocket::bind((ip, 0));
        // Whatever else stands in the way, it may be ours.
        bound.is_err_and(|error| error.kind() == std::io::ErrorKind::AddrNotAvailable)
    };
    ip.is_loopback() || ip.is_unspecified() || !elsewhere()
}

/// Resolves names for requests to a port, without addresses of operators.
pub struct Elsewhere {
    /// Who is kept off.
    pub operators: Arc<Operators>,
    /// The port.
    pub port: u16,
}

impl Resolve for Elsewhere {
    fn resolve(&self, name: Name) -> Resolving {
        let (operators, port) = (self.operators.clone(), self.port);
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), port)).await?;
            let mut addresses = Vec::new();
            for address in found {
                if operators.has(address) {
                    return Err(Operators::refusal(address).into());
                }
                addresses.push(address);
            }
            let addresses: Addrs = Box::new(addresses.into_iter());
            Ok(addresses)
        })
    }
}
