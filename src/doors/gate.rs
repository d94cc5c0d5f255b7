//! How many sockets may be open: in all, and from one address.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard},
};

use super::problem::Problem;
use crate::core::{Code, Error};

/// Counts the open sockets of an instance.
#[derive(Debug)]
pub struct Gate {
    most: usize,
    most_per_address: usize,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    all: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// Why nobody more comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crowded {
    /// The instance has as many sockets as it may have.
    Instance,
    /// The address has.
    Address,
}

impl From<Crowded> for Problem {
    fn from(crowded: Crowded) -> Self {
        match crowded {
            Crowded::Instance => Error::unavailable("this instance has as many sockets as it may have").into(),
            Crowded::Address => Self::new(Code::RateLimited, "this address has as many sockets as it may have"),
        }
    }
}

/// A place for one socket, given back when dropped.
#[derive(Debug)]
pub struct Permit {
    gate: Arc<Gate>,
    address: IpAddr,
}

impl Gate {
    /// A gate with nobody inside.
    pub fn new(most: usize, most_per_address: usize) -> Arc<Self> {
        Arc::new(Self { most, most_per_address, open: Mutex::default() })
    }

    /// Lets one more socket in.
    ///
    /// # Errors
    /// [`Crowded`].
    pub fn enter(self: &Arc<Self>, address: IpAddr) -> Result<Permit, Crowded> {
        let address = subscriber(address);
        let mut open = self.lock();
        if open.all >= self.most {
            return Err(Crowded::Instance);
        }
        let here = open.by_address.entry(address).or_default();
        if *here >= self.most_per_address {
            return Err(Crowded::Address);
        }
        *here += 1;
        open.all += 1;
        Ok(Permit { gate: self.clone(), address })
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().expect("nothing panics while it holds the counts")
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut open = self.gate.lock();
        open.all -= 1;
        if let Some(here) = open.by_address.get_mut(&self.address) {
            *here -= 1;
            if *here == 0 {
                open.by_address.remove(&self.address);
            }
        }
    }
}

/// One subscriber commonly has a whole /64 of IPv6, so that is what is counted.
fn subscriber(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(six) => IpAddr::V6((six.to_bits() & !u128::from(u64::MAX)).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_by_address_and_in_all_and_given_back() {
        let gate = Gate::new(3, 2);
        let (one, two): (IpAddr, IpAddr) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let first = gate.enter(one).unwrap();
        let _second = gate.enter(one).unwrap();
        assert_eq!(gate.enter(one).unwrap_err(), Crowded::Address);
        let _third = gate.enter(two).unwrap();
        assert_eq!(gate.enter(two).unwrap_err(), Crowded::Instance);
        drop(first);
        assert!(gate.enter(one).is_ok());
        let six = |text: &str| subscriber(text.parse().unwrap());
        assert_eq!(six("2001:db8::1"), six("2001:db8::2"));
        assert_ne!(six("2001:db8::1"), six("2001:db8:0:1::1"));
    }
}
