//! /v1/admin: how a tenant is run. Needs the scope `admin`.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::Uri;
use http::header::CACHE_CONTROL;
use serde_json::{Value, json};

use super::AppState;
use super::files::{file_id, instant, limit};
use super::query;
use super::view::timestamp;
use crate::error::Error;
use crate::files::access::{Action, Principal, permit};
use crate::files::retention::Explanation;

const DEFAULT_LIMIT: i64 = 50;

/// `GET /v1/admin/retention/explain`: of one file, or of all that expires until an instant.
pub async fn explain_retention(
    State(state): State<AppState>,
    principal: Principal,
    uri: Uri,
) -> Result<Response, Error> {
    permit(&principal, Action::Administer)?;
    let pairs = query::pairs(&uri)?;
    query::require_single(&pairs, &[])?;
    let (mut file, mut until, mut most) = (None, None, DEFAULT_LIMIT);
    for (name, value) in &pairs {
        match name.as_str() {
            "file" => file = Some(file_id(value)?),
            "until" => until = Some(instant("until", value)?),
            "limit" => most = limit(value)?,
            _ => return Err(query::unknown(name)),
        }
    }
    let body = match (file, until) {
        (Some(id), None) => view(state.files.explain_retention(&principal, id).await?),
        (None, Some(until)) => {
            let preview = state.files.preview_expiry(&principal, until, most).await?;
            let items: Vec<Value> = preview.items.into_iter().map(view).collect();
            json!({ "until": timestamp(until), "count": preview.count, "bytes": preview.bytes, "items": items })
        }
        _ => return Err(Error::bad_request("file", "Name either a file or an instant: file=… or until=….")),
    };
    Ok(([(CACHE_CONTROL, "no-store")], Json(body)).into_response())
}

fn view(explanation: Explanation) -> Value {
    let file = &explanation.file;
    json!({
        "file": file.file.to_hex(),
        "name": file.name,
        "size": file.content.size,
        "rule": explanation.rule.name(),
        "days": file.retention.days,
        "expiresAt": explanation.expires_at.map(timestamp),
        "purgedAt": explanation.purged_at.map(timestamp),
        "bytesRemovedAt": explanation.bytes_removed_at.map(timestamp),
        "sharedWith": explanation.shared_with,
    })
}
