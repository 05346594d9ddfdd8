//! `Upload-Metadata` of tus: what is taken is an option, once and in order; a well-formed list is taken as it was
//! written.

#![no_main]

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use gridgate::http::tus::metadata::{OPTIONS, read};
use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

#[derive(Debug, Arbitrary)]
enum Case {
    Raw(Vec<u8>),
    WellFormed(Vec<(u8, String)>),
}

fn headers(line: &[u8]) -> Option<HeaderMap> {
    Some(HeaderMap::from_iter([("upload-metadata".parse().ok()?, HeaderValue::from_bytes(line).ok()?)]))
}

fn is_option(name: &str) -> bool {
    OPTIONS.contains(&name)
}

fuzz_target!(|case: Case| {
    match case {
        Case::Raw(line) => {
            let Some(headers) = headers(&line) else { return };
            let Ok(request) = read(&headers) else { return };
            assert_eq!(
                request.metadata.as_deref().map(str::as_bytes),
                Some(line.as_slice()),
                "told again as it was sent"
            );
            assert!(
                request.said.iter().all(|(name, value)| is_option(name) && !value.is_empty()),
                "{:?}",
                request.said
            );
            assert!(request.said.windows(2).all(|pair| pair[0].0 < pair[1].0), "in order, and none twice");
            let taken: usize = request.said.iter().map(|(_, value)| value.len()).sum();
            assert!(taken + request.declared_type.map_or(0, |text| text.len()) <= line.len());
        }
        Case::WellFormed(pairs) => {
            let mut said: Vec<(String, String)> = Vec::new();
            for (number, value) in pairs {
                let name = OPTIONS[usize::from(number) % OPTIONS.len()].to_owned();
                if !said.iter().any(|(known, _)| *known == name) {
                    said.push((name, value));
                }
            }
            let pair = |(name, value): &(String, String)| format!("{name} {}", STANDARD.encode(value));
            let line = said.iter().map(pair).collect::<Vec<_>>().join(",");
            let Some(headers) = headers(line.as_bytes()).filter(|_| line.len() <= 16 << 10) else { return };
            said.retain(|(_, value)| !value.is_empty());
            said.sort();
            assert_eq!(read(&headers).expect("it is well formed").said, said);
        }
    }
});
