//! nginx in front of a gateway, with the settings that the documentation gives.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(20);

/// A running nginx; ends with the test that started it.
pub struct Nginx {
    child: Child,
    _folder: TempDir,
}

/// The server that `docs/operations.md` shows, listening here and passing on there. TLS ends before it.
fn server(port: u16, gateway: &str) -> String {
    let document = include_str!("../../../docs/operations.md");
    let shown = document.split("```nginx\n").nth(1).expect("the settings are shown").split("```").next().unwrap();
    let kept = shown.lines().filter(|line| !line.trim_start().starts_with("ssl_"));
    let replaced = kept.map(|line| match line.trim() {
        "listen 443 ssl;" => format!("listen 127.0.0.1:{port};"),
        _ => line.replace("http://127.0.0.1:8080", gateway).replace("$scheme", "https"),
    });
    let server = replaced.collect::<Vec<_>>().join("\n");
    assert!(server.contains(gateway) && server.contains(&port.to_string()), "{server}");
    server
}

impl Nginx {
    pub async fn start(port: u16, gateway: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let at = folder.path().display();
        let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
        let temporary: String = temporary.map(|kind| format!("{kind}_temp_path {at}/{kind};\n")).concat();
        let user = if rustix::process::getuid().is_root() { "user root;\n" } else { "" };
        let settings = format!(
            "{user}worker_processes 1;\ndaemon off;\npid {at}/pid;\nerror_log stderr warn;\nevents {{}}\n\
             http {{\naccess_log off;\n{temporary}{}\n}}\n",
            server(port, gateway)
        );
        let path = folder.path().join("nginx.conf");
        std::fs::write(&path, settings).unwrap();
        let mut command = Command::new(program());
        let child = command.arg("-c").arg(&path).arg("-p").arg(folder.path()).stdin(Stdio::null()).spawn().unwrap();
        let begun = Instant::now();
        while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            assert!(begun.elapsed() < PATIENCE, "nginx does not listen");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Self { child, _folder: folder }
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // Its workers end with it only if it may end them.
        let process = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(process, rustix::process::Signal::TERM);
        let _ = self.child.wait();
    }
}

/// Debian keeps it where the path of others does not lead.
pub fn program() -> &'static str {
    if std::path::Path::new("/usr/sbin/nginx").exists() { "/usr/sbin/nginx" } else { "nginx" }
}

/// Whether it is there.
pub fn is_there() -> bool {
    let version = Command::new(program()).arg("-v").stdout(Stdio::null()).stderr(Stdio::null()).status();
    version.is_ok_and(|status| status.success())
}
