//! Between the domain and what stands in Redis: the only file that sees both.

use std::{collections::HashMap, sync::Arc};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::domain::{
    aside::{Said, Towards, What},
    bar::{Bar, Barring, BarsThere, Whom},
    member::{Occupancy, Reason},
    name::{ChannelName, ConnectionId, RosterKey, UserName},
    partition::{Batch, Beat, Due, Refusal, Renewal, Sweep, Swept},
    person::Record,
    roster::{Ask, Body, Change, Control, Entry, Generation, IndexChange, Keep, Outcome, Published, Row, Stay},
    tally::Tally,
    version::Epoch,
};
use crate::store::FeedEvent;

/// The kinds of asides.
const TYPING: u64 = 1;
const SIGNAL: u64 = 2;

/// What stands in Redis or came from it is not what this program writes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Redis holds or answered what this program cannot read: {0}")]
pub struct Unreadable(pub &'static str);

/// One value of a call or an answer, in msgpack.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Item {
    /// yes or no
    Flag(bool),
    /// a count, a take, a length
    Number(i64),
    /// a name, a row, JSON
    Text(Arc<str>),
    /// several
    List(Vec<Item>),
}

impl From<&str> for Item {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

impl From<u64> for Item {
    fn from(number: u64) -> Self {
        Self::Number(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<bool> for Item {
    fn from(flag: bool) -> Self {
        Self::Flag(flag)
    }
}

impl Item {
    fn number(&self) -> Result<u64, Unreadable> {
        match self {
            Self::Number(number) => u64::try_from(*number).map_err(|_| Unreadable("a negative number")),
            _ => Err(Unreadable("a number was expected")),
        }
    }

    fn text(&self) -> Result<&Arc<str>, Unreadable> {
        match self {
            Self::Text(text) => Ok(text),
            _ => Err(Unreadable("a text was expected")),
        }
    }

    fn list(&self) -> Result<&[Item], Unreadable> {
        match self {
            Self::List(items) => Ok(items),
            _ => Err(Unreadable("a list was expected")),
        }
    }

    fn flag(&self) -> Result<bool, Unreadable> {
        match self {
            Self::Flag(flag) => Ok(*flag),
            _ => Err(Unreadable("yes or no was expected")),
        }
    }
}

/// Packs values for a script.
pub fn pack(items: &[Item]) -> Vec<u8> {
    rmp_serde::to_vec(items).expect("items are plain data")
}

fn unpack(bytes: &[u8]) -> Result<Vec<Item>, Unreadable> {
    rmp_serde::from_slice(bytes).map_err(|_| Unreadable("not msgpack"))
}

fn at(items: &[Item], index: usize) -> Result<&Item, Unreadable> {
    items.get(index).ok_or(Unreadable("an answer ends too early"))
}

/// The rosters that a call names, each once, in the order of their first mention; scripts count them from 1.
#[derive(Debug, Default)]
pub struct Rosters<'a> {
    list: Vec<&'a RosterKey>,
    places: HashMap<&'a RosterKey, u64>,
}

impl<'a> Rosters<'a> {
    fn place(&mut self, roster: &'a RosterKey) -> Item {
        let place = *self.places.entry(roster).or_insert_with(|| {
            self.list.push(roster);
            self.list.len() as u64
        });
        place.into()
    }

    fn names(&self) -> Item {
        Item::List(self.list.iter().map(|roster| Item::Text(roster.to_string().into())).collect())
    }

    /// The rosters, for their keys.
    pub fn list(&self) -> &[&'a RosterKey] {
        &self.list
    }
}

/// The call of `renew.lua`.
pub fn renew_call(renewal: &Renewal, link: u64) -> Vec<Item> {
    vec![
        Item::Text(renewal.generation.to_string().into()),
        link.into(),
        (&*renewal.version).into(),
        renewal.known.as_ref().map_or("", Epoch::as_str).into(),
        renewal.done.into(),
        renewal.bye.into(),
    ]
}

/// The call of `write.lua`.
pub fn write_call(batch: &Batch) -> (Rosters<'_>, Vec<Item>) {
    let mut rosters = Rosters::default();
    let mut entries = Vec::with_capacity(batch.entries.len() * 13);
    for Entry { roster, connection, ask } in &batch.entries {
        let place = rosters.place(roster);
        let kind = match ask {
            Ask::Present { .. } => 0_u64,
            Ask::Claim { .. } => 1,
            Ask::Release => 2,
            Ask::Absent { .. } => 3,
            Ask::Person { .. } => 4,
            Ask::Active { .. } => 5,
            Ask::Forget => 6,
        };
        entries.extend([kind.into(), place, connection.as_str().into()]);
        match ask {
            Ask::Present { take, fresh, limit, keep, body } => entries.extend([
                (*take).into(),
                (*fresh).into(),
                (*limit).into(),
                match keep {
                    Keep::Held => Item::Number(-1),
                    Keep::Ending { remaining_ms } => (*remaining_ms).into(),
                },
                body.user.as_str().into(),
                body.since.into(),
                body.changed.into(),
                Item::Text(rest(batch, *keep, body).into()),
                Item::Text(body.payload.clone()),
                Item::Text(body.since.to_string().into()),
            ]),
            Ask::Claim { token_take } => entries.push((*token_take).into()),
            Ask::Release | Ask::Forget => {}
            Ask::Person { record: Record { serial, hidden, lasting, profile } } => {
                entries.extend([(*serial).into(), (*hidden).into(), (*lasting).into(), Item::Text(profile.clone())]);
            }
            Ask::Active { at } => entries.push((*at).into()),
            Ask::Absent { take, reason } => {
                entries.extend([take.map_or(Item::Number(-1), Item::from), reason.as_str().into()]);
            }
        }
    }
    let call = vec![
        rosters.names(),
        Item::Text(batch.generation.to_string().into()),
        batch.link.into(),
        batch.epoch.as_str().into(),
        Item::List(entries),
    ];
    (rosters, call)
}

/// A row from its holder to the end of what others do not see, as `rows.lua` has it.
fn rest(batch: &Batch, keep: Keep, body: &Body) -> String {
    let Batch { generation, epoch, .. } = batch;
    let Body { user, valid, grace_ms, private, .. } = body;
    // A line feed in JSON is white space outside of any string, and ends the private part of a row.
    let private = private.replace('\n', " ");
    match keep {
        Keep::Held => format!("{generation} {epoch} {valid} {grace_ms} {user}\n{private}\n"),
        Keep::Ending { .. } => {
            let holder = Reason::Timeout.as_str();
            format!("-{holder}:{} {epoch} {valid} {grace_ms} {user}\n{private}\n", generation.instance)
        }
    }
}

/// The call of `sweep.lua`.
pub fn sweep_call(sweep: &Sweep, most: usize) -> (Rosters<'_>, Vec<Item>) {
    let mut rosters = Rosters::default();
    let mut due = Vec::with_capacity(sweep.due.len() * 3);
    for (Due { roster, connection }, top_take) in &sweep.due {
        let connection = connection.as_ref().map_or("", ConnectionId::as_str);
        due.extend([rosters.place(roster), connection.into(), (*top_take).into()]);
    }
    let mut dead = Item::from("");
    let mut lost = Vec::new();
    if let Some((generation, rows)) = &sweep.lost {
        dead = Item::Text(generation.to_string().into());
        for (roster, connection) in rows {
            lost.extend([rosters.place(roster), connection.as_str().into()]);
        }
    }
    let call = vec![rosters.names(), (most as u64).into(), Item::List(due), dead, Item::List(lost)];
    (rosters, call)
}

/// What a reader found suspicious: rows, and users of channels with the connections that may be theirs.
#[derive(Debug, Default)]
pub struct Suspects {
    /// Rows.
    pub rows: Vec<(RosterKey, String)>,
    /// Users of channels.
    pub users: Vec<(RosterKey, String, String)>,
    /// Rosters whose place in the indexes is in doubt.
    pub rosters: Vec<RosterKey>,
}

impl Suspects {
    /// Whether there is nothing to look at again.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.users.is_empty() && self.rosters.is_empty()
    }
}

/// The call of `audit.lua`.
pub fn audit_call(suspects: &Suspects) -> (Rosters<'_>, Vec<Item>) {
    let mut rosters = Rosters::default();
    let (mut rows, mut users) = (Vec::new(), Vec::new());
    for (roster, connection) in &suspects.rows {
        rows.extend([rosters.place(roster), connection.as_str().into()]);
    }
    for (roster, user, connections) in &suspects.users {
        users.extend([rosters.place(roster), user.as_str().into(), connections.as_str().into()]);
    }
    for roster in &suspects.rosters {
        rosters.place(roster);
    }
    let call = vec![rosters.names(), Item::List(rows), Item::List(users)];
    (rosters, call)
}

/// The call of `bar.lua`.
pub fn bar_call(barring: &Barring) -> Vec<Item> {
    let Barring { bars, most, said, page: (passed_over, listed) } = barring;
    vec![
        (*most).into(),
        Item::Text(said.clone()),
        (*passed_over).into(),
        (*listed).into(),
        Item::List(bars.iter().flat_map(bar_items).collect()),
    ]
}

fn bar_items(bar: &Bar) -> [Item; 3] {
    [Item::Text(bar.whom.to_stored().into()), bar.until_ms.into(), bar.remaining_ms.into()]
}

fn bars(item: &Item) -> Result<Vec<Bar>, Unreadable> {
    let bar = |items: &[Item]| {
        Ok(Bar {
            whom: Whom::from_stored(at(items, 0)?.text()?).ok_or(Unreadable("whom a bar keeps out"))?,
            until_ms: at(items, 1)?.number()?,
            remaining_ms: at(items, 2)?.number()?,
        })
    };
    item.list()?.chunks(3).map(bar).collect()
}

/// Reads what `bar.lua` lists.
///
/// # Errors
/// [`Unreadable`] where it is none.
pub fn bars_there(beat: Beat, item: Option<Item>) -> Result<BarsThere, Unreadable> {
    let item = item.ok_or(Unreadable("bars were answered without a list"))?;
    let items = item.list()?;
    let (refused, count) = (at(items, 0)?.number()?, at(items, 1)?.number()?);
    Ok(BarsThere { beat, refused, count, bars: bars(at(items, 2)?)? })
}

/// What every script answers: the beat and what the body added, or the refusal with what it says.
pub type Answer = Result<(Beat, Option<Item>), (Refusal, Option<String>)>;

/// Reads the answer of a script.
///
/// # Errors
/// [`Unreadable`] where it is none.
pub fn answer(bytes: &[u8]) -> Result<Answer, Unreadable> {
    let items = unpack(bytes)?;
    let refusal = match &**at(&items, 0)?.text()? {
        "ok" => None,
        "epoch" => Some(Refusal::Epoch),
        "dead" => Some(Refusal::Dead),
        "link" => Some(Refusal::Link),
        "terms" => Some(Refusal::Terms),
        _ => return Err(Unreadable("an unknown refusal")),
    };
    if let Some(refusal) = refusal {
        let said = items.get(1).and_then(|said| said.text().ok()).map(|said| said.to_string());
        return Ok(Err((refusal, said)));
    }
    let beat = Beat {
        now: at(&items, 1)?.number()?,
        epoch: Epoch::new(at(&items, 2)?.text()?),
        settling: at(&items, 3)?.flag()?,
        next_due: at(&items, 4)?.number().ok(),
        tally: tally(at(&items, 6)?.list()?)?,
    };
    Ok(Ok((beat, items.into_iter().nth(5))))
}

fn tally(items: &[Item]) -> Result<Tally, Unreadable> {
    let mut tally = Tally::default();
    (tally.joins, tally.saved) = (at(items, 0)?.number()?, at(items, 1)?.number()?);
    for left in items[2..].chunks(2) {
        let reason = Reason::from_stored(at(left, 0)?.text()?).ok_or(Unreadable("an unknown reason"))?;
        tally.add_leaves(reason, at(left, 1)?.number()?);
    }
    Ok(tally)
}

/// Reads the outcomes of `write.lua`.
///
/// # Errors
/// [`Unreadable`] where they are none.
pub fn outcomes(item: Option<Item>) -> Result<Vec<Outcome>, Unreadable> {
    let item = item.ok_or(Unreadable("a batch was answered without outcomes"))?;
    let mut items = item.list()?.iter();
    let mut outcomes = Vec::new();
    while let Some(kind) = items.next() {
        let mut next = || items.next().ok_or(Unreadable("an outcome ends too early"));
        outcomes.push(match kind.number()? {
            0 => Outcome::Done {
                take: next()?.number()?,
                number: next()?.number()?,
                changed: next()?.number()?,
                since: next()?.number()?,
                record: record(next()?)?,
            },
            1 => Outcome::Claimed { row: Box::new(row(next()?.text()?)?), record: record(next()?)? },
            2 => Outcome::Gone,
            3 => Outcome::Lost,
            4 => Outcome::Full,
            5 => Outcome::Hidden { record: record(next()?)?.ok_or(Unreadable("hidden without a record"))? },
            6 => Outcome::Later { record: record(next()?)?.ok_or(Unreadable("later without a record"))? },
            _ => return Err(Unreadable("an unknown outcome")),
        });
    }
    Ok(outcomes)
}

/// What is kept of a person; none where nothing is.
fn record(item: &Item) -> Result<Option<Box<Record>>, Unreadable> {
    if *item == Item::Flag(false) {
        return Ok(None);
    }
    let [serial, hidden, lasting, profile] = item.list()? else { return Err(Unreadable("a record has four parts")) };
    let (hidden, lasting) = (hidden.flag()?, lasting.flag()?);
    Ok(Some(Box::new(Record { serial: serial.number()?, hidden, lasting, profile: profile.text()?.clone() })))
}

/// Reads what `sweep.lua` lists.
///
/// # Errors
/// [`Unreadable`] where it is none.
pub fn swept(beat: Beat, item: Option<Item>) -> Result<Swept, Unreadable> {
    let item = item.ok_or(Unreadable("a sweep was answered without lists"))?;
    let [due, dead] = item.list()? else { return Err(Unreadable("a sweep lists two things")) };
    let due = due.list()?.iter().filter_map(|member| place(member.text().ok()?));
    let due = due.map(|(roster, connection)| Due { roster, connection }).collect();
    let mut dead: Vec<Generation> =
        dead.list()?.iter().filter_map(|text| Generation::from_stored(text.text().ok()?)).collect();
    dead.sort();
    Ok(Swept { beat, due, dead })
}

/// Reads `roster connection`, as it stands in `ending` and `held`.
pub fn place(member: &str) -> Option<(RosterKey, Option<ConnectionId>)> {
    let (roster, connection) = member.rsplit_once(' ')?;
    let connection = (!connection.is_empty()).then(|| ConnectionId::from_stored(connection));
    Some((RosterKey::from_stored(roster)?, connection))
}

/// Reads a row: `take changed since holder epoch valid grace user`, a line of what others do not see, the payload.
///
/// # Errors
/// [`Unreadable`] where it is none.
pub fn row(text: &str) -> Result<Row, Unreadable> {
    let wrong = Unreadable("a row");
    let (header, body) = text.split_once('\n').ok_or(wrong.clone())?;
    let (private, payload) = body.split_once('\n').ok_or(wrong.clone())?;
    let fields: Vec<&str> = header.split(' ').collect();
    let [take, changed, since, holder, epoch, valid, grace, user] = fields[..] else { return Err(wrong) };
    let number = |text: &str| text.parse::<u64>().map_err(|_| Unreadable("a row's number"));
    Ok(Row {
        user: UserName::parse(user).map_err(|_| Unreadable("a row's user"))?,
        take: number(take)?,
        valid: number(valid)?,
        stay: stay(holder).ok_or(wrong)?,
        epoch: Epoch::new(epoch),
        grace_ms: number(grace)?,
        since: number(since)?,
        changed: number(changed)?,
        private: private.into(),
        payload: payload.into(),
    })
}

fn stay(holder: &str) -> Option<Stay> {
    let Some(ending) = holder.strip_prefix('-') else { return Generation::from_stored(holder).map(Stay::Held) };
    let (reason, by) = ending.split_once(':')?;
    Some(Stay::Ending { reason: Reason::from_stored(reason)?, by: by.into() })
}

/// What is said in a roster, as its feed tells it. It begins with a number, as no change does.
pub fn said(said: &Said) -> Vec<u8> {
    let Said { user, connection, what } = said;
    let (user, connection) = (user.as_str().into(), connection.as_str().into());
    match what {
        What::Typing(typing) => pack(&[TYPING.into(), user, connection, (*typing).into()]),
        What::Signal { data, time, echo } => {
            pack(&[SIGNAL.into(), user, connection, data.get().into(), (*time).into(), (*echo).into()])
        }
    }
}

/// Reads what a roster's feed says.
///
/// # Errors
/// [`Unreadable`] where it is nothing that this program knows.
pub fn heard(roster: RosterKey, bytes: &[u8]) -> Result<FeedEvent, Unreadable> {
    let items = unpack(bytes)?;
    let Item::Number(kind) = at(&items, 0)? else { return published(roster, &items).map(FeedEvent::Published) };
    let what = match u64::try_from(*kind) {
        Ok(TYPING) => What::Typing(at(&items, 3)?.flag()?),
        Ok(SIGNAL) => {
            let data = RawValue::from_string(at(&items, 3)?.text()?.to_string());
            let data = Arc::from(data.map_err(|_| Unreadable("a signal's data"))?);
            What::Signal { data, time: at(&items, 4)?.number()?, echo: at(&items, 5)?.flag()? }
        }
        _ => return Err(Unreadable("an unknown aside")),
    };
    let (user, connection) = (user(at(&items, 1)?)?, ConnectionId::from_stored(at(&items, 2)?.text()?));
    Ok(FeedEvent::Said(roster, Said { user, connection, what }))
}

fn published(roster: RosterKey, items: &[Item]) -> Result<Published, Unreadable> {
    let changes = at(items, 6)?.list()?.iter().map(|change| match change.list()? {
        [_] => Ok(Change::Person),
        [connection, reason] => Ok(Change::Remove {
            connection: ConnectionId::from_stored(connection.text()?),
            reason: Reason::from_stored(reason.text()?).ok_or(Unreadable("an unknown reason"))?,
        }),
        [connection, user, since, changed, payload] => Ok(Change::Set {
            connection: ConnectionId::from_stored(connection.text()?),
            user: self::user(user)?,
            since: since.number()?,
            changed: changed.number()?,
            payload: payload.text()?.clone(),
        }),
        _ => Err(Unreadable("an unknown change")),
    });
    Ok(Published {
        epoch: Epoch::new(at(items, 0)?.text()?),
        from: at(items, 1)?.number()?,
        to: at(items, 2)?.number()?,
        starts: at(items, 3)?.flag()?,
        occupancy: Occupancy { users: at(items, 4)?.number()?, connections: at(items, 5)?.number()? },
        changes: changes.collect::<Result<_, _>>()?,
        roster,
    })
}

/// Reads what came into the indexes and went out of them.
///
/// # Errors
/// [`Unreadable`] where it is none.
pub fn index_change(bytes: &[u8]) -> Result<IndexChange, Unreadable> {
    let items = unpack(bytes)?;
    let to = at(&items, 1)?.number()?;
    let rosters = |index| {
        let names = at(&items, index)?.list()?.iter();
        let rosters = names.map(|name| RosterKey::from_stored(name.text()?).ok_or(Unreadable("a roster's name")));
        let mut rosters = rosters.collect::<Result<Vec<_>, Unreadable>>()?;
        rosters.sort();
        Ok::<_, Unreadable>(rosters)
    };
    Ok(IndexChange {
        epoch: Epoch::new(at(&items, 0)?.text()?),
        from: to.checked_sub(1).ok_or(Unreadable("a change without a number"))?,
        to,
        come: rosters(2)?,
        gone: rosters(3)?,
    })
}

/// Reads what instances are told.
///
/// # Errors
/// [`Unreadable`] where it is none.
pub fn control(bytes: &[u8]) -> Result<Control, Unreadable> {
    let items = unpack(bytes)?;
    match &**at(&items, 0)?.text()? {
        "epoch" => Ok(Control::Epoch(Epoch::new(at(&items, 1)?.text()?))),
        "settled" => Ok(Control::Settled(Epoch::new(at(&items, 1)?.text()?))),
        "overruled" => Ok(Control::Overruled {
            roster: RosterKey::from_stored(at(&items, 1)?.text()?).ok_or(Unreadable("a roster's name"))?,
            connection: ConnectionId::from_stored(at(&items, 2)?.text()?),
            take: at(&items, 3)?.number()?,
            reason: Reason::from_stored(at(&items, 4)?.text()?).ok_or(Unreadable("an unknown reason"))?,
        }),
        "person" => Ok(Control::Person(user(at(&items, 1)?)?)),
        "barred" => Ok(Control::Barred { said: at(&items, 1)?.text()?.clone(), bars: bars(at(&items, 2)?)? }),
        "put_out" => Ok(Control::PutOut { user: user(at(&items, 1)?)?, said: at(&items, 2)?.text()?.clone() }),
        "join" => Ok(Control::Join {
            channel: ChannelName::parse(at(&items, 1)?.text()?).map_err(|_| Unreadable("a channel's name"))?,
            state: Some(at(&items, 2)?.text()?.clone()).filter(|state| !state.is_empty()),
            connections: at(&items, 3)?
                .list()?
                .iter()
                .map(|connection| Ok(ConnectionId::from_stored(connection.text()?)))
                .collect::<Result<_, _>>()?,
        }),
        "typing" => Ok(Control::Typing(Towards {
            to: user(at(&items, 1)?)?,
            by: user(at(&items, 2)?)?,
            connection: ConnectionId::from_stored(at(&items, 3)?.text()?),
            typing: at(&items, 4)?.flag()?,
        })),
        _ => Err(Unreadable("an unknown message")),
    }
}

fn user(item: &Item) -> Result<UserName, Unreadable> {
    UserName::parse(item.text()?).map_err(|_| Unreadable("a user's name"))
}

/// Packs what instances are told, as scripts and [`control`] have it.
pub fn pack_control(control: &Control) -> Vec<u8> {
    pack(&match control {
        Control::Epoch(epoch) => vec!["epoch".into(), epoch.as_str().into()],
        Control::Settled(epoch) => vec!["settled".into(), epoch.as_str().into()],
        Control::Overruled { roster, connection, take, reason } => vec![
            "overruled".into(),
            Item::Text(roster.to_string().into()),
            connection.as_str().into(),
            (*take).into(),
            reason.as_str().into(),
        ],
        Control::Barred { bars, said } => {
            let bars = bars.iter().flat_map(bar_items).collect();
            vec!["barred".into(), Item::Text(said.clone()), Item::List(bars)]
        }
        Control::Person(user) => vec!["person".into(), user.as_str().into()],
        Control::Typing(Towards { to, by, connection, typing }) => {
            let names = [to.as_str(), by.as_str(), connection.as_str()];
            ["typing"].into_iter().chain(names).map(Item::from).chain([(*typing).into()]).collect()
        }
        Control::PutOut { user, said } => vec!["put_out".into(), user.as_str().into(), Item::Text(said.clone())],
        Control::Join { connections, channel, state } => {
            let connections = connections.iter().map(|connection| connection.as_str().into()).collect();
            let state = state.clone().unwrap_or_else(|| "".into());
            vec!["join".into(), channel.as_str().into(), Item::Text(state), Item::List(connections)]
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_instances_are_told_is_read_as_it_was_packed() {
        let user = UserName::parse("日本").unwrap();
        let bar = |whom, until_ms| Bar { whom, until_ms, remaining_ms: 5 };
        let bars = vec![bar(Whom::User(user.clone()), 0), bar(Whom::Token("a b\n\0".into()), 0)];
        let connections = vec![ConnectionId::from_stored("a"), ConnectionId::from_stored("b")];
        let channel = ChannelName::parse("{x}").unwrap();
        for told in [
            Control::Epoch(Epoch::new("e")),
            Control::Settled(Epoch::new("e")),
            Control::Overruled {
                roster: RosterKey::Channel(channel.clone()),
                connection: connections[0].clone(),
                take: 3,
                reason: Reason::Kicked,
            },
            Control::Barred { bars: [bars, vec![bar(Whom::TokensOf(user.clone()), 9)]].concat(), said: "é".into() },
            Control::Barred { bars: Vec::new(), said: "".into() },
            Control::Person(user.clone()),
            Control::PutOut { user: user.clone(), said: "".into() },
            Control::Typing(Towards { to: user.clone(), by: user, connection: connections[0].clone(), typing: true }),
            Control::Join { connections, channel: channel.clone(), state: Some("{\"a\":[]}".into()) },
            Control::Join { connections: Vec::new(), channel, state: None },
        ] {
            assert_eq!(control(&pack_control(&told)), Ok(told));
        }
    }

    #[test]
    fn a_row_is_read_as_scripts_write_it() {
        let read = row("3 9 1700000000000 i1:4 e1 2 15000 \u{65e5}\u{672c}\n{\"p\":1}\n{\"state\":\"a\n b\"}").unwrap();
        assert_eq!((read.take, read.valid, read.grace_ms, read.changed), (3, 2, 15_000, 9));
        assert_eq!(read.stay, Stay::Held(Generation { instance: "i1".into(), number: 4 }));
        assert_eq!((&*read.private, &*read.payload), ("{\"p\":1}", "{\"state\":\"a\n b\"}"));
        let ending = row("1 1 1 -instance_lost:i1 e1 0 1 ann\n\n{}").unwrap();
        assert_eq!(ending.stay, Stay::Ending { reason: Reason::InstanceLost, by: "i1".into() });
        for wrong in
            ["", "1 1 1 i:1 e 0 1 ann", "1 1 1 i:1 e 0 ann\n\n", "x 1 1 i:1 e 0 1 ann\n\n", "1 1 1 - e 0 1 a\n\n"]
        {
            assert!(row(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn asides_are_read_back_and_told_from_changes_and_from_what_is_not_known() {
        let roster = RosterKey::from_stored("c:room:1").unwrap();
        let (user, connection) = (UserName::parse("ann").unwrap(), ConnectionId::from_bytes([7; 16]));
        let data = Arc::from(RawValue::from_string(r#"{"a":[1,"é"]}"#.to_owned()).unwrap());
        for what in [What::Typing(true), What::Typing(false), What::Signal { data, time: 9, echo: true }] {
            let before = Said { user: user.clone(), connection: connection.clone(), what };
            let after = match heard(roster.clone(), &said(&before)) {
                Ok(FeedEvent::Said(heard_in, said)) if heard_in == roster => said,
                other => panic!("{other:?}"),
            };
            assert_eq!(format!("{before:?}"), format!("{after:?}"));
        }
        let unknown = pack(&[99_u64.into(), "ann".into(), "c".into()]);
        let no_json = pack(&[SIGNAL.into(), "ann".into(), "c".into(), "{".into(), 1_u64.into(), true.into()]);
        let short = pack(&[TYPING.into(), "ann".into()]);
        let no_user = pack(&[TYPING.into(), "".into(), "c".into(), true.into()]);
        for wrong in [unknown, no_json, short, no_user] {
            assert!(heard(roster.clone(), &wrong).is_err());
        }
    }
}
