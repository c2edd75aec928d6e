//! Config stores: read-only text by key. Dictionaries are the same thing under an older name.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::data::{self, DataError};
use crate::config::stores::{CONFIG_KEY, CONFIG_VALUE, ConfigStore as Settings};

/// A config store.
#[derive(Debug, Default)]
pub struct ConfigStore {
    entries: HashMap<Box<str>, Bytes>,
}

impl ConfigStore {
    /// Reads it.
    pub fn open(settings: &Settings) -> Result<Arc<Self>, DataError> {
        let (entries, file) = match settings {
            Settings::Inline(entries) => (entries.clone(), Path::new("")),
            Settings::File(path) => (data::json(path)?, path.as_path()),
        };
        let mut store = Self::default();
        for (key, value) in entries {
            if key.chars().count() > CONFIG_KEY || value.chars().count() > CONFIG_VALUE {
                let start: String = key.chars().take(40).collect();
                let message = format!("entry `{start}`: keys have at most {CONFIG_KEY} characters and values {CONFIG_VALUE}");
                return Err(DataError::content(file, message));
            }
            store.entries.insert(key.into(), value.into());
        }
        Ok(Arc::new(store))
    }

    /// The value of a key; keys are case-sensitive.
    pub fn get(&self, key: &str) -> Option<&Bytes> {
        self.entries.get(key)
    }
}
