//! The channels of a watched pattern, as a client sees them who believes nothing it has not checked.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::Client;

/// What a client knows of a pattern.
#[derive(Debug, Clone, Default)]
pub struct PatternView {
    /// The occupied channels, each with epoch, version and counts.
    pub channels: BTreeMap<String, (String, u64, Value)>,
    /// Who has joined and not left since the channel was told of; who was there before is not known by name.
    pub joined: BTreeMap<String, BTreeSet<String>>,
    /// How often the whole came.
    pub wholes: usize,
    is_listing: bool,
}

impl PatternView {
    /// Takes a frame that names the pattern. An error says what is wrong with it.
    pub fn take(&mut self, frame: &Value) -> Result<(), String> {
        match frame["event"].as_str() {
            Some("channels") => self.list(frame),
            Some("delta") => self.change(frame),
            _ => Err("no event of a pattern".to_owned()),
        }
    }

    /// Whether the list has come as a whole.
    pub fn is_complete(&self) -> bool {
        self.wholes > 0 && !self.is_listing
    }

    fn list(&mut self, frame: &Value) -> Result<(), String> {
        if !self.is_listing {
            self.channels.clear();
            self.joined.clear();
        }
        for entry in frame["channels"].as_array().ok_or("no list of channels")? {
            let name = entry["channel"].as_str().ok_or("a channel without a name")?.to_owned();
            let (Some(epoch), Some(version)) = (entry["epoch"].as_str(), entry["version"].as_u64()) else {
                return Err(format!("{name} without a version"));
            };
            if entry["occupancy"]["connections"].as_u64().unwrap_or_default() == 0 {
                return Err(format!("{name} is empty"));
            }
            if self.channels.insert(name.clone(), (epoch.to_owned(), version, entry["occupancy"].clone())).is_some() {
                return Err(format!("{name} twice in one list"));
            }
        }
        self.is_listing = frame["more"].as_bool().ok_or("without `more`")?;
        self.wholes += usize::from(!self.is_listing);
        Ok(())
    }

    fn change(&mut self, frame: &Value) -> Result<(), String> {
        if !self.is_complete() {
            return Err("a change before the list has come".to_owned());
        }
        let channel = frame["channel"].as_str().ok_or("without a channel")?.to_owned();
        let (Some(from), Some(to), Some(epoch)) =
            (frame["from"].as_u64(), frame["to"].as_u64(), frame["epoch"].as_str())
        else {
            return Err("without versions".to_owned());
        };
        if from == 0 {
            self.joined.remove(&channel);
        } else {
            let known = self.channels.get(&channel).map(|(epoch, version, _)| (epoch.as_str(), *version));
            let from_epoch = frame["from_epoch"].as_str().unwrap_or(epoch);
            if known != Some((from_epoch, from)) {
                return Err(format!("goes on from ({from_epoch}, {from}), and {known:?} is known"));
            }
        }
        let users = |list: &str| {
            let entries = frame[list].as_array().cloned().unwrap_or_default();
            entries.iter().filter_map(|entry| entry["user"].as_str().map(str::to_owned)).collect::<Vec<_>>()
        };
        let joined = self.joined.entry(channel.clone()).or_default();
        joined.extend(users("join"));
        users("leave").iter().for_each(|user| {
            joined.remove(user);
        });
        if frame["occupancy"]["connections"] == 0 {
            self.channels.remove(&channel);
            self.joined.remove(&channel);
        } else {
            self.channels.insert(channel, (epoch.to_owned(), to, frame["occupancy"].clone()));
        }
        Ok(())
    }
}

impl Client {
    /// What is known of a watched pattern.
    pub fn pattern(&self, pattern: &str) -> PatternView {
        self.shared.books.lock().unwrap().patterns.get(pattern).cloned().unwrap_or_default()
    }

    /// The occupied channels of a watched pattern, sorted.
    pub fn channels(&self, pattern: &str) -> Vec<String> {
        self.pattern(pattern).channels.into_keys().collect()
    }
}
