//! Devices by user agent: the manifest's table first, then the rules of uap-core, if the operator has given them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde_json::{Map, Value as Json, json};
use ua_parser::Extractor;

use super::data::{self, DataError};
use crate::config::stores::Stores;

/// What is known of user agents.
#[derive(Default)]
pub struct Devices {
    table: HashMap<String, String>,
    rules: Option<Arc<Extractor<'static>>>,
}

/// What a user agent says of itself, for `fastly_uap`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "as the ABI names them")]
pub struct Agent {
    pub family: String,
    pub major: String,
    pub minor: String,
    pub patch: String,
}

impl Devices {
    /// Reads all there is.
    pub fn open(stores: &Stores) -> Result<Self, DataError> {
        let mut table: BTreeMap<String, Map<String, Json>> = stores.devices.inline.clone();
        if let Some(path) = &stores.devices.file {
            table.extend(data::json::<BTreeMap<String, Map<String, Json>>>(path)?);
        }
        let rules = match &stores.user_agents {
            None => None,
            Some(path) => {
                let text = data::bytes(path)?;
                let regexes: ua_parser::Regexes<'static> = serde_saphyr::from_slice(&text)
                    .map_err(|error| DataError::content(path, format!("these are no rules of uap-core (regexes.yaml): {error}")))?;
                let rules =
                    Extractor::try_from(regexes).map_err(|error| DataError::content(path, format!("a rule cannot be used: {error}")))?;
                Some(Arc::new(rules))
            }
        };
        let table = table.into_iter().map(|(agent, fields)| (agent, Json::Object(fields).to_string())).collect();
        Ok(Self { table, rules })
    }

    /// What is known of the device behind a user agent, as the SDKs read it.
    pub fn lookup(&self, user_agent: &str) -> Option<String> {
        if let Some(known) = self.table.get(user_agent) {
            return Some(known.clone());
        }
        let (agent, os, device) = self.rules.as_ref()?.extract(user_agent);
        if agent.is_none() && os.is_none() && device.is_none() {
            return None;
        }
        let mut found = Map::new();
        let family = device.as_ref().map(|device| device.device.to_string()).unwrap_or_default();
        let brand = device.as_ref().and_then(|device| device.brand.as_deref().map(str::to_owned));
        let os_family = os.as_ref().map(|os| os.os.to_string()).unwrap_or_default();
        if let Some(agent) = agent {
            let is_bot = family == "Spider";
            found.insert(
                "user_agent".to_owned(),
                json!({
                    "name": agent.family, "major": agent.major, "minor": agent.minor, "patch": agent.patch,
                    "is_bot": is_bot, "bot_name": is_bot.then_some(&agent.family), "identified": true,
                }),
            );
        }
        if let Some(os) = os {
            found.insert(
                "os".to_owned(),
                json!({ "name": os.os, "major": os.major, "minor": os.minor, "patch": os.patch, "patch_minor": os.patch_minor }),
            );
        }
        if let Some(device) = device {
            let has = |names: &[&str]| names.iter().any(|name| family.contains(name));
            let tablet = has(&["iPad", "Tablet", "Kindle Fire"]) || (os_family == "Android" && !user_agent.contains("Mobile"));
            let mobile = !tablet && (has(&["iPhone", "iPod"]) || os_family == "Windows Phone" || user_agent.contains("Mobile"));
            let tv = has(&["TV"]) || user_agent.contains("SmartTV") || user_agent.contains("SMART-TV");
            let console = has(&["PlayStation", "Xbox", "Nintendo"]);
            let reader = has(&["Kindle"]) && !has(&["Kindle Fire"]);
            let desktop =
                !mobile && !tablet && matches!(os_family.as_str(), "Windows" | "Mac OS X" | "Linux" | "Ubuntu" | "Chrome OS" | "Fedora");
            let kinds = [
                (console, "Game Console"),
                (tv, "Smart TV"),
                (reader, "E-Reader"),
                (tablet, "Tablet"),
                (mobile, "Mobile Phone"),
                (desktop, "Desktop"),
            ];
            let kind = kinds.iter().find(|(is, _)| *is).map(|(_, name)| *name);
            found.insert(
                "device".to_owned(),
                json!({
                    "name": device.device, "brand": brand, "model": device.model, "hwtype": kind,
                    "is_ereader": reader, "is_gameconsole": console, "is_mediaplayer": has(&["iPod"]), "is_mobile": mobile || tablet,
                    "is_smarttv": tv, "is_tablet": tablet, "is_tvplayer": false, "is_desktop": desktop,
                    "is_touchscreen": mobile || tablet,
                }),
            );
        }
        Some(Json::Object(found).to_string())
    }

    /// Whether there are rules to parse user agents by.
    pub fn parses(&self) -> bool {
        self.rules.is_some()
    }

    /// Family and version of a user agent.
    pub fn parse(&self, user_agent: &str) -> Option<Agent> {
        let (agent, _, _) = self.rules.as_ref()?.extract(user_agent);
        let agent = agent?;
        let text = |part: Option<&str>| part.unwrap_or_default().to_owned();
        Some(Agent { family: agent.family.to_string(), major: text(agent.major), minor: text(agent.minor), patch: text(agent.patch) })
    }
}
