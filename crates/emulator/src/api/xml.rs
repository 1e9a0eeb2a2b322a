// SPDX-License-Identifier: GPL-3.0-or-later
//! Writes EC2's XML: elements of text, structures, and sets of `<item>`.

use std::fmt::{Display, Write as _};

use quick_xml::escape::escape;

use crate::model::time::{Millis, iso};

/// An XML fragment under construction. Elements appear in the order of the calls.
#[derive(Debug, Default)]
pub struct Xml {
    out: String,
    scratch: String,
    /// The last time written and its text: one instance shows the same moment many times.
    moment: Option<(Millis, String)>,
}

impl Xml {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn finish(self) -> String {
        self.out
    }

    fn open(&mut self, name: &str) {
        self.out.push('<');
        self.out.push_str(name);
        self.out.push('>');
    }

    fn close(&mut self, name: &str) {
        self.out.push_str("</");
        self.out.push_str(name);
        self.out.push('>');
    }

    /// An element of escaped text.
    pub fn text(&mut self, name: &str, value: &str) {
        self.open(name);
        self.out.push_str(&escape(value));
        self.close(name);
    }

    /// An element of anything that prints itself.
    pub fn put(&mut self, name: &str, value: impl Display) {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        write!(scratch, "{value}").expect("writing to a String cannot fail");
        self.text(name, &scratch);
        self.scratch = scratch;
    }

    /// An element of a time.
    pub fn time(&mut self, name: &str, at: Millis) {
        let text = match self.moment.take() {
            Some((last, text)) if last == at => text,
            _ => iso(at),
        };
        self.text(name, &text);
        self.moment = Some((at, text));
    }

    /// The element, unless there is no value.
    pub fn maybe<T: Display>(&mut self, name: &str, value: Option<T>) {
        if let Some(value) = value {
            self.put(name, value);
        }
    }

    /// A structure.
    pub fn node(&mut self, name: &str, inside: impl FnOnce(&mut Self)) {
        self.open(name);
        inside(self);
        self.close(name);
    }

    /// A set: one `<item>` for each element.
    pub fn set<T>(
        &mut self,
        name: &str,
        items: impl IntoIterator<Item = T>,
        mut each: impl FnMut(&mut Self, T),
    ) {
        self.open(name);
        for item in items {
            self.open("item");
            each(self, item);
            self.close("item");
        }
        self.close(name);
    }

    /// A set of plain text items.
    pub fn texts<T: AsRef<str>>(&mut self, name: &str, items: impl IntoIterator<Item = T>) {
        self.open(name);
        for item in items {
            self.text("item", item.as_ref());
        }
        self.close(name);
    }

    /// Text of the answer so far that was made before (a replayed answer).
    pub fn raw(&mut self, fragment: &str) {
        self.out.push_str(fragment);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped_and_sets_have_items() {
        let mut xml = Xml::new();
        xml.node("tag", |xml| {
            xml.text("key", "a<b&\"c\"");
            xml.put("number", 7);
            xml.maybe::<u8>("absent", None);
            xml.time("first", 1_700_000_000_123);
            xml.time("second", 1_700_000_000_124);
        });
        xml.texts("ids", ["x", "y"]);
        assert_eq!(
            xml.finish(),
            "<tag><key>a&lt;b&amp;&quot;c&quot;</key><number>7</number><first>2023-11-14T22:13:20.123Z</first><second>2023-11-14T22:13:20.124Z</second></tag>\
             <ids><item>x</item><item>y</item></ids>"
        );
    }
}
