//! States: what somebody says of itself, an object that others are shown.

use std::sync::Arc;

use serde_json::{
    Map, Value,
    value::{RawValue, to_raw_value},
};

/// How deep a state may be nested. Frames put a few levels around it, and many readers of JSON stop at 128.
pub const STATE_DEPTH: usize = 64;

/// Why an object is no state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// More bytes than may be.
    #[error("a state has at most {most} bytes of JSON; this one would have {size}")]
    TooLong {
        /// As many as may be.
        most: usize,
        /// As many as there are.
        size: usize,
    },
    /// Nested too deeply.
    #[error("a state is nested at most {STATE_DEPTH} levels deep")]
    TooDeep,
}

/// Whether an object may be a state of at most `most` bytes.
///
/// # Errors
/// [`StateError`].
pub fn check(state: &Map<String, Value>, most: usize) -> Result<(), StateError> {
    let size = serde_json::to_vec(state).map_or(usize::MAX, |json| json.len());
    if size > most {
        return Err(StateError::TooLong { most, size });
    }
    if state.values().any(|value| !fits(value, STATE_DEPTH - 1)) {
        return Err(StateError::TooDeep);
    }
    Ok(())
}

/// A state changed by a merge patch (RFC 7396), both objects. Where one of them cannot be read the state is as it was.
pub fn patched(state: &Arc<RawValue>, patch: &RawValue) -> Arc<RawValue> {
    let read = |raw: &RawValue| serde_json::from_str::<Value>(raw.get());
    let (Ok(mut value), Ok(patch)) = (read(state), read(patch)) else { return state.clone() };
    json_patch::merge(&mut value, &patch);
    Arc::from(to_raw_value(&value).expect("what JSON is made of is JSON"))
}

/// Goes no deeper than it allows.
fn fits(value: &Value, levels: usize) -> bool {
    match value {
        Value::Array(_) | Value::Object(_) if levels == 0 => false,
        Value::Array(values) => values.iter().all(|value| fits(value, levels - 1)),
        Value::Object(values) => values.values().all(|value| fits(value, levels - 1)),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn nested(levels: usize) -> Map<String, Value> {
        let mut value = Value::Bool(true);
        for _ in 1..levels {
            value = serde_json::json!([value]);
        }
        Map::from_iter([("a".to_owned(), value)])
    }

    #[test]
    fn a_state_is_bounded_in_length_and_depth() {
        assert_eq!(check(&nested(STATE_DEPTH), 4096), Ok(()));
        assert_eq!(check(&nested(STATE_DEPTH + 1), 4096), Err(StateError::TooDeep));
        let long = Map::from_iter([("a".to_owned(), Value::String("x".repeat(100)))]);
        assert_eq!(check(&long, 108), Ok(()));
        assert_eq!(check(&long, 107), Err(StateError::TooLong { most: 107, size: 108 }));
    }

    /// What RFC 7396 says, section 2, word for word.
    fn merge_patch(target: Value, patch: &Value) -> Value {
        let Value::Object(patch) = patch else { return patch.clone() };
        let mut target = if let Value::Object(target) = target { target } else { Map::new() };
        for (name, value) in patch {
            if value.is_null() {
                target.remove(name);
            } else {
                let before = target.remove(name).unwrap_or(Value::Null);
                target.insert(name.clone(), merge_patch(before, value));
            }
        }
        Value::Object(target)
    }

    /// Few names, so that a patch meets what is there.
    fn objects() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".{0,4}".prop_map(Value::from),
        ];
        let object = |inner| {
            prop::collection::btree_map("[abc]", inner, 0..4).prop_map(|map| Value::Object(map.into_iter().collect()))
        };
        let value = leaf.prop_recursive(4, 24, 4, move |inner| {
            prop_oneof![prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from), object(inner)]
        });
        object(value.boxed())
    }

    proptest! {
        #[test]
        fn last_words_change_a_state_as_a_merge_patch_does(state in objects(), words in objects()) {
            let raw = |value: &Value| Arc::<RawValue>::from(to_raw_value(value).unwrap());
            let read = |raw: &RawValue| serde_json::from_str::<Value>(raw.get()).unwrap();
            let last = patched(&raw(&state), &raw(&words));
            let expected = merge_patch(state.clone(), &words);
            prop_assert_eq!(read(&last), expected.clone());
            prop_assert!(expected.is_object());
            // Said twice they change nothing more; an empty patch changes nothing.
            prop_assert_eq!(read(&patched(&last, &raw(&words))), expected);
            prop_assert_eq!(read(&patched(&raw(&state), &raw(&Value::Object(Map::new())))), state);
        }
    }

    #[test]
    fn the_examples_of_the_rfc_come_out_as_it_says() {
        // Appendix A, those of objects.
        for (state, words, expected) in [
            (r#"{"a":"b"}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
            (r#"{"a":"b"}"#, r#"{"b":"c"}"#, r#"{"a":"b","b":"c"}"#),
            (r#"{"a":"b"}"#, r#"{"a":null}"#, r#"{}"#),
            (r#"{"a":"b","b":"c"}"#, r#"{"a":null}"#, r#"{"b":"c"}"#),
            (r#"{"a":["b"]}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
            (r#"{"a":"c"}"#, r#"{"a":["b"]}"#, r#"{"a":["b"]}"#),
            (r#"{"a":{"b":"c"}}"#, r#"{"a":{"b":"d","c":null}}"#, r#"{"a":{"b":"d"}}"#),
            (r#"{"a":[{"b":"c"}]}"#, r#"{"a":[1]}"#, r#"{"a":[1]}"#),
            (r#"{"e":null}"#, r#"{"a":1}"#, r#"{"a":1,"e":null}"#),
            (r#"{}"#, r#"{"a":{"bb":{"ccc":null}}}"#, r#"{"a":{"bb":{}}}"#),
        ] {
            let raw = |text: &str| Arc::<RawValue>::from(RawValue::from_string(text.to_owned()).unwrap());
            assert_eq!(patched(&raw(state), &raw(words)).get(), expected, "{state} by {words}");
        }
    }
}
