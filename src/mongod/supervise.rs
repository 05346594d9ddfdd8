//! Watches over a running mongod: starts it again when it dies, and ends it when asked to.
//!
//! The port, the arguments and the replica set stay as they were, so a mongod that came back needs nothing
//! else. It does not give up, and does not set up a replica set.

use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::layout::{self, Credentials};
use super::lifeline::{Launch, Running};
use super::{MongodError, OnExit, log, predecessor, replica_set};

const FIRST_DELAY: Duration = Duration::from_millis(200);
const LAST_DELAY: Duration = Duration::from_secs(10);
/// A mongod that ran this long has not died of its start: the next delay is the first again.
const SETTLED: Duration = Duration::from_secs(60);
/// How long a mongod may take to listen after a restart; recovery of a large journal included.
const RESTART_LIMIT: Duration = Duration::from_secs(300);
/// How long a clean shutdown may take before the mongod is killed.
const STOP_LIMIT: Duration = Duration::from_secs(20);
const KILL_LIMIT: Duration = Duration::from_secs(5);

/// The growing pause between restarts.
#[derive(Debug)]
struct Delay(Duration);

impl Delay {
    fn next(&mut self, ran_for: Duration) -> Duration {
        if ran_for >= SETTLED {
            self.0 = FIRST_DELAY;
        }
        let now = self.0;
        self.0 = (now * 2).min(LAST_DELAY);
        now
    }
}

/// Keeps a mongod running until `stop` is told to stop it, or is dropped.
///
/// # Errors
/// Only after `stop`: [`MongodError::NotStopped`] or [`MongodError::Files`].
///
/// # Cancel safety
/// Safe: dropping it ends the mongod by its lifeline.
pub(super) async fn supervise(
    launch: Launch,
    credentials: Credentials,
    mut running: Running,
    mut stop: oneshot::Receiver<()>,
) -> Result<(), MongodError> {
    let mut delay = Delay(FIRST_DELAY);
    loop {
        let started = Instant::now();
        tokio::select! {
            asked = &mut stop => return match asked {
                Ok(()) => end(&launch, &credentials, Some(running)).await,
                Err(_dropped) => Ok(()),
            },
            how = running.ended() => {
                let errors = log::errors(&launch.layout, running.log_from_bytes);
                tracing::error!(port = launch.port, how, errors, "mongod died and is restarted");
            }
        }
        // Closes the pipe: should only the shell have died, mongod now ends as well.
        drop(running);
        running = tokio::select! {
            asked = &mut stop => return match asked {
                Ok(()) => end(&launch, &credentials, None).await,
                Err(_dropped) => Ok(()),
            },
            again = restart_until_it_listens(&launch, &credentials, &mut delay, started.elapsed()) => again,
        };
        tracing::warn!(port = launch.port, "mongod is running again");
    }
}

async fn restart_until_it_listens(
    launch: &Launch,
    credentials: &Credentials,
    delay: &mut Delay,
    mut ran_for: Duration,
) -> Running {
    loop {
        tokio::time::sleep(delay.next(ran_for)).await;
        ran_for = Duration::ZERO;
        match restart(launch, credentials).await {
            Ok(running) => return running,
            Err(e) => tracing::error!(port = launch.port, "mongod was not restarted: {e}"),
        }
    }
}

async fn restart(launch: &Launch, credentials: &Credentials) -> Result<Running, MongodError> {
    predecessor::end(&launch.layout, credentials).await?;
    let mut running = launch.spawn()?;
    let listening = running.listening(&launch.layout);
    let how = match tokio::time::timeout(RESTART_LIMIT, listening).await {
        Ok(Ok(())) => return Ok(running),
        Ok(Err(how)) => how,
        Err(_) => "it did not listen in time".to_owned(),
    };
    Err(MongodError::Ended { how, log_tail: log::tail(&launch.layout, running.log_from_bytes) })
}

/// Ends the mongod, if there is one, and removes its files if that was asked for.
async fn end(launch: &Launch, credentials: &Credentials, running: Option<Running>) -> Result<(), MongodError> {
    if let Some(mut running) = running
        && tokio::time::timeout(STOP_LIMIT, end_in_order(launch, credentials, &mut running)).await.is_err()
    {
        tracing::warn!(port = launch.port, "mongod does not stop and is killed");
        running.kill().await;
        tokio::time::timeout(KILL_LIMIT, running.ended()).await.map_err(|_| MongodError::NotStopped)?;
    }
    // One that was being restarted, or lost its shell, is not waited for above.
    predecessor::end(&launch.layout, credentials).await?;
    match launch.on_exit {
        OnExit::KeepFiles => Ok(()),
        OnExit::RemoveFiles => layout::remove_folder(&launch.layout.data_dir),
    }
}

/// Tells the mongod to end and returns once it has.
async fn end_in_order(launch: &Launch, credentials: &Credentials, running: &mut Running) {
    if launch.on_exit == OnExit::RemoveFiles {
        running.kill().await;
    }
    let told = async {
        if launch.on_exit == OnExit::KeepFiles {
            replica_set::shut_down(launch.port, credentials).await;
        }
        std::future::pending::<()>().await;
    };
    // Side by side: it may have been told by others already, and then does not answer.
    tokio::select! {
        _ = running.ended() => {}
        () = told => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_ten_seconds_and_start_over_after_a_long_run() {
        let mut delay = Delay(FIRST_DELAY);
        let millis: Vec<u128> = (0..8).map(|_| delay.next(Duration::ZERO).as_millis()).collect();
        assert_eq!(millis, [200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
        assert_eq!(delay.next(SETTLED), FIRST_DELAY);
        assert_eq!(delay.next(Duration::ZERO), FIRST_DELAY * 2);
    }
}
