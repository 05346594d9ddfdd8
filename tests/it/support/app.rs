//! A whole gateway in the test's process: its own database, its own port, a clock to move.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use gridgate::clock::Clock;
use gridgate::config::Settings;
use gridgate::{app, http};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

use super::mongod;

/// The administrator's key of every test gateway.
pub const ADMIN_KEY: &str = "gg_admin_for-tests-only-0123456789";
/// 32 bytes that are not all the same, in base64.
pub const MASTER_KEY: &str = "test:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

static NEXT: AtomicU64 = AtomicU64::new(0);

/// A running gateway; its database goes with it.
pub struct TestApp {
    pub app: app::App,
    pub url: String,
    pub database: String,
    pub clock: Clock,
    uri: String,
    client: reqwest::Client,
    mongo: OnceCell<mongodb::Client>,
    stop: CancellationToken,
}

impl TestApp {
    /// A gateway with the default settings, but for its one bucket.
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// A gateway with changed settings.
    pub async fn start_with(change: impl FnOnce(&mut Settings)) -> Self {
        Self::start_on(new_database(), change).await
    }

    /// A gateway with a keyring of its own, on a database that may be in use already.
    pub async fn start_with_ring(database: &str, ring: &str) -> Self {
        Self::start_on(database.to_owned(), |settings| settings.keys.master_key = secret(ring)).await
    }

    /// A gateway on a database that may be in use already.
    pub async fn start_on(database: String, change: impl FnOnce(&mut Settings)) -> Self {
        Self::start_at(mongod::uri(), database, change).await
    }

    /// A gateway on a server of the test's own.
    pub async fn start_at(uri: &str, database: String, change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = settings_for(uri, &database);
        change(&mut settings);
        let app = app::App::open(&settings).await.unwrap();
        let listener = TcpListener::bind(&settings.server.listen).await.unwrap();
        let tls = http::tls::Tls::open(&settings.server).unwrap().map(Arc::new);
        let scheme = if tls.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{}", listener.local_addr().unwrap());
        let router = http::router(app::app_state(app.files.clone(), &settings, &url));
        let stop = CancellationToken::new();
        let stopping = stop.clone();
        let server = settings.server.clone();
        tokio::spawn(async move { http::serve::serve(listener, router, &server, tls, stopping).await });
        let clock = app.files.clock.clone();
        let client = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        Self { app, url, database, clock, uri: uri.to_owned(), client, mongo: OnceCell::new(), stop }
    }

    /// Ends the gateway and leaves its database to others.
    pub fn leave(mut self) {
        self.database.clear();
    }

    /// Begins to drain.
    pub fn stop_serving(&self) {
        self.stop.cancel();
    }

    /// A request of the administrator.
    pub fn request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        self.anonymous(method, path).bearer_auth(ADMIN_KEY)
    }

    /// A request without a credential.
    pub fn anonymous(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        self.client.request(method.parse().unwrap(), format!("{}{path}", self.url))
    }

    pub fn get(&self, path: &str) -> reqwest::RequestBuilder {
        self.request("GET", path)
    }

    /// Uploads bytes and gives the file; `query` is what follows the question mark.
    pub async fn put(&self, query: &str, content_type: &str, bytes: impl Into<reqwest::Body>) -> Value {
        let request = self.request("POST", &format!("/v1/files?{query}")).header("content-type", content_type);
        let response = request.body(bytes).send().await.unwrap();
        let (status, body) = (response.status().as_u16(), response.text().await.unwrap());
        assert_eq!(status, 201, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    /// The whole content of a file.
    pub async fn content(&self, file: &Value) -> Vec<u8> {
        let response = self.get(&content_path(file)).send().await.unwrap();
        assert_eq!(response.status().as_u16(), 200);
        response.bytes().await.unwrap().to_vec()
    }

    /// The status of asking for a file's content.
    pub async fn content_status(&self, file: &Value) -> u16 {
        self.get(&content_path(file)).send().await.unwrap().status().as_u16()
    }

    /// A half-open range of a file's content.
    pub async fn range(&self, file: &Value, range: std::ops::Range<u64>) -> Vec<u8> {
        let header = format!("bytes={}-{}", range.start, range.end - 1);
        let response = self.get(&content_path(file)).header("range", header).send().await.unwrap();
        assert_eq!(response.status().as_u16(), 206);
        response.bytes().await.unwrap().to_vec()
    }

    /// The database itself, past the gateway.
    pub async fn mongo(&self) -> mongodb::Database {
        let client = self.mongo.get_or_init(async || mongodb::Client::with_uri_str(&self.uri).await.unwrap()).await;
        client.database(&self.database)
    }
}

impl Drop for TestApp {
    fn drop(&mut self) {
        self.stop.cancel();
        if self.uri == mongod::uri() && !self.database.is_empty() {
            mongod::drop_database(&self.database);
        }
    }
}

/// Every bucket of the default settings.
pub fn all_buckets(settings: &mut Settings) {
    settings.buckets = Settings::load(None, &[]).unwrap().buckets;
}

/// The settings of a test gateway. It has one bucket, unless it is given more: each costs mongod six files to make.
pub fn settings_for(uri: &str, database: &str) -> Settings {
    let flags = [
        ("database.uri", uri.to_owned()),
        ("database.name", database.to_owned()),
        ("auth.admin_key", ADMIN_KEY.to_owned()),
        ("keys.master_key", MASTER_KEY.to_owned()),
        ("server.listen", "127.0.0.1:0".to_owned()),
    ];
    let mut settings = Settings::load(None, &flags).unwrap();
    settings.buckets.retain(|name, _| name == "files");
    settings
}

/// A setting that is not shown.
pub fn secret(text: &str) -> gridgate::secret::Secret {
    serde_json::from_value(text.into()).unwrap()
}

/// A database name that no other test has.
pub fn new_database() -> String {
    format!("test_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Where a file's content is.
pub fn content_path(file: &Value) -> String {
    format!("/v1/files/{}/content", file["id"].as_str().unwrap())
}

/// Bytes without a pattern, the same for the same seed: a key stream, which costs next to nothing in a build that is
/// not optimized.
pub fn noise(len: usize, seed: u64) -> Vec<u8> {
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[7; 32]).unwrap());
    let mut nonce = [0; NONCE_LEN];
    nonce[..8].copy_from_slice(&seed.to_be_bytes());
    let mut bytes = vec![0; len];
    let nonce = Nonce::assume_unique_for_key(nonce);
    let _tag = key.seal_in_place_separate_tag(nonce, Aad::empty(), &mut bytes).unwrap();
    bytes
}
