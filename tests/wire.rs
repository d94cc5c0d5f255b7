//! The conversations in `fixtures/wire`, which the tests of the TypeScript client play to it, held against a server: so neither side can
//! change a frame without the other.
//!
//! A file has one frame a line: `from` somebody, or `to` somebody; or `close` with the code; or `break`, of somebody's socket. With
//! `FIXTURES=record` in the environment the frames that come are written into the files instead.

mod harness;

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::Path,
};

use harness::{
    Instance,
    conversation::{Speaker, compare, renew},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/wire");

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fixture {
    about: String,
    /// Of the server, by the names that they have in the environment behind `ROLLCALL__`.
    #[serde(default)]
    settings: BTreeMap<String, String>,
    /// Speakers who are not called as they are written: `ben-phone` is `ben` without this.
    #[serde(default)]
    users: BTreeMap<String, String>,
    frames: Vec<Line>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    from: Option<String>,
    to: Option<String>,
    #[serde(rename = "break")]
    breaks: Option<String>,
    frame: Option<Box<RawValue>>,
    close: Option<u16>,
}

impl Fixture {
    /// As it stands in its file: a frame is a line.
    fn text(&self) -> String {
        let mut text = format!("{{\n\"about\": {},\n", json(&self.about));
        if !self.settings.is_empty() {
            text += &format!("\"settings\": {},\n", json(&self.settings));
        }
        if !self.users.is_empty() {
            text += &format!("\"users\": {},\n", json(&self.users));
        }
        let lines: Vec<String> = self.frames.iter().map(Line::text).collect();
        text + &format!("\"frames\": [\n{}\n]\n}}\n", lines.join(",\n"))
    }
}

impl Line {
    fn text(&self) -> String {
        let frame = self.frame.as_ref().map_or("", |frame| frame.get());
        match self {
            Self { from: Some(who), .. } => format!("{{\"from\": {}, \"frame\": {frame}}}", json(who)),
            Self { to: Some(who), close: Some(code), .. } => format!("{{\"to\": {}, \"close\": {code}}}", json(who)),
            Self { to: Some(who), .. } => format!("{{\"to\": {}, \"frame\": {frame}}}", json(who)),
            Self { breaks, .. } => format!("{{\"break\": {}}}", json(breaks)),
        }
    }
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("it is JSON")
}

async fn play(path: &Path, record: bool) {
    let mut fixture: Fixture = serde_json::from_str(&fs::read_to_string(path).expect("it can be read"))
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let settings: Vec<(String, String)> =
        fixture.settings.iter().map(|(name, value)| (format!("ROLLCALL__{name}"), value.clone())).collect();
    let settings: Vec<(&str, String)> = settings.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
    let at = Instance::start(&settings).await;
    let mut speakers: BTreeMap<String, Speaker> = BTreeMap::new();
    let mut drawn = HashMap::new();
    for (number, line) in fixture.frames.iter_mut().enumerate() {
        let place = format!("{}, frame {number}", path.display());
        if let Some(who) = &line.breaks {
            speakers.remove(who).unwrap_or_else(|| panic!("{place}: {who} has no socket"));
            continue;
        }
        let who = line.from.as_ref().or(line.to.as_ref()).unwrap_or_else(|| panic!("{place}: nobody's"));
        let user = fixture.users.get(who).map_or_else(|| who.split('-').next().unwrap_or(who), String::as_str);
        if !speakers.contains_key(who) {
            speakers.insert(who.clone(), Speaker::connect(&at).await);
        }
        let speaker = speakers.get_mut(who).expect("everybody who speaks has a socket");
        if let Some(code) = line.close {
            assert_eq!(speaker.closed(&place).await, code, "{place}");
            speakers.remove(who);
            continue;
        }
        let written = line.frame.as_ref().unwrap_or_else(|| panic!("{place}: there is no frame"));
        let mut frame: Value = serde_json::from_str(written.get()).expect("a frame is JSON");
        if line.from.is_some() {
            renew(&mut frame, user, &drawn);
            if record {
                let quoted = |text: &String| format!("\"{text}\"");
                let fresh = |text: String, (then, now): (&String, &String)| text.replace(&quoted(then), &quoted(now));
                let text = drawn.iter().fold(written.get().to_owned(), fresh);
                line.frame = Some(RawValue::from_string(text).expect("a frame is JSON"));
            }
            speaker.say(&frame, &place).await;
            continue;
        }
        let text = speaker.text(&place).await;
        let came: Value = serde_json::from_str(&text).expect("frames are JSON");
        let same = compare(&frame, &came, "the frame", &mut drawn);
        if record {
            line.frame = Some(RawValue::from_string(text).expect("a frame is JSON"));
        } else {
            same.unwrap_or_else(|why| panic!("{place}: {why}; it was {text}"));
        }
    }
    if record {
        fs::write(path, fixture.text()).expect("it can be written");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_frames_that_clients_are_tested_with_are_what_the_server_sends_and_understands() {
    let record = std::env::var("FIXTURES").is_ok_and(|mode| mode == "record");
    let mut paths: Vec<_> =
        fs::read_dir(FOLDER).expect("the folder is there").map(|entry| entry.expect("it can be read").path()).collect();
    paths.sort();
    assert!(paths.len() >= 8, "only {} conversations are left", paths.len());
    for path in paths {
        play(&path, record).await;
    }
}
