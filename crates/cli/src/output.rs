// SPDX-License-Identifier: GPL-3.0-or-later
//! Where commands print: text for people, JSON for programs.

use std::cell::RefCell;
use std::io::{self, IsTerminal, Write};
use std::rc::Rc;

use serde::Serialize;

use crate::args::{Color, Global};
use crate::error::CliError;

/// Standard output, with what is known of its reader.
pub struct Output {
    out: Box<dyn Write>,
    pub json: bool,
    pub color: bool,
    /// People are watching: progress and questions make sense.
    pub terminal: bool,
}

/// How a piece of text is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    Plain,
    Good,
    Warning,
    Bad,
    Strong,
    Faint,
}

impl Output {
    #[must_use]
    pub fn new(global: &Global) -> Self {
        let terminal = io::stdout().is_terminal();
        let color = match global.color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
        };
        Self { out: Box::new(io::stdout().lock()), json: global.json, color, terminal }
    }

    /// Plain text for people, to somewhere else than standard output.
    #[must_use]
    pub fn to(out: Box<dyn Write>) -> Self {
        Self { out, json: false, color: false, terminal: false }
    }

    /// What something prints for the reader of this output, as text.
    ///
    /// # Errors
    /// Those of `draw`.
    pub fn drawn(&self, draw: impl FnOnce(&mut Self) -> Result<(), CliError>) -> Result<String, CliError> {
        let text = Drawn::default();
        draw(&mut Self { out: Box::new(text.clone()), ..*self })?;
        let bytes = text.0.take();
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// # Errors
    /// When nobody reads any more.
    pub fn line(&mut self, text: impl AsRef<str>) -> Result<(), CliError> {
        writeln!(self.out, "{}", text.as_ref())?;
        Ok(())
    }

    /// Text that brings its own line breaks.
    ///
    /// # Errors
    /// When nobody reads any more.
    pub fn text(&mut self, text: &str) -> Result<(), CliError> {
        self.out.write_all(text.as_bytes())?;
        Ok(())
    }

    /// # Errors
    /// When nobody reads any more.
    pub fn styled(&mut self, style: Style, text: impl AsRef<str>) -> Result<(), CliError> {
        let text = self.paint(style, text.as_ref());
        self.line(text)
    }

    /// Text as it is written on this output.
    #[must_use]
    pub fn paint(&self, style: Style, text: &str) -> String {
        let code = match style {
            Style::Plain => "",
            Style::Good => "32",
            Style::Warning => "33",
            Style::Bad => "31",
            Style::Strong => "1",
            Style::Faint => "2",
        };
        if self.color && !code.is_empty() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// # Errors
    /// When nobody reads any more.
    pub fn json(&mut self, value: &impl Serialize) -> Result<(), CliError> {
        let text = serde_json::to_string_pretty(value).map_err(io::Error::other)?;
        self.line(text)
    }

    /// One JSON object on one line, for streams.
    ///
    /// # Errors
    /// When nobody reads any more.
    pub fn json_line(&mut self, value: &impl Serialize) -> Result<(), CliError> {
        let text = serde_json::to_string(value).map_err(io::Error::other)?;
        self.line(text)
    }

    /// # Errors
    /// When nobody reads any more.
    pub fn table(&mut self, table: &Table) -> Result<(), CliError> {
        let text = table.render();
        for (row, line) in text.lines().enumerate() {
            let style = match row.checked_sub(1) {
                None => Style::Strong,
                Some(row) => table.styles[row],
            };
            self.styled(style, line.trim_end())?;
        }
        Ok(())
    }

    /// # Errors
    /// When nobody reads any more.
    pub fn flush(&mut self) -> Result<(), CliError> {
        self.out.flush()?;
        Ok(())
    }
}

/// Text that is kept.
#[derive(Clone, Default)]
struct Drawn(Rc<RefCell<Vec<u8>>>);

impl Write for Drawn {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A table without rules, as sinfo and squeue print theirs; each row is one line.
pub struct Table {
    /// Name, and whether it is aligned to the right.
    headers: Vec<(String, bool)>,
    rows: Vec<Vec<String>>,
    styles: Vec<Style>,
}

/// Between two columns.
const GAP: usize = 2;

impl Table {
    /// A header that ends in `>` has its column aligned to the right.
    #[must_use]
    pub fn new(headers: &[&str]) -> Self {
        let header = |text: &&str| (text.trim_end_matches('>').to_owned(), text.ends_with('>'));
        Self { headers: headers.iter().map(header).collect(), rows: Vec::new(), styles: Vec::new() }
    }

    pub fn row<I>(&mut self, style: Style, cells: I)
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        // A cell with a line break would make two lines of one row.
        let cells = cells.into_iter().map(|cell| cell.as_ref().replace(['\n', '\r'], " "));
        self.rows.push(cells.collect());
        self.styles.push(style);
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.styles.is_empty()
    }

    fn render(&self) -> String {
        let mut widths: Vec<usize> = self.headers.iter().map(|(name, _)| name.chars().count()).collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let mut text = String::new();
        let names: Vec<String> = self.headers.iter().map(|(name, _)| name.clone()).collect();
        for row in [&names].into_iter().chain(&self.rows) {
            for ((cell, width), (_, right)) in row.iter().zip(&widths).zip(&self.headers) {
                let space = width - cell.chars().count();
                let (before, after) = if *right { (space, GAP) } else { (0, space + GAP) };
                text.extend(std::iter::repeat_n(' ', before));
                text.push_str(cell);
                text.extend(std::iter::repeat_n(' ', after));
            }
            text.push('\n');
        }
        text
    }
}
