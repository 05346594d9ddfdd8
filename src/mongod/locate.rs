//! Finds a mongod to run: the one that was named, one on `PATH`, or the one kept in the user's cache folder.
//!
//! It does not judge versions and starts nothing; `fetch` fills the cache folder.

use std::env;
use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::{MongodError, fetch};

/// The variable that names the mongod to run.
const VARIABLE: &str = "GRIDGATE_MONGOD";

/// Finds the mongod to run, fetching one into the cache folder if there is none.
///
/// The first of `GRIDGATE_MONGOD`, `mongod` on `PATH`, the cache folder, a download.
///
/// # Errors
/// [`MongodError::NotExecutable`] when `GRIDGATE_MONGOD` is set to something else;
/// [`MongodError::NotFound`] or [`MongodError::Fetch`] when there is none and none could be fetched.
///
/// # Cancel safety
/// Safe: the cache folder gets a whole mongod or none.
pub(super) async fn locate() -> Result<PathBuf, MongodError> {
    if let Some(named) = env::var_os(VARIABLE).filter(|v| !v.is_empty()) {
        let path = PathBuf::from(named);
        return if is_executable(&path) {
            Ok(std::path::absolute(&path).unwrap_or(path))
        } else {
            Err(MongodError::NotExecutable { path })
        };
    }
    if let Some(found) = on_path(env::var_os("PATH").as_deref()) {
        return Ok(found);
    }
    let folder = cache_folder(env::var_os("XDG_CACHE_HOME"), env::var_os("HOME"));
    let folder = folder.ok_or_else(|| MongodError::NotFound {
        because: "neither XDG_CACHE_HOME nor HOME names a folder to keep one in".to_owned(),
    })?;
    let cached = folder.join(fetch::FOLDER).join("mongod");
    if !is_executable(&cached) {
        fetch::fetch(&folder, &cached).await?;
    }
    Ok(cached)
}

/// The first executable `mongod` in the absolute folders of a `PATH`.
fn on_path(path: Option<&OsStr>) -> Option<PathBuf> {
    env::split_paths(path?)
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join("mongod"))
        .find(|candidate| is_executable(candidate))
}

/// Gridgate's folder in the user's cache folder; a relative value is ignored, as the XDG specification asks.
fn cache_folder(xdg: Option<std::ffi::OsString>, home: Option<std::ffi::OsString>) -> Option<PathBuf> {
    let absolute = |value: std::ffi::OsString| Some(PathBuf::from(value)).filter(|p| p.is_absolute());
    xdg.and_then(absolute)
        .or_else(|| home.and_then(absolute).map(|home| home.join(".cache")))
        .map(|folder| folder.join("gridgate"))
}

fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn path_is_searched_in_order_and_only_for_executables() {
        let dir = tempfile::tempdir().unwrap();
        let place = |folder: &str, mode| {
            let file = dir.path().join(folder).join("mongod");
            fs::create_dir(file.parent().unwrap()).unwrap();
            fs::write(&file, "").unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            file
        };
        let plain = place("a", 0o644);
        let wanted = place("b", 0o755);
        place("c", 0o755);
        let path = env::join_paths(["a", "b", "c"].map(|f| dir.path().join(f))).unwrap();
        assert_eq!(on_path(Some(&path)), Some(wanted));
        assert_eq!(on_path(plain.parent().map(Path::as_os_str)), None);
        assert_eq!(on_path(None), None);
    }

    #[test]
    fn the_cache_folder_follows_xdg_then_home() {
        let folder = |xdg: &str, home: &str| cache_folder(Some(xdg.into()), Some(home.into()));
        assert_eq!(folder("/x", "/h"), Some("/x/gridgate".into()));
        assert_eq!(folder("", "/h"), Some("/h/.cache/gridgate".into()));
        assert_eq!(folder("rel", "/h"), Some("/h/.cache/gridgate".into()));
        assert_eq!(cache_folder(None, None), None);
    }
}
