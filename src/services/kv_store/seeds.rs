//! Reads what a KV store holds at first: from the manifest, a file of JSON, or a folder.

use std::collections::BTreeMap;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;

use super::{MAX_METADATA, MAX_VALUE, Seed};
use crate::config::stores::{KvSeeds, KvStore as Settings, Text, kv_key_fault};
use crate::services::data::{self, DataError};

/// An entry of a file.
#[derive(Deserialize)]
#[serde(untagged)]
enum Value {
    Text(String),
    Table(Table),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    /// The value; `body` is what another local host calls it.
    #[serde(alias = "body")]
    data: Option<String>,
    #[serde(alias = "path")]
    file: Option<String>,
    /// A value that is no text.
    base64: Option<String>,
    metadata: Option<String>,
}

/// Reads them all; of several with one key the last counts.
pub fn read(settings: &Settings) -> Result<Vec<Seed>, DataError> {
    let mut seeds = BTreeMap::new();
    let mut add = |from: &Path, key: &str, value: Vec<u8>, metadata: Option<&str>| {
        if let Some(fault) = kv_key_fault(key) {
            return Err(DataError::content(from, format!("the key `{key}` cannot be: {fault}")));
        }
        if value.len() > MAX_VALUE {
            return Err(DataError::content(from, format!("the value of `{key}` has more than {MAX_VALUE} bytes")));
        }
        let metadata = metadata.unwrap_or_default();
        if metadata.len() > MAX_METADATA {
            return Err(DataError::content(from, format!("the metadata of `{key}` have more than {MAX_METADATA} bytes")));
        }
        let metadata = Bytes::copy_from_slice(metadata.as_bytes());
        seeds.insert(key.to_owned(), Seed { key: key.to_owned(), value: value.into(), metadata });
        Ok(())
    };
    if let Some(folder) = &settings.directory {
        for (key, path) in data::files(folder, true)? {
            add(&path, &key, data::bytes(&path)?, None)?;
        }
    }
    match &settings.seeds {
        KvSeeds::Entries(entries) => {
            for entry in entries {
                let (from, value) = match &entry.value {
                    Text::Inline(text) => (Path::new(""), text.clone().into_bytes()),
                    Text::File(path) => (path.as_path(), data::bytes(path)?),
                };
                add(from, &entry.key, value, entry.metadata.as_deref())?;
            }
        }
        KvSeeds::File(path) => {
            let entries: BTreeMap<String, Value> = data::json(path)?;
            for (key, value) in entries {
                let Table { data, file, base64, metadata } = match value {
                    Value::Text(text) => Table { data: Some(text), file: None, base64: None, metadata: None },
                    Value::Table(table) => table,
                };
                let fail = |what: &str| DataError::content(path, format!("the entry `{key}` {what}"));
                let value = match (data, file, base64) {
                    (Some(text), None, None) => text.into_bytes(),
                    (None, Some(file), None) => data::bytes(&path.parent().unwrap_or(Path::new("")).join(file))?,
                    (None, None, Some(text)) => STANDARD.decode(text).map_err(|_| fail("has something else than base64 in `base64`"))?,
                    _ => return Err(fail("needs exactly one of `data`, `file` and `base64`")),
                };
                add(path, &key, value, metadata.as_deref())?;
            }
        }
    }
    Ok(seeds.into_values().collect())
}
