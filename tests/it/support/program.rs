//! The program itself on the run's mongod.

use std::process::{Command, Stdio};

use super::app::ADMIN_KEY;
use super::mongod;

/// A command of the program over a database, with a keyring and nothing of this process's settings.
pub fn command(database: &str, ring: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gridgate"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("GRIDGATE_")) {
        command.env_remove(name);
    }
    command.env("GRIDGATE_MONGODB_URI", mongod::uri()).env("GRIDGATE_DATABASE", database);
    command.env("GRIDGATE_MASTER_KEY", ring).env("GRIDGATE_ADMIN_KEY", ADMIN_KEY);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
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
