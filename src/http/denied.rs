//! Recording of denied accesses: who was known and was refused. Decides nothing, and records nothing of those whom
//! nobody knows, who could fill the audit for free.

use std::sync::{Arc, OnceLock};

use axum::extract::{FromRequestParts, MatchedPath, RawPathParams, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::StatusCode;
use http::request::Parts;

use super::AppState;
use super::problem::{Failure, RequestId};
use crate::error::ErrorCode;
use crate::files::access::{Denial, Principal};
use crate::store::Id;

/// Who asks, as soon as that is known.
#[derive(Debug, Clone, Default)]
pub struct Asker(Arc<OnceLock<Principal>>);

impl Asker {
    /// Notes who asks, for [`record`].
    pub fn note(parts: &Parts, principal: &Principal) {
        if let Some(asker) = parts.extensions.get::<Self>() {
            asker.0.get_or_init(|| principal.clone());
        }
    }
}

/// Records an answer that refuses somebody who is known, before it is given.
pub async fn record(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let (asker, method) = (Asker::default(), request.method().clone());
    let (mut parts, body) = request.into_parts();
    let file = named_file(&mut parts).await;
    let route = parts.extensions.get::<MatchedPath>().map_or("-".to_owned(), |path| path.as_str().to_owned());
    let request_id = parts.extensions.get::<RequestId>().map(|id| id.0.to_string());
    parts.extensions.insert(asker.clone());
    let response = next.run(Request::from_parts(parts, body)).await;
    let Some(code) = refusal(&response) else { return response };
    if let Some(principal) = asker.0.get().cloned() {
        let asked = format!("{method} {route}");
        let denial = Denial { asked, code: code.row().code, file, request_id };
        // In a task of its own: who hangs up on being refused is recorded, too.
        let recording = tokio::spawn(async move {
            if let Err(error) = state.files.record_denial(&principal, denial).await {
                tracing::warn!(error = %error, actor = principal.actor, "a denied access is not in the audit");
            }
        });
        if let Err(error) = recording.await {
            tracing::warn!(error = %error, "a denied access is not in the audit");
        }
    }
    response
}

async fn named_file(parts: &mut Parts) -> Option<Id> {
    let params = RawPathParams::from_request_parts(parts, &()).await.ok()?;
    params.iter().find(|(name, _)| *name == "id").and_then(|(_, id)| Id::parse_str(id).ok())
}

fn refusal(response: &Response) -> Option<ErrorCode> {
    let Failure(error) = response.extensions().get::<Failure>()?;
    (error.code.row().status == StatusCode::FORBIDDEN).then_some(error.code)
}
