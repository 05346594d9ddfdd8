//! A bar on stderr while a command works, where stderr is a terminal; nothing otherwise.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::jobs::progress::Progress;

/// Pause between two pictures.
const REDRAW: Duration = Duration::from_millis(200);

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Documents.
    Documents,
    /// Bytes, shown with their rate.
    Bytes,
}

/// Does the work and draws how far it came.
pub async fn draw<T>(progress: &Progress, unit: Unit, work: impl Future<Output = T>) -> T {
    let bar = ProgressBar::new(0);
    let counts = match unit {
        Unit::Documents => "{human_pos}/{human_len}",
        Unit::Bytes => "{binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec}",
    };
    if let Ok(style) = ProgressStyle::with_template(&format!("{{wide_bar}} {counts} {{eta}}")) {
        bar.set_style(style);
    }
    let mut work = std::pin::pin!(work);
    let mut redraw = tokio::time::interval(REDRAW);
    let outcome = loop {
        tokio::select! {
            outcome = &mut work => break outcome,
            _ = redraw.tick() => {
                let (done, total) = progress.read();
                bar.set_length(total.max(done));
                bar.set_position(done);
            }
        }
    };
    bar.finish_and_clear();
    outcome
}
