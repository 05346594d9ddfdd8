//! Other people's programs on the same bytes: PyMongo's GridFS, stock `zstd` and `gzip`, clients of tus.
//!
//! Where a program is missing, its test says so and passes; with `CI` set it fails.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use futures::StreamExt;

use gridgate::format::digest::Sha256Digest;
use gridgate::store::gridfs::GridFile;
use gridgate::store::{Bson, Document, doc};
use serde_json::{Value, json};

use crate::support::app::{ADMIN_KEY, TestApp, noise};
use crate::support::requests::send;
use crate::support::store::{BUCKET, TestStore};
use crate::support::{mongod, nginx, ruft};

const CHUNK: usize = 255 << 10;
const READ: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/interop/read.py");
const TUS_JS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/interop/tus.cjs");
const UPPY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/interop/uppy.cjs");
const TUS_PY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/interop/tus.py");
const WRITE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/interop/write.py");

#[tokio::test]
async fn pymongo_reads_lists_and_seeks_in_what_is_stored_without_coding() {
    let Some(python) = python() else { return };
    let app = TestApp::start().await;
    let db = app.mongo().await;
    let mut stored = Vec::new();
    for len in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 5 * CHUNK + 7, 9 << 20] {
        let (name, bytes) = (format!("größe {len}.bin"), noise(len, len as u64));
        let encoded = name.replace(' ', "%20").replace('ö', "%C3%B6").replace('ß', "%C3%9F");
        app.put(&format!("name={encoded}&encrypt=false&compress=none"), "application/x-noise", bytes.clone()).await;
        let files = db.collection::<Document>("files.files");
        let document = files.find_one(doc! { "filename": &name }).await.unwrap().unwrap();
        stored.push((document, name, bytes));
    }
    let ids = stored.iter().map(|(document, ..)| document.get_object_id("_id").unwrap().to_hex());
    let arguments = [READ, db.name(), BUCKET].map(str::to_owned);
    let read = run(Command::new(python).args(arguments).args(ids), b"");
    let lines: Vec<Value> = read.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), stored.len());
    for (seen, (document, name, bytes)) in lines.iter().zip(stored) {
        let sha256 = Sha256Digest::of(&bytes).to_string();
        assert_eq!(seen["sha256"], sha256, "{name}");
        assert_eq!(seen["byName"], sha256, "{name} by name");
        assert_eq!(seen["length"], bytes.len());
        assert_eq!(seen["chunkSize"], document.get_i32("chunkSize").unwrap());
        assert_eq!((seen["filename"].as_str(), seen["listed"].as_str()), (Some(name.as_str()), Some(name.as_str())));
    }
}

#[tokio::test]
async fn what_pymongo_wrote_is_read_whole_and_by_range() {
    let Some(python) = python() else { return };
    let test = TestStore::start().await;
    for (len, chunk_size) in [(0, 0), (1, 0), (CHUNK, 0), (3 * CHUNK + 5, 0), (1000, 1000), (350_001, 1000)] {
        let (id, bytes) = (format!("id {len} {chunk_size}"), noise(len, 9));
        let chunk_size = chunk_size.to_string();
        let arguments = [WRITE, test.db.name(), BUCKET, &id, &chunk_size];
        run(Command::new(&python).args(arguments), &bytes);
        let file = test.store.find_grid_file(BUCKET, &Bson::from(id.clone())).await.unwrap().unwrap();
        assert_eq!(file.stored_len, len as u64);
        assert!(test.read(&file, 0..len as u64).await.unwrap() == bytes, "{id}");
        let (start, end) = (len / 3, len / 3 * 2);
        assert!(test.read(&file, start as u64..end as u64).await.unwrap() == bytes[start..end], "{id}");
    }
}

#[tokio::test]
async fn what_pymongo_wrote_is_served_once_it_is_adopted() {
    let Some(python) = python() else { return };
    let app = TestApp::start().await;
    let bytes = noise(350_001, 9);
    for (id, chunk_size) in [("theirs", "0"), ("in small chunks", "1000")] {
        run(Command::new(&python).args([WRITE, app.database.as_str(), "fs", id, chunk_size]), &bytes);
    }
    let report = app.app.files.adopt("fs", "default").await.unwrap();
    assert_eq!((report.adopted, report.failures), (2, 0), "{report:?}");
    let listed = app.get("/v1/files").send().await.unwrap().text().await.unwrap();
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let of_bucket = send(app.get("/v1/files?bucket=fs")).await.expect(200);
    assert_eq!(of_bucket["total"], 2, "an adopted bucket is one to filter by");
    for file in listed["items"].as_array().unwrap() {
        assert!(app.content(file).await == bytes);
        assert!(app.range(file, 999..300_001).await == bytes[999..300_001]);
    }
    assert!(gridgate::jobs::fsck::fsck(&app.app.files).await.unwrap().ok);
}

#[tokio::test]
async fn stock_zstd_and_gzip_restore_the_stored_bytes() {
    let app = TestApp::start().await;
    let db = app.mongo().await;
    let text: Vec<u8> =
        (0..60_000).flat_map(|line| format!("line {line} of a log, {}\n", line * 7919).into_bytes()).collect();
    // Frames of noise in between are stored raw.
    let mixed = [&text[..1 << 20], &noise(600_000, 10), &text[1 << 20..]].concat();
    for (codec, program) in [("zstd", "zstd"), ("gzip", "gzip")] {
        if !is_there(program) {
            continue;
        }
        for (number, plain) in [Vec::new(), b"a".to_vec(), text.clone(), mixed.clone()].into_iter().enumerate() {
            let name = format!("{number}.{codec}");
            app.put(&format!("name={name}&encrypt=false&compress={codec}"), "text/plain", plain.clone()).await;
            let files = db.collection::<Document>("files.files");
            let found = files.find_one(doc! { "filename": &name }).await.unwrap().unwrap();
            let store = &app.app.files.store;
            let file: GridFile = store.find_grid_file("files", found.get("_id").unwrap()).await.unwrap().unwrap();
            let pieces = store.read_chunks(file.clone(), 0..file.stored_len);
            let stored = futures::TryStreamExt::try_collect::<Vec<_>>(pieces).await.unwrap().concat();
            assert_eq!(stored.len() as u64, file.stored_len);
            if plain == text {
                assert!(stored.len() * 2 < plain.len(), "{codec} compresses");
            }
            let restored = run_bytes(Command::new(program).args(["-d", "-c", "-q"]), &stored).stdout;
            assert!(restored == plain, "{name} of {} bytes", plain.len());
        }
    }
}

#[tokio::test]
async fn tus_js_client_uploads_stops_goes_on_in_a_new_process_and_terminates() {
    let Some(modules) = node_modules("tus-js-client") else { return };
    let app = TestApp::start().await;
    let bytes = noise(9_000_000, 12);
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("tus.bin");
    std::fs::write(&file, &bytes).unwrap();
    let upload = async |mode: &str, parallel: &str| upload_by_tus_js(&modules, &app.url, &file, mode, parallel).await;
    // Of several at once the library makes partial uploads, and a final one of them.
    for (mode, parallel) in [("resume", "1"), ("resume", "3"), ("creation", "1")] {
        if mode == "resume" {
            upload("stop", parallel).await;
        }
        let done = upload(mode, parallel).await;
        assert!(mode != "resume" || done["patches"].as_u64().unwrap() < 10, "what was there came again: {done}");
        let path = format!("/v1/files/{}", done["fileId"].as_str().expect("the last answer names the file"));
        gridgate::jobs::digests::run(&app.app.files).await.unwrap();
        let made = send(app.get(&path)).await.expect(200);
        assert_eq!((&made["name"], &made["contentType"]), (&json!("tus.bin"), &json!("application/x-noise")), "{mode}");
        assert_eq!(made["sha256"], Sha256Digest::of(&bytes).to_string(), "{mode}");
        assert!(app.content(&made).await == bytes, "{mode}");
    }
    let ended = upload("terminate", "1").await;
    let path = ended["url"].as_str().unwrap().strip_prefix(&app.url).unwrap().to_owned();
    let gone = send(app.request("HEAD", &path).header("tus-resumable", "1.0.0")).await;
    assert_eq!(gone.status, 410);
    assert!(gridgate::jobs::fsck::fsck(&app.app.files).await.unwrap().ok);
}

/// Uppy in headless Chromium, in a page of another origin.
#[tokio::test]
async fn uppy_in_a_browser_uploads_pauses_goes_on_after_a_reload_and_over_several_connections() {
    let Some(modules) = node_modules("uppy") else { return };
    if !is_there("chromium") {
        return;
    }
    let port = free_port();
    let page = format!("http://127.0.0.1:{port}");
    let app = TestApp::start_with(|settings| settings.server.cors_origins = vec![page]).await;
    let bytes = noise(16 << 20, 14);
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("uppy.bin");
    std::fs::write(&file, &bytes).unwrap();
    for mode in ["whole", "pause", "reload", "parallel"] {
        let mut node = tokio::process::Command::new("node");
        node.arg(UPPY).args([&app.url, ADMIN_KEY]).arg(&file).args([&port.to_string(), mode]);
        node.env("NODE_PATH", &modules).env("TMPDIR", folder.path());
        let ended = node.kill_on_drop(true).output().await.unwrap();
        assert!(ended.status.success(), "{mode}: {}", String::from_utf8_lossy(&ended.stderr));
        let done: Value = serde_json::from_slice(&ended.stdout).unwrap();
        let sent: Vec<_> = done["sent"].as_array().unwrap().iter().map(|sent| sent.as_str().unwrap()).collect();
        match mode {
            "pause" | "reload" => {
                let at = sent.iter().find_map(|sent| sent.strip_prefix("PATCH ")).expect("it went on");
                assert!(at.parse::<usize>().unwrap() > 4 << 20, "{mode} began anew: {done}");
                assert!(!sent.contains(&"POST"), "{mode} began anew: {done}");
            }
            "parallel" => assert_eq!(sent.iter().filter(|sent| **sent == "POST").count(), 4, "{done}"),
            // One for each MiB, and a few again where the machine stalled.
            _ => assert!((16..20).contains(&done["patches"].as_u64().unwrap()), "{done}"),
        }
        let content = format!("/v1/files/{}/content", done["fileId"].as_str().expect("the page may read the id"));
        assert!(send(app.get(&content)).await.body == bytes, "{mode}");
    }
    assert!(gridgate::jobs::fsck::fsck(&app.app.files).await.unwrap().ok);
}

#[tokio::test]
async fn tuspy_uploads_with_checksums_and_goes_on_with_a_new_client() {
    let Some(python) = python_with("tusclient", "tuspy") else { return };
    let app = TestApp::start().await;
    let bytes = noise(3_000_000, 13);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &bytes).unwrap();
    let mut command = tokio::process::Command::new(python);
    command.arg(TUS_PY).args([&app.url, ADMIN_KEY]).arg(file.path()).kill_on_drop(true);
    let ended = command.output().await.unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    let url = String::from_utf8(ended.stdout).unwrap();
    let path = url.trim().strip_prefix(&app.url).unwrap().to_owned();
    assert!(send(app.get(&path)).await.body == bytes);
}

/// The settings are those of the documentation.
#[tokio::test]
async fn what_is_uploaded_through_nginx_arrives_as_if_it_were_not_there() {
    if !nginx::is_there() {
        return missing("nginx");
    }
    let port = free_port();
    let outside = format!("http://127.0.0.1:{port}");
    let mut app = TestApp::start_with(|settings| {
        settings.server.public_url = outside.clone();
        settings.server.trusted_proxies = vec!["127.0.0.0/8".to_owned()];
    })
    .await;
    let _nginx = nginx::Nginx::start(port, &app.url).await;
    app.url = outside.clone();
    let bytes = noise(20 << 20, 15);
    if let Some(modules) = node_modules("tus-js-client") {
        let folder = tempfile::TempDir::new().unwrap();
        let file = folder.path().join("tus.bin");
        std::fs::write(&file, &bytes).unwrap();
        upload_by_tus_js(&modules, &app.url, &file, "stop", "3").await;
        let done = upload_by_tus_js(&modules, &app.url, &file, "resume", "3").await;
        let content = format!("/v1/files/{}/content", done["fileId"].as_str().unwrap());
        assert!(send(app.get(&content)).await.body == bytes);
    }
    // curl, by the path of the link it is given.
    let mut curl = tokio::process::Command::new("curl");
    curl.args(["--silent", "--show-error", "--fail", "--data-binary", "@-", "-H", "Expect:"]);
    curl.args(["-H", &format!("Authorization: Bearer {ADMIN_KEY}"), &format!("{outside}/v1/files?name=c.bin")]);
    let made = run_with(curl, &bytes).await;
    let made: Value = serde_json::from_slice(&made).unwrap();
    assert!(made["links"]["self"].as_str().unwrap().starts_with(&outside), "{made}");
    assert!(app.content(&made).await == bytes);
    assert!(app.range(&made, 7_000_000..7_000_100).await == bytes[7_000_000..7_000_100]);

    // What was sent before a break arrived.
    let path = ruft::create(&app, Some(bytes.len())).await;
    let come = bytes[..6 << 20].to_vec();
    let hanging = futures::stream::iter([Ok::<_, std::io::Error>(come)]).chain(futures::stream::pending());
    let hanging = ruft::append_request(&app, &path, 0, true, reqwest::Body::wrap_stream(hanging));
    let hung = tokio::spawn(hanging.send());
    tokio::time::sleep(Duration::from_secs(2)).await;
    hung.abort();
    let (at, _) = ruft::state(&app, &path).await;
    assert!(at > 0 && at <= 6 << 20);
    let file = ruft::append(&app, &path, at, true, &bytes[at..]).await.expect(201);
    assert!(app.content(&file).await == bytes);

    // The proxy says that TLS ended there; a client that says so itself is on this machine, or not believed.
    let key = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=";
    let sealed = |forwarded: &str| {
        let request = app.request("POST", "/v1/files?name=sealed").header("gridgate-encryption-key", key);
        request.header("x-forwarded-for", forwarded.to_owned()).body("secret")
    };
    send(sealed("192.0.2.7")).await.expect(201);
}

/// A port that nobody listens at.
fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// One run of tus-js-client; gives what it prints.
async fn upload_by_tus_js(modules: &str, url: &str, file: &Path, mode: &str, parallel: &str) -> Value {
    let mut node = tokio::process::Command::new("node");
    node.arg(TUS_JS).args([url, ADMIN_KEY]).arg(file).args([mode, parallel]).env("NODE_PATH", modules);
    let ended = node.kill_on_drop(true).output().await.unwrap();
    assert!(ended.status.success(), "{mode}: {}", String::from_utf8_lossy(&ended.stderr));
    serde_json::from_slice(&ended.stdout).unwrap()
}

/// Runs a program with an input; gives what it prints.
pub async fn run_with(mut command: tokio::process::Command, input: &[u8]) -> Vec<u8> {
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = piped.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let writing = async {
        tokio::io::AsyncWriteExt::write_all(&mut stdin, input).await.unwrap();
        drop(stdin);
    };
    let (output, ()) = tokio::join!(child.wait_with_output(), writing);
    let output = output.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// Where a package lies, if Node is there.
pub fn node_modules(package: &str) -> Option<String> {
    let named = std::env::var("GRIDGATE_TEST_NODE_MODULES").ok().filter(|named| !named.is_empty());
    let modules = named.unwrap_or_else(|| concat!(env!("CARGO_MANIFEST_DIR"), "/.ci/node_modules").to_owned());
    let node = Command::new("node").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if node.is_ok() && Path::new(&modules).join(package).exists() {
        return Some(modules);
    }
    missing(&format!("node with {package} (npm ci --prefix .ci; GRIDGATE_TEST_NODE_MODULES names another folder)"));
    None
}

/// A Python that has PyMongo.
fn python() -> Option<String> {
    python_with("gridfs", "pymongo")
}

/// A Python that has a module, and the package it comes from.
fn python_with(module: &str, package: &str) -> Option<String> {
    let named = std::env::var("GRIDGATE_TEST_PYTHON").ok().filter(|named| !named.is_empty());
    let python = named.unwrap_or_else(|| "python3".to_owned());
    let import = Command::new(&python).args(["-c", &format!("import {module}")]).stderr(Stdio::null()).status();
    if import.is_ok_and(|status| status.success()) {
        return Some(python);
    }
    missing(&format!("{python} with {package} (pip install {package}; GRIDGATE_TEST_PYTHON names the interpreter)"));
    None
}

pub fn is_there(program: &str) -> bool {
    let version = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    let is_there = version.is_ok_and(|status| status.success());
    if !is_there {
        missing(program);
    }
    is_there
}

/// Fails where everything must be there.
fn missing(what: &str) {
    assert!(std::env::var_os("CI").is_none(), "{what} is missing");
    eprintln!("not tested: {what} is missing");
}

fn run(command: &mut Command, input: &[u8]) -> String {
    String::from_utf8(run_bytes(command, input).stdout).unwrap()
}

fn run_bytes(command: &mut Command, input: &[u8]) -> Output {
    let piped =
        command.env("MONGODB_URI", mongod::uri()).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    // From a thread: the program may answer before it has read all.
    let writing = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    writing.join().unwrap().unwrap();
    output
}
