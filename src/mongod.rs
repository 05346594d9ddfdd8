//! An embedded MongoDB: a mongod found or fetched, run as a supervised child, a replica set of one.
//!
//! It gives the rest of gridgate nothing but a connection string. It does not connect on anybody's behalf,
//! back up, upgrade, or manage a mongod that somebody else runs.
//!
//! ```text
//! locate (fetch) → layout → predecessor → lifeline → replica_set → supervise
//! a program        files    old one ends  new one    primary, user  until stop
//! ```

mod error;
mod fetch;
mod layout;
mod lifeline;
mod locate;
mod log;
mod predecessor;
mod replica_set;
mod supervise;

use std::fmt;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::{JoinError, JoinHandle};
use zeroize::Zeroizing;

pub use error::MongodError;
use layout::{Credentials, Layout};
use lifeline::{Launch, Running};

/// How long a running mongod may take to accept our credentials.
const LOG_IN_LIMIT: Duration = Duration::from_secs(5);

/// How long a start may take, a download and the end of an earlier mongod not counted.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How often a start is tried when the port or the folder was taken by another in between.
const ATTEMPTS: u32 = 5;
const ATTEMPT_PAUSE: Duration = Duration::from_millis(300);
/// Ports are drawn from here, below those which Linux gives to outgoing connections: after a crash the
/// mongod must get the same one again.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// The settings of the embedded mongod.
#[derive(Debug, Clone, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MongodSettings {
    /// The WiredTiger cache.
    ///
    /// # Units
    /// MiB, 256 to 65536.
    pub cache_mib: u64,
    /// The operation log, which bounds how far a change stream can go back.
    ///
    /// # Units
    /// MiB, 990 to 1048576.
    pub oplog_mib: u64,
}

impl MongodSettings {
    /// Checks that every value is in its range.
    ///
    /// # Errors
    /// A sentence naming the key, its value and its range.
    pub fn check(&self) -> Result<(), String> {
        for (key, value, range) in
            [("mongod.cache_mib", self.cache_mib, 256..=65_536), ("mongod.oplog_mib", self.oplog_mib, 990..=1_048_576)]
        {
            if !range.contains(&value) {
                let (least, most) = range.into_inner();
                return Err(format!("{key} is {value}; it must be from {least} to {most}"));
            }
        }
        Ok(())
    }
}

/// What becomes of the data folder when the process that owns the mongod ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnExit {
    /// The files stay; mongod is shut down in order.
    KeepFiles,
    /// The whole data folder is removed, however the process ends; meant for tests.
    ///
    /// It stays if mongod cannot be started, for its log, and if the process is killed in the moment in which
    /// a dead mongod is being restarted.
    RemoveFiles,
}

/// A running, supervised mongod. Dropping it ends the mongod too, without waiting for it.
pub struct Mongod {
    uri: Zeroizing<String>,
    port: u16,
    stop: oneshot::Sender<()>,
    supervisor: JoinHandle<Result<(), MongodError>>,
}

impl Mongod {
    /// Starts a mongod on the files in `data_dir`, creating them on the first start, and returns once it is
    /// the writable primary of its replica set.
    ///
    /// # Errors
    /// Any [`MongodError`] but [`MongodError::NotStopped`]. No mongod stays running then, and the next start
    /// goes on from whatever was done.
    ///
    /// # Cancel safety
    /// Safe: a mongod that was already started is ended.
    pub async fn start(settings: &MongodSettings, data_dir: &Path, on_exit: OnExit) -> Result<Mongod, MongodError> {
        let program = locate::locate().await?;
        let data_dir = data_dir.to_owned();
        let (layout, credentials) = blocking(move || {
            let layout = Layout::prepare(&data_dir)?;
            let credentials = layout.credentials()?;
            Ok((layout, credentials))
        })
        .await?;
        let log_from_bytes = log::len_bytes(&layout);
        let mut launch = Launch { program, settings: settings.clone(), on_exit, port: 0, layout };
        let ready = tokio::time::timeout(START_LIMIT, make_ready(&mut launch, &credentials)).await;
        let running = ready.unwrap_or_else(|_| {
            Err(MongodError::NotReady {
                limit_secs: START_LIMIT.as_secs(),
                log_tail: log::tail(&launch.layout, log_from_bytes),
            })
        })?;
        let port = launch.port;
        tracing::info!(port, mongod = %launch.program.display(), "the embedded mongod is ready");
        let uri = replica_set::uri(port, &credentials);
        let (stop, stopped) = oneshot::channel();
        let supervisor = tokio::spawn(supervise::supervise(launch, credentials, running, stopped));
        Ok(Mongod { uri, port, stop, supervisor })
    }

    /// The connection string of the mongod. It holds the password: it **must** not be logged or shown.
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// Shuts the mongod down in order and returns once it has ended, within half a minute or so.
    ///
    /// With [`OnExit::RemoveFiles`] it is killed, and the data folder is gone when this returns.
    ///
    /// # Errors
    /// [`MongodError::NotStopped`] or [`MongodError::InUse`] when it cannot be ended, [`MongodError::Files`]
    /// when the data folder cannot be removed.
    ///
    /// # Cancel safety
    /// Safe: the shutdown goes on while the runtime does, and by the lifeline after that.
    pub async fn stop(self) -> Result<(), MongodError> {
        // It fails only if the supervisor is gone, which the join below reports.
        let _ = self.stop.send(());
        joined(self.supervisor.await).await
    }
}

/// The connection string of the mongod that another gateway runs on the files in `data_dir`, if one does.
///
/// # Errors
/// [`MongodError::Files`] when the folder cannot be read.
pub async fn find_running(data_dir: &Path) -> Result<Option<Zeroizing<String>>, MongodError> {
    let data_dir = data_dir.to_owned();
    let (port, credentials) = blocking(move || {
        let layout = Layout::prepare(&data_dir)?;
        Ok((layout.remembered_port(), layout.credentials()?))
    })
    .await?;
    let Some(port) = port else { return Ok(None) };
    let answers = tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_ok();
    let log_in = tokio::time::timeout(LOG_IN_LIMIT, replica_set::log_in(port, &credentials));
    let is_ours = answers && matches!(log_in.await, Ok(Ok(Some(_))));
    Ok(is_ours.then(|| replica_set::uri(port, &credentials)))
}

impl fmt::Debug for Mongod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mongod").field("port", &self.port).finish_non_exhaustive()
    }
}

/// Starts mongod on a port that is free, completes its replica set, and leaves the port in `launch`.
async fn make_ready(launch: &mut Launch, credentials: &Credentials) -> Result<Running, MongodError> {
    let mut attempt = 1;
    let mut running = loop {
        predecessor::end(&launch.layout, credentials).await?;
        let remembered = launch.layout.remembered_port();
        launch.port = free_port(remembered)?;
        if let Some(taken) = remembered.filter(|port| *port != launch.port) {
            tracing::warn!(taken, port = launch.port, "the port of the embedded mongod is taken: it gets another");
        }
        let mut running = launch.spawn()?;
        let Err(how) = running.listening(&launch.layout).await else {
            break running;
        };
        // Another took the port since it was tried, or an earlier mongod had only just been started.
        let is_passing = ["Address already in use", "DBPathInUse"]
            .iter()
            .any(|cause| log::has(&launch.layout, running.log_from_bytes, cause));
        if !is_passing || attempt == ATTEMPTS {
            let log_tail = log::tail(&launch.layout, running.log_from_bytes);
            return Err(MongodError::Ended { how, log_tail });
        }
        attempt += 1;
        tokio::time::sleep(ATTEMPT_PAUSE).await;
    };
    launch.layout.remember_port(launch.port)?;
    let completed = tokio::select! {
        completed = replica_set::complete(launch.port, credentials) => completed,
        how = running.ended() => {
            let log_tail = log::tail(&launch.layout, running.log_from_bytes);
            Err(MongodError::Ended { how, log_tail })
        }
    };
    completed.map(|()| running)
}

/// The preferred port if it is free, else a free one chosen at random.
fn free_port(preferred: Option<u16>) -> Result<u16, MongodError> {
    let is_free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    if let Some(port) = preferred.filter(is_free) {
        return Ok(port);
    }
    for _ in 0..64 {
        let mut random = [0_u8; 2];
        getrandom::fill(&mut random).map_err(|_| MongodError::NoRandomness)?;
        let port = PORTS.start + u16::from_le_bytes(random) % (PORTS.end - PORTS.start);
        if is_free(&port) {
            return Ok(port);
        }
    }
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(|source| MongodError::files("find a free port on", "127.0.0.1".as_ref(), source))
}

/// Runs file work where it may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, MongodError> + Send + 'static,
) -> Result<T, MongodError> {
    joined(tokio::task::spawn_blocking(work).await).await
}

/// The result of a task, its panic included.
async fn joined<T>(task: Result<Result<T, MongodError>, JoinError>) -> Result<T, MongodError> {
    match task.map_err(JoinError::try_into_panic) {
        Ok(result) => result,
        Err(Ok(panic)) => std::panic::resume_unwind(panic),
        // Cancelled, which happens only when the runtime ends, and this with it.
        Err(Err(_)) => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_out_of_range_are_named() {
        let check = |cache_mib, oplog_mib| MongodSettings { cache_mib, oplog_mib }.check();
        assert_eq!(check(256, 990), Ok(()));
        assert_eq!(check(65_536, 1_048_576), Ok(()));
        let refused = check(255, 990).unwrap_err();
        assert_eq!(refused, "mongod.cache_mib is 255; it must be from 256 to 65536");
        assert!(check(256, 989).unwrap_err().starts_with("mongod.oplog_mib is 989"));
    }

    #[test]
    fn a_taken_port_is_not_chosen() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let chosen = free_port(Some(port)).unwrap();
        assert_ne!(chosen, port);
        assert_eq!(free_port(Some(chosen)).unwrap(), chosen);
    }
}
