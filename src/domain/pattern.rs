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
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
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

    /// Whether each name that `other` means is one that this pattern means, too. Segment by segment, as [`Pattern::matches`].
    pub fn covers(&self, other: &Self) -> bool {
        let (mut mine, mut theirs) = (&*self.0, &*other.0);
        loop {
            let (segment, rest) = cut(mine);
            if segment == "**" {
                return !theirs.is_empty();
            }
            let (part, their_rest) = cut(theirs);
            let covers = match part {
                "**" => false,
                part if segment == "*" => !part.is_empty(),
                part => segment == part,
            };
            if !covers {
                return false;
            }
            match (rest, their_rest) {
                (None, None) => return true,
                (Some((a, next)), Some((b, their_next))) if a == b => (mine, theirs) = (next, their_next),
                _ => return false,
            }
        }
    }

    /// Whether there may be a name that both mean.
    pub fn meets(&self, other: &Self) -> bool {
        let (mut mine, mut theirs) = (&*self.0, &*other.0);
        loop {
            let ((segment, rest), (part, their_rest)) = (cut(mine), cut(theirs));
            if segment == "**" || part == "**" {
                return !mine.is_empty() && !theirs.is_empty();
            }
            let meets = match (segment, part) {
                ("*", part) => !part.is_empty(),
                (segment, "*") => !segment.is_empty(),
                (segment, part) => segment == part,
            };
            if !meets {
                return false;
            }
            match (rest, their_rest) {
                (None, None) => return true,
                (Some((a, next)), Some((b, their_next))) if a == b => (mine, theirs) = (next, their_next),
                _ => return false,
            }
        }
    }

    /// Every name.
    pub fn any() -> Self {
        Self("**".into())
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
    use proptest::prelude::*;

    use super::*;

    /// Patterns of few segments, so that they often have to do with each other.
    fn patterns() -> impl Strategy<Value = Pattern> {
        let segment = prop::sample::select(vec!["a", "b", "*", "*", ""]);
        let more = prop::collection::vec((prop::sample::select(vec![":", "/"]), segment.clone()), 0..3);
        let end = prop::option::of(prop::sample::select(vec![":**", "/**"]));
        (segment, more, end).prop_filter_map("no pattern", |(first, more, end)| {
            let text = more.iter().fold(first.to_owned(), |text, (separator, segment)| text + separator + segment);
            Pattern::parse(&(text + end.unwrap_or_default())).ok()
        })
    }

    /// Names that a pattern means, with segments that stand in no other.
    fn meant(pattern: &Pattern) -> Vec<String> {
        let fill = |text: &str, rest: &str| {
            let segment = |part: &str| match part {
                "**" => rest.to_owned(),
                "*" => "zz".to_owned(),
                part => part.to_owned(),
            };
            let mut name = String::new();
            for (at, part) in text.split_inclusive(is_separator).enumerate() {
                let separator = part.strip_suffix(is_separator).map(|bare| &part[bare.len()..]).unwrap_or_default();
                let bare = &part[..part.len() - separator.len()];
                debug_assert!(at < 10);
                name = name + &segment(bare) + separator;
            }
            name
        };
        ["zz", "zz:zz", "zz/zz", ":"].iter().map(|rest| fill(pattern.as_str(), rest)).collect()
    }

    proptest! {
        #[test]
        fn what_covers_means_each_name_that_the_other_means(mine in patterns(), theirs in patterns()) {
            let names: Vec<String> = meant(&theirs).into_iter().filter(|name| theirs.matches(name)).collect();
            prop_assert!(!names.is_empty());
            prop_assert_eq!(mine.covers(&theirs), names.iter().all(|name| mine.matches(name)), "{:?}", names);
            prop_assert!(mine.covers(&mine) && Pattern::any().covers(&mine));
            prop_assert!(names.iter().all(|name| name.starts_with(theirs.beginning())));
        }

        #[test]
        fn patterns_meet_where_a_name_is_meant_by_both(mine in patterns(), theirs in patterns(), name in "[ab:/]{1,6}") {
            if mine.matches(&name) && theirs.matches(&name) {
                prop_assert!(mine.meets(&theirs));
            }
            prop_assert_eq!(mine.meets(&theirs), theirs.meets(&mine));
            if mine.covers(&theirs) {
                prop_assert!(mine.meets(&theirs));
            }
        }
    }

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
