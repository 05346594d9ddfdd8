//! The source of "now" for stored times, but for leases and GridFS's `uploadDate`. Tests move it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

/// RFC 3339 in UTC with milliseconds.
pub fn rfc3339(at: SystemTime) -> String {
    const FORMAT: &[time::format_description::BorrowedFormatItem<'static>] =
        time::macros::format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
    time::OffsetDateTime::from(at).format(FORMAT).unwrap_or_default()
}

/// The time, as far as stored documents are concerned.
#[derive(Debug, Clone, Default)]
pub struct Clock {
    ahead_ms: Arc<AtomicI64>,
}

impl Clock {
    /// Now, in whole milliseconds, as documents keep it.
    pub fn now(&self) -> SystemTime {
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let ahead = self.ahead_ms.load(Ordering::Relaxed);
        let millis = i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX).saturating_add(ahead);
        SystemTime::UNIX_EPOCH + Duration::from_millis(millis.max(0).unsigned_abs())
    }

    /// Moves this clock and its clones forward: for tests of expiry.
    pub fn advance(&self, by: Duration) {
        let millis = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
        self.ahead_ms.fetch_add(millis, Ordering::Relaxed);
    }
}
