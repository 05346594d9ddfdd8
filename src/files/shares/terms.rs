//! What may be said of a share, member by member, and the limits on it.

use serde_json::Value;
use zeroize::Zeroizing;

use crate::error::{Error, ErrorCode};
use crate::files::describe::later;
use crate::files::{api_keys, options};
use crate::network::parse_network;
use crate::store::shares::{ShareDoc, TermsDoc};
use crate::store::{DateTime, Document, Id, doc};

/// How long a share lives that says nothing about it.
const USUAL_LIFE_SECS: u64 = 7 * 86_400;
const MAX_NAME_LEN: usize = 128;
const MAX_PASSWORD_LEN: usize = 256;
const MAX_ENTRIES: usize = 100;
const MAX_ENTRY_LEN: usize = 256;
const MAX_DOWNLOADS: i64 = 1_000_000_000;

/// A share as it is to be.
#[derive(Clone)]
pub struct Draft {
    /// For its owner.
    pub name: String,
    /// For who opens it.
    pub note: String,
    /// From when on it is refused.
    pub expire_at: DateTime,
    /// The terms, but for a password that is not hashed yet.
    pub(super) terms: TermsDoc,
    /// The end, as it was said.
    said_end: Option<String>,
    /// A new password, or none instead of the old one.
    pub(super) password: Option<Option<Zeroizing<String>>>,
}

impl Draft {
    /// Open to whoever has the link, for a week.
    pub fn new(now: DateTime) -> Self {
        Self {
            name: String::new(),
            note: String::new(),
            expire_at: later(now, USUAL_LIFE_SECS),
            said_end: None,
            terms: TermsDoc {
                max_downloads: None,
                password: None,
                allow_view: true,
                allow_download: true,
                allow_comment: false,
                require_auth: false,
                allowed_users: Vec::new(),
                allowed_domains: Vec::new(),
                allowed_cidrs: Vec::new(),
            },
            password: None,
        }
    }

    pub(super) fn of(share: &ShareDoc) -> Self {
        Self {
            name: share.name.clone(),
            note: share.note.clone(),
            expire_at: share.expire_at,
            said_end: None,
            terms: share.terms.clone(),
            password: None,
        }
    }

    /// Takes what a client says.
    ///
    /// # Errors
    /// `bad_request` or `invalid`, which name the member.
    pub fn apply<'a>(
        &mut self,
        said: impl IntoIterator<Item = (&'a String, &'a Value)>,
        now: DateTime,
    ) -> Result<(), Error> {
        let mut ends = 0;
        for (member, value) in said {
            if matches!(member.as_str(), "expiresIn" | "expiresAt") {
                ends += 1;
                self.said_end = Some(value.to_string());
            }
            self.set(member, value, now)?;
        }
        if ends > 1 {
            return Err(Error::bad_request("expiresAt", "Give expiresIn or expiresAt, not both."));
        }
        if !self.terms.allow_view && !self.terms.allow_download {
            return Err(Error::invalid("allowDownload", "A share allows viewing, downloading, or both."));
        }
        Ok(())
    }

    fn set(&mut self, member: &str, value: &Value, now: DateTime) -> Result<(), Error> {
        let terms = &mut self.terms;
        match member {
            "name" => self.name = short("name", value)?,
            "note" => {
                self.note = options::description(text("note", value)?)
                    .map_err(|_| wrong("note", "a text of at most 4096 bytes"))?
            }
            "expiresIn" => self.expire_at = later(now, life("expiresIn", value)?),
            "expiresAt" => self.expire_at = end("expiresAt", value, now)?,
            "maxDownloads" => terms.max_downloads = most("maxDownloads", value)?,
            "password" => self.password = Some(password(value)?),
            "allowView" => terms.allow_view = flag("allowView", value)?,
            "allowDownload" => terms.allow_download = flag("allowDownload", value)?,
            "allowComment" => terms.allow_comment = flag("allowComment", value)?,
            "requireAuth" => terms.require_auth = flag("requireAuth", value)?,
            "allowedUsers" => terms.allowed_users = list("allowedUsers", value, user)?,
            "allowedDomains" => terms.allowed_domains = list("allowedDomains", value, domain)?,
            "allowedCidrs" => terms.allowed_cidrs = list("allowedCidrs", value, cidr)?,
            _ => {
                let detail = "A share has no member of this name that can be said.";
                return Err(Error::new(ErrorCode::BadRequest, detail).with("field", member));
            }
        }
        Ok(())
    }

    /// Everything that was said, for telling another request with the same idempotency key from this one.
    pub(super) fn said(&self, file: Id) -> Document {
        let terms = &self.terms;
        let password = self.password.as_ref().map(|password| password.as_ref().map(|text| text.to_string()));
        doc! {
            "file": file,
            "name": &self.name,
            "note": &self.note,
            "end": self.said_end.clone(),
            "maxDownloads": terms.max_downloads,
            "password": format!("{password:?}"),
            "flags": [terms.allow_view, terms.allow_download, terms.allow_comment, terms.require_auth],
            "users": &terms.allowed_users,
            "domains": &terms.allowed_domains,
            "cidrs": &terms.allowed_cidrs,
        }
    }
}

fn wrong(field: &'static str, wanted: &str) -> Error {
    Error::bad_request(field, format!("{field} is not {wanted}."))
}

fn text<'a>(field: &'static str, value: &'a Value) -> Result<&'a str, Error> {
    value.as_str().ok_or_else(|| wrong(field, "a text"))
}

fn short(field: &'static str, value: &Value) -> Result<String, Error> {
    let fits = |text: &&str| text.chars().count() <= MAX_NAME_LEN && !text.chars().any(char::is_control);
    let refused = || wrong(field, &format!("a text of at most {MAX_NAME_LEN} characters without control characters"));
    value.as_str().filter(fits).map(str::to_owned).ok_or_else(refused)
}

fn flag(field: &'static str, value: &Value) -> Result<bool, Error> {
    value.as_bool().ok_or_else(|| wrong(field, "true or false"))
}

fn life(field: &'static str, value: &Value) -> Result<u64, Error> {
    let longest = api_keys::MAX_LIFE.as_secs();
    let secs = value.as_u64().filter(|secs| (1..=longest).contains(secs));
    secs.ok_or_else(|| wrong(field, &format!("a number of seconds from 1 to {longest}")))
}

fn end(field: &'static str, value: &Value, now: DateTime) -> Result<DateTime, Error> {
    let at = options::expires_at(field, text(field, value)?, now)?;
    let latest = later(now, api_keys::MAX_LIFE.as_secs());
    if at <= latest { Ok(at) } else { Err(wrong(field, "at most 3,650 days ahead")) }
}

fn most(field: &'static str, value: &Value) -> Result<Option<i64>, Error> {
    if value.is_null() {
        return Ok(None);
    }
    let number = value.as_i64().filter(|number| (1..=MAX_DOWNLOADS).contains(number));
    number.map(Some).ok_or_else(|| wrong(field, &format!("a whole number from 1 to {MAX_DOWNLOADS}, or null")))
}

fn password(value: &Value) -> Result<Option<Zeroizing<String>>, Error> {
    if value.is_null() {
        return Ok(None);
    }
    let text = value.as_str().filter(|text| (1..=MAX_PASSWORD_LEN).contains(&text.len()));
    let refused = || wrong("password", &format!("a text of 1 to {MAX_PASSWORD_LEN} bytes, or null"));
    text.map(|text| Some(Zeroizing::new(text.to_owned()))).ok_or_else(refused)
}

fn list(field: &'static str, value: &Value, entry: impl Fn(&str) -> Option<String>) -> Result<Vec<String>, Error> {
    let refused = || wrong(field, &format!("a list of at most {MAX_ENTRIES} such entries"));
    let values = value.as_array().filter(|values| values.len() <= MAX_ENTRIES).ok_or_else(refused)?;
    let entries = values.iter().map(|value| value.as_str().filter(|text| text.len() <= MAX_ENTRY_LEN).and_then(&entry));
    entries.collect::<Option<Vec<_>>>().ok_or_else(refused)
}

/// A principal as files name their owner.
fn user(text: &str) -> Option<String> {
    (!text.is_empty() && !text.chars().any(char::is_control)).then(|| text.to_owned())
}

/// A host name, in lower case.
fn domain(text: &str) -> Option<String> {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len()) && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    text.split('.').all(is_label).then(|| text.to_ascii_lowercase())
}

fn cidr(text: &str) -> Option<String> {
    parse_network(text).ok().map(|network| network.trunc().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn drafted(said: &Value) -> Result<Draft, Error> {
        let now = DateTime::from_millis(1_800_000_000_000);
        let mut draft = Draft::new(now);
        draft.apply(said.as_object().expect("an object"), now).map(|()| draft)
    }

    #[test]
    fn members_have_types_and_bounds() {
        for bad in [
            json!({ "name": 1 }),
            json!({ "name": "a\nb" }),
            json!({ "name": "x".repeat(129) }),
            json!({ "note": "x".repeat(4097) }),
            json!({ "expiresIn": 0 }),
            json!({ "expiresIn": -1 }),
            json!({ "expiresIn": 315_360_001 }),
            json!({ "expiresIn": "60" }),
            json!({ "expiresAt": "2020-01-01T00:00:00Z" }),
            json!({ "expiresAt": "2060-01-01T00:00:00Z" }),
            json!({ "expiresIn": 60, "expiresAt": "2027-06-01T00:00:00Z" }),
            json!({ "maxDownloads": 0 }),
            json!({ "maxDownloads": -1 }),
            json!({ "maxDownloads": 1.5 }),
            json!({ "password": "" }),
            json!({ "password": "x".repeat(257) }),
            json!({ "allowView": "yes" }),
            json!({ "allowView": false, "allowDownload": false }),
            json!({ "allowedUsers": "a" }),
            json!({ "allowedUsers": [""] }),
            json!({ "allowedUsers": vec!["a"; 101] }),
            json!({ "allowedDomains": ["a b"] }),
            json!({ "allowedDomains": ["https://example.org"] }),
            json!({ "allowedCidrs": ["10.0.0.0/33"] }),
            json!({ "allowedCidrs": [{ "$gt": "" }] }),
            json!({ "token": "mine" }),
        ] {
            let error = drafted(&bad).err().unwrap_or_else(|| panic!("{bad} was taken"));
            assert!([ErrorCode::BadRequest, ErrorCode::Invalid].contains(&error.code), "{bad}: {error}");
        }
    }

    #[test]
    fn hosts_and_networks_are_kept_in_one_form() {
        let said =
            json!({ "allowedDomains": ["Example.ORG"], "allowedCidrs": ["10.1.2.3/8", "::1"], "password": null });
        let draft = drafted(&said).expect("a draft");
        assert_eq!(draft.terms.allowed_domains, ["example.org"]);
        assert_eq!(draft.terms.allowed_cidrs, ["10.0.0.0/8", "::1/128"]);
        assert_eq!(draft.expire_at, DateTime::from_millis(1_800_604_800_000));
    }
}
