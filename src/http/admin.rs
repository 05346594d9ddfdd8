//! /v1/admin: how a tenant is run. Needs the scope `admin`.

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::header::CACHE_CONTROL;
use http::{HeaderMap, Uri};
use serde_json::{Map, Value, json};

use super::AppState;
use super::body::{read_json_object, require_json};
use super::caller::Caller;
use super::files::{file_id, instant, limit};
use super::query;
use super::view::timestamp;
use crate::error::{Error, ErrorCode};
use crate::files::access::{Action, Principal, Resource, is_tenant_name, permit};
use crate::files::retention::Explanation;
use crate::store::usage::{Limits, UsageDoc};

const DEFAULT_LIMIT: i64 = 50;
const MAX_QUOTA_LEN: usize = 4096;

/// `GET /v1/admin/quotas/{tenant}`: what the tenant uses and may use.
pub async fn quota(
    State(state): State<AppState>,
    principal: Principal,
    Path(tenant): Path<String>,
    uri: Uri,
) -> Result<Response, Error> {
    permit(&principal, Action::Administer, Resource::Deployment)?;
    query::refuse(&uri)?;
    let usage = state.files.usage(&principal, tenant_name(&tenant)?).await?;
    Ok(quota_view(&usage))
}

/// `PUT /v1/admin/quotas/{tenant}`: what the tenant may use from now on. A member left out or null
/// is no limit.
pub async fn set_quota(
    caller: Caller,
    Path(tenant): Path<String>,
    headers: HeaderMap,
    uri: Uri,
    body: Body,
) -> Result<Response, Error> {
    permit(&caller.principal, Action::Administer, Resource::Deployment)?;
    query::refuse(&uri)?;
    let tenant = tenant_name(&tenant)?;
    require_json(&headers)?;
    let limits = limits(&read_json_object(body, caller.state.body_limits, MAX_QUOTA_LEN).await?)?;
    let usage = caller.state.files.set_limits(&caller.principal, tenant, limits, caller.audit_id()).await?;
    Ok(quota_view(&usage))
}

pub(super) fn tenant_name(text: &str) -> Result<&str, Error> {
    let refused = || Error::bad_request("tenant", "A tenant is a text of 1 to 128 bytes without control characters.");
    is_tenant_name(text).then_some(text).ok_or_else(refused)
}

fn limits(members: &Map<String, Value>) -> Result<Limits, Error> {
    let mut limits = Limits::default();
    for (member, value) in members {
        let (field, limit) = match member.as_str() {
            "maxBytes" => ("maxBytes", &mut limits.max_bytes),
            "maxFiles" => ("maxFiles", &mut limits.max_files),
            "maxOpenUploads" => ("maxOpenUploads", &mut limits.max_open_uploads),
            _ => {
                let detail = "A quota has no member of this name.";
                return Err(Error::new(ErrorCode::BadRequest, detail).with("field", member.as_str()));
            }
        };
        let number = value.as_i64().filter(|number| *number >= 0);
        if number.is_none() && !value.is_null() {
            return Err(Error::bad_request(field, format!("{field} is not a whole number from 0, or null.")));
        }
        *limit = number;
    }
    Ok(limits)
}

fn quota_view(usage: &UsageDoc) -> Response {
    let reserved: i64 = usage.holds.iter().map(|hold| hold.bytes).sum();
    let body = json!({
        "tenant": usage.tenant,
        "maxBytes": usage.limits.max_bytes,
        "maxFiles": usage.limits.max_files,
        "maxOpenUploads": usage.limits.max_open_uploads,
        "usedBytes": usage.bytes,
        "usedFiles": usage.files,
        "reservedBytes": reserved,
        "openUploads": usage.holds.len(),
    });
    ([(CACHE_CONTROL, "no-store")], Json(body)).into_response()
}

/// `GET /v1/admin/retention/explain`: of one file, or of all that expires until an instant.
pub async fn explain_retention(
    State(state): State<AppState>,
    principal: Principal,
    uri: Uri,
) -> Result<Response, Error> {
    permit(&principal, Action::Administer, Resource::Tenant)?;
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
