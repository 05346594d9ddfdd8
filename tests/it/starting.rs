//! The program itself: started with nothing but a data folder, drained, killed, started again.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::app::{TestApp, noise};
use crate::support::mongod;
use crate::support::program::command_at;
use crate::support::wire::Wire;

/// Longer than a start or an end may take, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(60);

/// A command of the program, with nothing of this process's own settings.
pub fn gridgate(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gridgate"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("GRIDGATE_") && name != "GRIDGATE_MONGOD") {
        command.env_remove(name);
    }
    command.args(arguments).stdin(Stdio::null());
    command
}

/// A running gateway; killed with the test that started it.
pub struct Gateway {
    child: Child,
    pub url: String,
    stdout: PathBuf,
    stderr: PathBuf,
    has_ended: bool,
}

impl Gateway {
    /// Starts a gateway on a data folder and waits until it is ready.
    async fn start(folder: &Path, run: &str, drain_secs: &str) -> Self {
        let mut command = gridgate(&[]);
        command.env("GRIDGATE_DATA_DIR", folder).env("GRIDGATE_LISTEN", "127.0.0.1:0");
        command.env("GRIDGATE__SERVER__DRAIN_SECS", drain_secs);
        Self::run(&mut command, &folder.with_extension(run)).await
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Runs a command that serves and waits until it is ready; what it prints goes beside `log`.
    pub async fn run(command: &mut Command, log: &Path) -> Self {
        let mut gateway = Self::begin(command, log);
        let begun = Instant::now();
        loop {
            let printed = fs::read_to_string(&gateway.stdout).unwrap();
            if let Some(url) = printed.strip_prefix("gridgate ready on ").and_then(|rest| rest.strip_suffix('\n')) {
                url.clone_into(&mut gateway.url);
                return gateway;
            }
            assert_eq!(gateway.child.try_wait().unwrap(), None, "it ended: {}", gateway.log());
            assert!(begun.elapsed() < PATIENCE, "it is not ready: {}", gateway.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn begin(command: &mut Command, log: &Path) -> Self {
        let beside = |end: &str| PathBuf::from(format!("{}.{end}", log.display()));
        let (stdout, stderr) = (beside("out"), beside("err"));
        let command = command.stdout(fs::File::create(&stdout).unwrap()).stderr(fs::File::create(&stderr).unwrap());
        let child = command.spawn().unwrap();
        Self { child, url: String::new(), stdout, stderr, has_ended: false }
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.stderr).unwrap()
    }

    /// Everything it printed, to either side.
    pub fn printed(&self) -> String {
        fs::read_to_string(&self.stdout).unwrap() + &self.log()
    }

    /// Sends it a signal: `TERM`, `INT`, `KILL`.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([format!("-{name}"), self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// Waits until it has ended.
    pub async fn ended(&mut self) -> ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                self.has_ended = true;
                return status;
            }
            assert!(begun.elapsed() < PATIENCE, "it does not end: {}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if !self.has_ended {
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }
}

struct Client {
    http: reqwest::Client,
    key: String,
}

impl Client {
    async fn upload(&self, gateway: &Gateway, bytes: &[u8]) -> Value {
        let request = self.http.post(format!("{}/v1/files?name=a.bin", gateway.url)).bearer_auth(&self.key);
        let response = request.body(bytes.to_vec()).send().await.unwrap();
        assert_eq!(response.status().as_u16(), 201);
        response.json().await.unwrap()
    }

    async fn content(&self, gateway: &Gateway, file: &Value) -> Vec<u8> {
        let url = format!("{}/v1/files/{}/content", gateway.url, file["id"].as_str().unwrap());
        let response = self.http.get(url).bearer_auth(&self.key).send().await.unwrap();
        assert_eq!(response.status().as_u16(), 200);
        response.bytes().await.unwrap().to_vec()
    }
}

impl Client {
    /// Asks for a file and reads no byte of it.
    async fn begin_download(&self, gateway: &Gateway, file: &Value) -> Wire {
        let mut wire = Wire::connect(&gateway.url).await;
        let id = file["id"].as_str().unwrap();
        let head =
            format!("GET /v1/files/{id}/content HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\r\n", self.key);
        wire.send(head).await;
        assert_eq!(wire.head().await.status, 200);
        wire
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn output(command: &mut Command) -> (Option<i32>, String, String) {
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_starts_from_an_empty_folder_drains_and_outlives_a_kill() {
    let temporary = TempDir::new().unwrap();
    let folder = temporary.path().join("data");
    let mut gateway = Gateway::start(&folder, "first", "20").await;

    // What it made is for its owner only.
    assert_eq!(mode(&folder), 0o700);
    assert_eq!((mode(&folder.join("admin.key")), mode(&folder.join("master.key"))), (0o600, 0o600));
    let key = fs::read_to_string(folder.join("admin.key")).unwrap().trim().to_owned();
    assert!(key.starts_with("gg_") && key.len() > 40);
    assert!(gateway.url.starts_with("http://127.0.0.1:"));
    assert!(!gateway.log().contains(&key), "the key is not logged");
    assert!(gateway.log().contains("admin.key"), "its path is");

    let client = Client { http: reqwest::Client::builder().no_proxy().build().unwrap(), key };
    let bytes = noise(32 << 20, 1);
    let file = client.upload(&gateway, &bytes).await;

    // The other commands, beside it.
    let address = gateway.url.strip_prefix("http://").unwrap().to_owned();
    let (code, _, complaint) = output(gridgate(&["healthcheck"]).env("GRIDGATE_LISTEN", &address));
    assert_eq!((code, complaint.as_str()), (Some(0), ""));
    let second = output(gridgate(&[]).env("GRIDGATE_DATA_DIR", &folder).env("GRIDGATE_LISTEN", "127.0.0.1:0"));
    assert!(second.0.is_some_and(|code| code != 0) && second.1.is_empty(), "{second:?}");
    assert!(second.2.contains("data") && !second.2.contains("panicked"), "it says which folder is taken: {}", second.2);
    assert_eq!(client.upload(&gateway, b"x").await["size"], 1, "the first one is unharmed");

    // SIGTERM: a slow download finishes, a new one is not begun, and the end is a clean one.
    let mut slow = client.begin_download(&gateway, &file).await;
    gateway.signal("TERM");
    for piece in bytes.chunks(1 << 20) {
        tokio::time::sleep(Duration::from_millis(150)).await;
        assert!(slow.body(piece.len()).await == piece, "what was begun is finished");
    }
    assert!(tokio::net::TcpStream::connect(&address).await.is_err(), "it takes no new connection");
    assert_eq!(gateway.ended().await.code(), Some(0), "{}", gateway.log());
    let printed = fs::read_to_string(&gateway.stdout).unwrap();
    assert_eq!(printed, format!("gridgate ready on {}\n", gateway.url), "one line, and no other");

    // Started again it has what it had; killed, too, without a pause.
    let mut gateway = Gateway::start(&folder, "second", "20").await;
    assert!(client.content(&gateway, &file).await == bytes);
    let late = client.upload(&gateway, &bytes[..3_000_000]).await;
    gateway.signal("KILL");
    gateway.ended().await;
    let mut gateway = Gateway::start(&folder, "third", "1").await;
    assert!(client.content(&gateway, &file).await == bytes);
    assert!(client.content(&gateway, &late).await == bytes[..3_000_000]);

    // A download that does not move is cut when the drain time is over, and that is a clean end, too.
    let mut stalled = client.begin_download(&gateway, &file).await;
    let begun = Instant::now();
    gateway.signal("INT");
    assert_eq!(gateway.ended().await.code(), Some(0), "{}", gateway.log());
    assert!(begun.elapsed() < Duration::from_secs(15), "it took {:?}", begun.elapsed());
    assert!(stalled.body(bytes.len()).await.len() < bytes.len(), "a cut body is not a whole one");
}

#[test]
fn a_bad_setting_ends_it_with_the_settings_name() {
    let folder = TempDir::new().unwrap();
    let mut file = folder.path().join("a.toml");
    for (variable, value, key) in [
        ("GRIDGATE__SERVER__DRAIN_SECS", "-1", "server.drain_secs"),
        ("GRIDGATE__SERVER__DRAIN_SECS", "soon", "server.drain_secs"),
        ("GRIDGATE__SERVER__DRAIN_SECS", "3601", "server.drain_secs"),
        ("GRIDGATE__SERVER__NO_SUCH_KEY", "1", "no_such_key"),
        ("GRIDGATE__BUCKETS__IMAGES__FRAME_KIB", "100", "buckets.images.frame_kib"),
        ("GRIDGATE_ADMIN_KEY", "short", "auth.admin_key"),
        ("GRIDGATE_ADMIN_KEY", "", "GRIDGATE_ADMIN_KEY"),
        ("GRIDGATE_PUBLIC_URL", "files.example", "server.public_url"),
        ("GRIDGATE_MASTER_KEY", "", "GRIDGATE_MASTER_KEY"),
        ("GRIDGATE__AUTH__JWT__SECRET", "short", "auth.jwt.secret"),
    ] {
        let mut command = gridgate(&[]);
        command.env("GRIDGATE_DATA_DIR", folder.path().join("data")).env("GRIDGATE_LISTEN", "127.0.0.1:0");
        let (code, printed, complaint) = output(command.env(variable, value));
        assert!(code.is_some_and(|code| code != 0) && printed.is_empty(), "{variable}={value}: {code:?} {printed}");
        assert!(complaint.contains(key) && !complaint.contains("panicked"), "{variable}={value}: {complaint}");
    }
    fs::write(&file, "[server]\nlisten = 7\n").unwrap();
    let (code, _, complaint) = output(gridgate(&["check-config", "--config"]).arg(&file));
    assert!(code != Some(0) && complaint.contains("server.listen"), "{complaint}");
    fs::write(&file, "[server]\ndrain_secs = 3\n").unwrap();
    assert_eq!(output(gridgate(&["check-config", "--config"]).arg(&file)), (Some(0), String::new(), String::new()));
    file.set_extension("none");
    let (code, _, complaint) = output(gridgate(&["check-config", "--config"]).arg(&file));
    assert!(code != Some(0) && complaint.contains("a.none"), "{complaint}");
    assert!(!folder.path().join("data").exists(), "nothing was made");
}

/// A database of one's own is never sealed with a key that was made up, that others have or that is easily found.
#[tokio::test]
async fn a_start_without_a_key_or_with_a_weak_one_is_refused() {
    let beside = TestApp::start().await;
    let folder = TempDir::new().unwrap();
    for (ring, key) in [
        (None, "keys.master_key"),
        (Some("k1:"), "key"),
        (Some("k1:AAAA"), "key"),
        (Some("k1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="), "key"),
        (Some("not a ring"), "key"),
    ] {
        let mut command = command_at(mongod::uri(), &beside.database, &[]);
        command.env("GRIDGATE_DATA_DIR", folder.path()).env_remove("GRIDGATE_MASTER_KEY");
        command.envs(ring.map(|ring| ("GRIDGATE_MASTER_KEY", ring)));
        let (code, printed, complaint) = output(&mut command);
        assert!(code.is_some_and(|code| code != 0) && printed.is_empty(), "{ring:?}: {code:?} {printed}");
        assert!(complaint.contains(key) && !complaint.contains("panicked"), "{ring:?}: {complaint}");
        assert!(ring.is_none_or(|ring| !complaint.contains(ring)), "{complaint}");
    }
    let sample = gridgate::config::DEFAULTS;
    for secret in ["admin_key", "master_key", "secret"] {
        assert!(
            sample.contains(&format!("\n{secret} = \"\"\n")),
            "the sample has no {secret} that somebody could keep"
        );
    }
}

#[test]
fn a_healthcheck_of_nothing_fails() {
    let (code, _, complaint) = output(gridgate(&["healthcheck"]).env("GRIDGATE_LISTEN", "127.0.0.1:9"));
    assert!(code.is_some_and(|code| code != 0) && !complaint.is_empty());
}
