//! Cursors: where the next page begins, opaque to those who carry them.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::{
    core::{Code, Error},
    domain::{
        name::NAME_BYTES,
        version::{Epoch, Version},
    },
};

fn wrap(kind: char, text: &str) -> String {
    URL_SAFE_NO_PAD.encode(format!("{kind}{text}"))
}

fn peel(kind: char, cursor: &str) -> Option<String> {
    let bytes = URL_SAFE_NO_PAD.decode(cursor).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    text.strip_prefix(kind).map(str::to_owned)
}

fn refused() -> Error {
    Error::new(Code::BadRequest, "`cursor` is none that was given out for this list")
}

/// A cursor behind a name in an ordered list of names.
pub fn after_name(name: &str) -> String {
    wrap('n', name)
}

/// The name that a cursor stands behind.
pub fn name(cursor: &str) -> Result<String, Error> {
    peel('n', cursor).filter(|name| !name.is_empty() && name.len() <= NAME_BYTES).ok_or_else(refused)
}

/// A place in a list of members at one version.
#[derive(Debug, PartialEq)]
pub struct Place {
    /// The version that all pages have.
    pub version: Version,
    /// How many members come before.
    pub offset: usize,
}

impl Place {
    /// The place as a cursor.
    pub fn to_cursor(&self) -> String {
        let Version { epoch, number } = &self.version;
        wrap('m', &format!("{}:{number}:{epoch}", self.offset))
    }

    /// Reads back [`Place::to_cursor`].
    pub fn parse(cursor: &str) -> Result<Self, Error> {
        let text = peel('m', cursor).ok_or_else(refused)?;
        let mut parts = text.splitn(3, ':');
        let mut part = || parts.next().ok_or_else(refused);
        let (offset, number, epoch) = (part()?, part()?, part()?);
        let (Ok(offset), Ok(number)) = (offset.parse(), number.parse()) else { return Err(refused()) };
        Ok(Self { version: Version { epoch: Epoch::new(epoch), number }, offset })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_read_back_what_they_carry_and_nothing_else() {
        let place = Place { version: Version { epoch: Epoch::new("e:1"), number: 7 }, offset: 100 };
        assert_eq!(Place::parse(&place.to_cursor()).unwrap(), place);
        assert_eq!(name(&after_name("room:😀")).unwrap(), "room:😀");
        assert!(name(&place.to_cursor()).is_err());
        assert!(Place::parse(&after_name("1:2:3")).is_err());
        for cursor in ["", "x", "%", "bQ", &wrap('m', "1:2"), &wrap('m', "-1:2:e"), &wrap('n', "")] {
            assert!(Place::parse(cursor).is_err() && name(cursor).is_err(), "{cursor}");
        }
    }
}
