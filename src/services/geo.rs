//! Geolocation: the manifest's table first, then MaxMind databases. What neither knows is not known.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use maxminddb::Reader;
use prefix_trie::PrefixMap;
use serde_json::{Map, Value as Json, json};

use super::data::{self, DataError};
use crate::config::stores::Geo as Settings;

/// Fields in production's order, with what stands for "not known"; the SDKs want all of them to be there.
const FIELDS: [(&str, Unknown); 19] = [
    ("as_name", Unknown::Text("?")),
    ("as_number", Unknown::Number(0)),
    ("area_code", Unknown::Number(0)),
    ("city", Unknown::Text("?")),
    ("conn_speed", Unknown::Text("?")),
    ("conn_type", Unknown::Text("?")),
    ("continent", Unknown::Text("?")),
    ("country_code", Unknown::Text("?")),
    ("country_code3", Unknown::Text("?")),
    ("country_name", Unknown::Text("?")),
    ("gmt_offset", Unknown::Number(9999)),
    ("latitude", Unknown::Zero),
    ("longitude", Unknown::Zero),
    ("metro_code", Unknown::Number(-1)),
    ("postal_code", Unknown::Text("?")),
    ("proxy_description", Unknown::Text("?")),
    ("proxy_type", Unknown::Text("?")),
    ("region", Unknown::Text("?")),
    ("utc_offset", Unknown::Number(9999)),
];

#[derive(Clone, Copy)]
enum Unknown {
    Text(&'static str),
    Number(i64),
    Zero,
}

/// Where addresses are.
#[derive(Default)]
pub struct Geo {
    v4: PrefixMap<Ipv4Net, String>,
    v6: PrefixMap<Ipv6Net, String>,
    loopback: Option<String>,
    city: Option<Database>,
    asn: Option<Database>,
    anonymous: Option<Database>,
}

struct Database(Reader<Vec<u8>>);

impl Database {
    /// Opens one whose type has one of `kinds` in its name.
    fn open(path: &Path, kinds: &[&str]) -> Result<Self, DataError> {
        let reader = Reader::from_source(data::bytes(path)?)
            .map_err(|error| DataError::content(path, format!("this is no MaxMind database: {error}")))?;
        let kind: &str = reader.metadata().database_type.as_ref();
        if !kinds.iter().any(|wanted| kind.contains(wanted)) {
            return Err(DataError::content(path, format!("this is a database of {kind}; one of {} is wanted", kinds.join(" or "))));
        }
        Ok(Self(reader))
    }

    fn get(&self, address: IpAddr) -> Option<Json> {
        self.0.lookup(address).ok()?.decode().ok()?
    }
}

impl Geo {
    /// Reads all there is.
    pub fn open(settings: &Settings) -> Result<Self, DataError> {
        let open = |path: &Option<_>, kinds: &[&str]| path.as_deref().map(|path| Database::open(path, kinds)).transpose();
        let mut geo = Self {
            loopback: settings.loopback.then(|| complete(loopback())),
            city: open(&settings.city, &["City", "Country", "Enterprise"])?,
            asn: open(&settings.asn, &["ASN", "ISP"])?,
            anonymous: open(&settings.anonymous, &["Anonymous"])?,
            ..Self::default()
        };
        for (network, fields) in &settings.inline {
            geo.insert(*network, fields.clone());
        }
        if let Some(path) = &settings.file {
            let table: BTreeMap<String, Map<String, Json>> = data::json(path)?;
            for (text, fields) in table {
                let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
                let network = network.map_err(|_| DataError::content(path, format!("`{text}` is no address and no network")))?;
                geo.insert(network, fields);
            }
        }
        Ok(geo)
    }

    fn insert(&mut self, network: IpNet, fields: Map<String, Json>) {
        let text = complete(fields);
        match network.trunc() {
            IpNet::V4(network) => drop(self.v4.insert(network, text)),
            IpNet::V6(network) => drop(self.v6.insert(network, text)),
        }
    }

    /// Where an address is, as the SDKs read it.
    pub fn lookup(&self, address: IpAddr) -> Option<String> {
        let known = match address {
            IpAddr::V4(address) => self.v4.get_lpm(&address.into()).map(|(_, text)| text),
            IpAddr::V6(address) => self.v6.get_lpm(&address.into()).map(|(_, text)| text),
        };
        if let Some(text) = known {
            return Some(text.clone());
        }
        if let Some(text) = self.loopback.as_ref().filter(|_| address.is_loopback()) {
            return Some(text.clone());
        }
        let [city, asn, anonymous] = [&self.city, &self.asn, &self.anonymous].map(|database| database.as_ref()?.get(address));
        if city.is_none() && asn.is_none() && anonymous.is_none() {
            return None;
        }
        Some(complete(located(&city.unwrap_or_default(), &asn.unwrap_or_default(), &anonymous.unwrap_or_default())))
    }
}

/// MaxMind's records as production's.
fn located(city: &Json, asn: &Json, anonymous: &Json) -> Map<String, Json> {
    let country = if city["country"].is_null() { &city["registered_country"] } else { &city["country"] };
    let mut fields = Map::new();
    let mut set = |name: &str, value: Json| {
        if !value.is_null() {
            fields.insert(name.to_owned(), value);
        }
    };
    let organization =
        if asn["autonomous_system_organization"].is_null() { &asn["organization"] } else { &asn["autonomous_system_organization"] };
    set("as_name", organization.clone());
    set("as_number", asn["autonomous_system_number"].clone());
    set("city", city["city"]["names"]["en"].clone());
    set("continent", city["continent"]["code"].clone());
    set("country_code", country["iso_code"].clone());
    let three = country["iso_code"].as_str().and_then(rust_iso3166::from_alpha2).map(|country| country.alpha3);
    set("country_code3", three.map_or(Json::Null, Json::from));
    set("country_name", country["names"]["en"].clone());
    set("latitude", city["location"]["latitude"].clone());
    set("longitude", city["location"]["longitude"].clone());
    set("metro_code", city["location"]["metro_code"].clone());
    set("postal_code", city["postal"]["code"].clone());
    set("region", city["subdivisions"][0]["iso_code"].clone());
    let is = |flag: &str| anonymous[flag].as_bool() == Some(true);
    let proxy = if is("is_tor_exit_node") {
        Some(("anonymous", "tor-exit"))
    } else if is("is_anonymous_vpn") {
        Some(("anonymous", "vpn"))
    } else if is("is_public_proxy") {
        Some(("public", "?"))
    } else if is("is_hosting_provider") {
        Some(("hosting", "cloud"))
    } else if is("is_residential_proxy") || is("is_anonymous") {
        Some(("anonymous", "?"))
    } else {
        None
    };
    if let Some((kind, description)) = proxy {
        set("proxy_type", kind.into());
        set("proxy_description", description.into());
    }
    fields
}

/// All fields in their order, and those that production does not have behind them.
fn complete(mut fields: Map<String, Json>) -> String {
    let mut text = String::from("{");
    let mut add = |name: &str, value: &Json| {
        if text.len() > 1 {
            text.push(',');
        }
        text.push_str(&Json::from(name).to_string());
        text.push(':');
        text.push_str(&value.to_string());
    };
    for (name, unknown) in FIELDS {
        let value = fields.remove(name).unwrap_or_else(|| match unknown {
            Unknown::Text(text) => text.into(),
            Unknown::Number(number) => number.into(),
            Unknown::Zero => json!(0.0),
        });
        add(name, &value);
    }
    fields.iter().for_each(|(name, value)| add(name, value));
    text.push('}');
    text
}

/// Where loopback addresses are said to be: Fastly's first office, as other local hosts have it.
fn loopback() -> Map<String, Json> {
    let place = json!({
        "as_name": "Fastly, Inc", "as_number": 54113, "area_code": 415, "city": "San Francisco", "conn_speed": "broadband",
        "conn_type": "wired", "continent": "NA", "country_code": "US", "country_code3": "USA",
        "country_name": "United States of America", "gmt_offset": -700, "latitude": 37.77869, "longitude": -122.39557,
        "metro_code": 0, "postal_code": "94107", "proxy_description": "?", "proxy_type": "?", "region": "US-CA", "utc_offset": -700,
    });
    match place {
        Json::Object(fields) => fields,
        _ => Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_in_productions_order() {
        let fields = Map::from_iter([("city".to_owned(), Json::from("X")), ("extra".to_owned(), Json::from(1))]);
        let names = FIELDS.map(|(name, _)| format!("\"{name}\":"));
        let text = complete(fields);
        let places: Vec<_> = names.iter().map(|name| text.find(name.as_str()).expect("is there")).collect();
        assert!(places.is_sorted(), "{text}");
        assert!(text.starts_with("{\"as_name\":\"?\",\"as_number\":0") && text.ends_with(",\"extra\":1}"), "{text}");
    }
}
