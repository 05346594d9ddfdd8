//! What somebody finds who takes the database or the log: no content that was to be encrypted, no key.

use std::io::Read;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use gridgate::format::key::Key;
use gridgate::secret::Secret;
use zeroize::ZeroizeOnDrop;

use crate::support::app::{ADMIN_KEY, TestApp, all_buckets, new_database, noise, secret, settings_for};
use crate::support::program::command;
use crate::support::scan::find_bytes;

const HEADER: &str = "Gridgate-Encryption-Key";
/// In content that is stored as it is, so that it would be found.
const CANARY: &[u8] = b"the canary sings at midnight in the vault";

#[tokio::test]
async fn encrypted_content_is_in_no_collection_and_plain_content_is() {
    for (query, with_key, expected) in [
        ("encrypt=false&compress=none", false, &["documents.chunks"][..]),
        ("encrypt=true&compress=none", false, &[]),
        ("encrypt=true&compress=zstd", false, &[]),
        ("compress=none", false, &[]),
        ("encrypt=customer&compress=none", true, &[]),
    ] {
        let app = TestApp::start_with(all_buckets).await;
        for len in [0, 700_000] {
            let content = [CANARY.to_vec(), vec![b' '; len]].concat();
            let mut request = app.request("POST", &format!("/v1/files?name=a.txt&{query}"));
            if with_key {
                request = request.header(HEADER, STANDARD.encode(noise(32, 1)));
            }
            let response = request.header("content-type", "text/plain").body(content).send().await.unwrap();
            assert_eq!(response.status().as_u16(), 201, "{query}");
        }
        assert_eq!(find_bytes(&app.mongo().await, CANARY).await, expected, "{query}");
    }
}

/// Every form in which a key could be printed.
pub fn forms(key: &[u8]) -> [String; 5] {
    let list = |numbers: Vec<String>| numbers.join(", ");
    [
        STANDARD.encode(key),
        hex::encode(key),
        hex::encode_upper(key),
        list(key.iter().map(u8::to_string).collect()),
        list(key.iter().map(|byte| format!("0x{byte:x}")).collect()),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_key_is_in_the_log_at_trace_whatever_goes_wrong() {
    let (master, own, wrong) = (noise(32, 1), noise(32, 2), noise(32, 3));
    // Its database goes with it.
    let database = new_database();
    let beside = TestApp::start_with_ring(&database, &format!("k:{}", STANDARD.encode(&master))).await;
    let mut serve = command(&database, &format!("k:{}", STANDARD.encode(&master)), &["serve"]);
    serve.env("GRIDGATE_LISTEN", "127.0.0.1:0").env("GRIDGATE__LOG__FILTER", "trace");
    let log = tempfile::NamedTempFile::new().unwrap();
    serve.stderr(log.reopen().unwrap());
    let mut serve = Running(serve.spawn().unwrap());
    let url = serve.url();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let send = async |request: reqwest::RequestBuilder| {
        let response = request.bearer_auth(ADMIN_KEY).send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    };
    let upload = client.post(format!("{url}/v1/files?name=a")).header(HEADER, STANDARD.encode(&own)).body("x");
    let (status, file) = send(upload).await;
    assert_eq!(status, 201, "{file}");
    let file: serde_json::Value = serde_json::from_str(&file).unwrap();
    let content = format!("{url}/v1/files/{}/content", file["id"].as_str().unwrap());
    let mut said = String::new();
    for (header, expected) in [
        (STANDARD.encode(&own), 200),
        (STANDARD.encode(&wrong), 403),
        (STANDARD.encode(&own)[..43].to_owned(), 400),
        (format!("{} {}", STANDARD.encode(&own), STANDARD.encode(&wrong)), 400),
    ] {
        let (status, body) = send(client.get(&content).header(HEADER, header)).await;
        assert_eq!(status, expected, "{body}");
        said.push_str(&body);
    }
    drop(serve);
    std::fs::File::open(log.path()).unwrap().read_to_string(&mut said).unwrap();
    assert!(said.contains("DEBUG") && said.contains("key_mismatch"), "the log is there");
    for key in [&master, &own, &wrong] {
        // A half would be enough to find the rest.
        for half in [&key[..16], &key[16..], key.as_slice()] {
            for form in forms(half) {
                let form = form.trim_end_matches('=');
                assert!(!said.contains(&form[..form.len() - 1]), "a key was printed");
            }
        }
    }
    drop(beside);
}

/// Whatever is dumped of a process that crashes, its memory is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_core_dump_of_the_program_has_no_memory_in_it() {
    let database = new_database();
    let ring = format!("k:{}", STANDARD.encode(noise(32, 1)));
    let beside = TestApp::start_with_ring(&database, &ring).await;
    let mut running = Running(command(&database, &ring, &["serve"]).spawn().unwrap());
    running.url();
    let filter = std::fs::read_to_string(format!("/proc/{}/coredump_filter", running.0.id())).unwrap();
    assert_eq!(u32::from_str_radix(filter.trim(), 16), Ok(0), "{filter}");
    drop(running);
    drop(beside);
}

#[test]
fn no_secret_is_in_a_print_of_the_settings_and_each_is_overwritten() {
    fn is_overwritten<T: ZeroizeOnDrop>() {}
    is_overwritten::<Secret>();
    is_overwritten::<Key>();
    let mut settings = settings_for("mongodb://service:a-password-0123456789@db.example/", "a");
    let ring = format!("k:{}", STANDARD.encode(noise(32, 1)));
    settings.keys.master_key = secret(&ring);
    let printed = format!("{settings:?} {settings:#?}");
    assert!(printed.contains("[redacted]") && printed.contains("KeySettings"), "{printed}");
    for text in [&ring[2..], ADMIN_KEY, "a-password-0123456789"] {
        assert!(!printed.contains(text), "a secret is printed");
    }
}

/// A program that ends with the test.
struct Running(std::process::Child);

impl Running {
    /// What it says when it is ready.
    fn url(&mut self) -> String {
        let (mut line, begun) = (Vec::new(), Instant::now());
        let stdout = self.0.stdout.as_mut().unwrap();
        while !line.ends_with(b"\n") {
            assert!(begun.elapsed() < Duration::from_secs(60));
            let mut byte = [0];
            assert_eq!(stdout.read(&mut byte).unwrap(), 1, "it ended");
            line.push(byte[0]);
        }
        String::from_utf8(line).unwrap().trim_end().strip_prefix("gridgate ready on ").unwrap().to_owned()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}
