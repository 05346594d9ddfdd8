//! What a read takes from the database: what the answer says is what the server counted, and a range takes no more
//! chunks than it has to.

use std::time::{Duration, Instant};

use gridgate::jobs::fsck::fsck;
use mongodb::bson::oid::ObjectId;
use mongodb::bson::{Document, doc};
use serde_json::Value;

use crate::support::app::{TestApp, content_path, noise};
use crate::support::model::{Dice, WAYS, prose};
use crate::support::own_mongod::OwnMongod;
use crate::support::profiler;
use crate::support::rows::Rows;
use crate::support::uploads::{PART, begin_sized, complete, put_part};

const MIB: usize = 1 << 20;
/// Of the chunks of a large file.
const CHUNK_LEN: usize = 2 * MIB;

/// What an answer said, and what the server counted meanwhile.
#[derive(Debug, PartialEq, Eq)]
struct Cost {
    chunks: usize,
    frames: usize,
    bytes: usize,
    counted: usize,
}

async fn cost(app: &TestApp, file: &Value, headers: &[(&str, &str)]) -> Cost {
    let db = app.mongo().await;
    profiler::start(&db).await;
    let mut request = app.get(&content_path(file));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = request.send().await.unwrap();
    let told = response.headers()["server-timing"].to_str().unwrap().to_owned();
    response.bytes().await.unwrap();
    let finds = profiler::stop(&db, &format!("{}.chunks", file["bucket"].as_str().unwrap())).await;
    let told = told.strip_prefix("gridfs;desc=\"").and_then(|rest| rest.strip_suffix('"')).unwrap();
    let numbers = told.split(',').zip(["chunks=", "frames=", "bytes="]);
    let numbers: Vec<usize> = numbers.map(|(pair, name)| pair.strip_prefix(name).unwrap().parse().unwrap()).collect();
    let counted = usize::try_from(profiler::sum(&finds, "docsExamined")).unwrap();
    Cost { chunks: numbers[0], frames: numbers[1], bytes: numbers[2], counted }
}

/// The row of the only segment.
async fn segment_of(app: &TestApp, file: &Value) -> Document {
    let db = app.mongo().await;
    let id = ObjectId::parse_str(file["id"].as_str().unwrap()).unwrap();
    let known = db.collection::<Document>("file_registry").find_one(doc! { "file": id }).await.unwrap().unwrap();
    let blob = known.get_object_id("blob").unwrap();
    Rows::of(&db).only_of(blob).await
}

#[tokio::test]
async fn a_range_takes_the_chunks_it_says_and_one_more_than_its_length_at_most() {
    let app = TestApp::start().await;
    let bytes = prose(20 * MIB, 1);
    for (way, options) in WAYS {
        let query = format!("name=a&{options}");
        let file = app.put(&query, "application/octet-stream", bytes.clone()).await;
        let row = segment_of(&app, &file).await;
        let frame_len = usize::try_from(row.get_i32("frameLen").unwrap()).unwrap();
        let mut dice = Dice::new(7);
        for len in [1, 4096, 256 << 10, MIB, 3 * MIB] {
            for _ in 0..4 {
                let start = dice.below(bytes.len() - len);
                let range = format!("bytes={start}-{}", start + len - 1);
                let cost = cost(&app, &file, &[("range", &range)]).await;
                let frames = (start + len).div_ceil(frame_len) - start / frame_len;
                assert_eq!((cost.chunks, cost.frames), (cost.counted, frames), "{way}: {range}");
                assert!(cost.chunks <= len.div_ceil(CHUNK_LEN) + 1, "{way}: {range} takes {cost:?}");
                assert!(cost.bytes <= cost.chunks * CHUNK_LEN, "{way}: {range} takes {cost:?}");
            }
        }
    }
}

#[tokio::test]
async fn whole_coded_and_several_parts_say_what_they_take() {
    let app = TestApp::start().await;
    let bytes = prose(9 * MIB, 2);
    let file = app.put("name=a&encrypt=true&compress=zstd", "application/octet-stream", bytes.clone()).await;
    let stored = usize::try_from(file["storedSize"].as_u64().unwrap()).unwrap();
    let whole = cost(&app, &file, &[]).await;
    let all = Cost { chunks: whole.counted, frames: 36, bytes: stored, counted: stored.div_ceil(CHUNK_LEN) };
    assert_eq!(whole, all);
    assert_eq!(cost(&app, &file, &[("accept-encoding", "zstd")]).await, all);

    let [first, last] = ["bytes=0-9", "bytes=-10"];
    let mut sum = Cost { chunks: 0, frames: 0, bytes: 0, counted: 0 };
    for range in [first, last] {
        let one = cost(&app, &file, &[("range", range)]).await;
        sum = Cost {
            chunks: sum.chunks + one.chunks,
            frames: sum.frames + one.frames,
            bytes: sum.bytes + one.bytes,
            counted: sum.counted + one.counted,
        };
    }
    assert_eq!(cost(&app, &file, &[("range", "bytes=0-9,-10")]).await, sum);
}

/// A file of segments in the smallest parts.
async fn in_small_parts(app: &TestApp, parts: usize) -> (Value, Vec<u8>) {
    let bytes = noise(parts * PART, 1);
    let upload = begin_sized(app, bytes.len()).await;
    for n in 0..parts {
        put_part(app, &upload, n, &bytes[n * PART..(n + 1) * PART]).await;
    }
    (complete(app, &upload).await.expect(201), bytes)
}

#[tokio::test]
async fn short_segments_are_read_at_once_and_ahead() {
    const ROUND_TRIP: Duration = Duration::from_millis(300);
    let own = OwnMongod::fallible().await;
    let app = TestApp::start_at(&own.uri(), "short".to_owned(), |_| {}).await;
    let (file, bytes) = in_small_parts(&app, 64).await;
    own.fail(1_000_000, doc! { "failCommands": ["find"], "blockConnection": true, "blockTimeMS": 300 }).await;
    let begun = Instant::now();
    assert!(app.content(&file).await == bytes);
    let trips = begun.elapsed().as_secs_f64() / ROUND_TRIP.as_secs_f64();
    own.heal().await;
    // Of 64 segments: two runs of eight at a time, four at once in each, make 8; the file is looked up before. Without
    // reading ahead they would be 16, and one after the other 64.
    assert!((8.0..16.0).contains(&trips), "{trips} round trips");
}

#[tokio::test]
async fn what_stands_before_a_damaged_segment_of_a_run_is_read() {
    let app = TestApp::start().await;
    let (file, bytes) = in_small_parts(&app, 16).await;
    let db = app.mongo().await;
    let off = i64::try_from(5 * PART).unwrap();
    let row = db.collection::<Document>("segments").find_one(doc! { "off": off }).await.unwrap().unwrap();
    let chunks = db.collection::<Document>(&format!("{}.chunks", row.get_str("bucket").unwrap()));
    let gone = chunks.delete_many(doc! { "files_id": row.get_object_id("_id").unwrap() }).await.unwrap();
    assert!(gone.deleted_count > 0);
    let mut answer = app.get(&content_path(&file)).send().await.unwrap();
    assert_eq!(answer.status().as_u16(), 200);
    let mut came = Vec::new();
    let cut = loop {
        match answer.chunk().await {
            Ok(Some(piece)) => came.extend_from_slice(&piece),
            outcome => break outcome.is_err(),
        }
    };
    assert!(cut && came.len() <= 5 * PART && bytes.starts_with(&came), "{} bytes, cut: {cut}", came.len());
    assert_eq!(app.range(&file, 0..5 * PART as u64).await, bytes[..5 * PART]);
}

#[tokio::test]
async fn a_small_file_is_two_round_trips() {
    const ROUND_TRIP: Duration = Duration::from_millis(300);
    let own = OwnMongod::fallible().await;
    let app = TestApp::start_at(&own.uri(), "small".to_owned(), |_| {}).await;
    for (way, options) in WAYS {
        let file = app.put(&format!("name=a&{options}"), "text/plain", prose(4096, 1)).await;
        // So that the credential is known.
        assert!(app.content(&file).await == prose(4096, 1), "{way}");
        own.fail(1_000_000, doc! { "failCommands": ["find"], "blockConnection": true, "blockTimeMS": 300 }).await;
        // The quickest of three: what comes on top of them is the machine's.
        let mut trips = f64::INFINITY;
        for _ in 0..3 {
            let begun = Instant::now();
            assert!(app.content(&file).await == prose(4096, 1), "{way}");
            trips = trips.min(begun.elapsed().as_secs_f64() / ROUND_TRIP.as_secs_f64());
        }
        own.heal().await;
        // The file, then its chunk; of what is encrypted, its segment's row at the same time.
        assert!((2.0..3.0).contains(&trips), "{way}: {trips} round trips");
    }
}

#[tokio::test]
async fn plain_content_is_read_by_the_copy_of_its_row() {
    let app = TestApp::start().await;
    let db = app.mongo().await;
    let (files, hidden) = (db.collection::<Document>("file_registry"), doc! { "$set": { "blob": ObjectId::new() } });
    for (way, options) in WAYS {
        for len in [0, 9000, 5 * MIB] {
            let bytes = prose(len, 1);
            let file = app.put(&format!("name=a&{options}"), "text/plain", bytes.clone()).await;
            let id = doc! { "file": ObjectId::parse_str(file["id"].as_str().unwrap()).unwrap() };
            let row = segment_of(&app, &file).await;
            profiler::start(&db).await;
            assert!(app.content(&file).await == bytes, "{way}, {len}");
            let of_rows = ["segments", "blobs"].map(|name| format!("{}.{name}", db.name()));
            let mut finds = profiler::stop_all(&db).await;
            finds.retain(|find| of_rows.iter().any(|name| find.get_str("ns").unwrap() == name));
            // Of what is encrypted, where it is likely.
            assert_eq!(finds.len(), usize::from(options.starts_with("encrypt=true")), "{way}, {len}: {finds:?}");
            if !finds.is_empty() {
                let known = files.find_one(id).await.unwrap().unwrap();
                assert!(!known.get_document("content").unwrap().contains_key("row"), "{way}: no key but in its row");
                continue;
            }
            // Without a copy, by the row.
            files.update_one(id.clone(), doc! { "$unset": { "content.row": 1 } }).await.unwrap();
            assert!(app.content(&file).await == bytes, "{way}, {len}");
            files.update_one(id.clone(), hidden.clone()).await.unwrap();
            assert_eq!(app.get(&content_path(&file)).send().await.unwrap().status().as_u16(), 500, "{way}, {len}");
            let blob = doc! { "$set": { "blob": row.get_object_id("blob").unwrap() } };
            files.update_one(id, blob).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_copy_that_says_otherwise_than_the_row_is_found_and_gives_no_wrong_bytes() {
    let app = TestApp::start().await;
    let db = app.mongo().await;
    let files = db.collection::<Document>("file_registry");
    let [file, other] =
        [1, 2].map(|seed| app.put("name=a&encrypt=false&compress=zstd", "text/plain", prose(MIB, seed)));
    let (file, other) = (file.await, segment_of(&app, &other.await).await);
    let id = doc! { "file": ObjectId::parse_str(file["id"].as_str().unwrap()).unwrap() };
    let known = files.find_one(id.clone()).await.unwrap().unwrap();
    let copied = |field: &str| other.get(if field == "segment" { "_id" } else { field }).unwrap().clone();
    let changes = [
        doc! { "content.row.segment": copied("segment") },
        doc! { "content.row.commit": copied("commit") },
        doc! { "content.row.seek": copied("seek") },
        doc! { "content.row.frameLen": 1 << 16 },
        doc! { "content.row.chunkSize": 1 << 16 },
        doc! { "content.row.format": 2 },
        doc! { "content.storedSize": 7_i64 },
        doc! { "content.codec": "gzip" },
    ];
    for change in changes {
        files.update_one(id.clone(), doc! { "$set": change.clone() }).await.unwrap();
        let answer = app.get(&content_path(&file)).send().await.unwrap();
        let status = answer.status().as_u16();
        let came = answer.bytes().await;
        assert!(status == 500 || came.is_err() || came.is_ok_and(|came| came == prose(MIB, 1)), "{change}: {status}");
        let report = fsck(&app.app.files).await.unwrap();
        assert_eq!(report.mismatched.count, 1, "{change}: {report:?}");
        files.replace_one(id.clone(), &known).await.unwrap();
        assert!(app.content(&file).await == prose(MIB, 1), "{change}");
    }
    // One that cannot be read is none, and is named.
    let odd = doc! { "$set": { "content.row.frameLen": "long" } };
    files.update_one(id.clone(), odd).await.unwrap();
    assert!(app.content(&file).await == prose(MIB, 1));
    assert_eq!(fsck(&app.app.files).await.unwrap().shape.count, 1);
    files.replace_one(id.clone(), &known).await.unwrap();
    assert!(fsck(&app.app.files).await.unwrap().ok);
}

#[tokio::test]
async fn a_small_chunk_is_read_early_only_where_it_is_wanted_and_only_if_it_is_the_right_one() {
    let app = TestApp::start().await;
    let db = app.mongo().await;
    for (way, options) in WAYS {
        let is_sealed = options.starts_with("encrypt=true");
        let query = format!("name=a&{options}");
        let file = app.put(&query, "text/plain", prose(9000, 1)).await;
        let other = app.put(&query, "text/plain", prose(9000, 2)).await;
        assert_eq!(cost(&app, &file, &[]).await.counted, 1, "{way}");
        assert_eq!(cost(&app, &file, &[("range", "bytes=7-8")]).await.counted, 1, "{way}");
        let several = cost(&app, &file, &[("range", "bytes=0-9,-10")]).await;
        assert_eq!(several.chunks, several.counted, "{way}");

        profiler::start(&db).await;
        let path = content_path(&file);
        let known = app.request("HEAD", &path).send().await.unwrap();
        assert_eq!(known.status().as_u16(), 200, "{way}");
        let same = app.get(&path).header("if-none-match", &known.headers()["etag"]).send().await.unwrap();
        assert_eq!(same.status().as_u16(), 304, "{way}");
        let finds = profiler::stop(&db, &format!("{}.chunks", file["bucket"].as_str().unwrap())).await;
        assert!(finds.is_empty(), "{way}: {finds:?}");

        if !is_sealed {
            // By the copy of its row, which is no hint.
            continue;
        }
        let id = ObjectId::parse_str(file["id"].as_str().unwrap()).unwrap();
        let others = segment_of(&app, &other).await.get_object_id("_id").unwrap();
        let (wrong, none) =
            (doc! { "$set": { "content.segment": others } }, doc! { "$unset": { "content.segment": 1 } });
        for (hint, counted) in [(wrong, 2), (none, 1)] {
            let files = db.collection::<Document>("file_registry");
            assert_eq!(files.update_one(doc! { "file": id }, hint).await.unwrap().modified_count, 1, "{way}");
            assert!(app.content(&file).await == prose(9000, 1), "{way}");
            assert_eq!(cost(&app, &file, &[]).await.counted, counted, "{way}");
            assert_eq!(app.range(&file, 100..200).await, prose(9000, 1)[100..200], "{way}");
        }
    }
}
