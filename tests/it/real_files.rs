//! Files as real encoders write them: the right bucket, the right type, and every byte back.

use std::path::Path;

use serde_json::Value;

use crate::support::app::{TestApp, all_buckets, content_path};
use crate::support::model::Dice;
use crate::support::requests::{query, send};

/// What is expected of a fixture: its type, kind and bucket, and whether a browser may show it.
struct Expected {
    file: &'static str,
    content_type: &'static str,
    kind: &'static str,
    bucket: &'static str,
    shown: Shown,
}

#[derive(Clone, Copy, PartialEq)]
enum Shown {
    Inline,
    Attachment,
}

#[rustfmt::skip]
const FILES: [Expected; 25] = [
    expected("photo.jpg",   "image/jpeg",    "image", "images", Shown::Inline),
    expected("photo.png",   "image/png",     "image", "images", Shown::Inline),
    expected("anim.gif",    "image/gif",     "image", "images", Shown::Inline),
    expected("photo.webp",  "image/webp",    "image", "images", Shown::Inline),
    expected("photo.bmp",   "image/bmp",     "image", "images", Shown::Attachment),
    expected("photo.tiff",  "image/tiff",    "image", "images", Shown::Attachment),
    expected("page.svg",    "image/svg+xml", "image", "images", Shown::Attachment),
    expected("clip.mp4",    "video/mp4",     "video", "videos", Shown::Inline),
    expected("clip.webm",   "video/webm",    "video", "videos", Shown::Inline),
    expected("tone.mp3",    "audio/mpeg",    "audio", "videos", Shown::Inline),
    expected("tone.ogg",    "audio/ogg",     "audio", "videos", Shown::Inline),
    expected("tone.flac",   "audio/flac",    "audio", "videos", Shown::Inline),
    expected("tone.wav",    "audio/wav",     "audio", "videos", Shown::Inline),
    expected("tone.m4a",    "audio/mp4",     "audio", "videos", Shown::Inline),
    expected("page.pdf",    "application/pdf", "document", "documents", Shown::Attachment),
    expected("report.docx", "application/vnd.openxmlformats-officedocument.wordprocessingml.document", "document", "documents", Shown::Attachment),
    expected("table.xlsx",  "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet", "document", "documents", Shown::Attachment),
    expected("report.odt",  "application/vnd.oasis.opendocument.text", "document", "documents", Shown::Attachment),
    expected("page.html",   "text/html",     "text", "documents", Shown::Attachment),
    expected("rows.json",   "application/json", "data", "documents", Shown::Attachment),
    expected("rows.csv",    "text/csv",      "data", "documents", Shown::Attachment),
    expected("dpkg.log",    "text/plain",    "text", "documents", Shown::Inline),
    expected("pack.zip",    "application/zip", "archive", "archives", Shown::Attachment),
    expected("pack.tar.gz", "application/gzip", "archive", "archives", Shown::Attachment),
    expected("pack.tar.xz", "application/x-xz", "archive", "archives", Shown::Attachment),
];

const fn expected(
    file: &'static str,
    content_type: &'static str,
    kind: &'static str,
    bucket: &'static str,
    shown: Shown,
) -> Expected {
    Expected { file, content_type, kind, bucket, shown }
}

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)).unwrap()
}

/// Uploads as a client that declares this type, and checks what became of it.
async fn check(app: &TestApp, expected: &Expected, declared: &str, options: &str) {
    let bytes = fixture(expected.file);
    let name = query(&[("name", expected.file)]);
    let file = app.put(&format!("{name}&{options}"), declared, bytes.clone()).await;
    let told = format!("{} as {declared:?} with {options}", expected.file);
    for (member, value) in [
        ("contentType", expected.content_type),
        ("kind", expected.kind),
        ("bucket", expected.bucket),
        ("name", expected.file),
    ] {
        assert_eq!(file[member], value, "{told}");
    }
    assert_eq!(file["size"], bytes.len(), "{told}");
    assert_eq!(file["encryption"].is_object(), options.contains("encrypt=true"), "{told}");

    let whole = send(app.get(&content_path(&file))).await;
    assert!(whole.status == 200 && whole.body == bytes, "{told}: other bytes come back");
    let disposition = if expected.shown == Shown::Inline { "inline" } else { "attachment" };
    for (header, value) in [
        ("content-type", expected.content_type),
        ("content-length", &bytes.len().to_string()),
        ("content-disposition", &format!("{disposition}; filename=\"{}\"", expected.file)),
        ("x-content-type-options", "nosniff"),
        ("content-security-policy", "sandbox; default-src 'none'"),
        ("accept-ranges", "bytes"),
        ("etag", file["etag"].as_str().unwrap()),
    ] {
        assert_eq!(whole.header(header), value, "{told}");
    }
    let mut dice = Dice::new(bytes.len() as u64);
    for range in [0..1, bytes.len() - 1..bytes.len()].into_iter().chain((0..5).map(|_| dice.range(bytes.len()))) {
        let got = app.range(&file, range.start as u64..range.end as u64).await;
        assert!(got == bytes[range.clone()], "{told}: {range:?}");
    }
    assert_is_in_bucket(app, &file).await;
}

/// A GridFS tool finds the file in its bucket, under its name and with its type.
async fn assert_is_in_bucket(app: &TestApp, file: &Value) {
    let bucket = file["bucket"].as_str().unwrap();
    let files = app.mongo().await.collection::<mongodb::bson::Document>(&format!("{bucket}.files"));
    let filter = mongodb::bson::doc! {
        "filename": file["name"].as_str().unwrap(),
        "metadata.contentType": file["contentType"].as_str().unwrap(),
    };
    assert!(files.count_documents(filter).await.unwrap() > 0, "{bucket} has no {}", file["name"]);
}

#[tokio::test]
async fn real_files_are_known_by_their_bytes_and_come_back_plain() {
    let app = TestApp::start_with(all_buckets).await;
    for expected in &FILES {
        check(&app, expected, "application/octet-stream", "encrypt=false").await;
    }
}

#[tokio::test]
async fn real_files_come_back_encrypted_under_their_declared_type() {
    let app = TestApp::start_with(all_buckets).await;
    for expected in &FILES {
        check(&app, expected, expected.content_type, "encrypt=true").await;
    }
}

#[tokio::test]
async fn real_binary_files_are_known_under_a_wrong_type_and_no_name() {
    let app = TestApp::start_with(all_buckets).await;
    let is_text = |expected: &Expected| ["text/csv", "text/plain", "application/json"].contains(&expected.content_type);
    for expected in FILES.iter().filter(|expected| !is_text(expected)) {
        let wrong = if expected.content_type == "image/png" { "image/jpeg" } else { "image/png" };
        let file = app.put("name=x", wrong, fixture(expected.file)).await;
        assert_eq!(file["contentType"], expected.content_type, "{}", expected.file);
        assert_eq!(file["declaredType"], wrong, "{}", expected.file);
        assert_eq!(
            (&file["kind"], &file["bucket"]),
            (&expected.kind.into(), &expected.bucket.into()),
            "{}",
            expected.file
        );
    }
}

#[tokio::test]
async fn what_no_other_bucket_takes_goes_to_files() {
    let app = TestApp::start_with(all_buckets).await;
    let program = std::fs::read(env!("CARGO_BIN_EXE_gridgate")).unwrap()[..500_000].to_vec();
    let file = app.put("name=gridgate", "application/octet-stream", program.clone()).await;
    assert_eq!((&file["bucket"], &file["kind"]), (&"files".into(), &"binary".into()));
    assert!(app.content(&file).await == program);
}

#[test]
fn the_fixtures_are_few_small_and_described() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let readme = std::fs::read_to_string(folder.join("README.md")).unwrap();
    let mut total = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        total += entry.metadata().unwrap().len();
        assert!(name == "README.md" || readme.contains(&format!("| `{name}` |")), "{name} is not described");
    }
    assert!(total < 300 << 10, "{total} bytes");
}
