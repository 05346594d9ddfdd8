//! When, where and of what a run was, and its files in `docs/benchmarks`.

use std::fmt;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::json;
use time::OffsetDateTime;

use crate::arguments::Arguments;
use crate::goals::Goal;
use crate::report::Report;
use crate::{Outcome, chart, usage};

/// The circumstances of a run.
pub struct Occasion {
    commit: String,
    date: String,
    machine: String,
    scale: &'static str,
    rounds: usize,
    /// How busy the machine was before and after, in the last minute.
    load: [f64; 2],
    begun: std::time::Instant,
    secs: u64,
}

impl Occasion {
    pub fn now(arguments: &Arguments) -> Self {
        Self {
            commit: commit(),
            date: OffsetDateTime::now_utc().date().to_string(),
            machine: usage::machine(),
            scale: arguments.scale().name,
            rounds: arguments.rounds(),
            load: [usage::load(); 2],
            begun: std::time::Instant::now(),
            secs: 0,
        }
    }

    pub fn ended(self) -> Self {
        Self { load: [self.load[0], usage::load()], secs: self.begun.elapsed().as_secs(), ..self }
    }

    /// Writes the lines and the chart, named by date and commit.
    pub fn save(&self, report: &Report, goals: &[Goal]) -> Outcome<()> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/benchmarks");
        fs::create_dir_all(&folder)?;
        let name = format!("{}-{}", self.date, self.commit);
        let run = json!({
            "commit": self.commit, "date": self.date, "machine": self.machine, "scale": self.scale,
            "rounds": self.rounds, "secs": self.secs, "loadBefore": self.load[0], "loadAfter": self.load[1],
        });
        let lines = std::iter::once(run).chain(goals.iter().map(Goal::line)).chain(report.lines());
        let lines: String = lines.map(|line| format!("{line}\n")).collect();
        fs::write(folder.join(format!("{name}.jsonl")), lines)?;
        let titles = ["gridgate: goals and what was seen".to_owned(), self.to_string()];
        fs::write(folder.join(format!("{name}.svg")), chart::draw(goals, &titles))?;
        println!("saved as docs/benchmarks/{name}.jsonl and .svg");
        Ok(())
    }
}

impl fmt::Display for Occasion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { commit, date, machine, scale, rounds, load: [before, after], secs, .. } = self;
        write!(
            f,
            "commit {commit}, {date}, {machine}; scale {scale}, rounds: {rounds}, {secs} s, load {before} to {after}"
        )
    }
}

/// The commit that last changed what is measured, marked where the tree has changed it since.
fn commit() -> String {
    const MEASURED: [&str; 5] = ["--", "src", "config", "Cargo.toml", "Cargo.lock"];
    let git = |arguments: &[&str]| {
        let mut command = Command::new("git");
        let output = command.args(arguments).args(MEASURED).current_dir(env!("CARGO_MANIFEST_DIR")).output().ok()?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let name = git(&["log", "-1", "--format=%h"]).filter(|name| !name.is_empty());
    let is_changed = git(&["status", "--porcelain"]).is_some_and(|changes| !changes.is_empty());
    format!("{}{}", name.unwrap_or_else(|| "unknown".to_owned()), if is_changed { "-changed" } else { "" })
}
