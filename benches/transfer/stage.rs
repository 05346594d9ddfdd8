//! One round's servers on the run's mongod: started with empty databases, ended with everything they stored.

use std::collections::BTreeMap;
use std::time::Duration;

use mongodb::bson::doc;
use mongodb::{Client, Database};

use crate::content::Kind;
use crate::http_client::Connection;
use crate::lab::Lab;
use crate::server::{GATEWAY, GROWN, NAIVE, Server, Way};
use crate::usage::{Cost, Meter};
use crate::{Outcome, ceiling, grow, peers, ways};

const RAW_DATABASE: &str = "bench_raw";
const GATEWAY_DATABASE: &str = "bench_gateway";
const GROWN_DATABASE: &str = "bench_grown";
const NAIVE_DATABASE: &str = "bench_naive";
/// How long mongod may take to give a round's disk back before the next begins all the same.
const DISK_PATIENCE: Duration = Duration::from_secs(10);

pub struct Stage {
    pub raw: Database,
    client: Client,
    mongod_pid: u32,
    servers: BTreeMap<&'static str, Server>,
}

impl Stage {
    /// The gateway alone.
    pub async fn with_gateway(lab: &Lab) -> Outcome<Self> {
        let raw = lab.client.database(RAW_DATABASE);
        ceiling::make_indexes(&raw, "raw").await?;
        let servers = BTreeMap::from([(GATEWAY, Server::gateway(&lab.uri, GATEWAY_DATABASE)?)]);
        Ok(Self { raw, client: lab.client.clone(), mongod_pid: lab.mongod_pid, servers })
    }

    /// The gateway and all its peers.
    pub async fn with_peers(lab: &Lab) -> Outcome<Self> {
        let mut stage = Self::with_gateway(lab).await?;
        ceiling::make_indexes(&lab.client.database(NAIVE_DATABASE), "fs").await?;
        for name in peers::DATABASES {
            ceiling::make_indexes(&lab.client.database(name), "files").await?;
        }
        stage.servers.insert(NAIVE, Server::naive(&lab.uri, NAIVE_DATABASE)?);
        stage.servers.extend(lab.peers.start(&lab.uri)?);
        Ok(stage)
    }

    /// The gateway, and another whose database has so many files; gives the way to that.
    pub async fn with_grown(lab: &Lab, files: usize) -> Outcome<(Self, Way)> {
        let (mut stage, grown) = (Self::with_gateway(lab).await?, ways::grown());
        stage.servers.insert(GROWN, Server::gateway(&lab.uri, GROWN_DATABASE)?);
        let mut connection = stage.connect(&grown).await?;
        grown.upload(&mut connection, &lab.contents.body(Kind::Text, 16)).await?;
        grow::grow(&lab.client.database(GROWN_DATABASE), files).await?;
        Ok((stage, grown))
    }

    /// The same files served by a process that has done nothing yet.
    pub fn restart_gateway(&mut self, lab: &Lab) -> Outcome<()> {
        drop(self.servers.remove(GATEWAY));
        self.servers.insert(GATEWAY, Server::gateway(&lab.uri, GATEWAY_DATABASE)?);
        Ok(())
    }

    pub fn server(&self, way: &Way) -> Outcome<&Server> {
        Ok(self.servers.get(way.server).ok_or("a server is not on this stage")?)
    }

    /// A new connection: some servers close one that rested.
    pub async fn connect(&self, way: &Way) -> Outcome<Connection> {
        Connection::open(self.server(way)?.address).await
    }

    /// Does something and gives what it cost the server of the way and mongod. Without a way the server is
    /// this program, as the driver runs in it.
    pub async fn measure<T>(&self, way: Option<&Way>, act: impl Future<Output = Outcome<T>>) -> Outcome<(T, Cost)> {
        let pid = match way {
            Some(way) => self.server(way)?.pid(),
            None => std::process::id(),
        };
        let meter = Meter::start(pid, self.mongod_pid)?;
        let done = act.await?;
        Ok((done, meter.stop()?))
    }

    /// Lets mongod write down what it has, so that nobody pays for what others stored.
    pub async fn settle(&self) -> Outcome<()> {
        self.client.database("admin").run_command(doc! { "fsync": 1 }).await?;
        Ok(())
    }

    /// Ends the servers and removes what was stored.
    pub async fn clear(self) -> Outcome<()> {
        drop(self.servers);
        for name in [RAW_DATABASE, GATEWAY_DATABASE, GROWN_DATABASE, NAIVE_DATABASE].into_iter().chain(peers::DATABASES)
        {
            self.client.database(name).drop().await?;
        }
        give_back_disk(&self.client).await
    }
}

/// Dropped collections stay on disk as long as a snapshot could be asked for: nobody will.
async fn give_back_disk(client: &Client) -> Outcome<()> {
    let admin = client.database("admin");
    let keep_history =
        |secs: i32| admin.run_command(doc! { "setParameter": 1, "minSnapshotHistoryWindowInSeconds": secs });
    let usual = keep_history(0).await?.get_i32("was").unwrap_or(300);
    let begun = tokio::time::Instant::now();
    while begun.elapsed() < DISK_PATIENCE && has_dropped(&admin).await? {
        admin.run_command(doc! { "appendOplogNote": 1, "data": { "bench": "time goes on" } }).await?;
        admin.run_command(doc! { "fsync": 1 }).await?;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    keep_history(usual).await?;
    Ok(())
}

async fn has_dropped(admin: &Database) -> Outcome<bool> {
    let status = admin.run_command(doc! { "serverStatus": 1 }).await?;
    let pending = status.get_document("storageEngine")?.get("dropPendingIdents").cloned();
    Ok(pending.and_then(|count| count.as_i64().or(count.as_i32().map(i64::from))).unwrap_or(0) > 0)
}
