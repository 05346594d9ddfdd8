//! Folders for the data of test mongods: in memory where there is plenty, else among the temporary files.
//!
//! Making and dropping a database a test costs mongod hundreds of small synchronous writes; what the
//! tests ask of it does not depend on a disk.

use std::fs;
use std::path::{Path, PathBuf};

/// What a control group, a container say, may use of memory; more than that ends its programs.
const GROUP: &str = "/sys/fs/cgroup";
/// The file system in memory.
const MEMORY: &str = "/dev/shm";
/// What must be free in it; a whole run of the tests was seen to use 4.4 GiB.
const ROOM: u64 = 8 << 30;

/// What makes a run longer than the usual one.
const LENGTHS: [&str; 4] =
    ["GRIDGATE_AUDIT_CHANGES", "GRIDGATE_COLLECT_SECS", "GRIDGATE_MODEL_CASES", "GRIDGATE_RACE_ROUNDS"];

/// A new folder; whoever takes it removes it.
pub fn new_folder(prefix: &str) -> PathBuf {
    // Ten minutes of uploads fill any memory.
    let is_long = LENGTHS.iter().any(|name| std::env::var_os(name).is_some());
    let place = if !is_long && has_room() { PathBuf::from(MEMORY) } else { std::env::temp_dir() };
    tempfile::Builder::new().prefix(prefix).tempdir_in(place).unwrap().keep()
}

fn has_room() -> bool {
    let free = rustix::fs::statvfs(Path::new(MEMORY)).map_or(0, |space| space.f_bavail.saturating_mul(space.f_frsize));
    free >= ROOM && available_memory() >= 2 * ROOM
}

/// Bytes of memory that programs may have without swapping, as the kernel estimates it, and within what is
/// left to this control group.
fn available_memory() -> u64 {
    let of_group = |file: &str| fs::read_to_string(Path::new(GROUP).join(file)).ok()?.trim().parse::<u64>().ok();
    let left = of_group("memory.max").map(|max| max.saturating_sub(of_group("memory.current").unwrap_or(0)));
    left.unwrap_or(u64::MAX).min(available_to_all())
}

fn available_to_all() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|rest| rest.trim().strip_suffix(" kB")).and_then(|kib| kib.parse::<u64>().ok());
    kib.map_or(0, |kib| kib << 10)
}
