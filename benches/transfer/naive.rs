//! The gateway that people write first: axum in front of the driver's GridFS streams, 255 KiB chunks,
//! no hash, no compression, no encryption. The benchmark runs itself again as this.

#![expect(clippy::disallowed_methods, clippy::disallowed_types, reason = "the driver's streams are the peer here")]

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use futures::{AsyncReadExt, AsyncWriteExt, TryStreamExt, stream};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use mongodb::Client;
use mongodb::bson::{doc, oid::ObjectId};
use mongodb::gridfs::GridFsBucket;
use tokio::net::TcpListener;

use crate::Outcome;

const CHUNK_LEN: usize = 255 << 10;

/// What a handler fails with: nothing here is more than a 500.
struct Failed;

impl<E: std::error::Error> From<E> for Failed {
    fn from(error: E) -> Self {
        eprintln!("the naive gateway: {error}");
        Self
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        StatusCode::INTERNAL_SERVER_ERROR.into_response()
    }
}

/// Serves until the process is ended; tells its address first.
pub async fn serve(uri: &str, database: &str) -> Outcome<()> {
    let bucket = Client::with_uri_str(uri).await?.database(database).gridfs_bucket(None);
    let router = Router::new().route("/files/{key}", get(download).put(upload)).with_state(bucket);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("listening on http://{}", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let service = TowerToHyperService::new(router.clone());
        let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        // How a connection ends is the client's matter.
        tokio::spawn(async move { drop(connection.await) });
    }
}

async fn upload(
    Path(name): Path<String>,
    State(bucket): State<GridFsBucket>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Failed> {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let mut file = bucket.open_upload_stream(name).metadata(doc! { "contentType": content_type }).await?;
    let mut pieces = body.into_data_stream();
    while let Some(piece) = pieces.try_next().await? {
        file.write_all(&piece).await?;
    }
    file.close().await?;
    let id = file.id().as_object_id().ok_or(Failed)?;
    Ok((StatusCode::CREATED, format!("{{\"id\":\"{id}\"}}")).into_response())
}

async fn download(
    Path(id): Path<String>,
    State(bucket): State<GridFsBucket>,
    headers: HeaderMap,
) -> Result<Response, Failed> {
    let id = ObjectId::parse_str(&id)?;
    let file = bucket.find_one(doc! { "_id": id }).await?.ok_or(Failed)?;
    let range =
        headers.get(header::RANGE).and_then(|value| value.to_str().ok()?.strip_prefix("bytes=")?.split_once('-'));
    let (status, from, end) = match range {
        Some((from, to)) => (StatusCode::PARTIAL_CONTENT, from.parse()?, to.parse::<u64>()? + 1),
        None => (StatusCode::OK, 0, file.length),
    };
    let mut stored = bucket.open_download_stream(id.into()).await?;
    // The driver cannot seek: what comes before is read and dropped.
    futures::io::copy((&mut stored).take(from), &mut futures::io::sink()).await?;
    let pieces = stream::try_unfold(stored.take(end - from), |mut stored| async {
        let mut buffer = vec![0; CHUNK_LEN];
        let read = stored.read(&mut buffer).await?;
        buffer.truncate(read);
        Ok::<_, std::io::Error>((read > 0).then(|| (Bytes::from(buffer), stored)))
    });
    Ok((status, [(header::CONTENT_LENGTH, end - from)], Body::from_stream(pieces)).into_response())
}
