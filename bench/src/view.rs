//! What one watcher knows of one channel, checked with every frame.

use crate::{
    names::Names,
    told::{Change, Mode},
};

/// What one knows of the channel that it watches.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// The channel's name, hashed; 0 while none is watched.
    pub channel: u64,
    epoch: u64,
    /// The version that it has.
    pub version: u64,
    /// How the channel is told.
    pub mode: Mode,
    /// How many users are there.
    pub users: u64,
    /// Who is there. None where there is no list, or only a part of one.
    pub names: Option<Names>,
    paging: Option<Names>,
    /// The state that was told last, hashed.
    pub state: u64,
    /// How many frames came, pages included.
    pub frames: u32,
    /// Of how many bytes.
    pub bytes: u64,
    /// How many joins and leaves the deltas had.
    pub moves: u64,
    /// Nothing came since the watch was asked for.
    fresh: bool,
}

impl View {
    /// A watch of this channel begins, or goes on from where it was.
    pub fn begin(&mut self, channel: u64) {
        if self.channel != channel {
            *self = Self { channel, ..Self::default() };
        }
        self.fresh = true;
        self.paging = None;
    }

    /// Whether somebody who watches knows all that this mode shows.
    pub fn is_whole(&self) -> bool {
        self.epoch != 0 && self.paging.is_none() && (self.names.is_some() || self.mode == Mode::Occupancy)
    }

    /// Takes a frame of this many bytes.
    pub fn take(&mut self, change: &Change, bytes: usize) -> Result<(), String> {
        self.frames += 1;
        self.bytes += bytes as u64;
        if change.channel != self.channel {
            return Err("a frame of a channel that is not watched".to_owned());
        }
        if self.epoch != 0 && self.epoch != change.epoch {
            return Err("another epoch, and nothing has happened to Redis".to_owned());
        }
        self.epoch = change.epoch;
        if change.whole {
            self.snapshot(change)?
        } else {
            self.delta(change)?
        }
        self.fresh = false;
        self.users = change.users;
        self.version = change.to;
        if change.state != 0 {
            self.state = change.state;
        }
        if self.is_whole() && self.names.is_some_and(|names| names.count != self.users) {
            return Err(format!("{:?} in the list, and {} users", self.names, self.users));
        }
        Ok(())
    }

    fn snapshot(&mut self, change: &Change) -> Result<(), String> {
        let goes_on = self.paging.is_some() && self.version == change.to && self.mode == change.mode;
        if !goes_on && !self.fresh && self.mode != change.mode && !change.turned {
            return Err(format!("the mode was {:?} and is {:?}, and nothing says why", self.mode, change.mode));
        }
        self.mode = change.mode;
        let names = self.paging.take().filter(|_| goes_on).unwrap_or_default().with(change.came);
        (self.paging, self.names) = match (change.more, change.listed) {
            (true, _) => (Some(names), None),
            (false, true) => (None, Some(names)),
            (false, false) => (None, None),
        };
        Ok(())
    }

    fn delta(&mut self, change: &Change) -> Result<(), String> {
        if self.version != change.from || self.paging.is_some() || self.mode != change.mode {
            return Err(format!("a delta {:?} from {} to {}, for {self:?}", change.mode, change.from, change.to));
        }
        self.moves += change.came.count + change.went.count;
        match &mut self.names {
            Some(names) => *names = names.with(change.came).without(change.went),
            None if change.came.count + change.went.count > 0 => return Err("names where there is no list".to_owned()),
            None => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(whole: bool, from: u64, to: u64, came: &[&str], went: &[&str], users: u64) -> Change {
        let (came, went) = (Names::of(came.iter().copied()), Names::of(went.iter().copied()));
        let (mode, turned, more) = (Mode::Full, false, false);
        Change { channel: 7, whole, epoch: 1, from, to, mode, turned, more, users, listed: true, came, went, state: 0 }
    }

    fn watching() -> View {
        let mut view = View::default();
        view.begin(7);
        view.take(&change(true, 0, 3, &["ann", "ben"], &[], 2), 100).expect("a snapshot");
        view
    }

    #[test]
    fn deltas_that_follow_one_another_make_the_list() {
        let mut view = watching();
        view.take(&change(false, 3, 5, &["cat"], &["ann"], 2), 100).expect("it follows");
        assert_eq!((view.names, view.version, view.moves), (Some(Names::of(["ben", "cat"])), 5, 2));
    }

    #[test]
    fn a_gap_a_strange_channel_and_a_list_that_does_not_fit_its_count_are_wrong() {
        assert!(watching().take(&change(false, 4, 5, &["cat"], &[], 3), 100).is_err(), "a gap");
        let strange = Change { channel: 8, ..change(false, 3, 4, &["cat"], &[], 3) };
        assert!(watching().take(&strange, 100).is_err(), "a strange channel");
        assert!(watching().take(&change(false, 3, 4, &["cat"], &[], 2), 100).is_err(), "a count that does not fit");
        let other = Change { mode: Mode::Net, ..change(true, 0, 4, &["cat"], &[], 1) };
        assert!(watching().take(&other, 100).is_err(), "a mode for no reason");
    }
}
