//! A replica set of three whose members can be killed, frozen and brought back.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use mongodb::Client;
use mongodb::bson::{Bson, doc};

use super::own_mongod::{MongodProcess, direct, folder, free_port};

const ARGUMENTS: [&str; 4] = ["--replSet", "three", "--oplogSize", "990"];
/// Longer than `/readyz` waits, so that it is seen to fail; the members' own default is 10 s.
const ELECTION_MILLIS: i32 = 2500;
const LIMIT: Duration = Duration::from_secs(40);

/// The running set; dropping it ends its members.
pub struct ReplicaSet {
    members: Vec<Member>,
}

struct Member {
    port: u16,
    folder: PathBuf,
    client: Client,
    /// The last one runs; those before it were killed and keep the folder from being removed.
    processes: Vec<MongodProcess>,
}

impl Member {
    async fn start() -> Self {
        let (port, folder) = (free_port(), folder());
        let process = MongodProcess::start(&folder, port, &ARGUMENTS).await;
        Self { port, folder, client: direct(port).await, processes: vec![process] }
    }

    async fn is_primary(&self) -> bool {
        let hello = self.client.database("admin").run_command(doc! { "hello": 1 }).await;
        hello.is_ok_and(|hello| hello.get_bool("isWritablePrimary").is_ok_and(|is_primary| is_primary))
    }
}

impl ReplicaSet {
    /// Starts three members and returns when one of them is the primary.
    pub async fn start() -> Self {
        let (a, b, c) = tokio::join!(Member::start(), Member::start(), Member::start());
        let set = Self { members: vec![a, b, c] };
        let member = |(id, member): (i32, &Member)| -> Bson {
            doc! { "_id": id, "host": format!("127.0.0.1:{}", member.port) }.into()
        };
        let members: Vec<Bson> = (0..).zip(&set.members).map(member).collect();
        let settings = doc! { "electionTimeoutMillis": ELECTION_MILLIS, "heartbeatIntervalMillis": 500 };
        let config = doc! { "_id": "three", "members": members, "settings": settings };
        set.members[0].client.database("admin").run_command(doc! { "replSetInitiate": config }).await.unwrap();
        let first = &set.members[0];
        let stepping_up = async {
            while !first.is_primary().await {
                // Sooner than by its own timeout; refused until it knows the others.
                let _ = first.client.database("admin").run_command(doc! { "replSetStepUp": 1 }).await;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(LIMIT, stepping_up).await.expect("a primary");
        set
    }

    /// Its address, all members named.
    pub fn uri(&self) -> String {
        let hosts: Vec<String> = self.members.iter().map(|member| format!("127.0.0.1:{}", member.port)).collect();
        format!("mongodb://{}/?replicaSet=three", hosts.join(","))
    }

    /// The member that is the primary, once there is one; all of them **MUST** answer.
    pub async fn primary(&self) -> usize {
        let limit = Instant::now() + LIMIT;
        loop {
            for (place, member) in self.members.iter().enumerate() {
                if member.is_primary().await {
                    return place;
                }
            }
            assert!(Instant::now() < limit, "no primary");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Sends a member a signal: `KILL`, `STOP`, `CONT`.
    pub fn signal(&self, member: usize, name: &str) {
        self.members[member].processes.last().unwrap().signal(name);
    }

    /// Starts a killed member again on its files.
    pub async fn restart(&mut self, member: usize) {
        let member = &mut self.members[member];
        let process = MongodProcess::start(&member.folder, member.port, &ARGUMENTS).await;
        member.processes.push(process);
    }
}
