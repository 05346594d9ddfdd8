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
        // The first of all pays for what all need.
        let few = upload_parts(lab, &way, &mut connection, FEW).await?;
        way.complete(&mut connection, &few).await?;
        for &parts in lab.scale.complete {
            complete(lab, &way, &mut connection, parts, round).await?;
        }
        stage.clear().await?;
    }
    Ok(())
}

/// Completes an upload of many parts between two of [`FEW`], all stored before: what a mongod takes longer that is busy with
/// what it got counts for both.
async fn complete(lab: &mut Lab, way: &Way, connection: &mut Connection, parts: Parts, round: usize) -> Outcome<()> {
    let mut uploads = Vec::new();
    for parts in [FEW, parts, FEW] {
        uploads.push(upload_parts(lab, way, connection, parts).await?);
    }
    let mut waits = [f64::NAN; 3];
    for (wait, upload) in waits.iter_mut().zip(&uploads) {
        *wait = way.complete(connection, upload).await?.as_secs_f64() * 1e3;
    }
    let [before, many, after] = waits;
    for (case, wait) in [(complete_case(parts), many), (beside_case(parts), f64::midpoint(before, after))] {
        lab.report.add(Suite::Finish.name(), &case, way.who, round, [("completeMs", wait)]);
    }
    Ok(())
}

async fn upload_parts(lab: &Lab, way: &Way, connection: &mut Connection, parts: Parts) -> Outcome<String> {
    let body = lab.contents.body_of(Kind::Random, parts.count * parts.len, parts.len);
    way.upload_parts(connection, &body).await
}

/// What the report calls it.
pub fn case(len: usize) -> String {
    format!("answer after {}", size(len))
}

/// What the report calls it.
pub fn complete_case(parts: Parts) -> String {
    format!("complete {parts}")
}

/// What the report calls the few that are completed before and after it, by their mean.
pub fn beside_case(parts: Parts) -> String {
    format!("complete {FEW}, beside {parts}")
}
