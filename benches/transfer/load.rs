//! Many clients that repeat one thing for a while.

use std::time::{Duration, Instant};

use futures::future::try_join_all;

use crate::Outcome;
use crate::report::median;

/// What all clients together got done.
pub struct Load {
    pub done: usize,
    pub per_sec: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
}

/// Runs the clients at once, each with one act after the other until the time is over.
pub async fn load<C>(clients: &mut [C], time: Duration, act: impl AsyncFn(&mut C) -> Outcome<()>) -> Outcome<Load> {
    let begun = Instant::now();
    let repeat = async |client: &mut C| {
        let mut waits = Vec::new();
        while begun.elapsed() < time {
            let asked = Instant::now();
            act(client).await?;
            waits.push(asked.elapsed().as_secs_f64() * 1e3);
        }
        Outcome::Ok(waits)
    };
    let waits = try_join_all(clients.iter_mut().map(repeat)).await?;
    let secs = begun.elapsed().as_secs_f64();
    let mut waits = waits.concat();
    waits.sort_by(f64::total_cmp);
    let p99_ms = waits.get(waits.len() * 99 / 100).copied().unwrap_or(f64::NAN);
    let done = waits.len();
    Ok(Load { done, per_sec: done as f64 / secs, p50_ms: median(waits).unwrap_or(f64::NAN), p99_ms })
}
