//! What a check found, condemned where provably nothing names it. Removes nothing: the sweep reaps
//! what is condemned, after the quarantine. Everything else stays a finding.

use super::report::Fault;
use super::{Check, Step, Subject, Suspect};
use crate::store::DateTime;
use crate::store::census::Which;

impl Check<'_> {
    /// Condemns what has no owner; gives what is left.
    pub(super) async fn repair(&mut self, suspects: Vec<Suspect>) -> Step<Vec<Suspect>> {
        let now = DateTime::from_system_time(self.files.clock.now());
        let mut left = Vec::new();
        for suspect in suspects {
            if self.condemn(&suspect, now).await? {
                let (_, finding) = &suspect.found;
                tracing::warn!(place = finding.place, id = finding.id, what = finding.what, "condemned by a repair");
            } else {
                left.push(suspect);
            }
        }
        Ok(left)
    }

    /// True when it is condemned; each act makes sure of its reason once more.
    async fn condemn(&mut self, suspect: &Suspect, now: DateTime) -> Step<bool> {
        let (store, repaired) = (&self.files.store, &mut self.report.repaired);
        let (is_condemned, count) = match (&suspect.subject, suspect.found.0) {
            (Subject::Blob(id), Fault::Leaked) => (store.condemn_unnamed(*id, now).await?, &mut repaired.blobs),
            (Subject::Segment(id), Fault::Orphans) => {
                let found = store.list_segments(Which::Of(&[*id])).await?.pop().and_then(|entry| entry.row);
                let is_condemned = match found {
                    Some(segment) => store.condemn_unheld(segment.blob, now).await?,
                    None => false,
                };
                (is_condemned, &mut repaired.segments)
            }
            (Subject::GridFile(bucket, id), Fault::Orphans) => {
                (store.condemn_unowned(bucket, id, now).await?, &mut repaired.grid_files)
            }
            (Subject::Chunks(bucket, id), Fault::Orphans) => {
                (store.condemn_unowned(bucket, id, now).await?, &mut repaired.chunks)
            }
            _ => return Ok(false),
        };
        *count += u64::from(is_condemned);
        Ok(is_condemned)
    }
}
