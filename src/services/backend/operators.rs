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

    /// What is said to who would go there.
    pub fn refusal(address: SocketAddr) -> String {
        format!("{address} is where operators of this host are answered")
    }
}

/// Whether an address is one of this machine's: something can listen there.
fn is_local(ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    ip.is_loopback() || ip.is_unspecified() || std::net::UdpSocket::bind((ip, 0)).is_ok()
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
