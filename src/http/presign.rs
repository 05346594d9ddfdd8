//! Presigned URLs: made by `/v1/files/{id}/presign` and `/v1/presign`, and read where they come back. A URL is the
//! path of what it allows, with its terms, `tenant`, `keyId`, `expires` and `signature` in the query.

use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{AUTHORIZATION, CACHE_CONTROL};
use http::request::Parts;
use http::{HeaderMap, Method, Uri};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use super::AppState;
use super::body::read_said;
use super::caller::Caller;
use super::client::Client;
use super::denied::Asker;
use super::files::FileIdPath;
use super::query;
use super::view::timestamp;
use crate::content::media_type::MediaType;
use crate::error::{Error, ErrorCode};
use crate::files::access::{Action, Link, Principal, Resource, Role, UploadTerms, is_tenant_name, permit};
use crate::files::options;
use crate::files::presign::{Claim, MAX_LIFE, Signer};
use crate::format::digest::Sha256Digest;
use crate::format::presign::SignedRequest;
use crate::store::presign::Signed;

const MAX_BODY_LEN: usize = 8192;
/// How long a URL is taken that says nothing about it.
const USUAL_LIFE: Duration = Duration::from_secs(3600);
const UPLOADS: &str = "/v1/files";

/// What every presigned URL says of itself.
const CLAIM: [&str; 4] = ["tenant", "keyId", "expires", "signature"];

/// A presigned URL that came back.
#[derive(Debug, PartialEq, Eq)]
pub struct SignedUrl {
    /// What it says of its signature.
    pub claim: Claim,
    /// Everything that is signed, decoded.
    pub parameters: Vec<(String, String)>,
}

impl SignedUrl {
    /// Reads a URL; none where it is not presigned.
    ///
    /// # Errors
    /// `bad_request` where a part of the claim is missing, malformed or there twice.
    pub fn parse(uri: &Uri) -> Result<Option<Self>, Error> {
        let mut parameters = query::pairs(uri)?;
        if !parameters.iter().any(|(name, _)| ["keyId", "signature"].contains(&name.as_str())) {
            return Ok(None);
        }
        query::require_single(&parameters, &[])?;
        let said = |field: &'static str| {
            let value = parameters.iter().find(|(name, _)| name == field).map(|(_, value)| value.as_str());
            value.ok_or_else(|| refused(field))
        };
        let number = |field| {
            let is_number = |text: &&str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            said(field).ok().filter(is_number).and_then(|text| text.parse().ok()).ok_or_else(|| refused(field))
        };
        let signature = URL_SAFE_NO_PAD.decode(said("signature")?).ok().and_then(|bytes| bytes.try_into().ok());
        let claim = Claim {
            tenant: Some(said("tenant")?)
                .filter(|name| is_tenant_name(name))
                .ok_or_else(|| refused("tenant"))?
                .to_owned(),
            epoch: number("keyId")?,
            expires: number("expires")?,
            signature: signature.ok_or_else(|| refused("signature"))?,
        };
        parameters.retain(|(name, _)| name != "signature");
        Ok(Some(Self { claim, parameters }))
    }

    /// A signed term.
    fn term(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(of, _)| of == name).map(|(_, value)| value.as_str())
    }
}

fn refused(field: &'static str) -> Error {
    Error::bad_request(field, format!("The presigned URL has no valid {field}."))
}

/// Who asks by a presigned URL; none where the request is none. What only its signature needs is taken off its query.
///
/// # Errors
/// `bad_request`; `link_invalid`, `link_revoked`, `link_expired`; `too_many_requests`.
pub(super) async fn holder(parts: &mut Parts, state: &AppState) -> Result<Option<Principal>, Error> {
    let Some(url) = SignedUrl::parse(&parts.uri)? else { return Ok(None) };
    if parts.headers.contains_key(AUTHORIZATION) {
        return Err(Error::bad_header("Authorization", "Send a credential or a presigned URL, not both."));
    }
    // What reads may be asked about: the headers alone (RFC 9110 §9.3.2).
    let method = if parts.method == Method::HEAD { "GET" } else { parts.method.as_str() };
    let request = SignedRequest { method, path: parts.uri.path(), parameters: &url.parameters };
    let verified = state.files.verify_link(&url.claim, request).await;
    verified.map_err(|error| match error.code {
        ErrorCode::LinkInvalid => {
            let client = Client::of(&parts.headers, &parts.extensions, &state.trusted_proxies);
            state.limits.count_wrong(client).err().unwrap_or(error)
        }
        _ => error,
    })?;
    let id = Sha256Digest::of(&url.claim.signature).to_string();
    let principal = Principal {
        actor: format!("presigned:{}", &id[..16]),
        tenant: url.claim.tenant.clone(),
        role: Role::Link(link(&url, parts.uri.path())?),
    };
    Asker::note(parts, &principal);
    state.limits.count(&principal)?;
    parts.uri = without_claim(&url, parts.uri.path())?;
    Ok(Some(principal))
}

/// What a URL whose signature was verified allows.
fn link(url: &SignedUrl, path: &str) -> Result<Link, Error> {
    if path == UPLOADS {
        return Ok(Link::Upload(UploadTerms {
            owner: url.term("owner").ok_or_else(|| refused("owner"))?.to_owned(),
            max_size: url.term("maxSize").map(|size| size.parse().map_err(|_| refused("maxSize"))).transpose()?,
            content_type: url.term("contentType").map(str::to_owned),
        }));
    }
    let id = path.strip_prefix("/v1/files/").and_then(|rest| rest.strip_suffix("/content"));
    id.and_then(|id| id.parse().ok()).map(Link::Download).ok_or_else(|| refused("signature"))
}

/// The path with what is left to say of the request itself.
fn without_claim(url: &SignedUrl, path: &str) -> Result<Uri, Error> {
    let is_terms = |name: &str| path == UPLOADS && ["owner", "maxSize", "contentType"].contains(&name);
    let left: Vec<_> =
        url.parameters.iter().filter(|(name, _)| !CLAIM.contains(&name.as_str()) && !is_terms(name)).collect();
    let query = serde_urlencoded::to_string(left).map_err(|error| Error::internal("read the URL", error))?;
    format!("{path}?{query}").parse().map_err(|error| Error::internal("read the URL", error))
}

/// `POST /v1/files/{id}/presign`.
pub async fn download(
    caller: Caller,
    FileIdPath(id): FileIdPath,
    headers: HeaderMap,
    uri: Uri,
    body: Body,
) -> Result<Response, Error> {
    permit(&caller.principal, Action::Share, Resource::Tenant)?;
    let said = read_said(&uri, &headers, body, caller.state.body_limits, MAX_BODY_LEN).await?;
    let (mut life, mut terms) = (USUAL_LIFE, Vec::new());
    for (member, value) in &said {
        match member.as_str() {
            "method" => require_method(value, "GET")?,
            "expiresIn" => life = life_of(value)?,
            "download" => {
                let is_wanted = value.as_bool().ok_or_else(|| Error::bad_request("download", "Say true or false."))?;
                terms.extend(is_wanted.then(|| ("download".to_owned(), "1".to_owned())));
            }
            "filename" => terms.push((member.clone(), options::name(text("filename", value)?)?)),
            _ => return Err(query::unknown(member)),
        }
    }
    let state = &caller.state;
    let signer = state.files.presign_download(&caller.principal, id, life, caller.audit_id()).await?;
    Ok(answer(state, &state.content_base, &signer, "GET", &format!("/v1/files/{}/content", id.to_hex()), terms))
}

/// `POST /v1/presign`.
pub async fn upload(caller: Caller, headers: HeaderMap, uri: Uri, body: Body) -> Result<Response, Error> {
    permit(&caller.principal, Action::Share, Resource::Tenant)?;
    let said = read_said(&uri, &headers, body, caller.state.body_limits, MAX_BODY_LEN).await?;
    let (mut life, mut terms) = (USUAL_LIFE, vec![("owner".to_owned(), caller.principal.actor.clone())]);
    for (member, value) in &said {
        let term = match member.as_str() {
            "method" => {
                require_method(value, "POST")?;
                continue;
            }
            "expiresIn" => {
                life = life_of(value)?;
                continue;
            }
            "name" => options::name(text("name", value)?)?,
            "folder" => options::folder(text("folder", value)?)?,
            "contentType" => content_type(text("contentType", value)?)?,
            "maxSize" => {
                let refused = || Error::bad_request("maxSize", "maxSize is not a number of bytes.");
                value.as_u64().filter(|size| i64::try_from(*size).is_ok()).ok_or_else(refused)?.to_string()
            }
            _ => return Err(query::unknown(member)),
        };
        terms.push((member.clone(), term));
    }
    let signer = caller.state.files.presign_upload(&caller.principal, life, caller.audit_id()).await?;
    let state = &caller.state;
    Ok(answer(state, &state.public_url, &signer, "POST", UPLOADS, terms))
}

/// `POST /v1/presign/revoke`: no URL that is out is taken any more.
pub async fn revoke(caller: Caller, uri: Uri) -> Result<Response, Error> {
    begin_epoch(caller, &uri, Signed::Revoked).await
}

/// `POST /v1/presign/rotate`: another key signs; URLs that are out are taken until they expire.
pub async fn rotate(caller: Caller, uri: Uri) -> Result<Response, Error> {
    begin_epoch(caller, &uri, Signed::Kept).await
}

async fn begin_epoch(caller: Caller, uri: &Uri, signed: Signed) -> Result<Response, Error> {
    query::refuse(uri)?;
    let begun = caller.state.files.begin_link_epoch(&caller.principal, signed, caller.audit_id()).await?;
    let body = json!({ "keyId": begun.current.to_string(), "oldestKeyId": begun.oldest.to_string() });
    Ok(([(CACHE_CONTROL, "no-store")], Json(body)).into_response())
}

fn answer(
    state: &AppState,
    base: &str,
    signer: &Signer,
    method: &str,
    path: &str,
    mut parameters: Vec<(String, String)>,
) -> Response {
    let mut say = |name: &str, value: String| parameters.push((name.to_owned(), value));
    say("tenant", signer.tenant.clone());
    say("keyId", signer.epoch.to_string());
    say("expires", signer.expires_at.timestamp_millis().div_euclid(1000).to_string());
    let signature = state.files.sign(signer, SignedRequest { method, path, parameters: &parameters });
    parameters.push(("signature".to_owned(), URL_SAFE_NO_PAD.encode(signature)));
    let query: Vec<_> = parameters.iter().map(|(name, value)| format!("{name}={}", encoded(value))).collect();
    let body = json!({
        "url": format!("{base}{path}?{}", query.join("&")),
        "method": method,
        "expiresAt": timestamp(signer.expires_at),
    });
    ([(CACHE_CONTROL, "no-store")], Json(body)).into_response()
}

/// Everything but what RFC 3986 §2.3 calls unreserved.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

fn encoded(value: &str) -> impl std::fmt::Display {
    utf8_percent_encode(value, RESERVED)
}

fn text<'a>(field: &'static str, value: &'a Value) -> Result<&'a str, Error> {
    value.as_str().ok_or_else(|| Error::bad_request(field, format!("{field} is not a text.")))
}

fn require_method(value: &Value, method: &str) -> Result<(), Error> {
    match value.as_str() {
        Some(said) if said == method => Ok(()),
        _ => Err(Error::bad_request("method", format!("method is {method} here."))),
    }
}

fn life_of(value: &Value) -> Result<Duration, Error> {
    let most = MAX_LIFE.as_secs();
    let secs = value.as_u64().filter(|secs| (1..=most).contains(secs));
    let refused = || Error::bad_request("expiresIn", format!("expiresIn is not a number of seconds from 1 to {most}."));
    secs.map(Duration::from_secs).ok_or_else(refused)
}

fn content_type(value: &str) -> Result<String, Error> {
    let parsed = MediaType::parse(value);
    parsed
        .map(|parsed| parsed.to_string())
        .ok_or_else(|| Error::bad_request("contentType", "contentType is no media type."))
}
