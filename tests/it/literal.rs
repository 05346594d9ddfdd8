//! Text of users stays text: no operator, expression or pattern, whichever way it comes in.

use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use mongodb::bson::oid::ObjectId;
use mongodb::bson::{Document, doc};
use serde_json::{Value, json};

use crate::support::app::TestApp;
use crate::support::requests::{query, send};
use crate::support::uploads::{begin, complete, put_part};

/// What a database that evaluates it would not give back.
const EXPRESSIONS: [&str; 7] =
    ["$name", "$$NOW", "$$ROOT", "$$REMOVE", r#"{"$ne":null}"#, "(a+)+$", "';return true;var x='"];

fn path(file: &Value) -> String {
    format!("/v1/files/{}", file["id"].as_str().unwrap())
}

fn assert_is(file: &Value, text: &str) {
    for member in ["name", "description", "category"] {
        assert_eq!(file[member], text, "{member}: {file}");
    }
    assert_eq!((&file["tags"][0], &file["custom"]["a"]), (&json!(text), &json!(text)));
}

#[tokio::test]
async fn text_that_looks_like_an_expression_is_kept_as_it_is_and_found_as_it_is() {
    let app = TestApp::start().await;
    for text in EXPRESSIONS {
        let custom = json!({ "a": text, "$set": { "b.c": text } });
        let said = [
            ("name", text),
            ("description", text),
            ("category", text),
            ("tags", text),
            ("custom", &custom.to_string()),
        ];
        let put = app.put(&query(&said), "text/x-$name", "x").await;
        assert_is(&put, text);
        assert_eq!((&put["custom"], &put["contentType"]), (&custom, &json!("text/x-$name")));

        let said = json!({
            "name": text, "description": text, "category": text, "tags": [text], "custom": custom, "size": 1,
            "contentType": "text/x-$$now",
        });
        let upload = begin(&app, said).await;
        put_part(&app, &upload, 0, b"y").await;
        let uploaded = complete(&app, &upload).await.expect(201);
        assert_is(&uploaded, text);
        assert_eq!((&uploaded["custom"], &uploaded["contentType"]), (&custom, &json!("text/x-$$now")));

        let plain = app.put("name=plain", "text/plain", "z").await;
        let change = json!({ "name": text, "description": text, "category": text, "tags": [text], "custom": custom });
        let changed = send(app.request("PATCH", &path(&plain)).json(&change)).await.expect(200);
        assert_is(&changed, text);

        for filter in ["category", "tag"] {
            let listed = send(app.get(&format!("/v1/files?{}", query(&[(filter, text)])))).await.expect(200);
            assert_eq!(listed["total"], 3, "{filter}={text}: these three and no other");
        }
    }
}

/// Documents of files as many, cheap to make and dear to match with a pattern.
async fn poison(app: &TestApp, count: usize) {
    let file = app.put("name=a&category=a", "text/plain", "x").await;
    let registry = app.mongo().await.collection::<Document>("file_registry");
    let one = registry.find_one(doc! {}).await.unwrap().unwrap();
    let text = format!("{}b", "a".repeat(60));
    let copies = (0..count).map(|_| {
        let mut copy = one.clone();
        copy.extend(doc! { "_id": ObjectId::new(), "file": ObjectId::new(), "name": &text, "category": &text,
        "tags": [&text], "folder": format!("/{text}"), "owner": &text, "contentType": format!("text/{text}") });
        copy
    });
    registry.insert_many(copies).await.unwrap();
    assert_eq!(send(app.request("DELETE", &path(&file))).await.status, 204);
}

#[tokio::test]
async fn patterns_over_many_names_that_nearly_match_cost_what_other_text_costs() {
    let app = TestApp::start().await;
    poison(&app, 2000).await;
    let patterns = ["(a+)+$", "^(a+)+$", "(a|aa)+$", "(a|a?)+$", "^((a+)+)+$", "/(a+)+$/i"];
    let fields = ["category", "tag", "owner", "contentType"];
    let asked = patterns.into_iter().flat_map(|pattern| fields.map(|field| (field, pattern)));
    let (app, begun) = (&app, Instant::now());
    let answers = asked.map(|(field, pattern)| async move {
        let begun = Instant::now();
        let listed = send(app.get(&format!("/v1/files?{}", query(&[(field, pattern)])))).await.expect(200);
        assert_eq!(listed["total"], 0, "{field}={pattern} is a literal that nobody has");
        assert!(begun.elapsed() < Duration::from_secs(2), "{field}={pattern} took {:?}", begun.elapsed());
    });
    stream::iter(answers).buffer_unordered(8).collect::<()>().await;
    // What was put there behind its back is not counted yet.
    app.app.files.recount_usage().await.unwrap();
    let all = send(app.get("/v1/files?limit=200")).await.expect(200);
    assert_eq!((&all["total"], all["items"].as_array().unwrap().len()), (&json!(2000), 200));
    assert!(begun.elapsed() < Duration::from_secs(20), "they took {:?}", begun.elapsed());
}
