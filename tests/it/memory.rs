//! What clients make a gateway hold: measured on the program itself, as the kernel counts it.

use std::fs;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::future::join_all;
use mongodb::bson::{Document, doc};
use tempfile::TempDir;

use crate::starting::Gateway;
use crate::support::app::{ADMIN_KEY, TestApp, content_path, noise};
use crate::support::requests::Form;
use crate::support::wire::Wire;
use crate::support::{mongod, program};

const PATIENCE: Duration = Duration::from_secs(30);

/// Resident bytes of a process.
pub fn resident(pid: u32) -> usize {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
}

/// The program on the database of a gateway that has the same settings.
async fn start(settings: &[(&str, &str)]) -> (TestApp, Gateway, TempDir) {
    let beside = TestApp::start_with(|settings| settings.storage.quarantine_secs = 0).await;
    let folder = TempDir::new().unwrap();
    let mut command = program::command_at(mongod::uri(), &beside.database, &[]);
    command.envs(settings.iter().copied());
    let gateway = Gateway::run(&mut command, &folder.path().join("log")).await;
    (beside, gateway, folder)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_readers_cost_a_few_frames_each_and_hold_up_nobody() {
    const READERS: usize = 20;
    const LEN: usize = 50 << 20;
    let (beside, gateway, _folder) = start(&[]).await;
    let file = beside.put("name=big", "application/octet-stream", noise(LEN, 1)).await;
    let path = content_path(&file);
    let head = format!("GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ADMIN_KEY}\r\n\r\n");
    let before = resident(gateway.pid());
    let readers = (0..READERS).map(|_| async {
        let mut wire = Wire::connect(&gateway.url).await;
        wire.send(&head).await;
        assert_eq!(wire.head().await.status, 200);
        for _ in 0..5 {
            assert_eq!(wire.body(1000).await.len(), 1000);
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        wire
    });
    let readers = join_all(readers).await;
    let grown = resident(gateway.pid()).saturating_sub(before);
    // Two windows of 2 MiB and two jobs of frames each, and what the allocator keeps.
    assert!(grown < READERS * (8 << 20), "{} KiB a reader", grown / READERS / 1024);
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let begun = Instant::now();
    let other = client.get(format!("{}{path}", gateway.url)).bearer_auth(ADMIN_KEY).header("range", "bytes=0-99");
    assert_eq!(other.send().await.unwrap().bytes().await.unwrap(), noise(LEN, 1)[..100]);
    assert!(begun.elapsed() < Duration::from_secs(5), "it took {:?}", begun.elapsed());
    drop(readers);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_form_without_an_end_is_cut_at_the_limit_and_leaves_nothing() {
    const LIMIT: usize = 24 << 20;
    const PIECE: usize = 1 << 20;
    let limit = LIMIT.to_string();
    let settings = [
        ("GRIDGATE__BUCKETS__FILES__MAX_BYTES", limit.as_str()),
        ("GRIDGATE__STORAGE__SWEEP_INTERVAL_SECS", "1"),
        ("GRIDGATE__STORAGE__QUARANTINE_SECS", "0"),
    ];
    let (beside, gateway, _folder) = start(&settings).await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let before = resident(gateway.pid());
    let head = Form::new().file("a.bin", "application/x-noise", b"").unfinished();
    let pieces = (0..(LIMIT + (64 << 20)) / PIECE).map(|i| noise(PIECE, i as u64));
    let body = futures::stream::iter(std::iter::once(head).chain(pieces)).map(Ok::<_, std::io::Error>);
    let request = client.post(format!("{}/v1/files", gateway.url)).bearer_auth(ADMIN_KEY);
    let request = request.header("content-type", "multipart/form-data; boundary=----gridgate-tests-0123456789");
    // A server that answers before it has the body may close under the client's hands.
    if let Ok(answer) = request.body(reqwest::Body::wrap_stream(body)).send().await {
        assert_eq!(answer.status().as_u16(), 413);
    }
    let grown = resident(gateway.pid()).saturating_sub(before);
    assert!(grown < 64 << 20, "{grown} bytes more");
    let (db, begun) = (beside.mongo().await, Instant::now());
    for collection in ["files.chunks", "files.files", "segments", "blobs", "file_registry"] {
        while db.collection::<Document>(collection).count_documents(doc! {}).await.unwrap() > 0 {
            assert!(begun.elapsed() < PATIENCE, "something is left in {collection}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}
