//! Tests of `Content-Disposition` both ways and of the inline list; pure, no server is started.

use http::header::{CONTENT_DISPOSITION, HeaderMap, HeaderValue};
use proptest::prelude::*;

use super::{Disposition, MAX_NAME_BYTES, SAFE_INLINE, clean, content_disposition, filename_from, is_safe_inline};

fn sent(name: &str) -> String {
    let value = content_disposition(Disposition::Attachment, name);
    value.to_str().expect("printable ASCII").strip_prefix("attachment; ").expect("an attachment").to_owned()
}

fn received(line: &str) -> Option<String> {
    received_bytes(line.as_bytes())
}

fn received_bytes(line: &[u8]) -> Option<String> {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_DISPOSITION, HeaderValue::from_bytes(line).expect("a header value"));
    filename_from(&headers)
}

#[test]
fn plain_name_is_sent_once() {
    assert_eq!(sent("report 2024.pdf"), r#"filename="report 2024.pdf""#);
    assert_eq!(content_disposition(Disposition::Inline, "a.png"), r#"inline; filename="a.png""#);
}

#[test]
fn other_scripts_have_a_fallback_and_an_extended_name() {
    assert_eq!(sent("naïve.txt"), r#"filename="na_ve.txt"; filename*=UTF-8''na%C3%AFve.txt"#);
    assert_eq!(sent("日本.txt"), r#"filename="__.txt"; filename*=UTF-8''%E6%97%A5%E6%9C%AC.txt"#);
    assert_eq!(
        sent("€ !#$&+-.^_`|~'()*"),
        concat!(r#"filename="_ !#$&+-.^_`_~'()_"; "#, "filename*=UTF-8''%E2%82%AC%20!#$&+-.^_`|~%27%28%29%2A",)
    );
}

#[test]
fn quotes_and_separators_never_end_the_string() {
    assert_eq!(sent(r#"a"; x="b.exe"#), r#"filename="a__ x__b.exe"; filename*=UTF-8''a%22%3B%20x%3D%22b.exe"#);
    assert_eq!(sent(r"..\..\a"), r#"filename=".._.._a""#);
    assert_eq!(sent("/etc/passwd"), r#"filename="_etc_passwd""#);
    assert_eq!(sent("a%22.txt"), r#"filename="a_22.txt"; filename*=UTF-8''a%2522.txt"#);
    assert_eq!(
        sent("=?utf-8?B?eA==?="),
        r#"filename="__utf-8_B_eA____"; filename*=UTF-8''%3D%3Futf-8%3FB%3FeA%3D%3D%3F%3D"#
    );
}

#[test]
fn name_that_says_filename_is_not_a_second_parameter() {
    assert_eq!(sent("filename=x").matches("filename=").count(), 1);
    assert_eq!(sent("a; filename*=UTF-8''b").matches("filename*=").count(), 1);
}

#[test]
fn control_and_bidi_characters_are_removed_from_both() {
    assert_eq!(
        sent("a\r\nSet-Cookie: x\0\u{7f}\u{85}.txt"),
        r#"filename="aSet-Cookie_ x.txt"; filename*=UTF-8''aSet-Cookie%3A%20x.txt"#
    );
    assert_eq!(sent("a\u{202e}gpj.exe\u{2066}\u{200f}\u{61c}\u{2028}\u{feff}"), r#"filename="agpj.exe""#);
}

#[test]
fn nothing_left_is_download() {
    for name in ["", " ", ".", "..", "...", "\r\n", "\u{202e}", " . "] {
        assert_eq!(sent(name), r#"filename="download""#, "{name:?}");
    }
    assert_eq!(sent(".htaccess"), r#"filename=".htaccess""#);
}

#[test]
fn long_name_is_cut_at_a_character() {
    let name = clean(&"é".repeat(5_000));
    assert_eq!(name, "é".repeat(MAX_NAME_BYTES / 2));
    assert!(sent(&"語".repeat(100_000)).len() < 4_300);
    assert_eq!(clean(&"a".repeat(MAX_NAME_BYTES)).len(), MAX_NAME_BYTES);
}

#[test]
fn request_name_is_read_from_either_parameter() {
    assert_eq!(received("attachment; filename=a.txt").as_deref(), Some("a.txt"));
    assert_eq!(received(r#"form-data; name="file"; FileName = "a b;c.txt""#).as_deref(), Some("a b;c.txt"));
    assert_eq!(received(r#"attachment; filename="a\"b\\c""#).as_deref(), Some(r#"a"b\c"#));
    assert_eq!(received("attachment; filename=\"naïve\"").as_deref(), Some("naïve"));
    assert_eq!(received("attachment; filename*=utf-8'de'na%c3%afve").as_deref(), Some("naïve"));
    assert_eq!(received("filename=a").as_deref(), Some("a"));
}

#[test]
fn extended_request_name_wins_wherever_it_stands() {
    assert_eq!(received("attachment; filename=x; filename*=UTF-8''y").as_deref(), Some("y"));
    assert_eq!(received("attachment; filename*=UTF-8''y; filename=x").as_deref(), Some("y"));
    assert_eq!(received("attachment; filename=1; filename=2").as_deref(), Some("1"));
}

#[test]
fn unusable_extended_name_leaves_the_plain_one() {
    for value in
        ["ISO-8859-1''%E9", "UTF-8''%E9", "UTF-8''%zz", "UTF-8''a%4", "UTF-8''%", "UTF-8'y", "y", "UTF-8''", ""]
    {
        assert_eq!(received(&format!("attachment; filename=x; filename*={value}")).as_deref(), Some("x"), "{value}");
    }
}

#[test]
fn request_without_a_name_has_none() {
    for line in ["", "attachment", "attachment;", ";;;=;", "attachment; filename=", "attachment; filename=\"\"", "=\""]
    {
        assert_eq!(received(line), None, "{line}");
    }
    assert_eq!(received(r#"attachment; x="; filename=evil""#), None);
    assert_eq!(received_bytes(b"attachment; filename=\"\xe9\""), None);
    assert_eq!(filename_from(&HeaderMap::new()), None);
}

#[test]
fn broken_quotes_are_forgiven() {
    assert_eq!(received(r#"attachment; filename="a"#).as_deref(), Some("a"));
    assert_eq!(received(r#"attachment; filename="a\"#).as_deref(), Some("a\\"));
    assert_eq!(received(r#"attachment; filename="a"b; x=y"#).as_deref(), Some("a"));
}

#[test]
fn listed_types_are_safe_whatever_their_case_and_parameters() {
    for essence in SAFE_INLINE {
        for content_type in
            [essence.to_owned(), essence.to_uppercase(), format!("{essence};x=y"), format!("{essence}; x=\"y z\"")]
        {
            assert!(is_safe_inline(&content_type), "{content_type}");
        }
    }
}

#[test]
fn active_types_are_never_safe() {
    let active = [
        "text/html",
        "image/svg+xml",
        "image/svg+xml;charset=utf-8",
        "IMAGE/SVG+XML",
        "text/html;x=y",
        "text/xsl",
        "application/mathml+xml",
        "text/html\t",
        "image/svg+xml,image/png",
        "image/png,text/html",
        "application/pdf",
        "application/xhtml+xml",
        "text/xml",
        "application/javascript",
        "image/*",
        "*/*",
        "text/plain2",
        "image/png+xml",
        "application/octet-stream",
        "multipart/mixed",
        "text/css",
        "audio/x-wav",
    ];
    for content_type in active {
        assert!(!is_safe_inline(content_type), "{content_type}");
    }
}

#[test]
fn what_is_not_one_media_type_is_not_safe() {
    let malformed = [
        "",
        "image",
        "image/",
        "/png",
        " image/png",
        "image/png ",
        "image/png\t",
        "image/png\r\nx: y",
        "image/png\0",
        "image/png image/svg+xml",
        "image/png;x",
        "image/png;x=\"a",
        "image/png;x=\"a\\\"\"",
        "image/png; x=\"a,text/html\"",
        "image/png;é=1",
        "image/png;x=\"é\"",
        "image//png",
        "image/png/x",
        "ımage/png",
    ];
    for content_type in malformed {
        assert!(!is_safe_inline(content_type), "{content_type:?}");
    }
}

#[test]
fn charset_hidden_by_escaped_quotes_is_not_safe() {
    assert!(!is_safe_inline(r#"text/plain; x="\"; y="; charset=utf-7; z=""#));
}

#[test]
fn plain_text_is_safe_only_in_utf_8_or_ascii() {
    for charset in
        ["utf-8", "UTF-8", "\"utf-8\"", "us-ascii", "US-ASCII", "utf-8; format=flowed", "utf-8;charset=utf-8"]
    {
        assert!(is_safe_inline(&format!("text/plain; charset={charset}")), "{charset}");
    }
    for charset in
        ["utf-7", "utf-16", "iso-2022-jp", "", "\"\"", "utf-8;charset=utf-7", "utf-7;charset=utf-8", "\" utf-8\""]
    {
        assert!(!is_safe_inline(&format!("text/plain; charset={charset}")), "{charset}");
        assert!(!is_safe_inline(&format!("TEXT/PLAIN;x=y;ChArSeT={charset}")), "{charset}");
    }
}

/// Names with many of the characters that matter.
fn names() -> impl Strategy<Value = String> {
    prop_oneof![any::<String>(), "[a-z=;%\"'\\\\/*é語\u{202e}\u{1}\u{85} .]{0,40}", "(filename\\*?=|\"; |x){0,6}"]
}

proptest! {
    #[test]
    fn any_name_makes_one_valid_header(name in names(), repeat in 1_usize..50) {
        let value = content_disposition(Disposition::Attachment, &name.repeat(repeat));
        let text = value.to_str().expect("printable ASCII");
        prop_assert!(text.bytes().all(|byte| (0x20..=0x7e).contains(&byte)));
        prop_assert!(text.len() <= 4_300);
        prop_assert_eq!(text.matches("filename=").count(), 1);
        prop_assert!(text.matches("filename*=").count() <= 1);
        prop_assert_eq!(text.matches('"').count(), 2);
        prop_assert!(!text.contains('\\'));
        let fallback = text.split('"').nth(1).expect("a quoted string");
        prop_assert!(!fallback.is_empty() && !fallback.contains(['%', '/', ';', '=']));
    }

    #[test]
    fn sent_name_is_read_back_as_it_was_cleaned(name in names()) {
        let value = content_disposition(Disposition::Inline, &name);
        prop_assert_eq!(received_bytes(value.as_bytes()), Some(clean(&name)));
    }

    #[test]
    fn cleaning_twice_changes_nothing(name in names()) {
        let once = clean(&name);
        prop_assert_eq!(clean(&once), once);
    }

    #[test]
    fn arbitrary_requests_never_panic(line in any::<Vec<u8>>()) {
        if HeaderValue::from_bytes(&line).is_ok() {
            received_bytes(&line);
        }
    }

    #[test]
    fn disposition_like_requests_never_panic(line in "[;= \"\\\\'%a-f0-9*]{0,20}(filename\\*?=|[;\"\\\\%'é]|UTF-8''){0,12}") {
        prop_assert!(received(&line).is_none_or(|name| !name.is_empty() && name.len() <= line.len()));
    }

    #[test]
    fn arbitrary_types_never_panic_and_only_listed_ones_are_safe(text in any::<String>(), tail in "[;=, \"a-z\\\\\t-]{0,12}") {
        is_safe_inline(&text);
        let essence = format!("text/html{tail}");
        prop_assert!(!is_safe_inline(&essence));
    }

    #[test]
    fn safe_type_starts_with_its_essence(at in 0_usize..15, tail in "[;=, \"a-z+/]{0,12}") {
        let content_type = format!("{}{tail}", SAFE_INLINE[at]);
        if is_safe_inline(&content_type) {
            prop_assert!(tail.trim().is_empty() || tail.starts_with(';'), "{content_type:?}");
        }
    }
}
