//! A writer in the database: whatever is changed past the gateway, a download gives the bytes that
//! were uploaded or fails. A range in frames that were not touched is still exact.

use std::io::Write;

use flate2::write::GzEncoder;
use futures::TryStreamExt;
use gridgate::format::digest::Sha256Digest;
use gridgate::store::api_keys::ApiKeyDoc;
use gridgate::store::segments::binary;
use gridgate::store::{Bson, DateTime, Document, Id, doc, new_id};
use mongodb::bson::Binary;
use mongodb::bson::spec::BinarySubtype;
use mongodb::{Collection, Database};
use serde_json::Value;

use crate::support::app::{TestApp, all_buckets, content_path, noise};
use crate::support::rows::Rows;

const CHUNK: usize = 64 << 10;
/// Every form in which a file's bytes are stored.
const FORMS: [&str; 5] = [
    "encrypt=false&compress=none",
    "encrypt=true&compress=none",
    "encrypt=false&compress=zstd",
    "encrypt=true&compress=zstd",
    "encrypt=false&compress=gzip",
];

/// A gateway with small chunks and frames, so that there are many of them.
async fn start() -> TestApp {
    TestApp::start_with(|settings| {
        all_buckets(settings);
        for bucket in settings.buckets.values_mut() {
            (bucket.small_chunk_kib, bucket.frame_kib) = (64, 64);
        }
    })
    .await
}

/// A stored file whose documents can be changed and put back.
struct Victim<'a> {
    app: &'a TestApp,
    db: Database,
    file: Value,
    bytes: Vec<u8>,
    row: Document,
    registry: Document,
    chunks: Vec<Document>,
}

/// What a download gave.
struct Answer {
    /// 0 where no head came.
    status: u16,
    bytes: Vec<u8>,
    has_ended: bool,
}

impl<'a> Victim<'a> {
    /// Uploads a file, which is read by its segment's row: without the copy of that.
    async fn upload(app: &'a TestApp, form: &str, seed: u64) -> Self {
        let mut victim = Self::with_copy(app, form, seed).await;
        without_copy(&victim.db, victim.registry.get_object_id("file").unwrap()).await;
        victim.registry.get_document_mut("content").unwrap().remove("row");
        victim
    }

    /// Uploads a file of ten chunks or so, compressible to about a half.
    async fn with_copy(app: &'a TestApp, form: &str, seed: u64) -> Self {
        let len = if form.contains("compress=none") { 9 * CHUNK + 77 } else { 18 * CHUNK + 77 };
        let bytes: Vec<u8> = if form.contains("compress=none") {
            noise(len, seed)
        } else {
            noise(len / 2 + 1, seed)
                .iter()
                .flat_map(|b| [b"0123456789abcdef"[usize::from(b >> 4)], b"0123456789abcdef"[usize::from(b & 15)]])
                .collect()
        };
        let file = app.put(&format!("name=a.bin&{form}"), "application/x-noise", bytes.clone()).await;
        let db = app.mongo().await;
        let id = Id::parse_str(file["id"].as_str().unwrap()).unwrap();
        let registry = one(&db, "file_registry", doc! { "file": id }).await;
        let row = Rows::of(&db).only_of(registry.get_object_id("blob").unwrap()).await;
        let of_file = doc! { "files_id": row.get_object_id("_id").unwrap() };
        let chunks = db.collection("files.chunks").find(of_file).sort(doc! { "n": 1 }).await.unwrap();
        Self { app, db, file, bytes, row, registry, chunks: chunks.try_collect().await.unwrap() }
    }

    fn documents(&self, name: &str) -> Collection<Document> {
        self.db.collection(name)
    }

    fn segment(&self) -> Id {
        self.row.get_object_id("_id").unwrap()
    }

    async fn set_data(&self, n: i32, data: Vec<u8>) {
        let at = doc! { "files_id": self.segment(), "n": n };
        let data = Binary { subtype: BinarySubtype::Generic, bytes: data };
        let update = doc! { "$set": { "data": data } };
        assert_eq!(self.documents("files.chunks").update_one(at, update).await.unwrap().matched_count, 1);
    }

    fn data(&self, n: usize) -> Vec<u8> {
        self.chunks[n].get_binary_generic("data").unwrap().clone()
    }

    fn rows(&self) -> Rows {
        Rows::of(&self.db)
    }

    async fn update_row(&self, update: Document) {
        let row = doc! { "_id": self.segment() };
        assert!(self.rows().update_one(row, update).await, "the change changes something");
    }

    async fn update(&self, collection: &str, id: Id, update: Document) {
        let outcome = self.documents(collection).update_one(doc! { "_id": id }, update).await.unwrap();
        assert_eq!(outcome.modified_count, 1, "the change changes something");
    }

    /// Puts the chunks back as they were.
    async fn restore_chunks(&self) {
        let chunks = self.documents("files.chunks");
        chunks.delete_many(doc! { "files_id": self.segment() }).await.unwrap();
        chunks.insert_many(&self.chunks).await.unwrap();
    }

    /// Puts the row and the registry document back as they were.
    async fn restore(&self) {
        self.rows().put_back(&self.row).await;
        let id = doc! { "_id": self.registry.get("_id").unwrap() };
        self.documents("file_registry").replace_one(id, &self.registry).upsert(true).await.unwrap();
    }

    async fn get(&self, range: Option<(usize, usize)>) -> Answer {
        let mut request = self.app.get(&content_path(&self.file));
        if let Some((start, end)) = range {
            request = request.header("range", format!("bytes={start}-{}", end - 1));
        }
        // The connection may be cut before the head has left.
        let Ok(mut response) = request.send().await else {
            return Answer { status: 0, bytes: Vec::new(), has_ended: false };
        };
        let status = response.status().as_u16();
        if status >= 400 {
            let kind = response.headers()["content-type"].to_str().unwrap();
            assert_eq!(kind, "application/problem+json");
        }
        let mut bytes = Vec::new();
        loop {
            match response.chunk().await {
                Ok(Some(piece)) => bytes.extend_from_slice(&piece),
                outcome => return Answer { status, bytes, has_ended: outcome.is_ok() },
            }
        }
    }

    /// A whole download fails closed; gives whether it failed before the first byte.
    async fn assert_refused(&self, what: &str) -> bool {
        let answer = self.get(None).await;
        if answer.status >= 500 {
            return true;
        }
        assert!([0, 200].contains(&answer.status), "{what}: {}", answer.status);
        assert!(!answer.has_ended, "{what}: a damaged file ended cleanly");
        assert!(answer.bytes.len() < self.bytes.len(), "{what}: all bytes came");
        assert!(self.bytes.starts_with(&answer.bytes), "{what}: a wrong byte was given out");
        false
    }

    /// A range is exact or fails closed; gives whether it was exact.
    async fn is_exact(&self, start: usize, end: usize, what: &str) -> bool {
        let answer = self.get(Some((start, end))).await;
        let expected = &self.bytes[start..end];
        if answer.status == 206 && answer.has_ended {
            assert!(answer.bytes == expected, "{what}: a wrong byte in {start}..{end}");
            return true;
        }
        assert!(answer.status >= 500 || expected.starts_with(&answer.bytes), "{what}: a wrong byte in {start}..{end}");
        false
    }

    /// Ranges through the whole file: each is exact or refused. Gives how many were of how many.
    async fn exact_ranges(&self, what: &str) -> (usize, usize) {
        let last = self.bytes.len() - 70;
        let starts: Vec<_> = (0..last).step_by(CHUNK / 2).chain([last]).collect();
        let mut exact = 0;
        for start in &starts {
            exact += usize::from(self.is_exact(*start, start + 70, what).await);
        }
        (exact, starts.len())
    }
}

#[tokio::test]
async fn tampered_chunks_never_give_a_wrong_byte_and_leave_the_other_frames_readable() {
    let app = start().await;
    for form in FORMS {
        let victim = Victim::upload(&app, form, 1).await;
        let other = Victim::upload(&app, form, 2).await;
        let last = victim.chunks.len() - 1;
        assert!(last >= 8, "{form}: {last}");
        for tamper in [
            "flip at 100 of the first",
            "flip",
            "flip in the last",
            "swap",
            "swap the first two",
            "drop",
            "drop the last",
            "repeat",
            "shorten",
            "shorten the last",
            "lengthen",
            "zero",
            "empty",
            "take another file's",
            "renumber",
        ] {
            let what = format!("{form}: {tamper}");
            match tamper {
                "flip at 100 of the first" => victim.set_data(0, flipped(victim.data(0), 100)).await,
                "flip" => victim.set_data(4, flipped(victim.data(4), CHUNK / 2)).await,
                // Near its start: what ends a segment (a trailer, a seek table) is not read.
                "flip in the last" => victim.set_data(last as i32, flipped(victim.data(last), 0)).await,
                "swap" => {
                    victim.set_data(4, victim.data(5)).await;
                    victim.set_data(5, victim.data(4)).await;
                }
                "swap the first two" => {
                    victim.set_data(0, victim.data(1)).await;
                    victim.set_data(1, victim.data(0)).await;
                }
                "drop" => remove_chunk(&victim, 4).await,
                "drop the last" => remove_chunk(&victim, last as i32).await,
                "repeat" => victim.set_data(4, victim.data(3)).await,
                "shorten" => victim.set_data(4, victim.data(4)[..CHUNK - 1].to_vec()).await,
                "shorten the last" => victim.set_data(last as i32, victim.data(last)[1..].to_vec()).await,
                "lengthen" => victim.set_data(4, [victim.data(4), vec![0]].concat()).await,
                "zero" => victim.set_data(4, vec![0; CHUNK]).await,
                "empty" => victim.set_data(4, Vec::new()).await,
                "take another file's" => victim.set_data(4, other.data(4)).await,
                _ => {
                    let at = doc! { "files_id": victim.segment(), "n": 4 };
                    let update = doc! { "$set": { "n": 4000 } };
                    victim.documents("files.chunks").update_one(at, update).await.unwrap();
                }
            }
            let is_early = victim.assert_refused(&what).await;
            assert!(is_early || !tamper.contains("first"), "{what}: damage at the start is an answer, not a cut");
            let (exact, all) = victim.exact_ranges(&what).await;
            assert!(exact < all, "{what}: no range met the damage");
            assert!(exact * 10 >= all * 6, "{what}: {exact} of {all} ranges were read");
            assert!(victim.is_exact(victim.bytes.len() / 4, victim.bytes.len() / 4 + 9000, &what).await, "{what}");
            victim.restore_chunks().await;
        }
        assert!(app.content(&victim.file).await == victim.bytes, "{form}: restored");
        assert!(app.content(&other.file).await == other.bytes, "{form}: the other");
    }
}

#[tokio::test]
async fn two_files_that_exchange_all_their_chunks_are_both_refused() {
    let app = start().await;
    for form in FORMS {
        let (a, b) = (Victim::upload(&app, form, 3).await, Victim::upload(&app, form, 4).await);
        for (victim, other) in [(&a, &b), (&b, &a)] {
            for n in 0..victim.chunks.len().min(other.chunks.len()) {
                victim.set_data(n as i32, other.data(n)).await;
            }
        }
        assert!(a.assert_refused(form).await && b.assert_refused(form).await);
        assert_eq!(a.exact_ranges(form).await.0, 0);
    }
}

#[tokio::test]
async fn an_extra_chunk_is_refused_where_the_end_is_read() {
    let app = start().await;
    let victim = Victim::upload(&app, FORMS[0], 5).await;
    let mut extra = victim.chunks[0].clone();
    extra.insert("_id", new_id());
    extra.insert("n", victim.chunks.len() as i32);
    victim.documents("files.chunks").insert_one(extra).await.unwrap();
    victim.assert_refused("an extra chunk").await;
    assert!(victim.is_exact(0, 1000, "an extra chunk").await);
}

#[tokio::test]
async fn a_tampered_segment_row_is_refused_and_never_gives_a_wrong_byte() {
    let app = start().await;
    for form in FORMS {
        let victim = Victim::upload(&app, form, 6).await;
        let other = Victim::upload(&app, form, 7).await;
        let mut updates = changes_of_the_row(&victim, &other);
        if form.contains("encrypt=true") {
            updates.extend(changes_of_the_key(&victim.row, &other.row));
        } else {
            let sealed = Victim::upload(&app, FORMS[1], 8).await.row;
            let (enc, salt) = (sealed.get("enc").unwrap(), sealed.get("salt").unwrap());
            updates.push(doc! { "$set": { "enc": enc.clone(), "salt": salt.clone() } });
        }
        for update in updates {
            let what = format!("{form}: {update}");
            victim.update_row(update).await;
            victim.assert_refused(&what).await;
            victim.exact_ranges_of_a_few(&what).await;
            victim.restore().await;
        }
        victim.rows().delete_one(doc! { "_id": victim.segment() }).await;
        assert!(victim.assert_refused(&format!("{form}: no row")).await);
        victim.restore().await;
        assert!(app.content(&victim.file).await == victim.bytes, "{form}: restored");
    }
}

/// One that cannot be read as a copy is none: the file is read by its row.
#[tokio::test]
async fn a_tampered_copy_of_a_row_is_refused_and_never_gives_a_wrong_byte() {
    let app = start().await;
    for form in FORMS.into_iter().filter(|form| form.contains("encrypt=false")) {
        let victim = Victim::with_copy(&app, form, 6).await;
        let other = Victim::with_copy(&app, form, 7).await;
        let id = victim.registry.get_object_id("_id").unwrap();
        let own = victim.row.get_str("codec").unwrap();
        let codecs = ["identity", "zstd", "gzip"].into_iter().filter(|codec| *codec != own);
        let rows = changes_of_the_row(&victim, &other);
        let changes = rows.iter().filter_map(|update| in_the_copy(update.get_document("$set").unwrap()));
        let of_other = other.registry.get_document("content").unwrap().get("row").unwrap().clone();
        let changes = changes.chain(codecs.map(|codec| doc! { "content.codec": codec }));
        let changes: Vec<_> = changes.chain([doc! { "content.row": of_other }]).collect();
        assert!(changes.len() > 30, "{}", changes.len());
        let text = doc! { "content.row.seek": "text" };
        assert!(changes.contains(&text));
        for change in changes {
            let what = format!("{form}: {change}");
            let is_a_copy = change != text;
            victim.update("file_registry", id, doc! { "$set": change }).await;
            match is_a_copy {
                true => drop(victim.assert_refused(&what).await),
                false => assert!(app.content(&victim.file).await == victim.bytes, "{what}"),
            }
            victim.exact_ranges_of_a_few(&what).await;
            victim.restore().await;
        }
        victim.rows().delete_one(doc! { "_id": victim.segment() }).await;
        assert!(app.content(&victim.file).await == victim.bytes, "{form}: by the copy");
        victim.restore().await;
    }
}

#[tokio::test]
async fn another_codec_in_the_row_is_refused_or_means_the_same_bytes() {
    let app = start().await;
    for form in FORMS {
        let victim = Victim::upload(&app, form, 9).await;
        let own = victim.row.get_str("codec").unwrap().to_owned();
        for codec in ["identity", "zstd", "gzip"].into_iter().filter(|codec| *codec != own) {
            let what = format!("{form} as {codec}");
            victim.update_row(doc! { "$set": { "codec": codec } }).await;
            let answer = victim.get(None).await;
            // A sealed frame names its own codec; only its family is bound into the key.
            let is_family = form.contains("encrypt=true") && codec != "gzip";
            assert_eq!(answer.has_ended && answer.status == 200, is_family, "{what}");
            assert!(answer.status >= 500 || victim.bytes.starts_with(&answer.bytes), "{what}");
            victim.restore().await;
        }
    }
}

/// A stored `.zst` or `.gz` file is valid in the codec that its row could name instead of identity.
#[tokio::test]
async fn a_compressed_file_is_never_given_out_as_an_encoding_of_its_content() {
    let app = start().await;
    let text = b"what the client compressed before it came here. ".repeat(5000);
    let noisy = [text, noise(3 * CHUNK, 15)].concat();
    let mut gz = GzEncoder::new(Vec::new(), flate2::Compression::new(6));
    gz.write_all(&noisy).unwrap();
    let cases = [
        ("application/zstd", "zstd", zstd::stream::encode_all(&noisy[..], 3).unwrap()),
        ("application/gzip", "gzip", gz.finish().unwrap()),
    ];
    for (content_type, codec, bytes) in cases {
        assert!(bytes.len() > 3 * CHUNK, "{codec}: several frames");
        let file = app.put("name=a&encrypt=false&compress=none", content_type, bytes.clone()).await;
        let db = app.mongo().await;
        let id = Id::parse_str(file["id"].as_str().unwrap()).unwrap();
        let registry = one(&db, "file_registry", doc! { "file": id }).await;
        let segment = doc! { "blob": registry.get_object_id("blob").unwrap() };
        let segments = Rows::of(&db);
        let row = segments.find_one(segment.clone()).await.unwrap();
        assert_eq!(row.get_str("codec").unwrap(), "identity");
        let stored_len = row.get_i64("storedLen").unwrap();
        let files = db.collection::<Document>("file_registry");
        let chunks = db.collection::<Document>(&format!("{}.chunks", row.get_str("bucket").unwrap()));
        let of_file = doc! { "files_id": row.get_object_id("_id").unwrap() };
        let last = chunks.find_one(of_file).sort(doc! { "n": -1 }).await.unwrap().unwrap();
        let last_id = doc! { "_id": last.get("_id").unwrap() };
        let ask = || app.get(&content_path(&file)).header("accept-encoding", codec).send();
        // Without a tail, and with one as long as the seek table a zstd segment ends with; in the copy of the row, and in
        // the row.
        let frames = bytes.len().div_ceil(row.get_i32("frameLen").unwrap() as usize);
        let tail_lens = [0, 8 + 8 * frames + 9];
        for (tail_len, is_copied) in
            tail_lens.map(|len| (len, true)).into_iter().chain(tail_lens.map(|len| (len, false)))
        {
            let change = doc! { "codec": codec, "storedLen": stored_len + tail_len as i64 };
            if is_copied {
                let change = in_the_copy(&change).unwrap();
                files.update_one(doc! { "file": id }, doc! { "$set": change }).await.unwrap();
            } else {
                without_copy(&db, id).await;
                assert!(segments.update_one(segment.clone(), doc! { "$set": change }).await);
            }
            let data = [last.get_binary_generic("data").unwrap().as_slice(), &vec![0; tail_len]].concat();
            chunks.update_one(last_id.clone(), doc! { "$set": { "data": binary(data) } }).await.unwrap();
            let answer = ask().await.unwrap();
            let what = format!("{codec}, {tail_len}: {:?}", answer.headers().get("content-encoding"));
            assert_eq!(answer.status().as_u16(), 500, "{what}");
            segments.put_back(&row).await;
            files.replace_one(doc! { "file": id }, &registry).await.unwrap();
            chunks.replace_one(last_id.clone(), &last).await.unwrap();
        }
        let answer = ask().await.unwrap();
        assert!(answer.status().as_u16() == 200 && !answer.headers().contains_key("content-encoding"), "{codec}");
        assert!(answer.bytes().await.unwrap() == bytes, "{codec}: restored");
    }
}

#[tokio::test]
async fn a_tampered_registry_document_is_refused() {
    let app = start().await;
    for form in FORMS {
        let (victim, other) = (Victim::upload(&app, form, 10).await, Victim::upload(&app, form, 11).await);
        let content =
            |document: &Document, field: &str| document.get_document("content").unwrap().get(field).unwrap().clone();
        let flip = |field: &str| {
            let value = victim.registry.get_document("content").unwrap().get_binary_generic(field).unwrap().clone();
            binary(flipped(value, 3))
        };
        let size = victim.bytes.len() as i64;
        let changes = [
            doc! { "content.size": size - 1 },
            doc! { "content.size": size + 1 },
            doc! { "content.size": 0_i64 },
            doc! { "content.size": -1_i64 },
            doc! { "content.size": i64::MAX },
            doc! { "content.digest": flip("digest") },
            doc! { "content.digest": binary([]) },
            doc! { "content.digest": content(&other.registry, "digest") },
            doc! { "content.mac": flip("mac") },
            doc! { "content.mac": binary([]) },
            doc! { "content.mac": content(&other.registry, "mac") },
            doc! { "version": 2_i64 },
            doc! { "version": -1_i64 },
            doc! { "blob": other.registry.get("blob").unwrap().clone() },
            doc! { "blob": new_id() },
            doc! { "blob": other.registry.get("blob").unwrap().clone(), "content": other.registry.get("content").unwrap().clone() },
        ];
        let id = victim.registry.get_object_id("_id").unwrap();
        for change in changes {
            let what = format!("{form}: {change}");
            victim.update("file_registry", id, doc! { "$set": change }).await;
            assert!(victim.assert_refused(&what).await, "{what}: some bytes came");
            victim.restore().await;
        }
        assert!(app.content(&victim.file).await == victim.bytes, "{form}: restored");
    }
}

/// What it says of its protection is only for show: how it is read is in the row, which is bound.
#[tokio::test]
async fn a_file_that_claims_another_protection_is_read_as_it_was_stored_or_not_at_all() {
    let app = start().await;
    for form in FORMS {
        let victim = Victim::upload(&app, form, 16).await;
        let id = victim.registry.get_object_id("_id").unwrap();
        let own = victim.registry.get_document("content").unwrap().get_str("mode").unwrap_or("none").to_owned();
        for mode in ["none", "managed", "customer", "plain"].into_iter().filter(|mode| *mode != own) {
            let change = if mode == "none" {
                doc! { "$unset": { "content.mode": "", "content.kid": "" } }
            } else {
                doc! { "$set": { "content.mode": mode, "content.kid": "test" } }
            };
            victim.update("file_registry", id, change).await;
            let answer = victim.get(None).await;
            let is_exact = answer.status == 200 && answer.has_ended && answer.bytes == victim.bytes;
            assert!(is_exact || answer.status >= 400, "{form} as {mode}: {}", answer.status);
            victim.restore().await;
        }
    }
}

/// Types are not authenticated, and decide about nothing but how the same bytes are shown.
#[tokio::test]
async fn a_file_whose_type_was_changed_is_served_with_the_same_care() {
    let app = start().await;
    let victim = Victim::upload(&app, FORMS[1], 17).await;
    let id = victim.registry.get_object_id("_id").unwrap();
    for content_type in ["text/html", "image/svg+xml", "text/html;charset=utf-8", "image/png,text/html"] {
        victim.update("file_registry", id, doc! { "$set": { "contentType": content_type } }).await;
        let response = app.get(&content_path(&victim.file)).send().await.unwrap();
        let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
        assert!(header("content-disposition").starts_with("attachment"), "{content_type}");
        assert_eq!(header("x-content-type-options"), "nosniff");
        assert!(header("content-security-policy").starts_with("sandbox"), "{content_type}");
        assert!(response.bytes().await.unwrap() == victim.bytes, "{content_type}");
    }
    let split = doc! { "$set": { "contentType": "text/plain\r\nSet-Cookie: a=b" } };
    victim.update("file_registry", id, split).await;
    assert_eq!(app.content_status(&victim.file).await, 500, "no header of it");
}

#[tokio::test]
async fn a_file_moved_to_another_tenant_or_id_is_readable_for_nobody() {
    let app = start().await;
    let key = "gg_key_of_the_other_tenant_0123456789";
    let stored = ApiKeyDoc {
        id: "other".to_owned(),
        hash: binary(Sha256Digest::of(key.as_bytes()).0),
        tenant: "other".to_owned(),
        scopes: vec!["admin".to_owned()],
        name: "the other tenant's".to_owned(),
        created_at: DateTime::now(),
        expires_at: None,
        revoked_at: None,
    };
    app.app.files.store.put_api_key(&stored).await.unwrap();
    for form in FORMS {
        let victim = Victim::upload(&app, form, 12).await;
        let id = victim.registry.get_object_id("_id").unwrap();
        victim.update("file_registry", id, doc! { "$set": { "tenant": "other" } }).await;
        assert_eq!(victim.get(None).await.status, 404, "{form}");
        let theirs = app.anonymous("GET", &content_path(&victim.file)).bearer_auth(key).send().await.unwrap();
        assert_eq!(theirs.status().as_u16(), 500, "{form}");
        victim.restore().await;
        let moved = new_id();
        victim.update("file_registry", id, doc! { "$set": { "file": moved } }).await;
        let there = app.get(&format!("/v1/files/{moved}/content")).send().await.unwrap();
        assert_eq!(there.status().as_u16(), 500, "{form}");
    }
}

#[tokio::test]
async fn two_blobs_that_exchange_their_segments_are_both_refused() {
    let app = start().await;
    for form in FORMS {
        let (a, b) = (Victim::upload(&app, form, 13).await, Victim::upload(&app, form, 14).await);
        let exchange = async |from: &Victim<'_>, to: &Victim<'_>| {
            let row = doc! { "$set": { "segment": from.row.clone() } };
            to.update("blobs", to.row.get_object_id("blob").unwrap(), row).await;
        };
        exchange(&a, &b).await;
        exchange(&b, &a).await;
        assert!(a.assert_refused(form).await && b.assert_refused(form).await);
        a.restore().await;
        assert!(b.assert_refused(form).await && app.content(&a.file).await == a.bytes, "{form}");
        b.restore().await;
        assert!(app.content(&a.file).await == a.bytes && app.content(&b.file).await == b.bytes);
    }
}

#[tokio::test]
async fn an_empty_file_with_a_tampered_row_is_refused() {
    let app = start().await;
    for query in ["encrypt=false&compress=none", "encrypt=true", "encrypt=false&compress=zstd"] {
        let file = app.put(&format!("name=a.bin&{query}"), "application/x-noise", "").await;
        assert_eq!(app.content(&file).await, b"");
        let db = app.mongo().await;
        let id = Id::parse_str(file["id"].as_str().unwrap()).unwrap();
        without_copy(&db, id).await;
        let registry = one(&db, "file_registry", doc! { "file": id }).await;
        for change in [doc! { "len": 5_i64 }, doc! { "commit": binary([0; 32]) }] {
            let segment = doc! { "blob": registry.get_object_id("blob").unwrap() };
            let segments = Rows::of(&db);
            let row = segments.find_one(segment.clone()).await.unwrap();
            assert!(segments.update_one(segment.clone(), doc! { "$set": change }).await);
            assert_eq!(app.get(&content_path(&file)).send().await.unwrap().status().as_u16(), 500, "{query}");
            segments.put_back(&row).await;
        }
    }
}

impl Victim<'_> {
    /// A few ranges, where there are many changes to try: each is exact or refused.
    async fn exact_ranges_of_a_few(&self, what: &str) {
        let len = self.bytes.len();
        for (start, end) in [(0, 10), (len / 2, len / 2 + 5000), (len - 10, len)] {
            self.is_exact(start, end, what).await;
        }
    }
}

async fn remove_chunk(victim: &Victim<'_>, n: i32) {
    let at = doc! { "files_id": victim.segment(), "n": n };
    assert_eq!(victim.documents("files.chunks").delete_one(at).await.unwrap().deleted_count, 1);
}

/// Takes the copy of its row from a file that has one.
async fn without_copy(db: &Database, file: Id) {
    let (file, unset) = (doc! { "file": file }, doc! { "$unset": { "content.row": "" } });
    db.collection::<Document>("file_registry").update_one(file, unset).await.unwrap();
}

async fn one(db: &Database, collection: &str, filter: Document) -> Document {
    db.collection(collection).find_one(filter).await.unwrap().unwrap()
}

fn flipped(mut bytes: Vec<u8>, at: usize) -> Vec<u8> {
    bytes[at] ^= 1;
    bytes
}

/// Changes of what describes the bytes; each is one the reader must notice.
fn changes_of_the_row(victim: &Victim<'_>, other: &Victim<'_>) -> Vec<Document> {
    let row = &victim.row;
    let (len, stored) = (row.get_i64("len").unwrap(), row.get_i64("storedLen").unwrap());
    let (chunk_size, frame_len) = (row.get_i32("chunkSize").unwrap(), row.get_i32("frameLen").unwrap());
    let seek = row.get_binary_generic("seek").unwrap();
    let of_other = |field: &str| doc! { field: other.row.get(field).unwrap().clone() };
    let mut changes: Vec<Document> = vec![
        doc! { "seek": binary(flipped(seek.clone(), seek.len() / 2)) },
        doc! { "seek": binary(seek[..seek.len() - 12].to_vec()) },
        doc! { "seek": binary([]) },
        doc! { "seek": "text" },
        of_other("seek"),
        of_other("commit"),
        doc! { "seek": other.row.get("seek").unwrap().clone(), "commit": other.row.get("commit").unwrap().clone() },
        doc! { "commit": binary(flipped(row.get_binary_generic("commit").unwrap().clone(), 31)) },
        doc! { "commit": binary([]) },
        doc! { "salt": binary(vec![7; 32]) },
        doc! { "salt": binary([]) },
        doc! { "off": 1_i64 },
        doc! { "off": -1_i64 },
        doc! { "frameLen": frame_len * 2 },
        doc! { "frameLen": frame_len / 2 },
        doc! { "frameLen": frame_len - 1024 },
        doc! { "frameLen": frame_len + 1 },
        doc! { "frameLen": 0 },
        doc! { "frameLen": -frame_len },
        doc! { "frameLen": i32::MIN },
        doc! { "frameLen": i32::MAX },
        doc! { "format": 2 },
        doc! { "format": 0 },
        doc! { "state": "condemned" },
        doc! { "state": "none" },
        doc! { "bucket": "images" },
        doc! { "filesId": other.segment() },
        doc! { "blob": other.row.get("blob").unwrap().clone() },
    ];
    changes.extend([0, 1, len - 1, len + 1, -1, i64::MAX, i64::MIN].map(|len| doc! { "len": len }));
    changes.extend([0, stored - 1, stored + 1, -1, 1 << 62, i64::MAX].map(|len| doc! { "storedLen": len }));
    changes.extend(
        [1, 1000, chunk_size - 1, chunk_size + 1, 0, -1, i32::MIN, i32::MAX].map(|size| doc! { "chunkSize": size }),
    );
    changes.push(doc! { "storedLen": i64::MAX, "chunkSize": 1 });
    changes.push(doc! { "codec": "brotli" });
    changes.into_iter().map(|fields| doc! { "$set": fields }).collect()
}

/// The same change of a copy of the row, where that has the fields.
fn in_the_copy(change: &Document) -> Option<Document> {
    let place = |field: &str| match field {
        "seek" | "commit" | "frameLen" | "format" | "chunkSize" => Some(format!("content.row.{field}")),
        "bucket" | "codec" => Some(format!("content.{field}")),
        "len" => Some("content.size".to_owned()),
        "storedLen" => Some("content.storedSize".to_owned()),
        _ => None,
    };
    change.iter().map(|(field, value)| Some((place(field)?, value.clone()))).collect()
}

/// Changes of what unlocks the bytes, down to "not encrypted".
fn changes_of_the_key(row: &Document, other: &Document) -> Vec<Document> {
    let mut updates = Vec::new();
    let of_other = |field: &str| doc! { field: other.get(field).unwrap().clone() };
    updates.push(doc! { "$unset": { "enc": "", "salt": "" } });
    updates.push(doc! { "$unset": { "enc": "" } });
    updates.push(doc! { "$unset": { "salt": "" } });
    updates.push(doc! { "$set": of_other("enc") });
    updates.push(
        doc! { "$set": { "enc": other.get("enc").unwrap().clone(), "salt": other.get("salt").unwrap().clone() } },
    );
    for (field, value) in
        [("mode", Bson::from("ssec")), ("mode", "none".into()), ("kid", "none".into()), ("v", 2.into())]
    {
        updates.push(doc! { "$set": { format!("enc.{field}"): value } });
    }
    for field in ["salt", "commit", "ct"] {
        let value = row.get_document("enc").unwrap().get_binary_generic(field).unwrap().clone();
        updates.push(doc! { "$set": { format!("enc.{field}"): binary(flipped(value, 5)) } });
        updates.push(doc! { "$set": { format!("enc.{field}"): binary([]) } });
    }
    updates
}
