//! Cookies: a server's proof, without keeping anything, that a peer receives at the address it sends from. A client that
//! cannot show the cookie made for its address and attempt gets a small answer with one, and costs a few hashes.

use std::time::{Duration, Instant};

use ring::hmac;
use subtle::ConstantTimeEq;

use super::Key;

/// Bytes of a cookie.
pub const COOKIE_BYTES: usize = 16;

/// Longer addresses are not told apart by what exceeds this.
const ADDRESS_MAX_BYTES: usize = 64;
const BUCKET_BYTES: usize = 8;

/// What a cookie is bound to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CookieInput<'a> {
    /// Where the peer's packet came from, as bytes; up to 64 count.
    pub address: &'a [u8],
    /// The incarnation that the peer claims.
    pub client: u128,
    /// The peer's attempt.
    pub attempt: u64,
}

/// Makes and checks cookies. A cookie is HMAC-SHA256 (RFC 2104), cut to 16 bytes, over the number of the period that it was
/// made in and what it is bound to. It is good in that period and the next one.
#[derive(Debug)]
pub struct Cookies {
    key: hmac::Key,
    start: Instant,
    period: Duration,
}

impl Cookies {
    /// Cookies under a `secret` that is drawn at start and told to nobody. One is good for at least `period` (a few
    /// seconds), and at most twice as long.
    ///
    /// # Panics
    /// When `period` is zero.
    pub fn new(secret: &Key, period: Duration, now: Instant) -> Self {
        assert!(!period.is_zero(), "cookies that are never good");
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, secret.bytes()), start: now, period }
    }

    /// A cookie for a peer. Does not allocate.
    pub fn make(&self, now: Instant, input: &CookieInput<'_>) -> [u8; COOKIE_BYTES] {
        self.cookie(self.bucket(now), input)
    }

    /// Whether a peer shows the cookie that was made for it this period or last. Takes equally long for all wrong ones.
    pub fn check(&self, now: Instant, input: &CookieInput<'_>, cookie: &[u8; COOKIE_BYTES]) -> bool {
        let bucket = self.bucket(now);
        let is_of = |bucket| self.cookie(bucket, input).ct_eq(cookie);
        let is_recent = bucket.checked_sub(1).map_or(subtle::Choice::from(0), is_of);
        (is_of(bucket) | is_recent).into()
    }

    fn bucket(&self, now: Instant) -> u64 {
        let since_start = now.saturating_duration_since(self.start);
        u64::try_from(since_start.as_nanos() / self.period.as_nanos()).unwrap_or(u64::MAX)
    }

    /// All parts have a fixed length, the last one excepted, so that no two inputs have the same bytes.
    fn cookie(&self, bucket: u64, input: &CookieInput<'_>) -> [u8; COOKIE_BYTES] {
        let mut bytes = [0; BUCKET_BYTES + 16 + 8 + ADDRESS_MAX_BYTES];
        let address = &input.address[..input.address.len().min(ADDRESS_MAX_BYTES)];
        let mut end = 0;
        for part in [&bucket.to_le_bytes()[..], &input.client.to_le_bytes(), &input.attempt.to_le_bytes(), address] {
            bytes[end..end + part.len()].copy_from_slice(part);
            end += part.len();
        }
        let tag = hmac::sign(&self.key, &bytes[..end]);
        let mut cookie = [0; COOKIE_BYTES];
        cookie.copy_from_slice(&tag.as_ref()[..COOKIE_BYTES]);
        cookie
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PERIOD: Duration = Duration::from_secs(4);

    fn cookies(start: Instant) -> Cookies {
        Cookies::new(&Key::from_bytes([7; 32]), PERIOD, start)
    }

    #[test]
    fn a_cookie_is_good_for_one_to_two_periods() {
        let start = Instant::now();
        let cookies = cookies(start);
        let input = CookieInput { address: &[1; 6], client: 2, attempt: 3 };
        for made_after in [Duration::ZERO, PERIOD / 2, PERIOD - Duration::from_nanos(1), PERIOD * 1_000_000] {
            let made = start + made_after;
            let cookie = cookies.make(made, &input);
            assert!(cookies.check(made, &input, &cookie));
            assert!(cookies.check(made + PERIOD, &input, &cookie));
            assert!(!cookies.check(made + 2 * PERIOD, &input, &cookie));
        }
        let later = cookies.make(start + PERIOD, &input);
        assert!(!cookies.check(start, &input, &later), "not before it was made");
    }

    /// The value is from HMAC-SHA256 by another implementation.
    #[test]
    fn known_answer() {
        let start = Instant::now();
        let input = CookieInput { address: &[1, 2, 3, 4, 5, 6], client: 2, attempt: 3 };
        let cookie = cookies(start).make(start + PERIOD * 9, &input);
        assert_eq!(format!("{:032x}", u128::from_be_bytes(cookie)), KNOWN);
    }

    const KNOWN: &str = "b9537ba3cfb562090918072d2a994528";

    proptest! {
        #[test]
        fn good_for_nothing_else(
            address in prop::collection::vec(any::<u8>(), 0..20),
            client: u128,
            attempt: u64,
            bit in 0usize..128,
            other in prop::collection::vec(any::<u8>(), 0..20),
        ) {
            let now = Instant::now();
            let cookies = cookies(now);
            let input = CookieInput { address: &address, client, attempt };
            let cookie = cookies.make(now, &input);
            prop_assert!(cookies.check(now, &input, &cookie));
            let other_client = CookieInput { client: client ^ 1 << bit, ..input };
            prop_assert!(!cookies.check(now, &other_client, &cookie));
            let other_attempt = CookieInput { attempt: attempt ^ 1 << (bit % 64), ..input };
            prop_assert!(!cookies.check(now, &other_attempt, &cookie));
            let elsewhere = CookieInput { address: &other, ..input };
            prop_assert_eq!(cookies.check(now, &elsewhere, &cookie), other == address);
            let mut wrong = cookie;
            wrong[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(!cookies.check(now, &input, &wrong));
            let foreign = Cookies::new(&Key::from_bytes([8; 32]), PERIOD, now);
            prop_assert!(!foreign.check(now, &input, &cookie));
        }
    }
}
