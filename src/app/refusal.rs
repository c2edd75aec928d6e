//! Why an attempt to change what is served has changed nothing, for people and for programs.

use std::path::PathBuf;

use super::Exit;
use super::load::Unplanned;
use crate::config::diagnostics::Report;
use crate::services::data::DataError;
use crate::services::{BuildError, descriptors};

/// Why nothing was changed.
pub struct Refusal {
    /// What is wrong, and what to do.
    pub error: String,
    /// The same, fault by fault, when documents or data are at fault.
    pub problems: Vec<Report>,
    /// How a process ends that cannot start for it.
    pub exit: Box<Exit>,
}

impl From<Unplanned> for Refusal {
    fn from(unplanned: Unplanned) -> Self {
        let error = unplanned.error;
        Self { problems: error.reports(), error: error.to_string(), exit: Box::new(error.into()) }
    }
}

impl From<Vec<BuildError>> for Refusal {
    fn from(errors: Vec<BuildError>) -> Self {
        let problems = errors.iter().filter_map(report).collect();
        Self { problems, ..(errors,).into() }
    }
}

impl<E: Into<Exit>> From<(E,)> for Refusal {
    fn from((error,): (E,)) -> Self {
        let exit = Box::new(error.into());
        Self { error: exit.to_string(), problems: Vec::new(), exit }
    }
}

/// Why services cannot have what they would have open.
pub fn descriptors_of(who: &str, wanted: usize, left: usize) -> String {
    let all = descriptors::all();
    format!(
        "{who}: programs, log endpoints and stores on disk take {wanted} file descriptors (with those of a change), and services may have {left} more of the process's {all}\n  hint: raise the limit (ulimit -n, LimitNOFILE=), or have fewer services or log endpoints"
    )
}

/// A fault of data, for programs.
fn report(error: &BuildError) -> Option<Report> {
    let (what, source) = match error {
        BuildError::Data { what, source } => (what, source),
        BuildError::File(error) => {
            let text = error.to_string();
            let (message, hint) =
                text.split_once("\n  hint: ").map_or((text.as_str(), None), |(message, hint)| (message, Some(hint.to_owned())));
            return Some(Report { file: error.path().to_owned(), line: None, column: None, message: message.to_owned(), hint });
        }
        BuildError::Backend { .. } => return None,
    };
    let (file, line, column, text) = match source {
        DataError::Read { path, error } => (path.clone(), None, None, error.to_string()),
        DataError::Form { path, line, column, message } => (path.clone(), Some(*line), Some(*column), message.clone()),
        DataError::Content { path, message } => (path.clone(), None, None, message.clone()),
        DataError::Variable(_) | DataError::Setting(_) => (PathBuf::new(), None, None, source.to_string()),
    };
    let (message, hint) = match text.split_once("\n  hint: ") {
        Some((message, hint)) => (message, Some(hint.to_owned())),
        None => (text.as_str(), source.hint().map(str::to_owned)),
    };
    Some(Report { file, line, column, message: format!("{what}: {message}"), hint })
}
