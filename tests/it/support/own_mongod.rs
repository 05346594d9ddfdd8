//! A mongod of a test's own, without authentication: a standalone, or a replica set of one whose
//! commands can be made to fail.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use mongodb::Client;
use mongodb::bson::{Document, doc};

use super::data::new_folder;
use super::mongod;

/// Waits for the pipe to end, however the test process ends, then ends its mongod.
const SCRIPT: &str = r#"
folder=$1
shift
"$@" --dbpath "$folder" </dev/null >/dev/null 2>&1 &
mongod=$!
echo "$mongod"
read -r _
kill -9 "$mongod" 2>/dev/null
wait "$mongod" 2>/dev/null
rm -rf -- "$folder"
"#;
const START_LIMIT: Duration = Duration::from_secs(30);

/// A mongod process; dropping it ends it and removes its folder.
pub struct MongodProcess {
    shell: Child,
    pid: String,
}

impl MongodProcess {
    /// Starts one and returns when it listens.
    pub async fn start(folder: &Path, port: u16, arguments: &[&str]) -> Self {
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", SCRIPT, "sh"]).arg(folder).arg(program().await).args(arguments);
        shell.args(["--bind_ip", "127.0.0.1", "--port", &port.to_string(), "--nounixsocket"]);
        shell.args(["--wiredTigerCacheSizeGB", "0.25"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut shell = shell.spawn().unwrap();
        let mut pid = String::new();
        BufReader::new(shell.stdout.take().unwrap()).read_line(&mut pid).unwrap();
        let process = Self { shell, pid: pid.trim().to_owned() };
        let limit = Instant::now() + START_LIMIT;
        while tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_err() {
            assert!(Instant::now() < limit, "mongod does not listen");
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        process
    }

    /// Sends it a signal: `KILL`, `STOP`, `CONT`.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.pid]).status().unwrap();
        assert!(sent.success(), "kill -s {name} {}", self.pid);
    }
}

impl Drop for MongodProcess {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        self.shell.wait().unwrap();
    }
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

/// A new folder for a database.
pub fn folder() -> PathBuf {
    new_folder("gridgate-own-mongod-")
}

/// A client that sees the server at this port alone.
pub async fn direct(port: u16) -> Client {
    Client::with_uri_str(format!("mongodb://127.0.0.1:{port}/?directConnection=true")).await.unwrap()
}

/// A running mongod; dropping it ends it.
pub struct OwnMongod {
    port: u16,
    member: u16,
    folder: PathBuf,
    arguments: Vec<&'static str>,
    /// The last one runs; those before it were killed and keep the folder from being removed.
    processes: Vec<MongodProcess>,
}

impl OwnMongod {
    /// One without a replica set.
    pub async fn standalone() -> Self {
        let port = free_port();
        Self::start(port, port, Vec::new()).await
    }

    /// A replica set of one that accepts `configureFailPoint`.
    pub async fn fallible() -> Self {
        let port = free_port();
        Self::fallible_behind(port, port).await
    }

    /// As [`fallible`](Self::fallible), but known to the set, and so to its clients, by another port.
    pub async fn fallible_behind(member: u16, port: u16) -> Self {
        // Transactions that a lost client leaves open end in seconds, and TTL indexes are looked at each second;
        // both are a minute otherwise.
        let parameters = ["enableTestCommands=1", "transactionLifetimeLimitSeconds=5", "ttlMonitorSleepSecs=1"];
        let parameters = parameters.into_iter().flat_map(|parameter| ["--setParameter", parameter]);
        let arguments = ["--replSet", "own", "--oplogSize", "64"].into_iter().chain(parameters).collect();
        let own = Self::start(member, port, arguments).await;
        let admin = own.client().await.database("admin");
        let only = doc! { "_id": 0, "host": format!("127.0.0.1:{member}") };
        admin.run_command(doc! { "replSetInitiate": { "_id": "own", "members": [only] } }).await.unwrap();
        let limit = Instant::now() + START_LIMIT;
        while !admin.run_command(doc! { "hello": 1 }).await.unwrap().get_bool("isWritablePrimary").unwrap() {
            assert!(Instant::now() < limit, "no primary");
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        own
    }

    async fn start(member: u16, port: u16, arguments: Vec<&'static str>) -> Self {
        let folder = folder();
        let processes = vec![MongodProcess::start(&folder, port, &arguments).await];
        Self { port, member, folder, arguments, processes }
    }

    /// Sends it a signal: `KILL`, `STOP`, `CONT`.
    pub fn signal(&self, name: &str) {
        self.processes.last().unwrap().signal(name);
    }

    /// Starts it again on its files once it was killed.
    pub async fn restart(&mut self) {
        self.processes.push(MongodProcess::start(&self.folder, self.port, &self.arguments).await);
    }

    /// Its address.
    pub fn uri(&self) -> String {
        format!("mongodb://127.0.0.1:{}/", self.member)
    }

    /// A client that sees this server alone.
    pub async fn client(&self) -> Client {
        direct(self.port).await
    }

    /// Makes commands fail as `failCommand` describes it, `times` times.
    pub async fn fail(&self, times: i32, fault: Document) {
        let point = doc! { "configureFailPoint": "failCommand", "mode": { "times": times }, "data": fault };
        self.client().await.database("admin").run_command(point).await.unwrap();
    }

    /// Ends what [`fail`](Self::fail) began.
    pub async fn heal(&self) {
        let point = doc! { "configureFailPoint": "failCommand", "mode": "off" };
        self.client().await.database("admin").run_command(point).await.unwrap();
    }
}

impl Drop for OwnMongod {
    /// The running one first: a process before it removes the folder they share.
    fn drop(&mut self) {
        while self.processes.pop().is_some() {}
    }
}

/// The mongod that is named, else the one that the run's own mongod is.
async fn program() -> String {
    if let Some(named) = std::env::var("GRIDGATE_MONGOD").ok().filter(|named| !named.is_empty()) {
        return named;
    }
    let client = Client::with_uri_str(mongod::uri()).await.unwrap();
    let options: Document = client.database("admin").run_command(doc! { "getCmdLineOpts": 1 }).await.unwrap();
    options.get_array("argv").unwrap()[0].as_str().unwrap().to_owned()
}
