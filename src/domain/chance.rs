//! Chance, which enters the core and the memory store here alone, so that a simulation draws the same from the same seed.

use std::collections::HashMap;

use rand::distr::{
    Distribution, StandardUniform,
    uniform::{SampleRange, SampleUniform},
};

/// Something random.
pub fn random<T>() -> T
where
    StandardUniform: Distribution<T>,
{
    #[cfg(test)]
    if let Some(drawn) = seeded::draw(|chance| rand::RngExt::random(chance)) {
        return drawn;
    }
    rand::random()
}

/// Something random within `range`.
pub fn within<T: SampleUniform>(range: impl SampleRange<T> + Clone) -> T {
    #[cfg(test)]
    if let Some(drawn) = seeded::draw(|chance| rand::RngExt::random_range(chance, range.clone())) {
        return drawn;
    }
    rand::random_range(range)
}

/// A map in no order; in tests it is the same at each run.
pub type Map<K, V> = HashMap<K, V, Order>;

/// The order of a [`Map`].
#[cfg(not(test))]
pub type Order = std::hash::RandomState;
/// The order of a [`Map`].
#[cfg(test)]
pub type Order = std::hash::BuildHasherDefault<std::hash::DefaultHasher>;

#[cfg(test)]
pub use seeded::seed;

#[cfg(test)]
mod seeded {
    use std::cell::RefCell;

    use rand::{SeedableRng as _, rngs::StdRng};

    thread_local! {
        static SEEDED: RefCell<Option<StdRng>> = const { RefCell::new(None) };
    }

    /// From here on chance on this thread is that of the seed.
    pub fn seed(seed: u64) {
        SEEDED.set(Some(StdRng::seed_from_u64(seed)));
    }

    pub fn draw<T>(draw: impl FnOnce(&mut StdRng) -> T) -> Option<T> {
        SEEDED.with_borrow_mut(|chance| chance.as_mut().map(draw))
    }
}
