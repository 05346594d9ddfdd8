//! Whether the process lives, whether it can serve, and the contract itself.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::Uri;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use serde_json::json;
use std::time::Duration;

use super::{AppState, query};
use crate::error::{Error, ErrorCode};

/// How long readiness waits for the database.
const PATIENCE: Duration = Duration::from_secs(2);
static CONTRACT: &str = include_str!("../../openapi.yaml");

/// `GET /livez`: the process answers.
pub async fn livez(uri: Uri) -> Result<Response, Error> {
    query::refuse(&uri)?;
    Ok(healthy())
}

fn healthy() -> Response {
    ([(CACHE_CONTROL, "no-store")], Json(json!({ "status": "ok" }))).into_response()
}

/// `GET /readyz`: a writable primary answers and has room.
pub async fn readyz(State(state): State<AppState>, uri: Uri) -> Result<Response, Error> {
    query::refuse(&uri)?;
    let not_ready = |detail| Error::new(ErrorCode::Unavailable, detail);
    match tokio::time::timeout(PATIENCE, state.files.store.ping()).await {
        Ok(answer) => answer.map_err(|e| e.doing("reach the database"))?,
        Err(elapsed) => return Err(not_ready("The database does not answer.").because(elapsed)),
    }
    let room = state.files.require_space(0);
    room.map_err(|full| not_ready("The disk of the database is nearly full.").because(full))?;
    Ok(healthy())
}

/// `GET /openapi.yaml`.
pub async fn openapi(uri: Uri) -> Result<Response, Error> {
    query::refuse(&uri)?;
    Ok(([(CONTENT_TYPE, "application/yaml")], CONTRACT).into_response())
}
