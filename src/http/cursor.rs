//! List cursors: opaque to clients, checked when they come back. A cursor holds a place in a list
//! and no permission.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::format::digest::Sha256Digest;
use crate::store::registry::list::{PageMark, SortField};
use crate::store::{Bson, DateTime};

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Place {
    v: serde_json::Value,
    id: String,
    list: String,
}

/// Whether more follow, of what was found by asking for one more than a page holds; that one is dropped.
pub fn cut<T>(found: &mut Vec<T>, limit: i64) -> bool {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let has_more = found.len() > limit;
    found.truncate(limit);
    has_more
}

/// Names a list by its filters and order, whatever the page.
pub fn list_of(pairs: &[(String, String)]) -> String {
    let mut said: Vec<_> = pairs.iter().filter(|(name, _)| !["cursor", "limit"].contains(&name.as_str())).collect();
    said.sort();
    let digest = Sha256Digest::of(serde_json::json!(said).to_string().as_bytes());
    digest.to_string()[..16].to_owned()
}

/// A mark of a list as text.
pub fn encode(mark: &PageMark, list: &str) -> String {
    let v = match &mark.value {
        Bson::DateTime(at) => at.timestamp_millis().into(),
        Bson::Int64(n) => (*n).into(),
        Bson::String(text) => text.as_str().into(),
        _ => serde_json::Value::Null,
    };
    URL_SAFE_NO_PAD.encode(serde_json::json!(Place { v, id: mark.id.to_hex(), list: list.to_owned() }).to_string())
}

/// A mark of this list, which is in the given order.
///
/// # Errors
/// `bad_request` for anything [`encode`] did not make for this order.
pub fn decode(text: &str, sort: SortField, list: &str) -> Result<PageMark, Error> {
    let refused = || Error::bad_request("cursor", "The cursor is not one of this list.");
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| refused())?;
    let place: Place = serde_json::from_slice(&bytes).map_err(|_| refused())?;
    if place.list != list {
        return Err(refused());
    }
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
        assert_eq!(decode(&encode(&mark, "a"), SortField::Size, "a").expect("its order"), mark);
        assert!(decode(&encode(&mark, "a"), SortField::Name, "a").is_err());
        assert!(decode(&encode(&mark, "a"), SortField::Size, "b").is_err());
        assert!(decode("", SortField::Size, "a").is_err());
        assert!(decode("eyJ2IjoxfQ", SortField::Size, "a").is_err());
    }

    #[test]
    fn a_list_is_named_by_what_is_in_it_and_not_by_the_page() {
        let pairs = |said: &[(&str, &str)]| -> Vec<_> {
            said.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        let list = list_of(&pairs(&[("tag", "a"), ("sort", "name")]));
        assert_eq!(list, list_of(&pairs(&[("sort", "name"), ("limit", "3"), ("tag", "a"), ("cursor", "x")])));
        assert_ne!(list, list_of(&pairs(&[("sort", "-name"), ("tag", "a")])));
        assert_ne!(list, list_of(&pairs(&[("sort", "name")])));
    }
}
