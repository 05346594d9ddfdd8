//! The documents against the program: error codes, routes, settings.

use std::collections::BTreeSet;

use gridgate::config::{DEFAULTS, Settings, SettingsError};
use gridgate::error::ErrorCode;
use serde_json::Value;

use crate::support::app::{TestApp, content_path};
use crate::support::openapi::{document, operations};
use crate::support::requests::{assert_is_problem, send};

#[test]
fn the_error_codes_are_those_of_the_document_with_their_statuses() {
    let document = document();
    let schema = &document["components"]["schemas"]["ErrorCode"];
    let documented: Vec<_> = schema["enum"].as_array().unwrap().iter().map(|code| code.as_str().unwrap()).collect();
    let known: Vec<_> = ErrorCode::ALL.iter().map(|code| code.row().code).collect();
    assert_eq!(documented, known);
    let table = schema["description"].as_str().unwrap();
    for code in ErrorCode::ALL.into_iter().filter(|code| *code != ErrorCode::ClientHangup) {
        let row = code.row();
        let line = table.lines().find(|line| line.contains(&format!("`{}`", row.code))).unwrap();
        assert!(line.contains(&row.status.to_string()), "{}: {line}", row.code);
    }
}

#[tokio::test]
async fn every_documented_operation_is_a_route_and_every_other_method_is_not() {
    let app = TestApp::start().await;
    let file = app.put("name=a.txt", "text/plain", "x").await;
    let operations = operations();
    let paths: BTreeSet<_> = operations.iter().map(|operation| operation.path.clone()).collect();
    for path in paths {
        let documented: BTreeSet<_> = operations
            .iter()
            .filter(|operation| operation.path == path)
            .map(|operation| operation.method.clone())
            .collect();
        let concrete = path.replace("{id}", "0123456789abcdef01234567").replace("{token}", &"A".repeat(43));
        for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"] {
            let reply = send(app.request(method, &concrete)).await;
            let is_route = reply.status != 405;
            assert_eq!(is_route, documented.contains(method), "{method} {path} is {}", reply.status);
            if !is_route && method != "HEAD" {
                let allowed: BTreeSet<_> =
                    reply.header("allow").split(',').map(|name| name.trim().to_owned()).collect();
                assert_eq!(allowed, documented, "Allow of {path}");
                reply.refused(405, "method_not_allowed");
            }
        }
    }
    // The other way round: a path of the router is in the source of `http.rs`, and all of those are documented.
    let source = include_str!("../../src/http.rs");
    let routes: BTreeSet<_> = source.split(".route(\"").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    let documented: BTreeSet<_> = operations.iter().map(|operation| operation.path.as_str()).collect();
    assert_eq!(routes, documented);
    assert_eq!(send(app.get(&content_path(&file))).await.status, 200);
}

#[tokio::test]
async fn a_file_has_the_documented_members_and_no_other() {
    let app = TestApp::start().await;
    let file = app.put("name=a.txt", "text/plain", "x").await;
    let document = document();
    let schema = &document["components"]["schemas"]["File"];
    let documented: BTreeSet<_> = schema["properties"].as_object().unwrap().keys().collect();
    let required: BTreeSet<_> =
        schema["required"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    assert_eq!(file.as_object().unwrap().keys().collect::<BTreeSet<_>>(), documented);
    assert_eq!(documented.iter().map(|name| name.as_str()).collect::<BTreeSet<_>>(), required);
}

#[tokio::test]
async fn the_served_document_is_this_one_and_health_answers() {
    let app = TestApp::start().await;
    let served = send(app.anonymous("GET", "/openapi.yaml")).await;
    assert_eq!(served.header("content-type"), "application/yaml");
    assert_eq!(served.body, include_bytes!("../../openapi.yaml"));
    let zipped = send(app.anonymous("GET", "/openapi.yaml").header("accept-encoding", "gzip")).await;
    assert_eq!((zipped.header("content-encoding"), zipped.header("vary")), ("gzip", "accept-encoding"));
    let mut plain = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(zipped.body.as_slice()), &mut plain).unwrap();
    assert_eq!(plain, served.body);
    for path in ["/livez", "/readyz"] {
        assert_eq!(send(app.anonymous("GET", path)).await.expect(200), serde_json::json!({ "status": "ok" }));
        send(app.anonymous("GET", &format!("{path}?x=1"))).await.refused(400, "bad_request");
    }
}

#[tokio::test]
async fn every_refusal_is_a_problem_whatever_the_path() {
    let app = TestApp::start().await;
    for (method, path) in [
        ("GET", "/"),
        ("GET", "/v1/files/%3Cscript%3Ealert(1)%3C%2Fscript%3E"),
        ("GET", "/v1/files/x/content"),
        ("POST", "/v1/files/x/content"),
        ("PUT", "/livez"),
        ("GET", "/v1/files?limit=0"),
        ("GET", "/v1/files?q=%ff"),
        ("PATCH", "/v1/files/0123456789abcdef01234567"),
        ("DELETE", "/v1/files/0123456789abcdef01234567"),
        ("OPTIONS", "/v1/files"),
    ] {
        for request in [app.request(method, path), app.anonymous(method, path)] {
            let reply = send(request).await;
            assert!((400..500).contains(&reply.status), "{method} {path} is {}", reply.status);
            assert_is_problem(&reply);
            assert!(!String::from_utf8_lossy(&reply.body).contains("<script>"));
        }
    }
}

/// Loads settings over the defaults from a file with this text.
fn load(text: &str) -> Result<Settings, SettingsError> {
    let file = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
    std::fs::write(file.path(), text).unwrap();
    Settings::load(Some(file.path()), &[])
}

#[test]
fn every_setting_has_a_default_and_a_comment() {
    let defaults = load("").unwrap();
    assert_eq!(defaults.server.drain_secs, 30);
    let mut comment = String::new();
    let mut settings = 0;
    let mut in_buckets = String::new();
    for line in DEFAULTS.lines() {
        if let Some(text) = line.strip_prefix('#') {
            comment.push_str(text);
        } else if line.is_empty() {
            comment.clear();
        } else if line.starts_with("[buckets.") {
            if in_buckets.is_empty() {
                DEFAULTS.lines().filter(|line| line.starts_with("#   ")).for_each(|line| in_buckets.push_str(line));
            }
        } else if let Some((name, _)) = line.split_once(" = ").filter(|_| !line.starts_with([' ', '['])) {
            settings += 1;
            let described = in_buckets.contains(&format!("  {name} ")) || ["types", "accept"].contains(&name);
            // A pair of settings may share a comment; what shares none has none.
            assert!(!comment.is_empty() || (!in_buckets.is_empty() && described), "{name} is not described");
            if in_buckets.is_empty() {
                comment.clear();
            }
        }
    }
    assert!(settings > 60, "{settings} settings were looked at");
}

#[test]
fn a_setting_that_cannot_be_used_is_named() {
    for (text, key) in [
        // Unknown keys, at every depth.
        ("no_such = 1", "no_such"),
        ("[server]\nport = 1", "port"),
        ("[no_such]\na = 1", "no_such"),
        ("[buckets.images]\nkodec = \"zstd\"", "kodec"),
        // Wrong types, also those that could be bent into shape.
        ("data_dir = 1", "data_dir"),
        ("[server]\ndrain_secs = \"30\"", "server.drain_secs"),
        ("[server]\ndrain_secs = 1.5", "server.drain_secs"),
        ("[server]\ndrain_secs = true", "server.drain_secs"),
        ("[server]\ndrain_secs = -1", "server.drain_secs"),
        ("[server]\nlisten = 8080", "server.listen"),
        ("[server]\nallow_insecure_customer_keys = \"true\"", "server.allow_insecure_customer_keys"),
        ("[server]\nmax_connections = 9223372036854775807", "server.max_connections"),
        ("server = 1", "server"),
        ("[buckets.images]\ntypes = \"image/*\"", "buckets.images.types"),
        ("[buckets.images]\ntypes = [1]", "buckets.images.types"),
        ("[buckets.images]\nencryption = \"maybe\"", "buckets.images.encryption"),
        ("[buckets.mine]\nframe_kib = \"256\"", "buckets.mine.frame_kib"),
        ("[buckets.mine]\ntypes = [\"a/b\"]", "buckets.mine"),
        // Values out of their range.
        ("[server]\ndrain_secs = 3601", "server.drain_secs"),
        ("[server]\nhead_timeout_secs = 0", "server.head_timeout_secs"),
        ("[server]\nbody_idle_secs = 0", "server.body_idle_secs"),
        ("[server]\nmin_body_bytes_per_sec = 1048577", "server.min_body_bytes_per_sec"),
        ("[server]\ntls_cert_file = \"a.pem\"", "server.tls_key_file"),
        ("[server]\ntls_key_file = \"a.pem\"", "server.tls_key_file"),
        ("[server]\nmax_connections = 0", "server.max_connections"),
        (
            "[server]\npublic_url = \"https://a.example\"\ncontent_url = \"https://A.example:8443\"",
            "server.content_url",
        ),
        ("[server]\ncontent_url = \"https://a.example\"", "server.content_url"),
        ("[server]\npublic_url = \"https://a.example\"\ncontent_url = \"b.example\"", "server.content_url"),
        ("[server]\npublic_url = \"files.example\"", "server.public_url"),
        ("[server]\npublic_url = \"ftp://files.example\"", "server.public_url"),
        ("[database]\ndata_pool = 3", "database.data_pool"),
        ("[database]\nmeta_pool = 1001", "database.meta_pool"),
        ("[database]\nselection_timeout_secs = 0", "database.selection_timeout_secs"),
        ("[database]\nquery_timeout_ms = 99", "database.query_timeout_ms"),
        ("[database]\nupload_budget_mib = 15", "database.upload_budget_mib"),
        ("[database]\ncredential_budget_percent = 9", "database.credential_budget_percent"),
        ("[database]\ncredential_budget_percent = 101", "database.credential_budget_percent"),
        ("[database]\nname = \"\"", "database.name"),
        ("[database]\nname = \"a.b\"", "database.name"),
        ("[mongod]\ncache_mib = 255", "mongod.cache_mib"),
        ("[mongod]\noplog_mib = 989", "mongod.oplog_mib"),
        ("[auth]\nadmin_key = \"short\"", "auth.admin_key"),
        ("[storage]\nlease_secs = 0", "storage.lease_secs"),
        ("[storage]\nquarantine_secs = 2592001", "storage.quarantine_secs"),
        ("[storage]\npurge_grace_secs = 59", "storage.purge_grace_secs"),
        ("[storage]\nidempotency_secs = 59", "storage.idempotency_secs"),
        ("[storage]\nsweep_interval_secs = 0", "storage.sweep_interval_secs"),
        ("[storage]\nscrub_interval_secs = 31536001", "storage.scrub_interval_secs"),
        ("[storage]\nscrub_mib_per_sec = 0", "storage.scrub_mib_per_sec"),
        ("[storage]\nfsck_interval_secs = 31536001", "storage.fsck_interval_secs"),
        ("[log]\nformat = \"xml\"", "log.format"),
        ("[log]\nfilter = \"a=b=c\"", "log.filter"),
        ("[buckets.images]\ncodec = \"lz4\"", "buckets.images.codec"),
        ("[buckets.documents]\nlevel = 7", "buckets.documents.level"),
        ("[buckets.images]\nframe_kib = 100", "buckets.images.frame_kib"),
        ("[buckets.images]\nframe_kib = 2048", "buckets.images.frame_kib"),
        ("[buckets.images]\nsmall_chunk_kib = 63", "buckets.images.small_chunk_kib"),
        ("[buckets.images]\nlarge_chunk_kib = 16385", "buckets.images.large_chunk_kib"),
        ("[buckets.images]\nmax_bytes = 0", "buckets.images.max_bytes"),
        ("[buckets.images]\nmax_bytes = 1099511627777", "buckets.images.max_bytes"),
        ("[buckets.images]\naccept = [\"image\"]", "buckets.images.accept"),
        ("[buckets.images]\ntypes = [\"*/*\"]", "buckets."),
        ("[buckets.files]\ntypes = [\"a/b\"]", "buckets"),
        (&bucket("a.files"), "buckets.a.files"),
        (&bucket("system"), "buckets.system"),
        (&bucket("A"), "buckets."),
        (&bucket(""), "buckets."),
    ] {
        let error = load(text).err().unwrap_or_else(|| panic!("{text:?} is taken"));
        assert!(error.to_string().contains(key), "{text:?}: {error}");
    }
    assert!(load("not toml at all").is_err());
}

/// Every number of the defaults far below and far above what it may be.
#[test]
fn every_number_has_bounds_and_is_named_beyond_them() {
    let (mut section, mut numbers) = ("", 0);
    for line in DEFAULTS.lines() {
        section = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(section);
        let setting = line.split_once(" = ").filter(|(key, _)| !key.contains(['#', ' ']));
        let Some((key, _)) = setting.filter(|(_, value)| value.parse::<i64>().is_ok()) else { continue };
        numbers += 1;
        for beyond in [i64::MIN, -1, i64::from(u32::MAX) + 1, i64::MAX] {
            if beyond > 0 && key == "max_bytes" && beyond < 1 << 40 {
                continue;
            }
            let text = format!("[{section}]\n{key} = {beyond}");
            let error = load(&text).err().unwrap_or_else(|| panic!("{text:?} is taken"));
            assert!(error.to_string().contains(&format!("{section}.{key}")), "{text:?}: {error}");
        }
    }
    assert!(numbers > 45, "{numbers} numbers were looked at");
}

#[test]
fn a_name_that_is_there_twice_is_refused() {
    for twice in [
        format!("{0}\n{0}", bucket("models")),
        bucket("models") + "\nlevel = 4",
        "[server]\ndrain_secs = 3\n[server]\nlisten = \"127.0.0.1:1\"".to_owned(),
    ] {
        let error = load(&twice).err().unwrap_or_else(|| panic!("{twice:?} is taken")).to_string();
        assert!(error.contains("duplicate key"), "{error}");
    }
}

/// A bucket under a name of one's own.
fn bucket(name: &str) -> String {
    let start = DEFAULTS.find("[buckets.images]").unwrap();
    let table = DEFAULTS[start..].split("\n\n").next().unwrap();
    let table = table.replace("[buckets.images]", &format!("[buckets.\"{name}\"]")).replace("image/*", "model/*");
    assert!(table.contains("model/*"));
    table
}

#[test]
fn a_bucket_of_ones_own_and_a_changed_default_are_taken() {
    let settings = load(&bucket("models")).unwrap();
    assert!(settings.buckets.contains_key("models") && settings.buckets.contains_key("images"));
    assert_eq!(load("[server]\ndrain_secs = 7").unwrap().server.drain_secs, 7);
    assert_eq!(load("[buckets.images]\nmax_bytes = 7").unwrap().buckets["images"].max_bytes, 7);
    let flags = [("server.listen", "127.0.0.1:1".to_owned())];
    assert_eq!(Settings::load(None, &flags).unwrap().server.listen, "127.0.0.1:1");
}

#[test]
fn every_reference_of_the_document_leads_somewhere() {
    fn walk(value: &Value, found: &mut usize) {
        match value {
            Value::Object(members) => {
                *found += usize::from(members.contains_key("$ref"));
                members.values().for_each(|value| walk(value, found));
            }
            Value::Array(items) => items.iter().for_each(|value| walk(value, found)),
            _ => {}
        }
    }
    let document = document();
    let mut references = 0;
    walk(&document, &mut references);
    assert!(references > 100);
    let text = include_str!("../../openapi.yaml");
    for line in text.lines().filter_map(|line| line.split_once("$ref: '#").map(|(_, rest)| rest)) {
        let pointer = line.split('\'').next().unwrap();
        assert!(document.pointer(pointer).is_some(), "{pointer} leads nowhere");
    }
}
