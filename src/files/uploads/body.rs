//! The body of an append: one that is compared with its digests, or makes way for a newer writer, and pieces of it that
//! become segments.

use std::sync::{Arc, PoisonError};
use std::task::Poll;

use bytes::Bytes;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::Verdict;
use crate::files::put::{ExpectedDigests, check_digests, hash_sha512};
use crate::format::digest::Sha256Stream;
use crate::pipeline::frames::FrameSource;
use crate::pipeline::{BodyError, BodyStream};

/// A body that is hashed as it passes, and what compares that with its digests, where there are any.
pub(super) fn digested(body: BodyStream, expected: ExpectedDigests) -> (BodyStream, Option<Verdict>) {
    if expected.sha256.is_empty() && expected.sha512.is_empty() {
        return (body, None);
    }
    let (body, sha512) = hash_sha512(body, !expected.sha512.is_empty());
    let running = Arc::new(std::sync::Mutex::new(Sha256Stream::default()));
    let seen = Arc::clone(&running);
    let body = body.inspect_ok(move |piece: &Bytes| {
        seen.lock().unwrap_or_else(PoisonError::into_inner).update(piece);
    });
    let verdict = move || {
        let running = std::mem::take(&mut *running.lock().unwrap_or_else(PoisonError::into_inner));
        check_digests(&expected, Some(running.finish()), &sha512)
    };
    (body.boxed(), Some(Box::new(verdict)))
}

/// A body that ends where it stands still once somebody else wants to write.
pub(super) fn making_way(mut body: BodyStream, interrupted: CancellationToken) -> BodyStream {
    let mut cancelled = Box::pin(interrupted.cancelled_owned());
    let pieces = stream::poll_fn(move |cx| match body.poll_next_unpin(cx) {
        Poll::Pending if cancelled.poll_unpin(cx).is_ready() => Poll::Ready(None),
        polled => polled,
    });
    pieces.boxed()
}

/// Up to `most` bytes of a body that others go on with; ends where that breaks off, and notes how.
pub(super) fn piece_of(
    body: Arc<Mutex<FrameSource<BodyStream>>>,
    most: u64,
    cut: Arc<std::sync::Mutex<Option<BodyError>>>,
) -> BodyStream {
    let pieces = stream::unfold((body, most, cut), |(body, most, cut)| async move {
        if most == 0 {
            return None;
        }
        let mut source = body.lock().await;
        let come = match source.fill(1).await {
            Ok(come) => come,
            Err(error) => {
                *cut.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                source.at_hand()
            }
        };
        if come == 0 {
            return None;
        }
        let taken = source.take(usize::try_from(most).unwrap_or(usize::MAX));
        drop(source);
        let len: u64 = taken.iter().map(|piece| piece.len() as u64).sum();
        Some((Ok(stream::iter(taken.into_iter().map(Ok))), (body, most - len, cut)))
    });
    pieces.try_flatten().boxed()
}
