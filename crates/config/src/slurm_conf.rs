// SPDX-License-Identifier: GPL-3.0-or-later
//! What slurm.conf says, as far as this program needs to know it.
//!
//! The syntax is that of slurm.conf(5): keys without regard to case, `#` comments (`\#` is a literal `#`), a
//! backslash at the end of a line continues it, `Include` with a path relative to the including file's
//! folder and `%c` for the cluster name, values with white space in double quotes.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use indexmap::IndexMap;

/// Files that include each other in a circle end here.
const MAX_INCLUDE_DEPTH: usize = 16;

/// One parameter as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// As spelled in the file.
    pub name: String,
    pub value: String,
    pub file: PathBuf,
    /// 1-based.
    pub line: u32,
}

/// A `NodeName=` or `PartitionName=` line, with what `DEFAULT` lines before it gave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DefinitionLine {
    /// The hostlist of a NodeName line, the name of a partition.
    pub name: String,
    /// By lower-case key.
    pub options: IndexMap<String, String>,
    pub file: PathBuf,
    pub line: u32,
}

impl DefinitionLine {
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.options.get(&key.to_ascii_lowercase()).map(String::as_str)
    }

    /// Whether a NodeName line declares cloud nodes.
    #[must_use]
    pub fn is_cloud(&self) -> bool {
        self.get("State").is_some_and(|state| state.split('+').any(|s| s.eq_ignore_ascii_case("CLOUD")))
    }
}

/// Something in slurm.conf that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub file: PathBuf,
    pub line: u32,
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file.display(), self.line, self.what)
    }
}

/// A fleet that aws-plugin-slurm-hibernate noted in its slurm.conf.aws.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotedFleet {
    pub partition: String,
    pub group: String,
    pub fleet_id: String,
}

/// The lines `#EC2_FLEET <partition> <group> <fleet id>` of a slurm.conf.aws, each fleet once.
#[must_use]
pub fn noted_fleets(text: &str) -> Vec<NotedFleet> {
    let mut found: Vec<NotedFleet> = Vec::new();
    for line in text.lines() {
        let Some(rest) = line.trim_start().strip_prefix("#EC2_FLEET") else { continue };
        let words: Vec<&str> = rest.split_whitespace().collect();
        if let [partition, group, fleet_id] = words[..]
            && rest.starts_with(char::is_whitespace)
            && fleet_id.starts_with("fleet-")
            && !found.iter().any(|known| known.fleet_id == fleet_id)
        {
            found.push(NotedFleet {
                partition: partition.into(),
                group: group.into(),
                fleet_id: fleet_id.into(),
            });
        }
    }
    found
}

/// The contents of slurm.conf and the files that it includes.
///
/// [`SlurmFacts::default`] stands for a slurm.conf that was not read: no parameter is known then, and the
/// effective values are Slurm's defaults.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlurmFacts {
    /// The main file; `None` if none was read.
    pub file: Option<PathBuf>,
    pub nodes: Vec<DefinitionLine>,
    pub partitions: Vec<DefinitionLine>,
    pub problems: Vec<Problem>,
    /// By lower-case name.
    settings: IndexMap<String, Setting>,
}

impl SlurmFacts {
    /// Reads `file` and what it includes.
    ///
    /// # Errors
    /// `file` itself cannot be read. An unreadable included file is a [`Problem`].
    pub fn read(file: &Path) -> io::Result<Self> {
        let mut read = |path: &Path| std::fs::read(path).map(|b| String::from_utf8_lossy(&b).into_owned());
        let text = read(file)?;
        Ok(Self::parse(file, &text, &mut read))
    }

    /// Reads `text` as the contents of `file`; `read` supplies included files.
    #[must_use]
    pub fn parse(file: &Path, text: &str, read: &mut dyn FnMut(&Path) -> io::Result<String>) -> Self {
        let mut facts = Self { file: Some(file.to_owned()), ..Self::default() };
        let mut defaults = Defaults::default();
        facts.add(file, text, 0, &mut defaults, read);
        facts
    }

    fn add(
        &mut self,
        file: &Path,
        text: &str,
        depth: usize,
        defaults: &mut Defaults,
        read: &mut dyn FnMut(&Path) -> io::Result<String>,
    ) {
        for (line, text) in logical_lines(text) {
            let problem = |what: String| Problem { file: file.to_owned(), line, what };
            if let Some(name) = included_file(&text) {
                let name = match self.get("ClusterName") {
                    Some(cluster) => name.replace("%c", &cluster.to_ascii_lowercase()),
                    None => name.to_owned(),
                };
                let path = file.parent().unwrap_or(Path::new("")).join(name);
                if depth >= MAX_INCLUDE_DEPTH {
                    self.problems.push(problem(format!(
                        "Include {} is nested more than {MAX_INCLUDE_DEPTH} deep.",
                        path.display()
                    )));
                    continue;
                }
                match read(&path) {
                    Ok(text) => self.add(&path, &text, depth + 1, defaults, read),
                    Err(error) => {
                        self.problems.push(problem(format!("Cannot include {}: {error}.", path.display())));
                    }
                }
                continue;
            }
            let (pairs, rest) = pairs(&text);
            if !rest.trim().is_empty() {
                self.problems.push(problem(format!("Cannot read {:?}.", rest.trim())));
            }
            let Some((first, value)) = pairs.first() else { continue };
            let nodes = match first.to_ascii_lowercase().as_str() {
                "nodename" => Some(true),
                "partitionname" => Some(false),
                _ => None,
            };
            if let Some(nodes) = nodes {
                let rest = pairs[1..].iter().map(|(k, v)| (k.to_ascii_lowercase(), v.clone()));
                let base = if nodes { &mut defaults.nodes } else { &mut defaults.partitions };
                if value.eq_ignore_ascii_case("DEFAULT") {
                    base.extend(rest);
                    continue;
                }
                let mut options = base.clone();
                options.extend(rest);
                let definition = DefinitionLine { name: value.clone(), options, file: file.to_owned(), line };
                if nodes { &mut self.nodes } else { &mut self.partitions }.push(definition);
                continue;
            }
            for (name, value) in pairs {
                let setting = Setting { name, value, file: file.to_owned(), line };
                self.settings.insert(setting.name.to_ascii_lowercase(), setting);
            }
        }
    }

    /// The same facts with a ClusterName, if they have none: for looking at a configuration away from its cluster.
    #[must_use]
    pub fn with_cluster_name(mut self, name: &str) -> Self {
        if self.cluster_name().is_none() {
            let setting =
                Setting { name: "ClusterName".into(), value: name.into(), file: PathBuf::new(), line: 0 };
            self.settings.insert("clustername".into(), setting);
        }
        self
    }

    /// Whether a slurm.conf was read.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.file.is_some()
    }

    #[must_use]
    pub fn setting(&self, name: &str) -> Option<&Setting> {
        self.settings.get(&name.to_ascii_lowercase())
    }

    /// The value of a parameter, if the file sets it to something.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.setting(name)
            .map(|s| s.value.as_str())
            .filter(|v| !v.is_empty() && !v.eq_ignore_ascii_case("(null)"))
    }

    /// A comma-separated parameter such as SlurmctldParameters.
    pub fn list(&self, name: &str) -> impl Iterator<Item = &str> {
        self.get(name).unwrap_or_default().split(',').map(str::trim).filter(|item| !item.is_empty())
    }

    /// Whether a comma-separated parameter has this item, alone or as `item=value`.
    #[must_use]
    pub fn has(&self, name: &str, item: &str) -> bool {
        self.list(name).any(|i| i.split('=').next().unwrap_or(i).eq_ignore_ascii_case(item))
    }

    /// A numeric parameter.
    #[must_use]
    pub fn number(&self, name: &str) -> Option<Number> {
        self.get(name).and_then(Number::parse)
    }

    #[must_use]
    pub fn cluster_name(&self) -> Option<&str> {
        self.get("ClusterName")
    }

    /// Seconds; Slurm's default is 60 (slurm.conf(5), ResumeTimeout).
    #[must_use]
    pub fn resume_timeout_s(&self) -> u32 {
        self.number("ResumeTimeout").map_or(60, Number::or_max)
    }

    /// Seconds; Slurm's default is 30 (slurm.conf(5), SuspendTimeout).
    #[must_use]
    pub fn suspend_timeout_s(&self) -> u32 {
        self.number("SuspendTimeout").map_or(30, Number::or_max)
    }

    /// Seconds; `None` where power saving is off, which is the default.
    #[must_use]
    pub fn suspend_time_s(&self) -> Option<u32> {
        match self.number("SuspendTime") {
            Some(Number::Finite(seconds)) => Some(seconds),
            _ => None,
        }
    }

    /// Seconds; Slurm's default is 300, and 0 never sets a node DOWN (slurm.conf(5), SlurmdTimeout).
    #[must_use]
    pub fn slurmd_timeout_s(&self) -> u32 {
        self.number("SlurmdTimeout").map_or(300, Number::or_max)
    }

    /// Nodes a minute, 0 without limit; Slurm's default is 300.
    #[must_use]
    pub fn resume_rate(&self) -> u32 {
        self.number("ResumeRate").map_or(300, Number::or_max)
    }

    /// Nodes a minute, 0 without limit; Slurm's default is 60.
    #[must_use]
    pub fn suspend_rate(&self) -> u32 {
        self.number("SuspendRate").map_or(60, Number::or_max)
    }

    /// Slurm's default is `/var/spool`.
    #[must_use]
    pub fn state_save_location(&self) -> &str {
        self.get("StateSaveLocation").unwrap_or("/var/spool")
    }

    /// Slurm's default is root.
    #[must_use]
    pub fn slurm_user(&self) -> &str {
        self.get("SlurmUser").unwrap_or("root")
    }

    /// Slurm's default is 0: a node that was set DOWN stays DOWN.
    #[must_use]
    pub fn return_to_service(&self) -> u32 {
        self.number("ReturnToService").map_or(0, Number::or_max)
    }

    /// The NodeName lines with `State=CLOUD`.
    pub fn cloud_nodes(&self) -> impl Iterator<Item = &DefinitionLine> {
        self.nodes.iter().filter(|line| line.is_cloud())
    }
}

/// A number of slurm.conf, which may be without limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Number {
    Finite(u32),
    /// `INFINITE`, `UNLIMITED` or -1.
    Infinite,
}

impl Number {
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        if text == "-1" || text.eq_ignore_ascii_case("INFINITE") || text.eq_ignore_ascii_case("UNLIMITED") {
            return Some(Self::Infinite);
        }
        text.parse().ok().map(Self::Finite)
    }

    fn or_max(self) -> u32 {
        match self {
            Self::Finite(n) => n,
            Self::Infinite => u32::MAX,
        }
    }
}

#[derive(Default)]
struct Defaults {
    nodes: IndexMap<String, String>,
    partitions: IndexMap<String, String>,
}

/// Lines without comments, with continued ones joined, each with the number of its first line.
fn logical_lines(text: &str) -> Vec<(u32, String)> {
    let mut out = Vec::new();
    let mut current: Option<(u32, String)> = None;
    for (number, line) in (1_u32..).zip(text.lines()) {
        let line = without_comment(line);
        let (start, mut joined) = current.take().unwrap_or((number, String::new()));
        match without_continuation(line) {
            Some(head) => {
                joined.push_str(head);
                current = Some((start, joined));
            }
            None => {
                joined.push_str(line);
                out.push((start, without_escapes(&joined)));
            }
        }
    }
    if let Some((start, joined)) = current {
        out.push((start, without_escapes(&joined)));
    }
    out
}

fn without_comment(line: &str) -> &str {
    let mut backslashes = 0;
    for (i, b) in line.bytes().enumerate() {
        match b {
            b'#' if backslashes % 2 == 0 => return &line[..i],
            b'\\' => backslashes += 1,
            _ => backslashes = 0,
        }
    }
    line
}

/// The line up to its last backslash, if an odd number of them ends it.
fn without_continuation(line: &str) -> Option<&str> {
    let trimmed = line.trim_end();
    let backslashes = trimmed.bytes().rev().take_while(|b| *b == b'\\').count();
    (backslashes % 2 == 1).then(|| &trimmed[..trimmed.len() - 1])
}

fn without_escapes(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        if c == '\\' {
            out.extend(chars.next());
        } else {
            out.push(c);
        }
    }
    out
}

fn included_file(line: &str) -> Option<&str> {
    let line = line.trim_start();
    let keyword = line.get(..7)?;
    let rest = &line[7..];
    let name = rest.trim();
    (keyword.eq_ignore_ascii_case("include") && rest.starts_with(char::is_whitespace) && !name.is_empty())
        .then_some(name)
}

/// The `key=value` pairs of a line, and what is left where no pair could be read.
fn pairs(line: &str) -> (Vec<(String, String)>, &str) {
    let mut out = Vec::new();
    let mut rest = line.trim_start();
    while let Some((key, value, after)) = pair(rest) {
        out.push((key, value));
        rest = after.trim_start();
    }
    (out, rest)
}

fn pair(text: &str) -> Option<(String, String, &str)> {
    let key_end =
        text.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '.')).unwrap_or(text.len());
    let (key, rest) = text.split_at(key_end);
    let rest = rest.trim_start();
    // `+=` and its like combine with an earlier value; the value is all we need.
    let rest = rest.strip_prefix(['-', '*', '+', '/']).unwrap_or(rest);
    let rest = rest.strip_prefix('=')?.trim_start();
    if key.is_empty() || rest.is_empty() {
        return None;
    }
    if let Some(quoted) = rest.strip_prefix('"')
        && let Some((value, after)) = quoted.split_once('"')
        && (after.is_empty() || after.starts_with(char::is_whitespace))
    {
        return Some((key.to_owned(), value.to_owned(), after));
    }
    let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
    Some((key.to_owned(), rest[..end].to_owned(), &rest[end..]))
}
