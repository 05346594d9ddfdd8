//! Presigned URLs: whatever the query says is read back or refused; what is signed verifies in any order and encoding,
//! and with nothing changed.

#![no_main]

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use gridgate::format::key::Key;
use gridgate::format::presign::{SignedRequest, is_signature, sign};
use gridgate::http::presign::SignedUrl;
use http::Uri;
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

const PATH: &str = "/v1/files/0123456789abcdef01234567/content";

#[derive(Debug, Arbitrary)]
enum Case {
    Raw { query: String },
    Signed { tenant: String, epoch: u64, expires: u64, terms: Vec<(String, String)>, turn: usize, change: Change },
}

#[derive(Debug, Arbitrary)]
enum Change {
    Nothing,
    Order,
    Add(String, String),
    Drop(usize),
    Value(usize, String),
    Epoch(u64),
}

fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

fn url(parameters: &[(String, String)]) -> Option<Uri> {
    let pairs: Vec<_> = parameters.iter().map(|(name, value)| format!("{}={}", encoded(name), encoded(value))).collect();
    format!("{PATH}?{}", pairs.join("&")).parse().ok()
}

fn is_taken(root: &Key, url: &SignedUrl) -> bool {
    let request = SignedRequest { method: "GET", path: PATH, parameters: &url.parameters };
    is_signature(root, &url.claim.tenant, url.claim.epoch, request, &url.claim.signature)
}

fuzz_target!(|case: Case| {
    let root = Key::new([7; 32]);
    let (tenant, epoch, expires, mut terms, turn, change) = match case {
        Case::Raw { query } => {
            if let Ok(uri) = format!("{PATH}?{query}").parse()
                && let Ok(Some(url)) = SignedUrl::parse(&uri)
            {
                assert!(!is_taken(&root, &url), "nobody signed it");
                assert!(url.parameters.iter().all(|(name, _)| name != "signature"));
            }
            return;
        }
        Case::Signed { tenant, epoch, expires, terms, turn, change } => (tenant, epoch, expires, terms, turn, change),
    };
    terms.push(("tenant".to_owned(), tenant.clone()));
    terms.push(("keyId".to_owned(), epoch.to_string()));
    terms.push(("expires".to_owned(), expires.to_string()));
    let request = SignedRequest { method: "GET", path: PATH, parameters: &terms };
    let signature = URL_SAFE_NO_PAD.encode(sign(&root, &tenant, epoch, request));
    let (original, signed) = (terms.clone(), signature.clone());
    terms.push(("signature".to_owned(), signature));
    match change {
        Change::Nothing => {}
        Change::Order => {
            let by = turn % terms.len();
            terms.rotate_left(by);
        }
        Change::Add(name, value) => terms.push((name, value)),
        Change::Drop(n) => {
            let n = n % terms.len();
            terms.remove(n);
        }
        Change::Value(n, value) => {
            let n = n % terms.len();
            terms[n].1 = value;
        }
        Change::Epoch(epoch) => {
            terms.iter_mut().filter(|(name, _)| name == "keyId").for_each(|term| term.1 = epoch.to_string());
        }
    }
    let Some(uri) = url(&terms) else { return };
    let Ok(Some(read)) = SignedUrl::parse(&uri) else { return };
    let (mut kept, mut came) = (original, read.parameters.clone());
    kept.sort();
    came.sort();
    let is_unchanged = kept == came && URL_SAFE_NO_PAD.encode(read.claim.signature) == signed;
    assert_eq!(is_taken(&root, &read), is_unchanged, "{kept:?} {came:?}");
});
