//! Gateways that people write with other languages, where `--peers` names their folder and the machine
//! has Python and Node. What they need is fetched once, into `target/bench-peers`.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Outcome;
use crate::server::{EXPRESS, FASTAPI, Server};

/// Their databases, which they name themselves; the bucket is `files` in both.
pub const DATABASES: [&str; 2] = ["py_peer", "node_peer"];
const PYTHON_PACKAGES: [&str; 3] = ["fastapi", "uvicorn[standard]", "pymongo"];
const NODE_PACKAGES: [&str; 2] = ["express@5", "mongodb@7"];

/// Those that can run here.
#[derive(Default)]
pub struct Peers {
    folder: PathBuf,
    packages: PathBuf,
    names: Vec<&'static str>,
}

impl Peers {
    /// Finds what `folder` has and fetches what it needs; what cannot run is told and left out.
    pub fn prepare(folder: &Path) -> Outcome<Self> {
        let packages = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench-peers");
        std::fs::create_dir_all(&packages)?;
        let folder = folder.canonicalize().map_err(|error| format!("{}: {error}", folder.display()))?;
        let mut peers = Self { folder, packages, names: Vec::new() };
        for (name, ready) in [(FASTAPI, peers.prepare_python()), (EXPRESS, peers.prepare_node())] {
            match ready {
                Ok(()) => peers.names.push(name),
                Err(error) => eprintln!("{name} is left out: {error}"),
            }
        }
        Ok(peers)
    }

    pub fn have(&self, name: &str) -> bool {
        self.names.contains(&name)
    }

    pub fn start(&self, uri: &str) -> Outcome<Vec<(&'static str, Server)>> {
        let start = |name: &'static str| {
            let server =
                Server::on_port(|port| if name == FASTAPI { self.fastapi(uri, port) } else { self.express(uri, port) });
            Ok((name, server.map_err(|error| format!("{name}: {error}"))?))
        };
        self.names.iter().copied().map(start).collect()
    }

    fn fastapi(&self, uri: &str, port: u16) -> Command {
        let mut command = Command::new(self.packages.join("venv/bin/python"));
        command.args([
            "-m",
            "uvicorn",
            "gateway:app",
            "--host",
            "127.0.0.1",
            "--log-level",
            "warning",
            "--no-access-log",
        ]);
        command.args(["--port", &port.to_string()]).current_dir(self.folder.join("python")).env("MONGO", uri);
        command
    }

    fn express(&self, uri: &str, port: u16) -> Command {
        let mut command = Command::new("node");
        command.arg(self.folder.join("node/gateway.js")).arg(port.to_string()).arg(uri);
        command.env("NODE_PATH", self.packages.join("node_modules"));
        command
    }

    fn prepare_python(&self) -> Outcome<()> {
        let venv = self.packages.join("venv");
        if !venv.join("bin/uvicorn").exists() {
            run(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
            run(Command::new(venv.join("bin/pip")).args(["install", "--quiet"]).args(PYTHON_PACKAGES))?;
        }
        has(&self.folder.join("python/gateway.py"))
    }

    fn prepare_node(&self) -> Outcome<()> {
        if !self.packages.join("node_modules/express").exists() {
            let mut npm = Command::new("npm");
            npm.args(["install", "--no-audit", "--no-fund", "--silent", "--prefix"]).arg(&self.packages);
            run(npm.args(NODE_PACKAGES))?;
        }
        has(&self.folder.join("node/gateway.js"))
    }
}

fn run(command: &mut Command) -> Outcome<()> {
    let status = command.stdout(std::process::Stdio::null()).status()?;
    if status.success() { Ok(()) } else { Err(format!("{command:?}: {status}").into()) }
}

fn has(path: &Path) -> Outcome<()> {
    if path.exists() { Ok(()) } else { Err(format!("there is no {}", path.display()).into()) }
}
