//! How much of a channel's changes its watchers are told: less when it is large.

use serde::{Deserialize, Serialize};

/// How the watchers of a channel on one instance are told of changes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Every net change, shortly after it happened.
    #[default]
    Full,
    /// Every net change, at longer intervals.
    Net,
    /// How many there are, and nobody's name.
    Occupancy,
}

/// From which load on a channel is large. The load is its members times its watchers on this instance: so many entries are sent when everybody comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Above it watchers get net changes at longer intervals.
    pub net_above: u64,
    /// Above it they get the occupancy only.
    pub occupancy_above: u64,
}

impl Mode {
    /// All of them, the most telling first.
    pub const ALL: [Self; 3] = [Self::Full, Self::Net, Self::Occupancy];

    /// The mode in which a channel of such a load begins.
    pub fn of(load: u64, bounds: Bounds) -> Self {
        Self::Full.next(load, bounds)
    }

    /// The mode that follows on this one under such a load. A channel goes back only below half of what brought it here, so that one whose load stays
    /// about a bound does not change with everybody who comes or goes.
    #[must_use]
    pub fn next(self, load: u64, bounds: Bounds) -> Self {
        let Bounds { net_above, occupancy_above } = bounds;
        let least = if load > occupancy_above {
            Self::Occupancy
        } else if load > net_above {
            Self::Net
        } else {
            Self::Full
        };
        let is_below_half = |bound: u64| load < bound.div_ceil(2);
        let most = if !is_below_half(occupancy_above) {
            Self::Occupancy
        } else if !is_below_half(net_above) {
            Self::Net
        } else {
            Self::Full
        };
        self.max(least).min(most)
    }

    /// Whether frames have lists of members in this mode.
    pub fn has_lists(self) -> bool {
        self != Self::Occupancy
    }

    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Net => "net",
            Self::Occupancy => "occupancy",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { net_above: 100, occupancy_above: 1_000 };

    #[test]
    fn a_channel_grows_into_each_mode_above_its_bound_and_leaves_it_below_half() {
        let mut mode = Mode::Full;
        let mut at = |load| {
            mode = mode.next(load, BOUNDS);
            mode
        };
        assert_eq!([100, 101, 50, 49].map(&mut at), [Mode::Full, Mode::Net, Mode::Net, Mode::Full]);
        assert_eq!([1_000, 1_001, 500].map(&mut at), [Mode::Net, Mode::Occupancy, Mode::Occupancy]);
        assert_eq!([499, 50, 49].map(&mut at), [Mode::Net, Mode::Net, Mode::Full]);
        assert_eq!([u64::MAX, 0].map(&mut at), [Mode::Occupancy, Mode::Full], "and it may skip one");
    }

    #[test]
    fn whatever_the_bounds_a_mode_that_was_entered_stays_until_the_load_has_halved_or_passed_a_bound() {
        for seed in 0..20_000_u64 {
            // Numbers of all sizes, the same each time.
            let number = |salt: u64| {
                let mixed = (seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(salt as u32) ^ salt;
                mixed.wrapping_mul(0xbf58_476d_1ce4_e5b9) >> (mixed % 60)
            };
            let net_above = number(1).clamp(1, 1 << 40);
            let bounds = Bounds { net_above, occupancy_above: net_above + number(2).clamp(1, 1 << 40) };
            let (load, other) = (number(3), number(4));
            for mode in Mode::ALL {
                let now = mode.next(load, bounds);
                assert_eq!(now.next(load, bounds), now, "one load leads to one mode: {bounds:?} {load}");
                assert!(mode.next(load.max(other), bounds) >= mode.next(load.min(other), bounds), "more is never less");
                // What lies between half and the whole of what it has just been changes nothing.
                let between = load - (load.saturating_sub(1) / 2).min(other);
                assert!(now <= mode || now.next(between, bounds) == now, "{bounds:?} {load} {between}");
            }
            assert_eq!(Mode::of(load, bounds) == Mode::Full, load <= net_above);
            assert_eq!(Mode::of(load, bounds) == Mode::Occupancy, load > bounds.occupancy_above);
        }
    }
}
