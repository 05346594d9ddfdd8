//! Places where a test kills the program, to see what a crash there leaves behind. Without the feature
//! `failpoints`, which no build for use has, they are nothing; no release knows the variable.
//!
//! `docs/reliability.md` lists them; `tests/it/crash.rs`, `crash_jobs.rs` and `crash_uploads.rs` die at each.

/// Dies at once, without an unwinding or a flush, if `GRIDGATE_FAILPOINT` is `name`, or at the n-th
/// time if it is `name:n`. With `GRIDGATE_FAILPOINT_FREEZES` it stands still instead, as by a SIGSTOP.
#[cfg(feature = "failpoints")]
pub fn hit(name: &str) {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    static ARMED: LazyLock<Option<(String, AtomicU32)>> = LazyLock::new(|| {
        let wanted = std::env::var("GRIDGATE_FAILPOINT").ok()?;
        let (name, left) = wanted.split_once(':').unwrap_or((&wanted, "1"));
        Some((name.to_owned(), AtomicU32::new(left.parse().ok()?)))
    });
    if let Some((armed, left)) = &*ARMED
        && armed == name
        && left.fetch_sub(1, Ordering::Relaxed) == 1
    {
        if std::env::var_os("GRIDGATE_FAILPOINT_FREEZES").is_none() {
            std::process::abort();
        }
        // Sent to this thread, which so goes no further; one sent to the process stops it only once another has run.
        let thread = std::fs::read_link("/proc/thread-self").unwrap_or_default();
        let frozen = std::process::Command::new("kill").arg("-STOP").args(thread.file_name()).status();
        assert!(frozen.is_ok_and(|status| status.success()), "it goes on as if nothing had been asked");
    }
}

/// Nothing.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn hit(_name: &str) {}
