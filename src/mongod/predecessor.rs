//! Finds and ends a mongod that an earlier run has left on the same database folder.
//!
//! It never touches the mongod of a gridgate that is still alive. It reads `/proc`; where there is none it
//! finds nobody, and a second mongod on the folder is refused by mongod itself.

use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use super::layout::{Credentials, Layout};
use super::{MongodError, lifeline, replica_set};

/// The lifeline of a dead owner needs up to 30 s to end a mongod.
const PATIENCE: Duration = Duration::from_secs(40);
const POLL: Duration = Duration::from_millis(50);

/// A process, told apart from a later one with the same number by when it began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Owner {
    pid: u32,
    began: u64,
}

impl Owner {
    /// This process.
    pub(super) fn current() -> Owner {
        let pid = std::process::id();
        Owner { pid, began: began(pid).unwrap_or(0) }
    }

    fn parse(text: &[u8]) -> Option<Owner> {
        let text = std::str::from_utf8(text).ok()?;
        let (pid, began) = text.strip_prefix(lifeline::TAG)?.split_once('.')?;
        Some(Owner { pid: pid.parse().ok()?, began: began.parse().ok()? })
    }

    fn is_alive(&self) -> bool {
        began(self.pid) == Some(self.began)
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.pid, self.began)
    }
}

/// What runs on a database folder.
#[derive(Debug, Default, PartialEq, Eq)]
struct Found {
    /// The port of the mongod, if there is one.
    mongod_port: Option<u16>,
    /// Who started it, as far as its lifeline still says so.
    owners: Vec<Owner>,
}

/// Returns once no mongod of an earlier run is left on the database folder.
///
/// # Errors
/// [`MongodError::InUse`] when another living gridgate owns it, or when it does not end.
///
/// # Cancel safety
/// Safe: an earlier mongod may or may not have been told to end.
pub(super) async fn end(layout: &Layout, credentials: &Credentials) -> Result<(), MongodError> {
    let found = find(&layout.dbpath());
    let Some(port) = found.mongod_port else {
        return Ok(());
    };
    let in_use = |by: String| MongodError::InUse { folder: layout.data_dir.clone(), by };
    let this = Owner::current();
    if let Some(owner) = found.owners.iter().find(|o| **o != this && o.is_alive()) {
        return Err(in_use(format!("the gridgate with process id {}", owner.pid)));
    }
    tracing::warn!(port, "a mongod of an earlier run is still there: ending it");
    let gone = async {
        while find(&layout.dbpath()).mongod_port.is_some() {
            tokio::time::sleep(POLL).await;
        }
    };
    let asked = async {
        // Its lifeline may be at it already, and then it does not answer.
        replica_set::shut_down(port, credentials).await;
        tokio::time::sleep(PATIENCE).await;
    };
    tokio::select! {
        () = gone => Ok(()),
        () = asked => Err(in_use(format!("a mongod on port {port} that does not end"))),
    }
}

/// Looks through the argument lists of all processes for the database folder.
fn find(dbpath: &Path) -> Found {
    let mut found = Found::default();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        if entry.file_name().as_bytes().iter().all(u8::is_ascii_digit)
            && let Ok(arguments) = fs::read(entry.path().join("cmdline"))
        {
            found.add(&arguments, dbpath.as_os_str());
        }
    }
    found
}

impl Found {
    /// Adds one process, given by its arguments as `/proc` writes them: each ended by a zero byte.
    fn add(&mut self, arguments: &[u8], dbpath: &OsStr) {
        let arguments: Vec<&[u8]> = arguments.split(|byte| *byte == 0).collect();
        let value_of = |option: &[u8]| {
            let at = arguments.windows(2).find(|pair| pair[0] == option);
            at.map(|pair| pair[1])
        };
        if value_of(b"--dbpath") != Some(dbpath.as_bytes()) {
            return;
        }
        // The shell carries the arguments of its mongod, and its own before them.
        if let Some(owner) = arguments.iter().find_map(|a| Owner::parse(a)) {
            self.owners.push(owner);
        } else {
            let port = value_of(b"--port").and_then(|p| std::str::from_utf8(p).ok());
            self.mongod_port = Some(port.and_then(|p| p.parse().ok()).unwrap_or(0));
        }
    }
}

/// When a process began, in clock ticks since the machine did.
fn began(pid: u32) -> Option<u64> {
    began_in(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Field 22 of a `/proc/PID/stat`; the name, field 2, is in parentheses and may hold anything.
fn began_in(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(") ")?;
    fields.split(' ').nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_told_apart_by_its_beginning() {
        let stat = "42 (a) b) c) S 1 42 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 5555 2 3";
        assert_eq!(began_in(stat), Some(5555));
        assert_eq!(began_in("nonsense"), None);
        let this = Owner::current();
        assert!(this.is_alive());
        assert_eq!(Owner::parse(format!("{}{this}", lifeline::TAG).as_bytes()), Some(this.clone()));
        let earlier = Owner { began: this.began - 1, ..this };
        assert!(!earlier.is_alive());
    }

    #[test]
    fn only_processes_on_the_same_folder_count() {
        let mut found = Found::default();
        found.add(b"mongod\0--dbpath\0/other\0--port\x0027000\0", OsStr::new("/db"));
        found.add(b"vi\0/db\0", OsStr::new("/db"));
        found.add(b"", OsStr::new("/db"));
        assert_eq!(found, Found::default());
        found.add(b"mongod\0--dbpath\0/db\0--port\x0027000\0", OsStr::new("/db"));
        let shell = format!("/bin/sh\0-c\0x\0{}7.8\0mongod\0--dbpath\0/db\0--port\x0027001\0", lifeline::TAG);
        found.add(shell.as_bytes(), OsStr::new("/db"));
        assert_eq!(found.mongod_port, Some(27_000));
        assert_eq!(found.owners, [Owner { pid: 7, began: 8 }]);
    }
}
