//! Every option of an upload, as a query parameter and as a form field, and the limits of each.

use serde_json::{Value, json};

use crate::support::app::TestApp;
use crate::support::requests::{Form, Reply, assert_nothing_stored, query, send};
use crate::support::uploads::begin_request;

async fn by_query(app: &TestApp, options: &[(&str, &str)], bytes: &[u8]) -> Reply {
    let request = app.request("POST", &format!("/v1/files?{}", query(options)));
    send(request.header("content-type", "text/plain").body(bytes.to_vec())).await
}

async fn by_form(app: &TestApp, options: &[(&str, &str)], bytes: &[u8]) -> Reply {
    let form = options.iter().fold(Form::new(), |form, (name, value)| form.field(name, value));
    send(form.file("part.txt", "text/plain", bytes).request(app, "")).await
}

/// The file that each of the two ways makes.
async fn both(app: &TestApp, options: &[(&str, &str)]) -> [Value; 2] {
    let bytes = "some text\n".repeat(100);
    let made = [by_query(app, options, bytes.as_bytes()).await, by_form(app, options, bytes.as_bytes()).await];
    made.map(|reply| reply.expect(201))
}

#[tokio::test]
async fn every_option_comes_back_from_a_query_and_from_a_form() {
    let app = TestApp::start().await;
    for (option, value, pointer, expected) in [
        ("name", "Grüße & 1 + 1.txt", "/name", json!("Grüße & 1 + 1.txt")),
        ("description", "one\ntwo\t", "/description", json!("one\ntwo\t")),
        ("tags", "b, a,,b,ü", "/tags", json!(["b", "a", "ü"])),
        ("tags", "", "/tags", json!([])),
        ("category", "invoices", "/category", json!("invoices")),
        ("folder", "/reports/2026", "/folder", json!("/reports/2026")),
        ("folder", "/reports/2026/", "/folder", json!("/reports/2026")),
        ("access", "internal", "/access", json!("internal")),
        ("access", "public", "/access", json!("public")),
        ("retentionDays", "30", "/retention/days", json!(30)),
        ("expiresAt", "2099-01-02T03:04:05.678+01:00", "/retention/expiresAt", json!("2099-01-02T02:04:05.678Z")),
        ("compress", "none", "/compression", json!(null)),
        ("compress", "zstd", "/compression/codec", json!("zstd")),
        ("compress", "gzip", "/compression/codec", json!("gzip")),
        ("compress", "auto", "/compression/codec", json!("zstd")),
        ("encrypt", "true", "/encryption/mode", json!("managed")),
        ("encrypt", "false", "/encryption", json!(null)),
        ("custom", r#"{"a":[1,2.5,null],"$b":{"c.d":"é"}}"#, "/custom", json!({"a":[1,2.5,null],"$b":{"c.d":"é"}})),
    ] {
        for (way, file) in ["query", "form"].iter().zip(both(&app, &[(option, value)]).await) {
            assert_eq!(file.pointer(pointer), Some(&expected), "{option}={value:?} by {way}");
            let path = format!("/v1/files/{}", file["id"].as_str().unwrap());
            assert_eq!(send(app.get(&path)).await.expect(200), file, "the answer to POST is the file");
        }
    }
}

#[tokio::test]
async fn a_file_without_options_has_the_documented_defaults() {
    let app = TestApp::start().await;
    let file = by_query(&app, &[], b"x").await.expect(201);
    for (member, expected) in [
        ("name", json!("unnamed")),
        ("description", json!(null)),
        ("tags", json!([])),
        ("category", json!(null)),
        ("folder", json!("/")),
        ("access", json!("private")),
        ("retention", json!(null)),
        ("custom", json!({})),
        ("version", json!(1)),
        ("latest", json!(true)),
        ("versionCount", json!(1)),
        ("tenant", json!("default")),
        ("owner", json!("admin")),
        ("deduplicated", json!(false)),
    ] {
        assert_eq!(file[member], expected, "{member}");
    }
    assert_eq!(file["encryption"]["mode"], "managed", "the bucket's policy is `on`");
}

#[tokio::test]
async fn the_name_comes_from_the_option_then_from_what_carries_the_file() {
    let app = TestApp::start().await;
    let raw = |disposition: &str, query: &str| {
        let request = app.request("POST", &format!("/v1/files?{query}")).header("content-disposition", disposition);
        request.body("x")
    };
    for (disposition, query, name) in [
        ("attachment; filename=\"a b.txt\"", "", "a b.txt"),
        ("attachment; filename=\"a.txt\"; filename*=UTF-8''gr%C3%BC%C3%9Fe.txt", "", "grüße.txt"),
        ("attachment; filename=\"a.txt\"", "name=b.txt", "b.txt"),
        ("attachment", "", "unnamed"),
    ] {
        assert_eq!(send(raw(disposition, query)).await.expect(201)["name"], name, "{disposition} {query}");
    }
    let form = |name: &str| Form::new().file(name, "text/plain", b"x");
    assert_eq!(send(form("c.txt").request(&app, "")).await.expect(201)["name"], "c.txt");
    assert_eq!(send(form("c.txt").request(&app, "name=d.txt")).await.expect(201)["name"], "d.txt");
    assert_eq!(by_form(&app, &[("name", "e.txt")], b"x").await.expect(201)["name"], "e.txt");
    for bad in ["a%0D%0AX: 1", "a%00b", "%20"] {
        let reply = send(raw(&format!("attachment; filename*=UTF-8''{bad}"), "")).await;
        assert_eq!(reply.refused(400, "bad_request")["field"], "name", "{bad}");
    }
}

#[tokio::test]
async fn every_limit_is_kept_to_the_byte() {
    let app = TestApp::start().await;
    let long = |len: usize| "ü".repeat(len / 2) + &"x".repeat(len % 2);
    let tags = |count: usize| (0..count).map(|i| i.to_string()).collect::<Vec<_>>().join(",");
    let keys = |count: usize| {
        serde_json::to_string(&(0..count).map(|i| (i.to_string(), json!(i))).collect::<serde_json::Map<_, _>>())
            .unwrap()
    };
    let wide = |len: usize| format!(r#"{{"a":"{}"}}"#, "x".repeat(len - 8));
    let deep = |depth: usize| format!("{}1{}", r#"{"a":"#.repeat(depth), "}".repeat(depth));
    for (option, within, beyond) in [
        ("name", long(1024), long(1025)),
        ("description", long(4096), long(4097)),
        ("tags", tags(64), tags(65)),
        ("tags", long(128), long(129)),
        ("category", long(128), long(129)),
        ("folder", format!("/{}", long(1023)), format!("/{}", long(1024))),
        ("retentionDays", "36500".into(), "36501".into()),
        ("custom", keys(64), keys(65)),
        ("custom", wide(8192), wide(8193)),
        ("custom", deep(4), deep(5)),
        ("custom", format!(r#"{{"n":{}}}"#, i64::MAX), r#"{"n":9223372036854775808}"#.into()),
        ("custom", format!(r#"{{"n":{}}}"#, i64::MIN), r#"{"n":-9223372036854775809}"#.into()),
    ] {
        both(&app, &[(option, &within)]).await;
        for reply in [by_query(&app, &[(option, &beyond)], b"x").await, by_form(&app, &[(option, &beyond)], b"x").await]
        {
            assert_eq!(reply.refused(400, "bad_request")["field"], option, "{option}={beyond}");
        }
    }
}

#[tokio::test]
async fn a_value_that_is_none_is_refused_with_its_name_and_nothing_is_stored() {
    let app = TestApp::start().await;
    let many_tags = vec!["t"; 20_000].join(",") + ",u";
    let big_tag = "x".repeat(60_000);
    let deep = r#"{"a":"#.repeat(300) + "1" + &"}".repeat(300);
    let big_key = format!(r#"{{"{}":1}}"#, "k".repeat(10_000));
    for (option, value) in [
        ("name", ""),
        ("name", "  "),
        ("name", "a\r\nSet-Cookie: x=1.txt"),
        ("name", "a\0b"),
        ("name", "a\u{85}b"),
        ("name", "a\u{2028}b"),
        ("description", "a\0b"),
        ("tags", "a\nb"),
        ("tags", big_tag.as_str()),
        ("category", ""),
        ("category", "a\tb"),
        ("folder", ""),
        ("folder", "a"),
        ("folder", "/a//b"),
        ("folder", "/../b"),
        ("folder", "/a/./b"),
        ("folder", "//"),
        ("access", ""),
        ("access", "secret"),
        ("access", "Public"),
        ("retentionDays", ""),
        ("retentionDays", "0"),
        ("retentionDays", "-1"),
        ("retentionDays", "1.5"),
        ("retentionDays", " 7"),
        ("retentionDays", "+7"),
        ("retentionDays", "NaN"),
        ("retentionDays", "9223372036854775808"),
        ("expiresAt", ""),
        ("expiresAt", "2020-01-01T00:00:00Z"),
        ("expiresAt", "2199-01-01T00:00:00Z"),
        ("expiresAt", "10000-01-01T00:00:00Z"),
        ("expiresAt", "2099-02-30T00:00:00Z"),
        ("expiresAt", "2099-01-01"),
        ("expiresAt", "4102444800"),
        ("compress", "brotli"),
        ("compress", "ZSTD"),
        ("encrypt", "yes"),
        ("encrypt", ""),
        ("custom", ""),
        ("custom", "[]"),
        ("custom", "null"),
        ("custom", "{"),
        ("custom", "{} x"),
        ("custom", r#"{"a":NaN}"#),
        ("custom", r#"{"a":1e400}"#),
        ("custom", r#"{"a":18446744073709551616}"#),
        ("custom", r#"{"a":1,"a":2}"#),
        ("custom", r#"{"x":[{"a":1,"a":2}]}"#),
        ("custom", r#"{"a\u0000":1}"#),
        ("custom", deep.as_str()),
        ("custom", big_key.as_str()),
    ] {
        for reply in [by_query(&app, &[(option, value)], b"x").await, by_form(&app, &[(option, value)], b"x").await] {
            let problem = reply.refused(400, "bad_request");
            assert_eq!(problem["field"], option, "{option}={value:.60}: {problem}");
        }
    }
    assert_nothing_stored(&app).await;
    // The same tag twice is once.
    by_form(&app, &[("tags", &many_tags)], b"x").await.expect(201);
}

/// Where the address would be too long for them, a form is not.
#[tokio::test]
async fn metadata_without_measure_is_refused_by_name() {
    let app = TestApp::start().await;
    let numbers = (0..10_000).map(|i| i.to_string()).collect::<Vec<_>>();
    let keys: serde_json::Map<_, _> = numbers.iter().map(|number| (number.clone(), json!(1))).collect();
    for (option, value) in [
        ("tags", "t,".repeat(40_000)),
        ("tags", numbers.join(",")),
        ("tags", "t".repeat(1 << 20)),
        ("custom", json!({ "a": "v".repeat(1 << 20) }).to_string()),
        ("custom", json!(keys).to_string()),
    ] {
        let reply = by_form(&app, &[(option, &value)], b"x").await;
        assert_eq!(reply.refused(400, "bad_request")["field"], option, "{value:.60}");
    }
    assert_nothing_stored(&app).await;
}

#[tokio::test]
async fn two_ends_are_refused_in_either_order() {
    let app = TestApp::start().await;
    let (days, at) = (("retentionDays", "1"), ("expiresAt", "2099-01-01T00:00:00Z"));
    for options in [[days, at], [at, days]] {
        by_query(&app, &options, b"x").await.refused(400, "bad_request");
        by_form(&app, &options, b"x").await.refused(400, "bad_request");
    }
    let split = Form::new().field(days.0, days.1).file("a", "text/plain", b"x");
    send(split.request(&app, &query(&[at]))).await.refused(400, "bad_request");
    assert_nothing_stored(&app).await;
}

#[tokio::test]
async fn an_unknown_repeated_or_undecodable_parameter_is_refused() {
    let app = TestApp::start().await;
    for (query, field) in [
        ("bucket=documents", "bucket"),
        ("bucket=system.users", "bucket"),
        ("bucket=../admin", "bucket"),
        ("bucket=fs.chunks", "bucket"),
        ("bucket=a.b%24c", "bucket"),
        ("tenant=other", "tenant"),
        ("name=a&name=b", "name"),
        ("Name=a", "Name"),
        ("name%5B%24ne%5D=x", "name[$ne]"),
        ("tags=%FF", "query"),
    ] {
        let reply = send(app.request("POST", &format!("/v1/files?{query}")).body("x")).await;
        assert_eq!(reply.refused(400, "bad_request")["field"], field, "{query}");
    }
    for bucket in ["documents", "system.users", "../admin", "fs.chunks", "a.b$c"] {
        let refused = by_form(&app, &[("bucket", bucket)], b"x").await;
        assert_eq!(refused.refused(400, "bad_request")["field"], "bucket", "{bucket}");
        let begun = begin_request(&app, json!({ "name": "a", "size": 1, "bucket": bucket }));
        assert_eq!(send(begun).await.refused(400, "bad_request")["field"], "bucket", "{bucket}");
    }
    assert_nothing_stored(&app).await;
}

#[tokio::test]
async fn retention_counts_from_creation() {
    let app = TestApp::start().await;
    let [file, _] = both(&app, &[("retentionDays", "2")]).await;
    let time = |value: &Value| {
        let format = &time::format_description::well_known::Rfc3339;
        time::OffsetDateTime::parse(value.as_str().unwrap(), format).unwrap()
    };
    assert_eq!(time(&file["retention"]["expiresAt"]) - time(&file["createdAt"]), time::Duration::days(2));
}
