//! Lists: their order, their pages, their filters, and what nobody gets out of them.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use mongodb::bson::oid::ObjectId;
use mongodb::bson::{Document, doc};
use serde_json::{Value, json};

use crate::auth::key;
use crate::support::app::{TestApp, all_buckets, noise};
use crate::support::profiler;
use crate::support::requests::{query, send};

async fn list(app: &TestApp, query: &str) -> Value {
    send(app.get(&format!("/v1/files?{query}"))).await.expect(200)
}

fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().unwrap().iter().map(|file| file["name"].as_str().unwrap()).collect()
}

/// Files that differ in everything a filter looks at.
async fn sample(app: &TestApp) {
    for (query, content_type, bytes) in [
        ("name=b.txt&tags=x,y&category=c&folder=/f&access=public", "text/plain", noise(10, 1)),
        ("name=a.csv&tags=x&folder=/f/g", "text/csv", noise(30, 2)),
        ("name=c.png&tags=y&category=c", "image/png", noise(20, 3)),
        ("name=d.mp4", "video/mp4", noise(20, 4)),
        ("name=e.zip&access=internal", "application/zip", noise(0, 5)),
        ("name=A.bin", "application/octet-stream", vec![0; 40]),
    ] {
        app.put(query, content_type, bytes).await;
        // Times of creation are told apart.
        app.clock.advance(Duration::from_millis(10));
    }
}

#[tokio::test]
async fn newest_first_unless_another_order_is_asked_for() {
    let app = TestApp::start().await;
    assert_eq!(
        list(&app, "").await,
        serde_json::json!({ "items": [], "nextCursor": null, "total": 0, "totalIsExact": true })
    );
    sample(&app).await;
    let newest = ["A.bin", "e.zip", "d.mp4", "c.png", "a.csv", "b.txt"];
    let by_name = ["A.bin", "a.csv", "b.txt", "c.png", "d.mp4", "e.zip"];
    let reversed = |names: [&'static str; 6]| names.into_iter().rev().collect::<Vec<_>>();
    assert_eq!(names(&list(&app, "").await), newest);
    assert_eq!(names(&list(&app, "sort=-createdAt").await), newest);
    assert_eq!(names(&list(&app, "sort=createdAt").await), reversed(newest));
    assert_eq!(names(&list(&app, "sort=name").await), by_name);
    assert_eq!(names(&list(&app, "sort=-name").await), reversed(by_name));
    let sizes = |list: &Value| -> Vec<u64> {
        list["items"].as_array().unwrap().iter().map(|file| file["size"].as_u64().unwrap()).collect()
    };
    assert_eq!(sizes(&list(&app, "sort=size").await), [0, 10, 20, 20, 30, 40]);
    assert_eq!(sizes(&list(&app, "sort=-size").await), [40, 30, 20, 20, 10, 0]);
}

#[tokio::test]
async fn every_filter_shows_its_files_and_counts_them() {
    let app = TestApp::start_with(all_buckets).await;
    sample(&app).await;
    let all = list(&app, "sort=createdAt").await;
    let created = |i: usize| all["items"][i]["createdAt"].as_str().unwrap().to_owned();
    let (second, fourth) = (created(1), created(3));
    for (pairs, expected) in [
        (vec![("kind", "text")], vec!["b.txt"]),
        (vec![("kind", "data")], vec!["a.csv"]),
        (vec![("kind", "document")], vec![]),
        (vec![("contentType", "image/png")], vec!["c.png"]),
        (vec![("bucket", "documents")], vec!["a.csv", "b.txt"]),
        (vec![("bucket", "fs")], vec![]),
        (vec![("bucket", "system.users")], vec![]),
        (vec![("bucket", "a.b$c")], vec![]),
        (vec![("category", "c")], vec!["b.txt", "c.png"]),
        (vec![("tag", "x")], vec!["a.csv", "b.txt"]),
        (vec![("tag", "x"), ("tag", "y")], vec!["b.txt"]),
        (vec![("tag", "x,y")], vec![]),
        (vec![("folder", "/f")], vec!["b.txt"]),
        (vec![("folder", "/f/")], vec!["b.txt"]),
        (vec![("folder", "/")], vec!["A.bin", "c.png", "d.mp4", "e.zip"]),
        (vec![("owner", "admin"), ("kind", "video")], vec!["d.mp4"]),
        (vec![("owner", "somebody")], vec![]),
        (vec![("access", "public")], vec!["b.txt"]),
        (vec![("access", "internal")], vec!["e.zip"]),
        (vec![("minSize", "30")], vec!["A.bin", "a.csv"]),
        (vec![("maxSize", "10")], vec!["b.txt", "e.zip"]),
        (vec![("minSize", "20"), ("maxSize", "20")], vec!["c.png", "d.mp4"]),
        (vec![("createdAfter", second.as_str())], vec!["A.bin", "c.png", "d.mp4", "e.zip"]),
        (vec![("createdBefore", second.as_str())], vec!["b.txt"]),
        (vec![("createdAfter", second.as_str()), ("createdBefore", fourth.as_str())], vec!["c.png"]),
    ] {
        let shown = list(&app, &query(&[pairs.clone(), vec![("sort", "name")]].concat())).await;
        let mut expected = expected;
        expected.sort_unstable();
        assert_eq!(names(&shown), expected, "{pairs:?}");
        assert_eq!(shown["total"], expected.len(), "{pairs:?}");
    }
}

#[tokio::test]
async fn pages_show_every_file_once_while_files_are_added() {
    let app = TestApp::start().await;
    let put = |i: usize| app.put_owned(format!("name=f{:03}&tags=t", i % 20));
    let before: Vec<String> = stream::iter(0..60).map(put).buffer_unordered(4).collect().await;
    for sort in ["-createdAt", "createdAt", "name", "-name", "size", "-size"] {
        let mut seen = Vec::new();
        let mut cursor = None;
        loop {
            let mut pairs = vec![("tag", "t".to_owned()), ("sort", sort.to_owned()), ("limit", "7".to_owned())];
            pairs.extend(cursor.map(|cursor| ("cursor", cursor)));
            let page = list(&app, &serde_urlencoded::to_string(&pairs).unwrap()).await;
            assert!(page["total"].as_u64().unwrap() >= 60);
            let items = page["items"].as_array().unwrap();
            assert!(items.len() <= 7);
            seen.extend(items.iter().map(|file| file["id"].as_str().unwrap().to_owned()));
            cursor = page["nextCursor"].as_str().map(str::to_owned);
            if cursor.is_none() {
                break;
            }
            put(seen.len()).await;
        }
        let distinct: HashSet<_> = seen.iter().collect();
        assert_eq!(distinct.len(), seen.len(), "{sort}: none twice");
        assert!(before.iter().all(|id| distinct.contains(id)), "{sort}: none left out");
    }
}

impl TestApp {
    async fn put_owned(&self, query: String) -> String {
        self.put(&query, "text/plain", "x").await["id"].as_str().unwrap().to_owned()
    }
}

#[tokio::test]
async fn the_last_page_is_exact_and_a_cursor_belongs_to_its_list() {
    let app = TestApp::start().await;
    sample(&app).await;
    for limit in [1, 2, 3, 6, 200] {
        let page = list(&app, &format!("limit={limit}")).await;
        assert_eq!(page["items"].as_array().unwrap().len(), limit.min(6));
        assert_eq!(page["nextCursor"].is_null(), limit >= 6, "{limit}");
        assert_eq!(page["total"], 6);
    }
    let cursor = list(&app, "limit=2&sort=name&tag=x").await["nextCursor"].clone();
    assert!(cursor.is_null(), "there are two");
    let page = list(&app, "limit=1&sort=name&tag=x").await;
    let cursor = page["nextCursor"].as_str().unwrap();
    assert_eq!(names(&list(&app, &format!("limit=5&tag=x&sort=name&cursor={cursor}")).await), ["b.txt"]);
    for other in
        ["sort=name", "sort=-name&tag=x", "tag=x", "sort=size&tag=x", "sort=name&tag=y", "sort=name&tag=x&kind=text"]
    {
        let reply = send(app.get(&format!("/v1/files?{other}&cursor={cursor}"))).await;
        assert_eq!(reply.refused(400, "bad_request")["field"], "cursor", "{other}");
    }
}

#[tokio::test]
async fn a_parameter_that_is_none_is_refused_with_its_name() {
    let app = TestApp::start().await;
    sample(&app).await;
    let long = "x".repeat(300);
    for (name, value) in [
        ("limit", "0"),
        ("limit", "-1"),
        ("limit", "201"),
        ("limit", "1000000000"),
        ("limit", "9223372036854775808"),
        ("limit", "abc"),
        ("limit", "+5"),
        ("limit", ""),
        ("sort", ""),
        ("sort", "--name"),
        ("sort", "owner"),
        ("sort", "relevance"),
        ("sort", "$natural"),
        ("kind", "x"),
        ("kind", ""),
        ("bucket", ""),
        ("contentType", ""),
        ("contentType", long.as_str()),
        ("category", ""),
        ("category", long.as_str()),
        ("tag", ""),
        ("tag", "a\0b"),
        ("folder", "a"),
        ("folder", "/../"),
        ("owner", ""),
        ("access", "all"),
        ("minSize", "-1"),
        ("minSize", "1.5"),
        ("maxSize", "big"),
        ("maxSize", "9223372036854775808"),
        ("createdAfter", "yesterday"),
        ("createdBefore", "2026-02-30T00:00:00Z"),
        ("createdBefore", ""),
        ("cursor", ""),
        ("cursor", "x"),
        ("cursor", "eyJ2IjoxfQ"),
        ("offset", "5"),
        ("skip", "5"),
    ] {
        let reply = send(app.get(&format!("/v1/files?{}", query(&[(name, value)])))).await;
        assert_eq!(reply.refused(400, "bad_request")["field"], name, "{name}={value}");
    }
    for (query, field) in [
        ("minSize=2&maxSize=1", "minSize"),
        ("createdAfter=2026-02-01T00:00:00Z&createdBefore=2026-01-01T00:00:00Z", "createdAfter"),
        ("kind=text&kind=data", "kind"),
        ("limit=1&limit=1", "limit"),
    ] {
        assert_eq!(send(app.get(&format!("/v1/files?{query}"))).await.refused(400, "bad_request")["field"], field);
    }
    for list in ["/v1/uploads", "/v1/admin/keys"] {
        for limit in ["0", "-1", "201", "1000000000", "9223372036854775808", "abc", ""] {
            let refused = send(app.get(&format!("{list}?limit={limit}"))).await.refused(400, "bad_request");
            assert_eq!(refused["field"], "limit", "{list} {limit}");
        }
        send(app.get(&format!("{list}?offset=5"))).await.refused(400, "bad_request");
    }
}

#[tokio::test]
async fn operators_are_neither_parameters_nor_values() {
    let app = TestApp::start().await;
    sample(&app).await;
    for query in [
        "kind[$ne]=x",
        "owner[$ne]=x",
        "size[$gt]=0",
        "minSize[$gt]=0",
        "tenant[$ne]=x&owner[$exists]=true&$where=sleep(5000)&filename[$regex]=.*&q[$gt]=",
        "$where=sleep(5000)",
        "tenant=other",
        "name[$regex]=.*",
        "tag[$ne]=x",
        "tag[]=x",
    ] {
        let begun = Instant::now();
        send(app.get(&format!("/v1/files?{query}"))).await.refused(400, "bad_request");
        assert!(begun.elapsed() < Duration::from_secs(1));
    }
    for (name, value) in [
        ("owner", r#"{"$ne":null}"#),
        ("category", r#"{"$gt":""}"#),
        ("tag", r#"{"$ne":null}"#),
        ("tag", "$x"),
        ("contentType", ".*"),
        ("contentType", "image/*"),
        ("category", "(a+)+$"),
        ("folder", "/.*"),
        ("owner", "/admin/i"),
    ] {
        let shown = list(&app, &query(&[(name, value)])).await;
        assert_eq!(
            (&shown["total"], shown["items"].as_array().unwrap().len()),
            (&0.into(), 0),
            "{name}={value} is text"
        );
    }
}

#[tokio::test]
async fn a_total_is_exact_up_to_a_thousand_and_costs_no_more_beyond() {
    let app = TestApp::start().await;
    app.put("name=model.txt&folder=/a&access=internal", "text/plain", b"model".to_vec()).await;
    let db = app.mongo().await;
    let registry = db.collection::<Document>("file_registry");
    let model = registry.find_one(doc! {}).await.unwrap().unwrap();
    let copy = |_| {
        let mut copy = model.clone();
        let id = ObjectId::new();
        copy.extend(doc! { "_id": id, "file": id, "folder": "/many" });
        copy
    };
    registry.insert_many((0..999).map(copy)).await.unwrap();
    app.app.files.fold_usage().await.unwrap();
    app.app.files.recount_usage().await.unwrap();
    let total = async |query: &str| {
        let list = list(&app, query).await;
        (list["total"].clone(), list["totalIsExact"].clone())
    };
    assert_eq!(total("").await, (json!(1000), json!(true)));

    registry.insert_many((0..500).map(copy)).await.unwrap();
    assert_eq!(total("").await, (json!(1000), json!(false)), "the counter knows of 1,000");
    app.app.files.recount_usage().await.unwrap();
    assert_eq!(total("").await, (json!(1500), json!(false)));
    assert_eq!(total("folder=/many").await, (json!(1000), json!(false)));
    assert_eq!(total("folder=/a").await, (json!(1), json!(true)));

    // The counter is of more than who is no administrator may see.
    let reader = key(&app, "reader", "default", &["files:read"], None).await;
    let seen = send(app.anonymous("GET", "/v1/files").bearer_auth(&reader)).await.expect(200);
    assert_eq!((&seen["total"], &seen["totalIsExact"]), (&json!(1000), &json!(false)));

    profiler::start(&db).await;
    list(&app, "limit=10").await;
    let acts = profiler::stop(&db, "file_registry").await;
    let examined = profiler::sum(&acts, "docsExamined");
    assert!((1011..=1100).contains(&examined), "{examined} documents for a page of ten");
}
