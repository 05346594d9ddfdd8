//! List cursors: opaque to clients, checked when they come back. A cursor holds a place in a list
//! and no permission.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::store::registry::{PageMark, SortField};
use crate::store::{Bson, DateTime};

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Place {
    v: serde_json::Value,
    id: String,
}

/// A mark as text.
pub fn encode(mark: &PageMark) -> String {
    let v = match &mark.value {
        Bson::DateTime(at) => at.timestamp_millis().into(),
        Bson::Int64(n) => (*n).into(),
        Bson::String(text) => text.as_str().into(),
        _ => serde_json::Value::Null,
    };
    URL_SAFE_NO_PAD.encode(serde_json::json!(Place { v, id: mark.id.to_hex() }).to_string())
}

/// A mark of a list in the given order.
///
/// # Errors
/// `bad_request` for anything [`encode`] did not make for this order.
pub fn decode(text: &str, sort: SortField) -> Result<PageMark, Error> {
    let refused = || Error::bad_request("cursor", "The cursor is not one of this list.");
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| refused())?;
    let place: Place = serde_json::from_slice(&bytes).map_err(|_| refused())?;
    let value = match sort {
        SortField::CreatedAt => place.v.as_i64().map(|ms| Bson::DateTime(DateTime::from_millis(ms))),
        SortField::Size => place.v.as_i64().map(Bson::Int64),
        SortField::Name => place.v.as_str().map(|name| Bson::String(name.to_owned())),
    };
    let id = place.id.parse().map_err(|_| refused())?;
    Ok(PageMark { value: value.ok_or_else(refused)?, id })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_comes_back_in_its_own_order_only() {
        let mark = PageMark { value: Bson::Int64(7), id: crate::store::new_id() };
        assert_eq!(decode(&encode(&mark), SortField::Size).expect("its order"), mark);
        assert!(decode(&encode(&mark), SortField::Name).is_err());
        assert!(decode("", SortField::Size).is_err());
        assert!(decode("eyJ2IjoxfQ", SortField::Size).is_err());
    }
}
