//! `Accept-Encoding`: whether a client takes the stored coding as it is; `Accept`: whether it takes a page.
//!
//! It does not choose among several codings, and does not set `Content-Encoding` or `Vary`.

use http::header::{ACCEPT, ACCEPT_ENCODING, HeaderMap};

/// A coding the content can be sent in.
///
/// # Source
/// RFC 9110 §8.4.1 (`gzip`, with its alias `x-gzip`), RFC 8878 and RFC 9659 (`zstd`), RFC 9110
/// §12.5.3 (`identity`)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    /// The plain bytes.
    Identity,
    /// Zstandard frames.
    Zstd,
    /// Gzip members.
    Gzip,
}

/// Answers whether a request accepts a coding.
///
/// Identity is accepted unless refused by `identity;q=0`, or by `*;q=0` without a word on identity.
/// Another coding is accepted only when named, or covered by `*`, with a weight above zero, and
/// when identity is not weighted strictly higher; without the header nothing but identity is.
/// Malformed members are ignored, and of a coding named more than once the lowest weight counts.
///
/// # Source
/// RFC 9110 §12.5.3 and §12.4.2 (weights)
pub fn accepts(headers: &HeaderMap, coding: Coding) -> bool {
    let weights = Weights::read(headers);
    let identity = weights.identity.or(weights.any);
    let named = match coding {
        Coding::Identity => return identity != Some(0),
        Coding::Zstd => weights.zstd,
        Coding::Gzip => weights.gzip,
    };
    let weight = named.or(weights.any).unwrap_or(0);
    weight > 0 && identity.unwrap_or(0) <= weight
}

/// The weight that `Accept` gives a media type by its name, in thousandths; None where it does not name it.
///
/// # Source
/// RFC 9110 §12.5.1; ranges such as `text/*` are not looked at.
pub fn weight_of_type(headers: &HeaderMap, name: &str) -> Option<u16> {
    let lines = headers.get_all(ACCEPT);
    let mut members = lines.iter().flat_map(|line| line.as_bytes().split(|&byte| byte == b','));
    members.find_map(|member| {
        let mut halves = member.split(|&byte| byte == b';');
        let is_it = halves.next()?.trim_ascii().eq_ignore_ascii_case(name.as_bytes());
        is_it.then(|| halves.find_map(weight_of).unwrap_or(1000))
    })
}

/// The weights a request gives, in thousandths; None where it says nothing.
#[derive(Default)]
struct Weights {
    identity: Option<u16>,
    zstd: Option<u16>,
    gzip: Option<u16>,
    any: Option<u16>,
}

impl Weights {
    /// Reads every line of the header as one list (RFC 9110 §5.3).
    fn read(headers: &HeaderMap) -> Self {
        let mut weights = Self::default();
        let lines = headers.get_all(ACCEPT_ENCODING);
        for member in lines.iter().flat_map(|line| line.as_bytes().split(|&byte| byte == b',')) {
            let mut halves = member.splitn(2, |&byte| byte == b';');
            let name = halves.next().unwrap_or_default().trim_ascii();
            let weight = match halves.next() {
                Some(parameter) => weight_of(parameter),
                None => Some(1000),
            };
            if let (Some(slot), Some(weight)) = (weights.slot(name), weight) {
                *slot = Some(slot.map_or(weight, |lowest| lowest.min(weight)));
            }
        }
        weights
    }

    /// The place of a coding by its name, which is case-insensitive (RFC 9110 §8.4.1).
    fn slot(&mut self, name: &[u8]) -> Option<&mut Option<u16>> {
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        if is("gzip") || is("x-gzip") {
            Some(&mut self.gzip)
        } else if is("zstd") {
            Some(&mut self.zstd)
        } else if is("identity") {
            Some(&mut self.identity)
        } else if is("*") {
            Some(&mut self.any)
        } else {
            None
        }
    }
}

/// The weight of one member in thousandths; None when it is not a weight.
///
/// # Source
/// RFC 9110 §12.4.2: at most three digits after the point, and nothing above 1
fn weight_of(parameter: &[u8]) -> Option<u16> {
    let (name, value) = parameter.trim_ascii().split_at_checked(2)?;
    let (whole, decimals) = match value {
        [whole] => (whole, &[][..]),
        [whole, b'.', decimals @ ..] if decimals.len() <= 3 => (whole, decimals),
        _ => return None,
    };
    if !name.eq_ignore_ascii_case(b"q=") || !decimals.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let thousandths = decimals.iter().zip([100, 10, 1]).map(|(digit, unit)| u16::from(digit - b'0') * unit).sum();
    match whole {
        b'0' => Some(thousandths),
        b'1' if thousandths == 0 => Some(1000),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use http::header::{ACCEPT_ENCODING, HeaderMap, HeaderValue};
    use proptest::prelude::*;

    use super::{Coding, accepts, weight_of};
    use Coding::{Gzip, Identity, Zstd};

    fn map(lines: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(ACCEPT_ENCODING, HeaderValue::from_bytes(line.as_bytes()).expect("a header value"));
        }
        headers
    }

    /// Whether identity, zstd and gzip are accepted, in this order.
    fn accepted(lines: &[&str]) -> [bool; 3] {
        [Identity, Zstd, Gzip].map(|coding| accepts(&map(lines), coding))
    }

    #[test]
    fn absent_or_empty_header_means_identity_only() {
        assert_eq!(accepted(&[]), [true, false, false]);
        assert_eq!(accepted(&[""]), [true, false, false]);
        assert_eq!(accepted(&[" , ,"]), [true, false, false]);
    }

    #[test]
    fn only_a_named_coding_counts() {
        assert_eq!(accepted(&["gzip"]), [true, false, true]);
        assert_eq!(accepted(&["zstd, br"]), [true, true, false]);
        assert_eq!(accepted(&["br", "deflate;q=1", "GZip ; Q=0.001"]), [true, false, true]);
        assert_eq!(accepted(&["x-gzip"]), [true, false, true]);
        assert_eq!(accepted(&["gzip2, xzstd"]), [true, false, false]);
    }

    #[test]
    fn zero_refuses() {
        assert_eq!(accepted(&["gzip;q=0, zstd;q=0.000"]), [true, false, false]);
        assert_eq!(accepted(&["gzip;q=0, *"]), [true, true, false]);
        assert_eq!(accepted(&["x-gzip;q=0, gzip"]), [true, false, false]);
        assert_eq!(accepted(&["identity;q=0, zstd"]), [false, true, false]);
        assert_eq!(accepted(&["*;q=0"]), [false, false, false]);
        assert_eq!(accepted(&["*;q=0, identity;q=0.1"]), [true, false, false]);
        assert_eq!(accepted(&["*;q=0, gzip"]), [false, false, true]);
    }

    #[test]
    fn star_covers_what_is_not_named() {
        assert_eq!(accepted(&["*"]), [true, true, true]);
        assert_eq!(accepted(&["*;q=0.5, gzip;q=0.1"]), [true, true, false]);
    }

    #[test]
    fn identity_is_preferred_only_when_strictly_higher() {
        assert_eq!(accepted(&["identity, gzip;q=0.5, zstd"]), [true, true, false]);
        assert_eq!(accepted(&["identity;q=0.5, gzip;q=0.5"]), [true, false, true]);
        assert_eq!(accepted(&["identity;q=0.501, gzip;q=0.5"]), [true, false, false]);
    }

    #[test]
    fn malformed_members_are_ignored() {
        for member in ["gzip;q=2", "gzip;q=1.001", "gzip;q=0.1234", "gzip;q=-1", "gzip;q", "gzip;q=", "gzip;level=9"] {
            assert_eq!(accepted(&[member, "zstd"]), [true, true, false], "{member}");
        }
        for member in ["gzip;", "gzip;q=.5", "gzip;q=1;q=1", "gzip zstd", "gzip;q=\"1\"", "gzip;q = 1", "gzip;q=é"] {
            assert_eq!(accepted(&[member, "zstd"]), [true, true, false], "{member}");
        }
    }

    #[test]
    fn weights_keep_three_digits() {
        for (text, expected) in [("q=1", 1000), ("q=1.", 1000), ("q=1.000", 1000), ("q=0", 0), ("q=0.", 0)] {
            assert_eq!(weight_of(text.as_bytes()), Some(expected), "{text}");
        }
        for (text, expected) in [("q=0.5", 500), ("q=0.05", 50), ("q=0.005", 5), ("q=0.999", 999), (" q=0.1 ", 100)] {
            assert_eq!(weight_of(text.as_bytes()), Some(expected), "{text}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_headers_never_panic(line in any::<Vec<u8>>()) {
            let mut headers = HeaderMap::new();
            if let Ok(value) = HeaderValue::from_bytes(&line) {
                headers.append(ACCEPT_ENCODING, value);
            }
            for coding in [Identity, Zstd, Gzip] {
                accepts(&headers, coding);
            }
        }

        #[test]
        fn coding_counts_exactly_when_its_weight_reaches_identity(own in 0u16..=1000, identity in 0u16..=1000) {
            let q = |weight: u16| format!("{}.{:03}", weight / 1000, weight % 1000);
            let line = format!("zstd;q={}, identity;q={}", q(own), q(identity));
            prop_assert_eq!(accepted(&[&line]), [identity > 0, own > 0 && own >= identity, false]);
        }
    }
}
