//! The key that a client sends for its content (SSE-C): taken from the headers over a connection that
//! nobody else reads, and never printed. What it opens is decided in `files`.

use axum::extract::FromRequestParts;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::request::Parts;
use http::{HeaderMap, HeaderValue};
use zeroize::Zeroizing;

use super::AppState;
use super::client::Client;
use crate::error::{Error, ErrorCode};
use crate::files::protection::KEY_HEADER;
use crate::format::digest::Sha256Digest;
use crate::format::key::Key;

const DIGEST_HEADER: &str = "Gridgate-Encryption-Key-SHA256";
const KEY_LEN: usize = 32;

/// The client's key, where it sent one.
pub struct CustomerKey(pub Option<Key>);

impl FromRequestParts<AppState> for CustomerKey {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Error> {
        let (key, digest) = (take(&mut parts.headers, KEY_HEADER)?, take(&mut parts.headers, DIGEST_HEADER)?);
        if (key.is_some() || digest.is_some())
            && !state.allows_insecure_keys
            && !Client::of(&parts.headers, &parts.extensions, &state.trusted_proxies).is_private()
        {
            let detail = "A key is taken over TLS, or from this machine; the one that was sent may be known now.";
            return Err(Error::new(ErrorCode::InsecureTransport, detail).with("field", KEY_HEADER));
        }
        let key = key.as_ref().map(parse).transpose()?;
        if let Some(digest) = digest {
            let announced = STANDARD.decode(digest.as_bytes()).ok();
            let actual = key.as_ref().map(|key| Sha256Digest::of(key.reveal()).0.to_vec());
            if announced.is_none() || announced != actual {
                return Err(Error::bad_header(DIGEST_HEADER, "It is not the SHA-256 of the key, in base64."));
            }
        }
        Ok(Self(key))
    }
}

/// Takes a header away, so that nothing that looks at the headers later shows it.
fn take(headers: &mut HeaderMap, name: &'static str) -> Result<Option<HeaderValue>, Error> {
    let is_single = headers.get_all(name).iter().count() <= 1;
    let value = headers.remove(name);
    if is_single { Ok(value) } else { Err(Error::bad_header(name, "It is sent twice.")) }
}

fn parse(value: &HeaderValue) -> Result<Key, Error> {
    // One byte more than a key: the decoder asks for room for the padding, too.
    let mut bytes = Zeroizing::new([0; KEY_LEN + 1]);
    let len = STANDARD.decode_slice(value.as_bytes(), bytes.as_mut_slice()).ok();
    let key = bytes.first_chunk::<KEY_LEN>().filter(|_| len == Some(KEY_LEN));
    key.map(|key| Key::new(*key)).ok_or_else(|| Error::bad_header(KEY_HEADER, "It is not 32 bytes in base64."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_32_bytes_in_base64_and_nothing_else() {
        let value = |text: &str| HeaderValue::from_str(text).expect("a header value");
        let key = [7; KEY_LEN];
        assert_eq!(parse(&value(&STANDARD.encode(key))).expect("a key").reveal(), &key);
        let unpadded = STANDARD.encode(key).trim_end_matches('=').to_owned();
        let (short, long) = (STANDARD.encode([7; 31]), STANDARD.encode([7; 33]));
        for bad in ["", "key", &unpadded, &short, &long, &STANDARD.encode([7; 4000]), &format!("{}=", unpadded)[..43]] {
            let error = parse(&value(bad)).err().unwrap_or_else(|| panic!("{bad} is taken"));
            assert_eq!(error.code, ErrorCode::BadHeader);
            assert!(bad.is_empty() || !format!("{error:?}").contains(bad), "the key is not shown");
        }
    }
}
