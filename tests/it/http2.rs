//! HTTP/2 by hand, for connections that mean harm: they are closed, memory stays flat, and others are served.

use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::memory::resident;
use crate::starting::Gateway;
use crate::support::app::{ADMIN_KEY, TestApp};
use crate::support::{mongod, program};

const PATIENCE: Duration = Duration::from_secs(30);
/// What an attack may cost the gateway.
const GROWTH: usize = 64 << 20;

const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
pub const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&len[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A field of HPACK: not indexed, its name by its number in the static table.
fn field(name: u8, value: &str) -> Vec<u8> {
    let name = if name < 15 { vec![name] } else { vec![15, name - 15] };
    [name, vec![u8::try_from(value.len()).unwrap()], value.as_bytes().to_vec()].concat()
}

pub const METHOD_GET: u8 = 0x82;
const METHOD_POST: u8 = 0x83;

/// The fields of a request with a credential.
pub fn fields(method: u8, path: &str) -> Vec<u8> {
    let [authority, authorization] = [field(1, "x"), field(23, &format!("Bearer {ADMIN_KEY}"))];
    [vec![method, 0x86], field(4, path), authority, authorization].concat()
}

pub fn opening() -> Vec<u8> {
    [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(SETTINGS, 0, 0, &[])].concat()
}

type Pieces = Box<dyn Iterator<Item = Vec<u8>>>;

/// Writes pieces until the peer closes; whether it did, and what it said.
pub async fn flood(url: &str, pieces: impl Iterator<Item = Vec<u8>>) -> (bool, Vec<u8>) {
    let stream = TcpStream::connect(url.strip_prefix("http://").unwrap()).await.unwrap();
    let (mut read, mut write) = stream.into_split();
    let listening = tokio::spawn(async move {
        let mut said = Vec::new();
        let ended = tokio::time::timeout(PATIENCE, read.read_to_end(&mut said)).await;
        (ended.is_ok(), said)
    });
    write.write_all(&opening()).await.unwrap();
    for piece in pieces {
        if write.write_all(&piece).await.is_err() {
            break;
        }
    }
    listening.await.unwrap()
}

/// The kinds of the frames that came.
fn kinds(mut said: &[u8]) -> Vec<u8> {
    let mut kinds = Vec::new();
    while let [a, b, c, kind, rest @ ..] = said {
        let len = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        kinds.push(*kind);
        said = rest.get(5 + len..).unwrap_or_default();
    }
    kinds
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_of_frames_end_their_connection_and_nothing_else() {
    let beside = TestApp::start().await;
    let folder = TempDir::new().unwrap();
    let mut command = program::command_at(mongod::uri(), &beside.database, &[]);
    let gateway = Gateway::run(&mut command, &folder.path().join("log")).await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();

    // The frames are right: one request so is answered.
    let one = frame(HEADERS, END_STREAM | END_HEADERS, 1, &fields(METHOD_GET, "/v1/files"));
    let going = frame(GOAWAY, 0, 0, &[0; 8]);
    let (_, said) = flood(&gateway.url, [one, going].into_iter()).await;
    assert!(kinds(&said).contains(&HEADERS) && String::from_utf8_lossy(&said).contains("\"total\":0"), "{said:?}");

    let resets = (0..200_000).map(|i| {
        let stream = 2 * i + 1;
        let asked = frame(HEADERS, END_STREAM | END_HEADERS, stream, &fields(METHOD_GET, "/v1/files"));
        [asked, frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())].concat()
    });
    let more = field(15, &"x".repeat(100)).repeat(150);
    let begun = [frame(HEADERS, 0, 1, &fields(METHOD_GET, "/livez"))];
    let continued = begun.into_iter().chain((0..20_000).map(move |_| frame(CONTINUATION, 0, 1, &more)));
    let posted = [frame(HEADERS, END_HEADERS, 1, &fields(METHOD_POST, "/v1/files"))];
    let empty = posted.into_iter().chain((0..200).map(|_| frame(DATA, 0, 1, &[]).repeat(10_000)));
    let attacks: [(&str, Pieces); 3] =
        [("resets", Box::new(resets)), ("continuations", Box::new(continued)), ("empty frames", Box::new(empty))];
    for (what, attack) in attacks {
        let before = resident(gateway.pid());
        let (flooding, others) = tokio::join!(flood(&gateway.url, attack), async {
            let begun = Instant::now();
            let served = client.get(format!("{}/v1/files", gateway.url)).bearer_auth(ADMIN_KEY).send().await.unwrap();
            (served.status().as_u16(), begun.elapsed())
        });
        let (is_closed, said) = flooding;
        assert!(is_closed, "{what}: the connection stays open");
        assert!(kinds(&said).contains(&GOAWAY), "{what}: {:?}", kinds(&said));
        assert!(others.0 == 200 && others.1 < Duration::from_secs(10), "{what}: another waits {others:?}");
        let grown = resident(gateway.pid()).saturating_sub(before);
        assert!(grown < GROWTH, "{what}: {grown} bytes more");
    }
    let listed = client.get(format!("{}/v1/files", gateway.url)).bearer_auth(ADMIN_KEY).send().await.unwrap();
    assert!(listed.text().await.unwrap().contains("\"total\":0"), "nothing was stored");
}
