//! Names that come from strangers, parsed once at the door into types that cannot be wrong.

use std::{borrow::Borrow, fmt, sync::Arc};

use serde::{Deserialize, Serialize};
use unicode_properties::{GeneralCategoryGroup, UnicodeGeneralCategory};

/// The most bytes a channel or user name may have.
pub const NAME_BYTES: usize = 255;

/// Why a text is no name. The sentence tells the caller what to change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The name has no bytes at all.
    #[error("a name needs at least one character")]
    Empty,
    /// The name has more than [`NAME_BYTES`] bytes.
    #[error("a name has at most {NAME_BYTES} bytes; this one has {0}")]
    TooLong(usize),
    /// A character that would make names look alike or break a line.
    #[error("a name has no white space, control or format characters; found U+{:04X}", *.0 as u32)]
    Character(char),
    /// `*` belongs to patterns.
    #[error("a name has no `*`; that is for patterns")]
    Star,
    /// `.` and `..` would be swallowed by anything that normalises paths.
    #[error("`.` and `..` are not names")]
    Dots,
}

fn check(text: &str) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > NAME_BYTES {
        return Err(NameError::TooLong(text.len()));
    }
    if text == "." || text == ".." {
        return Err(NameError::Dots);
    }
    match text.chars().find(|&c| c == '*' || !is_printable(c)) {
        None => Ok(()),
        Some('*') => Err(NameError::Star),
        Some(c) => Err(NameError::Character(c)),
    }
}

/// White space, control, format, surrogate, private-use and unassigned characters are not printable.
pub(crate) fn is_printable(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_graphic();
    }
    !c.is_whitespace() && c.general_category_group() != GeneralCategoryGroup::Other
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(into = "String", try_from = "String")]
        pub struct $type(Arc<str>);

        impl $type {
            /// Parses a name; names are compared by bytes.
            ///
            /// # Errors
            /// [`NameError`] says which rule the text breaks.
            pub fn parse(text: &str) -> Result<Self, NameError> {
                check(text).map(|()| Self(text.into()))
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $type {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                Self::parse(&text)
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> String {
                name.0.as_ref().to_owned()
            }
        }
    };
}

name! {
    /// A named place in which users are present: `room:1`, `sensor/1/temperature`.
    ChannelName
}
name! {
    /// Who is present: the `sub` of a token.
    UserName
}

/// One client session of a user. The server chooses it; it survives a resume.
///
/// 22 characters of base64url without padding (128 bits): no spaces, so it may stand in space-separated lists.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ConnectionId(Arc<str>);

impl ConnectionId {
    /// A connection id of 16 bytes that the caller has drawn at random or derived by a hash.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        use base64::Engine as _;
        Self(base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes).into())
    }

    /// Reads back an id that this service once made. Anything without spaces is taken, for what does not exist is not found.
    pub fn from_stored(text: &str) -> Self {
        Self(text.into())
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of a roster: the connections in a channel, or the connections of a user. In the order of what is stored.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RosterKey {
    /// `c:<channel>`
    Channel(ChannelName),
    /// `h:<user>`: the connections of a user who is shown to nobody.
    HiddenUser(UserName),
    /// `u:<user>`
    User(UserName),
    /// `x:<channel>`: connections of those in the channel who are shown to nobody.
    HiddenChannel(ChannelName),
}

impl RosterKey {
    /// Parses the stored form.
    pub fn from_stored(text: &str) -> Option<Self> {
        match text.split_at_checked(2)? {
            ("c:", name) => ChannelName::parse(name).ok().map(Self::Channel),
            ("u:", name) => UserName::parse(name).ok().map(Self::User),
            ("x:", name) => ChannelName::parse(name).ok().map(Self::HiddenChannel),
            ("h:", name) => UserName::parse(name).ok().map(Self::HiddenUser),
            _ => None,
        }
    }

    /// Whether it is the roster of a user's connections.
    pub fn is_user(&self) -> bool {
        matches!(self, Self::User(_) | Self::HiddenUser(_))
    }

    /// Whether others are shown nothing of it.
    pub fn is_hidden(&self) -> bool {
        matches!(self, Self::HiddenChannel(_) | Self::HiddenUser(_))
    }

    /// The channel, where it is one of a channel.
    pub fn channel(&self) -> Option<&ChannelName> {
        match self {
            Self::Channel(channel) | Self::HiddenChannel(channel) => Some(channel),
            Self::User(_) | Self::HiddenUser(_) => None,
        }
    }

    /// The roster of the same channel or user that others see, or the one that they do not.
    pub fn twin(&self, hidden: bool) -> Self {
        match self {
            Self::Channel(name) | Self::HiddenChannel(name) if hidden => Self::HiddenChannel(name.clone()),
            Self::Channel(name) | Self::HiddenChannel(name) => Self::Channel(name.clone()),
            Self::User(name) | Self::HiddenUser(name) if hidden => Self::HiddenUser(name.clone()),
            Self::User(name) | Self::HiddenUser(name) => Self::User(name.clone()),
        }
    }
}

impl fmt::Display for RosterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Channel(name) => write!(f, "c:{name}"),
            Self::User(name) => write!(f, "u:{name}"),
            Self::HiddenChannel(name) => write!(f, "x:{name}"),
            Self::HiddenUser(name) => write!(f, "h:{name}"),
        }
    }
}

impl fmt::Debug for RosterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_printable_utf8_of_1_to_255_bytes() {
        for good in ["room:1", "sensor/1/temperature", "a", "日本", "😀", "{x}", "a%2Fb", "...", "<img>"] {
            assert_eq!(ChannelName::parse(good).unwrap().as_str(), good);
        }
        assert!(UserName::parse(&"a".repeat(255)).is_ok());
        assert_eq!(UserName::parse(&"a".repeat(256)), Err(NameError::TooLong(256)));
        assert_eq!(UserName::parse(""), Err(NameError::Empty));
        assert_eq!(UserName::parse(".."), Err(NameError::Dots));
        assert_eq!(UserName::parse("a*"), Err(NameError::Star));
        for bad in ["a b", "a\n", "a\u{a0}b", "\u{202e}x", "\u{200b}", "\u{feff}", "\0", "\u{7f}", "\u{2028}"] {
            assert!(matches!(UserName::parse(bad), Err(NameError::Character(_))), "{bad:?}");
        }
    }

    #[test]
    fn roster_keys_read_back_what_they_print() {
        for text in ["c:room:1", "u:ann", "c:u:x", "x:room:1", "h:ann"] {
            assert_eq!(RosterKey::from_stored(text).unwrap().to_string(), text);
        }
        assert_eq!(RosterKey::from_stored("y:ann"), None);
        assert_eq!(RosterKey::from_stored("c:"), None);
    }
}
