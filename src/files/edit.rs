//! Changing what is said about a file. The content and its entity tag stay as they are.

use serde_json::{Map, Value};

use super::access::{Action, Principal};
use super::describe::expiry;
use super::{Files, Result};
use super::{custom, options};
use crate::error::{Error, ErrorCode};
use crate::store::audit::AuditDoc;
use crate::store::registry::{FileChange, FileDoc, RetentionDoc};
use crate::store::{Bson, DateTime, Document, Id, StoreError, doc, new_id};

/// How often a change is tried against concurrent changes of the same file.
const TRIES: u32 = 20;

impl Files {
    /// Applies a JSON merge patch (RFC 7396) to a file's metadata.
    ///
    /// # Errors
    /// `bad_request` naming the member for anything a merge patch of a file cannot hold,
    /// `forbidden`, `file_not_found`, `held` for a change of retention under legal hold.
    pub async fn edit(
        &self,
        principal: &Principal,
        file: Id,
        patch: &Map<String, Value>,
        request_id: Option<String>,
    ) -> Result<FileDoc> {
        for _ in 0..TRIES {
            let before = self.find(principal, Action::Write, file).await?;
            let mut after = before.clone();
            let held = if before.retention.legal_hold { Held::Before } else { Held::No };
            // A JSON object is sorted by name, so `legalHold` is decided before `retention`.
            for (member, value) in patch {
                self.apply(&mut after, held, member, value)?;
            }
            let now = self.now();
            // `updatedAt` names the state a change was decided on, so it must move.
            after.updated_at = now.max(DateTime::from_millis(before.updated_at.timestamp_millis() + 1));
            let audit = AuditDoc {
                id: new_id(),
                at: now,
                tenant: before.tenant.clone(),
                actor: principal.actor.clone(),
                action: "file.edit".to_owned(),
                file: Some(before.file),
                request_id: request_id.clone(),
                details: doc! { "members": patch.keys().cloned().collect::<Vec<_>>() },
            };
            match self.store.update_file(&before, &change(&after), &audit).await {
                Err(StoreError::Stale) => {}
                outcome => return outcome.map_err(|e| e.doing("change the file")),
            }
        }
        Err(StoreError::Stale.doing("change the file"))
    }

    fn apply(&self, file: &mut FileDoc, held: Held, member: &str, value: &Value) -> Result<()> {
        match member {
            "name" => file.name = options::name(text("name", value)?)?,
            "description" => file.description = nullable(value, |v| options::description(text("description", v)?))?,
            "tags" => file.tags = tags(value)?,
            "category" => {
                file.category = nullable(value, |v| options::label("category", text("category", v)?))?;
            }
            "folder" => file.folder = nullable(value, |v| options::folder(text("folder", v)?))?.unwrap_or("/".into()),
            "access" => options::access(text("access", value)?)?.name().clone_into(&mut file.access),
            "custom" => file.custom = self.custom(&file.custom, value)?,
            "retention" => self.retain(file, held, value)?,
            "legalHold" => {
                let legal_hold = value.as_bool().ok_or_else(|| wrong("legalHold", "true or false"))?;
                let retention = RetentionDoc { legal_hold, ..file.retention.clone() };
                self.apply_retention(file, retention);
            }
            _ => {
                let detail = "A file has no member of this name that can be changed.";
                return Err(Error::new(ErrorCode::BadRequest, detail).with("field", member));
            }
        }
        Ok(())
    }

    /// Merges into the client's own members, one level deep as RFC 7396 says for objects.
    fn custom(&self, before: &Document, value: &Value) -> Result<Document> {
        if value.is_null() {
            return Ok(Document::new());
        }
        let mut merged = custom::to_json(&Bson::Document(before.clone()));
        merge(&mut merged, value);
        custom::checked(&merged)
    }

    fn retain(&self, file: &mut FileDoc, held: Held, value: &Value) -> Result<()> {
        if held == Held::Before && file.retention.legal_hold {
            return Err(Error::new(ErrorCode::Held, "The file is under legal hold; lift it first."));
        }
        let mut retention = RetentionDoc { legal_hold: file.retention.legal_hold, ..RetentionDoc::default() };
        if !value.is_null() {
            let members = value.as_object().ok_or_else(|| wrong("retention", "an object or null"))?;
            for (member, value) in members {
                match (member.as_str(), value) {
                    (_, Value::Null) => {}
                    ("days", _) => {
                        let days = value.as_i64().ok_or_else(|| wrong("retention.days", "a whole number"))?;
                        retention.days = Some(options::checked_days("retention.days", days)?);
                    }
                    ("expiresAt", _) => {
                        let at = text("retention.expiresAt", value)?;
                        let at = options::expires_at("retention.expiresAt", at, self.now())?;
                        retention.expires_at = Some(at);
                    }
                    _ => return Err(Error::bad_request("retention", format!("retention has no member {member:?}."))),
                }
            }
            if retention.days.is_some() == retention.expires_at.is_some() {
                return Err(Error::bad_request("retention", "Give either days or expiresAt."));
            }
            retention.expires_at = expiry(retention.days, retention.expires_at, file.created_at);
            if retention.expires_at.is_some_and(|at| at <= self.now()) {
                return Err(Error::bad_request("retention", "The file would be expired at once; delete it instead."));
            }
        }
        self.apply_retention(file, retention);
        Ok(())
    }
}

/// Whether a legal hold was there before the change.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Held {
    Before,
    No,
}

fn wrong(field: &'static str, wanted: &str) -> Error {
    Error::bad_request(field, format!("{field} is not {wanted}."))
}

fn text<'a>(field: &'static str, value: &'a Value) -> Result<&'a str> {
    value.as_str().ok_or_else(|| wrong(field, "text"))
}

fn nullable<T>(value: &Value, convert: impl FnOnce(&Value) -> Result<T>) -> Result<Option<T>> {
    if value.is_null() { Ok(None) } else { convert(value).map(Some) }
}

fn tags(value: &Value) -> Result<Vec<String>> {
    if value.is_null() {
        return Ok(Vec::new());
    }
    let items = value.as_array().ok_or_else(|| wrong("tags", "a list of texts"))?;
    let texts: Vec<&str> = items.iter().map(|item| text("tags", item)).collect::<Result<_>>()?;
    options::tags(texts.into_iter())
}

/// RFC 7396 §2.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(members) = target else { return };
    for (name, value) in patch {
        if value.is_null() {
            members.remove(name);
        } else {
            merge(members.entry(name.clone()).or_insert(Value::Null), value);
        }
    }
}

/// Every member that can be changed, as it is to be stored.
fn change(file: &FileDoc) -> FileChange {
    let retention = &file.retention;
    let mut stored_retention = doc! { "legalHold": retention.legal_hold };
    if let Some(days) = retention.days {
        stored_retention.insert("days", days);
    }
    if let Some(at) = retention.expires_at {
        stored_retention.insert("expiresAt", at);
    }
    let mut change = FileChange {
        set: doc! {
            "name": &file.name,
            "description": file.description.clone(),
            "tags": &file.tags,
            "category": file.category.clone(),
            "folder": &file.folder,
            "access": &file.access,
            "custom": file.custom.clone(),
            "retention": stored_retention,
            "updatedAt": file.updated_at,
        },
        unset: Document::new(),
    };
    // The TTL index wants a date or nothing: never null.
    for (field, value) in [("expireAt", file.expire_at), ("purgeAt", file.purge_at)] {
        match value {
            Some(at) => change.set.insert(field, at),
            None => change.unset.insert(field, ""),
        };
    }
    change
}

#[cfg(test)]
mod tests {
    use super::merge;
    use serde_json::json;

    #[test]
    fn merging_follows_the_examples_of_rfc_7396() {
        for (target, patch, result) in [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
            (json!({"a": "b"}), json!({"a": null}), json!({})),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
            (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
            (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
        ] {
            let mut merged = target.clone();
            merge(&mut merged, &patch);
            assert_eq!(merged, result, "{target} + {patch}");
        }
    }
}
