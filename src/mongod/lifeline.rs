//! Runs mongod under a small shell that ends it when this process ends, even by SIGKILL.
//!
//! ```text
//! gridgate ──pipe──▶ reader (sh)     the pipe ends, or says "kill": signal mongod, KILL after 30 s
//!     └── child ──▶  sh ──▶ mongod   mongod ends: so does the shell, with its status
//! ```
//!
//! It neither restarts a mongod (`supervise`) nor speaks to it (`replica_set`).

use std::ffi::OsString;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::{Child, ChildStdin, Command};

use super::layout::Layout;
use super::predecessor::Owner;
use super::{MongodError, MongodSettings, OnExit, log};

/// What the shell is called in its own argument list, followed by its owner.
pub(super) const TAG: &str = "gridgate-lifeline=";

/// Arguments: the first signal to send, a folder to remove at the end of the owner or "", the command.
///
/// Only the reader holds the pipe, and `read` is built into every shell, so nothing stays behind. The
/// reader ignores TERM once the pipe has ended: its status tells the shell why mongod ended. The shell sets
/// its own trap only after that: a reader born with it could lose the one TERM that ends it.
const SCRIPT: &str = r#"
first=$1 folder=$2
shift 2
"$@" </dev/null &
mongod=$!
exec 3<&0 </dev/null 2>/dev/null
(
  read -r order
  trap '' HUP INT TERM
  [ "$order" = kill ] && first=KILL
  kill -"$first" "$mongod"
  tries=0
  while [ "$tries" -lt 300 ] && kill -0 "$mongod"; do
    sleep 0.1
    tries=$((tries + 1))
  done
  kill -KILL "$mongod"
  exit 0
) <&3 3<&- &
reader=$!
trap 'kill -TERM "$mongod"' HUP INT TERM
exec 3<&-
while :; do
  wait "$mongod"
  status=$?
  kill -0 "$mongod" || break
done
kill -TERM "$reader"
wait "$reader" && [ -n "$folder" ] && rm -rf -- "$folder"
exit "$status"
"#;

/// What mongod logs once its port is bound.
const LISTENING: &str = "Waiting for connections";
const POLL: Duration = Duration::from_millis(25);

/// Everything that decides how a mongod is run.
#[derive(Debug, Clone)]
pub(super) struct Launch {
    pub(super) program: PathBuf,
    pub(super) layout: Layout,
    pub(super) settings: MongodSettings,
    pub(super) on_exit: OnExit,
    pub(super) port: u16,
}

/// A mongod under its shell. Dropping it closes the pipe, which ends the mongod.
#[derive(Debug)]
pub(super) struct Running {
    child: Child,
    pipe: Option<ChildStdin>,
    /// The length of the log before this run.
    pub(super) log_from_bytes: u64,
}

impl Launch {
    /// Starts the shell and, under it, mongod.
    ///
    /// # Errors
    /// [`MongodError::Files`] when the log or the shell cannot be opened. That mongod itself does not
    /// run is seen by [`Running::ended`].
    pub(super) fn spawn(&self) -> Result<Running, MongodError> {
        log::put_aside_if_long(&self.layout)?;
        let path = self.layout.output();
        let output = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)
            .map_err(|source| MongodError::files("write", &path, source))?;
        let same_output = output.try_clone().map_err(|source| MongodError::files("write", &path, source))?;
        // Files need no clean end when they are removed right after it.
        let (first_signal, folder) = match self.on_exit {
            OnExit::KeepFiles => ("TERM", OsString::new()),
            OnExit::RemoveFiles => ("KILL", self.layout.data_dir.clone().into_os_string()),
        };
        let log_from_bytes = log::len_bytes(&self.layout);
        let mut shell = Command::new("/bin/sh");
        shell
            .args(["-c", SCRIPT])
            .arg(format!("{TAG}{}", Owner::current()))
            .args([OsString::from(first_signal), folder])
            .arg(&self.program)
            .args(self.arguments())
            .stdin(Stdio::piped())
            .stdout(output)
            .stderr(same_output)
            .current_dir(&self.layout.data_dir)
            // A Ctrl-C for this process must not reach mongod: it is stopped in order.
            .process_group(0);
        // Keys given to this process are none of mongod's business.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("GRIDGATE_") {
                shell.env_remove(name);
            }
        }
        let mut child = shell.spawn().map_err(|source| MongodError::files("run", "/bin/sh".as_ref(), source))?;
        Ok(Running { pipe: child.stdin.take(), child, log_from_bytes })
    }

    /// The arguments of mongod.
    fn arguments(&self) -> Vec<OsString> {
        let layout = &self.layout;
        let cache_gib = cache_gib(self.settings.cache_mib);
        let mut arguments: Vec<OsString> = Vec::new();
        for (option, value) in [
            ("--dbpath", layout.dbpath().into_os_string()),
            ("--port", self.port.to_string().into()),
            ("--bind_ip", "127.0.0.1".into()),
            ("--replSet", super::replica_set::NAME.into()),
            ("--keyFile", layout.keyfile().into_os_string()),
            ("--wiredTigerCacheSizeGB", cache_gib.into()),
            ("--oplogSize", self.settings.oplog_mib.to_string().into()),
            ("--logpath", layout.log().into_os_string()),
            ("--pidfilepath", layout.pidfile().into_os_string()),
            ("--setParameter", "diagnosticDataCollectionEnabled=false".into()),
        ] {
            arguments.extend([option.into(), value]);
        }
        arguments.extend(["--nounixsocket", "--logappend", "--quiet"].map(OsString::from));
        arguments
    }
}

/// `--wiredTigerCacheSizeGB` takes a decimal number of GiB; its least is 0.25.
fn cache_gib(mib: u64) -> String {
    let mib = mib.max(256);
    // 1/1024 = 0.0009765625, so ten thousandths lose less than 1 MiB.
    format!("{}.{:04}", mib / 1024, mib % 1024 * 10_000 / 1024)
}

impl Running {
    /// Returns once mongod has bound its port.
    ///
    /// # Errors
    /// How it ended, when it ended first.
    ///
    /// # Cancel safety
    /// Safe.
    pub(super) async fn listening(&mut self, layout: &Layout) -> Result<(), String> {
        // Its own log is asked, not the port: something else may answer there.
        loop {
            if log::has(layout, self.log_from_bytes, LISTENING) {
                return Ok(());
            }
            tokio::select! {
                ended = self.ended() => return Err(ended),
                () = tokio::time::sleep(POLL) => {}
            }
        }
    }

    /// Returns once the mongod has ended, and says how.
    ///
    /// # Cancel safety
    /// Safe.
    pub(super) async fn ended(&mut self) -> String {
        describe(self.child_status().await)
    }

    async fn child_status(&mut self) -> io::Result<std::process::ExitStatus> {
        // `Child::wait` would close a pipe that it still held; it is held here instead.
        self.child.wait().await
    }

    /// Ends the mongod at once, without a clean shutdown; [`Running::ended`] sees it.
    ///
    /// # Cancel safety
    /// Safe: the order is five bytes into an empty pipe.
    pub(super) async fn kill(&mut self) {
        if let Some(pipe) = &mut self.pipe {
            // It fails only if the shell is gone, which is what is wanted.
            let _ = pipe.write_all(b"kill\n").await;
        }
    }
}

fn describe(status: io::Result<std::process::ExitStatus>) -> String {
    match status.as_ref().map(std::process::ExitStatus::code) {
        // The shell reports a signal n as 128 + n.
        Ok(Some(code @ 129..=192)) => format!("it was ended by signal {}", code - 128),
        Ok(Some(code)) => format!("it ended with status {code}"),
        Ok(None) => "its shell was killed".to_owned(),
        Err(e) => format!("its shell was lost: {e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    #[test]
    fn cache_size_is_written_in_gib() {
        let written = [100, 256, 300, 1024, 1536, 65_536].map(cache_gib);
        assert_eq!(written, ["0.2500", "0.2500", "0.2929", "1.0000", "1.5000", "64.0000"]);
    }

    #[test]
    fn the_end_of_a_mongod_is_described() {
        let code = |code: i32| describe(Ok(ExitStatus::from_raw(code << 8)));
        assert_eq!(code(48), "it ended with status 48");
        assert_eq!(code(137), "it was ended by signal 9");
        assert_eq!(describe(Ok(ExitStatus::from_raw(9))), "its shell was killed");
    }

    fn launch(dir: &std::path::Path, script: &str, on_exit: OnExit) -> Launch {
        let program = dir.join("program");
        // Written by another process: one forked by a parallel test would hold a file open that is written here,
        // and a program that somebody holds open for writing cannot be run.
        let written = std::process::Command::new("/bin/sh")
            .args(["-c", r#"printf '#!/bin/sh\n%s\n' "$2" >"$1" && chmod 755 "$1""#, "write"])
            .args([program.as_os_str(), script.as_ref()])
            .status();
        assert!(written.unwrap().success());
        Launch {
            program,
            layout: Layout::prepare(&dir.join("data")).unwrap(),
            settings: MongodSettings { cache_mib: 256, oplog_mib: 990 },
            on_exit,
            port: 1,
        }
    }

    #[tokio::test]
    async fn closing_the_pipe_ends_the_program_and_removes_its_folder() {
        let dir = tempfile::tempdir().unwrap();
        let launch = launch(dir.path(), "exec sleep 60", OnExit::RemoveFiles);
        let mut running = launch.spawn().unwrap();
        running.pipe = None;
        assert_eq!(running.ended().await, "it was ended by signal 9");
        assert!(!launch.layout.data_dir.exists());
    }

    #[tokio::test]
    async fn a_program_that_ends_by_itself_keeps_its_folder() {
        let dir = tempfile::tempdir().unwrap();
        let launch = launch(dir.path(), "echo why >&2; exit 7", OnExit::RemoveFiles);
        let mut running = launch.spawn().unwrap();
        let ended = running.listening(&launch.layout).await;
        assert_eq!(ended, Err("it ended with status 7".to_owned()));
        assert_eq!(log::tail(&launch.layout, running.log_from_bytes), "why");
    }
}
