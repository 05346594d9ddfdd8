//! Who asks, with what comes with it: the extractor that handlers share. Decides nothing.

use axum::Extension;
use axum::extract::FromRequestParts;
use http::header::AUTHORIZATION;
use http::request::Parts;

use super::AppState;
use super::customer_key::CustomerKey;
use super::presign;
use super::problem::RequestId;
use crate::error::Error;
use crate::files::access::Principal;
use crate::format::key::Key;

/// Who asks.
pub struct Caller {
    pub(super) state: AppState,
    pub(super) principal: Principal,
    pub(super) request_id: RequestId,
    /// The client's own key, for this request only.
    pub(super) customer_key: Option<Key>,
}

impl Caller {
    /// The request as the audit names it.
    pub(super) fn audit_id(&self) -> Option<String> {
        Some(self.request_id.0.to_string())
    }

    async fn with(principal: Principal, parts: &mut Parts, state: &AppState) -> Result<Self, Error> {
        let CustomerKey(customer_key) = CustomerKey::from_request_parts(parts, state).await?;
        let Extension(request_id) = Extension::from_request_parts(parts, state)
            .await
            .map_err(|error| Error::internal("name the request", error))?;
        Ok(Self { state: state.clone(), principal, request_id, customer_key })
    }
}

/// Who asks, by a credential or a presigned URL.
pub struct LinkCaller(pub Caller);

/// Who asks, by a credential or a presigned URL, or anybody: for what may be open to all.
pub struct AnyCaller(pub Caller);

impl FromRequestParts<AppState> for Caller {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Error> {
        // Whom nobody knows is told nothing else.
        let principal = Principal::from_request_parts(parts, state).await?;
        Self::with(principal, parts, state).await
    }
}

impl FromRequestParts<AppState> for LinkCaller {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Error> {
        let principal = match presign::holder(parts, state).await? {
            Some(holder) => holder,
            None => Principal::from_request_parts(parts, state).await?,
        };
        Caller::with(principal, parts, state).await.map(Self)
    }
}

impl FromRequestParts<AppState> for AnyCaller {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Error> {
        let principal = match presign::holder(parts, state).await? {
            Some(holder) => holder,
            None if parts.headers.contains_key(AUTHORIZATION) => Principal::from_request_parts(parts, state).await?,
            None => Principal::anonymous(),
        };
        Caller::with(principal, parts, state).await.map(Self)
    }
}
