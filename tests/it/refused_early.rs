//! Uploads that are refused for what their head says: no more of the body is taken than lies in buffers, and nobody is
//! asked to send one.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;

use crate::support::app::{ADMIN_KEY, TestApp};
use crate::support::uploads::{PART, begin_sized};
use crate::support::wire::{Answer, Wire};

const GIB: u64 = 1 << 30;
/// The client's send buffer, as small as systems give it.
const SEND_BUFFER: u32 = 64 << 10;
/// What the gateway may take: its side's buffer at its largest here, its reader's, and the client's own.
const TAKEN: usize = 1 << 20;

/// Sends a head and then a body until the gateway closes; gives what came back and how much was sent.
async fn flood(app: &TestApp, head: &str, piece: &[u8]) -> (String, usize) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_send_buffer_size(SEND_BUFFER).unwrap();
    let address = app.url.trim_start_matches("http://").parse().unwrap();
    let (mut reader, mut writer) = socket.connect(address).await.unwrap().into_split();
    writer.write_all(head.as_bytes()).await.unwrap();
    let reading = tokio::spawn(async move {
        let mut answer = Vec::new();
        while reader.read_buf(&mut answer).await.is_ok_and(|len| len > 0) {}
        String::from_utf8_lossy(&answer).into_owned()
    });
    let mut sent = 0;
    let sending = async {
        while let Ok(len) = writer.write(piece).await {
            sent += len;
        }
    };
    let answer = tokio::select! {
        answer = reading => answer.unwrap(),
        () = async { sending.await; std::future::pending().await } => unreachable!(),
        () = tokio::time::sleep(Duration::from_secs(5)) => panic!("the connection is still open"),
    };
    (answer, sent)
}

#[tokio::test]
async fn a_large_upload_of_nobody_is_answered_and_cut() {
    let app = TestApp::start().await;
    let lengths = [format!("Content-Length: {GIB}"), "Transfer-Encoding: chunked".to_owned()];
    let credentials =
        ["", "Authorization: Bearer gg_admin_wrong-0123456789-0123456789\r\n", "Authorization: Basic eDp5\r\n"];
    let mut chunk = b"10000\r\n".to_vec();
    chunk.extend([b'x'; 0x10000]);
    chunk.extend(b"\r\n");
    let plain = vec![b'x'; 64 << 10];
    for (length, piece) in lengths.iter().zip([&plain, &chunk]) {
        for credential in credentials {
            let head = format!("POST /v1/files HTTP/1.1\r\nHost: x\r\n{credential}{length}\r\n\r\n");
            let (answer, sent) = flood(&app, &head, piece).await;
            println!("{length}, {credential:?}: {sent} bytes were taken");
            assert!(answer.starts_with("HTTP/1.1 401 "), "{head}: {answer:?}");
            assert!(sent < TAKEN, "{head}: {sent} bytes were taken");
        }
    }
}

async fn ask(app: &TestApp, head: String) -> Answer {
    let mut wire = Wire::connect(&app.url).await;
    wire.send(head).await;
    wire.answer().await.unwrap()
}

#[tokio::test]
async fn whoever_asks_before_sending_is_told_no_and_never_to_go_on() {
    let app = TestApp::start_with(|settings| {
        settings.buckets.values_mut().for_each(|bucket| bucket.max_bytes = 1000);
    })
    .await;
    let upload = begin_sized(&app, 1000).await;
    let part = format!("/v1/uploads/{}/parts/0", upload["id"].as_str().unwrap());
    let form = "Content-Type: multipart/form-data; boundary=b\r\n";
    let json = "Content-Type: application/json\r\n";
    let wrong = "gg_admin_wrong-0123456789-0123456789";
    let cases = [
        ("POST", "/v1/files", wrong, "", 10u64, 401),
        ("POST", "/v1/files", wrong, form, 10, 401),
        ("PUT", part.as_str(), wrong, "", 10, 401),
        ("POST", "/v1/files", ADMIN_KEY, "", 1001, 413),
        ("POST", "/v1/files", ADMIN_KEY, form, GIB, 413),
        ("POST", "/v1/uploads", ADMIN_KEY, json, GIB, 413),
        ("PUT", part.as_str(), ADMIN_KEY, "", PART as u64 + 1, 413),
    ];
    for (method, path, token, fields, len, status) in cases {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n{fields}Expect: 100-continue\r\nContent-Length: {len}\r\n\r\n"
        );
        let answer = ask(&app, head.clone()).await;
        assert_eq!(answer.status, status, "{head}: {answer:?}");
    }
    let mut wire = Wire::connect(&app.url).await;
    wire.send(format!(
        "POST /v1/files HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ADMIN_KEY}\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
    ))
    .await;
    assert_eq!(wire.head().await.status, 100, "who may send is told so");
    wire.send("hello").await;
    assert_eq!(wire.answer().await.unwrap().status, 201);
}

#[tokio::test]
async fn no_header_changes_the_method_and_unknown_methods_are_refused() {
    let app = TestApp::start().await;
    let file = app.put("name=a", "text/plain", "x").await;
    let path = format!("/v1/files/{}", file["id"].as_str().unwrap());
    let overriding =
        format!("Authorization: Bearer {ADMIN_KEY}\r\nX-HTTP-Method-Override: DELETE\r\nX-Method-Override: DELETE");
    let asked = ask(&app, format!("GET {path}?_method=DELETE HTTP/1.1\r\nHost: x\r\n{overriding}\r\n\r\n")).await;
    assert_eq!(asked.status, 400, "an unknown parameter");
    for (method, status) in [("GET", 200), ("POST", 405)] {
        let head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\n{overriding}\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(ask(&app, head).await.status, status, "{method}");
    }
    assert_eq!(app.get(&path).send().await.unwrap().status().as_u16(), 200, "it is still there");
    for method in ["TRACE", "FROBNICATE", "PROPFIND", "get"] {
        let head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nX-Secret: 1\r\n\r\n");
        let answer = ask(&app, head).await;
        assert_eq!((answer.status, &answer.json()["code"]), (405, &"method_not_allowed".into()), "{method}");
        assert!(answer.header("allow").is_some_and(|allow| allow.contains("GET")), "{method}: {answer:?}");
        assert!(!String::from_utf8_lossy(&answer.body).contains("X-Secret"), "nothing is echoed");
    }
    let connect = ask(&app, "CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\r\n".to_owned()).await;
    assert_eq!((connect.status, connect.header("allow")), (405, Some("")), "no tunnel: {connect:?}");
}

#[tokio::test]
async fn heads_that_are_too_large_are_refused() {
    let app = TestApp::start().await;
    let large = format!("X-Large: {}\r\n", "x".repeat(1_000_000));
    let many: String = (0..150).map(|n| format!("X-{n}: y\r\n")).collect();
    let long = "x".repeat(70_000);
    let heads = [
        (format!("GET /livez HTTP/1.1\r\nHost: x\r\n{large}\r\n"), 431),
        (format!("GET /livez HTTP/1.1\r\nHost: x\r\n{many}\r\n"), 431),
        (format!("GET /livez?{long} HTTP/1.1\r\nHost: x\r\n\r\n"), 414),
    ];
    for (head, status) in heads {
        let mut wire = Wire::connect(&app.url).await;
        wire.send(&head).await;
        let answer = wire.answer().await.unwrap();
        assert_eq!(answer.status, status, "{}", &head[..60]);
        assert!(wire.is_closed().await);
    }
    let fits = format!("GET /livez HTTP/1.1\r\nHost: x\r\nX-Large: {}\r\n\r\n", "x".repeat(16_000));
    assert_eq!(ask(&app, fits).await.status, 200);
}
