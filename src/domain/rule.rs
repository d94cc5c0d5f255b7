//! The rules that protect presence when something fails, by name.
//!
//! Each is asked for where it acts. In test builds any of them can be switched off, and `tests/store/mutants.rs` and `src/core/mutants.rs` show which
//! check fails without it: a rule whose absence nobody notices is none.

/// A protecting rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Of two takes of one connection the higher wins; the older one does nothing.
    Take,
    /// A generation whose lease ended is dead for good: what it says is refused.
    DeadGeneration,
    /// A step of a host clock counts for one renewal and a second at most.
    PresenceTime,
    /// In a new epoch nobody is missed before every instance has said what it holds.
    Settling,
    /// What an older link still carries is refused.
    Link,
    /// A roster is followed before it is read.
    FeedFirst,
    /// A forgotten roster begins again above the numbers that it had.
    Floor,
    /// Rows that nothing alive answers for are looked for, whatever the indexes say.
    Audit,
    /// The next batch goes when the last one is answered.
    OneBatch,
}

impl Rule {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Take,
        Self::DeadGeneration,
        Self::PresenceTime,
        Self::Settling,
        Self::Link,
        Self::FeedFirst,
        Self::Floor,
        Self::Audit,
        Self::OneBatch,
    ];

    /// Whether the rule is in force: always.
    #[cfg(not(any(test, feature = "test-hooks")))]
    #[inline]
    pub const fn holds(self) -> bool {
        let _ = self;
        true
    }

    /// Whether the rule is in force: unless a test has switched it off on this thread, or for this process.
    #[cfg(any(test, feature = "test-hooks"))]
    pub fn holds(self) -> bool {
        switch::OFF.get() != Some(self) && *switch::OFF_HERE != Some(self)
    }

    /// Switches the rule off on this thread, until what is returned is dropped.
    #[cfg(any(test, feature = "test-hooks"))]
    #[must_use = "the rule is in force again as soon as this is dropped"]
    pub fn without(self) -> Without {
        Without(switch::OFF.replace(Some(self)))
    }
}

/// A rule is switched off for as long as this lives.
#[cfg(any(test, feature = "test-hooks"))]
#[derive(Debug)]
pub struct Without(Option<Rule>);

#[cfg(any(test, feature = "test-hooks"))]
impl Drop for Without {
    fn drop(&mut self) {
        switch::OFF.set(self.0);
    }
}

#[cfg(any(test, feature = "test-hooks"))]
mod switch {
    use std::{cell::Cell, sync::LazyLock};

    use super::Rule;

    thread_local! {
        pub static OFF: Cell<Option<Rule>> = const { Cell::new(None) };
    }

    /// For a whole process: the name of a rule, as `Debug` writes it.
    pub static OFF_HERE: LazyLock<Option<Rule>> = LazyLock::new(|| {
        let name = std::env::var("ROLLCALL_TEST_WITHOUT").ok()?;
        let rule = Rule::ALL.into_iter().find(|rule| format!("{rule:?}") == name);
        Some(rule.unwrap_or_else(|| panic!("ROLLCALL_TEST_WITHOUT names no rule: `{name}`")))
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_off_for_as_long_as_a_test_says_so() {
        assert!(Rule::ALL.into_iter().all(Rule::holds));
        let without = Rule::Link.without();
        assert!(!Rule::Link.holds() && Rule::Take.holds());
        std::thread::spawn(|| assert!(Rule::Link.holds())).join().unwrap();
        drop(without);
        assert!(Rule::Link.holds());
    }
}
