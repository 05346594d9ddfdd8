//! Uploads as `multipart/form-data`: one file, last; everything else is refused and leaves nothing.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

use crate::support::app::{TestApp, noise};
use crate::support::requests::{Form, assert_nothing_stored, count_files, form_request, query, send};

fn sha256(bytes: &[u8]) -> String {
    format!("sha-256=:{}:", STANDARD.encode(Sha256::digest(bytes)))
}

#[tokio::test]
async fn a_form_stores_the_file_as_the_raw_body_does() {
    let app = TestApp::start().await;
    for len in [0, 1, 8 << 10, 700_001] {
        let bytes = noise(len, 1);
        let form = Form::new().field("category", "c").file("a.bin", "application/octet-stream", &bytes);
        let file = send(form.request(&app, "tags=x")).await.expect(201);
        assert_eq!((&file["size"], &file["name"]), (&len.into(), &"a.bin".into()));
        assert_eq!((&file["category"], &file["tags"][0]), (&"c".into(), &"x".into()));
        assert!(app.content(&file).await == bytes);
    }
    // Bytes that look like the end of the form, but for the boundary.
    let tricky = b"\r\n--x--\r\n------gridgate-tests-012345678\r\n--".repeat(1000);
    let form = Form::new().file("a.bin", "application/octet-stream", &tricky);
    let file = send(form.request(&app, "")).await.expect(201);
    assert!(app.content(&file).await == tricky);
}

#[tokio::test]
async fn the_type_is_the_parts_own_unless_the_bytes_show_another() {
    let app = TestApp::start().await;
    let file = send(Form::new().file("a", "text/csv", b"a,b\n").request(&app, "")).await.expect(201);
    assert_eq!((&file["contentType"], &file["declaredType"]), (&"text/csv".into(), &serde_json::Value::Null));
    let png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR";
    let file = send(Form::new().file("a", "text/csv", png).request(&app, "")).await.expect(201);
    assert_eq!((&file["contentType"], &file["declaredType"]), (&"image/png".into(), &"text/csv".into()));
}

#[tokio::test]
async fn a_form_that_is_not_options_and_one_last_file_is_refused_and_leaves_nothing() {
    let app = TestApp::start().await;
    let file = |form: Form| form.file("a.txt", "text/plain", &noise(300_000, 2));
    let many = (0..1001).fold(Form::new(), |form, i| form.field(&format!("f{i}"), "x"));
    for (what, form, field) in [
        ("no file", Form::new().field("name", "a"), "file"),
        ("nothing", Form::new(), "file"),
        ("a second file", file(file(Form::new())), "body"),
        ("a field after the file", file(Form::new()).field("name", "a"), "body"),
        ("an unknown field", file(Form::new().field("bucket", "x")), "bucket"),
        ("a repeated field", file(Form::new().field("name", "a").field("name", "b")), "name"),
        ("too many fields", file(many), "f0"),
        ("a field without a name", file(Form::new().part("Content-Disposition: form-data", b"x")), "body"),
        ("a field of 1 MB", file(Form::new().field("description", &"x".repeat(1 << 20))), "description"),
        (
            "a field that is not UTF-8",
            file(Form::new().part("Content-Disposition: form-data; name=\"name\"", b"\xff")),
            "name",
        ),
    ] {
        let reply = send(form.request(&app, "")).await;
        let problem = reply.refused(400, "bad_request");
        assert_eq!(problem["field"], field, "{what}: {problem}");
    }
    assert_nothing_stored(&app).await;
}

#[tokio::test]
async fn an_option_in_the_query_and_in_the_form_is_refused() {
    let app = TestApp::start().await;
    for (option, value) in [("name", "a"), ("encrypt", "true"), ("tags", "x"), ("folder", "/"), ("access", "private")] {
        let form = Form::new().field(option, value).file("a", "text/plain", b"x");
        let reply = send(form.request(&app, &query(&[(option, value)]))).await;
        assert_eq!(reply.refused(400, "bad_request")["field"], option);
    }
    assert_nothing_stored(&app).await;
}

#[tokio::test]
async fn a_form_that_ends_early_or_has_no_boundary_is_refused() {
    let app = TestApp::start().await;
    let cut = Form::new().file("a", "text/plain", &noise(300_000, 3)).unfinished();
    send(form_request(&app, "").body(cut.clone())).await.refused(400, "bad_request");
    send(form_request(&app, "").body(cut[..100].to_vec())).await.refused(400, "bad_request");
    send(form_request(&app, "").body("not a form")).await.refused(400, "bad_request");
    let request = app.request("POST", "/v1/files").header("content-type", "multipart/form-data");
    assert_eq!(send(request.body("x")).await.refused(400, "bad_header")["field"], "Content-Type");
    assert_nothing_stored(&app).await;
}

#[tokio::test]
async fn repr_digest_is_of_the_file_and_content_digest_of_the_form() {
    let app = TestApp::start().await;
    let bytes = noise(300_000, 4);
    let body = Form::new().field("name", "a").file("a", "application/octet-stream", &bytes).body();
    let (of_file, of_form) = (sha256(&bytes), sha256(&body));
    let post = |headers: &[(&str, &String)]| {
        let request =
            headers.iter().fold(form_request(&app, ""), |request, (name, value)| request.header(*name, *value));
        send(request.body(body.clone()))
    };
    for wrong in [
        vec![("repr-digest", &of_form)],
        vec![("content-digest", &of_file)],
        vec![("repr-digest", &of_file), ("content-digest", &of_file)],
        vec![("repr-digest", &of_form), ("content-digest", &of_form)],
    ] {
        post(&wrong).await.refused(422, "checksum_mismatch");
    }
    assert_nothing_stored(&app).await;
    for right in [
        vec![("repr-digest", &of_file)],
        vec![("content-digest", &of_form)],
        vec![("repr-digest", &of_file), ("content-digest", &of_form)],
    ] {
        post(&right).await.expect(201);
    }
    assert_eq!(count_files(&app).await, 3);
}
