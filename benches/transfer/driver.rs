//! The official driver's own GridFS streams, without a gateway.

#![expect(clippy::disallowed_methods, reason = "the driver's streams are the peer here")]

use futures::{AsyncReadExt, AsyncWriteExt};
use mongodb::Database;
use mongodb::bson::oid::ObjectId;

use crate::Outcome;
use crate::content::Body;

const BUFFER_LEN: usize = 256 << 10;

pub async fn upload(database: &Database, body: &Body) -> Outcome<String> {
    let mut file = database.gridfs_bucket(None).open_upload_stream("bench").await?;
    for piece in &body.pieces {
        file.write_all(piece).await?;
    }
    file.close().await?;
    Ok(file.id().as_object_id().ok_or("the driver's id is an ObjectId")?.to_hex())
}

pub async fn download(database: &Database, id: ObjectId) -> Outcome<()> {
    let mut file = database.gridfs_bucket(None).open_download_stream(id.into()).await?;
    let mut buffer = vec![0; BUFFER_LEN];
    while file.read(&mut buffer).await? > 0 {}
    Ok(())
}
