//! A replica set of three loses its primary while clients work: nothing that was acknowledged is
//! lost, everybody is told the truth, and the gateway goes on by itself.

use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::support::app::{TestApp, noise};
use crate::support::replica_set::ReplicaSet;
use crate::support::witness::{
    Read, Told, assert_sound, delete, download, insist, is_there, readiness, recovery, upload,
};

const SMALL_LEN: usize = 50_000;
const LARGE_LEN: usize = 6 << 20;
/// More than are deleted one after the other before the primary is lost.
const DOOMED: usize = 80;

/// What one client did, and when.
#[derive(Default)]
struct Log<T> {
    entries: Vec<(Instant, Instant, T)>,
}

impl<T> Log<T> {
    async fn note(&mut self, act: impl Future<Output = T>) {
        let began = Instant::now();
        let outcome = act.await;
        self.entries.push((began, Instant::now(), outcome));
    }

    fn outcomes(&self) -> impl Iterator<Item = &T> {
        self.entries.iter().map(|(.., outcome)| outcome)
    }

    fn count(&self, is_meant: impl Fn(&T) -> bool) -> usize {
        self.outcomes().filter(|outcome| is_meant(outcome)).count()
    }

    /// The longest a client waited for an answer.
    fn longest(&self) -> Duration {
        self.entries.iter().map(|(began, ended, _)| *ended - *began).max().unwrap_or_default()
    }

    fn is_busy_at(&self, moment: Instant) -> bool {
        self.entries.iter().any(|(began, ended, _)| *began < moment && moment < *ended)
    }
}

/// Uploads of one size, one after the other; the name says which bytes.
async fn uploads(app: &TestApp, size: &str, len: usize, stop: &CancellationToken) -> Log<(String, Vec<u8>, Told)> {
    let mut log = Log { entries: Vec::new() };
    while !stop.is_cancelled() {
        let number = log.entries.len();
        let (key, bytes) = (format!("{size}-{number}"), noise(len + number, number as u64 + 1));
        log.note(async { (key.clone(), bytes.clone(), upload(app, &key, &bytes).await) }).await;
    }
    log
}

async fn deletes<'a>(app: &TestApp, files: &'a [Value], stop: &CancellationToken) -> Log<(&'a Value, Told)> {
    let mut log = Log { entries: Vec::new() };
    for file in files {
        if stop.is_cancelled() {
            break;
        }
        log.note(async { (file, delete(app, file).await) }).await;
    }
    log
}

async fn downloads(app: &TestApp, file: &Value, bytes: &[u8], stop: &CancellationToken) -> Log<Read> {
    let mut log = Log { entries: Vec::new() };
    while !stop.is_cancelled() {
        log.note(download(app, file, bytes)).await;
    }
    log
}

async fn readinesses(app: &TestApp, stop: &CancellationToken) -> Log<u16> {
    let mut log = Log { entries: Vec::new() };
    while !stop.is_cancelled() {
        log.note(readiness(app)).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    log
}

/// Takes the primary away for a while; gives when, and when the gateway was ready again.
async fn lose_primary(set: &mut ReplicaSet, app: &TestApp, (away, back): (&str, Option<&str>)) -> (Instant, Duration) {
    tokio::time::sleep(Duration::from_millis(700)).await;
    let primary = set.primary().await;
    set.signal(primary, away);
    let since = Instant::now();
    tokio::time::sleep(Duration::from_millis(500)).await;
    recovery(app).await;
    let recovered = since.elapsed();
    match back {
        Some(signal) => set.signal(primary, signal),
        None => set.restart(primary).await,
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    (since, recovered)
}

async fn start(set: &ReplicaSet) -> TestApp {
    TestApp::start_at(&set.uri(), "failover".to_owned(), |settings| {
        settings.database.operation_timeout_secs = 3;
        settings.storage.lease_secs = 2;
        settings.storage.quarantine_secs = 0;
    })
    .await
}

async fn outlives(signals: (&str, Option<&str>)) {
    let mut set = ReplicaSet::start().await;
    let app = start(&set).await;
    let bytes = noise(LARGE_LEN, 77);
    let read = app.put("name=read", "application/octet-stream", bytes.clone()).await;
    let doomed: Vec<Value> = stream::iter(0..DOOMED)
        .map(async |_| app.put("name=doomed", "text/plain", "x").await)
        .buffered(16)
        .collect()
        .await;

    let stop = CancellationToken::new();
    let ((lost, recovered), small, large, deleted, readings, ready) = tokio::join!(
        async {
            let lost = lose_primary(&mut set, &app, signals).await;
            stop.cancel();
            lost
        },
        uploads(&app, "small", SMALL_LEN, &stop),
        uploads(&app, "large", LARGE_LEN, &stop),
        deletes(&app, &doomed, &stop),
        downloads(&app, &read, &bytes, &stop),
        readinesses(&app, &stop),
    );
    let is_unknown = |told: &Told| matches!(told, Told::Unknown);
    eprintln!(
        "{signals:?}: ready again after {recovered:?}; unknown: {} of {} small and {} of {} large uploads, {} of {} \
         deletes; of {} downloads {} cut and {} refused; longest waits {:?} {:?} {:?} {:?}",
        small.count(|(.., told)| is_unknown(told)),
        small.entries.len(),
        large.count(|(.., told)| is_unknown(told)),
        large.entries.len(),
        deleted.count(|(_, told)| is_unknown(told)),
        deleted.entries.len(),
        readings.entries.len(),
        readings.count(|read| *read == Read::Cut),
        readings.count(|read| *read == Read::Refused),
        small.longest(),
        large.longest(),
        deleted.longest(),
        readings.longest(),
    );
    assert!(small.is_busy_at(lost) && large.is_busy_at(lost) && deleted.is_busy_at(lost), "nobody noticed");
    assert!(ready.count(|status| *status == 503) > 0, "readiness said so");
    assert_eq!(ready.outcomes().last(), Some(&200), "and took it back");

    let mut count = 1 + doomed.len() - deleted.entries.len();
    for (key, bytes, told) in small.outcomes().chain(large.outcomes()) {
        let file = match told {
            Told::Done(file) => file,
            Told::Unknown => &insist(&app, key, bytes).await,
        };
        assert!(app.content(file).await == *bytes, "{key}");
        count += 1;
    }
    for (file, told) in deleted.outcomes() {
        if is_there(&app, file).await {
            assert!(is_unknown(told), "deleted, and there");
            count += 1;
        }
    }
    assert!(app.content(&read).await == bytes);
    let listed = app.get("/v1/files?limit=1").send().await.unwrap().json::<Value>().await.unwrap();
    assert_eq!(listed["total"], count, "what is there is what clients were told");
    assert_sound(&app).await;
}

#[tokio::test]
async fn a_killed_primary_takes_nothing_with_it() {
    outlives(("KILL", None)).await;
}

#[tokio::test]
async fn a_frozen_primary_takes_nothing_with_it() {
    outlives(("STOP", Some("CONT"))).await;
}
