//! Reads the log of an embedded mongod, and keeps it bounded.
//!
//! mongod writes the log itself, one JSON document per line. Nothing here depends on more than the severity
//! of a line and a few fixed words.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use super::MongodError;
use super::layout::Layout;

/// A log longer than this is put aside at the next start.
const LIMIT_BYTES: u64 = 64 * 1024 * 1024;
/// How much of the end of a log is looked at.
const READ_BYTES: u64 = 256 * 1024;
const TAIL_LINES: usize = 8;
/// A line of a log is cut after this many characters.
const LINE_CHARS: usize = 400;

/// The length of the log in bytes; 0 if there is none.
pub(super) fn len_bytes(layout: &Layout) -> u64 {
    fs::metadata(layout.log()).map_or(0, |m| m.len())
}

/// Whether mongod has logged `words` since its log was `since_bytes` long.
pub(super) fn has(layout: &Layout, since_bytes: u64, words: &str) -> bool {
    read_end(&layout.log(), since_bytes).is_ok_and(|text| text.contains(words))
}

/// What tells most of why mongod ended, out of what it wrote since its log was `since_bytes` long.
///
/// # Shape
/// Its errors if there are any, else its last lines.
pub(super) fn tail(layout: &Layout, since_bytes: u64) -> String {
    let errors = errors(layout, since_bytes);
    if !errors.is_empty() {
        return errors;
    }
    let logged = read_end(&layout.log(), since_bytes).unwrap_or_default();
    let lines: Vec<&str> = logged.lines().collect();
    if lines.is_empty() { "(it logged nothing)".to_owned() } else { last_of(&lines) }
}

/// The last errors that mongod has logged, and what it printed, since its log was `since_bytes` long.
///
/// # Shape
/// Lines, or the empty string.
pub(super) fn errors(layout: &Layout, since_bytes: u64) -> String {
    let logged = read_end(&layout.log(), since_bytes).unwrap_or_default();
    let printed = read_end(&layout.output(), 0).unwrap_or_default();
    // After an error mongod logs dozens of lines about its shutdown.
    let is_error = |line: &&str| line.contains(r#""s":"E""#) || line.contains(r#""s":"F""#);
    let mut lines: Vec<&str> = logged.lines().filter(is_error).collect();
    // What it prints besides lines for the log is plain text.
    lines.extend(printed.lines().filter(|line| is_error(line) || !line.starts_with('{')));
    last_of(&lines)
}

fn last_of(lines: &[&str]) -> String {
    let last = lines[lines.len().saturating_sub(TAIL_LINES)..].iter();
    let cut = last.map(|line| line.chars().take(LINE_CHARS).collect::<String>());
    cut.collect::<Vec<_>>().join("\n")
}

/// Puts an overlong log aside, as the one older generation that is kept.
///
/// # Errors
/// [`MongodError::Files`] when the log cannot be renamed.
pub(super) fn put_aside_if_long(layout: &Layout) -> Result<(), MongodError> {
    if len_bytes(layout) <= LIMIT_BYTES {
        return Ok(());
    }
    fs::rename(layout.log(), layout.older_log()).map_err(|source| MongodError::files("rename", &layout.log(), source))
}

/// Reads at most [`READ_BYTES`] from the end of a file, none of it before `since_bytes`.
fn read_end(path: &Path, since_bytes: u64) -> io::Result<String> {
    let mut file = File::open(path)?;
    let len = file.metadata()?.len();
    // A log that was put aside in between starts again at 0.
    let since_bytes = if since_bytes > len { 0 } else { since_bytes };
    let from = since_bytes.max(len.saturating_sub(READ_BYTES));
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(READ_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_leaves_out_earlier_runs_and_prefers_errors() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::prepare(dir.path()).unwrap();
        assert_eq!(tail(&layout, 0), "(it logged nothing)");
        fs::write(layout.log(), "old\nnew\n").unwrap();
        assert_eq!(tail(&layout, 4), "new");
        assert!(has(&layout, 0, "old") && !has(&layout, 4, "old"));
        fs::write(layout.log(), "{\"s\":\"E\",\"msg\":\"no\"}\n{\"s\":\"I\"}\n").unwrap();
        fs::write(layout.output(), "{\"s\":\"I\"}\nprinted\n").unwrap();
        assert_eq!(tail(&layout, 0), "{\"s\":\"E\",\"msg\":\"no\"}\nprinted");
    }

    #[test]
    fn a_long_log_is_put_aside() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::prepare(dir.path()).unwrap();
        put_aside_if_long(&layout).unwrap();
        let file = File::create(layout.log()).unwrap();
        file.set_len(LIMIT_BYTES).unwrap();
        put_aside_if_long(&layout).unwrap();
        assert!(!layout.older_log().exists());
        file.set_len(LIMIT_BYTES + 1).unwrap();
        put_aside_if_long(&layout).unwrap();
        assert!(layout.older_log().exists() && !layout.log().exists());
    }
}
