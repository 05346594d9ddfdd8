//! Requests that two servers could read differently, by hand: refused, and nothing becomes of them.

use crate::support::app::{ADMIN_KEY, TestApp};
use crate::support::requests::assert_nothing_stored;
use crate::support::wire::{Answer, Wire};

async fn ask(app: &TestApp, head: &str, body: &str) -> Option<Answer> {
    let mut wire = Wire::connect(&app.url).await;
    wire.send(format!("{head}\r\nAuthorization: Bearer {ADMIN_KEY}\r\n\r\n{body}")).await;
    wire.answer().await
}

#[tokio::test]
async fn bytes_in_another_transfer_coding_never_become_a_file() {
    let app = TestApp::start().await;
    let gzip = "\u{1f}\u{8}\0\0coded";
    let chunked = format!("{:x}\r\n{gzip}\r\n0\r\n\r\n", gzip.len());
    for coding in
        ["gzip, chunked", "chunked, gzip", "gzip", "chunked, chunked", "xchunked", "identity", "identity, chunked"]
    {
        let head = format!("POST /v1/files HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: {coding}");
        let answer = ask(&app, &head, &chunked).await.unwrap_or_else(|| panic!("{coding}: no answer"));
        assert!([400, 501].contains(&answer.status), "{coding}: {answer:?}");
    }
    assert_nothing_stored(&app).await;
}

#[tokio::test]
async fn a_request_names_exactly_one_host() {
    let app = TestApp::start().await;
    for target in ["/v1/files", "http://evil.example/v1/files"] {
        for hosts in ["", "\r\nHost: x\r\nHost: x", "\r\nHost: x\r\nHost: evil.example"] {
            for method in ["GET", "POST"] {
                let head = format!("{method} {target} HTTP/1.1{hosts}\r\nContent-Length: 0");
                let answer = ask(&app, &head, "").await.unwrap_or_else(|| panic!("{head}: no answer"));
                assert_eq!(answer.status, 400, "{head}: {answer:?}");
            }
        }
    }
    assert_nothing_stored(&app).await;
}

/// The places where an address is handed out.
#[tokio::test]
async fn no_address_is_made_of_what_a_request_says_of_its_host() {
    let app = TestApp::start().await;
    let tus = "\r\nTus-Resumable: 1.0.0\r\nUpload-Length: 1";
    let json = "\r\nContent-Type: application/json\r\nContent-Length: 21";
    for (path, more, body) in [
        ("/v1/files", "\r\nContent-Length: 1", "x"),
        ("/v1/uploads", json, r#"{"name":"a","size":1}"#),
        ("/tus/", tus, ""),
        ("/ruft/", "\r\nUpload-Complete: ?0\r\nContent-Length: 0", ""),
    ] {
        for target in [path.to_owned(), format!("http://evil.example{path}")] {
            let forwarded = "X-Forwarded-Host: evil.example\r\nForwarded: host=evil.example\r\nX-Forwarded-Proto: evil";
            let head = format!("POST {target} HTTP/1.1\r\nHost: evil.example\r\n{forwarded}{more}");
            let answer = ask(&app, &head, body).await.unwrap();
            assert_eq!(answer.status, 201, "{answer:?}");
            let location = answer.header("location").unwrap();
            assert!(location.starts_with(&app.url), "{location}");
            assert!(
                !format!("{:?}{}", answer.headers, String::from_utf8_lossy(&answer.body)).contains("evil"),
                "{answer:?}"
            );
        }
    }
}
