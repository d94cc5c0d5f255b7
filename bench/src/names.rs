//! A set of names in a few bytes, by which the lists of thousands of watchers can be compared.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

/// How many there are, and the sum of what their names hash to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Names {
    /// How many.
    pub count: u64,
    sum: u64,
}

impl Names {
    /// The set of these.
    pub fn of<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let mut set = Self::default();
        names.into_iter().for_each(|name| set.add(name));
        set
    }

    /// One more.
    pub fn add(&mut self, name: &str) {
        self.count += 1;
        self.sum = self.sum.wrapping_add(hash(name));
    }

    /// With all of these.
    pub fn with(self, other: Self) -> Self {
        Self { count: self.count.wrapping_add(other.count), sum: self.sum.wrapping_add(other.sum) }
    }

    /// Without all of these.
    pub fn without(self, other: Self) -> Self {
        Self { count: self.count.wrapping_sub(other.count), sum: self.sum.wrapping_sub(other.sum) }
    }
}

/// What a text hashes to, the same in every process of one build.
pub fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_the_same_in_whatever_order_and_another_name_makes_another_set() {
        let set = Names::of(["ann", "ben", "cat"]);
        assert_eq!(Names::of(["cat", "ann"]).with(Names::of(["ben"])), set);
        assert_eq!(set.without(Names::of(["ben"])), Names::of(["ann", "cat"]));
        assert_ne!(Names::of(["ann", "ben", "dan"]), set);
    }
}
