//! Secret stores: from the manifest, files, environment variables or mounted folders. What they hold is never shown.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::data::{self, DataError};
use crate::config::Secret;
use crate::config::stores::{SecretStore as Settings, SecretText, is_secret_name};

/// A secret store.
#[derive(Debug, Default)]
pub struct SecretStore {
    secrets: HashMap<Box<str>, Secret>,
}

/// Nobody else's copy of it stays in memory.
fn read(path: &Path) -> Result<Secret, DataError> {
    let bytes = data::bytes(path)?;
    checked(path, bytes)
}

fn checked(path: &Path, bytes: Vec<u8>) -> Result<Secret, DataError> {
    let length = bytes.len();
    let secret = Secret::new(bytes);
    if length > Secret::MAX {
        return Err(DataError::content(path, format!("a secret has at most {} KiB", Secret::MAX >> 10)));
    }
    Ok(secret)
}

impl SecretStore {
    /// Reads it.
    pub fn open(settings: &Settings) -> Result<Arc<Self>, DataError> {
        let mut secrets = HashMap::new();
        match settings {
            Settings::Entries(entries) => {
                for (name, text) in entries {
                    let secret = match text {
                        SecretText::Inline(secret) => secret.clone(),
                        SecretText::File(path) => read(path)?,
                        SecretText::Variable(name) => variable(name)?,
                    };
                    secrets.insert(name.as_str().into(), secret);
                }
            }
            Settings::File(path) => {
                let entries: HashMap<String, Zeroizing<String>> = data::json(path).map_err(|error| match error {
                    // What serde found there may be a secret.
                    DataError::Form { path, line, column, .. } => {
                        DataError::Form { path, line, column, message: "expected an object of texts: { \"name\": \"secret\" }".to_owned() }
                    }
                    other => other,
                })?;
                for (name, text) in entries {
                    named(path, &name)?;
                    secrets.insert(name.into(), checked(path, text.as_bytes().to_vec())?);
                }
            }
            Settings::Directory(folder) => {
                for (name, path) in data::files(folder, false)? {
                    named(&path, &name)?;
                    secrets.insert(name.into(), read(&path)?);
                }
            }
        }
        Ok(Arc::new(Self { secrets }))
    }

    /// All of them.
    pub fn values(&self) -> impl Iterator<Item = Secret> {
        self.secrets.values().cloned()
    }

    /// The secret of that name.
    pub fn get(&self, name: &str) -> Option<&Secret> {
        self.secrets.get(name)
    }
}

fn named(path: &Path, name: &str) -> Result<(), DataError> {
    if is_secret_name(name) {
        return Ok(());
    }
    Err(DataError::content(path, format!("`{name}` is no name of a secret: 1 to 255 letters, digits, `-`, `_` and `.`")))
}

#[expect(clippy::disallowed_methods, reason = "a secret may be said to be there")]
fn variable(name: &str) -> Result<Secret, DataError> {
    let value = std::env::var_os(name).ok_or_else(|| DataError::Variable(name.to_owned()))?;
    let secret = Secret::new(value.into_encoded_bytes());
    if secret.as_ref().len() > Secret::MAX {
        return Err(DataError::Setting(format!("the environment variable {name} is longer than {} KiB", Secret::MAX >> 10)));
    }
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mounted_folder() {
        let folder = tempfile::tempdir().expect("a folder");
        let place = folder.path().join("..2026");
        std::fs::create_dir(&place).expect("a folder");
        std::fs::write(place.join("token"), b"hunter2\n").expect("writes");
        std::os::unix::fs::symlink("..2026", folder.path().join("..data")).expect("links");
        std::os::unix::fs::symlink("..data/token", folder.path().join("token")).expect("links");
        let store = SecretStore::open(&Settings::Directory(folder.path().to_owned())).expect("opens");
        assert_eq!(store.get("token").map(AsRef::as_ref), Some(&b"hunter2\n"[..]));
        assert!(store.get("..data").is_none());
        assert!(!format!("{store:?}").contains("hunter2"));
        std::fs::write(folder.path().join("a b"), b"x").expect("writes");
        assert!(matches!(SecretStore::open(&Settings::Directory(folder.path().to_owned())), Err(DataError::Content { .. })));
    }
}
