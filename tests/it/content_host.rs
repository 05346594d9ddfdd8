//! Content on a host of its own, and which pages may embed it.

use crate::support::app::{ADMIN_KEY, TestApp, content_path};
use crate::support::requests::send;
use crate::support::wire::{Answer, Wire};

async fn ask(app: &TestApp, host: &str, method: &str, path: &str) -> Answer {
    let mut wire = Wire::connect(&app.url).await;
    wire.send(format!(
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {ADMIN_KEY}\r\nContent-Length: 0\r\n\r\n"
    ))
    .await;
    wire.head().await
}

#[tokio::test]
async fn a_host_of_content_serves_nothing_else() {
    let app = TestApp::start_with(|settings| {
        settings.server.public_url = "https://files.example.org/".to_owned();
        settings.server.content_url = "https://Content.example.org:8443/".to_owned();
    })
    .await;
    let file = app.put("name=a", "text/plain", "hello").await;
    let path = content_path(&file);
    let links = &file["links"];
    assert_eq!(links["content"], format!("https://Content.example.org:8443{path}"));
    assert_eq!(links["self"], format!("https://files.example.org{}", path.trim_end_matches("/content")));
    for host in ["content.example.org", "content.example.org:8443", "CONTENT.EXAMPLE.ORG.:80"] {
        for method in ["GET", "HEAD"] {
            let answer = ask(&app, host, method, &path).await;
            assert_eq!((answer.status, answer.header("content-length")), (200, Some("5")), "{method} {host}");
        }
        let mut others =
            vec![("POST", path.as_str()), ("OPTIONS", path.as_str()), ("POST", "/v1/files"), ("GET", "/livez")];
        others.extend(["/", "/v1/files", "/openapi.yaml", "/metrics", "/tus/", "/readyz"].map(|path| ("GET", path)));
        let file_path = path.trim_end_matches("/content");
        others.extend([("GET", file_path), ("DELETE", file_path), ("GET", "/v1/admin/keys"), ("GET", "/s/x")]);
        for (method, path) in others {
            let answer = ask(&app, host, method, path).await;
            assert_eq!(answer.status, 404, "{method} {host}{path}: {answer:?}");
        }
    }
    // A target in absolute form decides, whatever the header says (RFC 9112 §3.2.2).
    let absolute = ask(&app, "files.example.org", "GET", "http://content.example.org/v1/files").await;
    assert_eq!(absolute.status, 404);
    let mut wire = Wire::connect(&app.url).await;
    wire.send("GET /v1/files HTTP/1.1\r\nHost: content.example.org\r\n\r\n").await;
    let refused = wire.answer().await.unwrap();
    assert_eq!((refused.status, &refused.json()["code"]), (404, &"route_not_found".into()), "before any credential");
    for host in ["files.example.org", "127.0.0.1", "example.org", "x.content.example.org"] {
        assert_eq!(ask(&app, host, "GET", "/v1/files").await.status, 200, "{host}");
        assert_eq!(ask(&app, host, "GET", &path).await.status, 200, "{host}");
    }
}

#[tokio::test]
async fn without_a_host_of_content_links_are_where_everything_is() {
    let app = TestApp::start().await;
    let file = app.put("name=a", "text/plain", "hello").await;
    assert_eq!(file["links"]["content"], format!("{}{}", app.url, content_path(&file)));
}

#[tokio::test]
async fn only_public_content_may_be_embedded_by_other_origins() {
    let app = TestApp::start().await;
    for (access, policy) in [("private", "same-origin"), ("internal", "same-origin"), ("public", "cross-origin")] {
        let file = app.put(&format!("name=a&access={access}"), "image/png", "\u{89}PNG\r\n").await;
        let path = content_path(&file);
        let whole = send(app.get(&path)).await;
        let not_modified = send(app.get(&path).header("if-none-match", whole.header("etag"))).await;
        let part = send(app.get(&path).header("range", "bytes=1-2")).await;
        let parts = send(app.get(&path).header("range", "bytes=0-0,4-4")).await;
        let head = send(app.request("HEAD", &path)).await;
        assert_eq!((whole.status, not_modified.status, part.status, head.status), (200, 304, 206, 200));
        for reply in [whole, not_modified, part, parts, head] {
            assert_eq!(reply.header("cross-origin-resource-policy"), policy, "{access}: {reply:?}");
        }
    }
}
