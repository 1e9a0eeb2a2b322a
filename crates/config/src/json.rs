// SPDX-License-Identifier: GPL-3.0-or-later
//! JSON (RFC 8259) read into a tree that remembers where everything stands.
//!
//! serde_json keeps neither positions nor duplicate keys, and every message about a configuration names
//! its line. What this reader accepts is what serde_json accepts, plus a byte order mark in front; the
//! tests hold the two together.

use super::report::{JsonPath, Step};

/// Deeper nesting than this is refused, so that no file can exhaust the stack of the program that reads it.
const MAX_DEPTH: usize = 128;

/// 1-based line and column, the column in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    pub line: u32,
    pub column: u32,
}

/// A value and where it starts.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    pub position: Position,
    pub value: Value,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Null,
    Bool(bool),
    /// As written: whether it fits is for the reader of the key to say.
    Number(String),
    String(String),
    Array(Vec<Node>),
    /// In the order of the file, duplicates included.
    Object(Vec<Member>),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    pub key: String,
    pub position: Position,
    pub value: Node,
}

/// Why a text is not JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyntaxError {
    /// `None` only where the text is not UTF-8 before any character.
    pub position: Position,
    pub what: String,
    pub remedy: String,
}

impl Node {
    /// The last member with this key: of duplicates the last one counts, as in the JSON readers of Python and Rust.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Member> {
        match &self.value {
            Value::Object(members) => members.iter().rev().find(|m| m.key == key),
            _ => None,
        }
    }

    /// Where the value of `path` stands, or the nearest value around it that is there.
    #[must_use]
    pub fn position_of(&self, path: &JsonPath) -> Position {
        let mut node = self;
        for step in path.steps() {
            let next = match (step, &node.value) {
                (Step::Key(key), _) => node.get(key).map(|m| &m.value),
                (Step::Index(i), Value::Array(items)) => items.get(*i),
                (Step::Index(_), _) => None,
            };
            match next {
                Some(next) => node = next,
                None => break,
            }
        }
        node.position
    }

    /// What kind of value this is, for messages.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match &self.value {
            Value::Null => "null",
            Value::Bool(_) => "a boolean",
            Value::Number(_) => "a number",
            Value::String(_) => "a string",
            Value::Array(_) => "an array",
            Value::Object(_) => "an object",
        }
    }
}

/// Reads a whole text.
///
/// # Errors
/// The first place at which the text is not UTF-8 or not JSON.
pub fn parse(bytes: &[u8]) -> Result<Node, SyntaxError> {
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let valid = &bytes[..error.valid_up_to()];
            // The bytes up to there are valid by definition; the fallback never happens.
            let before = std::str::from_utf8(valid).unwrap_or_default();
            let utf16 = bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]);
            return Err(SyntaxError {
                position: position_after(before),
                what: format!("The file is not UTF-8: byte 0x{:02x} is invalid here.", bytes[valid.len()]),
                remedy: if utf16 {
                    "The file is UTF-16. Save it as UTF-8.".into()
                } else {
                    "Save the file as UTF-8.".into()
                },
            });
        }
    };
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut reader = Reader { rest: text, position: Position { line: 1, column: 1 }, depth: 0 };
    reader.skip_space();
    if reader.rest.is_empty() {
        return Err(
            reader.error("The file is empty.", "Write a JSON object: docs/configuration.md has examples.")
        );
    }
    let node = reader.value()?;
    reader.skip_space();
    if !reader.rest.is_empty() {
        return Err(reader.error(
            "There is text after the end of the JSON value.",
            "Delete it, or look for a closing bracket too many before it.",
        ));
    }
    Ok(node)
}

fn position_after(text: &str) -> Position {
    let line = text.matches('\n').count() + 1;
    let column = text.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    Position {
        line: u32::try_from(line).unwrap_or(u32::MAX),
        column: u32::try_from(column).unwrap_or(u32::MAX),
    }
}

struct Reader<'a> {
    rest: &'a str,
    position: Position,
    depth: usize,
}

impl Reader<'_> {
    fn error(&self, what: impl Into<String>, remedy: impl Into<String>) -> SyntaxError {
        SyntaxError { position: self.position, what: what.into(), remedy: remedy.into() }
    }

    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn bump(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.rest = &self.rest[c.len_utf8()..];
        if c == '\n' {
            self.position.line = self.position.line.saturating_add(1);
            self.position.column = 1;
        } else {
            self.position.column = self.position.column.saturating_add(1);
        }
        Some(c)
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(' ' | '\t' | '\n' | '\r')) {
            self.bump();
        }
    }

    fn value(&mut self) -> Result<Node, SyntaxError> {
        let position = self.position;
        let value = match self.peek() {
            None => return Err(self.ended()),
            Some('{') => self.nested(Self::object)?,
            Some('[') => self.nested(Self::array)?,
            Some('"') => Value::String(self.string()?),
            Some('-' | '0'..='9') => Value::Number(self.number()?),
            Some('/') => return Err(self.comment()),
            Some('#') => return Err(self.comment()),
            Some('\'' | '\u{2018}' | '\u{2019}' | '\u{201c}' | '\u{201d}') => {
                return Err(self.error(
                    "A string must be in double quotes.",
                    "Write \" on both sides (not ' and not typographic quotes).",
                ));
            }
            Some(c) if c.is_alphabetic() => self.word()?,
            Some(c) => {
                return Err(self.error(
                    format!("A value is expected here, not {}.", shown_char(c)),
                    "Write a string in double quotes, a number, true, false, null, an array or an object.",
                ));
            }
        };
        Ok(Node { position, value })
    }

    fn nested(&mut self, read: fn(&mut Self) -> Result<Value, SyntaxError>) -> Result<Value, SyntaxError> {
        // serde_json refuses the 128th level; so do we.
        if self.depth + 1 >= MAX_DEPTH {
            return Err(self.error(
                format!("The values are nested more than {} deep.", MAX_DEPTH - 1),
                "Nothing in this file needs that: look for brackets that are opened by mistake.",
            ));
        }
        self.depth += 1;
        let value = read(self);
        self.depth -= 1;
        value
    }

    fn object(&mut self) -> Result<Value, SyntaxError> {
        let opened = self.position;
        self.bump();
        let mut members = Vec::new();
        self.skip_space();
        if self.peek() == Some('}') {
            self.bump();
            return Ok(Value::Object(members));
        }
        loop {
            self.skip_space();
            let position = self.position;
            match self.peek() {
                Some('"') => {}
                None => return Err(self.ended_in("object", opened)),
                Some('}') => return Err(self.trailing_comma()),
                Some('/' | '#') => return Err(self.comment()),
                Some(_) => {
                    return Err(
                        self.error("A key in double quotes is expected here.", "Write it as \"Key\": value.")
                    );
                }
            }
            let key = self.string()?;
            self.skip_space();
            match self.peek() {
                Some(':') => {
                    self.bump();
                }
                None => return Err(self.ended_in("object", opened)),
                Some(_) => {
                    return Err(self.error(
                        format!("A colon is missing after the key \"{key}\"."),
                        "Write \"Key\": value.",
                    ));
                }
            }
            self.skip_space();
            if self.peek().is_none() {
                return Err(self.ended_in("object", opened));
            }
            let value = self.value()?;
            members.push(Member { key, position, value });
            self.skip_space();
            match self.peek() {
                Some(',') => {
                    self.bump();
                }
                Some('}') => {
                    self.bump();
                    return Ok(Value::Object(members));
                }
                Some('/' | '#') => return Err(self.comment()),
                None => return Err(self.ended_in("object", opened)),
                Some(_) => {
                    return Err(self.error(
                        format!("A comma or }} is missing (the object began on line {}).", opened.line),
                        "Separate the members of an object with commas.",
                    ));
                }
            }
        }
    }

    fn array(&mut self) -> Result<Value, SyntaxError> {
        let opened = self.position;
        self.bump();
        let mut items = Vec::new();
        self.skip_space();
        if self.peek() == Some(']') {
            self.bump();
            return Ok(Value::Array(items));
        }
        loop {
            self.skip_space();
            match self.peek() {
                None => return Err(self.ended_in("array", opened)),
                Some(']') => return Err(self.trailing_comma()),
                Some(_) => items.push(self.value()?),
            }
            self.skip_space();
            match self.peek() {
                Some(',') => {
                    self.bump();
                }
                Some(']') => {
                    self.bump();
                    return Ok(Value::Array(items));
                }
                Some('/' | '#') => return Err(self.comment()),
                None => return Err(self.ended_in("array", opened)),
                Some(_) => {
                    return Err(self.error(
                        format!("A comma or ] is missing (the array began on line {}).", opened.line),
                        "Separate the items of an array with commas.",
                    ));
                }
            }
        }
    }

    fn word(&mut self) -> Result<Value, SyntaxError> {
        for (word, value) in
            [("true", Value::Bool(true)), ("false", Value::Bool(false)), ("null", Value::Null)]
        {
            if let Some(after) = self.rest.strip_prefix(word)
                && !after.starts_with(|c: char| c.is_alphanumeric() || c == '_')
            {
                for _ in 0..word.len() {
                    self.bump();
                }
                return Ok(value);
            }
        }
        let word: String = self.rest.chars().take_while(|c| c.is_alphanumeric()).take(40).collect();
        let remedy = match word.as_str() {
            "True" => "JSON spells it true.",
            "False" => "JSON spells it false.",
            "None" => "JSON spells it null.",
            "NaN" | "Infinity" => "JSON has no such number.",
            _ => "Put a string in double quotes.",
        };
        Err(self.error(format!("{word} is not a JSON value."), remedy))
    }

    fn number(&mut self) -> Result<String, SyntaxError> {
        let start = self.rest;
        if self.peek() == Some('-') {
            self.bump();
        }
        match self.peek() {
            Some('0') => {
                self.bump();
                if matches!(self.peek(), Some('0'..='9')) {
                    return Err(self.error("A number must not start with 0.", "Delete the leading zeros."));
                }
            }
            Some('1'..='9') => self.digits(),
            _ => return Err(self.bad_number()),
        }
        if self.peek() == Some('.') {
            self.bump();
            if !matches!(self.peek(), Some('0'..='9')) {
                return Err(self.bad_number());
            }
            self.digits();
        }
        if matches!(self.peek(), Some('e' | 'E')) {
            self.bump();
            if matches!(self.peek(), Some('+' | '-')) {
                self.bump();
            }
            if !matches!(self.peek(), Some('0'..='9')) {
                return Err(self.bad_number());
            }
            self.digits();
        }
        Ok(start[..start.len() - self.rest.len()].to_owned())
    }

    fn bad_number(&self) -> SyntaxError {
        self.error("A digit is expected here.", "Write a decimal number such as 10 or 0.5.")
    }

    fn digits(&mut self) {
        while matches!(self.peek(), Some('0'..='9')) {
            self.bump();
        }
    }

    fn string(&mut self) -> Result<String, SyntaxError> {
        let opened = self.position;
        self.bump();
        let mut out = String::new();
        loop {
            let at = self.position;
            let at_error = |what: &str, remedy: &str| SyntaxError {
                position: at,
                what: what.to_owned(),
                remedy: remedy.to_owned(),
            };
            match self.bump() {
                None => {
                    return Err(SyntaxError {
                        position: opened,
                        what: "The string that begins here does not end.".into(),
                        remedy: "Add the closing double quote.".into(),
                    });
                }
                Some('"') => return Ok(out),
                Some('\\') => match self.bump() {
                    Some('"') => out.push('"'),
                    Some('\\') => out.push('\\'),
                    Some('/') => out.push('/'),
                    Some('b') => out.push('\u{8}'),
                    Some('f') => out.push('\u{c}'),
                    Some('n') => out.push('\n'),
                    Some('r') => out.push('\r'),
                    Some('t') => out.push('\t'),
                    Some('u') => {
                        let unit = self.hex4().ok_or_else(|| {
                            at_error(
                                "\\u must be followed by four hexadecimal digits.",
                                "Write it as \\u00e9.",
                            )
                        })?;
                        out.push(self.unescaped(unit).ok_or_else(|| {
                            at_error(
                                "The \\u escape is half of a surrogate pair.",
                                "Write both halves, or the character itself.",
                            )
                        })?);
                    }
                    _ => {
                        return Err(at_error(
                            "This escape does not exist in JSON.",
                            "To write a backslash, double it: \\\\.",
                        ));
                    }
                },
                Some('\n') => {
                    return Err(SyntaxError {
                        position: opened,
                        what: "The string that begins here does not end on its line.".into(),
                        remedy: "Add the closing double quote; a line break inside a string is written \\n."
                            .into(),
                    });
                }
                Some(c) if c < ' ' => {
                    return Err(at_error(
                        "A control character must not stand in a string.",
                        "Write it as an escape, for example \\t for a tab.",
                    ));
                }
                Some(c) => out.push(c),
            }
        }
    }

    fn hex4(&mut self) -> Option<u32> {
        let mut unit = 0;
        for _ in 0..4 {
            unit = unit * 16 + self.peek()?.to_digit(16)?;
            self.bump();
        }
        Some(unit)
    }

    /// The character of a `\u` escape whose first four digits are read; reads the second half of a pair.
    fn unescaped(&mut self, unit: u32) -> Option<char> {
        if !(0xd800..0xdc00).contains(&unit) {
            return char::from_u32(unit);
        }
        if !self.rest.starts_with("\\u") {
            return None;
        }
        self.bump();
        self.bump();
        let low = self.hex4()?;
        if !(0xdc00..0xe000).contains(&low) {
            return None;
        }
        char::from_u32(0x1_0000 + ((unit - 0xd800) << 10) + (low - 0xdc00))
    }

    fn comment(&self) -> SyntaxError {
        self.error("JSON has no comments.", "Delete the comment.")
    }

    fn trailing_comma(&self) -> SyntaxError {
        self.error("There is a comma before the closing bracket.", "Delete the comma after the last item.")
    }

    fn ended(&self) -> SyntaxError {
        self.error("The file ends where a value is expected.", "Complete the file.")
    }

    fn ended_in(&self, what: &str, opened: Position) -> SyntaxError {
        self.error(
            format!(
                "The file ends inside the {what} that began on line {}, column {}.",
                opened.line, opened.column
            ),
            "Add the missing closing bracket.",
        )
    }
}

fn shown_char(c: char) -> String {
    format!("'{}'", c.escape_debug())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What serde_json would have made of a tree.
    fn plain(node: &Node) -> serde_json::Value {
        match &node.value {
            Value::Null => serde_json::Value::Null,
            Value::Bool(b) => (*b).into(),
            Value::Number(n) => serde_json::from_str(n).expect("a number"),
            Value::String(s) => s.as_str().into(),
            Value::Array(items) => items.iter().map(plain).collect(),
            Value::Object(members) => members.iter().map(|m| (m.key.clone(), plain(&m.value))).collect(),
        }
    }

    /// A number that is syntax, but too large for serde_json.
    fn has_huge_number(node: &Node) -> bool {
        match &node.value {
            Value::Number(n) => serde_json::from_str::<serde_json::Value>(n).is_err(),
            Value::Array(items) => items.iter().any(has_huge_number),
            Value::Object(members) => members.iter().any(|m| has_huge_number(&m.value)),
            _ => false,
        }
    }

    fn agree(text: &str) {
        let theirs = serde_json::from_str::<serde_json::Value>(text);
        match (parse(text.as_bytes()), theirs) {
            (Ok(ours), Ok(theirs)) => assert_eq!(plain(&ours), theirs, "{text:?}"),
            (Ok(ours), Err(error)) => assert!(has_huge_number(&ours), "{text:?}: {error}"),
            (Err(error), Ok(_)) => panic!("{text:?}: {error:?}"),
            (Err(_), Err(_)) => {}
        }
    }

    #[test]
    fn depth_limit_is_that_of_serde_json() {
        for depth in 120..135 {
            agree(&format!("{}{}", "[".repeat(depth), "]".repeat(depth)));
            agree(&format!("{}1{}", "{\"a\":".repeat(depth), "}".repeat(depth)));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

        #[test]
        fn reads_what_serde_json_reads(
            text in "([\\[\\]{},: \n]|\"[a-c]\"|\"(\\\\[\"/bfnrtux]|\\\\u[0-9a-fD]{4}|é|\t)*\"|true|fals|null|-?[0-9]{1,3}|[.eE+-]|1e9{1,3}){0,12}"
        ) {
            agree(&text);
        }

        #[test]
        fn reads_well_formed_texts(depth in 0_usize..4, text in "\\PC{0,12}", number in any::<f64>()) {
            let mut value = serde_json::json!({ "a": text, text.clone(): [number, null, true, {}] });
            for _ in 0..depth {
                value = serde_json::json!([value, { "k": [] }]);
            }
            agree(&value.to_string());
            agree(&serde_json::to_string_pretty(&value).unwrap());
        }
    }
}
