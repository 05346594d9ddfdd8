//! The shape of registry documents, where another shape would still be read: dates that the TTL index
//! would misunderstand, and a legal hold that holds nothing. Judges nothing but shapes.

use mongodb::bson::{DateTime, RawBsonRef, RawDocument};

use super::registry::FileDoc;
use super::row_copy::RowCopy;

/// What no gateway writes like this; none for a sound document.
pub fn odd_shape(document: &RawDocument) -> Option<String> {
    let field = |name: &str| document.get(name).ok().flatten();
    let date = |name: &str| match field(name) {
        None => Ok(None),
        Some(RawBsonRef::DateTime(at)) => Ok(Some(at)),
        Some(other) => Err(format!("{name} is not a date but {:?}", other.element_type())),
    };
    let hold = document.get_document("retention").ok().and_then(|retention| retention.get("legalHold").ok().flatten());
    let is_held = match hold {
        None => Ok(false),
        Some(RawBsonRef::Boolean(is_held)) => Ok(is_held),
        Some(other) => Err(format!("retention.legalHold is not a boolean but {:?}", other.element_type())),
    };
    let wrong = match (date("expireAt"), date("purgeAt"), is_held) {
        (Ok(expire), Ok(purge), Ok(is_held)) => odd_dates(expire, purge, is_held).map(str::to_owned),
        (Err(wrong), ..) | (_, Err(wrong), _) | (_, _, Err(wrong)) => Some(wrong),
    };
    let copy = document.get_document("content").ok().and_then(|content| content.get("row").ok().flatten());
    let is_copy = |copy: RawBsonRef<'_>| {
        copy.as_document().is_some_and(|copy| mongodb::bson::deserialize_from_slice::<RowCopy>(copy.as_bytes()).is_ok())
    };
    let wrong =
        wrong.or_else(|| (!copy.is_none_or(is_copy)).then(|| "has a copy of its row that cannot be read".to_owned()));
    let is_file = || mongodb::bson::deserialize_from_slice::<FileDoc>(document.as_bytes()).is_ok();
    wrong.or_else(|| (!is_file()).then(|| "cannot be read as a file".to_owned()))
}

fn odd_dates(expire: Option<DateTime>, purge: Option<DateTime>, is_held: bool) -> Option<&'static str> {
    match (expire, purge) {
        (Some(_), _) | (_, Some(_)) if is_held => Some("is under legal hold and has expireAt or purgeAt"),
        (None, Some(_)) => Some("has purgeAt without expireAt"),
        (Some(expire), Some(purge)) if purge < expire => Some("has a purgeAt before its expireAt"),
        _ => None,
    }
}
