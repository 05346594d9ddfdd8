//! The thin way through: upload, whole and ranged download, delete.

use crate::support::app::{TestApp, content_path, noise};

#[tokio::test]
async fn a_file_comes_back_whole_and_in_part() {
    let app = TestApp::start().await;
    for (len, query) in
        [(0, "encrypt=true"), (700_000, "encrypt=true"), (700_000, "encrypt=false"), (5_000_000, "compress=zstd")]
    {
        let bytes = noise(len, 1);
        let file = app.put(&format!("name=a.bin&{query}"), "application/octet-stream", bytes.clone()).await;
        assert_eq!(file["size"], len);
        assert!(app.content(&file).await == bytes);
        if len > 0 {
            assert!(app.range(&file, 1000..600_000).await == bytes[1000..600_000]);
        }
    }
}

#[tokio::test]
async fn a_deleted_file_is_gone() {
    let app = TestApp::start().await;
    let file = app.put("name=a.txt", "text/plain", "hello").await;
    let path = format!("/v1/files/{}", file["id"].as_str().unwrap());
    assert_eq!(app.request("DELETE", &path).send().await.unwrap().status().as_u16(), 204);
    for gone in [path, content_path(&file)] {
        assert_eq!(app.get(&gone).send().await.unwrap().status().as_u16(), 404);
    }
}
