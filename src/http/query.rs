//! Query strings as pairs, each known and given once. Knows no parameter's meaning.

use http::Uri;

use crate::error::{Error, ErrorCode};

/// The decoded parameters in order.
///
/// # Errors
/// `bad_request` when the query is not decodable.
pub fn pairs(uri: &Uri) -> Result<Vec<(String, String)>, Error> {
    let query = uri.query().unwrap_or_default();
    let undecodable = |_| Error::bad_request("query", "The query is not percent-encoded UTF-8.");
    for part in query.split(['&', '=']) {
        percent_encoding::percent_decode_str(part).decode_utf8().map_err(undecodable)?;
    }
    serde_urlencoded::from_str(query).map_err(|_| Error::bad_request("query", "The query is malformed."))
}

/// Refuses a parameter that is given twice, but for those in `repeatable`.
///
/// # Errors
/// `bad_request` with the parameter's name.
pub fn require_single(pairs: &[(String, String)], repeatable: &[&str]) -> Result<(), Error> {
    let mut seen = std::collections::HashSet::new();
    match pairs.iter().find(|(name, _)| !repeatable.contains(&name.as_str()) && !seen.insert(name)) {
        Some((name, _)) => {
            Err(Error::new(ErrorCode::BadRequest, "The parameter is given twice.").with("field", name.as_str()))
        }
        None => Ok(()),
    }
}

/// Refuses any parameter.
///
/// # Errors
/// `bad_request` with the parameter's name.
pub fn refuse(uri: &Uri) -> Result<(), Error> {
    pairs(uri)?.first().map_or(Ok(()), |(name, _)| Err(unknown(name)))
}

/// The error for a parameter nobody knows.
pub fn unknown(name: &str) -> Error {
    Error::new(ErrorCode::BadRequest, "There is no such parameter here.").with("field", name)
}
