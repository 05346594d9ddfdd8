//! How far a long command has come, on stderr: a bar for people, a line every tenth for logs.

use std::io::IsTerminal;

use indicatif::ProgressBar;

/// Shown until it is dropped.
pub struct Progress {
    what: &'static str,
    /// Where people watch.
    bar: Option<ProgressBar>,
    tenth: Option<u64>,
}

impl Progress {
    /// Of this command.
    pub fn new(what: &'static str) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| ProgressBar::new(0).with_prefix(what));
        Self { what, bar, tenth: None }
    }

    /// So many are done, of so many.
    pub fn show(&mut self, done: u64, all: u64) {
        if let Some(bar) = &self.bar {
            bar.set_length(all);
            bar.set_position(done);
            return;
        }
        let tenth = done.saturating_mul(10).checked_div(all);
        if tenth != self.tenth {
            self.tenth = tenth;
            eprintln!("{}: {done} of {all}", self.what);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
