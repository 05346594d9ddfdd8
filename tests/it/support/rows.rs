//! The rows of segments, wherever they are, as if they were one collection: filters, changes and documents are those of
//! rows. What small content has in its blob lies beside what has a document of its own.

use futures::TryStreamExt;
use gridgate::store::rows::{RowPlace, blob_id};
use mongodb::bson::{Bson, Document, doc};
use mongodb::{Collection, Database};

/// Content whose row is in its blob is shorter than this.
const SMALL: i64 = 2 << 20;

pub struct Rows(Database);

impl Rows {
    pub fn of(db: &Database) -> Self {
        Self(db.clone())
    }

    fn holders(&self, place: RowPlace) -> Collection<Document> {
        self.0.collection(place.collection())
    }

    /// The first that fits.
    pub async fn find_one(&self, filter: Document) -> Option<Document> {
        self.find(filter).await.into_iter().next()
    }

    /// The only one of a blob.
    pub async fn only_of(&self, blob: mongodb::bson::oid::ObjectId) -> Document {
        let mut found = self.find(doc! { "blob": blob }).await;
        assert_eq!(found.len(), 1);
        found.remove(0)
    }

    pub async fn find(&self, filter: Document) -> Vec<Document> {
        let mut rows = Vec::new();
        for place in RowPlace::ALL {
            let found = self.holders(place).find(placed(place, &filter)).await.unwrap();
            let found: Vec<Document> = found.try_collect().await.unwrap();
            rows.extend(found.into_iter().map(|holder| row(place, holder)));
        }
        rows
    }

    pub async fn count(&self, filter: Document) -> u64 {
        let mut count = 0;
        for place in RowPlace::ALL {
            count += self.holders(place).count_documents(placed(place, &filter)).await.unwrap();
        }
        count
    }

    /// Changes the first that fits; whether it was changed.
    pub async fn update_one(&self, filter: Document, update: Document) -> bool {
        for place in RowPlace::ALL {
            let change = |change: &Bson| Bson::Document(named(place, change.as_document().unwrap()));
            let update: Document = update.iter().map(|(operator, fields)| (operator.clone(), change(fields))).collect();
            let updated = self.holders(place).update_one(placed(place, &filter), update).await.unwrap();
            if updated.matched_count > 0 {
                return updated.modified_count > 0;
            }
        }
        false
    }

    /// Puts a row back as it was.
    pub async fn put_back(&self, row: &Document) {
        let id = row.get_object_id("_id").unwrap();
        let in_blob = row.get_i64("storedLen").unwrap() < SMALL;
        let (blobs, segments) = (self.holders(RowPlace::Blob), self.holders(RowPlace::Segments));
        let set = doc! { "$set": { "segment": row.clone() } };
        if !in_blob || blobs.update_one(doc! { "_id": blob_id(id) }, set).await.unwrap().matched_count == 0 {
            segments.replace_one(doc! { "_id": id }, row).upsert(true).await.unwrap();
        }
    }

    /// Removes the first that fits.
    pub async fn delete_one(&self, filter: Document) {
        if self.holders(RowPlace::Segments).delete_one(filter.clone()).await.unwrap().deleted_count == 0 {
            let gone = doc! { "$unset": { "segment": "" } };
            let unset = self.holders(RowPlace::Blob).update_one(placed(RowPlace::Blob, &filter), gone).await.unwrap();
            assert_eq!(unset.modified_count, 1);
        }
    }

    /// Makes a row of its own.
    pub async fn insert(&self, row: &Document) {
        self.holders(RowPlace::Segments).insert_one(row).await.unwrap();
    }
}

fn row(place: RowPlace, mut holder: Document) -> Document {
    match place {
        RowPlace::Segments => holder,
        RowPlace::Blob => match holder.remove("segment") {
            Some(Bson::Document(row)) => row,
            other => panic!("no row: {other:?}"),
        },
    }
}

fn named(place: RowPlace, fields: &Document) -> Document {
    let name = |name: &String| match place {
        RowPlace::Segments => name.clone(),
        RowPlace::Blob => format!("segment.{name}"),
    };
    fields.iter().map(|(field, value)| (name(field), value.clone())).collect()
}

fn placed(place: RowPlace, filter: &Document) -> Document {
    let mut filter = named(place, filter);
    if place == RowPlace::Blob && filter.is_empty() {
        filter.insert("segment", doc! { "$exists": true });
    }
    filter
}
