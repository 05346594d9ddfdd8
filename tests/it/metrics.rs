//! The numbers of a gateway of its own are those of what was done to it, and strangers do not see them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use gridgate::store::schema::AUDIT;
use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{Binary, Document, doc};
use serde_json::Value;

use crate::support::app::{ADMIN_KEY, TestApp, content_path, noise};
use crate::support::mongod;
use crate::support::own_mongod::OwnMongod;
use crate::support::program::Program;
use crate::support::requests::send;
use crate::support::rows::Rows;
use crate::support::wire::Wire;

struct Gateway {
    program: Program,
    client: reqwest::Client,
}

impl Gateway {
    fn request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        self.client.request(method.parse().unwrap(), format!("{}{path}", self.program.url)).bearer_auth(ADMIN_KEY)
    }

    /// Every sample by its name and labels.
    async fn samples(&self) -> BTreeMap<String, f64> {
        let text = self.client.get(format!("{}/metrics", self.program.url)).send().await.unwrap().text().await.unwrap();
        assert!(text.ends_with("# EOF\n"), "{text}");
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines
            .map(|line| line.rsplit_once(' ').unwrap())
            .map(|(name, value)| (name.to_owned(), value.parse().unwrap()))
            .collect()
    }

    async fn sample(&self, name: &str) -> f64 {
        self.samples().await.get(&format!("gridgate_{name}")).copied().unwrap_or(0.0)
    }

    /// Waits for a sample to become what is said.
    async fn reaches(&self, name: &str, is_right: impl Fn(f64) -> bool) {
        let begun = Instant::now();
        while !is_right(self.sample(name).await) {
            assert!(begun.elapsed() < Duration::from_secs(20), "{name}: {:#?}", self.samples().await);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

const SETTINGS: [(&str, &str); 5] = [
    ("GRIDGATE__STORAGE__SWEEP_INTERVAL_SECS", "1"),
    ("GRIDGATE__STORAGE__QUARANTINE_SECS", "0"),
    ("GRIDGATE__STORAGE__SCRUB_INTERVAL_SECS", "1"),
    ("GRIDGATE__STORAGE__FSCK_INTERVAL_SECS", "1"),
    ("GRIDGATE__LOG__FILTER", "off"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_done_is_counted() {
    let own = OwnMongod::fallible().await;
    let program = Program::start(&own.uri(), "metrics", &SETTINGS).await;
    let gateway = Gateway { program, client: reqwest::Client::builder().no_proxy().build().unwrap() };
    let db = own.client().await.database("metrics");

    // Requests, bytes and transfers.
    let before = gateway.samples().await;
    let get = |name: &str| before.get(&format!("gridgate_{name}")).copied().unwrap_or(0.0);
    assert_eq!((get("http_received_bytes_total"), get("damaged_blobs")), (0.0, 0.0));
    let options = "/v1/files?name=a&encrypt=false&compress=none";
    let big = noise(20 << 20, 1);
    let posted = gateway.request("POST", options).body(big.clone()).send().await.unwrap();
    let big_file: Value = serde_json::from_str(&posted.text().await.unwrap()).unwrap();
    let small = gateway.request("POST", options).body(noise(100_000, 2)).send().await.unwrap();
    let small_file: Value = serde_json::from_str(&small.text().await.unwrap()).unwrap();
    for i in 0..30 {
        assert_eq!(send(gateway.request("GET", &format!("/no/such/{i}"))).await.status, 404);
    }
    let received = gateway.sample("http_received_bytes_total").await;
    assert_eq!(received, (big.len() + 100_000) as f64);
    let posts = r#"http_requests_total{route="/v1/files",method="POST",status="2xx"}"#;
    assert_eq!(gateway.sample(posts).await, 2.0);
    let strays = r#"http_requests_total{route="-",method="GET",status="4xx"}"#;
    assert_eq!(gateway.sample(strays).await, 30.0, "no path is a label");
    assert_eq!(gateway.sample(r#"http_request_duration_seconds_count{route="/v1/files",method="POST"}"#).await, 2.0);
    let mut wire = Wire::connect(&gateway.program.url).await;
    let path = format!("/v1/files/{}/content", big_file["id"].as_str().unwrap());
    wire.send(format!("GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ADMIN_KEY}\r\n\r\n")).await;
    assert_eq!(wire.head().await.status, 200);
    let downloads = r#"transfers_in_flight{direction="download"}"#;
    assert_eq!(gateway.sample(downloads).await, 1.0, "a download whose client reads nothing is under way");
    drop(wire);
    gateway.reaches(downloads, |n| n == 0.0).await;
    let sent = gateway.sample("http_sent_bytes_total").await;
    let read =
        async || (gateway.sample("gridfs_read_chunks_total").await, gateway.sample("gridfs_read_bytes_total").await);
    let read_before = read().await;
    assert_eq!(gateway.request("GET", &path).send().await.unwrap().bytes().await.unwrap().len(), big.len());
    let now = gateway.sample("http_sent_bytes_total").await;
    // What the transfer above was cut in, and a scrub, may read a little more.
    let (chunks, bytes) = read().await;
    assert!(chunks - read_before.0 >= 10.0 && bytes - read_before.1 >= big.len() as f64, "{chunks} {bytes}");
    assert!(now - sent >= big.len() as f64 && now - sent < (big.len() + 50_000) as f64, "{sent} {now}");
    let (tell, hear) = futures::channel::mpsc::channel::<Result<Vec<u8>, std::io::Error>>(1);
    let upload = tokio::spawn(gateway.request("POST", options).body(reqwest::Body::wrap_stream(hear)).send());
    gateway.reaches(r#"transfers_in_flight{direction="upload"}"#, |n| n == 1.0).await;
    drop(tell);
    assert_eq!(upload.await.unwrap().unwrap().status().as_u16(), 201);
    assert_eq!(gateway.sample(r#"transfers_in_flight{direction="upload"}"#).await, 0.0);

    // Jobs.
    gateway.request("DELETE", &format!("/v1/files/{}", big_file["id"].as_str().unwrap())).send().await.unwrap();
    gateway.reaches(r#"swept_total{kind="reaped"}"#, |n| n == 1.0).await;
    assert_eq!(gateway.sample("swept_freed_bytes_total").await, big.len() as f64);
    for job in ["sweep", "scrub", "fsck"] {
        gateway.reaches(&format!(r#"job_last_success_timestamp_seconds{{job="{job}"}}"#), |at| at > 1.7e9).await;
    }
    assert_eq!(gateway.sample(r#"fsck_findings{kind="missing"}"#).await, 0.0);
    assert!(gateway.sample("scrub_read_bytes_total").await >= 100_000.0);

    // Damage: readers, the scrub and the check see it.
    let chunks = db.collection::<Document>("files.chunks");
    chunks.delete_one(doc! { "n": 0, "files_id": { "$in": live(&db, &small_file).await } }).await.unwrap();
    let content = format!("/v1/files/{}/content", small_file["id"].as_str().unwrap());
    assert_eq!(send(gateway.request("GET", &content)).await.status, 500);
    assert_eq!(gateway.sample("integrity_failures_total").await, 1.0);
    gateway.reaches("damaged_blobs", |n| n == 1.0).await;
    gateway.reaches(r#"fsck_findings{kind="missing"}"#, |n| n == 1.0).await;

    assert_cuts_are_counted(&gateway, &db, options).await;

    // The database.
    let fail = doc! { "configureFailPoint": "failCommand", "mode": { "times": 1 },
    "data": { "failCommands": ["find"], "errorCode": 50, "appName": "gridgate-meta" } };
    own.client().await.database("admin").run_command(fail).await.unwrap();
    gateway.reaches(r#"database_errors_total{code="timeout"}"#, |n| n == 1.0).await;
}

/// A wrong byte in the middle cuts the answer, which is a failure, too.
async fn assert_cuts_are_counted(gateway: &Gateway, db: &mongodb::Database, options: &str) {
    let before = gateway.sample("integrity_failures_total").await;
    let posted = gateway.request("POST", options).body(noise(3 << 20, 3)).send().await.unwrap();
    let file: Value = serde_json::from_str(&posted.text().await.unwrap()).unwrap();
    let last = doc! { "files_id": { "$in": live(db, &file).await }, "n": 12 };
    let zeros = Binary { subtype: BinarySubtype::Generic, bytes: vec![0; (3 << 20) - 12 * 261_120] };
    let change = doc! { "$set": { "data": zeros } };
    let chunks = db.collection::<Document>("files.chunks");
    assert_eq!(chunks.update_one(last, change).await.unwrap().modified_count, 1);
    let content = format!("/v1/files/{}/content", file["id"].as_str().unwrap());
    let answer = gateway.request("GET", &content).send().await.unwrap();
    assert_eq!(answer.status().as_u16(), 200);
    answer.bytes().await.unwrap_err();
    assert_eq!(gateway.sample("integrity_failures_total").await, before + 1.0);
}

/// The segments of a file.
async fn live(db: &mongodb::Database, file: &Value) -> Vec<mongodb::bson::Bson> {
    let id = mongodb::bson::oid::ObjectId::parse_str(file["id"].as_str().unwrap()).unwrap();
    let registry = db.collection::<Document>("file_registry").find_one(doc! { "file": id }).await.unwrap().unwrap();
    let rows = Rows::of(db).find(doc! { "blob": registry.get_object_id("blob").unwrap() }).await;
    rows.iter().map(|row| row.get("_id").unwrap().clone()).collect()
}

#[tokio::test]
async fn strangers_need_the_scope() {
    let app = TestApp::start().await;
    let answer = send(app.anonymous("GET", "/metrics")).await;
    assert_eq!(answer.status, 200);
    assert!(answer.header("content-type").starts_with("application/openmetrics-text; version=1.0.0"));
    assert!(String::from_utf8(answer.body).unwrap().contains("gridgate_build_info{version="));
    assert_eq!(send(app.anonymous("HEAD", "/metrics")).await.status, 200);
    send(app.anonymous("GET", "/metrics?x=1")).await.refused(400, "bad_request");
    for header in ["x-forwarded-for", "forwarded", "via"] {
        let passed_on = || app.anonymous("GET", "/metrics").header(header, "10.0.0.1");
        send(passed_on()).await.refused(401, "unauthenticated");
        assert_eq!(send(passed_on().bearer_auth(ADMIN_KEY)).await.status, 200);
    }
    send(app.anonymous("GET", "/metrics").bearer_auth("wrong")).await.refused(401, "unauthenticated");
    for (name, scope, status) in [("reader", "files:read", 403), ("watcher", "analytics:read", 200)] {
        let token = crate::auth::key(&app, name, "default", &[scope], None).await;
        assert_eq!(send(app.anonymous("GET", "/metrics").bearer_auth(&token)).await.status, status, "{name}");
        let files = send(app.anonymous("GET", "/v1/files").bearer_auth(&token)).await.status;
        assert_eq!(files, if name == "reader" { 200 } else { 403 });
    }
}

/// Many denials of one credential: all refused and counted, its share entered into the audit.
#[tokio::test]
async fn denials_are_counted_and_entered_within_their_share() {
    let beside = TestApp::start().await;
    let program = Program::start(mongod::uri(), &beside.database, &SETTINGS).await;
    let gateway = Gateway { program, client: reqwest::Client::builder().no_proxy().build().unwrap() };
    let key = |byte: u8| STANDARD.encode([byte; 32]);
    let sealed = gateway.request("POST", "/v1/files?name=a").header("gridgate-encryption-key", key(1)).body("x");
    let path = content_path(&send(sealed).await.expect(201));
    for _ in 0..65 {
        let wrong = gateway.request("GET", &path).header("gridgate-encryption-key", key(2));
        send(wrong).await.refused(403, "key_mismatch");
    }
    assert_eq!(send(gateway.client.get(format!("{}{path}", gateway.program.url))).await.status, 401);

    let entered = beside.mongo().await.collection::<Document>(AUDIT);
    assert_eq!(entered.count_documents(doc! { "action": "access.deny" }).await.unwrap(), 60);
    assert_eq!(gateway.sample("unrecorded_denials_total").await, 5.0);
    assert_eq!(gateway.sample("refused_total{code=\"key_mismatch\"}").await, 65.0);
    assert_eq!(gateway.sample("refused_total{code=\"unauthenticated\"}").await, 1.0);
}
