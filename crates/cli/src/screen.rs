// SPDX-License-Identifier: GPL-3.0-or-later
//! A text in the place of the one before it, cut to the terminal's size.

/// Columns and rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    pub columns: usize,
    pub rows: usize,
}

impl Size {
    /// Of the terminal on standard output; what every terminal has, if it does not say.
    #[must_use]
    pub fn of_terminal() -> Self {
        let (columns, rows) = terminal_size::terminal_size()
            .map_or((0, 0), |(width, height)| (width.0.into(), height.0.into()));
        let or = |number: usize, other| if number == 0 { other } else { number };
        Self { columns: or(columns, 80), rows: or(rows, 24) }
    }
}

/// The text from the upper left corner on. Nothing is cleared before it is written over, so nothing flickers;
/// the last row stays free for the cursor.
#[must_use]
pub fn fitted(text: &str, size: Size) -> String {
    let mut screen = String::from("\x1b[H");
    for line in text.lines().take(size.rows.saturating_sub(1)) {
        screen.push_str(&cut(line, size.columns));
        screen.push_str("\x1b[K\n");
    }
    screen.push_str("\x1b[J");
    screen
}

/// The first `columns` characters; the sequences that set colours take no room and stay.
fn cut(line: &str, columns: usize) -> String {
    let mut kept = String::with_capacity(line.len());
    let (mut room, mut in_sequence) = (columns, false);
    for character in line.chars() {
        let visible = !in_sequence && character != '\x1b';
        in_sequence = if in_sequence { character != 'm' } else { character == '\x1b' };
        if !visible {
            kept.push(character);
        } else if room > 0 {
            room -= 1;
            kept.push(character);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_keeps_its_colours_and_loses_what_does_not_fit() {
        assert_eq!(cut("\x1b[31mabcdef\x1b[0m", 4), "\x1b[31mabcd\x1b[0m");
        assert_eq!(cut("ab\x1b[1mcd\x1b[0mef", 3), "ab\x1b[1mc\x1b[0m");
        assert_eq!(cut("äöü", 2), "äö");
        assert_eq!(cut("abc", 3), "abc");
    }

    #[test]
    fn a_long_text_leaves_the_last_row_free() {
        let text = "1\n2\n3\n4\n5\n";
        assert_eq!(fitted(text, Size { columns: 9, rows: 4 }), "\x1b[H1\x1b[K\n2\x1b[K\n3\x1b[K\n\x1b[J");
        assert_eq!(fitted("1\n", Size { columns: 9, rows: 4 }), "\x1b[H1\x1b[K\n\x1b[J");
    }
}
