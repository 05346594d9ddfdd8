//! The program itself as a process, on a database of the test's choice.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::app::{ADMIN_KEY, MASTER_KEY};
use super::mongod;

/// Longer than a start may take, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(60);

/// A command of the program over a database of the run's mongod, with a keyring; what it prints is kept.
pub fn command(database: &str, ring: &str, arguments: &[&str]) -> Command {
    let mut command = command_at(mongod::uri(), database, arguments);
    command.env("GRIDGATE_MASTER_KEY", ring).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A command of the program on a database, with nothing of this process's own settings.
pub fn command_at(uri: &str, database: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gridgate"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("GRIDGATE_")) {
        command.env_remove(name);
    }
    let settings = [
        ("GRIDGATE_MONGODB_URI", uri),
        ("GRIDGATE_DATABASE", database),
        ("GRIDGATE_MASTER_KEY", MASTER_KEY),
        ("GRIDGATE_ADMIN_KEY", ADMIN_KEY),
        ("GRIDGATE_LISTEN", "127.0.0.1:0"),
    ];
    command.args(arguments).envs(settings).stdin(Stdio::null());
    command
}

/// What a command printed and how it ended.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// Runs a command to its end, without holding up the test's other tasks.
pub async fn run(mut command: Command) -> Ended {
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ended { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// A running gateway; killed with the test that started it.
pub struct Program {
    child: Child,
    pub url: String,
    _folder: TempDir,
}

impl Program {
    /// Starts a gateway with changed settings and waits until it is ready.
    pub async fn start(uri: &str, database: &str, settings: &[(&str, &str)]) -> Self {
        let folder = TempDir::new().unwrap();
        let printed = folder.path().join("out");
        let mut command = command_at(uri, database, &["serve"]);
        let child = command.envs(settings.iter().copied()).stdout(fs::File::create(&printed).unwrap()).spawn().unwrap();
        let mut program = Self { child, url: String::new(), _folder: folder };
        let begun = Instant::now();
        while program.url.is_empty() {
            assert!(begun.elapsed() < PATIENCE && program.child.try_wait().unwrap().is_none(), "it is not ready");
            tokio::time::sleep(Duration::from_millis(20)).await;
            let line = fs::read_to_string(&printed).unwrap();
            if let Some(url) = line.strip_prefix("gridgate ready on ").and_then(|rest| rest.strip_suffix('\n')) {
                url.clone_into(&mut program.url);
            }
        }
        program
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal: `STOP`, `CONT`, `KILL`.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([format!("-{name}"), self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
