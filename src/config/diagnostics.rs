//! What is wrong with a configuration, said so that it can be mended: file, line, column, what
//! was expected, and a hint. All faults of one document are reported together.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

/// Whether a letter breaks lines, moves a terminal's cursor, turns the direction of reading, or does not show: as it is, it could make a text look
/// like another.
pub fn misleads(letter: char) -> bool {
    let unseen = matches!(letter, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}');
    letter.is_control() && letter != '\t' || matches!(letter, '\u{2028}'..='\u{202e}') || unseen
}

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

/// Documents that are read together. Each has the bytes behind those of the one before, so that a span tells its
/// document, too.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    all: Vec<Source>,
    /// Where the last one read from a file is in `all`.
    of_file: HashMap<PathBuf, usize>,
}

#[derive(Debug, Clone)]
struct Source {
    file: PathBuf,
    text: Arc<str>,
    base: usize,
}

impl Sources {
    /// One more, unless it is there already, as a manifest of several services is; gives where its bytes begin.
    pub fn add(&mut self, file: &Path, text: &str) -> usize {
        if let Some(there) = self.of_file.get(file).map(|&index| &self.all[index]).filter(|there| *there.text == *text) {
            return there.base;
        }
        // The end of a document is a place, too.
        let base = self.all.last().map_or(0, |last| last.base + last.text.len() + 1);
        self.of_file.insert(file.to_owned(), self.all.len());
        self.all.push(Source { file: file.to_owned(), text: text.into(), base });
        base
    }

    fn of(&self, place: usize) -> Option<&Source> {
        self.all.iter().rev().find(|source| source.base <= place)
    }

    /// The document that a span is in.
    pub fn file(&self, place: usize) -> &Path {
        self.of(place).map_or(Path::new(""), |source| &source.file)
    }
}

/// How many faults are told, bytes of what is said of one, and characters of a line that are shown.
const MOST: usize = 100;
const LONGEST_MESSAGE: usize = 4 << 10;
const LONGEST: usize = 200;

/// Documents that cannot be used, with every fault found in them.
#[derive(Debug, Clone)]
pub struct ConfigError {
    sources: Sources,
    problems: Vec<Problem>,
}

impl std::error::Error for ConfigError {}

/// A fault as programs read it.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The document.
    pub file: PathBuf,
    /// From 1; none when the fault has no place.
    pub line: Option<usize>,
    /// From 1, in characters.
    pub column: Option<usize>,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl ConfigError {
    /// Faults of documents; `problems` must not be empty. They are told in the order of their places, and once, whoever reads the document.
    pub fn new(sources: Sources, mut problems: Vec<Problem>) -> Self {
        debug_assert!(!problems.is_empty());
        let mut told = HashSet::new();
        problems.retain(|problem| told.insert((problem.span.clone(), problem.message.clone())));
        problems.sort_by_key(|problem| problem.span.as_ref().map(|span| span.start));
        if problems.len() > MOST {
            let more = problems.len() - MOST;
            problems.truncate(MOST);
            problems.push(Problem { span: None, message: format!("and {more} more faults"), hint: None });
        }
        for problem in &mut problems {
            problem.message = without_passwords(&problem.message);
            if problem.message.len() > LONGEST_MESSAGE {
                problem.message.truncate(problem.message.floor_char_boundary(LONGEST_MESSAGE));
                problem.message.push('…');
            }
        }
        Self { sources, problems }
    }

    /// Faults of the document `text` read from `file`.
    pub fn of(file: &Path, text: &str, problems: Vec<Problem>) -> Self {
        let mut sources = Sources::default();
        sources.add(file, text);
        Self::new(sources, problems)
    }

    /// A fault of a file as a whole.
    pub fn whole(file: &Path, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::of(file, "", vec![Problem { span: None, message: message.into(), hint: Some(hint.into()) }])
    }

    /// The faults, in the order of the documents.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// The faults, for programs.
    pub fn reports(&self) -> Vec<Report> {
        let report = |problem: &Problem| {
            let start = problem.span.as_ref().map(|span| span.start);
            let at = start.and_then(|start| self.sources.of(start).map(|source| place(&source.text, start - source.base)));
            Report {
                file: self.sources.file(start.unwrap_or_default()).to_owned(),
                line: at.map(|(line, _)| line),
                column: at.map(|(_, column)| column),
                message: problem.message.clone(),
                hint: problem.hint.clone(),
            }
        };
        self.problems.iter().map(report).collect()
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
        let mut strings = BTreeMap::new();
        for (i, problem) in self.problems.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            let source = problem.span.as_ref().and_then(|span| Some((span, self.sources.of(span.start)?)));
            // A file that could not be read has no text to show.
            let Some((span, Source { file, text, base })) = source.filter(|(_, source)| !source.text.is_empty()) else {
                let file = source.map_or(Path::new(""), |(_, source)| &source.file);
                let colon = if file.as_os_str().is_empty() { "" } else { ": " };
                write!(f, "{}{colon}{}", file.display(), problem.message)?;
                if let Some(hint) = &problem.hint {
                    write!(f, "\n  hint: {hint}")?;
                }
                continue;
            };
            let (file, span) = (file.display(), span.start - base..span.end - base);
            let (line, column) = place(text, span.start);
            let source = text.lines().nth(line - 1).unwrap_or_default();
            let begin = text.get(..span.start).map_or(0, |before| before.rfind('\n').map_or(0, |at| at + 1));
            let strings = strings.entry(*base).or_insert_with(|| long_strings(text));
            let open = strings.iter().find(|(range, _)| range.start < begin && begin < range.end).map(|(_, quotes)| *quotes);
            let source = if open.is_some() || is_private(text, line - 1) { mask(source, open) } else { source.to_owned() };
            let (source, skip) = part(&source, column - 1);
            let margin = line.to_string().len();
            // The mark stays on the first line of what it marks.
            let length = text.get(span.clone()).map_or(1, |s| s.lines().next().unwrap_or_default().chars().count());
            let room = source.chars().count().saturating_sub(skip).max(1);
            writeln!(f, "{file}:{line}:{column}: {}", problem.message)?;
            writeln!(f, "{:margin$} |", "")?;
            writeln!(f, "{line} | {source}")?;
            write!(f, "{:margin$} | {}{}", "", " ".repeat(skip), "^".repeat(length.clamp(1, room)))?;
            if let Some(hint) = &problem.hint {
                write!(f, "\n{:margin$} = hint: {hint}", "")?;
            }
        }
        Ok(())
    }
}

/// What is shown of a line: all of it, or so much of a long one around a place; and where the place is in that.
fn part(line: &str, at: usize) -> (String, usize) {
    let length = line.chars().count();
    if length <= LONGEST {
        return (line.to_owned(), at);
    }
    let from = at.min(length).saturating_sub(LONGEST / 2);
    let mut shown: String = line.chars().skip(from).take(LONGEST).collect();
    if from + LONGEST < length {
        shown.push('…');
    }
    if from == 0 { (shown, at) } else { (format!("…{shown}"), at - from + 1) }
}

/// Words near which values are nobody's business.
const PRIVATE: [&str; 7] = ["secret", "redis", "password", "authorization", "headers", "client_certificate", "fastly_keys"];

/// Whether values of a line, counted from 0, may be secrets: it, or a line between it and the head of its table, has such
/// a word, or it has a URL with a password or a query.
fn is_private(text: &str, line: usize) -> bool {
    let lines: Vec<&str> = text.lines().take(line + 1).collect();
    let Some(own) = lines.last() else { return false };
    if own.contains("://") && own.contains(['@', '?']) {
        return true;
    }
    for line in lines.iter().rev() {
        let lower = line.to_ascii_lowercase();
        if PRIVATE.iter().any(|word| lower.contains(word)) {
            return true;
        }
        if lower.trim_start().starts_with('[') && !lower.contains('=') {
            return false;
        }
    }
    false
}

/// Where a TOML document has strings of several lines, and between which quotes.
fn long_strings(text: &str) -> Vec<(Range<usize>, &'static str)> {
    const QUOTES: [&str; 4] = ["\"\"\"", "'''", "\"", "'"];
    let (mut at, mut open, mut found) = (0, None::<(usize, &'static str)>, Vec::new());
    // Nothing else begins or ends one.
    while let Some(next) = text.get(at..).and_then(|rest| rest.find(['"', '\'', '#', '\\', '\n'])) {
        at += next;
        let Some(rest) = text.get(at..) else { break };
        let character = rest.chars().next().unwrap_or_default();
        at += match open {
            Some((from, quotes)) if rest.starts_with(quotes) => {
                open = None;
                if quotes.len() == 3 {
                    found.push((from..at, quotes));
                }
                quotes.len()
            }
            // Those of one line end with it, whatever is wrong with them.
            Some((_, quotes)) if character == '\n' && quotes.len() == 1 => {
                open = None;
                1
            }
            Some((_, quotes)) if character == '\\' && quotes.starts_with('"') => 1 + rest.chars().nth(1).map_or(0, char::len_utf8),
            None if character == '#' => rest.find('\n').unwrap_or(rest.len()),
            None => {
                open = QUOTES.into_iter().find(|quotes| rest.starts_with(quotes)).map(|quotes| (at, quotes));
                open.map_or(1, |(_, quotes)| quotes.len())
            }
            Some(_) => 1,
        };
    }
    if let Some((from, quotes)) = open.filter(|(_, quotes)| quotes.len() == 3) {
        found.push((from..text.len() + 1, quotes));
    }
    found
}

/// A line of a document with stars for all that may be a value: what is left are keys, heads of tables, and what stands between them.
/// `within`: the quotes of a string that it begins within.
fn mask(line: &str, within: Option<&str>) -> String {
    let stars = |text: &str| "*".repeat(text.chars().count());
    let (hidden, rest) = match within {
        None => ("", line),
        Some(quotes) => line.find(quotes).map_or((line, ""), |end| line.split_at(end + quotes.len())),
    };
    let mut masked = stars(hidden);
    let head = rest.trim_start().starts_with('[') && !rest.contains('=');
    let (mut rest, mut quote) = (rest, None);
    while let Some(character) = rest.chars().next() {
        let word = rest.find(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | '-' | '.'))).unwrap_or(rest.len());
        let taken = match quote {
            Some(open) if character == open => {
                quote = None;
                masked.push(character);
                1
            }
            Some(_) => {
                masked.push('*');
                character.len_utf8()
            }
            None if word > 0 => {
                let is_key = rest.get(word..).unwrap_or_default().trim_start().starts_with('=');
                let shown = if head || is_key { rest.get(..word).unwrap_or_default().to_owned() } else { stars(&rest[..word]) };
                masked.push_str(&shown);
                word
            }
            None => {
                quote = Some(character).filter(|character| matches!(character, '"' | '\''));
                let structure = character.is_whitespace() || "\"'[]{}=,:#".contains(character);
                masked.push(if structure { character } else { '*' });
                character.len_utf8()
            }
        };
        rest = rest.get(taken..).unwrap_or_default();
    }
    masked
}

/// A text whose URLs have no user and password.
fn without_passwords(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        shown.push_str(before);
        let end = after.find(|c: char| c.is_whitespace() || matches!(c, '`' | '"' | '\'' | '/')).unwrap_or(after.len());
        rest = match after[..end].rfind('@') {
            Some(at) => {
                shown.push('…');
                &after[at..]
            }
            None => after,
        };
    }
    shown.push_str(rest);
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown() {
        let shown = |text: &str, mark: &str| {
            let at = text.find(mark).expect("is there");
            let message = format!("`{mark}` is no URL");
            ConfigError::of(Path::new("f.toml"), text, vec![Problem::at(at..at + 1, if mark.contains("://") { &message } else { "bad" })])
                .to_string()
        };
        for (text, mark) in [
            ("[[local_server.secret_stores.x]]\nkey = \"k\"\ndat = \"hunter2\"\n", "dat"),
            ("[local_server]\nsecret_stores.x = [\n  { key = \"k\", dat = 'hunter2' },\n]\n", "dat"),
            ("redis = \"redis://u:hunter2@h\"\n", "redis://u:hunter2@h"),
            ("[sidelight.logs.a]\nurl = \"ftp://u:hunter2@h\"\n", "ftp://u:hunter2@h"),
            ("headers = { authorization = \"hunter2\" }\n", "authorization"),
            ("[[local_server.secret_stores.x]]\ndata = \"hunter2\n", "data"),
            ("[[local_server.secret_stores.x]]\ndata = \"\"\"\n[x]\nhunter2\\I=\n\"\"\"\n", "\\I"),
            ("[[local_server.secret_stores.x]]\ndata = '''\n# it's\n hunter2 = \u{1}\n'''\n", "\u{1}"),
            ("[[local_server.secret_stores.x]]\ndata = \"\"\"\\\"\"\"\nhunter2\\I\n\"\"\"\n", "\\I"),
            ("[[local_server.secret_stores.x]]\ndata = hunter2\n", "data"),
            ("[[local_server.secret_stores.x]]\ndata =\n  hunter2\n", "hunter2"),
            ("[[local_server.secret_stores.x]]\ndata = hunter2/hunter2@hunter2\n", "data"),
            ("[local_server.backends.a]\nurl = \"http://a/?api_key=hunter2\"\n", "http://a"),
            ("[local_server.backends.a]\nkey = \"\"\"\nhunter2\\I\"\"\"\n", "\\I"),
        ] {
            let shown = shown(text, mark);
            assert!(!shown.contains("hunter2") && shown.contains("f.toml:"), "{shown}");
        }
        assert!(!shown("[local_server.secret_stores]\nx = 1234567\n", "x").contains("1234567"));
        assert!(shown("[local_server.secret_stores]\n[other]\nx = 1234567\n", "x =").contains("1234567"));
    }

    #[test]
    fn of_long_lines_and_many_faults_some_is_shown() {
        let text = format!("{}bad{}", " ".repeat(70_000), "x".repeat(100_000));
        let error = ConfigError::of(Path::new("f.toml"), &text, vec![Problem::at(70_000..70_003, "it is bad")]).to_string();
        assert!(error.len() < 600 && error.contains("f.toml:1:70001: it is bad"), "{error}");
        let lines: Vec<&str> = error.lines().collect();
        let column = |line: &str, what: char| line.chars().position(|c| c == what);
        assert_eq!(column(lines[2], 'b'), column(lines[3], '^'));
        let many = (0..200_000).map(|at| Problem::at(at % 1000..at % 1000 + 1, format!("it is bad {at}"))).collect();
        let error = ConfigError::of(Path::new("f.toml"), &text, many);
        assert_eq!(error.problems().len(), MOST + 1);
        assert!(error.to_string().contains("199900 more faults") && error.reports().len() == MOST + 1);
    }

    #[test]
    fn draws_the_place_and_the_hint() {
        let text = "a = 1\nbäd = true\n";
        let error =
            ConfigError::of(Path::new("fastly.toml"), text, vec![Problem::at(13..17, "expected a string").hint("put it in quotes")]);
        assert_eq!(
            error.to_string(),
            "fastly.toml:2:7: expected a string\n  |\n2 | bäd = true\n  |       ^^^^\n  = hint: put it in quotes"
        );
    }

    #[test]
    fn a_span_tells_its_document() {
        let mut sources = Sources::default();
        assert_eq!(sources.add(Path::new("a.toml"), "a = 1\n"), 0);
        let base = sources.add(Path::new("b.toml"), "\nb = 2\n");
        let error = ConfigError::new(sources, vec![Problem::at(base + 5..base + 6, "two"), Problem::at(0..1, "one")]);
        assert_eq!(error.to_string(), "a.toml:1:1: one\n  |\n1 | a = 1\n  | ^\nb.toml:2:5: two\n  |\n2 | b = 2\n  |     ^");
        let reports = error.reports();
        assert_eq!((reports[1].file.as_path(), reports[1].line, reports[1].column), (Path::new("b.toml"), Some(2), Some(5)));
    }

    #[test]
    fn what_several_read_is_told_once() {
        let mut sources = Sources::default();
        let base = sources.add(Path::new("a.toml"), "a = 1\n");
        let other = sources.add(Path::new("b.toml"), "a = 1\n");
        assert_eq!(sources.add(Path::new("a.toml"), "a = 1\n"), base);
        let changed = sources.add(Path::new("a.toml"), "a = 2\n");
        let faults = [(base, "x"), (other, "x"), (base, "y"), (base, "x"), (changed, "x"), (other, "x")];
        let error = ConfigError::new(sources, faults.map(|(at, text)| Problem::at(at..at + 1, text)).into());
        let told: Vec<_> = error.reports().into_iter().map(|told| (told.file, told.message)).collect();
        let expected = [("a.toml", "x"), ("a.toml", "y"), ("b.toml", "x"), ("a.toml", "x")];
        assert_eq!(told, expected.map(|(file, text)| (PathBuf::from(file), text.to_owned())));
    }

    #[test]
    fn a_place_past_the_end_is_the_end() {
        assert_eq!(place("a\nb", 99), (2, 2));
    }
}
