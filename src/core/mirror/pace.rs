//! How a mirror tells its watchers of changes: in which mode, and how long a tick is.

use std::time::Duration;

use tokio::time::Instant;

use crate::domain::mode::{Bounds, Mode};

/// A mode lasts at least for so long before the channel goes back to the one before: whoever leaves in a crowd may be back soon, and each change of
/// mode sends the list to everybody.
pub(super) const HOLD: Duration = Duration::from_secs(5);
/// The least and the most time between two frames of a level, in each mode.
const FULL: [Duration; 2] = [Duration::from_millis(10), Duration::from_millis(250)];
const NET: [Duration; 2] = [Duration::from_millis(250), Duration::from_millis(500)];
const OCCUPANCY: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(1)];
/// So many watchers and connections make a tick a millisecond longer.
const COST: usize = 20;

/// See the module.
#[derive(Debug)]
pub(super) struct Pace {
    bounds: Bounds,
    mode: Mode,
    since: Option<Instant>,
}

impl Pace {
    pub fn new(bounds: Bounds) -> Self {
        Self { bounds, mode: Mode::default(), since: None }
    }

    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The mode in which a channel of this load begins: nobody has been shown anything yet.
    pub fn begin(&mut self, load: u64, now: Instant) {
        (self.mode, self.since) = (Mode::of(load, self.bounds), Some(now));
    }

    /// The mode to go over to now, if it is another one. A larger one at once, for it protects; a smaller one not before the present one has lasted.
    pub fn due(&self, load: u64, now: Instant) -> Option<Mode> {
        let next = self.mode.next(load, self.bounds);
        (next > self.mode || (next < self.mode && self.down_at() <= Some(now))).then_some(next)
    }

    /// When to look again: there may be a way back then.
    pub fn due_at(&self, load: u64) -> Option<Instant> {
        self.down_at().filter(|_| self.mode.next(load, self.bounds) < self.mode)
    }

    fn down_at(&self) -> Option<Instant> {
        self.since.map(|since| since + HOLD)
    }

    /// Whether the mode has begun at this very moment.
    pub fn has_just_begun(&self, now: Instant) -> bool {
        self.since == Some(now)
    }

    pub fn change(&mut self, mode: Mode, now: Instant) {
        (self.mode, self.since) = (mode, Some(now));
    }

    /// The time between two frames grows with what a frame costs, and with the load: a crowd that comes to a channel should not be told by hundreds of
    /// frames how it became one.
    pub fn tick(&self, load: u64, watchers: usize, connections: usize) -> Duration {
        let Bounds { net_above, occupancy_above } = self.bounds;
        let ([least, most], longest_at) = match self.mode {
            Mode::Full => (FULL, net_above.div_ceil(4)),
            Mode::Net => (NET, net_above.saturating_mul(4)),
            Mode::Occupancy => (OCCUPANCY, occupancy_above.saturating_mul(4)),
        };
        let cost = ((watchers + connections) / COST) as u64;
        // A crowd's load grows with the square of who has come, so the time grows with its root.
        let spread = u64::try_from((most - least).as_millis()).expect("a tick is short");
        let grown = (load.saturating_mul(spread * spread) / longest_at).isqrt();
        (least + Duration::from_millis(cost.max(grown))).min(most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_grow_from_ten_milliseconds_with_the_root_of_the_load_and_with_each_mode() {
        let mut pace = Pace::new(Bounds { net_above: 50_000, occupancy_above: 5_000_000 });
        let mut tick = |members: usize, watchers: usize| {
            let load = (members * watchers) as u64;
            pace.begin(load, Instant::now());
            (pace.mode(), pace.tick(load, watchers, members).as_millis())
        };
        assert_eq!(tick(0, 0), (Mode::Full, 10));
        assert_eq!(tick(5, 5), (Mode::Full, 20));
        assert_eq!(tick(50, 50), (Mode::Full, 117));
        assert_eq!(tick(2_000, 1), (Mode::Full, 110), "that so many are there costs more than the load is");
        assert_eq!(tick(111, 111), (Mode::Full, 248));
        assert_eq!(tick(200, 200), (Mode::Full, 250));
        assert_eq!(tick(300, 300), (Mode::Net, 417));
        assert_eq!(tick(2_000, 2_000), (Mode::Net, 500));
        assert_eq!(tick(3_000, 3_000), (Mode::Occupancy, 835));
        assert_eq!(tick(100_000, 10_000), (Mode::Occupancy, 1_000));
    }

    #[test]
    fn whatever_may_be_set_as_bounds_a_tick_is_within_those_of_its_mode_and_a_larger_load_never_shortens_it() {
        let numbers = [0, 1, 2, 3, 1_000, 1_000_000_000_000, u64::MAX];
        for (net_above, more) in [(1, 1), (3, 2), (50_000, 4_950_000), (999_999_999_999, 1)] {
            let mut pace = Pace::new(Bounds { net_above, occupancy_above: net_above + more });
            for (mode, [least, most]) in [(Mode::Full, FULL), (Mode::Net, NET), (Mode::Occupancy, OCCUPANCY)] {
                pace.change(mode, Instant::now());
                let ticks = numbers.map(|load| pace.tick(load, 0, 0));
                assert!(ticks.is_sorted() && ticks[0] == least, "{mode:?} {ticks:?}");
                assert_eq!(ticks[numbers.len() - 1], most, "{mode:?} {net_above}");
            }
        }
    }
}
