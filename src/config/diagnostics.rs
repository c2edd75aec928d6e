//! What is wrong with a configuration, said so that it can be mended: file, line, column, what
//! was expected, and a hint. All faults of one document are reported together.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// One fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Byte range in the text, when the fault has a place.
    pub span: Option<Range<usize>>,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Problem {
    /// A fault at a place.
    pub fn at(span: Range<usize>, message: impl Into<String>) -> Self {
        Self { span: Some(span), message: message.into(), hint: None }
    }

    /// The remedy, said after the fault.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// A document that cannot be used, with every fault found in it.
#[derive(Debug, Clone)]
pub struct ConfigError {
    file: PathBuf,
    text: String,
    problems: Vec<Problem>,
}

impl std::error::Error for ConfigError {}

impl ConfigError {
    /// Faults of the document `text` read from `file`. `problems` must not be empty.
    pub fn new(file: &Path, text: &str, problems: Vec<Problem>) -> Self {
        debug_assert!(!problems.is_empty());
        Self { file: file.to_owned(), text: text.to_owned(), problems }
    }

    /// The faults, in the order of the document.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

/// Line and column (both from 1, the column in characters) of a byte offset.
fn place(text: &str, offset: usize) -> (usize, usize) {
    let offset = offset.min(text.len());
    let before = &text.as_bytes()[..offset];
    let line = before.iter().filter(|b| **b == b'\n').count() + 1;
    let start = before.iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1);
    let column = String::from_utf8_lossy(&before[start..]).chars().count() + 1;
    (line, column)
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.problems.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            let file = self.file.display();
            let Some(span) = &problem.span else {
                write!(f, "{file}: {}", problem.message)?;
                if let Some(hint) = &problem.hint {
                    write!(f, "\n  hint: {hint}")?;
                }
                continue;
            };
            let (line, column) = place(&self.text, span.start);
            let source = self.text.lines().nth(line - 1).unwrap_or_default();
            let margin = line.to_string().len();
            // The mark stays on the first line of what it marks.
            let length = self.text.get(span.clone()).map_or(1, |s| s.lines().next().unwrap_or_default().chars().count());
            let room = source.chars().count().saturating_sub(column - 1).max(1);
            writeln!(f, "{file}:{line}:{column}: {}", problem.message)?;
            writeln!(f, "{:margin$} |", "")?;
            writeln!(f, "{line} | {source}")?;
            write!(f, "{:margin$} | {:skip$}{}", "", "", "^".repeat(length.clamp(1, room)), skip = column - 1)?;
            if let Some(hint) = &problem.hint {
                write!(f, "\n{:margin$} = hint: {hint}", "")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_the_place_and_the_hint() {
        let text = "a = 1\nbäd = true\n";
        let error =
            ConfigError::new(Path::new("fastly.toml"), text, vec![Problem::at(13..17, "expected a string").hint("put it in quotes")]);
        assert_eq!(
            error.to_string(),
            "fastly.toml:2:7: expected a string\n  |\n2 | bäd = true\n  |       ^^^^\n  = hint: put it in quotes"
        );
    }

    #[test]
    fn a_place_past_the_end_is_the_end() {
        assert_eq!(place("a\nb", 99), (2, 2));
    }
}
