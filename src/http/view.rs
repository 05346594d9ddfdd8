//! A file as clients see it. Reads documents, writes none.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::{CACHE_CONTROL, ETAG, LOCATION};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::AppState;
use crate::clock;
use crate::files::custom;
use crate::store::registry::FileDoc;
use crate::store::{Bson, DateTime};

/// The JSON of a file; the fields are those of `openapi.yaml`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "openapi.yaml says it")]
pub struct FileView {
    pub id: String,
    pub name: String,
    pub size: i64,
    pub stored_size: i64,
    pub content_type: String,
    pub declared_type: Option<String>,
    pub kind: String,
    pub bucket: String,
    pub sha256: Option<String>,
    pub etag: String,
    pub compression: Option<CompressionView>,
    pub encryption: Option<EncryptionView>,
    pub description: Option<String>,
    pub tags: Vec<String>,
    pub category: Option<String>,
    pub custom: Value,
    pub tenant: String,
    pub owner: String,
    pub access: String,
    pub folder: String,
    pub version: i64,
    pub latest: bool,
    pub version_count: i64,
    pub retention: Option<RetentionView>,
    pub downloads: i64,
    pub last_accessed_at: Option<String>,
    pub processing: ProcessingView,
    pub media: Map<String, Value>,
    pub deduplicated: bool,
    pub created_at: String,
    pub updated_at: String,
    pub links: LinksView,
}

/// How the content is compressed.
#[derive(Debug, Serialize)]
#[expect(missing_docs, reason = "openapi.yaml says it")]
pub struct CompressionView {
    pub codec: String,
    pub level: i32,
    /// Plaintext bytes a stored byte stands for.
    pub ratio: f64,
}

/// How the content is encrypted.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "openapi.yaml says it")]
pub struct EncryptionView {
    pub mode: String,
    pub key_id: Option<String>,
}

/// How long the file is kept.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "openapi.yaml says it")]
pub struct RetentionView {
    pub days: Option<i64>,
    pub expires_at: Option<String>,
    pub legal_hold: bool,
}

/// What was made of the content after the upload.
#[derive(Debug, Serialize)]
#[expect(missing_docs, reason = "openapi.yaml says it")]
pub struct ProcessingView {
    pub status: &'static str,
    pub error: Option<String>,
}

/// Where things are.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "openapi.yaml says it")]
pub struct LinksView {
    #[serde(rename = "self")]
    pub this: String,
    pub content: String,
    pub thumbnail: Option<String>,
    pub versions: Option<String>,
}

/// RFC 3339 in UTC with milliseconds.
pub fn timestamp(at: DateTime) -> String {
    clock::rfc3339(at.to_system_time())
}

impl AppState {
    /// Where a file is.
    pub fn file_url(&self, file: &FileDoc) -> String {
        format!("{}/v1/files/{}", self.public_url, file.file.to_hex())
    }

    /// Where its content is: on the host of content, where there is one.
    pub fn content_url(&self, file: &FileDoc) -> String {
        format!("{}/v1/files/{}/content", self.content_base, file.file.to_hex())
    }

    /// The answer to a request that made a file.
    pub fn created(&self, file: FileDoc) -> Response {
        let location = self.file_url(&file);
        let view = self.view(file);
        let headers = [(LOCATION, location), (ETAG, view.etag.clone()), (CACHE_CONTROL, "no-store".to_owned())];
        (StatusCode::CREATED, headers, Json(view)).into_response()
    }

    /// The answer to whoever made a file by a link: what they know already, and its id. Whether the tenant had the same
    /// content, and how it is kept, is not theirs to know.
    pub fn received(&self, file: FileDoc) -> Response {
        let view = self.view(file);
        let body = json!({
            "id": view.id,
            "name": view.name,
            "size": view.size,
            "contentType": view.content_type,
            "sha256": view.sha256,
            "createdAt": view.created_at,
        });
        (StatusCode::CREATED, [(CACHE_CONTROL, "no-store")], Json(body)).into_response()
    }

    /// The file as clients see it; without its digest where the client's key is needed to
    /// open it, or where it does not open.
    pub fn view(&self, file: FileDoc) -> FileView {
        let digest = self.files.digest(&file);
        let sha256 = digest.inspect_err(|error| {
            tracing::error!(file = %file.file, error = %error, cause = ?error.cause, "a digest does not open");
        });
        let sha256 = sha256.ok().flatten().map(|digest| digest.to_string());
        let (url, content_url) = (self.file_url(&file), self.content_url(&file));
        let content = &file.content;
        let compression = (content.codec != "identity").then(|| CompressionView {
            codec: content.codec.clone(),
            level: content.level,
            ratio: (content.size as f64 / content.stored_size.max(1) as f64 * 100.0).round() / 100.0,
        });
        let encryption = content.mode.clone().map(|mode| EncryptionView { mode, key_id: content.kid.clone() });
        let retention = &file.retention;
        let is_kept = retention.days.is_some() || retention.expires_at.is_some() || retention.legal_hold;
        let retention = is_kept.then(|| RetentionView {
            days: retention.days,
            expires_at: retention.expires_at.map(timestamp),
            legal_hold: retention.legal_hold,
        });
        FileView {
            id: file.file.to_hex(),
            etag: format!("\"{}\"", self.files.etag(&file)),
            name: file.name,
            size: content.size,
            stored_size: content.stored_size,
            content_type: file.content_type,
            declared_type: file.declared_type,
            kind: file.kind,
            bucket: content.bucket.clone(),
            sha256,
            compression,
            encryption,
            description: file.description,
            tags: file.tags,
            category: file.category,
            custom: custom::to_json(&Bson::Document(file.custom)),
            tenant: file.tenant,
            owner: file.owner,
            access: file.access,
            folder: file.folder,
            version: file.version,
            latest: file.latest,
            version_count: file.version,
            retention,
            downloads: file.downloads,
            last_accessed_at: file.last_accessed_at.map(timestamp),
            processing: ProcessingView { status: "skipped", error: None },
            media: Map::new(),
            deduplicated: file.deduplicated,
            created_at: timestamp(file.created_at),
            updated_at: timestamp(file.updated_at),
            links: LinksView { content: content_url, this: url, thumbnail: None, versions: None },
        }
    }
}
