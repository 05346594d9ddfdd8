//! Small files up and down from one and many clients.

use std::cell::{Cell, RefCell};

use mongodb::bson::oid::ObjectId;

use crate::arguments::{Suite, size};
use crate::content::Kind;
use crate::http_client::Connection;
use crate::lab::Lab;
use crate::load::{Load, load};
use crate::stage::Stage;
use crate::usage::Cost;
use crate::ways::Contender;
use crate::{Outcome, ceiling, ways};

/// How many of the uploaded files are downloaded, in turns.
const FILES: usize = 256;
const MICROS: f64 = 1e6;

pub async fn run(lab: &mut Lab) -> Outcome<()> {
    for round in 0..lab.rounds {
        let stage = Stage::with_peers(lab).await?;
        let contenders = ways::take_turns(contenders(lab), round);
        for way in contenders.iter().filter_map(Contender::way) {
            let mut connection = stage.connect(way).await?;
            let (id, _) = way.upload(&mut connection, &lab.contents.body(Kind::Text, 4 << 10)).await?;
            way.download(&mut connection, &id).await?;
        }
        for &(len, crowds) in lab.scale.small {
            for &clients in crowds {
                Turn { lab, stage: &stage, len, clients, round }.run(&contenders).await?;
            }
        }
        stage.clear().await?;
    }
    Ok(())
}

fn contenders(lab: &Lab) -> Vec<Contender> {
    let ways = [ways::plain(), ways::encrypted()].into_iter().chain(ways::peers(&lab.peers));
    std::iter::once(Contender::Raw).chain(ways.map(Contender::Way)).collect()
}

/// Everybody with one size and one number of clients, once.
struct Turn<'a> {
    lab: &'a mut Lab,
    stage: &'a Stage,
    len: usize,
    clients: usize,
    round: usize,
}

impl Turn<'_> {
    async fn run(mut self, contenders: &[Contender]) -> Outcome<()> {
        let mut stored = Vec::new();
        for contender in contenders {
            stored.push(self.uploads(contender).await?);
        }
        self.stage.settle().await?;
        for (contender, ids) in contenders.iter().zip(stored) {
            self.downloads(contender, &ids[..ids.len().min(FILES)]).await?;
        }
        Ok(())
    }

    async fn uploads(&mut self, contender: &Contender) -> Outcome<Vec<String>> {
        let ids = RefCell::new(Vec::new());
        let act = async |connection: &mut Option<Connection>| {
            let body = self.lab.contents.body(Kind::Text, self.len);
            let id = match (contender.way(), connection) {
                (Some(way), Some(connection)) => way.upload(connection, &body).await?.0,
                _ => ceiling::insert_small(&self.stage.raw, &body).await?,
            };
            ids.borrow_mut().push(id);
            Ok(())
        };
        let (load, cost) = self.load(contender, act).await?;
        self.add("upload", contender, &load, cost);
        Ok(ids.into_inner())
    }

    async fn downloads(&mut self, contender: &Contender, ids: &[String]) -> Outcome<()> {
        let next = Cell::new(0);
        let act = async |connection: &mut Option<Connection>| {
            let id = &ids[next.replace(next.get() + 1) % ids.len()];
            match (contender.way(), connection) {
                (Some(way), Some(connection)) => {
                    let received = way.download(connection, id).await?;
                    if received.len == self.len {
                        Ok(())
                    } else {
                        Err("a small file came back in another length".into())
                    }
                }
                _ => ceiling::find_small(&self.stage.raw, ObjectId::parse_str(id)?).await,
            }
        };
        let (load, cost) = self.load(contender, act).await?;
        self.add("download", contender, &load, cost);
        Ok(())
    }

    /// Lets the clients act, each on a connection of its own where there is a server.
    async fn load(
        &self,
        contender: &Contender,
        act: impl AsyncFn(&mut Option<Connection>) -> Outcome<()>,
    ) -> Outcome<(Load, Cost)> {
        let mut clients = Vec::new();
        for _ in 0..self.clients {
            clients.push(match contender.way() {
                Some(way) => Some(self.stage.connect(way).await?),
                None => None,
            });
        }
        self.stage.measure(contender.way(), load(&mut clients, self.lab.scale.time, act)).await
    }

    fn add(&mut self, act: &str, contender: &Contender, load: &Load, cost: Cost) {
        let done = load.done as f64;
        let values = [
            ("perSec", load.per_sec),
            ("p50Ms", load.p50_ms),
            ("p99Ms", load.p99_ms),
            ("serverCpuMicros", cost.server_cpu * MICROS / done),
            ("mongodCpuMicros", cost.mongod_cpu * MICROS / done),
            ("clientCpuMicros", cost.client_cpu * MICROS / done),
        ];
        let case = case(act, self.len, self.clients);
        self.lab.report.add(Suite::Small.name(), &case, contender.who(), self.round, values);
    }
}

/// What the report calls it.
pub fn case(act: &str, len: usize, clients: usize) -> String {
    format!("{act} {}, {clients} {}", size(len), if clients == 1 { "client" } else { "clients" })
}
