//! Text of users and of other hosts in log lines, Events and on terminals.

use std::borrow::Cow;

/// Longest quotation, in characters.
const EXCERPT_MAX: usize = 200;

/// Replaces what begins a new line or steers a terminal, each character by a space.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(is_unsafe) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.replace(is_unsafe, " "))
}

/// Control characters, line and paragraph separators, and those that change the direction of the text after them.
fn is_unsafe(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}' | '\u{61c}')
}

/// The first line of a parser's message: those after it quote the file, which may contain secrets.
pub fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().trim_start_matches("error: ").trim_end().to_owned()
}

/// An error with its causes, which the outermost one often does not name.
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| (*cause).source());
    let mut text = error.to_string();
    for cause in causes.map(ToString::to_string).collect::<Vec<_>>() {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// The printable beginning of a text.
pub fn excerpt(text: &str) -> String {
    match text.char_indices().nth(EXCERPT_MAX) {
        Some((end, _)) => format!("{}...", printable(text.get(..end).unwrap_or_default())),
        None => printable(text).into_owned(),
    }
}

/// An excerpt as a quotation.
pub fn quoted(text: &str) -> String {
    format!("`{}`", excerpt(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quotation_is_one_short_line() {
        for (text, expected) in [
            ("eth0.7", "`eth0.7`"),
            ("", "``"),
            ("x\n2026/01/01 00:00:00 INFO forged", "`x 2026/01/01 00:00:00 INFO forged`"),
            ("a\r\u{1b}[2Jb\u{9b}31m", "`a  [2Jb 31m`"),
            ("a\u{2028}b\u{202e}c", "`a b c`"),
            ("ünïcode", "`ünïcode`"),
        ] {
            assert_eq!(quoted(text), expected);
        }
        assert_eq!(excerpt(&"é".repeat(200)), "é".repeat(200));
        assert_eq!(excerpt(&"é".repeat(1 << 18)), format!("{}...", "é".repeat(200)));
    }
}
