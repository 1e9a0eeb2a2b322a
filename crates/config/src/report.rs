// SPDX-License-Identifier: GPL-3.0-or-later
//! What is wrong with a configuration, where, and what to do about it.

use std::fmt;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Serialize, Serializer};

use super::json::{Node, Position};

/// One step down a JSON document.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    Key(String),
    Index(usize),
}

/// The place of a value in a JSON document, written `$.Partitions[0].NodeGroups[1].MaxNodes`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct JsonPath(Vec<Step>);

impl JsonPath {
    /// The document itself, `$`.
    #[must_use]
    pub fn root() -> Self {
        Self::default()
    }

    #[must_use]
    pub fn key(&self, key: &str) -> Self {
        let mut steps = self.0.clone();
        steps.push(Step::Key(key.to_owned()));
        Self(steps)
    }

    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        let mut steps = self.0.clone();
        steps.push(Step::Index(index));
        Self(steps)
    }

    #[must_use]
    pub fn steps(&self) -> &[Step] {
        &self.0
    }
}

impl fmt::Display for JsonPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("$")?;
        for step in &self.0 {
            match step {
                Step::Index(i) => write!(f, "[{i}]")?,
                Step::Key(k) if is_plain_key(k) => write!(f, ".{k}")?,
                // RFC 9535 names such a member in brackets and single quotes.
                Step::Key(k) => {
                    f.write_str("['")?;
                    for c in k.chars() {
                        match c {
                            '\'' | '\\' => write!(f, "\\{c}")?,
                            c if c.is_control() => write!(f, "{}", c.escape_default())?,
                            c => write!(f, "{c}")?,
                        }
                    }
                    f.write_str("']")?;
                }
            }
        }
        Ok(())
    }
}

impl Serialize for JsonPath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

fn is_plain_key(key: &str) -> bool {
    key.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// One remark about a configuration file: an error or a warning, by the list that it is in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Finding {
    pub file: PathBuf,
    /// 1-based; `None` where the whole file is meant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// 1-based, in characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<u32>,
    /// In the manner of RFC 9535: `$.Partitions[0].NodeGroups[1].MaxNodes`.
    #[schemars(with = "String")]
    pub path: JsonPath,
    /// What is wrong.
    pub what: String,
    /// What the administrator can do.
    pub remedy: String,
}

/// The configuration cannot be used until this is corrected.
pub type ConfigError = Finding;
/// The configuration can be used, but probably does not say what was meant.
pub type ConfigWarning = Finding;

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
            if let Some(column) = self.column {
                write!(f, ":{column}")?;
            }
        }
        write!(f, ": {}: {} {}", self.path, self.what, self.remedy)
    }
}

/// Everything that is wrong with a configuration, in the order of the files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ConfigErrors {
    pub errors: Vec<ConfigError>,
    pub warnings: Vec<ConfigWarning>,
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} configuration error{}",
            self.errors.len(),
            if self.errors.len() == 1 { "" } else { "s" }
        )?;
        for error in &self.errors {
            write!(f, "\n  {error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// Collects the findings of one file.
#[derive(Debug)]
pub(super) struct Report {
    file: PathBuf,
    root: Option<Node>,
    pub(super) errors: Vec<ConfigError>,
    pub(super) warnings: Vec<ConfigWarning>,
}

impl Report {
    pub(super) fn new(file: &Path) -> Self {
        Self { file: file.to_owned(), root: None, errors: Vec::new(), warnings: Vec::new() }
    }

    /// From now on, findings get the line and column of what their path names.
    pub(super) fn set_root(&mut self, root: Node) {
        self.root = Some(root);
    }

    pub(super) fn root(&self) -> Option<&Node> {
        self.root.as_ref()
    }

    pub(super) fn error(&mut self, path: &JsonPath, what: impl Into<String>, remedy: impl Into<String>) {
        let finding = self.finding(path, what.into(), remedy.into());
        self.errors.push(finding);
    }

    /// An error about something that is not there, unless what is there was refused already.
    pub(super) fn missing(&mut self, path: &JsonPath, what: impl Into<String>, remedy: impl Into<String>) {
        if !self.errors.iter().any(|e| e.path.steps().starts_with(path.steps())) {
            self.error(path, what, remedy);
        }
    }

    pub(super) fn warn(&mut self, path: &JsonPath, what: impl Into<String>, remedy: impl Into<String>) {
        let finding = self.finding(path, what.into(), remedy.into());
        self.warnings.push(finding);
    }

    /// An error in the text itself, before there are paths.
    pub(super) fn error_at(
        &mut self,
        position: Option<Position>,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        let mut finding = self.finding(&JsonPath::root(), what.into(), remedy.into());
        finding.line = position.map(|p| p.line);
        finding.column = position.map(|p| p.column);
        self.errors.push(finding);
    }

    fn finding(&self, path: &JsonPath, what: String, remedy: String) -> Finding {
        let position = self.root.as_ref().map(|root| root.position_of(path));
        Finding {
            file: self.file.clone(),
            line: position.map(|p| p.line),
            column: position.map(|p| p.column),
            path: path.clone(),
            what,
            remedy,
        }
    }

    /// Findings in the order of the text; the same thing is said once.
    pub(super) fn finish(mut self) -> (Vec<ConfigError>, Vec<ConfigWarning>) {
        for list in [&mut self.errors, &mut self.warnings] {
            list.sort_by_key(|f| (f.line, f.column));
            list.dedup();
        }
        (self.errors, self.warnings)
    }
}

/// The known name that a wrong one was probably meant to be.
pub(super) fn nearest<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Whoever writes a name of a thousand letters did not mistype one of ours.
    if wrong.len() > 64 {
        return None;
    }
    let lower = wrong.to_ascii_lowercase();
    known
        .into_iter()
        .map(|k| (strsim::damerau_levenshtein(&lower, &k.to_ascii_lowercase()), k))
        // A third of the letters wrong is another word.
        .filter(|(distance, k)| *distance * 3 <= k.len().max(3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, k)| k)
}

/// `a, b or c`, for messages.
pub(super) fn one_of<'a>(values: impl IntoIterator<Item = &'a str>) -> String {
    let values: Vec<&str> = values.into_iter().collect();
    match values.as_slice() {
        [] => String::new(),
        [only] => (*only).to_owned(),
        [init @ .., last] => format!("{} or {last}", init.join(", ")),
    }
}

/// A value for a message: quoted, and cut where it would flood the terminal.
pub(super) fn shown(text: &str) -> String {
    const LONGEST: usize = 60;
    let mut out: String = text.chars().take(LONGEST).flat_map(char::escape_debug).collect();
    if text.chars().nth(LONGEST).is_some() {
        out.push('…');
    }
    format!("\"{out}\"")
}
