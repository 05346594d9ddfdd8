//! Ranges of content against the bytes that went in: every border, every way of storing, many
//! thousands of ranges, and the headers nobody should send.

use std::ops::Range;
use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use serde_json::{Value, json};

use crate::support::app::{TestApp, content_path, noise};
use crate::support::model::{Dice, WAYS, coalesced, prose};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// Chunk and frame lengths, and multiples of them.
const BORDERS: [usize; 5] = [255 * KIB, 256 * KIB, 512 * KIB, MIB, 2 * MIB];

async fn put(app: &TestApp, options: &str, bytes: &[u8]) -> Value {
    app.put(&format!("name=a.bin&{options}"), "application/octet-stream", bytes.to_vec()).await
}

struct Got {
    status: u16,
    headers: reqwest::header::HeaderMap,
    body: Vec<u8>,
}

impl Got {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

async fn get(app: &TestApp, file: &Value, range: &str) -> Got {
    ask(app, "GET", file, range).await
}

async fn ask(app: &TestApp, method: &str, file: &Value, range: &str) -> Got {
    let response = app.request(method, &content_path(file)).header("range", range).send().await.unwrap();
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    Got { status, headers, body: response.bytes().await.unwrap().to_vec() }
}

async fn assert_slice(app: &TestApp, file: &Value, bytes: &[u8], range: Range<usize>) {
    let header = format!("bytes={}-{}", range.start, range.end - 1);
    assert_is_slice(&get(app, file, &header).await, bytes, range);
}

fn assert_is_slice(got: &Got, bytes: &[u8], range: Range<usize>) {
    assert_eq!(got.status, 206, "{range:?}");
    assert_eq!(got.header("content-range"), format!("bytes {}-{}/{}", range.start, range.end - 1, bytes.len()));
    assert_eq!(got.header("content-length"), range.len().to_string());
    assert!(got.body == bytes[range.clone()], "{range:?} of {} are other bytes", bytes.len());
}

/// Uploads a file of every length around every border and reads it whole, at both ends, across
/// every border, and anywhere.
async fn walk_borders(way: usize) {
    let app = TestApp::start().await;
    let mut lens = vec![0, 1, 2, 5 * MIB + 12_345];
    lens.extend(BORDERS.iter().flat_map(|border| [border - 1, *border, border + 1]));
    let walks = lens.into_iter().map(|len| walk(&app, WAYS[way], len));
    stream::iter(walks).buffer_unordered(4).collect::<()>().await;
}

async fn walk(app: &TestApp, (way, options): (&str, &str), len: usize) {
    let bytes = prose(len, len as u64);
    let file = put(app, options, &bytes).await;
    assert_eq!(file["size"], len, "{way}");
    assert!(app.content(&file).await == bytes, "{way}, {len} bytes: the whole differs");
    if len == 0 {
        return;
    }
    let mut dice = Dice::new(len as u64);
    let mut ranges = vec![0..1, len - 1..len, 0..len];
    for border in BORDERS.iter().filter(|border| **border < len) {
        ranges.extend([border - 1..border + 1, border.saturating_sub(300)..(border + 300).min(len)]);
    }
    ranges.extend((0..8).map(|_| dice.range(len)));
    for range in ranges {
        assert_slice(app, &file, &bytes, range).await;
    }
    for suffix in [1, 100, 256 * KIB + 1, len, len + 1, usize::MAX] {
        let got = get(app, &file, &format!("bytes=-{suffix}")).await;
        assert_is_slice(&got, &bytes, len - suffix.min(len)..len);
    }
    let start = dice.below(len);
    assert_is_slice(&get(app, &file, &format!("bytes={start}-")).await, &bytes, start..len);
    assert_is_slice(&get(app, &file, &format!("bytes={start}-{}", u64::MAX)).await, &bytes, start..len);
    let past = get(app, &file, &format!("bytes={len}-")).await;
    assert_eq!((past.status, past.header("content-range")), (416, format!("bytes */{len}").as_str()));
}

#[tokio::test]
async fn plain_files_come_back_around_every_border() {
    walk_borders(0).await;
}

#[tokio::test]
async fn encrypted_files_come_back_around_every_border() {
    walk_borders(1).await;
}

#[tokio::test]
async fn zstd_files_come_back_around_every_border() {
    walk_borders(2).await;
}

#[tokio::test]
async fn gzip_files_come_back_around_every_border() {
    walk_borders(3).await;
}

#[tokio::test]
async fn encrypted_zstd_files_come_back_around_every_border() {
    walk_borders(4).await;
}

#[tokio::test]
async fn files_of_unannounced_length_come_back_around_the_borders_of_large_chunks() {
    let app = TestApp::start().await;
    for (way, options) in WAYS {
        for len in [0, 1, 2 * MIB - 1, 2 * MIB, 2 * MIB + 1, 4 * MIB + 1] {
            // Half of it compresses, half of it does not.
            let bytes = [prose(len / 2, 3), noise(len - len / 2, 3)].concat();
            let pieces: Vec<_> = bytes.chunks(100_000).map(|piece| Ok::<_, std::io::Error>(piece.to_vec())).collect();
            let body = reqwest::Body::wrap_stream(stream::iter(pieces));
            let file = app.put(&format!("name=a.bin&{options}"), "application/octet-stream", body).await;
            assert_eq!(file["size"], len);
            assert!(app.content(&file).await == bytes, "{way}, {len} bytes");
            for border in [2 * MIB, 4 * MIB].into_iter().filter(|border| *border < len) {
                assert_slice(&app, &file, &bytes, border - 200..(border + 200).min(len)).await;
            }
        }
    }
}

#[tokio::test]
async fn thousands_of_random_ranges_agree_with_the_bytes() {
    // The smallest frames and chunks have the most borders.
    let app = TestApp::start_with(|settings| {
        for bucket in settings.buckets.values_mut() {
            (bucket.frame_kib, bucket.small_chunk_kib) = (64, 65);
        }
    })
    .await;
    let app = &app;
    for (seed, (way, options)) in (7..).zip(WAYS) {
        let len = MIB + 333_333;
        let bytes = [prose(len - 400_000, seed), noise(400_000, seed)].concat();
        let file = put(app, options, &bytes).await;
        let mut dice = Dice::new(seed);
        let ranges: Vec<_> = (0..500).map(|_| dice.range(len)).collect();
        let (file, bytes) = (&file, &bytes);
        let checks = ranges.into_iter().map(|range| assert_slice(app, file, bytes, range));
        stream::iter(checks).buffer_unordered(8).collect::<()>().await;
        assert!(app.content(file).await == *bytes, "{way}");
    }
}

/// One part of a `multipart/byteranges` body.
#[derive(Debug, PartialEq, Eq)]
struct Part {
    content_type: String,
    content_range: String,
    bytes: Vec<u8>,
}

/// Takes a body apart exactly as RFC 2046 frames it: nothing before, between or after the parts.
fn parse_parts(got: &Got) -> Vec<Part> {
    let boundary = got.header("content-type").strip_prefix("multipart/byteranges; boundary=").unwrap();
    assert!((1..=70).contains(&boundary.len()) && boundary.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    assert_eq!(got.header("content-length"), got.body.len().to_string());
    assert_eq!(got.header("content-range"), "", "a multipart answer has no Content-Range of its own");
    let (opening, delimiter) = (format!("--{boundary}\r\n"), format!("\r\n--{boundary}"));
    let mut rest = got.body.strip_prefix(opening.as_bytes()).expect("the first delimiter comes first");
    let mut parts = Vec::new();
    loop {
        let head_len = rest.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
        let head = std::str::from_utf8(&rest[..head_len]).unwrap();
        let (content_type, content_range) = head.split_once("\r\n").unwrap();
        let content_range = content_range.to_ascii_lowercase();
        let content_range = content_range.strip_prefix("content-range: bytes ").unwrap();
        let content_type = content_type.to_ascii_lowercase();
        let (span, _) = content_range.split_once('/').unwrap();
        let (first, last) = span.split_once('-').unwrap();
        let len = last.parse::<usize>().unwrap() - first.parse::<usize>().unwrap() + 1;
        let bytes = &rest[head_len + 4..][..len];
        parts.push(Part {
            content_type: content_type.strip_prefix("content-type: ").unwrap().to_owned(),
            content_range: content_range.to_owned(),
            bytes: bytes.to_vec(),
        });
        rest = rest[head_len + 4 + len..].strip_prefix(delimiter.as_bytes()).expect("a delimiter after each part");
        match rest.strip_prefix(b"\r\n") {
            Some(more) => rest = more,
            None => break,
        }
    }
    assert_eq!(rest, b"--\r\n", "the closing delimiter ends the body");
    parts
}

fn expected_parts(bytes: &[u8], ranges: &[Range<usize>]) -> Vec<Part> {
    let part = |range: &Range<usize>| Part {
        content_type: "application/octet-stream".to_owned(),
        content_range: format!("{}-{}/{}", range.start, range.end - 1, bytes.len()),
        bytes: bytes[range.clone()].to_vec(),
    };
    ranges.iter().map(part).collect()
}

fn header_of(ranges: &[Range<usize>]) -> String {
    let members: Vec<_> = ranges.iter().map(|range| format!("{}-{}", range.start, range.end - 1)).collect();
    format!("bytes={}", members.join(", "))
}

#[tokio::test]
async fn several_ranges_are_exact_parts_in_the_order_asked_for() {
    let app = TestApp::start().await;
    for (seed, (way, options)) in (1..).zip(WAYS) {
        let bytes = prose(700_000, seed);
        let file = put(&app, options, &bytes).await;
        let mut dice = Dice::new(seed);
        let mut seen_multi = 0;
        for _ in 0..40 {
            let count = 2 + dice.below(6);
            let asked: Vec<_> = (0..count)
                .map(|_| {
                    let start = dice.below(bytes.len());
                    start..(start + 1 + dice.below(60_000)).min(bytes.len())
                })
                .collect();
            let joined = coalesced(&asked);
            let got = get(&app, &file, &header_of(&asked)).await;
            if let [only] = joined.as_slice() {
                assert_is_slice(&got, &bytes, only.clone());
            } else {
                seen_multi += 1;
                assert_eq!(got.status, 206, "{way}: {asked:?}");
                assert!(parse_parts(&got) == expected_parts(&bytes, &joined), "{way}: {asked:?}");
            }
        }
        assert!(seen_multi > 20, "{way}: the dice must throw several ranges");
    }
}

#[tokio::test]
async fn ranges_that_overlap_or_touch_are_one() {
    let app = TestApp::start().await;
    let bytes = noise(100_000, 5);
    let file = put(&app, WAYS[1].1, &bytes).await;
    for (header, range) in [
        ("bytes=0-99,100-199", 0..200),
        ("bytes=100-199,0-99", 0..200),
        ("bytes=0-150,100-199", 0..200),
        ("bytes=10-20,10-20", 10..21),
        ("bytes=0-,5-6,-3", 0..100_000),
        ("bytes=5-6,200000-", 5..7),
        ("bytes=,5-6 ,\t", 5..7),
    ] {
        assert_is_slice(&get(&app, &file, header).await, &bytes, range);
    }
    let apart = get(&app, &file, "bytes=-10,0-99,101-150,50-100").await;
    assert!(parse_parts(&apart) == expected_parts(&bytes, &[99_990..100_000, 0..151]));
}

#[tokio::test]
async fn sixteen_ranges_are_parts_and_seventeen_are_the_whole() {
    let app = TestApp::start().await;
    let bytes = noise(100_000, 6);
    let file = put(&app, WAYS[1].1, &bytes).await;
    let ranges = |count: usize| -> Vec<_> { (0..count).map(|i| i * 1000..i * 1000 + 10).collect() };
    let sixteen = get(&app, &file, &header_of(&ranges(16))).await;
    assert!(parse_parts(&sixteen) == expected_parts(&bytes, &ranges(16)));
    let seventeen = get(&app, &file, &header_of(&ranges(17))).await;
    assert_eq!((seventeen.status, seventeen.header("content-range")), (200, ""));
    assert!(seventeen.body == bytes);
    // Parts that cost more than the content are not worth it either.
    let small = put(&app, WAYS[1].1, &bytes[..200]).await;
    let got = get(&app, &small, "bytes=0-1,10-11").await;
    assert!((got.status, got.body.as_slice()) == (200, &bytes[..200]));
}

#[tokio::test]
async fn a_malformed_range_is_ignored() {
    let app = TestApp::start().await;
    let bytes = noise(1000, 7);
    let file = put(&app, WAYS[1].1, &bytes).await;
    for header in [
        "bytes=10-5",
        "bytes=abc",
        "bytes=",
        "bytes=-",
        "bytes=--1",
        "items=0-1",
        "bytes=0-1;x",
        "bytes 0-1",
        "bytes=0-1,x",
        "bytes=0-1,9-8",
        "bytes=1 - 2",
        "bytes=+0-1",
        "bytes=0x0-0x1",
        "bytes=99999999999999999999999-",
        "",
    ] {
        let got = get(&app, &file, header).await;
        assert_eq!((got.status, got.header("content-range")), (200, ""), "{header:?}");
        assert!(got.body == bytes, "{header:?}");
    }
    let twice = app.get(&content_path(&file)).header("range", "bytes=0-1").header("range", "bytes=5-6");
    assert_eq!(twice.send().await.unwrap().status().as_u16(), 200, "two Range lines are ignored");
}

#[tokio::test]
async fn a_range_outside_of_the_content_is_416_with_its_size() {
    let app = TestApp::start().await;
    let bytes = noise(1000, 8);
    let file = put(&app, WAYS[1].1, &bytes).await;
    for header in ["bytes=1000-", "bytes=1000-1001", "bytes=5000-6000,7000-", "bytes=-0"] {
        let got = get(&app, &file, header).await;
        assert_eq!((got.status, got.header("content-range")), (416, "bytes */1000"), "{header}");
        assert_eq!(got.header("accept-ranges"), "bytes");
        let problem: Value = serde_json::from_slice(&got.body).unwrap();
        assert_eq!((&problem["code"], &problem["plainLen"]), (&"range_not_satisfiable".into(), &1000.into()));
    }
}

const SHA256_OF_NOTHING: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

#[tokio::test]
async fn any_range_of_an_empty_file_is_416() {
    let app = TestApp::start().await;
    for (way, options) in WAYS {
        let file = put(&app, options, b"").await;
        assert_eq!((&file["size"], &file["sha256"]), (&json!(0), &json!(SHA256_OF_NOTHING)), "{way}");
        let whole = app.get(&content_path(&file)).send().await.unwrap();
        assert_eq!(
            (whole.status().as_u16(), &whole.headers()["content-length"]),
            (200, &"0".parse().unwrap()),
            "{way}"
        );
        for range in ["bytes=0-0", "bytes=-1", "bytes=0-", "bytes=0-0,5-6"] {
            let got = get(&app, &file, range).await;
            assert_eq!((got.status, got.header("content-range")), (416, "bytes */0"), "{way}: {range}");
        }
        assert_eq!(ask(&app, "HEAD", &file, "bytes=0-0").await.status, 200, "{way}");
    }
}

#[tokio::test]
async fn head_ignores_the_range_and_says_what_get_says() {
    let app = TestApp::start().await;
    let bytes = noise(3000, 9);
    let file = put(&app, WAYS[4].1, &bytes).await;
    let whole = app.get(&content_path(&file)).send().await.unwrap();
    for range in ["bytes=0-9", "bytes=9999-", "bytes=0-1,9-10"] {
        let head = ask(&app, "HEAD", &file, range).await;
        assert_eq!((head.status, head.body.len()), (200, 0), "{range}");
        for name in ["content-length", "content-type", "etag", "repr-digest", "accept-ranges", "last-modified"] {
            assert_eq!(head.headers[name], whole.headers()[name], "{name}");
        }
    }
}

#[tokio::test]
async fn a_header_full_of_ranges_is_answered_quickly_with_no_more_than_the_file() {
    let app = TestApp::start().await;
    let bytes = noise(3 * MIB, 10);
    let file = put(&app, WAYS[1].1, &bytes).await;
    let open = format!("bytes={}", vec!["0-"; 1500].join(","));
    let touching: Vec<_> = (0..5000).map(|i| i..i + 1).collect();
    let apart: Vec<_> = (0..5000).map(|i| i * 2..i * 2 + 1).collect();
    let (app, file, bytes) = (&app, &file, &bytes);
    for (header, status, expected) in
        [(open, 206, &bytes[..]), (header_of(&touching), 206, &bytes[..5000]), (header_of(&apart), 200, &bytes[..])]
    {
        let header = header.replace(' ', "");
        let asked = (0..8).map(|_| async {
            let begun = Instant::now();
            let got = get(app, file, &header).await;
            assert_eq!(got.status, status);
            assert!(got.body == expected);
            assert!(begun.elapsed() < Duration::from_secs(2), "it took {:?}", begun.elapsed());
        });
        futures::future::join_all(asked).await;
    }
}
