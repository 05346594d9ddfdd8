//! How the C library's allocator keeps memory: the buffers of a transfer are megabytes long, and given
//! back to the system after each use they would be made of fresh, zeroed pages every time. What memory
//! is for, and how much of it, is decided where it is taken.

/// Keeps the memory of freed buffers for the next ones, instead of unmapping it.
///
/// Does nothing where the C library is not glibc.
///
/// # Source
/// mallopt(3); `docs/decisions/0019-buffers-are-used-again.md` has the measurement.
pub fn keep_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        let keep = [
            (libc::M_MMAP_THRESHOLD, KEPT_BUFFER_LEN),
            (libc::M_TRIM_THRESHOLD, KEPT_LEN),
            (libc::M_ARENA_MAX, ARENAS),
        ];
        for (parameter, value) in keep {
            // SAFETY: mallopt(3) takes two numbers by value, touches nothing but the allocator's own settings
            // under its own lock, and refuses what it does not know.
            #[expect(unsafe_code, reason = "the allocator has no other interface")]
            let is_set = unsafe { libc::mallopt(parameter, value) } == 1;
            debug_assert!(is_set, "glibc refused {parameter} = {value}");
        }
    }
}

/// Buffers up to this long come from memory that is kept: the longest is a message to the database.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const KEPT_BUFFER_LEN: i32 = 32 << 20;
/// Free memory beyond this goes back to the system.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const KEPT_LEN: i32 = 128 << 20;
/// Each arena keeps memory of its own.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const ARENAS: i32 = 2;
