//! The cases of the GridFS specification as tests of `gridgate::store::gridfs`, and what the
//! specification leaves open: damage, strange documents, how much is read.

use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use gridgate::store::gridfs::{FilesDocument, GridFile};
use gridgate::store::{Bson, DateTime, Document, Store, StoreError, StoreResult, doc, new_id};
use mongodb::IndexModel;
use mongodb::bson::spec::{BinarySubtype, ElementType};
use mongodb::bson::{Binary, RawDocumentBuf};
use mongodb::options::IndexOptions;

use crate::support::app::{TestApp, noise};
use crate::support::own_mongod::OwnMongod;
use crate::support::profiler;
use crate::support::store::{BUCKET, TestStore, chunk, grid_file, pending, settings};

/// 13 chunks of 1,000 bytes and one of 7.
const FOREIGN_CHUNK: usize = 1000;
const FOREIGN_LEN: usize = 13_007;

// Upload

#[tokio::test]
async fn an_upload_of_any_length_makes_exactly_the_documents_of_the_specification() {
    let test = TestStore::start().await;
    const CHUNK: usize = 1024;
    for len in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 5 * CHUNK, 5 * CHUNK + 7] {
        let bytes = noise(len, 1);
        let before = DateTime::now();
        let file = test.write(CHUNK as u32, &bytes).await;
        let document = files_document(&test, &file).await;
        let names: Vec<_> = document.iter().map(|field| field.unwrap().0.to_string()).collect();
        assert_eq!(names, ["_id", "length", "chunkSize", "uploadDate", "filename", "metadata"]);
        assert_eq!(document.get("length").unwrap().unwrap().as_i64(), Some(len as i64));
        assert_eq!(document.get("chunkSize").unwrap().unwrap().as_i32(), Some(CHUNK as i32));
        let uploaded = document.get_datetime("uploadDate").unwrap();
        assert!((before..=DateTime::now()).contains(&uploaded), "the date is that of completion");
        assert_eq!(document.get("metadata").unwrap().unwrap().element_type(), ElementType::EmbeddedDocument);
        assert_chunks(&test, &file, &bytes).await;
        assert_eq!(test.read(&file, 0..len as u64).await.unwrap(), bytes);
    }
}

#[tokio::test]
async fn an_upload_of_many_batches_makes_the_same_documents() {
    let test = TestStore::start().await;
    let bytes = noise((20 << 20) + 3, 2);
    let file = test.write(64 << 10, &bytes).await;
    assert_chunks(&test, &file, &bytes).await;
    assert!(test.read(&file, 0..bytes.len() as u64).await.unwrap() == bytes);
}

#[tokio::test]
async fn a_file_stored_over_http_is_gridfs_to_the_letter() {
    let app = TestApp::start().await;
    let db = app.mongo().await;
    const CHUNK: usize = 255 << 10;
    for len in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 4 * CHUNK, 5 * CHUNK + 7] {
        let bytes = noise(len, 3);
        app.put("name=a.bin&encrypt=false&compress=none", "application/x-noise", bytes.clone()).await;
        let (files, stored) = (db.collection::<Document>("files.files"), db.collection::<Document>("files.chunks"));
        let document = files.find_one(doc! {}).sort(doc! { "uploadDate": -1 }).await.unwrap().unwrap();
        assert_eq!(document.get("length"), Some(&Bson::Int64(len as i64)));
        assert_eq!(document.get("chunkSize"), Some(&Bson::Int32(CHUNK as i32)));
        assert_eq!(document.get_str("filename").unwrap(), "a.bin");
        assert!(document.get_document("metadata").is_ok() && document.get("md5").is_none());
        let of_file = doc! { "files_id": document.get_object_id("_id").unwrap() };
        let chunks = stored.find(of_file).sort(doc! { "n": 1 }).await.unwrap();
        let chunks: Vec<Document> = chunks.try_collect().await.unwrap();
        assert_eq!(chunks.len(), len.div_ceil(CHUNK));
        for (expected, (chunk, n)) in bytes.chunks(CHUNK).zip(chunks.iter().zip(0..)) {
            assert_eq!(chunk.keys().collect::<Vec<_>>(), ["_id", "files_id", "n", "data"]);
            assert_eq!(chunk.get("n"), Some(&Bson::Int32(n)));
            assert!(chunk.get_binary_generic("data").unwrap() == expected);
        }
        // One upload date a file: the newest is found by it.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn an_upload_is_not_visible_before_its_files_document() {
    let test = TestStore::start().await;
    let (id, bytes) = (new_id(), noise(3 << 20, 4));
    let mut writer = test.writer(id, 64 << 10);
    writer.push(&bytes).await.unwrap();
    let chunks = writer.finish().await.unwrap();
    assert!(test.store.find_grid_file(BUCKET, &id.into()).await.unwrap().is_none());
    test.publish(&grid_file(id, 64 << 10, bytes.len()), chunks).await;
    assert!(test.store.find_grid_file(BUCKET, &id.into()).await.unwrap().is_some());
}

#[tokio::test]
async fn chunks_of_another_writer_end_the_upload_and_stay() {
    let test = TestStore::start().await;
    let id = new_id();
    let theirs = chunk(&id.into(), 3, b"theirs");
    test.chunks().insert_one(&theirs).await.unwrap();
    let mut writer = test.writer(id, 64 << 10);
    // Past the largest small file, so that the writer itself stores the chunks.
    writer.push(&noise(2 << 20, 5)).await.unwrap();
    let Err(error) = writer.finish().await else { panic!("the upload succeeded") };
    assert!(matches!(error, StoreError::Duplicate(_)), "{error:?}");
    let n = doc! { "files_id": id, "n": 3 };
    assert_eq!(test.chunks().find_one(n).await.unwrap().unwrap(), theirs);
    assert_eq!(test.chunks().count_documents(doc! { "files_id": id }).await.unwrap(), 32, "nothing is deleted");
    assert_eq!(test.files().count_documents(doc! {}).await.unwrap(), 0);
}

#[tokio::test]
async fn a_files_document_inserted_twice_is_one_and_another_files_is_refused() {
    let test = TestStore::start().await;
    let file = test.write(1024, &noise(3000, 6)).await;
    let files = |file: GridFile| FilesDocument { file, filename: "again".to_owned(), metadata: doc! {} };
    test.store.insert_files_document(&files(file.clone())).await.unwrap();
    assert_eq!(test.files().count_documents(doc! {}).await.unwrap(), 1);
    for other in [GridFile { stored_len: 2999, ..file.clone() }, GridFile { chunk_size: 1000, ..file.clone() }] {
        let outcome = test.store.insert_files_document(&files(other)).await;
        assert!(matches!(outcome, Err(StoreError::Duplicate(_))), "{outcome:?}");
    }
}

#[tokio::test]
async fn many_writers_share_a_small_budget_without_waiting_for_each_other_for_ever() {
    let test = TestStore::bare(|settings| settings.upload_budget_mib = 16).await;
    test.store.ensure_bucket(BUCKET).await.unwrap();
    let bytes = Bytes::from(noise(5 << 20, 7));
    let uploads = (0..12).map(|_| test.write(2 << 20, &bytes));
    let files = tokio::time::timeout(Duration::from_secs(30), futures::future::join_all(uploads)).await.unwrap();
    for file in files {
        assert_eq!(test.chunks().count_documents(doc! { "files_id": file.files_id }).await.unwrap(), 3);
    }
}

/// The driver has two copies of what it sends.
#[tokio::test]
async fn inserts_of_many_writers_take_turns() {
    let own = OwnMongod::fallible().await;
    let test = TestStore::on(&own.uri(), |settings| settings.upload_budget_mib = 128).await;
    test.store.ensure_bucket(BUCKET).await.unwrap();
    let held = doc! { "failCommands": ["insert"], "namespace": format!("{}.files.chunks", test.db.name()),
    "blockConnection": true, "blockTimeMS": 200 };
    own.fail(1000, held).await;
    let bytes = Bytes::from(noise(8 << 20, 7));
    let mut uploads = pin!(futures::future::join_all((0..12).map(|_| test.write(2 << 20, &bytes))));
    let admin = own.client().await.database("admin");
    let mut most = 0;
    let watch = async {
        loop {
            let pipeline =
                [doc! { "$currentOp": { "localOps": true } }, doc! { "$match": { "command.insert": "files.chunks" } }];
            let counted = async { admin.aggregate(pipeline).await.unwrap().try_collect::<Vec<_>>().await };
            tokio::select! {
                _ = &mut uploads => break,
                inserts = counted => most = most.max(inserts.unwrap().len()),
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), watch).await.unwrap();
    assert!((1..=8).contains(&most), "{most} inserts of 2 to 4 MiB were under way at once");
}

// Faults

#[tokio::test]
async fn inserts_whose_outcome_is_unknown_are_repeated_with_the_same_ids() {
    let own = OwnMongod::fallible().await;
    let test = TestStore::on(&own.uri(), |_| {}).await;
    test.store.ensure_bucket(BUCKET).await.unwrap();
    let bytes = noise(3 << 20, 8);
    let faults = [
        (
            "was done, but not confirmed by a majority",
            doc! { "writeConcernError": { "code": 64, "errmsg": "timed out" } },
        ),
        (
            "was done, but could not reach a majority",
            doc! { "writeConcernError": { "code": 100, "errmsg": "too few members" } },
        ),
        ("was cut off", doc! { "closeConnection": true }),
        ("was refused for a moment", doc! { "errorCode": 11_602 }),
    ];
    for (what, fault) in faults {
        // More often than the driver itself repeats a command.
        let mut fail = doc! { "failCommands": ["insert"], "namespace": format!("{}.files.chunks", test.db.name()) };
        fail.extend(fault);
        own.fail(3, fail).await;
        let file = test.write(64 << 10, &bytes).await;
        assert!(test.read(&file, 0..bytes.len() as u64).await.unwrap() == bytes, "an insert that {what}");
        let of_file = doc! { "files_id": file.files_id };
        assert_eq!(test.chunks().count_documents(of_file).await.unwrap(), 48, "an insert that {what}");
    }
}

#[tokio::test]
async fn a_standalone_mongod_is_refused_in_words_that_help() {
    let own = OwnMongod::standalone().await;
    let test = TestStore::on(&own.uri(), |_| {}).await;
    let Err(StoreError::Unfit(message)) = test.store.require_replica_set().await else { panic!("it is accepted") };
    assert!(message.contains("standalone") && message.contains("--replSet"), "{message}");
}

#[tokio::test]
async fn a_uri_that_asks_for_weaker_writes_is_refused() {
    for weak in ["w=1", "w=0", "w=2", "w=majority&journal=false", "journal=false"] {
        let uri = format!("mongodb://127.0.0.1:1/?{weak}");
        let Err(StoreError::Unfit(message)) = Store::connect(&uri, &settings("unused")).await else {
            panic!("{weak} is accepted")
        };
        assert!(message.contains("w=majority"), "{message}");
    }
    for strong in ["", "w=majority", "w=majority&journal=true"] {
        let uri = format!("mongodb://127.0.0.1:1/?{strong}");
        assert!(Store::connect(&uri, &settings("unused")).await.is_ok(), "{strong}");
    }
}

// Indexes

#[tokio::test]
async fn a_bucket_gets_the_two_indexes_of_the_specification() {
    let test = TestStore::start().await;
    let by_name = doc! { "filename": 1, "uploadDate": 1 };
    assert_eq!(indexes(&test, "files").await, [("filename_1_uploadDate_1".to_owned(), by_name, false)]);
    let by_place = doc! { "files_id": 1, "n": 1 };
    assert_eq!(indexes(&test, "chunks").await, [("files_id_1_n_1".to_owned(), by_place, true)]);
    test.store.ensure_bucket(BUCKET).await.unwrap();
    let twin = test.chunks().insert_many([chunk(&1.into(), 0, b"a"), chunk(&1.into(), 0, b"b")]).await;
    assert!(twin.unwrap_err().to_string().contains("E11000"));
}

#[tokio::test]
async fn a_chunk_index_that_is_not_unique_is_made_unique() {
    for direction in [Bson::Int32(1), Bson::Int64(1), Bson::Double(1.0)] {
        let test = TestStore::bare(|_| {}).await;
        let keys = doc! { "files_id": direction.clone(), "n": direction };
        test.chunks().create_index(IndexModel::builder().keys(keys).build()).await.unwrap();
        test.store.ensure_bucket(BUCKET).await.unwrap();
        let found = indexes(&test, "chunks").await;
        assert!(matches!(found.as_slice(), [(_, _, true)]), "{found:?}");
        let twin = test.chunks().insert_many([chunk(&1.into(), 0, b"a"), chunk(&1.into(), 0, b"b")]).await;
        assert!(twin.unwrap_err().to_string().contains("E11000"));
    }
}

#[tokio::test]
async fn a_bucket_with_two_chunks_at_one_place_is_refused_by_name() {
    let test = TestStore::bare(|_| {}).await;
    let keys = doc! { "files_id": 1, "n": 1 };
    test.chunks().create_index(IndexModel::builder().keys(keys).build()).await.unwrap();
    let twins = [chunk(&1.into(), 0, b"a"), chunk(&1.into(), 0, b"b")];
    test.chunks().insert_many(&twins).await.unwrap();
    let Err(StoreError::Unfit(message)) = test.store.ensure_bucket(BUCKET).await else { panic!("it is accepted") };
    assert!(message.contains("bucket files cannot be made unique"), "{message}");
    assert_eq!(test.chunks().count_documents(doc! {}).await.unwrap(), 2, "nothing is deleted");
}

#[tokio::test]
async fn a_chunk_index_that_is_unique_for_some_files_only_does_not_do() {
    let test = TestStore::bare(|_| {}).await;
    let partial = IndexOptions::builder().unique(true).partial_filter_expression(doc! { "n": { "$gt": 5 } }).build();
    let keys = doc! { "files_id": 1, "n": 1 };
    test.chunks().create_index(IndexModel::builder().keys(keys).options(partial).build()).await.unwrap();
    match test.store.ensure_bucket(BUCKET).await {
        Err(StoreError::Unfit(message)) => assert!(message.contains("bucket files"), "{message}"),
        Err(error) => panic!("{error:?}"),
        Ok(()) => {
            let twin = test.chunks().insert_many([chunk(&1.into(), 0, b"a"), chunk(&1.into(), 0, b"b")]).await;
            assert!(twin.unwrap_err().to_string().contains("E11000"));
        }
    }
}

#[tokio::test]
async fn indexes_another_program_made_are_recognised_whatever_their_name_and_number_type() {
    let test = TestStore::bare(|_| {}).await;
    let named = |keys: Document, name: &str, unique: bool| {
        let options = IndexOptions::builder().name(name.to_owned()).unique(unique).build();
        IndexModel::builder().keys(keys).options(options).build()
    };
    let by_name = named(doc! { "filename": 1.0, "uploadDate": 1.0 }, "by name", false);
    test.files().create_index(by_name).await.unwrap();
    let by_place = named(doc! { "files_id": 1.0, "n": 1.0 }, "by place", true);
    test.chunks().create_index(by_place).await.unwrap();
    test.store.ensure_bucket(BUCKET).await.unwrap();
    assert_eq!(indexes(&test, "files").await.len(), 1);
    assert_eq!(indexes(&test, "chunks").await.len(), 1);
}

// Download

#[tokio::test]
async fn files_of_other_programs_are_read_whatever_their_number_types_and_fields() {
    let test = TestStore::start().await;
    let (len, chunk_size) = (FOREIGN_LEN, FOREIGN_CHUNK);
    let bytes = noise(len, 10);
    let uuid = Binary { subtype: BinarySubtype::Uuid, bytes: noise(16, 11) };
    let ids: [Bson; 7] =
        [new_id().into(), "a name".into(), 7.into(), 7.5.into(), uuid.into(), doc! { "a": 1 }.into(), true.into()];
    let shapes = [
        doc! { "length": len as i32, "chunkSize": chunk_size as i32 },
        doc! { "length": len as i64, "chunkSize": chunk_size as i64, "filename": "a" },
        doc! { "length": len as f64, "chunkSize": chunk_size as f64, "filename": Bson::Null },
        doc! { "length": len as i64, "chunkSize": chunk_size as i32, "md5": "0", "contentType": "a/b", "aliases": ["a"] },
        doc! { "length": len as i64, "chunkSize": chunk_size as i32, "metadata": Bson::Null, "uploadDate": "once" },
        doc! { "chunkSize": chunk_size as i32, "length": len as i64, "metadata": [1] },
        doc! { "length": len as i32, "chunkSize": chunk_size as f64 },
    ];
    for (id, shape) in ids.into_iter().zip(shapes) {
        let mut files = doc! { "_id": id.clone() };
        files.extend(shape);
        test.files().insert_one(&files).await.unwrap();
        test.plant_chunks(&id, chunk_size, &bytes).await;
        let file = test.store.find_grid_file(BUCKET, &id).await.unwrap().unwrap();
        assert_eq!((file.stored_len, file.chunk_size), (len as u64, chunk_size as u32));
        assert!(test.read(&file, 0..len as u64).await.unwrap() == bytes, "{files}");
    }
    assert!(test.store.find_grid_file(BUCKET, &new_id().into()).await.unwrap().is_none());
}

#[tokio::test]
async fn chunks_numbered_in_other_types_or_of_the_old_binary_subtype_are_read() {
    let test = TestStore::start().await;
    let id = Bson::from("odd chunks");
    let numbers = [Bson::Int64(0), Bson::Double(1.0), Bson::Int32(2)];
    let parts = [b"abc".as_slice(), b"def", b"g"];
    let subtypes = [BinarySubtype::Generic, BinarySubtype::BinaryOld, BinarySubtype::UserDefined(0x80)];
    for ((n, part), subtype) in numbers.into_iter().zip(parts).zip(subtypes) {
        let data = Binary { subtype, bytes: part.to_vec() };
        let document = doc! { "_id": new_id(), "files_id": id.clone(), "n": n, "data": data, "more": 1 };
        test.chunks().insert_one(document).await.unwrap();
    }
    let file = GridFile { files_id: id, ..grid_file(new_id(), 3, 7) };
    assert_eq!(test.read(&file, 0..7).await.unwrap(), b"abcdefg");
}

#[tokio::test]
async fn any_span_gives_exactly_its_bytes() {
    let test = TestStore::start().await;
    let bytes = noise(FOREIGN_LEN, 12);
    let file = planted(&test, &bytes).await;
    let (len, chunk) = (FOREIGN_LEN as u64, FOREIGN_CHUNK as u64);
    let borders = [0, 1, chunk - 1, chunk, chunk + 1, 5 * chunk, 13 * chunk - 1, 13 * chunk, 13 * chunk + 1, len];
    let mut spans: Vec<_> =
        borders.iter().flat_map(|a| borders.iter().filter(move |b| a <= b).map(move |b| *a..*b)).collect();
    spans.extend(noise(400, 13).chunks_exact(4).map(|r| {
        let (a, b) = (u16::from_le_bytes([r[0], r[1]]), u16::from_le_bytes([r[2], r[3]]));
        let (a, b) = (u64::from(a) % len, u64::from(b) % len);
        a.min(b)..a.max(b)
    }));
    for span in spans {
        let expected = &bytes[span.start as usize..span.end as usize];
        assert!(test.read(&file, span.clone()).await.unwrap() == expected, "{span:?}");
    }
}

#[tokio::test]
async fn spans_across_read_windows_give_exactly_their_bytes() {
    let test = TestStore::start().await;
    let bytes = noise((9 << 20) + 5, 14);
    for chunk_size in [64 << 10, 255 << 10, 2 << 20, 3 << 20] {
        let id = Bson::from(new_id());
        test.plant_chunks(&id, chunk_size, &bytes).await;
        let file = GridFile { files_id: id, ..grid_file(new_id(), chunk_size as u32, bytes.len()) };
        for span in [0..bytes.len(), 1..bytes.len() - 1, 2_000_000..6_500_000, 4 << 20..8 << 20, 9 << 20..(9 << 20) + 5]
        {
            let read = test.read(&file, span.start as u64..span.end as u64).await.unwrap();
            assert!(read == bytes[span.clone()], "{span:?} at {chunk_size}");
        }
    }
}

#[tokio::test]
async fn a_file_of_very_many_tiny_chunks_is_read() {
    let test = TestStore::start().await;
    // More than a server's own first batch of 101, and more than one window.
    let bytes = noise(20_000, 15);
    let id = Bson::from("tiny");
    test.plant_chunks(&id, 1, &bytes).await;
    let file = GridFile { files_id: id, ..grid_file(new_id(), 1, bytes.len()) };
    assert!(test.read(&file, 0..bytes.len() as u64).await.unwrap() == bytes);
}

#[tokio::test]
async fn a_damaged_chunk_is_an_error_and_never_other_bytes() {
    let test = TestStore::start().await;
    let bytes = noise(FOREIGN_LEN, 16);
    let at = |file: &GridFile, n: i32| doc! { "files_id": file.files_id.clone(), "n": n };
    let set = |what: Document| doc! { "$set": what };
    let binary = |len: usize| Binary { subtype: BinarySubtype::Generic, bytes: vec![0; len] };
    let last = 13;
    let damages = [
        ("a missing first chunk", 0, None),
        ("a missing chunk", 4, None),
        ("a missing last chunk", last, None),
        ("a short chunk", 4, Some(set(doc! { "data": binary(999) }))),
        ("a long chunk", 4, Some(set(doc! { "data": binary(1001) }))),
        ("an empty chunk", 4, Some(set(doc! { "data": binary(0) }))),
        ("a short last chunk", last, Some(set(doc! { "data": binary(6) }))),
        ("a long last chunk", last, Some(set(doc! { "data": binary(8) }))),
        ("a full last chunk", last, Some(set(doc! { "data": binary(1000) }))),
        ("a wrong number", 4, Some(set(doc! { "n": 400 }))),
        ("a negative number", 0, Some(set(doc! { "n": -1 }))),
        ("a number that is not whole", 4, Some(set(doc! { "n": 4.5 }))),
        ("a number that is text", 4, Some(set(doc! { "n": "4" }))),
        ("data that is text", 4, Some(set(doc! { "data": "x".repeat(1000) }))),
        ("data that is an array", 4, Some(set(doc! { "data": vec![0; 1000] }))),
        ("data that is null", 4, Some(set(doc! { "data": Bson::Null }))),
        ("no data", 4, Some(doc! { "$unset": { "data": "" } })),
    ];
    for (what, n, update) in damages {
        let file = planted(&test, &bytes).await;
        match update {
            None => assert_eq!(test.chunks().delete_one(at(&file, n)).await.unwrap().deleted_count, 1),
            Some(update) => assert_eq!(test.chunks().update_one(at(&file, n), update).await.unwrap().modified_count, 1),
        }
        let (start, end) = (n as u64 * 1000, (n as u64 * 1000 + 1000).min(FOREIGN_LEN as u64));
        assert_damaged(test.read(&file, 0..FOREIGN_LEN as u64).await, what);
        assert_damaged(test.read(&file, start..end).await, what);
        assert_damaged(test.read(&file, end - 1..end).await, what);
        for whole in [0..start, end..FOREIGN_LEN as u64] {
            let read = test.read(&file, whole.clone()).await.unwrap();
            assert!(read == bytes[whole.start as usize..whole.end as usize], "{what}: the rest is read");
        }
    }
}

#[tokio::test]
async fn chunks_after_the_last_are_an_error_where_the_end_is_read() {
    let test = TestStore::start().await;
    for (len, extra) in [(FOREIGN_LEN, 14), (13_000, 13)] {
        let bytes = noise(len, 17);
        let file = planted(&test, &bytes).await;
        test.chunks().insert_one(chunk(&file.files_id, extra, b"extra")).await.unwrap();
        assert_damaged(test.read(&file, 0..len as u64).await, "an extra chunk");
        assert_damaged(test.read(&file, len as u64 - 1..len as u64).await, "an extra chunk");
        assert!(test.read(&file, 0..5000).await.unwrap() == bytes[..5000]);
    }
}

#[tokio::test]
async fn two_chunks_at_one_place_are_an_error_and_never_a_choice() {
    let test = TestStore::bare(|_| {}).await;
    let bytes = noise(FOREIGN_LEN, 18);
    for n in [0, 4, 13] {
        let file = planted(&test, &bytes).await;
        let len = if n == 13 { 7 } else { FOREIGN_CHUNK };
        test.chunks().insert_one(chunk(&file.files_id, n, &vec![0; len])).await.unwrap();
        assert_damaged(test.read(&file, 0..FOREIGN_LEN as u64).await, "a doubled chunk");
        let start = n as u64 * 1000;
        assert_damaged(test.read(&file, start..start + 1).await, "a doubled chunk");
    }
}

#[tokio::test]
async fn a_files_document_with_impossible_numbers_is_damaged_and_nothing_panics() {
    let test = TestStore::start().await;
    let odd: [Bson; 12] = [
        (-1).into(),
        "1000".into(),
        Bson::Null,
        1.5.into(),
        f64::NAN.into(),
        f64::INFINITY.into(),
        1e300.into(),
        i64::MIN.into(),
        i32::MIN.into(),
        (-1.0).into(),
        doc! {}.into(),
        vec![1].into(),
    ];
    let of_chunk_size: [Bson; 4] = [0.into(), (1_i64 << 31).into(), i64::MAX.into(), 2_147_483_648.0.into()];
    let documents = odd
        .iter()
        .chain(&of_chunk_size)
        .flat_map(|odd| {
            [0_i64, 5000].map(|length| doc! { "_id": new_id(), "length": length, "chunkSize": odd.clone() })
        })
        .chain(odd.iter().map(|odd| doc! { "_id": new_id(), "length": odd.clone(), "chunkSize": 1000 }))
        .chain([
            doc! { "_id": new_id(), "length": 5 },
            doc! { "_id": new_id(), "chunkSize": 5 },
            doc! { "_id": new_id() },
        ]);
    for document in documents {
        test.files().insert_one(&document).await.unwrap();
        let outcome = test.store.find_grid_file(BUCKET, document.get("_id").unwrap()).await;
        assert!(matches!(outcome, Err(StoreError::Damaged(_))), "{document}: {outcome:?}");
    }
}

#[tokio::test]
async fn a_length_no_file_has_ends_the_read_at_once_and_reserves_nothing() {
    let test = TestStore::start().await;
    for (chunk_size, stored_len) in
        [(1, u64::MAX), (1, i64::MAX as u64), (255 << 10, 1 << 62), (i32::MAX as u32, 1 << 62)]
    {
        let file = GridFile { chunk_size, stored_len, ..grid_file(new_id(), 1, 0) };
        let read = tokio::time::timeout(Duration::from_secs(5), test.read(&file, 0..stored_len));
        assert_damaged(read.await.unwrap(), "a length no file has");
    }
}

#[tokio::test]
async fn an_empty_file_is_read_without_asking_for_chunks() {
    let test = TestStore::start().await;
    let file = test.write(1024, b"").await;
    profiler::start(&test.db).await;
    assert_eq!(test.read(&file, 0..0).await.unwrap(), b"");
    assert!(profiler::stop(&test.db, "files.chunks").await.is_empty());
}

#[tokio::test]
async fn a_range_reads_the_chunks_that_hold_it_and_no_other() {
    let test = TestStore::start().await;
    let bytes = noise(3 << 20, 20);
    let chunk_size = 64 << 10;
    let file = test.write(chunk_size, &bytes).await;
    let chunk = u64::from(chunk_size);
    let spans = [
        0..1,
        0..chunk,
        chunk - 1..chunk + 1,
        chunk..2 * chunk,
        5..3 * chunk,
        1_000_000..1_000_001,
        7..3 << 20,
        0..3 << 20,
    ];
    for span in spans {
        profiler::start(&test.db).await;
        let read = test.read(&file, span.clone()).await.unwrap();
        let finds = profiler::stop(&test.db, "files.chunks").await;
        assert!(read == bytes[span.start as usize..span.end as usize]);
        let held = (span.end.div_ceil(chunk) - span.start / chunk) as i64;
        assert_eq!(profiler::sum(&finds, "docsExamined"), held, "{span:?}");
        assert_eq!(profiler::sum(&finds, "nreturned"), held, "{span:?}");
        assert!(held as u64 <= (span.end - span.start).div_ceil(chunk) + 1);
        assert!(finds.iter().all(|find| find.get_i64("cursorid").is_err()), "no cursor stays open");
    }
}

#[tokio::test]
async fn a_reader_that_stops_polling_stops_the_reading() {
    let test = TestStore::start().await;
    let file = test.write(255 << 10, &noise(24 << 20, 21)).await;
    profiler::start(&test.db).await;
    let mut read = test.store.read_chunks(file.clone(), 0..file.stored_len).boxed();
    read.try_next().await.unwrap().unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let finds = profiler::stop(&test.db, "files.chunks").await;
    assert!((1..=2).contains(&finds.len()), "{} finds for one piece taken", finds.len());
    assert!(profiler::sum(&finds, "nreturned") <= 16, "4 MiB at most");
    let rest: Vec<Bytes> = read.try_collect().await.unwrap();
    assert_eq!(rest.iter().map(|piece| piece.len() as u64).sum::<u64>(), file.stored_len - (255 << 10));
}

#[tokio::test]
async fn readers_that_stopped_hold_no_connection() {
    let test = TestStore::bare(|settings| settings.data_pool = 4).await;
    test.store.ensure_bucket(BUCKET).await.unwrap();
    let bytes = noise(8 << 20, 22);
    let file = test.write(255 << 10, &bytes).await;
    let mut stopped = Vec::new();
    for _ in 0..12 {
        let mut read = test.store.read_chunks(file.clone(), 0..file.stored_len).boxed();
        let first = tokio::time::timeout(Duration::from_secs(5), read.try_next()).await;
        assert!(first.is_ok(), "{} stopped readers keep the next from reading", stopped.len());
        stopped.push(read);
    }
    for read in stopped {
        let rest: Vec<Bytes> = read.try_collect().await.unwrap();
        assert!(rest.concat() == bytes[255 << 10..]);
    }
}

// Delete and rename

#[tokio::test]
async fn a_delete_removes_the_files_document_first_and_then_every_chunk() {
    let test = TestStore::start().await;
    let (kept, gone) = (test.write(1024, &noise(5000, 30)).await, test.write(1024, &noise(700_000, 31)).await);
    profiler::start(&test.db).await;
    assert!(test.store.delete_grid_file(BUCKET, &gone.files_id).await.unwrap());
    test.db.run_command(doc! { "profile": 0 }).await.unwrap();
    let profile = test.db.collection::<Document>("system.profile");
    let operations = profile.find(doc! {}).sort(doc! { "ts": 1 }).await.unwrap();
    let operations: Vec<Document> = operations.try_collect().await.unwrap();
    let first = operations.iter().find(|op| op.get_str("ns").unwrap().contains(".files.")).unwrap();
    assert_eq!((first.get_str("op").unwrap(), first.get_str("ns").unwrap().ends_with("files.files")), ("remove", true));
    assert_eq!(test.chunks().count_documents(doc! { "files_id": gone.files_id.clone() }).await.unwrap(), 0);
    assert!(test.store.find_grid_file(BUCKET, &gone.files_id).await.unwrap().is_none());
    assert_eq!(test.read(&kept, 0..5000).await.unwrap(), noise(5000, 30));
    assert_damaged(test.read(&gone, 0..700_000).await, "a deleted file");
}

#[tokio::test]
async fn a_delete_removes_chunks_that_no_files_document_names_and_says_so() {
    let test = TestStore::start().await;
    let id = Bson::from(new_id());
    test.plant_chunks(&id, 10, &noise(7000, 32)).await;
    assert!(!test.store.delete_grid_file(BUCKET, &id).await.unwrap());
    assert_eq!(test.chunks().count_documents(doc! {}).await.unwrap(), 0);
    assert!(!test.store.delete_grid_file(BUCKET, &id).await.unwrap(), "there is nothing to delete");
}

#[tokio::test]
async fn a_delete_ends_whatever_the_chunks_are_numbered_with() {
    let test = TestStore::start().await;
    let id = Bson::from("odd numbers");
    let numbers: [Bson; 12] = [
        i64::MAX.into(),
        i64::MIN.into(),
        (i64::MAX - 1).into(),
        i32::MAX.into(),
        (-5).into(),
        f64::NAN.into(),
        f64::INFINITY.into(),
        0.5.into(),
        1e300.into(),
        "4".into(),
        Bson::Null,
        doc! { "a": 1 }.into(),
    ];
    let chunks = numbers.into_iter().map(|n| chunk(&id, n, b"x"));
    test.chunks().insert_many(chunks).await.unwrap();
    let delete = test.store.delete_grid_file(BUCKET, &id);
    tokio::time::timeout(Duration::from_secs(10), delete).await.expect("it ends").unwrap();
    assert_eq!(test.chunks().count_documents(doc! {}).await.unwrap(), 0);
}

#[tokio::test]
async fn a_rename_changes_the_filename_alone() {
    let test = TestStore::start().await;
    let file = test.write(1024, &noise(3000, 33)).await;
    let mut expected = Document::try_from(files_document(&test, &file).await).unwrap();
    assert!(test.store.rename_grid_file(BUCKET, &file.files_id, "another").await.unwrap());
    assert!(test.store.rename_grid_file(BUCKET, &file.files_id, "another").await.unwrap(), "to the same name");
    expected.insert("filename", "another");
    assert_eq!(Document::try_from(files_document(&test, &file).await).unwrap(), expected);
    assert!(!test.store.rename_grid_file(BUCKET, &new_id().into(), "another").await.unwrap());
    assert_eq!(test.files().count_documents(doc! {}).await.unwrap(), 1);
}

// Commit

#[tokio::test]
async fn a_writer_whose_rows_were_taken_away_keeps_a_lease_only_on_pending_rows() {
    let test = TestStore::start().await;
    let id = new_id();
    let rows = pending(id, 64 << 10);
    let lease = test.store.reserve(&rows).await.unwrap();
    let row = test.db.collection::<Document>("segments").find_one(doc! { "_id": id }).await.unwrap().unwrap();
    assert_eq!(row.get_str("state").unwrap(), "pending");
    assert!(*row.get_datetime("lease").unwrap() > DateTime::now());
    test.db
        .collection::<Document>("segments")
        .update_one(doc! { "_id": id }, doc! { "$set": { "state": "live" } })
        .await
        .unwrap();
    test.store.release(&rows).await.unwrap();
    let row = test.db.collection::<Document>("segments").find_one(doc! { "_id": id }).await.unwrap().unwrap();
    assert!(*row.get_datetime("lease").unwrap() > DateTime::now(), "a live row is not released");
    drop(lease);
}

async fn files_document(test: &TestStore, file: &GridFile) -> RawDocumentBuf {
    let files = test.db.collection::<RawDocumentBuf>("files.files");
    files.find_one(doc! { "_id": file.files_id.clone() }).await.unwrap().unwrap()
}

/// The chunks are exactly those of the specification.
async fn assert_chunks(test: &TestStore, file: &GridFile, bytes: &[u8]) {
    let chunks = test.db.collection::<RawDocumentBuf>("files.chunks");
    let of_file = chunks.find(doc! { "files_id": file.files_id.clone() }).sort(doc! { "n": 1 });
    let chunks: Vec<RawDocumentBuf> = of_file.await.unwrap().try_collect().await.unwrap();
    let parts: Vec<_> = bytes.chunks(file.chunk_size as usize).collect();
    assert_eq!(chunks.len(), parts.len());
    for (chunk, (n, part)) in chunks.iter().zip((0..).zip(parts)) {
        let fields: Vec<_> = chunk.iter().map(|field| field.unwrap()).collect();
        let names: Vec<_> = fields.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["_id", "files_id", "n", "data"]);
        assert!(fields[0].1.as_object_id().is_some());
        assert_eq!(fields[1].1.as_object_id().map(Bson::from), Some(file.files_id.clone()));
        assert_eq!(fields[2].1.as_i32(), Some(n));
        let data = fields[3].1.as_binary().unwrap();
        assert!(data.subtype == BinarySubtype::Generic && data.bytes == part, "chunk {n}");
    }
}

/// Name, keys and uniqueness of a collection's indexes but that on `_id`.
async fn indexes(test: &TestStore, part: &str) -> Vec<(String, Document, bool)> {
    let collection = test.db.collection::<Document>(&format!("{BUCKET}.{part}"));
    let found: Vec<IndexModel> = collection.list_indexes().await.unwrap().try_collect().await.unwrap();
    let described = found.into_iter().map(|index| {
        let options = index.options.unwrap();
        (options.name.unwrap(), index.keys, options.unique == Some(true))
    });
    described.filter(|(name, ..)| name != "_id_").collect()
}

/// A file as another program wrote it, without a files document.
async fn planted(test: &TestStore, bytes: &[u8]) -> GridFile {
    let id = Bson::from(new_id());
    test.plant_chunks(&id, FOREIGN_CHUNK, bytes).await;
    GridFile { files_id: id, ..grid_file(new_id(), FOREIGN_CHUNK as u32, bytes.len()) }
}

fn assert_damaged(outcome: StoreResult<Vec<u8>>, what: &str) {
    match outcome {
        Err(StoreError::Damaged(_)) => {}
        Err(error) => panic!("{what}: {error:?}"),
        Ok(bytes) => panic!("{what}: {} bytes", bytes.len()),
    }
}
