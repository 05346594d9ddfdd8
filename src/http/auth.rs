//! The extractor of the principal: no handler that takes one runs without a valid credential.

use axum::extract::FromRequestParts;
use http::header::AUTHORIZATION;
use http::request::Parts;

use super::AppState;
use super::client::Client;
use super::denied::Asker;
use crate::error::{Error, ErrorCode};
use crate::files::access::Principal;

impl FromRequestParts<AppState> for Principal {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Error> {
        let mut values = parts.headers.get_all(AUTHORIZATION).iter();
        let (Some(value), None) = (values.next(), values.next()) else {
            return Err(Error::new(ErrorCode::Unauthenticated, "Send one header Authorization: Bearer <API key>."));
        };
        let token = value.to_str().ok().and_then(|value| value.split_once(' '));
        match token {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => {
                let principal = state.files.authenticate(token.trim()).await.map_err(|error| match error.code {
                    ErrorCode::Unauthenticated => {
                        let client = Client::of(&parts.headers, &parts.extensions, &state.trusted_proxies);
                        state.limits.count_wrong(client).err().unwrap_or(error)
                    }
                    _ => error,
                })?;
                Asker::note(parts, &principal);
                state.limits.count(&principal)?;
                Ok(principal)
            }
            _ => Err(Error::new(ErrorCode::Unauthenticated, "The Authorization header is not a bearer token.")),
        }
    }
}
