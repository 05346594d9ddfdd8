//! A mongod of a test's own, without authentication: a standalone, or a replica set of one whose
//! commands can be made to fail.

use std::net::{Ipv4Addr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use mongodb::Client;
use mongodb::bson::{Document, doc};

use super::mongod;

/// Waits for the pipe to end, however the test process ends, then ends its mongod.
const SCRIPT: &str = r#"
folder=$1
shift
"$@" --dbpath "$folder" </dev/null >/dev/null 2>&1 &
mongod=$!
read -r _
kill -9 "$mongod"
wait "$mongod" 2>/dev/null
rm -rf -- "$folder"
"#;
const START_LIMIT: Duration = Duration::from_secs(30);

/// A running mongod; dropping it ends it.
pub struct OwnMongod {
    port: u16,
    shell: Child,
}

impl OwnMongod {
    /// One without a replica set.
    pub async fn standalone() -> Self {
        Self::start(&[]).await
    }

    /// A replica set of one that accepts `configureFailPoint`.
    pub async fn fallible() -> Self {
        let own =
            Self::start(&["--replSet", "own", "--oplogSize", "64", "--setParameter", "enableTestCommands=1"]).await;
        let admin = own.client().await.database("admin");
        let member = doc! { "_id": 0, "host": format!("127.0.0.1:{}", own.port) };
        admin.run_command(doc! { "replSetInitiate": { "_id": "own", "members": [member] } }).await.unwrap();
        let limit = Instant::now() + START_LIMIT;
        while !admin.run_command(doc! { "hello": 1 }).await.unwrap().get_bool("isWritablePrimary").unwrap() {
            assert!(Instant::now() < limit, "no primary");
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        own
    }

    /// Its address.
    pub fn uri(&self) -> String {
        format!("mongodb://127.0.0.1:{}/", self.port)
    }

    /// A client that sees this server alone.
    pub async fn client(&self) -> Client {
        Client::with_uri_str(format!("{}?directConnection=true", self.uri())).await.unwrap()
    }

    async fn start(arguments: &[&str]) -> Self {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let folder = tempfile::Builder::new().prefix("gridgate-own-mongod-").tempdir().unwrap().keep();
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", SCRIPT, "sh"]).arg(&folder).arg(program().await).args(arguments);
        shell.args(["--bind_ip", "127.0.0.1", "--port", &port.to_string(), "--nounixsocket"]);
        shell.args(["--wiredTigerCacheSizeGB", "0.25"]).stdin(Stdio::piped());
        let own = Self { port, shell: shell.spawn().unwrap() };
        let limit = Instant::now() + START_LIMIT;
        while tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_err() {
            assert!(Instant::now() < limit, "mongod does not listen");
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        own
    }
}

impl Drop for OwnMongod {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        self.shell.wait().unwrap();
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
