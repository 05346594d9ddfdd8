//! /v1/admin/keys: create, list, revoke. Needs the scope `admin`.

use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::header::CACHE_CONTROL;
use http::{HeaderMap, StatusCode, Uri};
use serde_json::{Map, Value, json};

use super::AppState;
use super::admin::tenant_name;
use super::body::read_said;
use super::caller::Caller;
use super::files::{idempotency_key, limit};
use super::{cursor, query};
use crate::error::{Error, ErrorCode};
use crate::files::access::{Action, Principal, Resource, Scope, permit};
use crate::files::api_keys::{ApiKeyRequest, ApiKeyView, MAX_LIFE};

const MAX_BODY_LEN: usize = 4096;
/// Characters of a name.
const MAX_NAME_LEN: usize = 128;
/// Characters of an id.
const MAX_ID_LEN: usize = 64;
const DEFAULT_LIMIT: i64 = 50;

/// `POST /v1/admin/keys`: no other answer shows the key.
pub async fn create(caller: Caller, headers: HeaderMap, uri: Uri, body: Body) -> Result<Response, Error> {
    permit(&caller.principal, Action::Administer, Resource::Deployment)?;
    let said = read_said(&uri, &headers, body, caller.state.body_limits, MAX_BODY_LEN).await?;
    let request = ApiKeyRequest {
        idempotency_key: idempotency_key(&headers)?,
        request_id: caller.audit_id(),
        ..api_key_request(&said)?
    };
    let made = caller.state.files.create_api_key(&caller.principal, request).await?;
    Ok((StatusCode::CREATED, [(CACHE_CONTROL, "no-store")], Json(made.view())).into_response())
}

fn api_key_request(said: &Map<String, Value>) -> Result<ApiKeyRequest, Error> {
    let (mut tenant, mut scopes, mut name, mut life) = (None, None, String::new(), None);
    for (member, value) in said {
        match member.as_str() {
            "tenant" => tenant = Some(tenant_name(value.as_str().unwrap_or_default())?.to_owned()),
            "scopes" => scopes = Some(scopes_of(value)?),
            "name" => name = name_of(value)?,
            "expiresIn" => life = life_of(value)?,
            _ => return Err(query::unknown(member)),
        }
    }
    let missing = |field| Error::bad_request(field, format!("Say {field}."));
    Ok(ApiKeyRequest {
        tenant: tenant.ok_or_else(|| missing("tenant"))?,
        scopes: scopes.ok_or_else(|| missing("scopes"))?,
        name,
        life,
        idempotency_key: None,
        request_id: None,
    })
}

fn scopes_of(value: &Value) -> Result<Vec<Scope>, Error> {
    let refused = || {
        let names: Vec<_> = Scope::ALL.iter().map(|scope| scope.name()).collect();
        Error::bad_request("scopes", format!("scopes is not a list of one or more of {}.", names.join(", ")))
    };
    let named = value.as_array().filter(|names| !names.is_empty() && names.len() <= Scope::ALL.len());
    let named = named.ok_or_else(refused)?.iter();
    let scopes: Option<Vec<_>> = named.map(|name| name.as_str().and_then(Scope::from_name)).collect();
    scopes.ok_or_else(refused)
}

fn name_of(value: &Value) -> Result<String, Error> {
    let refused = || Error::bad_request("name", format!("name is not a text of at most {MAX_NAME_LEN} characters."));
    let name =
        value.as_str().filter(|name| name.chars().count() <= MAX_NAME_LEN && !name.chars().any(char::is_control));
    name.map(str::to_owned).ok_or_else(refused)
}

fn life_of(value: &Value) -> Result<Option<Duration>, Error> {
    let most = MAX_LIFE.as_secs();
    let refused = || Error::bad_request("expiresIn", format!("expiresIn is not a number of seconds from 1 to {most}."));
    if value.is_null() {
        return Ok(None);
    }
    let secs = value.as_u64().filter(|secs| (1..=most).contains(secs)).ok_or_else(refused)?;
    Ok(Some(Duration::from_secs(secs)))
}

/// `GET /v1/admin/keys`, by id.
pub async fn list(State(state): State<AppState>, principal: Principal, uri: Uri) -> Result<Response, Error> {
    permit(&principal, Action::Administer, Resource::Deployment)?;
    let pairs = query::pairs(&uri)?;
    query::require_single(&pairs, &[])?;
    let (mut after, mut most) = (None, DEFAULT_LIMIT);
    for (name, value) in &pairs {
        match name.as_str() {
            "limit" => most = limit(value)?,
            "cursor" if (1..=MAX_ID_LEN).contains(&value.len()) => after = Some(value.as_str()),
            "cursor" => return Err(Error::bad_request("cursor", "cursor is not of a list of keys.")),
            _ => return Err(query::unknown(name)),
        }
    }
    let mut keys = state.files.list_api_keys(&principal, after, most + 1).await?;
    let has_more = cursor::cut(&mut keys, most);
    let next = keys.last().filter(|_| has_more).map(|key| key.id.clone());
    let items: Vec<_> = keys.iter().map(ApiKeyView::from).collect();
    Ok(([(CACHE_CONTROL, "no-store")], Json(json!({ "items": items, "nextCursor": next }))).into_response())
}

/// `DELETE /v1/admin/keys/{id}`.
pub async fn revoke(caller: Caller, Path(id): Path<String>, uri: Uri) -> Result<StatusCode, Error> {
    permit(&caller.principal, Action::Administer, Resource::Deployment)?;
    query::refuse(&uri)?;
    if id.len() > MAX_ID_LEN || !id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Err(Error::new(ErrorCode::InvalidId, "An id of a key is letters and digits."));
    }
    caller.state.files.revoke_api_key(&caller.principal, &id, caller.audit_id()).await?;
    Ok(StatusCode::NO_CONTENT)
}
