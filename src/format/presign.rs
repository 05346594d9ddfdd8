//! The signature of a presigned URL: HMAC-SHA-256 over its method, path and parameters, under a key of its tenant and
//! epoch. Parses no URL, and knows neither a clock nor which epochs count.

use super::key::{Key, equal, length_prefix};

/// A request as it is signed.
#[derive(Debug, Clone, Copy)]
pub struct SignedRequest<'a> {
    /// In capitals.
    pub method: &'a str,
    /// From the slash on, without the query.
    pub path: &'a str,
    /// Decoded, in any order, without the signature.
    pub parameters: &'a [(String, String)],
}

/// Signs a request.
///
/// # Shape
/// The key is HKDF-Expand of the root over `gridgate/presign/v1\0`, the tenant and the epoch (64 bits, big-endian). The
/// message is method, path, and the parameters' names and values, sorted. Every text has its length before it, 32 bits,
/// big-endian.
///
/// # Source
/// RFC 2104 (HMAC), RFC 5869 §2.3 (HKDF-Expand)
pub fn sign(root: &Key, tenant: &str, epoch: u64, request: SignedRequest<'_>) -> [u8; 32] {
    let tenant_len = length_prefix(tenant.as_bytes());
    let info: [&[u8]; 4] = [b"gridgate/presign/v1\0", &tenant_len, tenant.as_bytes(), &epoch.to_be_bytes()];
    let key = Key::new(root.expand(&info));
    let mut sorted: Vec<_> = request.parameters.iter().collect();
    sorted.sort();
    let texts = [request.method, request.path].into_iter();
    let texts = texts.chain(sorted.into_iter().flat_map(|(name, value)| [name.as_str(), value.as_str()]));
    let mut message = Vec::new();
    for text in texts {
        message.extend_from_slice(&length_prefix(text.as_bytes()));
        message.extend_from_slice(text.as_bytes());
    }
    key.mac(&[&message])
}

/// Whether a signature is that of a request.
pub fn is_signature(root: &Key, tenant: &str, epoch: u64, request: SignedRequest<'_>, signature: &[u8]) -> bool {
    equal(&sign(root, tenant, epoch, request), signature)
}

#[cfg(test)]
mod tests {
    use super::{SignedRequest, sign};
    use crate::format::key::Key;

    fn pairs(text: &str) -> Vec<(String, String)> {
        let pair = |text: &str| text.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
        text.split('&').filter_map(pair).collect()
    }

    fn signature(tenant: &str, epoch: u64, method: &str, path: &str, parameters: &str) -> [u8; 32] {
        let request = SignedRequest { method, path, parameters: &pairs(parameters) };
        sign(&Key::new([7; 32]), tenant, epoch, request)
    }

    #[test]
    fn everything_is_signed_but_the_order() {
        let one = signature("acme", 1, "GET", "/a", "x=1&y=2");
        assert_eq!(one, signature("acme", 1, "GET", "/a", "y=2&x=1"));
        for other in [
            signature("acm", 1, "GET", "/a", "x=1&y=2"),
            signature("acme", 2, "GET", "/a", "x=1&y=2"),
            signature("acme", 1, "PUT", "/a", "x=1&y=2"),
            signature("acme", 1, "GET", "/ax", "=1&y=2"),
            signature("acme", 1, "GET", "/a", "x=1&y=3"),
            signature("acme", 1, "GET", "/a", "x=1"),
            signature("acme", 1, "GET", "/a", "x=1&x=1&y=2"),
            signature("acme", 1, "GET", "/a", "x=1y&=2"),
            sign(
                &Key::new([8; 32]),
                "acme",
                1,
                SignedRequest { method: "GET", path: "/a", parameters: &pairs("x=1&y=2") },
            ),
        ] {
            assert_ne!(one, other);
        }
    }

    /// By an implementation of HKDF-Expand and HMAC other than ours: Python's `hmac`.
    #[test]
    fn the_signature_is_the_documented_one() {
        let signature = signature("acme", 1, "GET", "/a", "x=1&y=2");
        assert_eq!(hex::encode(signature), "faac2d7fdd70eae0bd3c2a4368a42ea486360ac6d98a69036ebba37a5522162e");
    }
}
