//! How often somebody may ask: by address, by credential, and with credentials that are wrong. Counted on each gateway
//! for itself, by the generic cell rate algorithm of the crate `governor`. Knows no bytes and no bodies.

use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::{PoisonError, RwLock};

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use governor::clock::{Clock, DefaultClock};
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};
use serde::Deserialize;

use super::AppState;
use super::client::Client;
use crate::error::{Error, ErrorCode};
use crate::files::access::Principal;
use crate::store::Id;

/// Keys that are counted at once. One more, and all begin anew: who has so many addresses is not held up by a count
/// of each.
const KEYS: usize = 100_000;
const MOST: u32 = 1_000_000;
/// Addresses that may try passwords of one share as often as one may.
const ADDRESSES: u32 = 30;
/// Comments on one share from one address in a minute.
const COMMENTS: NonZeroU32 = NonZeroU32::new(20).expect("it is not 0");
/// What orchestrators ask, however often.
const HEALTH: [&str; 2] = ["/livez", "/readyz"];

/// How often somebody may ask; 0: as often as they like.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitSettings {
    /// Requests from one address in a second.
    pub address_per_sec: u32,
    /// Requests with one credential in a second.
    pub credential_per_sec: u32,
    /// Wrong credentials from one address in a minute.
    pub wrong_credentials_per_min: u32,
    /// Passwords tried on one share from one address in a minute.
    pub share_passwords_per_min: u32,
}

impl LimitSettings {
    /// Names the first setting out of its range.
    pub fn check(&self) -> Result<(), String> {
        let settings = [
            ("limits.address_per_sec", self.address_per_sec),
            ("limits.credential_per_sec", self.credential_per_sec),
            ("limits.wrong_credentials_per_min", self.wrong_credentials_per_min),
            ("limits.share_passwords_per_min", self.share_passwords_per_min),
        ];
        match settings.into_iter().find(|(_, value)| *value > MOST) {
            Some((key, value)) => Err(format!("{key}: {value} is not between 0 and {MOST}")),
            None => Ok(()),
        }
    }
}

/// The counts of a gateway.
pub struct Limits {
    addresses: Option<Counter<IpAddr>>,
    credentials: Option<Counter<(String, String)>>,
    wrong: Option<Counter<IpAddr>>,
    passwords: Option<Counter<(Id, IpAddr)>>,
    passwords_of_share: Option<Counter<Id>>,
    comments: Counter<(Id, IpAddr)>,
}

impl Limits {
    /// Counts from nothing.
    pub fn new(settings: &LimitSettings) -> Self {
        let per_sec = |most| NonZeroU32::new(most).map(Quota::per_second);
        Self {
            addresses: per_sec(settings.address_per_sec).map(Counter::new),
            credentials: per_sec(settings.credential_per_sec).map(Counter::new),
            passwords: NonZeroU32::new(settings.share_passwords_per_min).map(Quota::per_minute).map(Counter::new),
            passwords_of_share: NonZeroU32::new(settings.share_passwords_per_min.saturating_mul(ADDRESSES))
                .map(Quota::per_minute)
                .map(Counter::new),
            comments: Counter::new(Quota::per_minute(COMMENTS)),
            wrong: NonZeroU32::new(settings.wrong_credentials_per_min).map(Quota::per_minute).map(Counter::new),
        }
    }

    /// Counts a request of somebody who is known.
    ///
    /// # Errors
    /// `too_many_requests`.
    pub fn count(&self, principal: &Principal) -> Result<(), Error> {
        let key = || (principal.tenant.clone(), principal.actor.clone());
        self.credentials.as_ref().map_or(Ok(()), |counter| counter.count(key()))
    }

    /// Counts a credential that is wrong.
    ///
    /// # Errors
    /// `too_many_requests`.
    pub fn count_wrong(&self, client: Client) -> Result<(), Error> {
        self.wrong.as_ref().map_or(Ok(()), |counter| counter.count(network_of(client)))
    }
}

impl Limits {
    /// Counts a password that is tried on a share.
    ///
    /// # Errors
    /// `too_many_requests`.
    pub fn count_password(&self, share: Id, client: Client) -> Result<(), Error> {
        self.passwords.as_ref().map_or(Ok(()), |counter| counter.count((share, network_of(client))))?;
        self.passwords_of_share.as_ref().map_or(Ok(()), |counter| counter.count(share))
    }

    /// Counts a comment on a share.
    ///
    /// # Errors
    /// `too_many_requests`.
    pub fn count_comment(&self, share: Id, client: Client) -> Result<(), Error> {
        self.comments.count((share, network_of(client)))
    }
}

/// Refuses a request from an address that asks too often.
pub async fn admit(State(state): State<AppState>, request: Request, next: Next) -> Response {
    if let Some(counter) = &state.limits.addresses
        && !HEALTH.contains(&request.uri().path())
    {
        let client = Client::of(request.headers(), request.extensions(), &state.trusted_proxies);
        if let Err(error) = counter.count(network_of(client)) {
            return error.into_response();
        }
    }
    next.run(request).await
}

/// Who is counted as one: an address of version 4, and what one subscriber has of version 6, 64 bits (RFC 6177).
/// Whom a proxy does not name are one.
fn network_of(client: Client) -> IpAddr {
    match client.ip() {
        Some(IpAddr::V6(ip)) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX))),
        Some(ip) => ip,
        None => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}

type Keyed<K> = RateLimiter<K, HashMapStateStore<K>, DefaultClock>;

/// Counts by key.
struct Counter<K: Clone + Eq + Hash> {
    quota: Quota,
    limiter: RwLock<Keyed<K>>,
}

impl<K: Clone + Eq + Hash> Counter<K> {
    fn new(quota: Quota) -> Self {
        Self { quota, limiter: RwLock::new(RateLimiter::hashmap(quota)) }
    }

    fn count(&self, key: K) -> Result<(), Error> {
        let (outcome, keys) = {
            let limiter = self.limiter.read().unwrap_or_else(PoisonError::into_inner);
            (limiter.check_key(&key), limiter.len())
        };
        if keys > KEYS {
            *self.limiter.write().unwrap_or_else(PoisonError::into_inner) = RateLimiter::hashmap(self.quota);
        }
        outcome.map_err(|until| {
            let wait = until.wait_time_from(DefaultClock::default().now());
            let error = Error::new(ErrorCode::TooManyRequests, "Ask again later, and less often.");
            error.with("retryAfterSecs", wait.as_secs() + 1)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_has_its_own_count_and_there_are_not_too_many() {
        let quota = Quota::per_minute(NonZeroU32::new(3).expect("not 0"));
        let counter = Counter::new(quota);
        let outcomes: Vec<_> = (0..5).map(|_| counter.count(0).is_ok()).collect();
        assert_eq!(outcomes, [true, true, true, false, false]);
        let refused = counter.count(0).expect_err("beyond the limit");
        assert_eq!((refused.code, refused.number("retryAfterSecs")), (ErrorCode::TooManyRequests, Some(20)));
        assert!(counter.count(1).is_ok(), "another key");
        for key in 2..2 * KEYS {
            assert!(counter.count(key).is_ok());
        }
        assert!(counter.limiter.read().expect("a lock").len() <= KEYS + 1);
    }

    #[test]
    fn of_version_6_a_network_is_one() {
        let network = |ip: &str| network_of(Client::at(ip.parse().expect("an address")));
        assert_eq!(network("2001:db8::1"), network("2001:db8::ffff:1"));
        assert_ne!(network("2001:db8::1"), network("2001:db8:0:1::1"));
        assert_ne!(network("192.0.2.1"), network("192.0.2.2"));
    }
}
