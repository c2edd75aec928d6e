//! Files that stores are read from: what they say, or errors.

#![no_main]

use std::fmt::Display;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use sidelight::config::stores::{ConfigStore as ConfigSettings, Geo as GeoSettings, SecretStore as SecretSettings, Stores};
use sidelight::services::acl::Acl;
use sidelight::services::config_store::ConfigStore;
use sidelight::services::device::Devices;
use sidelight::services::geo::Geo;
use sidelight::services::secret_store::SecretStore;

/// In memory, where there is such a folder.
static FILE: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = PathBuf::from("/dev/shm");
    let folder = if folder.is_dir() { folder } else { std::env::temp_dir() };
    folder.join(format!("sidelight-fuzz-{}", std::process::id()))
});

fn told<T>(result: Result<T, impl Display>) -> Option<T> {
    match result {
        Ok(read) => Some(read),
        Err(error) => {
            assert!(!error.to_string().is_empty());
            None
        }
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((kind, content)) = input.split_first() else { return };
    std::fs::write(&*FILE, content).expect("writes");
    let file = || Some(FILE.clone());
    let addresses: [IpAddr; 4] = ["192.0.2.1", "10.0.0.1", "2001:db8::1", "::"].map(|text| text.parse().expect("an address"));
    match kind % 7 {
        0 => {
            if let Some(acl) = told(Acl::open(&FILE)) {
                for address in addresses {
                    assert!(acl.lookup(address).is_none_or(|(network, _)| network.contains(&address)));
                }
            }
        }
        1 => drop(told(ConfigStore::open(&ConfigSettings::File(FILE.clone())))),
        2 => drop(told(SecretStore::open(&SecretSettings::File(FILE.clone())))),
        3 | 4 => {
            let settings = if kind % 7 == 3 {
                GeoSettings { file: file(), ..GeoSettings::default() }
            } else {
                GeoSettings { city: file(), ..GeoSettings::default() }
            };
            if let Some(geo) = told(Geo::open(&settings)) {
                addresses.into_iter().for_each(|address| drop(geo.lookup(address)));
            }
        }
        _ => {
            let mut stores = Stores::default();
            if kind % 7 == 5 {
                stores.devices.file = file();
            } else {
                stores.user_agents = file();
            }
            if let Some(devices) = told(Devices::open(&stores)) {
                drop(devices.lookup("Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/99.0 Safari/537.36"));
            }
        }
    }
});
