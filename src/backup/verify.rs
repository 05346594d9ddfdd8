//! The proof after a restore: what was restored fits together, opens with the keys, and, if asked for, has every byte.

use futures::TryStreamExt;
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::manifest::Manifest;
use crate::error::Error;
use crate::files::Files;
use crate::jobs::fsck::fsck;
use crate::jobs::fsck::report::{FsckReport, LISTED};
use crate::store::census::Which;
use crate::store::registry::FileDoc;

/// Files looked at together.
const PAGE: i64 = 200;

/// What was restored, and what is wrong with it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RestoreReport {
    /// Whether everything is as it was; what a sweep will take (`leaked`) is no difference.
    pub ok: bool,
    /// The database of which the backup was made.
    pub database: String,
    /// When it was made.
    pub created_at: String,
    /// Documents restored.
    pub documents: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The check of the store against itself, every file's manifest included.
    pub fsck: FsckReport,
    /// Contents read, where that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<ContentReport>,
}

/// Every file read to its end.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ContentReport {
    /// Files read.
    pub files: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Files whose key only their client has.
    pub skipped: u64,
    /// Files that do not have the bytes they had.
    pub damaged: u64,
    /// The first of them, by id, with what is wrong.
    pub items: Vec<(String, String)>,
}

/// Checks a database that was restored from the backup of this manifest.
///
/// # Errors
/// When the database fails; nothing is known then.
pub async fn verify(files: &Files, manifest: &Manifest, reads_content: bool) -> Result<RestoreReport, Error> {
    let fsck = fsck(files).await?;
    let content = if reads_content { Some(read_contents(files).await?) } else { None };
    let is_whole = fsck.missing.count + fsck.mismatched.count + fsck.orphans.count == 0;
    Ok(RestoreReport {
        ok: is_whole && content.as_ref().is_none_or(|content| content.damaged == 0),
        database: manifest.database.clone(),
        created_at: manifest.created_at.clone(),
        documents: manifest.documents,
        bytes: manifest.bytes,
        fsck,
        content,
    })
}

async fn read_contents(files: &Files) -> Result<ContentReport, Error> {
    let (mut report, mut after) = (ContentReport::default(), None);
    loop {
        let page = files
            .store
            .list_registry(Which::Below(after, PAGE))
            .await
            .map_err(|error| error.doing("list the files"))?;
        let Some(last) = page.last() else { return Ok(report) };
        after = Some(last.id);
        for file in page.into_iter().filter_map(|entry| entry.row) {
            if file.content.mode.as_deref() == Some("customer") {
                report.skipped += 1;
                continue;
            }
            let id = file.file.to_hex();
            report.files += 1;
            match read_content(files, file).await {
                Ok(len) => report.bytes += len,
                Err(error) => {
                    report.damaged += 1;
                    if report.items.len() < LISTED {
                        report
                            .items
                            .push((id, error.cause.map_or_else(|| error.detail.into_owned(), |c| c.to_string())));
                    }
                }
            }
        }
    }
}

async fn read_content(files: &Files, file: FileDoc) -> Result<u64, Error> {
    let opened = files.open_doc(file).await?;
    let (mut hash, mut len) = (Sha256::new(), 0);
    let mut content = opened.plan(&(0..opened.plain_len))?.read().await?;
    while let Some(piece) = content.try_next().await? {
        hash.update(&piece);
        len += piece.len() as u64;
    }
    let hash = <[u8; 32]>::from(hash.finalize());
    let is_same = opened.sha256.is_some_and(|sha256| sha256.0 == hash) && len == opened.plain_len;
    if is_same { Ok(len) } else { Err(Error::damaged("read the content", "its SHA-256 is another")) }
}
