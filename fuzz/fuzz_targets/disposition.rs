//! `Content-Disposition` both ways: any name makes one safe line that is read back as it was sent; any line of a
//! client gives a name or none.

#![no_main]

use gridgate::http::disposition::{Disposition, content_disposition, filename_from, is_safe_inline};
use http::header::{CONTENT_DISPOSITION, HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;

const SAFE: [&str; 4] = ["image/", "video/", "audio/", "text/plain"];

fn parse(value: HeaderValue) -> Option<String> {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_DISPOSITION, value);
    filename_from(&headers)
}

/// What any name becomes.
fn send(name: &str) {
    let value = content_disposition(Disposition::Attachment, name);
    let text = value.to_str().expect("visible ASCII").to_owned();
    assert!(text.bytes().all(|byte| (0x20..0x7f).contains(&byte)) && text.len() <= 4_300, "{text}");
    assert_eq!(text.matches("filename=").count(), 1, "{text}");
    assert!(text.matches("filename*=").count() <= 1, "{text}");
    assert!(text.starts_with("attachment; filename=\"") && text.matches('"').count() == 2, "{text}");
    assert!(!text.contains('\\'), "{text}");
    let back = parse(value.clone()).expect("what is sent has a name");
    assert!(!back.contains(['/', '\\']) && !back.chars().any(char::is_control), "{back:?}");
    assert!(!back.is_empty() && !back.bytes().all(|byte| byte == b'.'), "{back:?}");
    assert_eq!(content_disposition(Disposition::Attachment, &back), value, "sent again it is the same");
}

fuzz_target!(|bytes: &[u8]| {
    if let Ok(value) = HeaderValue::from_bytes(bytes)
        && let Some(name) = parse(value)
    {
        assert!(!name.is_empty() && name.len() <= bytes.len(), "{name:?}");
        send(&name);
    }
    let text = String::from_utf8_lossy(bytes);
    send(&text);
    if is_safe_inline(&text) {
        let lower = text.to_ascii_lowercase();
        assert!(SAFE.iter().any(|safe| lower.starts_with(safe)) && !lower.contains("svg+"), "{text:?}");
    }
});
