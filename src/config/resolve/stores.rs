//! Stores and edge data: which file or text each comes from, and what production would not take.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use toml::Spanned;

use super::Resolve;
use crate::config::Secret;
use crate::config::manifest::{self, Format};
use crate::config::stores::{
    CONFIG_KEY, CONFIG_VALUE, ConfigStore, Geo, KvEntry, KvSeeds, KvStore, SecretStore, SecretText, Shield, Stores, Table, Text,
    is_secret_name, kv_key_fault,
};

/// Where data of a `format` is: in the manifest or in a file.
enum Place<T> {
    Inline(T),
    File(std::path::PathBuf),
}

impl Resolve<'_> {
    /// All of them.
    pub(super) fn stores(&mut self, local: &manifest::LocalServer, ours: &manifest::Sidelight, setup: Option<&manifest::Setup>) -> Stores {
        let mut stores = Stores { rates: ours.rate_limits.keep, ..Stores::default() };
        for (name, from) in local.config_stores.iter().chain(&local.dictionaries) {
            if let Some(store) = self.config_store(name, from) {
                self.add(&mut stores.config, name, store);
            }
        }
        for (name, from) in local.kv_stores.iter().chain(&local.object_stores).chain(&local.object_store) {
            if let Some(seeds) = self.kv_store(from) {
                self.add(&mut stores.kv, name, KvStore { seeds, ..KvStore::default() });
            }
        }
        for (name, from) in &local.secret_stores {
            if let Some(store) = self.secret_store(from) {
                self.add(&mut stores.secrets, name, store);
            }
        }
        for (name, from) in &local.acls {
            let file = match from {
                manifest::Acl::File(file) => self.path(&Spanned::new(name.span(), file.clone())),
                manifest::Acl::Table(table) => self.path(&table.file),
            };
            stores.acls.insert(name.get_ref().clone(), file);
        }
        if let Some(from) = &local.geolocation {
            stores.geo = self.geo(from);
        }
        if let Some(from) = &local.device_detection {
            stores.devices = match self.place("user_agents", &from.format, from.user_agents.as_ref(), from.file.as_ref()) {
                Some(Place::Inline(inline)) => {
                    let inline = inline.iter().map(|(key, value)| (key.get_ref().clone(), value.clone().into_iter().collect()));
                    Table { inline: inline.collect(), file: None }
                }
                Some(Place::File(file)) => Table { file: Some(file), ..Table::default() },
                None => Table::default(),
            };
        }
        for (name, from) in &local.shielding_sites {
            if let Some(shield) = self.shield(name, from) {
                stores.shields.insert(name.get_ref().clone(), shield);
            }
        }
        if let Some(setup) = setup {
            self.setup_stores(setup, &mut stores);
        }
        self.store_options(ours, &mut stores);
        stores
    }

    /// What `[sidelight]` says more.
    fn store_options(&mut self, ours: &manifest::Sidelight, stores: &mut Stores) {
        for (name, from) in &ours.kv_stores {
            if !stores.kv.contains_key(name.get_ref()) {
                self.add(&mut stores.kv, name, KvStore::default());
            }
            let directory = from.directory.as_ref().map(|directory| self.path(directory));
            if let Some(store) = stores.kv.get_mut(name.get_ref()) {
                store.keep = from.keep;
                store.reseed = from.reseed.unwrap_or_default();
                store.directory = directory;
            }
        }
        for (name, from) in &ours.secret_stores {
            let Some(directory) = &from.directory else {
                self.problem(name, "nothing is said of this store", "directory = \"/etc/secrets\"");
                continue;
            };
            let store = SecretStore::Directory(self.path(directory));
            self.add(&mut stores.secrets, name, store);
        }
        let geo = &ours.geolocation;
        stores.geo.city = geo.city.as_ref().map(|file| self.path(file));
        stores.geo.asn = geo.asn.as_ref().map(|file| self.path(file));
        stores.geo.anonymous = geo.anonymous_ip.as_ref().map(|file| self.path(file));
        stores.user_agents = ours.user_agents.as_ref().map(|file| self.path(file));
    }

    fn add<T>(&mut self, stores: &mut BTreeMap<String, T>, name: &Spanned<String>, store: T) {
        if name.get_ref().is_empty() || name.get_ref().len() > 255 {
            self.problem(name, "a store's name has 1 to 255 bytes", "choose another");
        }
        if stores.insert(name.get_ref().clone(), store).is_some() {
            self.problem(
                name,
                format!("there are two stores `{}`", name.get_ref()),
                "it is also there under the older name of this section",
            );
        }
    }

    /// One of the two ways in which data can be given.
    fn place<'f, T>(
        &mut self,
        key: &str,
        format: &Spanned<Format>,
        inline: Option<&'f T>,
        file: Option<&Spanned<String>>,
    ) -> Option<Place<&'f T>> {
        match (format.get_ref(), inline, file) {
            (Format::InlineToml, Some(inline), None) => return Some(Place::Inline(inline)),
            (Format::Json, None, Some(file)) => return Some(Place::File(self.path(file))),
            (Format::InlineToml, _, Some(file)) => {
                self.problem(file, "a file, where format is \"inline-toml\"", "say format = \"json\", or leave the file out");
            }
            (Format::InlineToml, None, None) => {
                self.problem(format, format!("format is \"inline-toml\", and there is no `{key}`"), "a table of that name has the entries");
            }
            (Format::Json, _, None) => self.problem(format, "format is \"json\", and there is no `file`", "file = \"name.json\""),
            (Format::Json, Some(_), Some(file)) => {
                self.problem(file, format!("both `file` and `{key}`"), "leave out the one that format does not name");
            }
        }
        None
    }

    fn config_store(&mut self, name: &Spanned<String>, from: &manifest::ConfigStore) -> Option<ConfigStore> {
        match self.place("contents", &from.format, from.contents.as_ref(), from.file.as_ref())? {
            Place::File(file) => Some(ConfigStore::File(file)),
            Place::Inline(entries) => {
                for (key, value) in entries {
                    let hint =
                        &format!("in {}: production takes keys of {CONFIG_KEY} characters and values of {CONFIG_VALUE}", name.get_ref());
                    if key.get_ref().chars().count() > CONFIG_KEY {
                        self.problem(key, "this key is too long", hint);
                    }
                    if value.get_ref().chars().count() > CONFIG_VALUE {
                        self.problem(value, "this value is too long", hint);
                    }
                }
                Some(ConfigStore::Inline(entries.iter().map(|(key, value)| (key.get_ref().clone(), value.get_ref().clone())).collect()))
            }
        }
    }

    /// JSON is all a store's file may be.
    fn json_file(&mut self, from: &manifest::JsonFile) -> std::path::PathBuf {
        if *from.format.get_ref() != Format::Json {
            self.problem(&from.format, "a store in a file is JSON", "format = \"json\"");
        }
        self.path(&from.file)
    }

    fn kv_store(&mut self, from: &manifest::KvStore) -> Option<KvSeeds> {
        let entries = match from {
            manifest::KvStore::File(file) => return Some(KvSeeds::File(self.json_file(file))),
            manifest::KvStore::Entries(entries) => entries,
        };
        let mut read = Vec::with_capacity(entries.len());
        for entry in entries {
            if let Some(fault) = kv_key_fault(entry.key.get_ref()) {
                self.problem(&entry.key, format!("this key cannot be: {fault}"), "1 to 1024 bytes without line breaks");
            }
            let value = match (&entry.data, entry.file.as_ref().or(entry.path.as_ref())) {
                (Some(text), None) => Text::Inline(text.clone()),
                (None, Some(file)) => Text::File(self.path(file)),
                (None, None) | (Some(_), Some(_)) => {
                    self.problem(&entry.key, "an entry needs exactly one of `data` and `file`", "data = \"text\", or file = \"name\"");
                    continue;
                }
            };
            read.push(KvEntry { key: entry.key.get_ref().clone(), value, metadata: entry.metadata.clone() });
        }
        Some(KvSeeds::Entries(read))
    }

    fn secret_store(&mut self, from: &manifest::SecretStore) -> Option<SecretStore> {
        let entries = match from {
            manifest::SecretStore::File(file) => return Some(SecretStore::File(self.json_file(file))),
            manifest::SecretStore::Entries(entries) => entries,
        };
        let mut read = BTreeMap::new();
        for entry in entries {
            let name = entry.key.get_ref();
            if !is_secret_name(name) {
                self.problem(&entry.key, "no name of a secret", "1 to 255 letters, digits, `-`, `_` and `.`");
            }
            let secret = match (&entry.data, &entry.file, &entry.env) {
                (Some(text), None, None) if text.len() > Secret::MAX => {
                    self.problem(&entry.key, "this secret is too long", "production takes 64 KiB");
                    continue;
                }
                (Some(text), None, None) => SecretText::Inline(Secret::new(text.clone().into_bytes())),
                (None, Some(file), None) => SecretText::File(self.path(file)),
                (None, None, Some(variable)) => SecretText::Variable(variable.get_ref().clone()),
                _ => {
                    let hint = "data = \"text\", file = \"name\" or env = \"VARIABLE\"";
                    self.problem(&entry.key, "a secret needs exactly one of `data`, `file` and `env`", hint);
                    continue;
                }
            };
            if read.insert(name.clone(), secret).is_some() {
                self.problem(&entry.key, format!("there are two secrets `{name}`"), "leave one of them out");
            }
        }
        Some(SecretStore::Entries(read))
    }

    fn geo(&mut self, from: &manifest::Geolocation) -> Geo {
        let mut geo = Geo { loopback: from.use_default_loopback.unwrap_or(true), ..Geo::default() };
        match self.place("addresses", &from.format, from.addresses.as_ref(), from.file.as_ref()) {
            Some(Place::Inline(entries)) => {
                for (address, fields) in entries {
                    let text = address.get_ref();
                    match text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)) {
                        Ok(network) => drop(geo.inline.insert(network, fields.clone().into_iter().collect())),
                        Err(_) => self.problem(
                            address,
                            format!("`{text}` is no address and no network"),
                            "for example 192.0.2.1 or 2001:db8::/32",
                        ),
                    }
                }
            }
            Some(Place::File(file)) => geo.file = Some(file),
            None => {}
        }
        geo
    }

    fn shield(&mut self, name: &Spanned<String>, from: &manifest::ShieldingSite) -> Option<Shield> {
        match from {
            manifest::ShieldingSite::Word(word) if word.eq_ignore_ascii_case("local") => Some(Shield::Local),
            manifest::ShieldingSite::Word(word) => {
                self.problem(
                    name,
                    format!("`{word}` is no shield"),
                    "\"Local\", or { encrypted = \"https://…\", unencrypted = \"http://…\" }",
                );
                None
            }
            manifest::ShieldingSite::Remote(site) => {
                self.url(&site.encrypted)?;
                self.url(&site.unencrypted)?;
                Some(Shield::Remote { encrypted: site.encrypted.get_ref().clone(), unencrypted: site.unencrypted.get_ref().clone() })
            }
        }
    }

    /// `[setup.…_stores]`, for those that `local_server` does not have.
    fn setup_stores(&mut self, setup: &manifest::Setup, stores: &mut Stores) {
        for (name, from) in setup.config_stores.iter().chain(&setup.dictionaries) {
            let entries = from.items.iter().map(|(key, item)| (key.clone(), item.value.clone().unwrap_or_default()));
            stores.config.entry(name.get_ref().clone()).or_insert_with(|| ConfigStore::Inline(entries.collect()));
        }
        for (name, from) in setup.kv_stores.iter().chain(&setup.object_stores) {
            let entry = |(key, item): (&String, &manifest::SetupItem)| KvEntry {
                key: key.clone(),
                value: match &item.file {
                    Some(file) => Text::File(self.path(file)),
                    None => Text::Inline(item.value.clone().unwrap_or_default()),
                },
                metadata: None,
            };
            let entries = from.items.iter().map(entry).collect();
            let seeds = KvSeeds::Entries(entries);
            stores.kv.entry(name.get_ref().clone()).or_insert_with(|| KvStore { seeds, ..KvStore::default() });
        }
        for name in setup.secret_stores.keys() {
            stores.secrets.entry(name.get_ref().clone()).or_insert_with(|| SecretStore::Entries(BTreeMap::new()));
        }
    }
}
