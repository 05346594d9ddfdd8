//! The most memory the gateway ever held over what it had at rest, each time in a process of its own.

use futures::future::try_join_all;

use crate::arguments::{Suite, size};
use crate::content::Kind;
use crate::lab::Lab;
use crate::stage::Stage;
use crate::usage::Memory;
use crate::{Outcome, ways};

pub const CROWD: usize = 16;
pub const PAUSED: usize = 64;
const WARM_UP_LEN: usize = 1 << 20;

pub async fn run(lab: &mut Lab) -> Outcome<()> {
    for round in 0..lab.rounds {
        for len in lab.scale.memory {
            uploads(lab, round, &uploads_case(1, len), 1, len).await?;
        }
        let crowd = lab.scale.crowd;
        uploads(lab, round, &uploads_case(CROWD, crowd), CROWD, crowd).await?;
        paused_downloads(lab, round).await?;
    }
    Ok(())
}

/// What the report calls it.
pub fn uploads_case(clients: usize, len: usize) -> String {
    format!("{clients} x upload of {}", size(len))
}

pub fn paused_case(len: usize) -> String {
    format!("{PAUSED} x paused download of {}", size(len))
}

/// Text with everything on.
async fn uploads(lab: &mut Lab, round: usize, case: &str, clients: usize, len: usize) -> Outcome<()> {
    let way = ways::zstd_encrypted();
    let stage = Stage::with_gateway(lab).await?;
    warm_up(lab, &stage).await?;
    let bodies: Vec<_> = (0..clients).map(|_| lab.contents.body(Kind::Text, len)).collect();
    let memory = Memory::watch(stage.server(&way)?.pid())?;
    let upload = async |body| {
        let mut connection = stage.connect(&way).await?;
        way.upload(&mut connection, body).await.map(drop)
    };
    try_join_all(bodies.iter().map(upload)).await?;
    lab.report.add(Suite::Memory.name(), case, way.who, round, [("peakMib", memory.peak_mib()?)]);
    stage.clear().await
}

async fn paused_downloads(lab: &mut Lab, round: usize) -> Outcome<()> {
    let len = lab.scale.paused;
    let mut stage = Stage::with_gateway(lab).await?;
    for (way, kind) in [(ways::plain(), Kind::Random), (ways::zstd_encrypted(), Kind::Text)] {
        let mut connection = stage.connect(&way).await?;
        let (id, _) = way.upload(&mut connection, &lab.contents.body(kind, len)).await?;
        stage.restart_gateway(lab)?;
        warm_up(lab, &stage).await?;
        let memory = Memory::watch(stage.server(&way)?.pid())?;
        let mut clients = Vec::new();
        for _ in 0..PAUSED {
            let mut connection = stage.connect(&way).await?;
            way.pause(&mut connection, &id).await?;
            clients.push(connection);
        }
        let held = memory.settled_mib().await?;
        drop(clients);
        let values = [("eachMib", held / PAUSED as f64), ("heldMib", held), ("peakMib", memory.peak_mib()?)];
        lab.report.add(Suite::Memory.name(), &paused_case(len), way.who, round, values);
    }
    stage.clear().await
}

/// What is allocated once, whatever comes.
async fn warm_up(lab: &Lab, stage: &Stage) -> Outcome<()> {
    let way = ways::zstd_encrypted();
    let mut connection = stage.connect(&way).await?;
    let (id, _) = way.upload(&mut connection, &lab.contents.body(Kind::Text, WARM_UP_LEN)).await?;
    way.download(&mut connection, &id).await.map(drop)
}
