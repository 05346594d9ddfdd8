//! The checksum extension of tus: a body, or a part of it, against what its client computed.

use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use sha2::digest::DynDigest;

use crate::error::{Error, ErrorCode};
use crate::files::uploads::Verdict;
use crate::http::body::Trailers;

/// As `Tus-Checksum-Algorithm` lists them.
pub const ALGORITHMS: &str = "sha1,sha256,md5,crc32";
const HEADER: &str = "Upload-Checksum";

/// What is known of the checksum before the body comes.
pub enum Checksum {
    /// All of it.
    Of(Algorithm, Vec<u8>),
    /// It comes after the body; which one is not known.
    InTrailer,
}

/// How it is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// RFC 3174.
    Sha1,
    /// FIPS 180-4.
    Sha256,
    /// RFC 1321.
    Md5,
    /// The CRC of ISO 3309, big-endian.
    Crc32,
}

impl Algorithm {
    const ALL: [(&str, Self); 4] =
        [("sha1", Self::Sha1), ("sha256", Self::Sha256), ("md5", Self::Md5), ("crc32", Self::Crc32)];

    fn hasher(self) -> Hasher {
        match self {
            Self::Sha1 => Hasher::Digest(Box::new(sha1::Sha1::default())),
            Self::Sha256 => Hasher::Digest(Box::new(sha2::Sha256::default())),
            Self::Md5 => Hasher::Digest(Box::new(md5::Md5::default())),
            Self::Crc32 => Hasher::Crc32(crc32fast::Hasher::new()),
        }
    }
}

enum Hasher {
    Digest(Box<dyn DynDigest + Send>),
    Crc32(crc32fast::Hasher),
}

impl Hasher {
    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Digest(digest) => digest.update(bytes),
            Self::Crc32(crc) => crc.update(bytes),
        }
    }

    fn finish(self) -> Vec<u8> {
        match self {
            Self::Digest(digest) => digest.finalize().into_vec(),
            Self::Crc32(crc) => crc.finalize().to_be_bytes().to_vec(),
        }
    }
}

type Hashers = Arc<Mutex<Vec<(Algorithm, Hasher)>>>;

impl Checksum {
    /// What the head of a request says of a checksum.
    ///
    /// # Errors
    /// `bad_header`.
    pub fn announced(headers: &HeaderMap) -> Result<Option<Self>, Error> {
        if let Some(value) = headers.get("upload-checksum") {
            return parse(value).map(|(algorithm, expected)| Some(Self::Of(algorithm, expected)));
        }
        let names = headers.get_all("trailer").iter().filter_map(|value| value.to_str().ok());
        let is_named = names.flat_map(|names| names.split(',')).any(|name| name.trim().eq_ignore_ascii_case(HEADER));
        Ok(is_named.then_some(Self::InTrailer))
    }

    /// What to show the body to as it passes, and what to ask when it has.
    pub fn watch(self, trailers: Trailers) -> (impl Fn(&Bytes) + Send + 'static, Verdict) {
        let algorithms: Vec<Algorithm> = match &self {
            Self::Of(algorithm, _) => vec![*algorithm],
            Self::InTrailer => Algorithm::ALL.iter().map(|(_, algorithm)| *algorithm).collect(),
        };
        let hashers: Vec<_> = algorithms.into_iter().map(|algorithm| (algorithm, algorithm.hasher())).collect();
        let hashers: Hashers = Arc::new(Mutex::new(hashers));
        let seen = Arc::clone(&hashers);
        let tap = move |piece: &Bytes| {
            let mut hashers = hashers.lock().unwrap_or_else(PoisonError::into_inner);
            hashers.iter_mut().for_each(|(_, hasher)| hasher.update(piece));
        };
        (tap, Box::new(move || self.judge(seen, &trailers)))
    }

    fn judge(self, seen: Hashers, trailers: &Trailers) -> Result<(), Error> {
        let (algorithm, expected) = match self {
            Self::Of(algorithm, expected) => (algorithm, expected),
            Self::InTrailer => {
                let trailers = trailers.lock().unwrap_or_else(PoisonError::into_inner).take();
                let missing = || Error::bad_header(HEADER, "It was announced as a trailer and did not come.");
                let value = trailers.as_ref().and_then(|fields| fields.get("upload-checksum"));
                parse(value.ok_or_else(missing)?)?
            }
        };
        let mut hashers = std::mem::take(&mut *seen.lock().unwrap_or_else(PoisonError::into_inner));
        let of = hashers.iter().position(|(known, _)| *known == algorithm);
        let found = of.map(|of| hashers.swap_remove(of).1.finish());
        if found.as_deref() == Some(expected.as_slice()) {
            return Ok(());
        }
        Err(Error::new(ErrorCode::UploadChecksumMismatch, "The bytes do not match their checksum; none is kept."))
    }
}

fn parse(value: &HeaderValue) -> Result<(Algorithm, Vec<u8>), Error> {
    let refused = || Error::bad_header(HEADER, format!("It is one of {ALGORITHMS}, a space and the value in base64."));
    let (name, encoded) = value.to_str().ok().and_then(|text| text.split_once(' ')).ok_or_else(refused)?;
    let (_, algorithm) = Algorithm::ALL.iter().find(|(known, _)| *known == name).ok_or_else(refused)?;
    Ok((*algorithm, STANDARD.decode(encoded).map_err(|_| refused())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(header: &str, body: &[u8]) -> Result<(), ErrorCode> {
        let mut headers = HeaderMap::new();
        headers.insert("upload-checksum", HeaderValue::from_str(header).expect("a header"));
        let checksum = Checksum::announced(&headers).map_err(|error| error.code)?.expect("it is there");
        let (tap, verdict) = checksum.watch(Trailers::default());
        body.chunks(3).for_each(|piece| tap(&Bytes::copy_from_slice(piece)));
        verdict().map_err(|error| error.code)
    }

    #[test]
    fn every_algorithm_knows_its_own_value_of_hello_world() {
        // Of the tools sha1sum, sha256sum, md5sum and crc32.
        for good in [
            "sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0=",
            "sha256 uU0nuZNNPgilLlLX2n2r+sSE7+N6U4DukIj3rOLvzek=",
            "md5 XrY7u+Ae7tCTyyK7j1rNww==",
            "crc32 DUoRhQ==",
        ] {
            assert_eq!(judged(good, b"hello world"), Ok(()), "{good}");
            assert_eq!(judged(good, b"hello worlD"), Err(ErrorCode::UploadChecksumMismatch), "{good}");
        }
        for bad in ["sha512 AA==", "sha1", "sha1 %%", "SHA1 AA==", ""] {
            assert_eq!(judged(bad, b""), Err(ErrorCode::BadHeader), "{bad}");
        }
    }

    #[test]
    fn a_trailer_that_was_announced_must_come() {
        let mut headers = HeaderMap::new();
        headers.insert("trailer", HeaderValue::from_static("x, Upload-Checksum"));
        for (sent, code) in [
            (None, Some(ErrorCode::BadHeader)),
            (Some("crc32 DUoRhQ=="), None),
            (Some("crc32 DUoRhA=="), Some(ErrorCode::UploadChecksumMismatch)),
        ] {
            let trailers = Trailers::default();
            let checksum = Checksum::announced(&headers).expect("well-formed").expect("announced");
            let (tap, verdict) = checksum.watch(Arc::clone(&trailers));
            tap(&Bytes::from_static(b"hello world"));
            if let Some(sent) = sent {
                let mut fields = HeaderMap::new();
                fields.insert("upload-checksum", HeaderValue::from_static(sent));
                *trailers.lock().expect("nobody panicked") = Some(fields);
            }
            assert_eq!(verdict().err().map(|error| error.code), code);
        }
    }
}
