//! One client, one large file up and down: the raw database, the driver's streams, the gateway in every
//! way, its peers; with the processor time of gateway and mongod.

use mongodb::bson::oid::ObjectId;

use crate::arguments::{Suite, size};
use crate::content::Kind;
use crate::lab::Lab;
use crate::server::{EXPRESS, Way};
use crate::stage::Stage;
use crate::usage::Cost;
use crate::ways::Contender;
use crate::{Outcome, ceiling, driver, ways};

const MIB: f64 = 1_048_576.0;
const GIB: f64 = 1024.0 * MIB;
const WARM_UP_LEN: usize = 4 << 20;
/// Files longer than this go only the ways that the goals are about.
const VERY_LARGE: usize = 512 << 20;

pub async fn run(lab: &mut Lab) -> Outcome<()> {
    for &len in lab.scale.large {
        for round in 0..lab.rounds {
            let stage = Stage::with_peers(lab).await?;
            for kind in [Kind::Random, Kind::Text, Kind::Mixed] {
                Turn { lab, stage: &stage, kind, len, round }.run().await?;
            }
            stage.clear().await?;
        }
    }
    Ok(())
}

/// Everybody with one kind of content, once.
struct Turn<'a> {
    lab: &'a mut Lab,
    stage: &'a Stage,
    kind: Kind,
    len: usize,
    round: usize,
}

impl Turn<'_> {
    async fn run(mut self) -> Outcome<()> {
        let contenders = ways::take_turns(contenders(self.lab, self.kind, self.len), self.round);
        for way in contenders.iter().filter_map(Contender::way) {
            warm_up(self.lab, self.stage, way, self.kind).await?;
        }
        let warm = self.lab.contents.body_of(self.kind, WARM_UP_LEN, ceiling::CHUNK_LEN);
        ceiling::insert(&self.stage.raw, &warm).await?;
        let mut ids = Vec::new();
        for contender in &contenders {
            self.stage.settle().await?;
            ids.push(self.upload(contender).await?);
        }
        self.stage.settle().await?;
        let as_stored = Contender::Way(ways::zstd_as_stored());
        for (contender, id) in contenders.iter().zip(&ids) {
            let mut downloads = vec![contender];
            if contender.who() == ways::zstd().who {
                // The same bytes of the database: the second finds them read.
                downloads.insert(self.round % 2, &as_stored);
            }
            for contender in downloads {
                self.download(contender, id).await?;
            }
        }
        Ok(())
    }

    async fn upload(&mut self, contender: &Contender) -> Outcome<String> {
        let (raw, piece_len) = (&self.stage.raw, contender.piece_len());
        let body = self.lab.contents.body_of(self.kind, self.len, piece_len);
        let mut wait_ms = f64::NAN;
        let (id, cost) = match contender {
            Contender::Raw => self.stage.measure(None, ceiling::insert(raw, &body)).await?,
            Contender::Driver => self.stage.measure(None, driver::upload(raw, &body)).await?,
            Contender::Way(way) => {
                let mut connection = self.stage.connect(way).await?;
                let ((id, wait), cost) = self.stage.measure(Some(way), way.upload(&mut connection, &body)).await?;
                wait_ms = wait.as_secs_f64() * 1e3;
                (id, cost)
            }
        };
        self.add("upload", contender, cost, ("finishMs", wait_ms));
        Ok(id)
    }

    async fn download(&mut self, contender: &Contender, id: &str) -> Outcome<()> {
        let raw = &self.stage.raw;
        let mut wait_ms = f64::NAN;
        let cost = match contender {
            Contender::Raw => self.stage.measure(None, ceiling::find(raw, ObjectId::parse_str(id)?)).await?.1,
            Contender::Driver => self.stage.measure(None, driver::download(raw, ObjectId::parse_str(id)?)).await?.1,
            Contender::Way(way) => {
                let mut connection = self.stage.connect(way).await?;
                let (received, cost) = self.stage.measure(Some(way), way.download(&mut connection, id)).await?;
                wait_ms = received.first_byte.as_secs_f64() * 1e3;
                cost
            }
        };
        self.add("download", contender, cost, ("firstByteMs", wait_ms));
        Ok(())
    }

    fn add(&mut self, act: &str, contender: &Contender, cost: Cost, wait: (&'static str, f64)) {
        let len = self.len as f64;
        let values = [
            ("mibPerSec", len / MIB / cost.secs),
            ("serverCpuSecsPerGib", cost.server_cpu * GIB / len),
            ("mongodCpuSecsPerGib", cost.mongod_cpu * GIB / len),
            ("clientCpuSecsPerGib", cost.client_cpu * GIB / len),
            wait,
        ];
        let case = case(act, self.kind, self.len);
        self.lab.report.add(Suite::Large.name(), &case, contender.who(), self.round, values);
    }
}

/// What the report calls it.
pub fn case(act: &str, kind: Kind, len: usize) -> String {
    format!("{act} {} {}", kind.name(), size(len))
}

fn contenders(lab: &Lab, kind: Kind, len: usize) -> Vec<Contender> {
    let [plain, encrypted, zstd, all] = [ways::plain(), ways::encrypted(), ways::zstd(), ways::zstd_encrypted()];
    let mut ways = match kind {
        Kind::Random if len > VERY_LARGE => vec![plain, encrypted],
        Kind::Text | Kind::Mixed if len > VERY_LARGE => vec![all],
        _ if lab.scale.every_way => vec![plain, encrypted, zstd, all],
        Kind::Random => vec![plain, encrypted, all],
        Kind::Text => vec![plain, zstd, all],
        Kind::Mixed => vec![plain, all],
    };
    let mut contenders = vec![Contender::Raw];
    match kind {
        Kind::Random => {
            contenders.push(Contender::Driver);
            ways.extend(ways::peers(&lab.peers));
        }
        Kind::Text if lab.peers.have(EXPRESS) => ways.push(Way::express_pipeline()),
        Kind::Text | Kind::Mixed => {}
    }
    contenders.extend(ways.into_iter().map(Contender::Way));
    contenders
}

/// Connections made, code and caches touched.
async fn warm_up(lab: &Lab, stage: &Stage, way: &Way, kind: Kind) -> Outcome<()> {
    let mut connection = stage.connect(way).await?;
    let (id, _) = way.upload(&mut connection, &lab.contents.body(kind, WARM_UP_LEN)).await?;
    let received = way.download(&mut connection, &id).await?;
    if received.len == WARM_UP_LEN {
        Ok(())
    } else {
        Err(format!("{}: {} bytes came back", way.who, received.len).into())
    }
}
