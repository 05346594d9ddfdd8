//! Hundreds of connections that rest or drip: others do not notice, and they cost little memory.

use std::time::{Duration, Instant};

use futures::future::join_all;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::Value;
use tokio::net::TcpStream;

use crate::support::app::{ADMIN_KEY, content_path, noise};
use crate::support::mongod;
use crate::support::program::Program;
use crate::support::wire::Wire;

const RESTING: usize = 500;
const DRIPPING: usize = 25;
const ROUNDS: u64 = 40;
/// For this process and the gateway's, with room for the tests beside it.
const OPEN_FILES: u64 = 8_192;

fn allow_open_files() {
    let now = getrlimit(Resource::Nofile);
    if now.current.is_some_and(|current| current < OPEN_FILES) {
        let current = now.maximum.map_or(OPEN_FILES, |most| most.min(OPEN_FILES));
        setrlimit(Resource::Nofile, Rlimit { current: Some(current), ..now }).unwrap();
    }
}

/// Uploads, lists and downloads over connections of its own; gives the median time of a round and the longest.
async fn work(url: &str) -> (Duration, Duration) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut times = Vec::new();
    for n in 0..ROUNDS {
        let bytes = noise(64 << 10, n);
        let begun = Instant::now();
        let ask = |method: &str, path: &str| {
            client.request(method.parse().unwrap(), format!("{url}{path}")).bearer_auth(ADMIN_KEY)
        };
        let made = ask("POST", &format!("/v1/files?name={n}")).body(bytes.clone()).send().await.unwrap();
        let file: Value = serde_json::from_str(&made.text().await.unwrap()).unwrap();
        assert_eq!(ask("GET", "/v1/files?limit=10").send().await.unwrap().status().as_u16(), 200);
        let content = ask("GET", &content_path(&file)).send().await.unwrap().bytes().await.unwrap();
        times.push(begun.elapsed());
        assert!(content == bytes);
    }
    times.sort();
    (times[times.len() / 2], times[times.len() - 1])
}

/// Bytes of memory that a process has.
fn memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().split(' ').next().unwrap().parse::<u64>().unwrap() << 10
}

fn is_open(stream: &TcpStream) -> bool {
    stream.try_read(&mut [0; 512]).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
}

/// Drips the rest of a request for as long as it is let.
async fn drip(url: &str, head: String, piece: &[u8]) {
    let mut wire = Wire::connect(url).await;
    wire.send(head).await;
    wire.drip(piece, Duration::from_millis(200), usize::MAX).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_works_unhindered_beside_hundreds_that_rest_or_drip() {
    allow_open_files();
    let database = "slow_clients";
    let program = Program::start(mongod::uri(), database, &[]).await;
    work(&program.url).await;
    let ((alone, _), before) = (work(&program.url).await, memory(program.id()));
    let address = program.url.trim_start_matches("http://");
    let resting = join_all((0..RESTING).map(|_| async { TcpStream::connect(address).await.unwrap() })).await;
    let mut dripping = tokio::task::JoinSet::new();
    for _ in 0..DRIPPING {
        let url = program.url.clone();
        dripping.spawn(async move { drip(&url, "GET /livez HTTP/1.1\r\nX: ".to_owned(), b"x").await });
        let url = program.url.clone();
        let head = format!(
            "POST /v1/files HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ADMIN_KEY}\r\nContent-Length: 1073741824\r\n\r\n"
        );
        dripping.spawn(async move { drip(&url, head, &[b'x'; 2048]).await });
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (beside, longest) = work(&program.url).await;
    let grown = memory(program.id()).saturating_sub(before);
    println!("a round takes {alone:?} alone, {beside:?} beside, {longest:?} at most; {grown} bytes more memory");
    assert!(resting.iter().all(is_open), "they were there all the while");
    assert!(dripping.try_join_next().is_none(), "and so were those that drip");
    assert!(beside < alone * 3 + Duration::from_millis(20), "{beside:?} against {alone:?}");
    assert!(longest < Duration::from_secs(5), "{longest:?}");
    assert!(grown < 96 << 20, "{grown} bytes more memory");
    drop((resting, dripping, program));
    mongod::drop_database(database);
}
