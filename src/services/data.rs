//! Files of data that a service is built from: read whole, with errors that name the place.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use crate::config::files;

/// A file of data cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// It cannot be read.
    #[error("{}: {error}{}", path.display(), self.remedy())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// It is not of the form that it should have.
    #[error("{}:{line}:{column}: {message}", path.display())]
    Form {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
        /// What is wrong, and what would be right.
        message: String,
    },
    /// What it says cannot be.
    #[error("{}: {message}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what would be right.
        message: String,
    },
    /// An environment variable is not set.
    #[error("the environment variable {0} is not set")]
    Variable(String),
    /// It is not there to be had, for a reason that the configuration has.
    #[error("{0}")]
    Setting(String),
}

impl DataError {
    /// What to do about it, where that is not in its text.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Read { error, .. } if error.kind() == std::io::ErrorKind::NotFound => {
                Some("it is looked for beside the file that names it")
            }
            Self::Read { .. } | Self::Form { .. } | Self::Content { .. } | Self::Variable(_) | Self::Setting(_) => None,
        }
    }

    fn remedy(&self) -> String {
        self.hint().map(|hint| format!("\n  hint: {hint}")).unwrap_or_default()
    }

    /// What `path` says cannot be.
    pub fn content(path: &Path, message: impl Into<String>) -> Self {
        Self::Content { path: path.to_owned(), message: message.into() }
    }
}

/// All of a file.
pub fn bytes(path: &Path) -> Result<Vec<u8>, DataError> {
    files::read(path, files::LARGEST).map_err(|error| DataError::Read { path: path.to_owned(), error })
}

/// A file of JSON.
pub fn json<T: DeserializeOwned>(path: &Path) -> Result<T, DataError> {
    // It may be secrets.
    let text = Zeroizing::new(bytes(path)?);
    serde_json::from_slice(&text).map_err(|error| {
        let text = error.to_string();
        let message = text.rsplit_once(" at line ").map_or(text.as_str(), |(message, _)| message).to_owned();
        DataError::Form { path: path.to_owned(), line: error.line(), column: error.column(), message }
    })
}

/// Whether a file could be written to, as far as that can be found out without doing it.
pub fn can_write(path: &Path) -> Result<(), DataError> {
    let fail = |error| DataError::Read { path: path.to_owned(), error };
    match std::fs::File::options().append(true).open(path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            can_make_files(folder)
        }
        Err(error) => Err(fail(error)),
    }
}

/// Whether files could be made in a folder, or in the one that it would be made in.
pub fn can_make_files(folder: &Path) -> Result<(), DataError> {
    let fail = |error: std::io::Error| DataError::Read { path: folder.to_owned(), error };
    let there = folder.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("."));
    if !there.is_dir() {
        return Err(fail(std::io::ErrorKind::NotADirectory.into()));
    }
    rustix::fs::access(there, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK).map_err(|error| fail(error.into()))
}

/// Makes a folder if it is not there, and a file in it that goes again: what access rights say is not all.
pub fn make_file_in(folder: &Path) -> std::io::Result<()> {
    own_folder(folder)?;
    let file = folder.join(format!(".sidelight-{}.tmp", std::process::id()));
    std::fs::File::create(&file)?;
    std::fs::remove_file(file)
}

/// Makes a folder for what is this process's: nobody else reads what programs keep. One that is there is left as it is.
pub fn own_folder(folder: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// The files of a folder, with their paths in it, sorted; those in folders below it, too, if `deep`. Hidden ones are
/// left out, as are those of a Kubernetes volume that are behind its links.
pub fn files(folder: &Path, deep: bool) -> Result<Vec<(String, PathBuf)>, DataError> {
    let (mut found, mut left) = (Vec::new(), MOST_FILES);
    walk(folder, "", deep, &mut left, &mut found)?;
    found.sort();
    Ok(found)
}

/// Most files and folders that a folder may have in it, those below it included.
pub const MOST_FILES: usize = 100_000;

fn walk(folder: &Path, prefix: &str, deep: bool, left: &mut usize, found: &mut Vec<(String, PathBuf)>) -> Result<(), DataError> {
    let fail = |error| DataError::Read { path: folder.to_owned(), error };
    for entry in std::fs::read_dir(folder).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        let Ok(name) = entry.file_name().into_string() else {
            return Err(DataError::content(&entry.path(), "the name of this file is not UTF-8"));
        };
        if name.starts_with('.') {
            continue;
        }
        // Links that lead in circles have no end.
        *left = left.checked_sub(1).ok_or_else(|| {
            DataError::content(folder, format!("there are more than {MOST_FILES} files and folders here, or links that lead in circles"))
        })?;
        let path = entry.path();
        let name = format!("{prefix}{name}");
        // Links are followed: a mounted volume is made of them.
        match std::fs::metadata(&path) {
            Ok(what) if what.is_dir() && deep => walk(&path, &format!("{name}/"), deep, left, found)?,
            Ok(what) if what.is_file() => found.push((name, path)),
            Ok(_) => {}
            Err(error) => return Err(DataError::Read { path, error }),
        }
    }
    Ok(())
}
