//! The extractor of who follows a link: what the request says and shows of them. Decides nothing.

use axum::Extension;
use axum::extract::{FromRequestParts, Path};
use http::header::{AUTHORIZATION, COOKIE, ORIGIN, REFERER, USER_AGENT};
use http::request::Parts;
use http::{HeaderMap, Uri};
use zeroize::Zeroizing;

use super::super::AppState;
use super::super::client::Client;
use super::super::customer_key::CustomerKey;
use super::super::negotiate::weight_of_type;
use super::super::problem::RequestId;
use crate::error::{Error, ErrorCode};
use crate::files::access::Principal;
use crate::files::shares::visit::{Purpose, Visit, Visitor};
use crate::format::key::Key;

pub(super) const PAGE_COOKIE: &str = "gridgate-page";
pub(super) const ENTRY_COOKIE: &str = "gridgate-entry";
pub(super) const GRANT_COOKIE: &str = "gridgate-grant";
const PASSWORD_HEADER: &str = "gridgate-share-password";
const MAX_USER_AGENT_LEN: usize = 256;

/// Who follows a link.
pub struct Guest {
    pub(super) state: AppState,
    pub(super) token: String,
    pub(super) visitor: Visitor,
    pub(super) password: Option<Zeroizing<String>>,
    pub(super) request_id: RequestId,
    pub(super) customer_key: Option<Key>,
    pub(super) client: Client,
    /// Whether a page is what they can read.
    pub(super) wants_page: bool,
    /// Whether they ask for JSON rather than a page.
    pub(super) wants_json: bool,
}

impl FromRequestParts<AppState> for Guest {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Error> {
        let Ok(Path(token)) = Path::<String>::from_request_parts(parts, state).await else {
            return Err(Error::new(ErrorCode::ShareNotFound, "There is no such share."));
        };
        let principal = match parts.headers.contains_key(AUTHORIZATION) {
            true => Some(Principal::from_request_parts(parts, state).await?),
            false => None,
        };
        let CustomerKey(customer_key) = CustomerKey::from_request_parts(parts, state).await?;
        let Extension(request_id) = Extension::from_request_parts(parts, state)
            .await
            .map_err(|error| Error::internal("name the request", error))?;
        let client = Client::of(&parts.headers, &parts.extensions, &state.trusted_proxies);
        if parts.headers.get_all(PASSWORD_HEADER).iter().count() > 1 {
            return Err(Error::bad_header("Gridgate-Share-Password", "It is sent twice."));
        }
        let password = parts.headers.remove(PASSWORD_HEADER);
        let password = password.map(|value| String::from_utf8(value.as_bytes().to_vec()).map(Zeroizing::new));
        let password =
            password.transpose().map_err(|_| Error::bad_header("Gridgate-Share-Password", "It is not UTF-8."))?;
        let headers = &parts.headers;
        let text = |name: http::HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        let (page, json) = (weight_of_type(headers, "text/html"), weight_of_type(headers, "application/json"));
        Ok(Self {
            state: state.clone(),
            token,
            visitor: Visitor {
                address: client.ip(),
                page: text(ORIGIN).or_else(|| text(REFERER)).and_then(host_of),
                principal,
                page_pass: cookie(headers, PAGE_COOKIE),
                entry: cookie(headers, ENTRY_COOKIE),
                grant: headers
                    .get(&super::GRANT)
                    .and_then(|value| value.to_str().ok().map(str::to_owned))
                    .or_else(|| cookie(headers, GRANT_COOKIE)),
                user_agent: text(USER_AGENT).map(|agent| agent.chars().take(MAX_USER_AGENT_LEN).collect()),
            },
            password,
            request_id,
            customer_key,
            client,
            wants_page: page.is_some_and(|page| page > 0 && page >= json.unwrap_or(0)),
            wants_json: json.is_some_and(|json| json > 0 && json > page.unwrap_or(0)),
        })
    }
}

impl Guest {
    /// Opens the share, password included.
    ///
    /// # Errors
    /// As the terms say; `too_many_requests` for who guesses tokens or passwords.
    pub(super) async fn enter(&self, purpose: Purpose) -> Result<Visit, Error> {
        let mut visit = self.visit(purpose).await?;
        self.unlock_visit(&mut visit).await?;
        Ok(visit)
    }

    /// Opens the share, all but its password.
    pub(super) async fn visit(&self, purpose: Purpose) -> Result<Visit, Error> {
        let found = self.state.files.visit(&self.token, &self.visitor, purpose).await;
        found.map_err(|error| match error.code {
            ErrorCode::ShareNotFound => self.state.limits.count_wrong(self.client).err().unwrap_or(error),
            _ => error,
        })
    }

    /// Takes the password that came with the request.
    pub(super) async fn unlock_visit(&self, visit: &mut Visit) -> Result<(), Error> {
        let attempt = |share| self.state.limits.count_password(share, self.client);
        self.state.files.unlock(visit, &self.visitor, self.password.clone(), attempt).await
    }
}

fn host_of(url: &str) -> Option<String> {
    let url = url.parse::<Uri>().ok()?;
    url.host().filter(|_| url.scheme().is_some()).map(str::to_ascii_lowercase)
}

fn cookie(headers: &HeaderMap, name: &str) -> Option<String> {
    let lines = headers.get_all(COOKIE).iter().filter_map(|line| line.to_str().ok());
    let mut pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(of, _)| *of == name).map(|(_, value)| value.to_owned())
}
