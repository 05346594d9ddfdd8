//! 1 MiB at random places of a large file: the first byte and the whole, for every way of storing it, and
//! whether it matters how far from the beginning it lies.

use std::time::Duration;

use crate::arguments::{Suite, size};
use crate::content::{Dice, Kind};
use crate::lab::Lab;
use crate::report::median;
use crate::server::{EXPRESS, Way};
use crate::stage::Stage;
use crate::{Outcome, ways};

const RANGE_LEN: usize = 1 << 20;
const DECILES: usize = 10;

pub async fn run(lab: &mut Lab) -> Outcome<()> {
    let len = lab.scale.range_file;
    let stage = Stage::with_peers(lab).await?;
    let mut stored = Vec::new();
    for (way, kind) in ways(lab) {
        let mut connection = stage.connect(&way).await?;
        let (id, _) = way.upload(&mut connection, &lab.contents.body(kind, len)).await?;
        // The first of all ranges pays for connections and caches; it is not counted.
        Waits::default().ask(&stage, &way, &id, 0, 0).await?;
        stored.push((way, id));
    }
    stage.settle().await?;
    let mut dice = Dice::new(3);
    for round in 0..lab.rounds {
        let mut waits = vec![Waits::default(); stored.len()];
        for turn in 0..DECILES * lab.scale.ranges {
            // All deciles in an order that favours none.
            let decile = (turn * 7 + turn / DECILES + round * 3) % DECILES;
            let from = (len / DECILES * decile + dice.below(len / DECILES)).min(len - RANGE_LEN);
            let mut asked: Vec<_> = waits.iter_mut().zip(&stored).collect();
            // By chance: whoever was asked before may still be busy with bytes that nobody reads.
            dice.shuffle(&mut asked);
            for (waits, (way, id)) in asked {
                waits.ask(&stage, way, id, from, decile).await?;
            }
        }
        for (waits, (way, _)) in waits.into_iter().zip(&stored) {
            lab.report.add(Suite::Ranges.name(), &case(len), way.who, round, waits.values());
        }
    }
    stage.clear().await
}

/// What the report calls it.
pub fn case(len: usize) -> String {
    format!("{} at random places of {}", size(RANGE_LEN), size(len))
}

/// The ways with what is stored so; compressed ways need something to compress.
fn ways(lab: &Lab) -> Vec<(Way, Kind)> {
    let mut ways = vec![
        (ways::plain(), Kind::Random),
        (ways::encrypted(), Kind::Random),
        (ways::zstd(), Kind::Text),
        (ways::zstd_encrypted(), Kind::Text),
    ];
    if lab.scale.name != "usual" {
        ways.push((ways::gzip(), Kind::Text));
    }
    // The naive gateway reads all that comes before a range; only a run without haste waits for that.
    let is_quick_enough = |way: &Way| way.server == EXPRESS || lab.scale.name != "usual";
    ways.extend(ways::peers(&lab.peers).into_iter().filter(is_quick_enough).map(|way| (way, Kind::Random)));
    ways
}

/// Waits of one way in one round, in ms.
#[derive(Clone, Default)]
struct Waits {
    first_byte: Vec<f64>,
    whole: Vec<f64>,
    first_decile: Vec<f64>,
    last_decile: Vec<f64>,
}

impl Waits {
    async fn ask(&mut self, stage: &Stage, way: &Way, id: &str, from: usize, decile: usize) -> Outcome<()> {
        let mut connection = stage.connect(way).await?;
        let received = way.range(&mut connection, id, from, RANGE_LEN).await?;
        let ms = |wait: Duration| wait.as_secs_f64() * 1e3;
        self.first_byte.push(ms(received.first_byte));
        self.whole.push(ms(received.whole));
        match decile {
            0 => self.first_decile.push(ms(received.whole)),
            _ if decile == DECILES - 1 => self.last_decile.push(ms(received.whole)),
            _ => {}
        }
        Ok(())
    }

    fn values(self) -> Vec<(&'static str, f64)> {
        let median = |waits: Vec<f64>| median(waits).unwrap_or(f64::NAN);
        vec![
            ("firstByteMs", median(self.first_byte)),
            ("wholeMs", median(self.whole)),
            ("firstDecileMs", median(self.first_decile)),
            ("lastDecileMs", median(self.last_decile)),
        ]
    }
}
