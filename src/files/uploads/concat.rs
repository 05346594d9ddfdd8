//! Concatenation of tus: partial uploads become one file. Their segments are the file's, where and as they are
//! stored; nothing but the first bytes is read, to recognise the content, and tails, which become segments before.

use std::sync::Arc;

use futures::TryStreamExt;

use super::piece::{number, sniff_as};
use super::{Begun, Files, Result, UploadRequest, options, require_open};
use crate::content::sniff::SNIFF_LEN;
use crate::error::{Error, ErrorCode};
use crate::files::access::{Action, Principal, Resource, permit};
use crate::files::options::PutOptions;
use crate::files::protection::{choose, wished};
use crate::files::put::check_route;
use crate::files::read::stream_segment;
use crate::format::key::Key;
use crate::format::manifest::Protection;
use crate::pipeline::decode::Wanted;
use crate::store::Id;
use crate::store::concat::ConcatDoc;
use crate::store::rows::RowPlace;
use crate::store::uploads::{RecognisedDoc, StoringDoc, UploadDoc};

/// Partial uploads of one final: each is looked at, and ended, by itself.
pub const MAX_PARTIALS: usize = 100;
/// How often it is tried against requests that change a partial upload meanwhile.
const TRIES: u32 = 5;
const CONCATENATE: &str = "concatenate the uploads";

impl Files {
    /// Begins an upload that is whole from the beginning, made of partial uploads, which end; `said_as` is how the
    /// client named them. The same request again finds the same upload.
    ///
    /// # Errors
    /// As [`create_upload`](Self::create_upload); `upload_not_found`, `upload_gone` or `parts_missing` for a partial
    /// upload, `invalid` for one that is none, or stored in another way than the others, `kind_not_accepted`. All of
    /// them are then as they were.
    ///
    /// # Cancel safety
    /// Dropping the future does not stop it.
    pub async fn concatenate(
        &self,
        principal: &Principal,
        partials: Vec<Id>,
        said_as: String,
        mut request: UploadRequest,
    ) -> Result<Begun> {
        permit(principal, Action::Write, Resource::Tenant)?;
        let mut seen = std::collections::HashSet::new();
        if partials.is_empty() || partials.len() > MAX_PARTIALS || !partials.iter().all(|id| seen.insert(*id)) {
            return Err(refused(format!("Name 1 to {MAX_PARTIALS} different uploads.")));
        }
        let (files, principal) = (self.clone(), principal.clone());
        let running = tokio::spawn(async move {
            for _ in 1..TRIES {
                match files.try_concatenate(&principal, &partials, &said_as, &mut request).await {
                    Err(error) if super::is_stale(&error) => {}
                    outcome => return outcome,
                }
            }
            files.try_concatenate(&principal, &partials, &said_as, &mut request).await
        });
        running.await.map_err(|error| Error::internal(CONCATENATE, error))?
    }

    async fn try_concatenate(
        &self,
        principal: &Principal,
        ids: &[Id],
        said_as: &str,
        request: &mut UploadRequest,
    ) -> Result<Begun> {
        let sent = request.customer_key.clone();
        let (partials, taken) = self.find_partials(principal, ids, sent.as_ref()).await?;
        let size: i64 = partials.iter().filter_map(|partial| partial.size).sum();
        if size.unsigned_abs() > self.routing.max_bytes() {
            return Err(Error::too_large(self.routing.max_bytes()));
        }
        request.size = Some(size.unsigned_abs());
        let concat = Some(ConcatDoc::Final { partials: ids.to_vec(), said: said_as.to_owned() });
        let upload = UploadDoc { concat, ..self.new_upload(principal, request)? };
        if let Some(taken) = taken {
            let earlier = self.repeated(principal, &upload, request).await?;
            return Ok(Begun { upload: earlier.unwrap_or(taken), is_new: false });
        }
        let said = options(&upload)?;
        let storing = stored_alike(&partials, &said, sent.as_ref())?;
        let recognised = match storing {
            Some(_) => Some(self.recognise(&partials, &upload, &said, sent.as_ref()).await?),
            None => None,
        };
        let upload =
            UploadDoc { storing, recognised, offset: Some(size), behind: size > 0 && upload.enc.is_none(), ..upload };
        self.begin(principal, upload, &partials, request).await
    }

    /// The partial uploads, whole and without tails; or as they are, with the final upload that they became in this
    /// order.
    async fn find_partials(
        &self,
        principal: &Principal,
        ids: &[Id],
        sent: Option<&Key>,
    ) -> Result<(Vec<UploadDoc>, Option<UploadDoc>)> {
        let mut partials = Vec::with_capacity(ids.len());
        for id in ids {
            let partial = self.find_upload(principal, *id).await?;
            if !partial.is_partial() {
                return Err(refused(format!("The upload {id} is not a partial one.")));
            }
            partials.push(partial);
        }
        if let Some(of) = partials.first().and_then(UploadDoc::became_piece_of) {
            let upload = self.find_upload(principal, of).await?;
            if upload.partials().as_deref() == Some(ids) {
                return Ok((partials, Some(upload)));
            }
        }
        for partial in &mut partials {
            if partial.became_piece_of().is_some() {
                return Err(Error::new(
                    ErrorCode::UploadGone,
                    format!("The upload {} is in a file already.", partial.id),
                ));
            }
            require_open(partial)?;
            let offset = self.offset(partial).await?;
            if partial.size != Some(number(offset)?) {
                let detail = format!("The upload {} is not finished.", partial.id);
                return Err(Error::new(ErrorCode::PartsMissing, detail));
            }
            if partial.tail.len > 0 {
                self.flush_tail(principal, partial, sent).await?;
                *partial = self.find_upload(principal, partial.id).await?;
            }
            self.upload_key(partial, sent)?;
        }
        Ok((partials, None))
    }

    /// As what the content is recognised by its first bytes, however many pieces they are in, and what is said of the
    /// whole.
    async fn recognise(
        &self,
        partials: &[UploadDoc],
        upload: &UploadDoc,
        said: &PutOptions,
        sent: Option<&Key>,
    ) -> Result<RecognisedDoc> {
        let head = self.beginning(partials, sent).await?;
        let sniffed = sniff_as(&head, upload, said);
        let route = self.routing.route(&sniffed.media_type);
        check_route(&route, &sniffed, upload.size.map(i64::unsigned_abs))?;
        let mut storings = partials.iter().filter_map(|partial| partial.storing.as_ref());
        if storings.any(|storing| storing.mode.is_none()) {
            choose(route.settings.encryption, Some(Protection::Plain))?;
        }
        Ok(RecognisedDoc::from(&sniffed))
    }

    /// The first bytes of uploads one after another: as many as are recognised by.
    async fn beginning(&self, partials: &[UploadDoc], sent: Option<&Key>) -> Result<Vec<u8>> {
        let mut beginning = Vec::new();
        for partial in partials {
            for segment in
                self.store.find_segments(partial.blob, RowPlace::Segments).await.map_err(|e| e.doing(CONCATENATE))?
            {
                let wanted = segment.len.unsigned_abs().min((SNIFF_LEN - beginning.len()) as u64);
                let decoder = Arc::new(self.decoder(&partial.tenant, &segment, sent)?);
                let bytes = stream_segment(self, &segment, Wanted::Plain(0..wanted), decoder)?;
                let bytes: Vec<_> = bytes.try_collect().await?;
                bytes.iter().for_each(|bytes| beginning.extend_from_slice(bytes));
                if beginning.len() >= SNIFF_LEN {
                    return Ok(beginning);
                }
            }
        }
        Ok(beginning)
    }
}

/// How all of them are stored: with keys of the same holder, or without, and not against what is said of the file.
fn stored_alike(partials: &[UploadDoc], said: &PutOptions, sent: Option<&Key>) -> Result<Option<StoringDoc>> {
    let mut storings = partials.iter().filter_map(|partial| partial.storing.as_ref());
    let Some(first) = storings.next() else { return Ok(None) };
    if storings.any(|storing| storing.mode != first.mode) {
        return Err(refused("Some of the uploads are encrypted and others are not.".to_owned()));
    }
    match (wished(said.encrypt, sent)?, first.mode.as_deref()) {
        (Some(wish), mode) if wish != Protection::Plain && wish.mode() != mode => {
            Err(refused("The uploads are not encrypted as the file is to be: say it with each of them.".to_owned()))
        }
        // Whoever asks for none is not hurt by it.
        _ => Ok(Some(first.clone())),
    }
}

fn refused(detail: String) -> Error {
    Error::invalid("Upload-Concat", detail)
}
