//! The pages of shares in a browser that runs no scripts. With `GRIDGATE_TEST_SCREENSHOTS` they are kept in that folder.

use std::io::Write;
use std::process::Stdio;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::write::ZlibEncoder;
use serde_json::{Map, Value, json};

use crate::interop::{is_there, node_modules, run_with};
use crate::shares::{link, share};
use crate::support::app::TestApp;
use crate::support::requests::send;

const SHARE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/interop/share.cjs");

/// A picture of 320 by 200: bands of colour.
fn png() -> Vec<u8> {
    let mut crc = flate2::Crc::new();
    let mut chunk = |kind: &[u8], data: &[u8]| {
        crc.reset();
        crc.update(kind);
        crc.update(data);
        let len = u32::try_from(data.len()).unwrap().to_be_bytes();
        [&len[..], kind, data, &crc.sum().to_be_bytes()].concat()
    };
    let rows = (0..200u32).flat_map(|y| {
        let row = (0..320u32).flat_map(move |x| [(x * 255 / 320) as u8, (y * 255 / 200) as u8, 160]);
        std::iter::once(0).chain(row)
    });
    let mut zlib = ZlibEncoder::new(Vec::new(), Compression::fast());
    zlib.write_all(&rows.collect::<Vec<u8>>()).unwrap();
    let head = [&320u32.to_be_bytes()[..], &200u32.to_be_bytes(), &[8, 2, 0, 0, 0]].concat();
    let parts = [
        b"\x89PNG\r\n\x1a\n".to_vec(),
        chunk(b"IHDR", &head),
        chunk(b"IDAT", &zlib.finish().unwrap()),
        chunk(b"IEND", b""),
    ];
    parts.concat()
}

/// A second of a tone: 8,000 samples of 8 bits.
fn wav() -> Vec<u8> {
    let samples: Vec<u8> = (0..8000).map(|n| if n / 9 % 2 == 0 { 100 } else { 156 }).collect();
    let len = u32::try_from(samples.len()).unwrap();
    let format =
        [&16u32.to_le_bytes()[..], &[1, 0, 1, 0], &8000u32.to_le_bytes(), &8000u32.to_le_bytes(), &[1, 0, 8, 0]];
    let riff = (36 + len).to_le_bytes();
    [b"RIFF", &riff[..], b"WAVEfmt ", &format.concat(), b"data", &len.to_le_bytes(), &samples].concat()
}

/// One page that says "A page of PDF".
fn pdf() -> Vec<u8> {
    let text = "BT /F1 24 Tf 40 120 Td (A page of PDF) Tj ET";
    let objects = [
        "<</Type/Catalog/Pages 2 0 R>>".to_owned(),
        "<</Type/Pages/Kids[3 0 R]/Count 1>>".to_owned(),
        "<</Type/Page/Parent 2 0 R/MediaBox[0 0 300 200]/Contents 4 0 R/Resources<</Font<</F1 5 0 R>>>>>>".to_owned(),
        format!("<</Length {}>>stream\n{text}\nendstream", text.len()),
        "<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>".to_owned(),
    ];
    let (mut file, mut table) = (String::from("%PDF-1.4\n"), String::from("0000000000 65535 f \n"));
    for (n, object) in objects.iter().enumerate() {
        table.push_str(&format!("{:010} 00000 n \n", file.len()));
        file.push_str(&format!("{} 0 obj{object}endobj\n", n + 1));
    }
    let xref = file.len();
    file.push_str(&format!("xref\n0 6\n{table}trailer<</Size 6/Root 1 0 R>>\nstartxref\n{xref}\n%%EOF\n"));
    file.into_bytes()
}

/// Names of pages, and the element that shows the content there.
const SHOWN: [(&str, &str); 9] = [
    ("image", "img"),
    ("audio", "audio"),
    ("text", "iframe"),
    ("pdf", "iframe"),
    ("password", "img"),
    ("limited", "img"),
    ("comments", "img"),
    ("viewing", "img"),
    ("html", ""),
];

/// Opens pages in the browser and gives what is seen there.
async fn look(modules: &str, pages: Map<String, Value>) -> Value {
    let folder = tempfile::TempDir::new().unwrap();
    let shots = std::env::var_os("GRIDGATE_TEST_SCREENSHOTS").map_or(folder.path().to_owned(), Into::into);
    let mut node = tokio::process::Command::new("node");
    node.arg(SHARE).arg(shots).env("NODE_PATH", modules).env("TMPDIR", folder.path()).stderr(Stdio::inherit());
    serde_json::from_slice(&run_with(node, Value::Object(pages).to_string().as_bytes()).await).unwrap()
}

/// Everything in its place, nothing that the browser complains about, and the bytes saved by the button.
fn assert_shows(page: &str, preview: &str, seen: &Value, bytes: &[u8]) {
    let state = (&seen["status"], &seen["fits"], &seen["complaints"]);
    assert_eq!(state, (&json!(200), &json!(true), &json!([])), "{page}: {seen}");
    assert_eq!(seen["preview"].as_str().unwrap_or_default(), preview, "{page}: {seen}");
    assert_eq!(seen["background"], "rgb(255, 255, 255)", "{page}: the style is taken");
    if preview == "img" {
        assert_eq!((&seen["shown"], &seen["heading"]), (&json!(320), &json!("holiday.png")), "{page}");
    }
    match page {
        "viewing" => assert!(seen.get("saved").is_none(), "{seen}"),
        _ => assert!(STANDARD.decode(seen["saved"].as_str().unwrap()).unwrap() == bytes, "{page}"),
    }
}

#[tokio::test]
async fn a_browser_without_scripts_shows_and_saves_what_is_shared() {
    let Some(modules) = node_modules("playwright-core").filter(|_| is_there("chromium")) else { return };
    let app = TestApp::start().await;
    let url = |share: &Value| format!("{}{}", app.url, link(share));
    let files = [
        ("image", "holiday.png", "image/png", png()),
        ("audio", "tone.wav", "audio/wav", wav()),
        ("text", "words.txt", "text/plain; charset=utf-8", "Grüße <b>& more</b>\n".repeat(40).into_bytes()),
        ("pdf", "page.pdf", "application/pdf", pdf()),
        ("html", "page.html", "text/html", b"<h1>active</h1><script>document.title = 'ran'</script>".to_vec()),
    ];
    let (mut pages, mut made) = (Map::new(), Map::new());
    for (kind, name, type_, bytes) in &files {
        let file = app.put(&format!("name={name}"), type_, bytes.clone()).await;
        let share = share(&app, &file, json!({ "note": "From the test.", "maxDownloads": null })).await;
        pages.insert((*kind).to_owned(), json!({ "url": url(&share) }));
        made.insert((*kind).to_owned(), file);
    }
    let image = &made["image"];
    for (name, said, mut page) in [
        ("password", json!({ "password": "open sesame" }), json!({ "password": "open sesame" })),
        ("limited", json!({ "maxDownloads": 1 }), json!({ "preview": true })),
        ("comments", json!({ "allowComment": true }), json!({ "comment": "A <i>comment</i>" })),
        ("viewing", json!({ "allowDownload": false }), json!({})),
        ("expired", json!({ "expiresIn": 1 }), json!({})),
    ] {
        page["url"] = json!(url(&share(&app, image, said).await));
        pages.insert(name.to_owned(), page);
    }
    app.clock.advance(std::time::Duration::from_secs(2));
    let seen = look(&modules, pages).await;
    for (page, preview) in SHOWN {
        let bytes = files.iter().find(|(kind, ..)| *kind == page).map_or_else(png, |(.., bytes)| bytes.clone());
        assert_shows(page, preview, &seen[page], &bytes);
    }
    assert_eq!(seen["audio"]["shown"], 1, "seconds");
    assert_eq!(seen["pdf"]["viewer"], true, "the viewer of the browser runs in the frame");
    assert!(seen["text"]["frame"].as_str().unwrap().starts_with("Grüße <b>& more</b>"), "{}", seen["text"]);
    assert!(seen["comments"]["text"].as_str().unwrap().contains("A <i>comment</i>"));
    assert!(seen["html"]["text"].as_str().unwrap().contains("text/html"));
    let expired = &seen["expired"];
    assert_eq!((&expired["status"], &expired["heading"]), (&json!(410), &json!("The share has expired")), "{expired}");
    let shares = send(app.get(&format!("/v1/files/{}/shares", image["id"].as_str().unwrap()))).await.expect(200);
    let limited = shares["items"].as_array().unwrap().iter().find(|share| share["maxDownloads"] == 1).unwrap();
    assert_eq!(limited["downloads"], 1, "the preview and what was saved are one download");
}
