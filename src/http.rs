//! The HTTP edge: every route and the layers around them on one screen.
//!
//! Turns requests into calls of `files` and outcomes into responses; decides nothing about files.

pub mod admin;
pub mod api_keys;
mod append;
pub mod auth;
pub mod body;
pub mod caller;
pub mod client;
pub mod conditional;
pub mod content;
pub mod content_host;
pub mod cors;
pub mod cursor;
pub mod customer_key;
pub mod denied;
pub mod digests;
pub mod disposition;
pub mod files;
pub mod form;
pub mod guard;
pub mod health;
pub mod limits;
pub mod links;
pub mod metrics;
pub mod negotiate;
pub mod presign;
pub mod problem;
pub mod query;
pub mod ranges;
pub mod ruft;
pub mod serve;
pub mod shares;
pub mod throttle;
pub mod tls;
pub mod tus;
pub mod uploads;
pub mod view;

use std::ops::Deref;
use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{delete, get, head, post, put};
use ipnet::IpNet;
use serde::Deserialize;
use tower_http::CompressionLevel;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;

use crate::error::{Error, ErrorCode};
use crate::files::Files;
use crate::network::parse_network;
use body::BodyLimits;
use content_host::host_of;
use limits::Limits;

/// How the server listens and how long it waits.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerSettings {
    /// Address and port; port 0 picks one.
    pub listen: String,
    /// Base of the links handed out; empty: the listen address.
    pub public_url: String,
    /// Base of the links of content, on a host that serves nothing else; empty: as all others.
    pub content_url: String,
    /// A certificate and those that it hangs on, PEM; empty: plain HTTP.
    pub tls_cert_file: PathBuf,
    /// The certificate's key, PEM.
    pub tls_key_file: PathBuf,
    /// How long a stopping server lets requests finish, 0 to 3,600 seconds.
    pub drain_secs: u64,
    /// How long a request's head may take, 1 to 300 seconds.
    pub head_timeout_secs: u64,
    /// How long a request's body may stand still, 1 to 3,600 seconds.
    pub body_idle_secs: u64,
    /// Bytes a second that a request's body brings at least, 0 (none) to 1,048,576.
    pub min_body_bytes_per_sec: u64,
    /// Open connections, 1 to 100,000.
    pub max_connections: u32,
    /// Origins whose pages may ask; `*`: any.
    pub cors_origins: Vec<String>,
    /// Addresses and networks of proxies whose `X-Forwarded-For` and `X-Forwarded-Proto` are believed.
    pub trusted_proxies: Vec<String>,
    /// Take keys of clients over a network without TLS, too.
    pub allow_insecure_customer_keys: bool,
}

impl ServerSettings {
    /// Names the first setting out of its range.
    pub fn check(&self) -> Result<(), String> {
        let ranges = [
            ("server.drain_secs", self.drain_secs, 0..=3600),
            ("server.head_timeout_secs", self.head_timeout_secs, 1..=300),
            ("server.body_idle_secs", self.body_idle_secs, 1..=3600),
            ("server.min_body_bytes_per_sec", self.min_body_bytes_per_sec, 0..=1 << 20),
            ("server.max_connections", u64::from(self.max_connections), 1..=100_000),
        ];
        if let Some((key, value, range)) = ranges.into_iter().find(|(_, value, range)| !range.contains(value)) {
            return Err(format!("{key}: {value} is not between {} and {}", range.start(), range.end()));
        }
        let is_origin = |origin: &&String| {
            let uri = origin.parse::<http::Uri>();
            let is_plain = |uri: &http::Uri| {
                matches!(uri.scheme_str(), Some("http" | "https"))
                    && matches!(uri.path(), "" | "/")
                    && !origin.ends_with('/')
            };
            *origin == "*" || uri.is_ok_and(|uri| uri.authority().is_some() && is_plain(&uri))
        };
        if let Some(origin) = self.cors_origins.iter().find(|origin| !is_origin(origin)) {
            return Err(format!(
                "server.cors_origins: {origin:?} is not \"*\" or an origin such as https://example.org"
            ));
        }
        if let Some(text) = self.trusted_proxies.iter().find_map(|text| parse_network(text).err()) {
            return Err(format!("server.trusted_proxies: {text:?} is not an address or a network such as 10.0.0.0/8"));
        }
        if self.tls_cert_file.as_os_str().is_empty() != self.tls_key_file.as_os_str().is_empty() {
            return Err("server.tls_key_file: goes with server.tls_cert_file; set both or none".into());
        }
        self.check_urls()
    }

    /// Whether TLS is spoken on the listener.
    pub fn has_tls(&self) -> bool {
        !self.tls_cert_file.as_os_str().is_empty()
    }

    fn check_urls(&self) -> Result<(), String> {
        let is_base = |url: &str| {
            url.parse::<http::Uri>().is_ok_and(|uri| {
                matches!(uri.scheme_str(), Some("http" | "https")) && uri.authority().is_some() && uri.query().is_none()
            })
        };
        let urls = [("server.public_url", &self.public_url), ("server.content_url", &self.content_url)];
        if let Some((key, _)) = urls.into_iter().find(|(_, url)| !url.is_empty() && !is_base(url)) {
            return Err(format!("{key}: not an absolute http or https URL"));
        }
        if !self.content_url.is_empty() && host_of(&self.content_url) == host_of(&self.public_url) {
            return Err("server.content_url: its host is the one of server.public_url; content needs another".into());
        }
        if !self.content_url.is_empty() && self.public_url.is_empty() {
            return Err("server.content_url: needs server.public_url, which says where the rest is".into());
        }
        Ok(())
    }
}

/// What every handler works with. Each layer clones it for each request, and all layers beneath with it.
#[derive(Clone)]
pub struct AppState(Arc<Shared>);

impl Deref for AppState {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl From<Shared> for AppState {
    fn from(shared: Shared) -> Self {
        Self(Arc::new(shared))
    }
}

/// What all handlers share.
pub struct Shared {
    /// The use cases.
    pub files: Files,
    /// Base of the links handed out, without a closing slash.
    pub public_url: String,
    /// Base of the links of content, without a closing slash.
    pub content_base: String,
    /// The host that serves nothing but content.
    pub content_host: Option<String>,
    /// How slowly a body may come.
    pub body_limits: BodyLimits,
    /// Origins whose pages may ask.
    pub cors_origins: Vec<String>,
    /// Proxies that are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// How often somebody may ask.
    pub limits: Limits,
    /// Whether clients' keys are taken over a network without TLS.
    pub allows_insecure_keys: bool,
}

/// Compresses long texts that are made on the spot, for clients that accept it. Never content,
/// which goes out as it is stored.
fn compressed() -> CompressionLayer {
    CompressionLayer::new().quality(CompressionLevel::Fastest)
}

/// Every route, inside the layers.
pub fn router(state: AppState) -> Router {
    let tus_upload = get(tus::get).patch(tus::patch).delete(tus::terminate).post(tus::overridden).options(tus::options);
    Router::new()
        .route("/v1/files", post(files::put).merge(get(files::list).layer(compressed())))
        .route("/v1/files/{id}", get(files::head).patch(files::edit).delete(files::delete))
        .route("/v1/files/{id}/content", get(content::open))
        .route("/v1/files/{id}/presign", post(presign::download))
        .route("/v1/files/{id}/shares", post(shares::create).get(shares::list))
        .route("/v1/shares/{id}", get(shares::show).patch(shares::edit).delete(shares::revoke))
        .route("/v1/shares/{id}/log", get(shares::log))
        .route("/v1/shares/{id}/comments", get(shares::comments))
        .route("/s/{token}", get(links::show).post(links::unlock))
        .route("/s/{token}/content", get(links::content))
        .route("/s/{token}/comments", post(links::comment))
        .route("/v1/presign", post(presign::upload))
        .route("/v1/presign/revoke", post(presign::revoke))
        .route("/v1/presign/rotate", post(presign::rotate))
        .route("/v1/uploads", post(uploads::create).get(uploads::list))
        .route("/v1/uploads/{id}", get(uploads::show).delete(uploads::abort))
        .route("/v1/uploads/{id}/parts/{n}", put(uploads::put_part))
        .route("/v1/uploads/{id}/complete", post(uploads::complete))
        .route("/tus", post(tus::create).options(tus::options))
        .route("/tus/", post(tus::create).options(tus::options))
        .route("/tus/{id}", tus_upload)
        .route("/ruft", post(ruft::create).options(ruft::options))
        .route("/ruft/", post(ruft::create).options(ruft::options))
        .route("/ruft/{id}", head(ruft::head).patch(ruft::patch).delete(ruft::cancel))
        .route("/v1/admin/keys", post(api_keys::create).get(api_keys::list))
        .route("/v1/admin/keys/{id}", delete(api_keys::revoke))
        .route("/v1/admin/quotas/{tenant}", get(admin::quota).put(admin::set_quota))
        .route("/v1/admin/retention/explain", get(admin::explain_retention))
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz))
        .route("/metrics", get(metrics::show).layer(compressed()))
        .route("/openapi.yaml", get(health::openapi).layer(compressed()))
        .fallback(async || Error::new(ErrorCode::RouteNotFound, "No route has this path."))
        .method_not_allowed_fallback(async || {
            Error::new(ErrorCode::MethodNotAllowed, "See the Allow header for what this path offers.")
        })
        // Outermost first. As one: each call of `layer` puts all routes into boxes, which each layer around them clones.
        .layer((
            from_fn(metrics::count),
            from_fn(tus::label),
            from_fn_with_state(state.clone(), cors::answer),
            from_fn_with_state(state.clone(), problem::render),
            CatchPanicLayer::custom(problem::from_panic),
            from_fn_with_state(state.clone(), limits::admit),
            from_fn_with_state(state.clone(), denied::record),
            from_fn(guard::refuse_ambiguous_framing),
            from_fn_with_state(state.clone(), content_host::confine),
        ))
        .with_state(state)
}
