//! The composition root: database, keys, use cases, jobs and server put together, and taken apart
//! in the reverse order.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::either::Either;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::config::Settings;
use crate::content::Routing;
use crate::error::Error;
use crate::files::tokens::TokenKeys;
use crate::files::{Files, Keys};
use crate::http::body::BodyLimits;
use crate::http::content_host::host_of;
use crate::http::limits::Limits;
use crate::http::tls::{Tls, connect_to_anyone};
use crate::http::{AppState, ServerSettings, Shared, router, serve};
use crate::jobs::{self, rekey};
use crate::keyring::{KeyRing, Roots};
use crate::mongod::{self, Mongod, OnExit};
use crate::network::parse_network;
use crate::random;
use crate::secret_file;
use crate::store::{Store, StoreError};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

/// Why the program cannot run: for the operator, so with every cause.
pub type StartError = Box<dyn std::error::Error + Send + Sync>;

/// The use cases with what they stand on.
pub struct App {
    /// The use cases.
    pub files: Files,
    mongod: Option<Mongod>,
}

impl App {
    /// Reaches or starts the database, opens the keys, makes the schema and the first admin key valid: to serve.
    ///
    /// # Errors
    /// With a message that says what to set or to do.
    pub async fn open(settings: &Settings) -> Result<Self, StartError> {
        Self::open_on(None, settings, async |uri| {
            let files = open_files(uri, settings).await?;
            files.ensure_admin_key(&admin_key(settings)?).await?;
            Ok(files)
        })
        .await
    }

    async fn open_on(
        running: Option<Zeroizing<String>>,
        settings: &Settings,
        open: impl AsyncFnOnce(&str) -> Result<Files, StartError>,
    ) -> Result<Self, StartError> {
        let set = running.as_ref().map(|uri| uri.as_str()).or(settings.database.uri.reveal());
        let mongod = match set {
            Some(_) => None,
            None => Some(Mongod::start(&settings.mongod, &settings.data_dir, OnExit::KeepFiles).await?),
        };
        let opened = open(mongod.as_ref().map(Mongod::uri).or(set).unwrap_or_default()).await;
        match (opened, mongod) {
            (Ok(files), mongod) => Ok(Self { files, mongod }),
            (Err(error), Some(mongod)) => {
                mongod.stop().await?;
                Err(error)
            }
            (Err(error), None) => Err(error),
        }
    }

    /// As [`open`](Self::open), but beside a gateway that may be running: its database is used then, and the first
    /// admin key stays its own.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn join(settings: &Settings) -> Result<Self, StartError> {
        Self::open_on(find_running(settings).await?, settings, async |uri| open_files(uri, settings).await).await
    }

    /// As [`join`](Self::join), but first fills the database, which nothing here has touched before.
    ///
    /// # Errors
    /// As [`open`](Self::open), and what `fill` says.
    pub async fn fill<T>(
        settings: &Settings,
        fill: impl AsyncFnOnce(&Store, &KeyRing) -> Result<T, Error>,
    ) -> Result<(Self, T), StartError> {
        let mut filled = None;
        let app = Self::open_on(find_running(settings).await?, settings, async |uri| {
            let store = connect(uri, settings).await?;
            filled = Some(fill(&store, &KeyRing::parse(&master_key(settings)?)?).await?);
            open_files(uri, settings).await
        })
        .await?;
        Ok((app, filled.ok_or("the database was not filled")?))
    }

    /// Stops the database if it is ours.
    ///
    /// # Errors
    /// When the embedded mongod does not stop cleanly.
    pub async fn close(self) -> Result<(), StartError> {
        if let Some(mongod) = self.mongod {
            mongod.stop().await?;
        }
        Ok(())
    }
}

/// The database of a gateway that runs on the same data folder.
async fn find_running(settings: &Settings) -> Result<Option<Zeroizing<String>>, StartError> {
    match settings.database.uri.reveal() {
        Some(_) => Ok(None),
        None => Ok(mongod::find_running(&settings.data_dir).await?),
    }
}

async fn connect(uri: &str, settings: &Settings) -> Result<Store, StartError> {
    let store = Store::connect(uri, &settings.database).await?;
    store.require_replica_set().await.map_err(unreachable)?;
    Ok(store)
}

async fn open_files(uri: &str, settings: &Settings) -> Result<Files, StartError> {
    let store = connect(uri, settings).await?;
    store.require_no_restore().await?;
    let routing = Routing::new(settings.buckets.clone())?;
    store.ensure_schema(&routing.names()).await?;
    let ring = KeyRing::parse(&master_key(settings)?)?;
    ring.check_against(&store).await?;
    let roots = Roots::open(&store, &ring).await?;
    // Again: a restore that began meanwhile has seen the keys above, or is seen here.
    store.require_no_restore().await?;
    let files = Files {
        store,
        keys: Arc::new(Keys { ring, roots }),
        routing: Arc::new(routing),
        settings: settings.storage,
        clock: Clock::default(),
        key_cache: Arc::default(),
        epochs: Arc::default(),
        token_keys: Arc::new(TokenKeys::open(&settings.auth.jwt)?),
        denials: Arc::default(),
        share_entries: Arc::default(),
        passwords: Arc::default(),
        downloads: Arc::default(),
        limits: Arc::default(),
        turns: Arc::default(),
        writers: Arc::default(),
        space: Arc::default(),
    };
    rekey::warn_of_missing_keys(&files).await?;
    files.look_at_disk().await?;
    Ok(files)
}

fn unreachable(error: StoreError) -> StartError {
    format!(
        "MongoDB cannot be used: {error}{}",
        std::error::Error::source(&error).map(|e| format!(" ({e})")).unwrap_or_default()
    )
    .into()
}

/// The keyring: set, in the named file, or generated beside an embedded database.
fn master_key(settings: &Settings) -> Result<String, StartError> {
    if let Some(ring) = settings.keys.master_key.reveal() {
        return Ok(ring.to_owned());
    }
    let file = &settings.keys.master_key_file;
    if !file.as_os_str().is_empty() {
        return Ok(std::fs::read_to_string(file)
            .map_err(|error| format!("keys.master_key_file: {}: {error}", file.display()))?);
    }
    if settings.database.uri.reveal().is_some() {
        return Err("keys.master_key: set GRIDGATE_MASTER_KEY or GRIDGATE_MASTER_KEY_FILE; with a MongoDB of your own no key is generated".into());
    }
    let made = secret_file::read_or_make(&settings.data_dir.join("master.key"), KeyRing::generate)?;
    Ok(made.text)
}

/// The first admin key: set, or generated into the data folder.
fn admin_key(settings: &Settings) -> Result<String, StartError> {
    if let Some(key) = settings.auth.admin_key.reveal() {
        return Ok(key.to_owned());
    }
    let path = settings.data_dir.join("admin.key");
    let made =
        secret_file::read_or_make(&path, || format!("gg_admin_{}", URL_SAFE_NO_PAD.encode(random::bytes::<32>())))?;
    if made.is_new {
        tracing::info!(path = %path.display(), "made the first admin API key");
    }
    Ok(made.text.trim().to_owned())
}

/// Serves until SIGTERM or SIGINT, then drains and stops.
///
/// # Errors
/// When the server cannot start.
pub async fn run(settings: &Settings) -> Result<(), StartError> {
    let listener = TcpListener::bind(&settings.server.listen)
        .await
        .map_err(|error| format!("server.listen: cannot listen on {}: {error}", settings.server.listen))?;
    let tls = Tls::open(&settings.server)?.map(Arc::new);
    let stop = stop_on_signal()?;
    let app = tokio::select! {
        app = App::open(settings) => app?,
        () = stop.cancelled() => return Ok(()),
    };
    let scheme = if tls.is_some() { "https" } else { "http" };
    let url = format!("{scheme}://{}", listener.local_addr()?);
    if let Some(tls) = &tls {
        reload_on_hangup(Arc::clone(tls))?;
    }
    let files = app.files.clone();
    let running_jobs = jobs::start(&files, &stop);
    let router = router(app_state(files.clone(), settings, &url));
    println!("gridgate ready on {url}");
    serve::serve(listener, router, &settings.server, tls, stop).await;
    running_jobs.wait().await;
    if let Err(error) = files.write_downloads().await {
        tracing::warn!(%error, "the last downloads are not counted");
    }
    app.close().await
}

/// What handlers work with, for a server that listens at `url`.
pub fn app_state(files: Files, settings: &Settings, url: &str) -> AppState {
    let or = |set: &str, otherwise: &str| match set.trim_end_matches('/') {
        "" => otherwise.to_owned(),
        set => set.to_owned(),
    };
    let public_url = or(&settings.server.public_url, url);
    let shared = Shared {
        files,
        content_base: or(&settings.server.content_url, &public_url),
        content_host: host_of(&settings.server.content_url),
        public_url,
        body_limits: BodyLimits {
            idle: Duration::from_secs(settings.server.body_idle_secs),
            min_bytes_per_sec: settings.server.min_body_bytes_per_sec,
        },
        cors_origins: settings.server.cors_origins.clone(),
        trusted_proxies: settings.server.trusted_proxies.iter().filter_map(|text| parse_network(text).ok()).collect(),
        limits: Limits::new(&settings.limits),
        allows_insecure_keys: settings.server.allow_insecure_customer_keys,
    };
    shared.into()
}

fn stop_on_signal() -> Result<CancellationToken, StartError> {
    use tokio::signal::unix::{SignalKind, signal};
    let stop = CancellationToken::new();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stopping = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping");
        stopping.cancel();
    });
    Ok(stop)
}

/// Reads the certificate again at each SIGHUP; one that cannot be used changes nothing.
fn reload_on_hangup(tls: Arc<Tls>) -> Result<(), StartError> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            match tls.reload() {
                Ok(()) => tracing::info!("read the certificate again"),
                Err(why) => tracing::error!(why, "kept the certificate as it was"),
            }
        }
    });
    Ok(())
}

/// Asks a running server whether it is ready.
///
/// # Errors
/// When it does not answer 200.
pub async fn healthcheck(settings: &ServerSettings) -> Result<(), StartError> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let address = settings.listen.replace("0.0.0.0", "127.0.0.1").replace("[::]", "[::1]");
    let check = async {
        let stream = tokio::net::TcpStream::connect(&address).await?;
        let mut stream = match settings.has_tls() {
            true => Either::Right(connect_to_anyone(stream).await?),
            false => Either::Left(stream),
        };
        let request = format!("GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        // Who closes without a word of TLS has answered all the same.
        let read = stream.take(4096).read_to_end(&mut answer).await;
        if answer.is_empty() {
            read?;
        }
        Ok::<_, std::io::Error>(answer)
    };
    let answer = tokio::time::timeout(Duration::from_secs(5), check).await??;
    if answer.starts_with(b"HTTP/1.1 200") { Ok(()) } else { Err("the server is not ready".into()) }
}
