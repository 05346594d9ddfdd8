//! Which tokens open the gateway, and the ways in which others forge them.

use std::time::SystemTime;

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::EncodingKey;
use jsonwebtoken::crypto::sign;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;

const SECRET: &str = "a secret of at least thirty-two bytes";

struct Issuer {
    rsa: EncodingKey,
    ec: EncodingKey,
    set: Value,
    folder: TempDir,
}

impl Issuer {
    fn new() -> Self {
        let rsa = RsaKeyPair::generate(KeySize::Rsa2048).expect("a key");
        // PKCS #1, without the 26 bytes in which PKCS #8 wraps it.
        let rsa = EncodingKey::from_rsa_der(&rsa.as_der().expect("its form").as_ref()[26..]);
        let ec = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key");
        let ec = EncodingKey::from_ec_der(ec.to_pkcs8v1().expect("its form").as_ref());
        let jwk = |key: &EncodingKey, algorithm, kid: &str| {
            let mut jwk = Jwk::from_encoding_key(key, algorithm).expect("its public half");
            jwk.common.key_id = Some(kid.to_owned());
            serde_json::to_value(jwk).expect("JSON")
        };
        let set = json!({ "keys": [jwk(&rsa, Algorithm::RS256, "r1"), jwk(&ec, Algorithm::ES256, "e1")] });
        Self { rsa, ec, set, folder: TempDir::new().expect("a folder") }
    }

    fn settings(&self, set: &Value) -> JwtSettings {
        let jwks_file = self.folder.path().join("jwks.json");
        std::fs::write(&jwks_file, set.to_string()).expect("a file");
        let secret = serde_json::from_value(SECRET.into()).expect("a secret");
        let none = String::new;
        JwtSettings { secret, secret_kid: none(), jwks_file, issuer: none(), audience: none(), leeway_secs: 60 }
    }

    fn keys(&self) -> TokenKeys {
        TokenKeys::open(&self.settings(&self.set)).expect("keys")
    }
}

fn secret() -> EncodingKey {
    EncodingKey::from_secret(SECRET.as_bytes())
}

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs()
}

fn claims() -> Value {
    json!({ "sub": "alice", "tenant": "acme", "scope": "files:read nothing files:write", "exp": now() + 300 })
}

/// A token of any header and claims, as text, signed.
fn token(header: &str, claims: &str, key: &EncodingKey, algorithm: Algorithm) -> String {
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    format!("{message}.{}", sign(message.as_bytes(), key, algorithm).expect("a signature"))
}

fn hs256(header: &Value, claims: &Value) -> String {
    token(&header.to_string(), &claims.to_string(), &secret(), Algorithm::HS256)
}

fn with(mut claims: Value, name: &str, value: Value) -> Value {
    claims[name] = value;
    claims
}

#[test]
fn a_token_of_each_algorithm_is_its_user() {
    let issuer = Issuer::new();
    let keys = issuer.keys();
    let claims = claims().to_string();
    let alice = Principal {
        actor: "user:alice".to_owned(),
        tenant: "acme".to_owned(),
        role: Role::Member(vec![Scope::FilesRead, Scope::FilesWrite]),
    };
    for (header, key, algorithm) in [
        (r#"{"alg":"HS256","typ":"JWT"}"#, &secret(), Algorithm::HS256),
        (r#"{"alg":"RS256","kid":"r1"}"#, &issuer.rsa, Algorithm::RS256),
        (r#"{"alg":"RS256"}"#, &issuer.rsa, Algorithm::RS256),
        (r#"{"alg":"ES256","kid":"e1"}"#, &issuer.ec, Algorithm::ES256),
    ] {
        let token = token(header, &claims, key, algorithm);
        assert!(keys.is_for(&token));
        assert_eq!(keys.verify(&token).expect(header), alice);
    }
}

#[test]
fn forged_tokens_are_nobodys() {
    let issuer = Issuer::new();
    let keys = issuer.keys();
    let good = hs256(&json!({ "alg": "HS256" }), &claims());
    assert!(keys.verify(&good).is_ok());
    let (message, signature) = good.rsplit_once('.').expect("three parts");
    let public = issuer.set["keys"][0]["n"].as_str().expect("a modulus").as_bytes();
    let public = EncodingKey::from_secret(public);
    let other = EncodingKey::from_secret(b"another secret of thirty-two bytes or more");
    let (plain, text) = (json!({ "alg": "HS256" }).to_string(), claims().to_string());
    let headed = |header: Value| hs256(&header, &claims());
    let forged = [
        ("alg none", format!("{}.{}.", URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#), URL_SAFE_NO_PAD.encode(&text))),
        ("alg None", headed(json!({ "alg": "None" }))),
        ("alg nOnE", headed(json!({ "alg": "nOnE" }))),
        ("another secret", token(&plain, &text, &other, Algorithm::HS256)),
        ("the public key as a secret", token(&plain, &text, &public, Algorithm::HS256)),
        ("the public key, by its kid", token(r#"{"alg":"HS256","kid":"r1"}"#, &text, &public, Algorithm::HS256)),
        ("an algorithm that is not the key's", headed(json!({ "alg": "HS512" }))),
        ("RS256 for what HS256 signed", headed(json!({ "alg": "RS256", "kid": "r1" }))),
        ("an unknown kid", headed(json!({ "alg": "HS256", "kid": "k9" }))),
        ("a kid with a path", headed(json!({ "alg": "HS256", "kid": "../../dev/null" }))),
        ("a kid with a filter", headed(json!({ "alg": "HS256", "kid": "' OR 1=1 --" }))),
        ("a kid that is none", headed(json!({ "alg": "HS256", "kid": { "$ne": null } }))),
        ("the kid of another key", token(r#"{"alg":"ES256","kid":"r1"}"#, &text, &issuer.ec, Algorithm::ES256)),
        ("jku", headed(json!({ "alg": "HS256", "jku": "http://127.0.0.1/" }))),
        ("x5u", headed(json!({ "alg": "HS256", "x5u": "http://127.0.0.1/" }))),
        ("jwk", headed(json!({ "alg": "HS256", "jwk": { "kty": "oct", "k": "AAAA" } }))),
        ("crit", headed(json!({ "alg": "HS256", "crit": ["exp"] }))),
        ("no signature", format!("{message}.")),
        ("a shorter signature", format!("{message}.{}", &signature[..signature.len() - 2])),
        ("two parts", message.to_owned()),
        ("four parts", format!("{good}.x")),
        ("padding", format!("{good}=")),
        ("no JSON", token("{}", "[]", &secret(), Algorithm::HS256)),
        ("more than is read", hs256(&json!({ "alg": "HS256" }), &with(claims(), "pad", "x".repeat(9000).into()))),
    ];
    for (what, token) in forged {
        let refused = keys.verify(&token).err().unwrap_or_else(|| panic!("{what} is taken"));
        assert_eq!(refused.code, ErrorCode::Unauthenticated, "{what}");
    }
}

#[test]
fn claims_that_are_none_are_nobodys() {
    let keys = Issuer::new().keys();
    let verify = |claims: &str| keys.verify(&token(r#"{"alg":"HS256"}"#, claims, &secret(), Algorithm::HS256));
    let exp = now() + 300;
    let without = |name: &str| {
        let mut claims = claims();
        claims.as_object_mut().expect("an object").remove(name);
        claims
    };
    let refused = [
        without("exp"),
        without("sub"),
        without("tenant"),
        with(claims(), "exp", (now() - 61).into()),
        with(claims(), "exp", exp.to_string().into()),
        with(claims(), "exp", (-1).into()),
        with(claims(), "exp", Value::Null),
        with(claims(), "nbf", (now() + 90).into()),
        with(claims(), "nbf", "soon".into()),
        with(claims(), "aud", "somebody".into()),
        with(claims(), "aud", json!(["somebody"])),
        with(claims(), "sub", "".into()),
        with(claims(), "sub", "a\nb".into()),
        with(claims(), "sub", "x".repeat(252).into()),
        with(claims(), "sub", json!({ "$ne": 1 })),
        with(claims(), "tenant", "".into()),
        with(claims(), "tenant", json!(["acme"])),
        with(claims(), "scope", json!(["admin"])),
    ];
    for claims in refused {
        assert_eq!(verify(&claims.to_string()).expect_err(&claims.to_string()).code, ErrorCode::Unauthenticated);
    }
    for twice in ["\"sub\":\"bob\"", "\"tenant\":\"b\"", "\"scope\":\"admin\"", "\"exp\":9999999999"] {
        let claims = claims().to_string().replacen('{', &format!("{{{twice},"), 1);
        assert!(verify(&claims).is_err(), "{twice} is said twice");
    }
    for taken in [with(claims(), "exp", (now() - 50).into()), with(claims(), "nbf", (now() + 50).into())] {
        assert!(verify(&taken.to_string()).is_ok(), "within the leeway: {taken}");
    }
    let none = verify(&without("scope").to_string()).expect("a user").role;
    assert_eq!(none, Role::Member(Vec::new()), "without a scope nothing is allowed");
}

#[test]
fn issuer_audience_and_the_secrets_name_are_kept_where_they_are_set() {
    let issuer = Issuer::new();
    let (audience, name) = ("gridgate".to_owned(), "https://id.example".to_owned());
    let settings = JwtSettings { audience, issuer: name, secret_kid: "s1".to_owned(), ..issuer.settings(&issuer.set) };
    let keys = TokenKeys::open(&settings).expect("keys");
    let ours = with(with(claims(), "aud", json!(["other", "gridgate"])), "iss", "https://id.example".into());
    let verify = |header: Value, claims: &Value| keys.verify(&hs256(&header, claims)).is_ok();
    assert!(verify(json!({ "alg": "HS256" }), &ours) && verify(json!({ "alg": "HS256", "kid": "s1" }), &ours));
    assert!(!verify(json!({ "alg": "HS256", "kid": "s2" }), &ours));
    for absent in ["aud", "iss"] {
        assert!(!verify(json!({ "alg": "HS256" }), &with(ours.clone(), absent, Value::Null)), "{absent}");
    }
    assert!(!verify(json!({ "alg": "HS256" }), &with(ours.clone(), "aud", "other".into())));
    assert!(!verify(json!({ "alg": "HS256" }), &with(ours.clone(), "iss", "https://id.example/".into())));
}

#[test]
fn keys_that_cannot_be_told_apart_or_are_weak_are_no_settings() {
    let issuer = Issuer::new();
    let open = |set: Value| TokenKeys::open(&issuer.settings(&set)).err();
    let (rsa, ec) = (&issuer.set["keys"][0], &issuer.set["keys"][1]);
    let weak = json!({ "kty": "RSA", "e": "AQAB", "kid": "w", "n": URL_SAFE_NO_PAD.encode([255; 128]) });
    let symmetric = json!({ "kty": "oct", "k": "AAAA", "kid": "o" });
    let sealing = with(rsa.clone(), "use", "enc".into());
    for refused in [json!({ "keys": [rsa, rsa] }), json!({ "keys": [weak] }), json!({}), json!({ "keys": [] })] {
        assert!(open(refused.clone()).is_some(), "{refused}");
    }
    for of_no_use in [symmetric, sealing, with(rsa.clone(), "alg", "RS512".into())] {
        assert!(open(json!({ "keys": [of_no_use] })).is_some(), "{of_no_use}");
        assert_eq!(open(json!({ "keys": [of_no_use, ec] })), None, "the other key is enough");
    }
    let short = serde_json::from_value("31 bytes are not enough for it.".into()).expect("a secret");
    let short = JwtSettings { secret: short, ..issuer.settings(&issuer.set) };
    assert!(short.check().is_err_and(|why| why.contains("auth.jwt.secret")));
}
