//! Preconditions, validators, and content sent in its stored coding.

use std::io::Read;
use std::time::{Duration, SystemTime};

use reqwest::header::HeaderMap;
use serde_json::{Value, json};

use crate::support::app::{TestApp, content_path, noise};
use crate::support::model::{WAYS, prose};

struct Got {
    status: u16,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Got {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

async fn ask(app: &TestApp, method: &str, file: &Value, headers: &[(&str, &str)]) -> Got {
    let request = headers
        .iter()
        .fold(app.request(method, &content_path(file)), |request, (name, value)| request.header(*name, *value));
    let response = request.send().await.unwrap();
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    Got { status, headers, body: response.bytes().await.unwrap().to_vec() }
}

async fn get(app: &TestApp, file: &Value, headers: &[(&str, &str)]) -> Got {
    ask(app, "GET", file, headers).await
}

/// A file with its tag, its date and the dates a second around it.
struct Known {
    app: TestApp,
    file: Value,
    bytes: Vec<u8>,
    etag: String,
    modified: String,
    earlier: String,
    later: String,
}

impl Known {
    async fn new() -> Self {
        let app = TestApp::start().await;
        let bytes = noise(10_000, 1);
        let file = app.put("name=a.bin", "application/octet-stream", bytes.clone()).await;
        let got = get(&app, &file, &[]).await;
        let (etag, modified) = (got.header("etag").to_owned(), got.header("last-modified").to_owned());
        let date = httpdate::parse_http_date(&modified).unwrap();
        let earlier = httpdate::fmt_http_date(date - Duration::from_secs(1));
        let later = httpdate::fmt_http_date(date + Duration::from_secs(1));
        Self { app, file, bytes, etag, modified, earlier, later }
    }

    async fn status(&self, headers: &[(&str, &str)]) -> u16 {
        let got = get(&self.app, &self.file, headers).await;
        let head = ask(&self.app, "HEAD", &self.file, headers).await;
        assert_eq!(head.status, got.status, "HEAD answers as GET does: {headers:?}");
        match got.status {
            200 => assert!(got.body == self.bytes),
            304 => {
                assert!(got.body.is_empty(), "304 has no body");
                assert_eq!(got.header("etag"), self.etag);
                assert_eq!(got.header("last-modified"), self.modified);
                assert_ne!(got.header("cache-control"), "");
                assert_eq!(got.headers.get("content-type"), None);
            }
            412 => {
                let problem: Value = serde_json::from_slice(&got.body).unwrap();
                assert_eq!(problem["code"], "precondition_failed");
            }
            other => panic!("{other} for {headers:?}"),
        }
        got.status
    }
}

#[tokio::test]
async fn if_match_compares_strongly() {
    let known = Known::new().await;
    let etag = known.etag.as_str();
    let (weak, list) = (format!("W/{etag}"), format!("\"x\", {etag} , \"y\""));
    for (value, status) in [
        (etag, 200),
        ("*", 200),
        (list.as_str(), 200),
        (weak.as_str(), 412),
        ("\"x\"", 412),
        ("\"x\", \"y\"", 412),
        ("unquoted", 412),
    ] {
        assert_eq!(known.status(&[("if-match", value)]).await, status, "{value}");
    }
}

#[tokio::test]
async fn if_none_match_compares_weakly() {
    let known = Known::new().await;
    let etag = known.etag.as_str();
    let (weak, list, weak_list) = (format!("W/{etag}"), format!("\"x\",{etag}"), format!("\"x\", W/{etag}"));
    for (value, status) in [
        (etag, 304),
        ("*", 304),
        (list.as_str(), 304),
        (weak.as_str(), 304),
        (weak_list.as_str(), 304),
        ("\"x\"", 200),
        ("unquoted", 200),
        (etag.trim_matches('"'), 200),
    ] {
        assert_eq!(known.status(&[("if-none-match", value)]).await, status, "{value}");
    }
}

#[tokio::test]
async fn dates_count_to_the_second() {
    let known = Known::new().await;
    let (at, earlier, later) = (known.modified.as_str(), known.earlier.as_str(), known.later.as_str());
    for (value, modified, unmodified) in
        [(at, 304, 200), (later, 304, 200), (earlier, 200, 412), ("yesterday", 200, 200), ("", 200, 200)]
    {
        assert_eq!(known.status(&[("if-modified-since", value)]).await, modified, "modified since {value:?}");
        assert_eq!(known.status(&[("if-unmodified-since", value)]).await, unmodified, "unmodified since {value:?}");
    }
}

#[tokio::test]
async fn preconditions_are_judged_in_the_order_of_the_standard() {
    let known = Known::new().await;
    let (etag, at, earlier) = (known.etag.as_str(), known.modified.as_str(), known.earlier.as_str());
    for (headers, status) in [
        // If-Match hides If-Unmodified-Since, whichever way it goes.
        ([("if-match", etag), ("if-unmodified-since", earlier)], 200),
        ([("if-match", "\"x\""), ("if-unmodified-since", at)], 412),
        // If-None-Match hides If-Modified-Since.
        ([("if-none-match", "\"x\""), ("if-modified-since", at)], 200),
        ([("if-none-match", etag), ("if-modified-since", earlier)], 304),
        // If-Match is judged first, and If-None-Match after it.
        ([("if-match", "\"x\""), ("if-none-match", etag)], 412),
        ([("if-match", etag), ("if-none-match", etag)], 304),
        ([("if-unmodified-since", earlier), ("if-none-match", etag)], 412),
        ([("if-unmodified-since", at), ("if-modified-since", at)], 304),
    ] {
        assert_eq!(known.status(&headers).await, status, "{headers:?}");
    }
}

#[tokio::test]
async fn preconditions_come_before_the_range() {
    let known = Known::new().await;
    for (condition, range, status) in [
        (("if-none-match", known.etag.as_str()), "bytes=0-9", 304),
        (("if-match", "\"x\""), "bytes=0-9", 412),
        (("if-match", "\"x\""), "bytes=99999-", 412),
        (("if-none-match", "*"), "bytes=99999-", 304),
        (("if-match", known.etag.as_str()), "bytes=0-9", 206),
        (("if-match", known.etag.as_str()), "bytes=99999-", 416),
    ] {
        assert_eq!(get(&known.app, &known.file, &[condition, ("range", range)]).await.status, status, "{condition:?}");
    }
}

#[tokio::test]
async fn if_range_serves_a_part_of_the_current_content_only() {
    let known = Known::new().await;
    let weak = format!("W/{}", known.etag);
    for (value, status) in [
        (known.etag.as_str(), 206),
        (known.modified.as_str(), 206),
        (weak.as_str(), 200),
        ("\"old\"", 200),
        (known.earlier.as_str(), 200),
        (known.later.as_str(), 200),
        ("nonsense", 200),
        ("*", 200),
    ] {
        let got = get(&known.app, &known.file, &[("range", "bytes=5-14"), ("if-range", value)]).await;
        assert_eq!(got.status, status, "{value}");
        assert!(got.body == if status == 206 { &known.bytes[5..15] } else { &known.bytes[..] }, "{value}");
        let past = get(&known.app, &known.file, &[("range", "bytes=99999-"), ("if-range", value)]).await;
        assert_eq!(past.status, if status == 206 { 416 } else { 200 }, "{value}");
    }
    // Without a range it says nothing.
    assert_eq!(known.status(&[("if-range", "\"old\"")]).await, 200);
}

#[tokio::test]
async fn the_tag_changes_with_the_content_and_not_with_the_metadata() {
    let known = Known::new().await;
    let path = format!("/v1/files/{}", known.file["id"].as_str().unwrap());
    let patch = json!({ "name": "b.bin", "tags": ["x"], "access": "public", "custom": { "a": 1 }, "legalHold": true });
    let edited: Value = known.app.request("PATCH", &path).json(&patch).send().await.unwrap().json().await.unwrap();
    assert_eq!(edited["name"], "b.bin");
    assert_eq!(edited["etag"], known.etag.as_str());
    let after = get(&known.app, &known.file, &[]).await;
    assert_eq!((after.header("etag"), after.header("last-modified")), (known.etag.as_str(), known.modified.as_str()));
    let other = known.app.put("name=a.bin", "application/octet-stream", noise(10_000, 2)).await;
    assert_ne!(other["etag"], known.etag.as_str());
    let listed = get(&known.app, &other, &[]).await;
    assert_eq!(other["etag"], listed.header("etag"), "the tag in the JSON is the tag of the content");
}

#[tokio::test]
async fn last_modified_is_when_the_content_was_stored() {
    let app = TestApp::start().await;
    let before = SystemTime::now() - Duration::from_secs(1);
    let file = app.put("name=a.txt", "text/plain", "x").await;
    let got = get(&app, &file, &[]).await;
    let modified = httpdate::parse_http_date(got.header("last-modified")).unwrap();
    assert!(modified >= before && modified <= SystemTime::now());
}

fn decode(coding: &str, encoded: &[u8]) -> Vec<u8> {
    match coding {
        "zstd" => zstd::decode_all(encoded).unwrap(),
        "gzip" => {
            let mut plain = Vec::new();
            flate2::read::MultiGzDecoder::new(encoded).read_to_end(&mut plain).unwrap();
            plain
        }
        other => panic!("there is no coding {other}"),
    }
}

/// Contents that compress well, not at all, and in turns; of one frame and of several.
fn contents() -> Vec<Vec<u8>> {
    vec![
        prose(100, 1),
        prose(1_000_000, 1),
        noise(1_000_000, 2),
        [prose(300_000, 3), noise(600_000, 3), prose(300_000, 4)].concat(),
        vec![0; 1_500_000],
        Vec::new(),
    ]
}

#[tokio::test]
async fn a_client_that_takes_the_stored_coding_gets_the_stored_frames() {
    let app = TestApp::start().await;
    for (way, options) in WAYS.into_iter().filter(|(way, _)| *way != "plain" && *way != "encrypted") {
        let coding = way.split(',').next().unwrap();
        for bytes in contents() {
            let file = app.put(&format!("name=a.bin&{options}"), "application/octet-stream", bytes.clone()).await;
            assert_eq!(file["compression"]["codec"], coding, "{way}");
            let identity = get(&app, &file, &[]).await;
            assert_eq!(identity.headers.get("content-encoding"), None);
            assert_eq!(identity.header("vary"), "accept-encoding", "{way}");
            assert_ne!(identity.header("repr-digest"), "");
            assert!(identity.body == bytes);
            for accept in [coding, "zstd, gzip;q=0.9", "*", "br, x-gzip, zstd"] {
                let got = get(&app, &file, &[("accept-encoding", accept)]).await;
                assert_eq!((got.status, got.header("content-encoding")), (200, coding), "{way}: {accept}");
                assert_eq!(got.header("content-length"), got.body.len().to_string(), "{way}: {accept}");
                assert_eq!(got.header("vary"), "accept-encoding");
                assert_eq!(got.header("accept-ranges"), "bytes");
                assert_ne!(got.header("etag"), identity.header("etag"), "each representation has its tag");
                assert_eq!(got.headers.get("repr-digest"), None, "the digest of the plain is another's");
                assert_eq!(got.header("content-type"), identity.header("content-type"));
                assert!(decode(coding, &got.body) == bytes, "{way}: {accept}: the decoded bytes differ");
                let head = ask(&app, "HEAD", &file, &[("accept-encoding", accept)]).await;
                assert_eq!(head.header("content-length"), got.header("content-length"));
                assert_eq!(head.header("content-encoding"), coding);
            }
        }
    }
}

#[tokio::test]
async fn stored_zstd_frames_ask_for_a_small_window_and_hold_no_seek_table() {
    let app = TestApp::start().await;
    for options in [WAYS[2].1, WAYS[4].1] {
        let bytes = [prose(1_000_000, 1), noise(500_000, 2)].concat();
        let file = app.put(&format!("name=a.bin&{options}"), "application/octet-stream", bytes.clone()).await;
        let got = get(&app, &file, &[("accept-encoding", "zstd")]).await;
        let mut decoder = zstd::stream::read::Decoder::new(got.body.as_slice()).unwrap();
        decoder.window_log_max(23).unwrap();
        let mut plain = Vec::new();
        decoder.read_to_end(&mut plain).unwrap();
        assert!(plain == bytes, "a decoder of RFC 9659 takes windows up to 8 MiB");
        // The seek table is a skippable frame whose last four bytes are its magic number.
        assert_ne!(got.body.last_chunk(), Some(&0x8F92_EAB1_u32.to_le_bytes()));
    }
}

#[tokio::test]
async fn another_coding_than_the_stored_one_is_never_sent() {
    let app = TestApp::start().await;
    let bytes = prose(500_000, 5);
    for (way, options) in WAYS {
        let file = app.put(&format!("name=a.bin&{options}"), "application/octet-stream", bytes.clone()).await;
        let stored = way.split(',').next().unwrap();
        let mut refusing = vec!["", "br", "identity", "zstd;q=0, gzip;q=0", "identity, zstd;q=0.5, gzip;q=0.5"];
        refusing.extend(match stored {
            "zstd" => vec!["gzip"],
            "gzip" => vec!["zstd"],
            _ => vec!["zstd, gzip", "*"],
        });
        for accept in refusing {
            let got = get(&app, &file, &[("accept-encoding", accept)]).await;
            assert_eq!((got.status, got.headers.get("content-encoding")), (200, None), "{way}: {accept:?}");
            assert!(got.body == bytes, "{way}: {accept:?}");
            assert_ne!(got.header("repr-digest"), "");
        }
    }
}

#[tokio::test]
async fn a_range_is_of_the_identity_whatever_coding_is_accepted() {
    let app = TestApp::start().await;
    let bytes = prose(500_000, 6);
    for (way, options) in WAYS {
        let file = app.put(&format!("name=a.bin&{options}"), "application/octet-stream", bytes.clone()).await;
        let identity = get(&app, &file, &[]).await;
        let asked = [("accept-encoding", "zstd, gzip"), ("range", "bytes=1000-400000")];
        let got = get(&app, &file, &asked).await;
        assert_eq!((got.status, got.headers.get("content-encoding")), (206, None), "{way}");
        assert!(got.body == bytes[1000..=400_000], "{way}");
        assert_eq!(got.header("etag"), identity.header("etag"), "{way}");
    }
}

#[tokio::test]
async fn each_coding_is_validated_by_its_own_tag() {
    let app = TestApp::start().await;
    let file = app.put("name=a.bin&compress=zstd", "application/octet-stream", prose(500_000, 7)).await;
    let identity = get(&app, &file, &[]).await.header("etag").to_owned();
    let coded = get(&app, &file, &[("accept-encoding", "zstd")]).await.header("etag").to_owned();
    for (accept, tag, status) in
        [("zstd", &coded, 304), ("zstd", &identity, 200), ("br", &identity, 304), ("br", &coded, 200)]
    {
        let got = get(&app, &file, &[("accept-encoding", accept), ("if-none-match", tag)]).await;
        assert_eq!(got.status, status, "{accept}, {tag}");
        if status == 304 {
            assert_eq!((got.header("etag"), got.header("vary")), (tag.as_str(), "accept-encoding"));
        }
    }
    // Bytes of the coded representation are never joined with a range of the identity.
    let mixed = [("accept-encoding", "zstd"), ("range", "bytes=0-9"), ("if-range", coded.as_str())];
    assert_eq!(get(&app, &file, &mixed).await.status, 200);
}
