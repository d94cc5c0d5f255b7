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
}
