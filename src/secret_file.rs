//! Secrets generated once and kept in files that only their owner can read.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// A secret and whether it was made just now.
pub struct SecretFile {
    /// The text.
    pub text: String,
    /// Whether it was made just now.
    pub is_new: bool,
}

/// Reads a secret, or makes it: complete or not at all, readable by its owner only.
///
/// # Errors
/// `InvalidData` for an existing file that is empty, and what the file system says.
pub fn read_or_make(path: &Path, make: impl FnOnce() -> String) -> std::io::Result<SecretFile> {
    match std::fs::read_to_string(path) {
        Ok(text) if text.trim().is_empty() => {
            Err(std::io::Error::new(ErrorKind::InvalidData, format!("{} is empty", path.display())))
        }
        Ok(text) => Ok(SecretFile { text, is_new: false }),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            if let Some(folder) = path.parent() {
                DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
            }
            let text = make();
            write(path, &text)?;
            Ok(SecretFile { text, is_new: true })
        }
        Err(error) => Err(error),
    }
}

fn write(path: &Path, text: &str) -> std::io::Result<()> {
    let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.set_permissions(Permissions::from_mode(0o600))?;
    file.write_all(text.as_bytes())?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}
