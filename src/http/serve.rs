//! The listener: accepts connections up to a cap, times their heads, and drains on request.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::util::MapRequest;

use super::ServerSettings;
use super::tls::Tls;

/// Pause after a failed accept, mostly for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
type Request = http::Request<Incoming>;

/// Where a request came from, as the operating system says, and how; no header can change it.
#[derive(Debug, Clone, Copy)]
pub struct Peer {
    /// Its address and port.
    pub address: SocketAddr,
    /// Whether it speaks TLS with this gateway.
    pub is_tls: bool,
}

impl Peer {
    /// Whether it is on this machine.
    pub fn is_loopback(self) -> bool {
        self.address.ip().to_canonical().is_loopback()
    }
}

/// Streams of one HTTP/2 connection.
const MAX_STREAMS: u32 = 128;

/// Serves until `stop` is cancelled, then drains.
///
/// New connections are refused at once; requests under way may finish within the drain time and are
/// cut after it. When this returns no connection is left.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    settings: &ServerSettings,
    tls: Option<Arc<Tls>>,
    stop: CancellationToken,
) {
    let builder = Arc::new(builder(settings));
    let slots = Arc::new(Semaphore::new(settings.max_connections as usize));
    let (graceful, connections, cut) = (GracefulShutdown::new(), TaskTracker::new(), CancellationToken::new());
    let head_timeout = Duration::from_secs(settings.head_timeout_secs);
    while let Some((stream, address, slot)) = accept(&listener, &slots, &stop).await {
        let peer = Peer { address, is_tls: tls.is_some() };
        let (service, first) = watch_first_request(router.clone(), peer);
        let (builder, tls, watcher) = (Arc::clone(&builder), tls.clone(), graceful.watcher());
        let (cut, stop) = (cut.clone(), stop.clone());
        connections.spawn(async move {
            let connection = async {
                // A client that has not shaken hands when the server stops has asked for nothing.
                match stop.run_until_cancelled(shake_hands(stream, tls)).await {
                    Some(Ok(stream)) => {
                        let connection = builder.serve_connection(TokioIo::new(stream), service);
                        watcher.watch(connection).await
                    }
                    Some(Err(error)) => Err(error.into()),
                    None => Ok(()),
                }
            };
            let first_came = async {
                tokio::time::sleep(head_timeout).await;
                // Only the first request is timed here: what precedes it, TLS and the protocol's version, is
                // timed nowhere else.
                if first.is_cancelled() {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                ended = connection => {
                    if let Err(error) = ended {
                        tracing::debug!(error = %error, "a connection ended");
                    }
                }
                () = first_came => tracing::debug!("closed a connection that sent no request"),
                () = cut.cancelled() => {}
            }
            drop(slot);
        });
    }
    drop(listener);
    let drain = Duration::from_secs(settings.drain_secs);
    if tokio::time::timeout(drain, graceful.shutdown()).await.is_err() {
        tracing::warn!(drain_secs = settings.drain_secs, "cut the requests that did not finish in time");
    }
    cut.cancel();
    connections.close();
    connections.wait().await;
}

/// The stream as HTTP is spoken on it.
async fn shake_hands(
    stream: TcpStream,
    tls: Option<Arc<Tls>>,
) -> std::io::Result<Either<TcpStream, TlsStream<TcpStream>>> {
    match tls {
        Some(tls) => Ok(Either::Right(tls.accept(stream).await?)),
        None => Ok(Either::Left(stream)),
    }
}

/// The next connection, its peer's address and its slot; none when stopping.
async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
    stop: &CancellationToken,
) -> Option<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    loop {
        let next = async {
            let slot = Arc::clone(slots).acquire_owned().await;
            (listener.accept().await, slot)
        };
        match stop.run_until_cancelled(next).await? {
            (Ok((stream, peer)), Ok(slot)) => {
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(error = %error, "could not set TCP_NODELAY");
                }
                return Some((stream, peer, slot));
            }
            (Err(error), _) => {
                tracing::warn!(error = %error, "could not accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
            (_, Err(_)) => return None,
        }
    }
}

/// The router as the service of a peer's connection, and a token that its first request cancels.
fn watch_first_request(
    router: Router,
    peer: Peer,
) -> (TowerToHyperService<MapRequest<Router, impl Fn(Request) -> Request + Clone>>, CancellationToken) {
    let first = CancellationToken::new();
    let seen = first.clone();
    let watched = MapRequest::new(router, move |mut request: Request| {
        seen.cancel();
        request.extensions_mut().insert(peer);
        request
    });
    (TowerToHyperService::new(watched), first)
}

fn builder(settings: &ServerSettings) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(settings.head_timeout_secs))
        .keep_alive(true);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(20));
    builder
}
