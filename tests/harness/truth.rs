//! What truly happened, written down by those who did it, and whether watchers were told just that.
//!
//! It knows nothing of sockets and clocks: times are milliseconds of any one clock, names are texts. The simulation under `src/core` uses it too.

use std::collections::{BTreeMap, BTreeSet};

/// What is known of a connection in a channel from a moment on.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Mark {
    /// It may be there.
    Maybe,
    /// It is there, and must be shown.
    Present,
    /// It is not there.
    Absent,
    /// It may be there until so much quiet time has passed since `from`; then it is not.
    AbsentBy { from: u64, quiet: u64 },
}

/// Why somebody is no longer there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Left,
    Broke,
}

/// What must be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Absent,
    Maybe,
    Present,
}

/// Channel and connection.
type Place = (String, String);

/// The diary of all who come and go, and of what was broken on purpose.
#[derive(Debug, Clone, Default)]
pub struct Truth {
    marks: BTreeMap<Place, Vec<(u64, Mark)>>,
    ends: BTreeMap<Place, Vec<(u64, End)>>,
    users: BTreeMap<String, String>,
    comings: BTreeMap<Place, usize>,
    noise: Vec<(u64, u64)>,
    excuses: Vec<(u64, u64)>,
    forgot: Vec<u64>,
    counts: BTreeMap<&'static str, usize>,
}

/// Whether a join is known to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sure {
    Yes,
    /// Nobody has answered.
    Unknown,
}

/// A connection that came back after its socket had broken.
#[derive(Debug)]
pub struct Back<'a> {
    pub connection: &'a str,
    /// Where it believed to be.
    pub joined: BTreeMap<&'static str, Sure>,
    /// Where it is, as the welcome says.
    pub there: &'a [&'a str],
    /// When its socket broke, and until when its places were kept at least.
    pub broke: u64,
    pub kept: u64,
    pub at: u64,
}

impl Truth {
    /// Something was broken on purpose, or was still recovering, from then to then: nothing that has to be told needs to be told meanwhile.
    pub fn noise(&mut self, from: u64, to: u64) {
        self.noise.push((from, to));
    }

    /// Meanwhile somebody who left or broke may be told to be gone for another reason.
    pub fn excuse(&mut self, from: u64, to: u64) {
        self.excuses.push((from, to));
    }

    /// The store lost what it knew, or part of it.
    pub fn forgot(&mut self, at: u64) {
        self.forgot.push(at);
    }

    /// Counts something that is told to nobody.
    pub fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    /// How often each thing happened.
    pub fn counts(&self) -> &BTreeMap<&'static str, usize> {
        &self.counts
    }

    fn mark(&mut self, channel: &str, connection: &str, at: u64, mark: Mark) {
        let marks = self.marks.entry((channel.to_owned(), connection.to_owned())).or_default();
        debug_assert!(
            marks.last().is_none_or(|(before, _)| *before <= at),
            "{channel} {connection}: time runs forwards"
        );
        marks.push((at, mark));
    }

    fn end(&mut self, channel: &str, connection: &str, at: u64, end: End) {
        self.ends.entry((channel.to_owned(), connection.to_owned())).or_default().push((at, end));
    }

    /// A join was sent.
    pub fn joining(&mut self, channel: &str, connection: &str, user: &str, at: u64) {
        self.users.insert(connection.to_owned(), user.to_owned());
        *self.comings.entry((channel.to_owned(), connection.to_owned())).or_default() += 1;
        self.mark(channel, connection, at, Mark::Maybe);
    }

    /// It was acknowledged.
    pub fn joined(&mut self, channel: &str, connection: &str, at: u64) {
        self.count("join");
        self.mark(channel, connection, at, Mark::Present);
    }

    /// It was refused, and shall not happen later.
    pub fn not_joined(&mut self, channel: &str, connection: &str, at: u64) {
        self.count("join refused");
        self.end(channel, connection, at, End::Left);
        self.mark(channel, connection, at, Mark::AbsentBy { from: at, quiet: 0 });
    }

    /// A leave was sent, or a goodbye.
    pub fn leaving(&mut self, channel: &str, connection: &str, at: u64) {
        self.count("left");
        self.end(channel, connection, at, End::Left);
        self.mark(channel, connection, at, Mark::Maybe);
    }

    /// It was acknowledged.
    pub fn left(&mut self, channel: &str, connection: &str, at: u64) {
        self.mark(channel, connection, at, Mark::Absent);
    }

    /// It was not acknowledged, and will happen as soon as it can, when so much quiet time has passed.
    pub fn will_have_left(&mut self, channel: &str, connection: &str, at: u64, quiet: u64) {
        self.mark(channel, connection, at, Mark::AbsentBy { from: at, quiet });
    }

    /// The connection broke at `broke`, was kept until `kept`, and came back after that: it may have left, and come anew.
    pub fn came_back_late(&mut self, channel: &str, connection: &str, broke: u64, kept: u64, at: u64) {
        self.end(channel, connection, broke, End::Broke);
        *self.comings.entry((channel.to_owned(), connection.to_owned())).or_default() += 1;
        self.mark(channel, connection, kept, Mark::Maybe);
        self.mark(channel, connection, at, Mark::Present);
    }

    /// A connection goes on. Returns where it is, and where it is not though it should be.
    pub fn came_back(&mut self, back: Back<'_>, channels: &[&'static str]) -> (Vec<&'static str>, Vec<&'static str>) {
        let Back { connection, joined, there, broke, kept, at } = back;
        // Its grace was over: perhaps nobody had looked yet, or an older copy has brought it back.
        let (is_late, kept) = (at >= kept, kept.max(broke));
        let mut missing = Vec::new();
        for (name, sure) in &joined {
            match (there.contains(name), sure) {
                (true, _) if is_late => self.came_back_late(name, connection, broke, kept, at),
                (false, _) if is_late => self.lost(name, connection, broke, kept, at, 0),
                (true, Sure::Unknown) => self.joined(name, connection, at),
                (true, Sure::Yes) => {}
                (false, Sure::Unknown) => self.will_have_left(name, connection, at, 0),
                (false, Sure::Yes) => missing.push(*name),
            }
        }
        // What nobody acknowledged may have happened all the same: the welcome says so.
        for name in channels.iter().filter(|name| there.contains(name) && !joined.contains_key(*name)) {
            self.joined(name, connection, at);
        }
        (channels.iter().copied().filter(|name| there.contains(name)).collect(), missing)
    }

    /// The connection broke at `broke` and did not come back: it stays until `kept`, and has left when `quiet` has passed in quiet since `from`.
    pub fn lost(&mut self, channel: &str, connection: &str, broke: u64, kept: u64, from: u64, quiet: u64) {
        self.count("timeout");
        self.end(channel, connection, broke, End::Broke);
        self.mark(channel, connection, kept, Mark::AbsentBy { from, quiet });
    }

    /// What a watcher by user or by connection must be shown, by channel and user or connection: from when on what holds.
    fn statuses(&self, by_user: bool, quiet: &Quiet) -> BTreeMap<Place, Vec<(u64, Status)>> {
        let of_connection = |place: &Place| {
            let marks = &self.marks[place];
            let mut statuses = vec![(0, Status::Absent)];
            for (index, (at, mark)) in marks.iter().enumerate() {
                match mark {
                    Mark::Maybe => statuses.push((*at, Status::Maybe)),
                    Mark::Present => statuses.push((*at, Status::Present)),
                    Mark::Absent => statuses.push((*at, Status::Absent)),
                    Mark::AbsentBy { from, quiet: length } => {
                        statuses.push((*at, Status::Maybe));
                        let gone = quiet.after(*from, *length).max(*at);
                        if marks.get(index + 1).is_none_or(|(next, _)| *next > gone) {
                            statuses.push((gone, Status::Absent));
                        }
                    }
                }
            }
            statuses
        };
        let mut all: BTreeMap<Place, Vec<Vec<(u64, Status)>>> = BTreeMap::new();
        for place in self.marks.keys() {
            let who = if by_user { self.users[&place.1].clone() } else { place.1.clone() };
            all.entry((place.0.clone(), who)).or_default().push(of_connection(place));
        }
        all.into_iter().map(|(place, parts)| (place, greatest(&parts))).collect()
    }

    /// Who must be there at the end, by connection or by user.
    pub fn living(&self, channel: &str, by_user: bool) -> BTreeSet<String> {
        let quiet = Quiet::over(Vec::new());
        let statuses = self.statuses(by_user, &quiet);
        let here = statuses.into_iter().filter(|((place, _), statuses)| {
            place == channel && statuses.last().is_some_and(|(_, status)| *status == Status::Present)
        });
        here.map(|((_, who), _)| who).collect()
    }

    /// The time in which nothing was broken, and none of these windows was open.
    pub fn quiet(&self, windows: &[(u64, u64)]) -> Quiet {
        Quiet::over(self.noise.iter().chain(windows).copied().collect())
    }

    /// Everything that a watcher was told wrongly, too early, too late or too often, a sentence each. `lag` is the quiet time that telling may take,
    /// `end` the end of all.
    pub fn judge(&self, history: &History, lag: u64, end: u64) -> Vec<String> {
        let quiet = self.quiet(&history.away);
        let mut statuses = self.statuses(history.by_user, &quiet);
        statuses.retain(|(channel, _), _| history.channels.is_empty() || history.channels.contains(channel));
        let mut told: BTreeMap<Place, Vec<&Told>> = BTreeMap::new();
        for one in &history.told {
            told.entry((one.channel.clone(), one.who.clone())).or_default().push(one);
        }
        let mut faults = Vec::new();
        for (place, told) in &told {
            if !statuses.contains_key(place) {
                faults.push(format!("at {} {} in {} was shown, who never was there", told[0].at, place.1, place.0));
            }
        }
        for (place, statuses) in &statuses {
            let told = told.remove(place).unwrap_or_default();
            let unseen = history.unlisted.get(&place.0).into_iter().flatten();
            let quiet = self.quiet(&history.away.iter().chain(unseen).copied().collect::<Vec<_>>());
            let mut fault = |at: u64, what: String| {
                let near = |other: u64| other + 90_000 > at && other < at + 90_000;
                let told: Vec<_> = told.iter().filter(|one| near(one.at)).map(|one| one.to_string()).collect();
                let statuses: Vec<_> = statuses.iter().filter(|(at, _)| near(*at)).collect();
                faults.push(format!(
                    "at {at} {} in {}: {what}\n    told {told:?}\n    true {statuses:?}",
                    place.1, place.0
                ));
            };
            for (index, (from, status)) in statuses.iter().enumerate() {
                let to = statuses.get(index + 1).map_or(end, |(next, _)| *next);
                let settled = quiet.after(*from, lag);
                let wrong = match status {
                    Status::Maybe => None,
                    Status::Absent => ever(&told, settled, to, true).map(|at| (at, "was shown and is not there")),
                    Status::Present => ever(&told, settled, to, false).map(|at| (at, "is there and was not shown")),
                };
                if let Some((at, what)) = wrong {
                    fault(at, format!("{what}, though {status:?} since {from} to {to}"));
                }
            }
            // Where it is not known what is shown, it is still known how often it may change.
            let of_this = self.comings.iter().filter(|((channel, connection), _)| {
                *channel == place.0
                    && if history.by_user { self.users[connection] == place.1 } else { *connection == place.1 }
            });
            let comings: usize = of_this.map(|(_, count)| count).sum();
            // Who left in the very moment in which the store forgot it may be brought back by an instance that had not heard of it.
            let left_at = |at: u64| told.iter().any(|one| !one.shown && one.at + 1_000 > at && one.at < at + 100);
            let comings = comings + self.forgot.iter().filter(|at| left_at(**at)).count();
            // Whoever begins to watch while things recover is shown what the store has, those included whose end it does not know yet.
            let counts = |one: &&&Told| one.shown && (!one.whole || quiet.between(one.at, one.at + 1));
            let joins = told.iter().filter(counts).count();
            if joins > comings {
                let at = told.iter().filter(counts).nth(comings).map_or(end, |one| one.at);
                fault(at, format!("came {comings} times and was told to have come {joins} times"));
            }
            if !history.by_user {
                for leave in told.iter().filter(|one| !one.shown) {
                    if let Some(wrong) = self.wrong_reason(place, leave, &quiet) {
                        fault(leave.at, wrong);
                    }
                }
            }
        }
        faults
    }

    /// A leave is told with the reason that it had, as far as somebody could know.
    fn wrong_reason(&self, place: &Place, leave: &Told, quiet: &Quiet) -> Option<String> {
        let reason = leave.reason.as_deref()?;
        let (at, _) = self.ends.get(place)?.iter().rev().find(|(at, _)| *at <= leave.at)?;
        // Who breaks in the middle of leaving may go either way, and what was broken tells of earlier ends late.
        let ends = self.ends[place].iter().filter(|(other, _)| *other <= leave.at);
        let ends = ends.filter(|(other, _)| other + 1_000 > *at || !quiet.between(*other, leave.at));
        // A reading shows that somebody is gone and not why, and a lease may have ended: both only where something was broken.
        let was_quiet = |quiet: &Quiet| quiet.between(at.saturating_sub(30_000), leave.at);
        let is_quiet = was_quiet(quiet) && was_quiet(&Quiet::over(self.excuses.clone()));
        let right = ends.clone().any(|(_, end)| match (end, reason) {
            (End::Left, "left") | (End::Broke, "timeout") => true,
            (End::Left, "timeout" | "instance_lost") | (End::Broke, "instance_lost") => !is_quiet,
            _ => false,
        });
        let ends: Vec<_> = ends.collect();
        (!right).then(|| format!("{ends:?}, and was told to be gone at {} by reason of {reason}", leave.at))
    }
}

/// Whether what is shown is ever `shown` between two moments, and when.
fn ever(told: &[&Told], from: u64, to: u64, shown: bool) -> Option<u64> {
    if from >= to {
        return None;
    }
    let before = told.iter().rev().find(|one| one.at <= from).is_some_and(|one| one.shown);
    if before == shown {
        return Some(from);
    }
    told.iter().find(|one| one.at > from && one.at < to && one.shown == shown).map(|one| one.at)
}

/// The greatest of several statuses at each moment.
fn greatest(parts: &[Vec<(u64, Status)>]) -> Vec<(u64, Status)> {
    let rank = |status: Status| status as u8;
    let moments: BTreeSet<u64> = parts.iter().flatten().map(|(at, _)| *at).collect();
    let at_moment = |at: u64| {
        let each =
            parts.iter().filter_map(|part| part.iter().rev().find(|(from, _)| *from <= at).map(|(_, status)| *status));
        each.max_by_key(|status| rank(*status)).unwrap_or(Status::Absent)
    };
    let mut statuses: Vec<(u64, Status)> = Vec::new();
    for at in moments {
        let status = at_moment(at);
        if statuses.last().is_none_or(|(_, last)| *last != status) {
            statuses.push((at, status));
        }
    }
    statuses
}

/// Time without noise.
#[derive(Debug)]
pub struct Quiet {
    noise: Vec<(u64, u64)>,
}

impl Quiet {
    fn over(mut windows: Vec<(u64, u64)>) -> Self {
        windows.sort_unstable();
        let mut noise: Vec<(u64, u64)> = Vec::new();
        for (from, to) in windows {
            match noise.last_mut() {
                Some(last) if from <= last.1 => last.1 = last.1.max(to),
                _ => noise.push((from, to)),
            }
        }
        Self { noise }
    }

    /// The first moment by which so much quiet time has passed since `from`.
    pub fn after(&self, from: u64, length: u64) -> u64 {
        let mut at = from + length;
        for (begin, end) in &self.noise {
            if *end > from && *begin < at {
                at += end - (*begin).max(from);
            }
        }
        at
    }

    fn between(&self, from: u64, to: u64) -> bool {
        self.noise.iter().all(|(begin, end)| *end <= from || *begin >= to)
    }
}

/// Something that a watcher saw appear or disappear.
#[derive(Debug, Clone)]
pub struct Told {
    pub at: u64,
    pub channel: String,
    /// The user, or the connection.
    pub who: String,
    pub shown: bool,
    /// By a snapshot and not by a delta.
    pub whole: bool,
    /// Of a leave by a delta; none where a snapshot just did not show it.
    pub reason: Option<String>,
}

impl std::fmt::Display for Told {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let what = match (self.shown, &self.reason) {
            (true, _) => "+",
            (false, Some(reason)) => reason,
            (false, None) => "-",
        };
        write!(f, "{} {what}", self.at)
    }
}

/// What one watcher saw.
#[derive(Debug, Clone, Default)]
pub struct History {
    pub name: String,
    /// Whether it saw users, or connections.
    pub by_user: bool,
    /// Which channels it watched; all of them where none is named.
    pub channels: BTreeSet<String>,
    pub told: Vec<Told>,
    /// When it could see nothing, because it was not connected.
    pub away: Vec<(u64, u64)>,
    /// When it was shown the counts of a channel and no list, because the channel was large, by channel.
    pub unlisted: BTreeMap<String, Vec<(u64, u64)>>,
}
