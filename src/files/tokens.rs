//! Tokens (JWT, RFC 7519) of somebody who knows the users: verified by the keys of the settings, whatever a token
//! says of keys. Issues none, and fetches nothing.

use std::path::PathBuf;

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Header, Validation, decode, decode_header};
use serde::Deserialize;

use super::Result;
use super::access::{Principal, Role, Scope, is_tenant_name};
use crate::error::{Error, ErrorCode};
use crate::secret::Secret;

/// Bytes of a token.
const MAX_TOKEN_LEN: usize = 8 << 10;
/// Bytes of a secret: those of its hash (RFC 7518 §3.2).
const MIN_SECRET_LEN: usize = 32;
/// Characters of a modulus in base64: 2,048 bits (RFC 7518 §3.3).
const MIN_MODULUS_LEN: usize = 342;
/// With what stands before it, as long as an owner may be.
const MAX_SUBJECT_LEN: usize = 251;
const MAX_LEEWAY_SECS: u64 = 600;

/// Who signs tokens.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JwtSettings {
    /// Shared with who signs by HS256.
    pub secret: Secret,
    /// What tokens may call the secret.
    pub secret_kid: String,
    /// A JWK Set (RFC 7517) of who signs by RS256 or ES256.
    pub jwks_file: PathBuf,
    /// The `iss` that tokens must have.
    pub issuer: String,
    /// The `aud` that tokens must be for.
    pub audience: String,
    /// How far clocks may differ.
    pub leeway_secs: u64,
}

impl JwtSettings {
    /// Names the first setting that cannot be used.
    pub fn check(&self) -> std::result::Result<(), String> {
        match self.secret.reveal() {
            Some(secret) if secret.len() < MIN_SECRET_LEN => {
                Err(format!("auth.jwt.secret: shorter than {MIN_SECRET_LEN} bytes"))
            }
            _ if self.leeway_secs > MAX_LEEWAY_SECS => {
                Err(format!("auth.jwt.leeway_secs: {} is above {MAX_LEEWAY_SECS}", self.leeway_secs))
            }
            _ => Ok(()),
        }
    }
}

struct TokenKey {
    kid: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
}

/// Knows tokens by the keys of the settings.
pub struct TokenKeys {
    keys: Vec<TokenKey>,
    validation: Validation,
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    tenant: String,
    #[serde(default)]
    scope: String,
}

impl TokenKeys {
    /// Reads the keys.
    ///
    /// # Errors
    /// A sentence that names the setting.
    pub fn open(settings: &JwtSettings) -> std::result::Result<Self, String> {
        let mut keys = Vec::new();
        if let Some(secret) = settings.secret.reveal() {
            let kid = Some(settings.secret_kid.clone()).filter(|kid| !kid.is_empty());
            keys.push(TokenKey { kid, algorithm: Algorithm::HS256, key: DecodingKey::from_secret(secret.as_bytes()) });
        }
        if !settings.jwks_file.as_os_str().is_empty() {
            let problem = |why: String| format!("auth.jwt.jwks_file: {}: {why}", settings.jwks_file.display());
            let text = std::fs::read_to_string(&settings.jwks_file).map_err(|error| problem(error.to_string()))?;
            keys.extend(read_set(&text).map_err(problem)?);
        }
        let mut validation = Validation::new(Algorithm::HS256);
        (validation.leeway, validation.validate_nbf) = (settings.leeway_secs, true);
        // Without an audience of ours, a token for somebody else is refused (RFC 7519 §4.1.3).
        if !settings.audience.is_empty() {
            validation.set_audience(&[&settings.audience]);
            validation.required_spec_claims.insert("aud".to_owned());
        }
        if !settings.issuer.is_empty() {
            validation.set_issuer(&[&settings.issuer]);
            validation.required_spec_claims.insert("iss".to_owned());
        }
        Ok(Self { keys, validation })
    }

    /// Whether a credential is to be a token: three parts, of which the first is JSON.
    pub fn is_for(&self, credential: &str) -> bool {
        !self.keys.is_empty() && credential.starts_with("eyJ") && credential.matches('.').count() == 2
    }

    /// The principal of a token.
    ///
    /// # Errors
    /// `unauthenticated`.
    pub fn verify(&self, token: &str) -> Result<Principal> {
        let refused = |detail| Error::new(ErrorCode::Unauthenticated, detail);
        let invalid = || refused("The token is not valid.");
        if token.len() > MAX_TOKEN_LEN {
            return Err(invalid());
        }
        let header = decode_header(token).map_err(|_| invalid())?;
        let key = self.key_of(&header).ok_or_else(invalid)?;
        let validation = Validation { algorithms: vec![key.algorithm], ..self.validation.clone() };
        let claims = decode::<Claims>(token, &key.key, &validation).map_err(|error| match error.kind() {
            ErrorKind::ExpiredSignature => refused("The token has expired."),
            _ => invalid(),
        })?;
        claims.claims.principal().ok_or_else(invalid)
    }

    /// The key of a token's name for it; of one without a name the only one of its algorithm.
    fn key_of(&self, header: &Header) -> Option<&TokenKey> {
        let brings_keys = header.jku.is_some()
            || header.jwk.is_some()
            || header.x5u.is_some()
            || header.x5c.is_some()
            || header.x5t.is_some()
            || header.x5t_s256.is_some();
        if brings_keys || header.crit.is_some() {
            return None;
        }
        let is_it = |key: &&TokenKey| {
            key.algorithm == header.alg && header.kid.as_ref().is_none_or(|kid| key.kid.as_ref() == Some(kid))
        };
        let mut keys = self.keys.iter().filter(is_it);
        keys.next().filter(|_| keys.next().is_none())
    }
}

impl Claims {
    fn principal(self) -> Option<Principal> {
        let is_subject = (1..=MAX_SUBJECT_LEN).contains(&self.sub.len()) && !self.sub.chars().any(char::is_control);
        (is_subject && is_tenant_name(&self.tenant)).then(|| Principal {
            // Nobody gets the files of an API key by being called as it is.
            actor: format!("user:{}", self.sub),
            tenant: self.tenant,
            role: Role::Member(self.scope.split(' ').filter_map(Scope::from_name).collect()),
        })
    }
}

/// The keys of a JWK Set that sign by RS256 or ES256.
fn read_set(text: &str) -> std::result::Result<Vec<TokenKey>, String> {
    let set: JwkSet = serde_json::from_str(text).map_err(|error| format!("it is no JWK Set: {error}"))?;
    let mut keys: Vec<TokenKey> = Vec::new();
    for jwk in &set.keys {
        let kid = jwk.common.key_id.clone();
        let Some(algorithm) = algorithm(jwk) else {
            tracing::warn!(kid, "a key of auth.jwt.jwks_file signs neither by RS256 nor by ES256: left out");
            continue;
        };
        if keys.iter().any(|known| known.kid == kid && known.algorithm == algorithm) {
            return Err(format!("two keys are called {:?}", kid.unwrap_or_default()));
        }
        if matches!(&jwk.algorithm, AlgorithmParameters::RSA(rsa) if rsa.n.len() < MIN_MODULUS_LEN) {
            return Err(format!("the key {:?} has less than 2048 bits", kid.unwrap_or_default()));
        }
        let key = DecodingKey::from_jwk(jwk).map_err(|error| format!("a key cannot be read: {error}"))?;
        keys.push(TokenKey { kid, algorithm, key });
    }
    if keys.is_empty() { Err("it has no key that signs by RS256 or ES256".to_owned()) } else { Ok(keys) }
}

/// What a key signs by, as far as its kind and what is said of it agree.
fn algorithm(jwk: &Jwk) -> Option<Algorithm> {
    if jwk.common.public_key_use.as_ref().is_some_and(|purpose| *purpose != PublicKeyUse::Signature) {
        return None;
    }
    let (algorithm, said) = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => (Algorithm::RS256, KeyAlgorithm::RS256),
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => {
            (Algorithm::ES256, KeyAlgorithm::ES256)
        }
        _ => return None,
    };
    jwk.common.key_algorithm.is_none_or(|key| key == said).then_some(algorithm)
}

#[cfg(test)]
mod tests;
