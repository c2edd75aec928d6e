//! What the platform would know of clients and services: here, what the manifest says. Nothing in a
//! request decides it, but the client's address.

use std::net::IpAddr;

use super::Secret;
use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Answers of the platform, decided.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Facts {
    /// Which rules hold for personal data.
    pub compliance_region: ComplianceRegion,
    /// Products the service has.
    pub products: Vec<Product>,
    /// Values of `Fastly-Key` that are called valid.
    pub fastly_keys: Vec<Secret>,
    /// Clients; the first that fits counts.
    pub clients: Vec<ClientFacts>,
    /// The Next-Gen WAF's answers; `None`: there is none.
    pub inspect: Option<Inspect>,
}

impl Facts {
    /// What is known of the client at an address.
    pub fn client(&self, address: IpAddr) -> Option<&ClientFacts> {
        let address = address.to_canonical();
        self.clients.iter().find(|client| client.fits(address))
    }

    /// Whether there is bot analysis at all.
    pub fn analyses_bots(&self) -> bool {
        self.clients.iter().any(|client| client.bot.is_some())
    }
}

/// Where requests are handled, for programs that must know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ComplianceRegion {
    /// Anywhere.
    #[default]
    None,
    /// United States.
    Us,
    /// European Union.
    Eu,
    /// Both.
    UsEu,
}

impl ComplianceRegion {
    /// As the ABI spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Us => "us",
            Self::Eu => "eu",
            Self::UsEu => "us-eu",
        }
    }
}

/// What a service can have beside Compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Product {
    /// Image Optimizer.
    ImageOptimizer,
    /// Domain Inspector.
    DomainInspector,
    /// Origin Inspector.
    OriginInspector,
}

/// What is known of some clients.
#[derive(Clone, Debug, PartialEq, Eq, Default, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ClientFacts {
    /// Networks and addresses; empty: every client.
    #[serde(default, deserialize_with = "networks")]
    #[schemars(with = "Vec<String>")]
    pub addresses: Vec<IpNet>,
    /// Whether they take part in an attack.
    #[serde(default)]
    pub ddos_detected: bool,
    /// Which bot they are.
    #[serde(default)]
    pub bot: Option<Bot>,
    /// What is known of their network.
    #[serde(default)]
    pub vpn: Option<Vpn>,
}

impl ClientFacts {
    fn fits(&self, address: IpAddr) -> bool {
        self.addresses.is_empty() || self.addresses.iter().any(|network| network.contains(&address))
    }
}

/// A bot.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Bot {
    /// For people.
    pub name: String,
    /// What it is for.
    pub category: BotCategory,
    /// Whether it is what it says.
    #[serde(default)]
    pub verified: bool,
}

/// What bots are for, as the ABI numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the names are Fastly's and say all there is")]
pub enum BotCategory {
    SuspectedBot = 1,
    Accessibility = 2,
    AiCrawler = 3,
    AiFetcher = 4,
    ContentFetcher = 5,
    MonitoringSiteTools = 6,
    OnlineMarketing = 7,
    PagePreview = 8,
    PlatformIntegrations = 9,
    Research = 10,
    SearchEngineCrawler = 11,
    SearchEngineSpecialization = 12,
    SecurityTools = 13,
    HeadlessBot = 14,
}

impl BotCategory {
    /// As the ABI spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::SuspectedBot => "SUSPECTED-BOT",
            Self::Accessibility => "ACCESSIBILITY",
            Self::AiCrawler => "AI-CRAWLER",
            Self::AiFetcher => "AI-FETCHER",
            Self::ContentFetcher => "CONTENT-FETCHER",
            Self::MonitoringSiteTools => "MONITORING-SITE-TOOLS",
            Self::OnlineMarketing => "ONLINE-MARKETING",
            Self::PagePreview => "PAGE-PREVIEW",
            Self::PlatformIntegrations => "PLATFORM-INTEGRATIONS",
            Self::Research => "RESEARCH",
            Self::SearchEngineCrawler => "SEARCH-ENGINE-CRAWLER",
            Self::SearchEngineSpecialization => "SEARCH-ENGINE-SPECIALIZATION",
            Self::SecurityTools => "SECURITY-TOOLS",
            Self::HeadlessBot => "HEADLESS-BOT",
        }
    }
}

/// What is known of a client's network.
#[derive(Clone, Debug, PartialEq, Eq, Default, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "each is the hostcall downstream_resvpnproxy_is_… of its name")]
pub struct Vpn {
    pub anonymous: bool,
    pub anonymous_vpn: bool,
    pub hosting_provider: bool,
    pub proxy_over_vpn: bool,
    pub public_proxy: bool,
    pub relay_proxy: bool,
    pub residential_proxy: bool,
    pub smart_dns_proxy: bool,
    pub tor_exit_node: bool,
    pub vpn_datacenter: bool,
    /// The VPN's name.
    pub service_name: Option<String>,
}

/// The Next-Gen WAF's answers: those of the first rule that fits, or the default.
#[derive(Clone, Debug, PartialEq, Eq, Default, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Inspect {
    /// Without a rule that fits.
    #[serde(default)]
    pub default: Verdict,
    /// Rules in their order.
    #[serde(default)]
    pub rules: Vec<InspectRule>,
}

impl Inspect {
    /// The answer for a request.
    pub fn judge(&self, address: IpAddr, path: &str) -> Verdict {
        let address = address.to_canonical();
        let fits = |rule: &&InspectRule| {
            rule.path.as_deref().is_none_or(|prefix| path.starts_with(prefix))
                && (rule.addresses.is_empty() || rule.addresses.iter().any(|network| network.contains(&address)))
        };
        let Some(rule) = self.rules.iter().find(fits) else { return self.default.clone() };
        let InspectRule { verdict, response, redirect_url, tags, .. } = rule.clone();
        Verdict { verdict, response, redirect_url, tags }
    }
}

/// For which requests an answer is; what is left out fits every request.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub struct InspectRule {
    /// What the path begins with.
    #[serde(default)]
    pub path: Option<String>,
    /// Where the client is.
    #[serde(default, deserialize_with = "networks")]
    #[schemars(with = "Vec<String>")]
    pub addresses: Vec<IpNet>,
    /// As in [`Verdict`].
    pub verdict: String,
    /// As in [`Verdict`].
    pub response: u16,
    /// As in [`Verdict`].
    #[serde(default)]
    pub redirect_url: String,
    /// As in [`Verdict`].
    #[serde(default)]
    pub tags: Vec<String>,
}

/// What the Next-Gen WAF says of a request.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Verdict {
    /// `allow`, `block` or another word.
    pub verdict: String,
    /// The status it wants.
    pub response: u16,
    /// Where to, when it blocks by that.
    pub redirect_url: String,
    /// Signals.
    pub tags: Vec<String>,
}

impl Default for Verdict {
    fn default() -> Self {
        Self { verdict: "allow".to_owned(), response: 200, redirect_url: String::new(), tags: Vec::new() }
    }
}

fn networks<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<IpNet>, D::Error> {
    let texts: Vec<String> = Vec::deserialize(deserializer)?;
    let parse = |text: &String| {
        let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        network.map_err(|_| serde::de::Error::custom(format!("`{text}` is no address and no network (192.0.2.0/24, 2001:db8::/32)")))
    };
    texts.iter().map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_that_fits() {
        let facts = Facts {
            clients: vec![
                ClientFacts { addresses: vec!["192.0.2.0/24".parse().expect("a network")], ddos_detected: true, ..ClientFacts::default() },
                ClientFacts::default(),
            ],
            ..Facts::default()
        };
        assert!(facts.client("::ffff:192.0.2.1".parse().expect("an address")).is_some_and(|client| client.ddos_detected));
        assert!(facts.client("192.0.3.1".parse().expect("an address")).is_some_and(|client| !client.ddos_detected));
    }

    #[test]
    fn verdicts() {
        let text = "[[rules]]\npath = \"/admin\"\nverdict = \"block\"\nresponse = 406\ntags = [\"SQLI\"]\n[[rules]]\naddresses = [\"192.0.2.1\"]\nverdict = \"block\"\nresponse = 403\n";
        let inspect: Inspect = toml::from_str(text).expect("rules");
        let (one, two) = ("192.0.2.1".parse().expect("an address"), "192.0.2.2".parse().expect("an address"));
        assert_eq!((inspect.judge(two, "/admin/x").response, inspect.judge(two, "/").verdict.as_str()), (406, "allow"));
        assert_eq!(inspect.judge(one, "/").verdict, "block");
    }
}
