//! The conversation in `docs/protocol.md`, held against a server: what is sent there is sent, and what comes must be what stands there.
//!
//! Lines of its code blocks are `who > frame`, `who < frame`, `who < close CODE` and `who ! the socket breaks`. With `MANUAL=record` in the
//! environment the frames that come are written into the manual instead.

mod harness;

use std::collections::{BTreeMap, HashMap};

use harness::{
    Instance,
    conversation::{Speaker, compare, renew},
};
use serde_json::Value;

const MANUAL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/protocol.md");
#[tokio::test(flavor = "multi_thread")]
async fn the_conversation_in_the_manual_is_what_happens() {
    let at = Instance::start(&[]).await;
    let text = std::fs::read_to_string(MANUAL).expect("the manual is there");
    let record = std::env::var("MANUAL").is_ok_and(|mode| mode == "record");
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let mut speakers: BTreeMap<String, Speaker> = BTreeMap::new();
    let mut drawn = HashMap::new();
    let (mut is_code, mut sent, mut seen) = (false, 0, 0);
    for (number, line) in lines.iter_mut().enumerate() {
        if line.starts_with("```") {
            is_code = !is_code;
            continue;
        }
        let mut words = line.splitn(3, ' ');
        let (Some(who), Some(sign), Some(rest)) = (words.next(), words.next(), words.next()) else { continue };
        if !is_code || !matches!(sign, ">" | "<" | "!") {
            continue;
        }
        let place = format!("docs/protocol.md:{}: {line:.120}", number + 1);
        // `ben-phone` is another device of ben's.
        let user = who.split('-').next().unwrap_or(who);
        if sign == "!" {
            drop(speakers.remove(who).expect("who breaks was there"));
            continue;
        }
        if !speakers.contains_key(who) {
            speakers.insert(who.to_owned(), Speaker::connect(&at).await);
        }
        let speaker = speakers.get_mut(who).expect("everybody who speaks has a socket");
        if sign == ">" {
            let mut frame: Value = serde_json::from_str(rest).unwrap_or_else(|error| panic!("{place}: {error}"));
            renew(&mut frame, user, &drawn);
            if record {
                // As a whole text, for what stood there may be a part of any word.
                let quoted = |text: &String| format!("\"{text}\"");
                drawn.iter().for_each(|(then, now)| *line = line.replace(&quoted(then), &quoted(now)));
            }
            speaker.say(&frame, &place).await;
            sent += 1;
        } else if let Some(code) = rest.strip_prefix("close ") {
            assert_eq!(speaker.closed(&place).await.to_string(), code, "{place}");
            speakers.remove(who);
        } else {
            let text = speaker.text(&place).await;
            let came: Value = serde_json::from_str(&text).expect("frames are JSON");
            seen += 1;
            if record {
                // As far as it is like what stood there; the rest of the drawn texts stand in no frame that is sent.
                let _ = compare(&serde_json::from_str(rest).unwrap_or_default(), &came, "", &mut drawn);
                *line = format!("{who} < {text}");
                continue;
            }
            let said: Value = serde_json::from_str(rest).unwrap_or_else(|error| panic!("{place}: {error}"));
            compare(&said, &came, "the frame", &mut drawn)
                .unwrap_or_else(|why| panic!("{place}: {why}; it was {text}"));
        }
    }
    if record {
        std::fs::write(MANUAL, lines.join("\n") + "\n").expect("the manual can be written");
    }
    assert!(sent > 20 && seen > 30, "the manual has {sent} and {seen} frames: is this still the conversation?");
}

#[test]
fn every_code_is_in_the_manual() {
    let text = std::fs::read_to_string(MANUAL).expect("the manual is there");
    let codes = [
        "bad_request",
        "unknown_op",
        "unauthorized",
        "token_expired",
        "forbidden",
        "not_found",
        "conflict",
        "too_large",
        "limit",
    ];
    for code in codes.into_iter().chain(["rate_limited", "unavailable", "internal"]) {
        assert!(text.contains(&format!("| `{code}` |")), "{code}");
    }
    for close in [
        "1000", "1001", "1002", "1003", "1007", "1009", "1012", "4001", "4003", "4008", "4500", "4501", "4502", "4503",
        "4505",
    ] {
        assert!(text.contains(&format!("| {close} |")), "{close}");
    }
}
