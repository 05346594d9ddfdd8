//! TLS on the listener, with curl as its client.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rcgen::{CertifiedKey, generate_simple_self_signed};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::starting::{Gateway, gridgate};
use crate::support::app::{ADMIN_KEY, MASTER_KEY, noise};
use crate::support::mongod;
use crate::support::program::{command_at, run};

/// Longer than anything here takes, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(10);

/// A gateway over TLS with a certificate of its own.
struct Secure {
    gateway: Gateway,
    folder: TempDir,
    database: &'static str,
}

/// Puts a new certificate and its key into files, and gives them.
fn certify(folder: &Path) -> (PathBuf, PathBuf) {
    let names = ["localhost", "127.0.0.1"].map(str::to_owned).to_vec();
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(names).unwrap();
    let (cert_file, key_file) = (folder.join("cert.pem"), folder.join("key.pem"));
    fs::write(&cert_file, cert.pem()).unwrap();
    fs::write(&key_file, signing_key.serialize_pem()).unwrap();
    (cert_file, key_file)
}

fn serve(database: &str, folder: &Path) -> Command {
    let mut command = command_at(mongod::uri(), database, &["serve"]);
    let (cert_file, key_file) = (folder.join("cert.pem"), folder.join("key.pem"));
    command.env("GRIDGATE__SERVER__TLS_CERT_FILE", cert_file).env("GRIDGATE__SERVER__TLS_KEY_FILE", key_file);
    command.env("GRIDGATE__SERVER__HEAD_TIMEOUT_SECS", "2");
    command
}

impl Secure {
    async fn start(database: &'static str) -> Self {
        let folder = TempDir::new().unwrap();
        certify(folder.path());
        let gateway = Gateway::run(&mut serve(database, folder.path()), &folder.path().join("log")).await;
        assert!(gateway.url.starts_with("https://127.0.0.1:"), "{}", gateway.url);
        Self { gateway, folder, database }
    }

    fn address(&self) -> &str {
        self.gateway.url.strip_prefix("https://").unwrap()
    }

    /// Runs curl; gives its status, what it wrote, and what `%{http_version} %{http_code}` was.
    async fn curl(&self, arguments: &[&str], path: &str) -> (i32, String, String) {
        let body = self.folder.path().join("body");
        let mut command = Command::new("curl");
        command.args(["-sS", "--max-time", "10", "-w", "%{http_version} %{http_code}", "-o"]).arg(&body);
        command.arg("--cacert").arg(self.folder.path().join("cert.pem")).args(arguments);
        command.args(["-H", &format!("Authorization: Bearer {ADMIN_KEY}"), &format!("{}{path}", self.gateway.url)]);
        let ended = run(command).await;
        let wrote = fs::read(&body).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
        (ended.code.unwrap(), wrote, ended.stdout + &ended.stderr)
    }
}

impl Drop for Secure {
    fn drop(&mut self) {
        mongod::drop_database(self.database);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_speak_tls_in_both_versions_of_http() {
    let secure = Secure::start("tls_versions").await;
    let (sent, got) = (secure.folder.path().join("sent"), secure.folder.path().join("body"));
    let bytes = noise(3_000_000, 1);
    fs::write(&sent, &bytes).unwrap();
    let at_sent = format!("@{}", sent.display());
    for (version, told) in [("--http1.1", "1.1"), ("--http2", "2")] {
        let (code, body, status) = secure.curl(&[version, "--data-binary", &at_sent], "/v1/files?name=a").await;
        assert_eq!((code, status), (0, format!("{told} 201")), "{body}");
        let file: serde_json::Value = serde_json::from_str(&body).unwrap();
        let link = file["links"]["content"].as_str().unwrap();
        let path = link.strip_prefix(&secure.gateway.url).expect("links are where clients ask").to_owned();
        let (code, _, status) = secure.curl(&[version], &path).await;
        assert_eq!((code, status), (0, format!("{told} 200")));
        assert!(fs::read(&got).unwrap() == bytes, "{version}");
    }
    let (_, _, status) = secure.curl(&["--tlsv1.2", "--tls-max", "1.2"], "/livez").await;
    assert_eq!(status, "2 200");
    let (code, _, why) =
        secure.curl(&["--tlsv1.0", "--tls-max", "1.1", "--ciphers", "ALL:@SECLEVEL=0"], "/livez").await;
    assert_eq!(code, 35, "TLS 1.1 is not spoken: {why}");
    let (code, _, why) = secure.curl(&["--cacert", "/etc/hostname"], "/livez").await;
    assert_ne!(code, 0, "curl does look at the certificate: {why}");
    let mut check = gridgate(&["healthcheck"]);
    check.env("GRIDGATE_LISTEN", secure.address()).env("GRIDGATE__SERVER__TLS_CERT_FILE", "unread");
    check.env("GRIDGATE__SERVER__TLS_KEY_FILE", "unread");
    let checked = check.output().unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}

async fn is_closed(stream: &mut TcpStream) -> bool {
    let mut rest = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await.is_ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handshakes_that_never_end_hold_up_nobody_and_plain_http_is_closed() {
    let mut secure = Secure::start("tls_handshakes").await;
    let hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".as_slice();
    let mut stalled = Vec::new();
    for beginning in [b"".as_slice(), hello].repeat(50) {
        let mut stream = TcpStream::connect(secure.address()).await.unwrap();
        stream.write_all(beginning).await.unwrap();
        stalled.push(stream);
    }
    let begun = Instant::now();
    assert_eq!(secure.curl(&[], "/livez").await.2, "2 200");
    println!("beside 100 unfinished handshakes: {:?}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    let mut plain = TcpStream::connect(secure.address()).await.unwrap();
    let begun = Instant::now();
    plain.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    assert!(is_closed(&mut plain).await && begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    for stream in &mut stalled {
        assert!(is_closed(stream).await, "within the time of a head");
    }
    // Nor do they hold up the end.
    let mut late = TcpStream::connect(secure.address()).await.unwrap();
    late.write_all(hello).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let begun = Instant::now();
    secure.gateway.signal("TERM");
    assert_eq!(secure.gateway.ended().await.code(), Some(0), "{}", secure.gateway.log());
    println!("stopped beside an unfinished handshake: {:?}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_certificate_is_read_at_a_hangup_and_a_bad_one_changes_nothing() {
    let secure = Secure::start("tls_reload").await;
    let renewed = async |secure: &Secure| {
        let begun = Instant::now();
        while secure.curl(&[], "/livez").await.2 != "2 200" {
            assert!(begun.elapsed() < PATIENCE, "{}", secure.gateway.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    renewed(&secure).await;
    let (cert_file, _) = certify(secure.folder.path());
    assert_eq!(secure.curl(&[], "/livez").await.0, 60, "the old one is still shown");
    secure.gateway.signal("HUP");
    renewed(&secure).await;
    let good = fs::read(&cert_file).unwrap();
    fs::write(&cert_file, "no certificate").unwrap();
    secure.gateway.signal("HUP");
    let begun = Instant::now();
    while !secure.gateway.log().contains("kept the certificate as it was") {
        assert!(begun.elapsed() < PATIENCE, "{}", secure.gateway.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    fs::write(&cert_file, good).unwrap();
    renewed(&secure).await;
}

#[tokio::test]
async fn files_that_cannot_be_used_refuse_to_start_and_name_their_setting() {
    let (folder, other) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let (cert_file, key_file) = certify(folder.path());
    let (_, other_key) = certify(other.path());
    let empty = folder.path().join("empty.pem");
    fs::write(&empty, "nothing here\n").unwrap();
    let missing = folder.path().join("missing.pem");
    let (of_cert, of_key) = ("server.tls_cert_file", "server.tls_key_file");
    for (cert, key, named) in [
        (&missing, &key_file, of_cert),
        (&empty, &key_file, of_cert),
        (&key_file, &key_file, of_cert),
        (&cert_file, &missing, of_key),
        (&cert_file, &empty, of_key),
        (&cert_file, &cert_file, of_key),
        (&cert_file, &other_key, of_key),
    ] {
        let mut command = gridgate(&["serve"]);
        command.env("GRIDGATE_LISTEN", "127.0.0.1:0").env("GRIDGATE_MASTER_KEY", MASTER_KEY);
        command.env("GRIDGATE_MONGODB_URI", "mongodb://127.0.0.1:9/").env("GRIDGATE_ADMIN_KEY", ADMIN_KEY);
        command.env("GRIDGATE__SERVER__TLS_CERT_FILE", cert).env("GRIDGATE__SERVER__TLS_KEY_FILE", key);
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        let ended = run(command).await;
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""), "{ended:?}");
        assert!(ended.stderr.contains(named) && !ended.stderr.contains("panicked"), "{cert:?} {key:?}: {ended:?}");
    }
}
