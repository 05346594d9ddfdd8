//! `Repr-Digest` and `Content-Digest` of an upload. Reads what is announced; compares nothing.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, HeaderValue};
use sfv::{Dictionary, ListEntry, Parser};

use crate::error::Error;
use crate::files::put::ExpectedDigests;
use crate::format::digest::Sha256Digest;

pub(super) static REPR_DIGEST: HeaderName = HeaderName::from_static("repr-digest");
const HEADERS: [(&str, &str); 2] = [("repr-digest", "Repr-Digest"), ("content-digest", "Content-Digest")];

/// The digests a client announced: of the content, and of the body as it is sent. They differ for a
/// form only.
#[derive(Debug, Default)]
pub struct Announced {
    /// `Repr-Digest`.
    pub repr: ExpectedDigests,
    /// `Content-Digest`.
    pub content: ExpectedDigests,
}

impl Announced {
    /// The digests of a body that is the content.
    pub fn both(mut self) -> ExpectedDigests {
        self.repr.sha256.append(&mut self.content.sha256);
        self.repr.sha512.append(&mut self.content.sha512);
        self.repr
    }
}

/// The announced SHA-256 and SHA-512 digests; other algorithms are ignored.
///
/// # Errors
/// `bad_header` for a value that is no dictionary of byte sequences, or of a wrong length.
///
/// # Source
/// RFC 9530 §2 and §3; RFC 9651 §3.2.
pub fn announced(headers: &HeaderMap) -> Result<Announced, Error> {
    let mut announced = Announced::default();
    for (name, shown) in HEADERS {
        let expected = if name == "repr-digest" { &mut announced.repr } else { &mut announced.content };
        let malformed = || Error::bad_header(shown, format!("{shown} is not a dictionary of digests."));
        let values: Vec<_> = headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
        let digests: Dictionary = Parser::new(&values.join(&b", "[..])).parse().map_err(|_| malformed())?;
        if digests.is_empty() && !values.is_empty() {
            return Err(malformed());
        }
        for (algorithm, value) in &digests {
            let ListEntry::Item(item) = value else { return Err(malformed()) };
            let digest = item.bare_item.as_byte_sequence().ok_or_else(malformed)?.to_vec();
            match algorithm.as_str() {
                "sha-256" => expected.sha256.push(digest.try_into().map_err(|_| malformed())?),
                "sha-512" => expected.sha512.push(digest.try_into().map_err(|_| malformed())?),
                _ => {}
            }
        }
    }
    Ok(announced)
}

/// The value of `Repr-Digest` for a SHA-256.
pub fn repr_digest(sha256: Sha256Digest) -> String {
    format!("sha-256=:{}:", STANDARD.encode(sha256.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(value: &str) -> Result<ExpectedDigests, Error> {
        let mut headers = HeaderMap::new();
        headers.insert("repr-digest", value.parse().expect("a header value"));
        announced(&headers).map(Announced::both)
    }

    #[test]
    fn a_digest_comes_back_as_it_was_shown() {
        let digest = Sha256Digest::of(b"x");
        assert_eq!(parse(&repr_digest(digest)).expect("well-formed").sha256, [digest.0]);
        let both = parse(&format!("md5=:AAAA:, {}", repr_digest(digest))).expect("well-formed");
        assert_eq!(both.sha256.len(), 1);
    }

    #[test]
    fn malformed_digests_are_refused() {
        for bad in ["", "sha-256", "sha-256=abc", "sha-256=:a:", "sha-256=:AAAA:", "sha-512=:AAAA:", "sha-256=:AAAA:,"]
        {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}
