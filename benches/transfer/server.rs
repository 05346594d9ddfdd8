//! Servers under measurement: each a process of its own, so that its processor time and memory are its
//! own, on a database of its own.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::{Value, json};

use crate::Outcome;
use crate::content::Body;
use crate::http_client::{Connection, Received};

pub const GATEWAY: &str = "gateway";
/// Our gateway on a database with many files.
pub const GROWN: &str = "grown gateway";
pub const NAIVE: &str = "naive axum";
pub const FASTAPI: &str = "FastAPI";
pub const EXPRESS: &str = "Express";
pub const EXPRESS_PIPELINE: &str = "Express gzip + cipher";

const ADMIN_KEY: &str = "gg_admin_for-the-benchmark-only";
const MASTER_KEY: &str = "bench:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const START_LIMIT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(50);

/// A running server; it ends with its value.
pub struct Server {
    pub address: SocketAddr,
    child: Child,
}

impl Server {
    /// Our gateway, from the build under test, without the jobs that read a whole new store at once.
    pub fn gateway(uri: &str, database: &str) -> Outcome<Self> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gridgate"));
        command
            .env("GRIDGATE_MONGODB_URI", uri)
            .env("GRIDGATE_DATABASE", database)
            .env("GRIDGATE_MASTER_KEY", MASTER_KEY)
            .env("GRIDGATE_ADMIN_KEY", ADMIN_KEY)
            .env("GRIDGATE_LISTEN", "127.0.0.1:0")
            .env("GRIDGATE__STORAGE__SCRUB_INTERVAL_SECS", "0")
            .env("GRIDGATE__STORAGE__FSCK_INTERVAL_SECS", "0");
        Self::that_tells_its_address(command)
    }

    /// This program as the gateway in `naive.rs`.
    pub fn naive(uri: &str, database: &str) -> Outcome<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("--naive").arg(database).env("GRIDGATE_BENCH_MONGODB", uri);
        Self::that_tells_its_address(command)
    }

    /// A program whose first line ends with its URL.
    fn that_tells_its_address(mut command: Command) -> Outcome<Self> {
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().ok_or("no stdout")?).read_line(&mut line)?;
        let address = line.trim().rsplit("http://").next().and_then(|address| address.parse().ok());
        Ok(Self { child, address: address.ok_or("a server did not start")? })
    }

    /// A program that is told its port; it is there when something listens.
    pub fn on_port(make: impl FnOnce(u16) -> Command) -> Outcome<Self> {
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let child = make(address.port()).stdout(Stdio::null()).spawn()?;
        let mut server = Self { address, child };
        let begun = Instant::now();
        while TcpStream::connect(address).is_err() {
            if begun.elapsed() > START_LIMIT || server.child.try_wait()?.is_some() {
                return Err("a peer did not start".into());
            }
            std::thread::sleep(POLL);
        }
        Ok(server)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It is ours and holds nothing that is kept.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One way of storing files with one server.
#[derive(Clone)]
pub struct Way {
    /// What the table calls it.
    pub who: &'static str,
    /// Which of the servers of a stage it is.
    pub server: &'static str,
    upload: String,
    content: [&'static str; 2],
    headers: String,
}

impl Way {
    pub fn gateway(who: &'static str, options: &str) -> Self {
        Self {
            who,
            server: GATEWAY,
            upload: format!("POST /v1/files?name=bench&{options}"),
            content: ["/v1/files/", "/content"],
            headers: format!("authorization: Bearer {ADMIN_KEY}\r\n"),
        }
    }

    /// A peer that takes files at `PUT /files/{name}`.
    pub fn peer(server: &'static str) -> Self {
        Self::peer_at(server, server, "/files/bench")
    }

    /// The pipeline of articles: gzip where it is text, cipher, hash, GridFS.
    pub fn express_pipeline() -> Self {
        Self::peer_at(EXPRESS_PIPELINE, EXPRESS, "/pipe/bench")
    }

    fn peer_at(who: &'static str, server: &'static str, path: &str) -> Self {
        Self { who, server, upload: format!("PUT {path}"), content: ["/files/", ""], headers: String::new() }
    }

    /// The same, named otherwise and asking with one header more.
    pub fn asking(&self, who: &'static str, header: &str) -> Self {
        Self { who, headers: format!("{}{header}\r\n", self.headers), ..self.clone() }
    }

    /// The same on another server.
    pub fn on(&self, server: &'static str, who: &'static str) -> Self {
        Self { who, server, ..self.clone() }
    }

    /// Asks the gateway for a page of its files.
    pub async fn list(&self, connection: &mut Connection, query: &str) -> Outcome<Received> {
        connection.receive(&format!("/v1/files?{query}"), &self.headers).await
    }

    /// Uploads parts, the pieces of the body, to the gateway; gives the upload's id.
    pub async fn upload_parts(&self, connection: &mut Connection, body: &Body) -> Outcome<String> {
        let part_len = body.pieces.first().map_or(0, Bytes::len);
        let said =
            json!({ "name": "bench", "size": body.len, "partSize": part_len, "encrypt": false, "compress": "none" });
        let headers = format!("{}content-type: application/json\r\n", self.headers);
        let begun = connection.send("POST /v1/uploads", &headers, &[said.to_string().into()]).await?;
        let begun: Value = serde_json::from_slice(&begun.body)?;
        let id = begun["id"].as_str().ok_or("an answer without an id")?;
        for (n, part) in body.pieces.iter().enumerate() {
            let line = format!("PUT /v1/uploads/{id}/parts/{n}");
            connection.send(&line, &self.headers, std::slice::from_ref(part)).await?;
        }
        Ok(id.to_owned())
    }

    /// Makes a file of an upload; gives how long that took.
    pub async fn complete(&self, connection: &mut Connection, upload: &str) -> Outcome<Duration> {
        let line = format!("POST /v1/uploads/{upload}/complete");
        Ok(connection.send(&line, &self.headers, &[]).await?.after_request)
    }

    /// Uploads; gives the id, and how long the answer took after the last byte.
    pub async fn upload(&self, connection: &mut Connection, body: &Body) -> Outcome<(String, Duration)> {
        let headers = format!("{}content-type: {}\r\n", self.headers, body.kind.media_type());
        let answer = connection.send(&self.upload, &headers, &body.pieces).await?;
        let file: Value = serde_json::from_slice(&answer.body)?;
        let id = file["id"].as_str().ok_or("an answer without an id")?;
        Ok((id.to_owned(), answer.after_request))
    }

    pub async fn download(&self, connection: &mut Connection, id: &str) -> Outcome<Received> {
        connection.receive(&self.path(id), &self.headers).await
    }

    pub async fn range(&self, connection: &mut Connection, id: &str, from: usize, len: usize) -> Outcome<Received> {
        let headers = format!("{}range: bytes={from}-{}\r\n", self.headers, from + len - 1);
        let received = connection.receive(&self.path(id), &headers).await?;
        if received.len == len {
            Ok(received)
        } else {
            Err(format!("{}: {} of {len} bytes", self.who, received.len).into())
        }
    }

    /// Asks for a file and reads only how it begins.
    pub async fn pause(&self, connection: &mut Connection, id: &str) -> Outcome<()> {
        connection.pause(&self.path(id), &self.headers).await
    }

    fn path(&self, id: &str) -> String {
        let [before, after] = self.content;
        format!("{before}{id}{after}")
    }
}
