//! Recording of denied accesses: who was known and was refused. Decides nothing, and records nothing of those whom
//! nobody knows, who could fill the audit for free.

use std::sync::{Arc, OnceLock};

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::request::Parts;

use super::AppState;
use super::problem::{Failure, RequestId, Told};
use crate::error::ErrorCode;
use crate::files::access::Principal;
use crate::files::denials::Denial;
use crate::metrics;

/// Longest name kept of what a client asked for.
const NAMED_LEN: usize = 64;

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
pub async fn record(State(state): State<AppState>, mut request: Request, next: Next) -> Response {
    let (asker, method, uri) = (Asker::default(), request.method().clone(), request.uri().clone());
    let route = request.extensions().get::<MatchedPath>().cloned();
    let request_id = request.extensions().get::<RequestId>().cloned();
    request.extensions_mut().insert(asker.clone());
    let response = next.run(request).await;
    let Some(code) = refusal(&response) else { return response };
    metrics::refused(code.row().code);
    if let Some(principal) = asker.0.get().cloned() {
        let route = route.as_ref().map_or("-", MatchedPath::as_str);
        let denial = Denial {
            asked: format!("{method} {route}"),
            named: named(route, uri.path()),
            code: code.row().code,
            request_id: request_id.map(|id| id.0.to_string()),
        };
        // In a task of its own: who hangs up on being refused is recorded, too.
        if let Err(error) = tokio::spawn(enter(state, principal, denial)).await {
            tracing::error!(error = %error, "recording a denied access ended early");
        }
    }
    response
}

async fn enter(state: AppState, principal: Principal, denial: Denial) {
    match state.files.record_denial(&principal, denial.clone()).await {
        Ok(true) => {}
        Ok(false) => metrics::unrecorded_denial(),
        Err(error) => {
            metrics::unrecorded_denial();
            let (actor, cause) = (principal.actor, &error.cause);
            tracing::error!(error = %error, ?cause, actor, ?denial, "a denied access is not in the audit");
        }
    }
}

/// Why somebody was refused, if so.
fn refusal(response: &Response) -> Option<ErrorCode> {
    let failed = response.extensions().get::<Failure>().map(|Failure(error)| error);
    let error = failed.or_else(|| response.extensions().get::<Told>().map(|Told(error)| error))?;
    // That an upload takes no bytes from anybody is no denied access.
    let is_refusal = matches!(error.code.row().status, 401 | 403) && error.code != ErrorCode::FinalUpload;
    is_refusal.then_some(error.code)
}

/// What a path has in the place of a route's parameter.
fn named(route: &str, path: &str) -> Option<String> {
    let (place, named) = route.split('/').zip(path.split('/')).find(|(place, _)| place.starts_with('{'))?;
    if place == "{token}" {
        return None;
    }
    Some(named.chars().take(NAMED_LEN).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_what_the_route_leaves_open() {
        assert_eq!(named("/v1/files/{id}/content", "/v1/files/0a/content").as_deref(), Some("0a"));
        assert_eq!(named("/v1/files", "/v1/files"), None);
        assert_eq!(named("/s/{token}/content", "/s/secret/content"), None, "what opens a share is no name");
        assert_eq!(
            named("/v1/admin/quotas/{tenant}", &format!("/v1/admin/quotas/{}", "x".repeat(999))).map(|n| n.len()),
            Some(64)
        );
    }
}
