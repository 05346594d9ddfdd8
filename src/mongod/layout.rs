//! The files of an embedded mongod: its folders, key file, credentials and remembered port.
//!
//! Every file is complete or absent, whenever the process is killed. This module starts nothing and
//! speaks to nobody; what the files mean is decided by its siblings.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::MongodError;

/// The name of the one database user, which has the role `root`.
const USER: &str = "gridgate";
/// Random bytes in the key file: 1008 base64 characters, below the limit of 1024.
const KEYFILE_BYTES: usize = 756;
/// Random bytes in the password.
const PASSWORD_BYTES: usize = 32;
/// The paths of one embedded mongod inside a data folder.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    /// The data folder, absolute, without symbolic links.
    pub(super) data_dir: PathBuf,
    /// `mongo/`, which holds everything below.
    root: PathBuf,
}

/// The user and password of the embedded mongod.
#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(deny_unknown_fields)]
pub(super) struct Credentials {
    pub(super) user: String,
    pub(super) password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").finish_non_exhaustive()
    }
}

impl Layout {
    /// Creates the folders and the key file where they are missing.
    ///
    /// # Errors
    /// [`MongodError::Files`] naming the path that could not be made.
    pub(super) fn prepare(data_dir: &Path) -> Result<Layout, MongodError> {
        create_private_dir(data_dir)?;
        let data_dir = fs::canonicalize(data_dir).map_err(|source| MongodError::files("resolve", data_dir, source))?;
        let layout = Layout { root: data_dir.join("mongo"), data_dir };
        create_private_dir(&layout.dbpath())?;
        if !layout.keyfile().exists() {
            let key = random_base64::<KEYFILE_BYTES>(&STANDARD)?;
            write_if_absent(&layout.keyfile(), key.as_bytes())?;
        }
        Ok(layout)
    }

    pub(super) fn dbpath(&self) -> PathBuf {
        self.root.join("db")
    }

    pub(super) fn keyfile(&self) -> PathBuf {
        self.root.join("keyfile")
    }

    pub(super) fn log(&self) -> PathBuf {
        self.root.join("mongod.log")
    }

    pub(super) fn pidfile(&self) -> PathBuf {
        self.root.join("mongod.pid")
    }

    /// The generation of the log before the current one.
    pub(super) fn older_log(&self) -> PathBuf {
        self.root.join("mongod.log.1")
    }

    /// What mongod and its shell print themselves, such as a library that is missing.
    pub(super) fn output(&self) -> PathBuf {
        self.root.join("mongod.out")
    }

    fn port_file(&self) -> PathBuf {
        self.root.join("port")
    }

    /// Reads the credentials, creating them first if there are none.
    ///
    /// # Errors
    /// [`MongodError::Files`] when the file cannot be read, written or understood.
    pub(super) fn credentials(&self) -> Result<Credentials, MongodError> {
        let path = self.root.join("credentials.json");
        if !path.exists() {
            let made = Credentials {
                user: USER.to_owned(),
                password: random_base64::<PASSWORD_BYTES>(&URL_SAFE_NO_PAD)?.to_string(),
            };
            let json = serde_json::to_vec(&made).map(Zeroizing::new);
            let json = json.map_err(|e| MongodError::files("encode", &path, e.into()))?;
            write_if_absent(&path, &json)?;
        }
        let json = fs::read(&path).map(Zeroizing::new);
        let json = json.map_err(|source| MongodError::files("read", &path, source))?;
        serde_json::from_slice(&json).map_err(|e| MongodError::files("understand", &path, e.into()))
    }

    /// The port of the last start, if one is remembered.
    pub(super) fn remembered_port(&self) -> Option<u16> {
        let text = fs::read_to_string(self.port_file()).ok()?;
        text.trim().parse().ok().filter(|port| *port != 0)
    }

    /// Remembers the port for the next start.
    ///
    /// # Errors
    /// [`MongodError::Files`] when it cannot be written.
    pub(super) fn remember_port(&self, port: u16) -> Result<(), MongodError> {
        let path = self.port_file();
        write_temporary(&path, format!("{port}\n").as_bytes())
            .and_then(|temporary| fs::rename(&temporary, &path))
            .and_then(|()| sync_folder_of(&path))
            .map_err(|source| MongodError::files("write", &path, source))
    }
}

/// Removes a folder and all in it; that it is gone already is no error.
pub(super) fn remove_folder(path: &Path) -> Result<(), MongodError> {
    match fs::remove_dir_all(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(MongodError::files("remove", path, source)),
        _ => Ok(()),
    }
}

fn create_private_dir(path: &Path) -> Result<(), MongodError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| MongodError::files("create", path, source))
}

fn random_base64<const LEN: usize>(alphabet: &impl Engine) -> Result<Zeroizing<String>, MongodError> {
    let mut bytes = Zeroizing::new([0_u8; LEN]);
    getrandom::fill(bytes.as_mut_slice()).map_err(|_| MongodError::NoRandomness)?;
    Ok(Zeroizing::new(alphabet.encode(bytes.as_slice())))
}

/// Writes a whole 0600 file beside `path`, on disk when this returns, and returns its path.
fn write_temporary(path: &Path, content: &[u8]) -> io::Result<PathBuf> {
    let mut tag = [0_u8; 8];
    getrandom::fill(&mut tag).map_err(|e| io::Error::other(e.to_string()))?;
    let temporary = path.with_extension(format!("{:016x}.tmp", u64::from_le_bytes(tag)));
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)
        .and_then(|mut file| file.write_all(content).and_then(|()| file.sync_all()));
    match written {
        Ok(()) => Ok(temporary),
        Err(e) => {
            let _ = fs::remove_file(&temporary);
            Err(e)
        }
    }
}

/// Writes a secret unless the file exists: of two processes, the first one's content stays.
fn write_if_absent(path: &Path, content: &[u8]) -> Result<(), MongodError> {
    let linked = write_temporary(path, content).and_then(|temporary| {
        // A link, unlike a rename, never replaces what another process has written meanwhile.
        let linked = match fs::hard_link(&temporary, path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            other => other,
        };
        fs::remove_file(&temporary)?;
        linked
    });
    linked.and_then(|()| sync_folder_of(path)).map_err(|source| MongodError::files("write", path, source))
}

fn sync_folder_of(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn secrets_are_private_and_stay_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::prepare(&dir.path().join("new")).unwrap();
        let first = layout.credentials().unwrap();
        let key = fs::read(layout.keyfile()).unwrap();
        let again = Layout::prepare(&dir.path().join("new")).unwrap();
        assert_eq!(again.credentials().unwrap().password, first.password);
        assert_eq!(fs::read(again.keyfile()).unwrap(), key);
        assert_eq!((key.len(), first.password.len()), (1008, 43));
        for (name, mode) in [("", 0o700), ("keyfile", 0o600), ("credentials.json", 0o600)] {
            let found = fs::metadata(layout.root.join(name)).unwrap().permissions();
            assert_eq!(found.mode() & 0o777, mode, "{name}");
        }
        assert_eq!(fs::read_dir(&layout.root).unwrap().count(), 3, "no temporary file stays");
        assert!(!format!("{first:?}").contains(&first.password));
    }

    #[test]
    fn a_damaged_port_file_is_no_port() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::prepare(dir.path()).unwrap();
        assert_eq!(layout.remembered_port(), None);
        layout.remember_port(27_117).unwrap();
        assert_eq!(layout.remembered_port(), Some(27_117));
        for damaged in ["", "0", "70000", "x"] {
            fs::write(layout.port_file(), damaged).unwrap();
            assert_eq!(layout.remembered_port(), None, "{damaged}");
        }
    }
}
