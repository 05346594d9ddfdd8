//! Runs of jobs that take long: how far the present one came and who holds it, in the collection
//! `jobs`. What a job does and how often is `jobs`'s decision.
//!
//! A holder that is silent loses its run to the next one that asks; it finds out with its next note.
//! All times are the database's.

use std::time::Duration;

use mongodb::bson::{Document, doc};
use mongodb::options::ReturnDocument;
use serde::Deserialize;

use super::limit::Within;
use super::schema::JOBS;
use super::{Id, Store, StoreError, StoreResult, new_id};

/// How long a holder may be silent.
pub const SILENCE: Duration = Duration::from_secs(60);

/// A run, held by whoever has this value.
#[derive(Debug, Clone, Deserialize)]
pub struct Run {
    /// The job.
    #[serde(rename = "_id")]
    job: String,
    holder: Id,
    /// The last thing that an earlier holder was done with; none at the beginning.
    #[serde(default)]
    pub after: Option<Id>,
}

/// What a holder has to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Note {
    /// It is still there.
    Alive,
    /// It is done with everything up to this.
    At(Id),
    /// The run is over.
    Finished,
    /// It goes without having finished: another may go on at once.
    Left,
}

impl Store {
    /// Begins a run when the last one finished at least `every` ago, or goes on with one whose holder
    /// is silent; none when there is nothing to do.
    pub async fn begin_run(&self, job: &str, every: Duration) -> StoreResult<Option<Run>> {
        let jobs = self.documents(JOBS);
        let nobody = doc! { "$setOnInsert": { "seenAt": mongodb::bson::DateTime::from_millis(0) } };
        match jobs
            .update_one(doc! { "_id": job }, nobody)
            .upsert(true)
            .within(self.limit)
            .await
            .map_err(StoreError::from)
        {
            Ok(_) | Err(StoreError::Duplicate(_)) => {}
            Err(error) => return Err(error),
        }
        let passed = |since: &str, time: Duration| {
            let millis = i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
            doc! { "$lte": [{ "$add": [since, millis] }, "$$NOW"] }
        };
        let is_finished = doc! { "$gt": ["$finishedAt", null] };
        let is_free = doc! { "$cond": [
            is_finished.clone(),
            passed("$finishedAt", every),
            passed("$seenAt", SILENCE),
        ] };
        let begin = vec![
            doc! { "$set": {
                "holder": new_id(),
                "seenAt": "$$NOW",
                "startedAt": { "$cond": [is_finished.clone(), "$$NOW", { "$ifNull": ["$startedAt", "$$NOW"] }] },
                "after": { "$cond": [is_finished, null, { "$ifNull": ["$after", null] }] },
            } },
            doc! { "$unset": "finishedAt" },
        ];
        let free = doc! { "_id": job, "$expr": is_free };
        let jobs = self.collection::<Run>(JOBS);
        Ok(jobs.find_one_and_update(free, begin).return_document(ReturnDocument::After).within(self.limit).await?)
    }

    /// Takes down what a holder has to say.
    ///
    /// # Errors
    /// [`StoreError::Stale`] when the run is another's by now.
    pub async fn note_run(&self, run: &Run, note: Note) -> StoreResult<()> {
        let said: Document = match note {
            Note::Alive => doc! { "seenAt": "$$NOW" },
            Note::At(after) => doc! { "seenAt": "$$NOW", "after": after },
            Note::Finished => doc! { "seenAt": "$$NOW", "finishedAt": "$$NOW" },
            Note::Left => doc! { "seenAt": mongodb::bson::DateTime::from_millis(0) },
        };
        let held = doc! { "_id": &run.job, "holder": run.holder };
        let noted = self.documents(JOBS).update_one(held, vec![doc! { "$set": said }]).within(self.limit).await?;
        if noted.matched_count == 1 { Ok(()) } else { Err(StoreError::Stale) }
    }
}
