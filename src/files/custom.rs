//! The client's own members of a file: JSON outside, BSON inside, bounded in keys, bytes and depth.
//! Keys are plain text: never operators, never extended JSON.

use serde_json::Value;

use crate::error::Error;
use crate::store::{Bson, Document};

const MAX_CUSTOM_KEYS: usize = 64;
const MAX_CUSTOM_LEN: usize = 8 << 10;
const MAX_CUSTOM_DEPTH: usize = 4;
/// The end of the range of an Int64, also for doubles: a whole number beyond it would lose digits in silence.
const NUMBERS_END: f64 = 9_223_372_036_854_775_808.0;

/// The client's own members: an object, bounded in keys, bytes and depth.
pub fn checked(value: &Value) -> Result<Document, Error> {
    let problem = |what: String| Error::bad_request("custom", what);
    let Value::Object(members) = value else { return Err(problem("custom is not a JSON object.".into())) };
    let keys = count_keys(value);
    if keys > MAX_CUSTOM_KEYS {
        return Err(problem(format!("custom holds {keys} keys, at most {MAX_CUSTOM_KEYS} are allowed.")));
    }
    if value.to_string().len() > MAX_CUSTOM_LEN {
        return Err(problem(format!("custom is longer than {MAX_CUSTOM_LEN} bytes.")));
    }
    if depth(value) > MAX_CUSTOM_DEPTH {
        return Err(problem(format!("custom is nested deeper than {MAX_CUSTOM_DEPTH}.")));
    }
    if has_odd_key(value) {
        return Err(problem("A key of custom is empty or holds NUL.".into()));
    }
    let converted = members.iter().map(|(key, value)| Ok((key.clone(), to_bson(value)?)));
    converted.collect()
}

/// JSON to BSON, member by member: never through extended JSON, whose `$` keys mean types.
fn to_bson(value: &Value) -> Result<Bson, Error> {
    Ok(match value {
        Value::Null => Bson::Null,
        Value::Bool(b) => Bson::Boolean(*b),
        Value::Number(n) => match (n.as_i64(), n.as_f64()) {
            (Some(n), _) => Bson::Int64(n),
            (None, Some(n)) if n.abs() < NUMBERS_END => Bson::Double(n),
            _ => return Err(Error::bad_request("custom", "A number of custom is beyond -2^63 and 2^63 - 1.")),
        },
        Value::String(s) => Bson::String(s.clone()),
        Value::Array(items) => Bson::Array(items.iter().map(to_bson).collect::<Result<_, _>>()?),
        Value::Object(members) => {
            let converted = members.iter().map(|(key, value)| Ok((key.clone(), to_bson(value)?)));
            Bson::Document(converted.collect::<Result<_, Error>>()?)
        }
    })
}

fn count_keys(value: &Value) -> usize {
    match value {
        Value::Object(members) => members.len() + members.values().map(count_keys).sum::<usize>(),
        Value::Array(items) => items.iter().map(count_keys).sum(),
        _ => 0,
    }
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Object(members) => 1 + members.values().map(depth).max().unwrap_or(0),
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

fn has_odd_key(value: &Value) -> bool {
    match value {
        Value::Object(members) => {
            members.keys().any(|key| key.is_empty() || key.contains('\0')) || members.values().any(has_odd_key)
        }
        Value::Array(items) => items.iter().any(has_odd_key),
        _ => false,
    }
}

/// What [`checked`] took, as JSON.
pub fn to_json(value: &Bson) -> Value {
    match value {
        Bson::Boolean(b) => (*b).into(),
        Bson::Int32(n) => (*n).into(),
        Bson::Int64(n) => (*n).into(),
        Bson::Double(n) => (*n).into(),
        Bson::String(s) => s.as_str().into(),
        Bson::Array(items) => items.iter().map(to_json).collect(),
        Bson::Document(members) => members.iter().map(|(key, value)| (key.clone(), to_json(value))).collect(),
        // No other type is ever made from JSON.
        _ => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn custom_members_are_bounded_and_never_operators() {
        let kept = checked(&json!({"$where": "1", "n": 7, "x": {"$oid": "5"}})).expect("dollars are plain keys");
        assert!(kept.get_str("$where").is_ok_and(|text| text == "1"));
        assert!(kept.get_document("x").is_ok(), "extended JSON is not interpreted");
        let many: Value = (0..65).map(|i| (format!("k{i}"), json!(i))).collect::<serde_json::Map<_, _>>().into();
        for bad in [
            json!([]),
            json!({"a": "x".repeat(9000)}),
            json!({"a":{"b":{"c":{"d":{}}}}}),
            json!({"": 1}),
            json!({"a\0": 1}),
            json!({"n": u64::MAX}),
            json!({"n": 1e19}),
            json!({"n": -1e19}),
            many,
        ] {
            assert!(checked(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn members_come_back_as_they_went_in() {
        let members = json!({"a": [1, 2.5, null, true, "x", {"b": []}], "n": i64::MAX});
        assert_eq!(to_json(&Bson::Document(checked(&members).expect("within the limits"))), members);
    }
}
