//! From the last byte of a plain upload, handed to the socket, to its answer; and how long completing an upload in
//! parts takes. Neither should grow with the file.

use crate::arguments::{Suite, size};
use crate::content::Kind;
use crate::lab::Lab;
use crate::stage::Stage;
use crate::{Outcome, ways};

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
        for &(parts, part_len) in lab.scale.complete {
            let body = lab.contents.body_of(Kind::Random, parts * part_len, part_len);
            let wait = way.upload_in_parts(&mut connection, &body).await?;
            let values = [("completeMs", wait.as_secs_f64() * 1e3)];
            lab.report.add(Suite::Finish.name(), &complete_case(parts, part_len), way.who, round, values);
        }
        stage.clear().await?;
    }
    Ok(())
}

/// What the report calls it.
pub fn complete_case(parts: usize, part_len: usize) -> String {
    format!("complete {parts} parts of {}", size(part_len))
}

/// What the report calls it.
pub fn case(len: usize) -> String {
    format!("answer after {}", size(len))
}
