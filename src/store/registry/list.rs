//! Lists of registry documents: filters of literals, orders, pages.

use futures::TryStreamExt;
use mongodb::bson::{Bson, DateTime, Document, RawDocumentBuf, doc};

use serde::Deserialize;

use super::{FileDoc, Found, readable, visible};
use crate::store::limit::Within;
use crate::store::schema::REGISTRY;
use crate::store::{Id, Store, StoreError, StoreResult};

/// The order of a list; ties are broken by id in the same direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SortField {
    /// By creation.
    CreatedAt,
    /// By name.
    Name,
    /// By plaintext size.
    Size,
}

impl SortField {
    fn key(self) -> &'static str {
        match self {
            Self::CreatedAt => "createdAt",
            Self::Name => "name",
            Self::Size => "content.size",
        }
    }

    /// The document's value in this order.
    pub fn value(self, file: &FileDoc) -> Bson {
        match self {
            Self::CreatedAt => Bson::DateTime(file.created_at),
            Self::Name => Bson::String(file.name.clone()),
            Self::Size => Bson::Int64(file.content.size),
        }
    }
}

/// The direction of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Smallest first.
    Ascending,
    /// Largest first.
    Descending,
}

/// Which files a list shows. Every field is a literal; none is a pattern or an operator.
#[derive(Debug, Clone, Default, PartialEq)]
#[expect(missing_docs, reason = "named as the document's fields")]
pub struct FileFilter {
    pub kind: Option<String>,
    pub content_type: Option<String>,
    pub bucket: Option<String>,
    pub category: Option<String>,
    pub tags: Vec<String>,
    pub folder: Option<String>,
    pub owner: Option<String>,
    pub access: Option<String>,
    pub min_size: Option<i64>,
    pub max_size: Option<i64>,
    pub created_after: Option<DateTime>,
    pub created_before: Option<DateTime>,
    /// Without what is private to others.
    pub visible_to: Option<String>,
}

impl FileFilter {
    /// Whether it shows every file of a tenant.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn to_document(&self, tenant: &str, now: DateTime) -> Document {
        let mut filter = visible(doc! { "$eq": tenant }, now);
        let literals = [
            ("kind", &self.kind),
            ("contentType", &self.content_type),
            ("content.bucket", &self.bucket),
            ("category", &self.category),
            ("folder", &self.folder),
            ("owner", &self.owner),
            ("access", &self.access),
        ];
        for (key, value) in literals {
            if let Some(value) = value {
                filter.insert(key, doc! { "$eq": value });
            }
        }
        if let Some(actor) = &self.visible_to {
            let of_all = doc! { "access": { "$in": ["internal", "public"] } };
            filter.insert("$or", [of_all, doc! { "owner": { "$eq": actor } }]);
        }
        if !self.tags.is_empty() {
            filter.insert("tags", doc! { "$all": &self.tags });
        }
        let mut bound = |key: &str, operator: &str, value: Option<Bson>| {
            if let Some(value) = value {
                let mut bounds = filter.get_document(key).cloned().unwrap_or_default();
                bounds.insert(operator, value);
                filter.insert(key, bounds);
            }
        };
        bound("content.size", "$gte", self.min_size.map(Bson::Int64));
        bound("content.size", "$lte", self.max_size.map(Bson::Int64));
        bound("createdAt", "$gt", self.created_after.map(Bson::DateTime));
        bound("createdAt", "$lt", self.created_before.map(Bson::DateTime));
        filter
    }
}

/// One page of a list.
#[derive(Debug, Clone)]
pub struct PageQuery {
    /// Which files.
    pub filter: FileFilter,
    /// In which order.
    pub sort: SortField,
    /// In which direction.
    pub direction: Direction,
    /// After this value and id, where it is not the first page.
    pub after: Option<PageMark>,
    /// How many.
    pub limit: i64,
}

/// The place of a document in a list.
#[derive(Debug, Clone, PartialEq)]
pub struct PageMark {
    /// The value it is sorted by.
    pub value: Bson,
    /// Its id.
    pub id: Id,
}

/// What some files add up to.
#[derive(Debug, Default, Clone, Copy, Deserialize)]
pub struct FileSums {
    /// How many.
    pub count: i64,
    /// Their plaintext bytes.
    pub bytes: i64,
}

fn expiring(tenant: &str, until: DateTime) -> Document {
    doc! { "tenant": { "$eq": tenant }, "expireAt": { "$lte": until }, "retention.legalHold": false }
}

impl Store {
    /// One page of a tenant's files.
    pub async fn list_files(&self, tenant: &str, query: &PageQuery, now: DateTime) -> StoreResult<Found> {
        let mut filter = query.filter.to_document(tenant, now);
        let (sign, operator) = match query.direction {
            Direction::Ascending => (1, "$gt"),
            Direction::Descending => (-1, "$lt"),
        };
        let key = query.sort.key();
        if let Some(after) = &query.after {
            let later = doc! { "$or": [
                { key: { operator: after.value.clone() } },
                { key: { "$eq": after.value.clone() }, "_id": { operator: after.id } },
            ] };
            filter.get_array_mut("$and").map_err(|error| StoreError::Damaged(error.to_string()))?.push(later.into());
        }
        let found = self
            .collection::<RawDocumentBuf>(REGISTRY)
            .find(filter)
            .sort(doc! { key: sign, "_id": sign })
            .projection(doc! { "content.row": 0 })
            .limit(query.limit)
            .max_time(self.query_timeout)
            .within(self.limit)
            .await?;
        readable(found).within(self.limit).await
    }

    /// A tenant's files that expire until an instant, soonest first; legal hold never does.
    pub async fn find_expiring(&self, tenant: &str, until: DateTime, limit: i64) -> StoreResult<Found> {
        let registry = self.collection::<RawDocumentBuf>(REGISTRY);
        let files = registry.find(expiring(tenant, until));
        readable(
            files
                .sort(doc! { "expireAt": 1, "_id": 1 })
                .limit(limit)
                .max_time(self.query_timeout)
                .within(self.limit)
                .await?,
        )
        .await
    }

    /// How many those are, and their plaintext bytes.
    pub async fn sum_expiring(&self, tenant: &str, until: DateTime) -> StoreResult<FileSums> {
        let sums = doc! { "_id": null, "count": { "$sum": 1_i64 }, "bytes": { "$sum": "$content.size" } };
        let pipeline = [doc! { "$match": expiring(tenant, until) }, doc! { "$group": sums }];
        let registry = self.documents(REGISTRY);
        let mut found = registry
            .aggregate(pipeline)
            .max_time(self.query_timeout)
            .with_type::<FileSums>()
            .within(self.limit)
            .await?;
        Ok(found.try_next().within(self.limit).await?.unwrap_or_default())
    }

    /// How many files name a blob.
    pub async fn count_sharing(&self, blob: Id) -> StoreResult<u64> {
        Ok(self
            .documents(REGISTRY)
            .count_documents(doc! { "blob": blob })
            .max_time(self.query_timeout)
            .within(self.limit)
            .await?)
    }

    /// How many of a tenant's files the filter shows, counted up to `most`: each takes a look at its document.
    pub async fn count_files(&self, tenant: &str, filter: &FileFilter, now: DateTime, most: u64) -> StoreResult<u64> {
        let filter = filter.to_document(tenant, now);
        Ok(self
            .collection::<FileDoc>(REGISTRY)
            .count_documents(filter)
            .limit(most)
            .max_time(self.query_timeout)
            .within(self.limit)
            .await?)
    }
}
