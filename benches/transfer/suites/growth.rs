//! What a full registry costs: lists, an upload, small uploads and ranges of two gateways on one mongod, one of them on
//! an empty database, the other beside many files.

use std::time::Instant;

use crate::arguments::{MIB, Suite, size};
use crate::content::{Dice, Kind};
use crate::lab::Lab;
use crate::load::load;
use crate::report::median;
use crate::server::Way;
use crate::stage::Stage;
use crate::{Outcome, ways};

pub const LISTS: [&str; 4] = ["limit=50", "sort=name&limit=50", "sort=-size&limit=50", "folder=/7&limit=50"];
const LISTS_EACH: usize = 100;
const UPLOAD_LEN: usize = 64 * MIB;
const SMALL_LEN: usize = 4 << 10;
const CLIENTS: usize = 16;
const RANGE_LEN: usize = MIB;
const RANGES: usize = 40;

pub async fn run(lab: &mut Lab) -> Outcome<()> {
    let (stage, grown) = Stage::with_grown(lab, lab.scale.grown).await?;
    let contenders = [ways::plain(), grown];
    let mut dice = Dice::new(5);
    for round in 0..lab.rounds {
        for place in ways::order(contenders.len(), round) {
            stage.settle().await?;
            Turn { lab: &mut *lab, stage: &stage, way: &contenders[place], round }.run(&mut dice).await?;
        }
    }
    stage.clear().await
}

/// One gateway, everything once.
struct Turn<'a> {
    lab: &'a mut Lab,
    stage: &'a Stage,
    way: &'a Way,
    round: usize,
}

impl Turn<'_> {
    async fn run(mut self, dice: &mut Dice) -> Outcome<()> {
        let id = self.upload().await?;
        self.small_uploads().await?;
        self.ranges(&id, dice).await?;
        for list in LISTS {
            self.list(list).await?;
        }
        Ok(())
    }

    async fn upload(&mut self) -> Outcome<String> {
        let body = self.lab.contents.body(Kind::Random, UPLOAD_LEN);
        let mut connection = self.stage.connect(self.way).await?;
        let begun = Instant::now();
        let (id, _) = self.way.upload(&mut connection, &body).await?;
        self.add(&upload_case(), [("mibPerSec", (UPLOAD_LEN / MIB) as f64 / begun.elapsed().as_secs_f64())]);
        Ok(id)
    }

    async fn small_uploads(&mut self) -> Outcome<()> {
        let mut clients = Vec::new();
        for _ in 0..CLIENTS {
            clients.push(self.stage.connect(self.way).await?);
        }
        let (contents, way) = (&self.lab.contents, self.way);
        let act =
            async |connection: &mut _| way.upload(connection, &contents.body(Kind::Text, SMALL_LEN)).await.map(drop);
        let done = load(&mut clients, self.lab.scale.time, act).await?;
        self.add(&small_case(), [("perSec", done.per_sec), ("p50Ms", done.p50_ms), ("p99Ms", done.p99_ms)]);
        Ok(())
    }

    async fn ranges(&mut self, id: &str, dice: &mut Dice) -> Outcome<()> {
        let mut connection = self.stage.connect(self.way).await?;
        let mut waits = Vec::new();
        for _ in 0..RANGES {
            let received = self.way.range(&mut connection, id, dice.below(UPLOAD_LEN - RANGE_LEN), RANGE_LEN).await?;
            waits.push(received.whole.as_secs_f64() * 1e3);
        }
        self.add(&range_case(), [("wholeMs", median(waits).unwrap_or(f64::NAN))]);
        Ok(())
    }

    async fn list(&mut self, query: &str) -> Outcome<()> {
        let mut connection = self.stage.connect(self.way).await?;
        let mut waits = Vec::new();
        for _ in 0..LISTS_EACH {
            waits.push(self.way.list(&mut connection, query).await?.whole.as_secs_f64() * 1e3);
        }
        waits.sort_by(f64::total_cmp);
        let p99 = waits.get(waits.len() * 99 / 100).copied().unwrap_or(f64::NAN);
        self.add(&list_case(query), [("p50Ms", median(waits).unwrap_or(f64::NAN)), ("p99Ms", p99)]);
        Ok(())
    }

    fn add(&mut self, case: &str, values: impl Into<Vec<(&'static str, f64)>>) {
        self.lab.report.add(Suite::Growth.name(), case, self.way.who, self.round, values);
    }
}

/// What the report calls it.
pub fn upload_case() -> String {
    format!("upload {}", size(UPLOAD_LEN))
}

/// What the report calls it.
pub fn small_case() -> String {
    format!("{CLIENTS} clients upload {}", size(SMALL_LEN))
}

/// What the report calls it.
pub fn range_case() -> String {
    format!("{} of {}", size(RANGE_LEN), size(UPLOAD_LEN))
}

/// What the report calls it.
pub fn list_case(query: &str) -> String {
    format!("list {query}")
}
