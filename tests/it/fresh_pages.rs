//! The memory of a transfer is used again: a gateway that has stored one file stores the next without asking the
//! system for more than a few fresh pages. Counted by the kernel, so that the machine's noise does not matter.

use std::fs;

use reqwest::Client;
use tempfile::TempDir;

use crate::starting::Gateway;
use crate::support::app::{ADMIN_KEY, MASTER_KEY, TestApp, noise};
use crate::support::mongod;
use crate::support::program;

const LEN: usize = 48 << 20;
const PAGE_LEN: usize = 4096;
/// Transfers that make the gateway take what memory it needs.
const WARM_UPS: u64 = 3;

/// Pages the kernel gave a process so far.
fn fresh_pages(pid: u32) -> usize {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    fields.split_whitespace().nth(7).unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_warm_gateway_stores_a_large_file_in_the_pages_it_has() {
    let beside = TestApp::start().await;
    let folder = TempDir::new().unwrap();
    let mut command = program::command_at(mongod::uri(), &beside.database, &[]);
    command.env("GRIDGATE_MASTER_KEY", MASTER_KEY);
    let gateway = Gateway::run(&mut command, &folder.path().join("log")).await;
    let client = Client::builder().no_proxy().build().unwrap();
    for options in ["encrypt=false&compress=none", "encrypt=true&compress=none", "encrypt=true&compress=zstd"] {
        let mut taken = Vec::new();
        for seed in 0..=WARM_UPS {
            let body = noise(LEN, seed + options.len() as u64);
            let before = fresh_pages(gateway.pid());
            let url = format!("{}/v1/files?name=a&{options}", gateway.url);
            let stored = client.post(url).bearer_auth(ADMIN_KEY).body(body).send().await.unwrap();
            assert_eq!(stored.status(), 201);
            taken.push(fresh_pages(gateway.pid()) - before);
        }
        let last = taken[WARM_UPS as usize];
        assert!(last < LEN / PAGE_LEN / 4, "{options}: {taken:?} fresh pages for {} of content", LEN / PAGE_LEN);
    }
}
