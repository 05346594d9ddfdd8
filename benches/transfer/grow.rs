//! A registry of many files, made of the documents of one: copies with names, times, sizes and ids of their own. Their
//! chunks hold what the one's hold, so they are entries to look through and not files to read.

use std::ops::Range;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::{StreamExt, TryStreamExt, stream};
use gridgate::store::rows::segment_id;
use mongodb::Database;
use mongodb::bson::oid::ObjectId;
use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{Binary, DateTime, Document, doc};
use mongodb::options::{Acknowledgment, WriteConcern};

use crate::Outcome;
use crate::content::Dice;

/// Files of one insert.
const BATCH: usize = 1000;
const IN_FLIGHT: usize = 2;
const YEAR: Duration = Duration::from_secs(365 * 86_400);
const FOLDERS: usize = 100;

/// The documents of one file, by collection.
struct Model {
    documents: [(String, Document); 5],
}

/// Fills the database with so many copies of the one file that is in it.
pub async fn grow(database: &Database, files: usize) -> Outcome<()> {
    let model = Model::read(database).await?;
    let mut dice = Dice::new(11);
    let batches: Vec<_> =
        (0..files.div_ceil(BATCH)).map(|n| (n * BATCH..files.min((n + 1) * BATCH), dice.roll())).collect();
    stream::iter(batches)
        .map(|(numbers, seed)| model.insert(database, numbers, files, Dice::new(seed)))
        .buffer_unordered(IN_FLIGHT)
        .try_collect::<Vec<()>>()
        .await?;
    Ok(())
}

impl Model {
    async fn read(database: &Database) -> Outcome<Self> {
        let one = async |collection: &str, filter: Document| -> Outcome<(String, Document)> {
            let found = database.collection::<Document>(collection).find_one(filter).await?;
            Ok((collection.to_owned(), found.ok_or_else(|| format!("{collection} is empty"))?))
        };
        let blob = one("blobs", doc! {}).await?;
        let segment = blob.1.get_document("segment")?;
        let (id, bucket) = (segment.get_object_id("_id")?, segment.get_str("bucket")?.to_owned());
        let documents = [
            // First: a sweep would condemn a blob that nothing names.
            one("file_registry", doc! {}).await?,
            blob,
            one(&format!("{bucket}.chunks"), doc! { "files_id": id }).await?,
            one(&format!("{bucket}.files"), doc! { "_id": id }).await?,
            one("audit", doc! { "action": "file.put" }).await?,
        ];
        Ok(Self { documents })
    }

    /// Inserts those of these numbers, as if all together had come one after the other in the last year.
    async fn insert(&self, database: &Database, numbers: Range<usize>, files: usize, mut dice: Dice) -> Outcome<()> {
        let begun = SystemTime::now().duration_since(UNIX_EPOCH)? - YEAR;
        let mut batches: [Vec<Document>; 5] = Default::default();
        for n in numbers {
            let at = begun + YEAR.mul_f64(n as f64 / files as f64);
            let (made, content) = (DateTime::from_millis(at.as_millis() as i64), dice.roll());
            let [blob, file, entry] = [(); 3].map(|()| new_id(at, &mut dice));
            let (segment, chunk) = (segment_id(blob), spread_id(&mut dice));
            let name = format!("{:016x}-{n}.bin", dice.roll());
            let look_up: Vec<u8> = (0..4).flat_map(|_| dice.roll().to_be_bytes()).collect();
            let look_up = Binary { subtype: BinarySubtype::Generic, bytes: look_up };
            let changes = [
                doc! {
                    "_id": file, "file": file, "blob": blob, "name": &name, "createdAt": made, "updatedAt": made,
                    "folder": format!("/{}", dice.below(FOLDERS)),
                },
                doc! { "_id": blob, "sha256": look_up },
                doc! { "_id": chunk, "files_id": segment },
                doc! { "_id": segment, "filename": &name, "uploadDate": made },
                doc! { "_id": entry, "file": file, "at": made },
            ];
            for ((batch, (_, model)), change) in batches.iter_mut().zip(&self.documents).zip(changes) {
                let mut copy = model.clone();
                copy.extend(change);
                if let Ok(facts) = copy.get_document_mut("content") {
                    facts.insert("size", (content % (1 << 30)) as i64);
                    facts.get_document_mut("row")?.insert("segment", segment);
                }
                if let Ok(row) = copy.get_document_mut("segment") {
                    row.extend(doc! { "_id": segment, "blob": blob });
                }
                batch.push(copy);
            }
        }
        let one = WriteConcern::builder().w(Acknowledgment::Nodes(1)).build();
        for ((collection, _), batch) in self.documents.iter().zip(batches) {
            database.collection(collection).insert_many(batch).ordered(false).write_concern(one.clone()).await?;
        }
        Ok(())
    }
}

/// As the gateway makes them.
fn new_id(at: Duration, dice: &mut Dice) -> ObjectId {
    let mut id = spread_id(dice).bytes();
    id[..4].copy_from_slice(&(at.as_secs() as u32).to_be_bytes());
    ObjectId::from_bytes(id)
}

fn spread_id(dice: &mut Dice) -> ObjectId {
    let mut id = [0; 12];
    id[..8].copy_from_slice(&dice.roll().to_be_bytes());
    id[8..].copy_from_slice(&dice.roll().to_be_bytes()[..4]);
    ObjectId::from_bytes(id)
}
