//! What all suites share: the run's mongod, the contents, the peers, and what was measured so far.

use std::path::Path;

use gridgate::mongod::{Mongod, MongodSettings, OnExit};
use mongodb::Client;

use crate::Outcome;
use crate::arguments::{Arguments, Scale};
use crate::content::Contents;
use crate::peers::Peers;
use crate::report::Report;

pub struct Lab {
    pub uri: String,
    pub client: Client,
    pub mongod_pid: u32,
    pub contents: Contents,
    pub peers: Peers,
    pub scale: &'static Scale,
    pub rounds: usize,
    pub report: Report,
    mongod: Mongod,
}

impl Lab {
    pub async fn open(arguments: &Arguments) -> Outcome<Self> {
        let scale = arguments.scale();
        let folder = tempfile::Builder::new().prefix("gridgate-bench-").tempdir()?.keep();
        check_disk(&folder, scale.disk_gib)?;
        let peers = arguments.peers.as_deref().map(Peers::prepare).transpose()?.unwrap_or_default();
        let contents = Contents::new(Path::new(env!("CARGO_MANIFEST_DIR")))?;
        let settings = MongodSettings { cache_mib: 2048, oplog_mib: 1024 };
        let mongod = Mongod::start(&settings, &folder, OnExit::RemoveFiles).await?;
        let mongod_pid = std::fs::read_to_string(folder.join("mongo/mongod.pid"))?.trim().parse()?;
        Ok(Self {
            client: Client::with_uri_str(mongod.uri()).await?,
            uri: mongod.uri().to_owned(),
            mongod_pid,
            contents,
            peers,
            scale,
            rounds: arguments.rounds(),
            report: Report::default(),
            mongod,
        })
    }

    /// Ends the mongod; gives what was measured.
    pub async fn close(self) -> Outcome<Report> {
        self.mongod.stop().await?;
        Ok(self.report)
    }
}

/// A full disk would end the mongod in the middle.
fn check_disk(folder: &Path, wanted_gib: u64) -> Outcome<()> {
    let space = rustix::fs::statvfs(folder)?;
    let free_gib = (space.f_bavail * space.f_frsize) >> 30;
    if free_gib >= wanted_gib {
        return Ok(());
    }
    Err(format!("{}: {free_gib} GiB are free, {wanted_gib} are needed (TMPDIR chooses another disk)", folder.display())
        .into())
}
