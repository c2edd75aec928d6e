//! Where dynamic backends may point. A program that takes a target from its client would otherwise
//! make an open relay of this host, into the network it stands in.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::IpNet;

/// An allow-list: any of its rules is enough.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Targets(Vec<Rule>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Rule {
    /// Everything.
    Any,
    /// Addresses of the public Internet.
    Public,
    /// Addresses of a network.
    Network(IpNet),
    /// A host name.
    Name(String),
    /// Every host name below this one.
    Below(String),
}

/// What the list says of a host before its addresses are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Whatever its addresses are.
    Allowed,
    /// It depends on the address, see [`Targets::allow_address`].
    Depends,
    /// Whatever its addresses are, no.
    Denied,
}

impl std::fmt::Display for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Any => f.write_str("any"),
            Self::Public => f.write_str("public"),
            Self::Network(network) => network.fmt(f),
            Self::Name(name) => f.write_str(name),
            Self::Below(name) => write!(f, "*.{name}"),
        }
    }
}

impl serde::Serialize for Targets {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(ToString::to_string))
    }
}

impl Default for Targets {
    fn default() -> Self {
        Self(vec![Rule::Public])
    }
}

impl FromStr for Targets {
    type Err = String;

    /// `any`, `none`, or rules separated by commas: `public`, networks, addresses, names, `*.names`.
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => return Ok(Self(Vec::new())),
            "any" => return Ok(Self(vec![Rule::Any])),
            _ => {}
        }
        text.split(',').map(|rule| Rule::parse(rule.trim())).collect::<Result<_, _>>().map(Self)
    }
}

impl Rule {
    fn parse(text: &str) -> Result<Self, String> {
        let bad =
            || format!("`{text}` is no rule; expected any, none, or a list of public, 10.0.0.0/8, 192.0.2.1, name.example, *.example");
        if text == "public" {
            return Ok(Self::Public);
        }
        if let Ok(network) = text.parse() {
            return Ok(Self::Network(network));
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Network(address.into()));
        }
        let (name, below) = match text.strip_prefix("*.") {
            Some(rest) => (rest, true),
            None => (text, false),
        };
        let valid = name.split('.').all(|label| {
            !label.is_empty() && label.len() <= 63 && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
        });
        // All digits and dots, or a slash: an address that is none.
        if !valid || name.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
            return Err(bad());
        }
        let name = name.to_ascii_lowercase();
        Ok(if below { Self::Below(name) } else { Self::Name(name) })
    }
}

impl Targets {
    /// Nowhere.
    pub fn none() -> Self {
        Self(Vec::new())
    }

    /// What is allowed of a host, an address or a name.
    pub fn judge(&self, host: &str) -> Verdict {
        if let Ok(address) = host.parse() {
            return if self.allow_address(address) { Verdict::Allowed } else { Verdict::Denied };
        }
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let by_name = self.0.iter().any(|rule| match rule {
            Rule::Any => true,
            Rule::Name(name) => *name == host,
            Rule::Below(name) => host.strip_suffix(name.as_str()).is_some_and(|rest| rest.ends_with('.')),
            Rule::Public | Rule::Network(_) => false,
        });
        let by_address = self.0.iter().any(|rule| matches!(rule, Rule::Public | Rule::Network(_)));
        match (by_name, by_address) {
            (true, _) => Verdict::Allowed,
            (false, true) => Verdict::Depends,
            (false, false) => Verdict::Denied,
        }
    }

    /// Whether an address is allowed.
    pub fn allow_address(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|rule| match rule {
            Rule::Any => true,
            Rule::Public => is_public(address),
            Rule::Network(network) => network.contains(&address),
            Rule::Name(_) | Rule::Below(_) => false,
        })
    }
}

/// Whether an address is one of the public Internet: none of the special-purpose registries'
/// (RFC 6890) that lead into this machine or its networks.
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(ip) => {
            let [a, b, ..] = ip.octets();
            let shared = a == 100 && (64..128).contains(&b);
            let reserved = a == 0 || a >= 240 || (a == 192 && b == 0 && ip.octets()[2] == 0) || (a == 198 && (b & 0xfe) == 18);
            !(ip.is_loopback()
                || ip.is_private()
                || ip.is_link_local()
                || ip.is_multicast()
                || ip.is_documentation()
                || ip == Ipv4Addr::BROADCAST
                || shared
                || reserved)
        }
        IpAddr::V6(ip) => {
            // Global unicast, without documentation; what tunnels an IPv4 address is judged by that.
            let segments = ip.segments();
            let tunnelled = match segments {
                [0x64, 0xff9b, 0, 0, 0, 0, a, b] => Some((a, b)),
                [0x2002, a, b, ..] => Some((a, b)),
                _ => None,
            };
            if let Some((a, b)) = tunnelled {
                let [w, x] = a.to_be_bytes();
                let [y, z] = b.to_be_bytes();
                return is_public(Ipv4Addr::new(w, x, y, z).into());
            }
            (segments[0] & 0xe000) == 0x2000 && !(segments[0] == 0x2001 && segments[1] == 0xdb8) && ip != Ipv6Addr::UNSPECIFIED
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn targets(text: &str) -> Targets {
        text.parse().expect("a list")
    }

    #[test]
    fn the_default_is_the_public_internet() {
        let targets = Targets::default();
        for host in ["127.0.0.1", "::1", "10.1.2.3", "192.168.0.1", "172.16.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0"] {
            assert_eq!(targets.judge(host), Verdict::Denied, "{host}");
        }
        for host in ["fe80::1", "fd00::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "224.0.0.1", "255.255.255.255", "::"] {
            assert_eq!(targets.judge(host), Verdict::Denied, "{host}");
        }
        for host in ["1.1.1.1", "151.101.1.57", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"] {
            assert_eq!(targets.judge(host), Verdict::Allowed, "{host}");
        }
        assert_eq!(targets.judge("example.com"), Verdict::Depends);
    }

    #[test]
    fn names_and_networks() {
        let targets = targets("10.0.0.0/8, ::1, Origin.Example, *.svc.cluster.local");
        assert_eq!(targets.judge("10.9.9.9"), Verdict::Allowed);
        assert_eq!(targets.judge("11.9.9.9"), Verdict::Denied);
        assert_eq!(targets.judge("::1"), Verdict::Allowed);
        assert_eq!(targets.judge("origin.example."), Verdict::Allowed);
        assert_eq!(targets.judge("a.b.svc.cluster.local"), Verdict::Allowed);
        assert_eq!(targets.judge("svc.cluster.local"), Verdict::Depends);
        assert_eq!(targets.judge("xsvc.cluster.local"), Verdict::Depends);
    }

    #[test]
    fn all_or_nothing() {
        assert_eq!(targets("any").judge("127.0.0.1"), Verdict::Allowed);
        assert_eq!(targets("any").judge("x"), Verdict::Allowed);
        assert_eq!(targets("none").judge("1.1.1.1"), Verdict::Denied);
        assert_eq!(targets("none").judge("x"), Verdict::Denied);
        assert_eq!(targets("name.example").judge("other.example"), Verdict::Denied);
    }

    #[test]
    fn what_is_no_rule() {
        for text in ["", "a,,b", "*", "*.", "10.0.0.0/33", "10.0.0", "a b", "http://a", "a:80"] {
            assert!(text.parse::<Targets>().is_err(), "{text}");
        }
    }
}
