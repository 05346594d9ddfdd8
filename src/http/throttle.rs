//! Downloads that are sent no faster than their client asks for. Knows nothing of files; a download without a rate
//! passes as it is.

use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures::stream::{self, TryStreamExt};
use tokio::time::{Instant, sleep_until};

use crate::error::Error;

const LEAST: u64 = 1 << 10;
const MOST: u64 = 1 << 30;
/// How long one slice of a paced body lasts, and how much a late timer may make up for.
const TICK: Duration = Duration::from_millis(50);

/// Bytes a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate(u64);

impl Rate {
    /// The value of `throttle`.
    ///
    /// # Errors
    /// `bad_request`, for what is no number of bytes a second between 1 KiB and 1 GiB.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
        let rate = text.parse().ok().filter(|rate| is_number && (LEAST..=MOST).contains(rate)).map(Self);
        rate.ok_or_else(|| Error::bad_request("throttle", format!("throttle is {LEAST} to {MOST} bytes a second.")))
    }

    fn slice_len(self) -> usize {
        (self.0 as f64 * TICK.as_secs_f64()) as usize
    }

    fn time_of(self, len: usize) -> Duration {
        Duration::from_secs_f64(len as f64 / self.0 as f64)
    }
}

/// The body in slices, each when its time has come. Holds one piece of the body and asks for the next when that is
/// sent; a client that was slower than the rate for a while gets no burst for it.
pub fn paced(body: Body, rate: Option<Rate>) -> Body {
    let Some(rate) = rate else { return body };
    let begun = (body.into_data_stream(), Bytes::new(), Instant::now());
    Body::from_stream(stream::try_unfold(begun, move |(mut pieces, mut piece, due)| async move {
        while piece.is_empty() {
            match pieces.try_next().await? {
                Some(next) => piece = next,
                None => return Ok::<_, axum::Error>(None),
            }
        }
        let slice = piece.split_to(piece.len().min(rate.slice_len()));
        sleep_until(due).await;
        let due = due.max(Instant::now() - TICK) + rate.time_of(slice.len());
        Ok(Some((slice, (pieces, piece, due))))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_number_within_bounds() {
        assert_eq!(Rate::parse("1024").expect("the least"), Rate(1024));
        assert_eq!(Rate::parse("1073741824").expect("the most"), Rate(1 << 30));
        for bad in ["", "0", "1023", "1073741825", "+2048", "2048.0", "1e6", "-1", " 2048", "99999999999999999999999"] {
            let error = Rate::parse(bad).expect_err(bad);
            assert!(error.members.contains(&("field", "throttle".into())), "{bad}");
        }
    }

    #[tokio::test]
    async fn a_client_that_paused_gets_no_burst() {
        let rate = Rate(100_000);
        let mut slices = paced(Body::from(vec![7; 40_000]), Some(rate)).into_data_stream();
        let first = slices.try_next().await.expect("no error").expect("a slice");
        assert_eq!(first.len(), 5_000, "a twentieth of a second");
        tokio::time::sleep(Duration::from_millis(300)).await;
        let resumed = Instant::now();
        let mut len = 0;
        while let Some(slice) = slices.try_next().await.expect("no error") {
            len += slice.len();
        }
        assert_eq!(len, 35_000);
        // One slice at once and one that makes up for a late timer; five in their time.
        assert!(resumed.elapsed() >= Duration::from_millis(245), "{:?}", resumed.elapsed());
    }
}
