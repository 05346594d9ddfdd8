//! From the last byte of a plain upload, handed to the socket, to its answer; and how long completing an upload in
//! parts takes. Neither should grow with the file.

use crate::arguments::{MIB, Parts, Suite, size};
use crate::content::Kind;
use crate::http_client::Connection;
use crate::lab::Lab;
use crate::server::Way;
use crate::stage::Stage;
use crate::{Outcome, ways};

/// What uploads of many parts are compared with.
pub const FEW: Parts = Parts { count: 2, len: 8 * MIB };

pub async fn run(lab: &mut Lab) -> Outcome<()> {
    let way = ways::plain();
    for round in 0..lab.rounds {
        let stage = Stage::with_gateway(lab).await?;
        let mut connection = stage.connect(&way).await?;
        way.upload(&mut connection, &lab.contents.body(Kind::Random, lab.scale.finish[0])).await?;
        for &len in lab.scale.finish {
            let body = lab.contents.body(Kind::Random, len);
            let (_, wait) = way.upload(&mut connection, &body).await?;
            let values = [("finishMs", wait.as_secs_f64() * 1e3)];
            lab.report.add(Suite::Finish.name(), &case(len), way.who, round, values);
        }
        for &parts in lab.scale.complete {
            complete(lab, &way, &mut connection, parts, round).await?;
        }
        stage.clear().await?;
    }
    Ok(())
}

/// Completes an upload of many parts and one of [`FEW`] that were stored just before: what a mongod takes longer that is
/// busy with what it got counts for both.
async fn complete(lab: &mut Lab, way: &Way, connection: &mut Connection, parts: Parts, round: usize) -> Outcome<()> {
    let mut uploads = Vec::new();
    for (case, Parts { count, len }) in [(complete_case(parts), parts), (beside_case(parts), FEW)] {
        let body = lab.contents.body_of(Kind::Random, count * len, len);
        uploads.push((case, way.upload_parts(connection, &body).await?));
    }
    for (case, upload) in ways::take_turns(uploads, round) {
        let wait = way.complete(connection, &upload).await?;
        let values = [("completeMs", wait.as_secs_f64() * 1e3)];
        lab.report.add(Suite::Finish.name(), &case, way.who, round, values);
    }
    Ok(())
}

/// What the report calls it.
pub fn case(len: usize) -> String {
    format!("answer after {}", size(len))
}

/// What the report calls it.
pub fn complete_case(parts: Parts) -> String {
    format!("complete {parts}")
}

/// What the report calls the few that are completed beside it.
pub fn beside_case(parts: Parts) -> String {
    format!("complete {FEW}, beside {parts}")
}
