//! What a client may say about a file, and the limits on it. Says nothing about how it arrives.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::access::Access;
use super::custom;
use super::json::parse_unique;
use crate::error::Error;
use crate::format::manifest::Protection;
use crate::store::{DateTime, Document};

/// Bytes of a name.
pub const MAX_NAME_LEN: usize = 1024;
const MAX_DESCRIPTION_LEN: usize = 4096;
const MAX_TAGS: usize = 64;
const MAX_LABEL_LEN: usize = 128;
const MAX_FOLDER_LEN: usize = 1024;
const MAX_RETENTION_DAYS: i64 = 36_500;

/// How content is to be compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compress {
    /// As the bucket says, where it is worth it.
    #[default]
    Auto,
    /// Not.
    None,
    /// With zstd.
    Zstd,
    /// With gzip.
    Gzip,
}

/// How long a file is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Retention {
    /// Days from creation.
    pub days: Option<i64>,
    /// The instant.
    pub expires_at: Option<DateTime>,
}

/// Everything a client may say when it makes a file.
#[derive(Debug, Clone, Default)]
#[expect(missing_docs, reason = "named as the file's fields")]
pub struct PutOptions {
    pub name: Option<String>,
    pub description: Option<String>,
    pub tags: Vec<String>,
    pub category: Option<String>,
    pub folder: Option<String>,
    pub access: Access,
    pub retention: Retention,
    pub compress: Compress,
    /// None: as the bucket's policy says.
    pub encrypt: Option<Protection>,
    pub custom: Document,
}

impl PutOptions {
    /// Takes one option as text; false where there is no such option.
    ///
    /// # Errors
    /// `invalid` or `bad_request` with the option's name.
    pub fn set(&mut self, option: &str, value: &str, now: DateTime) -> Result<bool, Error> {
        match option {
            "name" => self.name = Some(name(value)?),
            "description" => self.description = Some(description(value)?),
            "tags" => self.tags = tags(value.split(',').map(str::trim).filter(|tag| !tag.is_empty()))?,
            "category" => self.category = Some(label("category", value)?),
            "folder" => self.folder = Some(folder(value)?),
            "access" => self.access = access(value)?,
            "retentionDays" => self.retention.days = Some(retention_days(value)?),
            "expiresAt" => self.retention.expires_at = Some(expires_at("expiresAt", value, now)?),
            "compress" => self.compress = compress(value)?,
            "encrypt" => self.encrypt = Some(encrypt(value)?),
            "custom" => {
                let parsed = parse_unique(value.as_bytes());
                let value =
                    parsed.map_err(|_| Error::bad_request("custom", "custom is not JSON, or names a member twice."))?;
                self.custom = custom::checked(&value)?;
            }
            _ => return Ok(false),
        }
        if self.retention.days.is_some() && self.retention.expires_at.is_some() {
            return Err(Error::bad_request("expiresAt", "Give retentionDays or expiresAt, not both."));
        }
        Ok(true)
    }
}

fn is_control(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')
}

fn text(field: &'static str, value: &str, max_len: usize) -> Result<String, Error> {
    if value.len() > max_len {
        return Err(Error::bad_request(field, format!("{field} is longer than {max_len} bytes.")));
    }
    if value.chars().any(is_control) {
        return Err(Error::bad_request(field, format!("{field} holds control characters.")));
    }
    Ok(value.to_owned())
}

/// A display name: not empty, no control characters; it is never used as a path.
pub fn name(value: &str) -> Result<String, Error> {
    if value.trim().is_empty() {
        return Err(Error::bad_request("name", "name is empty."));
    }
    text("name", value, MAX_NAME_LEN)
}

/// Free text; line breaks and tabs are allowed.
pub fn description(value: &str) -> Result<String, Error> {
    if value.chars().any(|c| is_control(c) && !matches!(c, '\n' | '\r' | '\t')) {
        return Err(Error::bad_request("description", "description holds control characters."));
    }
    if value.len() > MAX_DESCRIPTION_LEN {
        return Err(Error::bad_request(
            "description",
            format!("description is longer than {MAX_DESCRIPTION_LEN} bytes."),
        ));
    }
    Ok(value.to_owned())
}

/// Distinct labels without commas, in the order given.
pub fn tags<'a>(values: impl Iterator<Item = &'a str>) -> Result<Vec<String>, Error> {
    let mut tags: Vec<String> = Vec::new();
    for value in values {
        let tag = label("tags", value)?;
        if tag.contains(',') {
            return Err(Error::bad_request("tags", "A tag holds a comma."));
        }
        if !tags.contains(&tag) {
            tags.push(tag);
        }
        if tags.len() > MAX_TAGS {
            return Err(Error::bad_request("tags", format!("There are more than {MAX_TAGS} tags.")));
        }
    }
    Ok(tags)
}

/// A short text that is not empty.
pub fn label(field: &'static str, value: &str) -> Result<String, Error> {
    if value.trim().is_empty() {
        return Err(Error::bad_request(field, format!("{field} is empty.")));
    }
    text(field, value.trim(), MAX_LABEL_LEN)
}

/// An absolute path of names: `/`, `/a`, `/a/b`; a closing slash is dropped.
pub fn folder(value: &str) -> Result<String, Error> {
    let path = text("folder", value, MAX_FOLDER_LEN)?;
    let problem = |what| Err(Error::bad_request("folder", what));
    let Some(names) = path.strip_prefix('/') else { return problem("folder does not begin with a slash.") };
    if names.is_empty() {
        return Ok("/".into());
    }
    let names = names.strip_suffix('/').unwrap_or(names);
    if names.split('/').any(|name| matches!(name, "" | "." | "..")) {
        return problem("folder holds an empty, '.' or '..' name.");
    }
    Ok(format!("/{names}"))
}

/// One of the three words.
pub fn access(value: &str) -> Result<Access, Error> {
    Access::from_name(value).ok_or_else(|| Error::bad_request("access", "access is not private, internal or public."))
}

fn compress(value: &str) -> Result<Compress, Error> {
    match value {
        "auto" => Ok(Compress::Auto),
        "none" => Ok(Compress::None),
        "zstd" => Ok(Compress::Zstd),
        "gzip" => Ok(Compress::Gzip),
        _ => Err(Error::bad_request("compress", "compress is not auto, none, zstd or gzip.")),
    }
}

fn encrypt(value: &str) -> Result<Protection, Error> {
    match value {
        "true" => Ok(Protection::Managed),
        "false" => Ok(Protection::Plain),
        "customer" => Ok(Protection::Customer),
        _ => Err(Error::bad_request("encrypt", "encrypt is not true, false or customer.")),
    }
}

fn retention_days(value: &str) -> Result<i64, Error> {
    const FIELD: &str = "retentionDays";
    let is_number = value.strip_prefix('-').unwrap_or(value).bytes().all(|byte| byte.is_ascii_digit());
    let days = value.parse().ok().filter(|_| is_number);
    checked_days(FIELD, days.ok_or_else(|| Error::bad_request(FIELD, "retentionDays is not a whole number."))?)
}

/// Days within the allowed range.
pub fn checked_days(field: &'static str, days: i64) -> Result<i64, Error> {
    if (1..=MAX_RETENTION_DAYS).contains(&days) {
        return Ok(days);
    }
    Err(Error::bad_request(field, format!("{field} is not between 1 and {MAX_RETENTION_DAYS}.")))
}

/// An instant in the future, at most 100 years ahead.
pub fn expires_at(field: &'static str, value: &str, now: DateTime) -> Result<DateTime, Error> {
    let problem = |what: &str| Error::bad_request(field, format!("{field} is {what}."));
    let instant = timestamp(value).ok_or_else(|| problem("not an RFC 3339 time"))?;
    if instant <= now {
        return Err(problem("in the past"));
    }
    if instant.timestamp_millis() - now.timestamp_millis() > MAX_RETENTION_DAYS * 86_400_000 {
        return Err(problem("more than 100 years ahead"));
    }
    Ok(instant)
}

/// An RFC 3339 time in whole milliseconds.
pub fn timestamp(value: &str) -> Option<DateTime> {
    let parsed = OffsetDateTime::parse(value, &Rfc3339).ok()?;
    i64::try_from(parsed.unix_timestamp_nanos().div_euclid(1_000_000)).ok().map(DateTime::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_absolute_and_without_steps() {
        assert_eq!(folder("/").expect("root"), "/");
        assert_eq!(folder("/a/b/").expect("a path"), "/a/b");
        for bad in ["", "a", "//", "/a//", "/a//b", "/..", "/a/./b", "/a\nb"] {
            assert!(folder(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn retention_is_within_a_century_and_never_in_the_past() {
        let now = DateTime::from_millis(1_800_000_000_000);
        for bad in ["-1", "0", "36501", "9223372036854775808", "NaN", "", "1.5"] {
            assert!(retention_days(bad).is_err(), "{bad:?}");
        }
        assert!(retention_days("1").is_ok());
        for bad in [
            "2020-01-01T00:00:00Z",
            "9999-12-31T00:00:00Z",
            "+10000-01-01T00:00:00Z",
            "tomorrow",
            "2027-13-01T00:00:00Z",
        ] {
            assert!(expires_at("expiresAt", bad, now).is_err(), "{bad:?}");
        }
        assert!(expires_at("expiresAt", "2027-06-01T00:00:00+02:00", now).is_ok());
    }
}
