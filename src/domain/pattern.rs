//! Patterns over names: `*` is one segment, `**` is the rest.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use super::name::{NAME_BYTES, is_printable};

/// Why a text is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Length or characters are not those of a name.
    #[error("a pattern has 1 to {NAME_BYTES} bytes, without white space, control or format characters")]
    Name,
    /// `**` stands before the end.
    #[error("`**` may stand only as the last segment")]
    Rest,
    /// A star inside a segment, such as `room*`.
    #[error("`*` stands for a whole segment; segments are separated by `:` or `/`")]
    Partial,
}

/// A pattern such as `room:*` or `org/1/**`; without stars it is the name itself.
///
/// Segments are separated by `:` or `/`, which are literal: `room:*` does not match `room/1`.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Pattern(Arc<str>);

fn is_separator(c: char) -> bool {
    c == ':' || c == '/'
}

impl Pattern {
    /// Parses a pattern.
    ///
    /// # Errors
    /// [`PatternError`] says which rule the text breaks.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        if text.is_empty() || text.len() > NAME_BYTES || !text.chars().all(is_printable) {
            return Err(PatternError::Name);
        }
        let mut segments = text.split(is_separator).peekable();
        while let Some(segment) = segments.next() {
            match segment {
                "**" if segments.peek().is_some() => return Err(PatternError::Rest),
                "*" | "**" => {}
                other if other.contains('*') => return Err(PatternError::Partial),
                _ => {}
            }
        }
        Ok(Self(text.into()))
    }

    /// Whether `name` is one that the pattern means. Linear in the length of the name; nothing backtracks.
    pub fn matches(&self, name: &str) -> bool {
        let (mut pattern, mut name) = (&*self.0, name);
        loop {
            let (segment, pattern_rest) = cut(pattern);
            if segment == "**" {
                return !name.is_empty();
            }
            let (part, name_rest) = cut(name);
            let means = if segment == "*" { !part.is_empty() } else { segment == part };
            if !means {
                return false;
            }
            match (pattern_rest, name_rest) {
                (None, None) => return true,
                (Some((a, next_pattern)), Some((b, next_name))) if a == b => {
                    (pattern, name) = (next_pattern, next_name);
                }
                _ => return false,
            }
        }
    }

    /// What every name begins with that the pattern means.
    pub fn beginning(&self) -> &str {
        // A star is always a segment, so what stands before the first ends in a separator.
        self.0.find('*').map_or(&self.0, |at| &self.0[..at])
    }

    /// The pattern as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The first segment, and behind it the separator with what follows.
fn cut(text: &str) -> (&str, Option<(char, &str)>) {
    match text.find(is_separator) {
        // A separator is one byte.
        Some(at) => (&text[..at], Some((text.as_bytes()[at] as char, &text[at + 1..]))),
        None => (text, None),
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl TryFrom<String> for Pattern {
    type Error = PatternError;
    fn try_from(text: String) -> Result<Self, PatternError> {
        Self::parse(&text)
    }
}

impl From<Pattern> for String {
    fn from(pattern: Pattern) -> String {
        pattern.0.as_ref().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, name: &str) -> bool {
        Pattern::parse(pattern).unwrap().matches(name)
    }

    #[test]
    fn a_star_is_one_segment_and_two_are_the_rest() {
        assert!(matches("room:*", "room:1"));
        assert!(!matches("room:*", "room:1:2"));
        assert!(!matches("room:*", "room/1"));
        assert!(!matches("room:*", "room"));
        assert!(!matches("room:*", "room:"));
        assert!(matches("room:**", "room:1"));
        assert!(matches("room:**", "room:1/2:3"));
        assert!(!matches("room:**", "room"));
        assert!(!matches("room:**", "room:"));
        assert!(matches("**", "anything:at/all"));
        assert!(matches("*", "one"));
        assert!(!matches("*", "one:two"));
        assert!(matches("*:x/*", "a:x/b"));
        assert!(matches("room:1", "room:1"));
        assert!(!matches("room:1", "room:12"));
    }

    #[test]
    fn stars_stand_alone_and_the_rest_stands_last() {
        assert_eq!(Pattern::parse("room*"), Err(PatternError::Partial));
        assert_eq!(Pattern::parse("**:a"), Err(PatternError::Rest));
        assert_eq!(Pattern::parse("a b"), Err(PatternError::Name));
        assert_eq!(Pattern::parse(""), Err(PatternError::Name));
    }
}
