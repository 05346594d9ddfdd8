//! Tokens of users, signed by a secret as an issuer does it.

use std::time::SystemTime;

use aws_lc_rs::hmac::{HMAC_SHA256, Key, sign};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

/// A token (HS256) with these claims, valid for `life` seconds from now.
pub fn hs256(secret: &str, claims: &Value, life: i64) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let mut claims = claims.clone();
    claims["exp"] = now.saturating_add_signed(life).into();
    let parts = [json!({ "alg": "HS256" }), claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
    let signature = sign(&Key::new(HMAC_SHA256, secret.as_bytes()), parts.join(".").as_bytes());
    format!("{}.{}", parts.join("."), URL_SAFE_NO_PAD.encode(signature))
}
