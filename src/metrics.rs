//! What the program counts, for Prometheus: one registry a process, as there is one log.
//!
//! Every name stands here. Label values come from fixed sets (routes, methods, kinds, jobs), never from
//! paths, ids or names. Everything begins at zero with the process.
//!
//! # Units
//! Seconds and bytes.

use std::borrow::Cow;
use std::fmt;
use std::sync::LazyLock;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime};

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry, Unit};

use crate::clock::Clock;

/// Upper bounds of request durations, in seconds.
const DURATIONS: [f64; 12] = [0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0];

type Labels<const N: usize> = [(&'static str, Cow<'static, str>); N];
type Counters<const N: usize> = Family<Labels<N>, Counter>;

struct Metrics {
    registry: Registry,
    requests: Counters<3>,
    durations: Family<Labels<2>, Histogram>,
    received: Counter,
    sent: Counter,
    in_flight: Family<Labels<1>, Gauge>,
    read_chunks: Counter,
    read_bytes: Counter,
    integrity_failures: Counter,
    refused: Counters<1>,
    unrecorded_denials: Counter,
    database_errors: Counters<1>,
    job_failures: Counters<1>,
    job_success: Family<Labels<1>, Gauge<f64, AtomicU64>>,
    swept: Counters<1>,
    freed: Counter,
    fsck_findings: Family<Labels<1>, Gauge>,
    scrubbed: Counter,
    scrub_left: Gauge,
    damaged: Gauge,
}

static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::new);

impl Metrics {
    fn new() -> Self {
        let mut registry = Registry::with_prefix("gridgate");
        let made = &mut registry;
        let durations = Family::new_with_constructor((|| Histogram::new(DURATIONS)) as fn() -> Histogram);
        let version = [("version", Cow::from(env!("CARGO_PKG_VERSION")))];
        add(made, "build", "The program", prometheus_client::metrics::info::Info::new(version));
        made.register_with_unit(
            "http_request_duration",
            "Time until the head of the answer",
            Unit::Seconds,
            durations.clone(),
        );
        Self {
            requests: counted(made, "http_requests", "Requests answered"),
            durations,
            received: bytes(made, "http_received", "Body bytes of requests"),
            sent: bytes(made, "http_sent", "Body bytes of answers"),
            in_flight: counted(made, "transfers_in_flight", "Uploads and downloads under way"),
            read_chunks: counted(made, "gridfs_read_chunks", "Chunk documents read"),
            read_bytes: bytes(made, "gridfs_read", "Bytes of the chunks read"),
            integrity_failures: counted(made, "integrity_failures", "Reads that ended as stored bytes did not verify"),
            refused: counted(made, "refused", "Requests refused to who asked: 401 and 403"),
            unrecorded_denials: counted(made, "unrecorded_denials", "Denied accesses that are not in the audit"),
            database_errors: counted(made, "database_errors", "Errors of database operations, repeated ones included"),
            job_failures: counted(made, "job_failures", "Runs of jobs that failed"),
            job_success: {
                let at = Family::default();
                let help = "When a job last succeeded";
                made.register_with_unit("job_last_success_timestamp", help, Unit::Seconds, at.clone());
                at
            },
            swept: counted(made, "swept", "Files expired, blobs condemned and reaped by sweeps"),
            freed: bytes(made, "swept_freed", "Stored bytes removed by sweeps"),
            fsck_findings: counted(made, "fsck_findings", "Findings of the last check by this process"),
            scrubbed: bytes(made, "scrub_read", "Stored bytes read by scrubs"),
            scrub_left: {
                let left = Gauge::default();
                made.register_with_unit(
                    "scrub_left",
                    "Stored bytes the scrub under way has to read",
                    Unit::Bytes,
                    left.clone(),
                );
                left
            },
            damaged: counted(made, "damaged_blobs", "Blobs marked as damaged, at the end of the last scrub"),
            registry,
        }
    }
}

fn add(registry: &mut Registry, name: &str, help: &str, metric: impl Metric) {
    registry.register(name, help, metric);
}

fn counted<M: Metric + Default + Clone>(registry: &mut Registry, name: &str, help: &str) -> M {
    let metric = M::default();
    add(registry, name, help, metric.clone());
    metric
}

fn bytes(registry: &mut Registry, name: &str, help: &str) -> Counter {
    let metric = Counter::default();
    registry.register_with_unit(name, help, Unit::Bytes, metric.clone());
    metric
}

/// The text of all metrics.
///
/// # Errors
/// None that is known; writing to memory does not fail.
///
/// # Source
/// OpenMetrics 1.0.
pub fn text() -> Result<String, fmt::Error> {
    let mut text = String::new();
    encode(&mut text, &METRICS.registry)?;
    Ok(text)
}

/// A request was answered; `route` is a template, `elapsed` the time until the answer's head.
pub fn answered(route: &str, method: &'static str, status: u16, elapsed: Duration) {
    let status = match status {
        100..=199 => "1xx",
        200..=299 => "2xx",
        300..=399 => "3xx",
        400..=499 => "4xx",
        _ => "5xx",
    };
    let route: Cow<'static, str> = Cow::Owned(route.to_owned());
    let timed = [("route", route.clone()), ("method", method.into())];
    METRICS.durations.get_or_create(&timed).observe(elapsed.as_secs_f64());
    METRICS.requests.get_or_create(&[("route", route), ("method", method.into()), ("status", status.into())]).inc();
}

/// Body bytes came in.
pub fn received(len: u64) {
    METRICS.received.inc_by(len);
}

/// Body bytes went out.
pub fn sent(len: u64) {
    METRICS.sent.inc_by(len);
}

/// Chunk documents came from the database, with so many bytes in all.
pub fn read(chunks: u64, len: u64) {
    METRICS.read_chunks.inc_by(chunks);
    METRICS.read_bytes.inc_by(len);
}

/// A transfer under way, counted until dropped.
pub struct InFlight(Labels<1>);

impl InFlight {
    /// An upload.
    pub fn upload() -> Self {
        Self::begin("upload")
    }

    /// A download.
    pub fn download() -> Self {
        Self::begin("download")
    }

    fn begin(direction: &'static str) -> Self {
        let labels = [("direction", direction.into())];
        METRICS.in_flight.get_or_create(&labels).inc();
        Self(labels)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        METRICS.in_flight.get_or_create(&self.0).dec();
    }
}

/// A reader came across bytes that do not verify.
pub fn integrity_failure() {
    METRICS.integrity_failures.inc();
}

/// A request was refused to who asked.
pub fn refused(code: &'static str) {
    METRICS.refused.get_or_create(&[("code", code.into())]).inc();
}

/// A denied access is not in the audit.
pub fn unrecorded_denial() {
    METRICS.unrecorded_denials.inc();
}

/// A database operation failed.
pub fn database_error(code: &'static str) {
    METRICS.database_errors.get_or_create(&[("code", code.into())]).inc();
}

/// A run of a job ended.
pub fn job_ended(job: &'static str, is_success: bool) {
    let labels = [("job", job.into())];
    if is_success {
        let at = Clock::default().now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        METRICS.job_success.get_or_create(&labels).set(at.as_secs_f64());
    } else {
        METRICS.job_failures.get_or_create(&labels).inc();
    }
}

/// A sweep did so much.
pub fn swept(expired: u64, condemned: u64, reaped: u64, freed_bytes: u64) {
    for (kind, count) in [("expired", expired), ("condemned", condemned), ("reaped", reaped)] {
        METRICS.swept.get_or_create(&[("kind", kind.into())]).inc_by(count);
    }
    METRICS.freed.inc_by(freed_bytes);
}

/// A check found so many of each kind.
pub fn checked(findings: impl Iterator<Item = (&'static str, u64)>) {
    for (kind, count) in findings {
        METRICS.fsck_findings.get_or_create(&[("kind", kind.into())]).set(signed(count));
    }
}

/// A scrub read so many stored bytes more, and has so many left.
pub fn scrubbed(len: u64, left: u64) {
    METRICS.scrubbed.inc_by(len);
    METRICS.scrub_left.set(signed(left));
}

/// So many blobs are marked as damaged.
pub fn damaged(blobs: u64) {
    METRICS.damaged.set(signed(blobs));
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
