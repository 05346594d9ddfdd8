//! The state machine of uploads: random sequences of acts through three protocols and two gateways, against a model in
//! memory. A sequence that fails is shrunk and printed.

use std::collections::BTreeMap;
use std::time::Duration;

use gridgate::jobs::digests;
use gridgate::jobs::fsck::fsck;
use gridgate::jobs::sweep::sweep;
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::json;

use crate::support::app::{TestApp, noise};
use crate::support::model::agree;
use crate::support::requests::send;
use crate::support::uploads::{PART, begin, part_request};
use crate::support::{ruft, tus};

/// Sequences of an ordinary run.
const CASES: u32 = 40;
const PARTS: usize = 4;
const DAY: Duration = Duration::from_secs(86_401);

#[derive(Debug, Clone)]
enum Act {
    /// Part n, of this content, whole or cut short.
    Put {
        n: usize,
        content: u64,
        is_short: bool,
    },
    /// Bytes at the end, or so far beside it; with the length of the upload or without.
    Tus {
        beside: usize,
        len: usize,
        content: u64,
        tells_size: bool,
    },
    /// The same by the draft; perhaps the last.
    Draft {
        beside: usize,
        len: usize,
        content: u64,
        is_complete: bool,
    },
    /// HEAD of tus, which completes what is whole.
    Ask,
    Complete,
    Abort,
    /// What came out of order is hashed.
    Hash,
    Sweep,
    /// Nobody goes on with it for a day.
    Expire,
}

/// An act and the gateway it is done at.
type Step = (usize, Act);

fn act() -> impl Strategy<Value = Act> {
    let content = || 0..3_u64;
    // Often nothing beside, a few bytes, up to the end of a part, or over several.
    let beside = || prop_oneof![9 => Just(0_usize), 1 => 1..PART];
    let len = || prop_oneof![Just(0_usize), Just(1), 2..1000_usize, Just(PART), 1..3 * PART];
    prop_oneof![
        6 => (0..PARTS + 1, content(), prop::bool::weighted(0.2))
            .prop_map(|(n, content, is_short)| Act::Put { n, content, is_short }),
        5 => (beside(), len(), content(), prop::bool::weighted(0.1))
            .prop_map(|(beside, len, content, tells_size)| Act::Tus { beside, len, content, tells_size }),
        5 => (beside(), len(), content(), prop::bool::weighted(0.15))
            .prop_map(|(beside, len, content, is_complete)| Act::Draft { beside, len, content, is_complete }),
        2 => Just(Act::Ask),
        2 => Just(Act::Complete),
        1 => Just(Act::Hash),
        1 => Just(Act::Sweep),
        1 => prop_oneof![9 => Just(Act::Sweep), 1 => Just(Act::Abort), 1 => Just(Act::Expire)],
    ]
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Status {
    Open,
    Completed,
    Aborted,
    Expired,
}

impl Status {
    const fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Completed => "completed",
            Self::Aborted => "aborted",
            Self::Expired => "expired",
        }
    }
}

/// What the model knows of an upload: of each part its beginning, as far as it is there.
struct Upload {
    id: String,
    size: Option<usize>,
    parts: BTreeMap<usize, Vec<u8>>,
    status: Status,
}

impl Upload {
    /// How much is there without a gap.
    fn offset(&self) -> usize {
        let whole = (0..).take_while(|n| self.parts.get(n).is_some_and(|part| part.len() == PART)).count();
        whole * PART + self.parts.get(&whole).map_or(0, Vec::len)
    }

    fn end(&self) -> usize {
        self.parts.iter().map(|(n, part)| n * PART + part.len()).max().unwrap_or(0)
    }

    fn is_whole(&self) -> bool {
        match self.size {
            Some(size) => self.offset() == size,
            None => self.offset() == self.end() && self.end() > 0,
        }
    }

    fn content(&self) -> Vec<u8> {
        self.parts.values().flatten().copied().collect()
    }

    fn append(&mut self, mut at: usize, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (n, within) = (at / PART, at % PART);
            let (now, later) = bytes.split_at(bytes.len().min(PART - within));
            let part = self.parts.entry(n).or_default();
            part.truncate(within);
            part.extend_from_slice(now);
            (at, bytes) = (at + now.len(), later);
        }
    }

    /// Why nothing may be added: status and code.
    fn refusal(&self) -> Option<(u16, &'static str)> {
        match self.status {
            Status::Open => None,
            Status::Completed => Some((409, "upload_completed")),
            Status::Aborted | Status::Expired => Some((410, "upload_gone")),
        }
    }
}

struct World {
    gateways: [TestApp; 2],
}

impl World {
    async fn begin() -> Self {
        let first = TestApp::start().await;
        let second = TestApp::start_on(first.database.clone(), |_| {}).await;
        Self { gateways: [first, second] }
    }

    async fn live(&mut self, size: Option<usize>, steps: &[Step]) {
        let begun = begin(&self.gateways[0], json!({ "name": "a", "size": size, "partSize": PART })).await;
        let id = begun["id"].as_str().unwrap().to_owned();
        let mut upload = Upload { id, size, parts: BTreeMap::new(), status: Status::Open };
        for (place, act) in steps {
            self.act(&self.gateways[*place], &mut upload, act).await;
            self.check(&self.gateways[1 - place], &upload).await;
        }
        self.end(&upload).await;
    }

    async fn act(&self, app: &TestApp, upload: &mut Upload, act: &Act) {
        match *act {
            Act::Put { n, content, is_short } => put(app, upload, n, content, is_short).await,
            Act::Tus { beside, len, content, tells_size } => {
                let size = tells_size.then(|| upload.size.unwrap_or(upload.offset() + len + 10));
                append_by_tus(app, upload, beside, &noise(len, content), size).await;
            }
            Act::Draft { beside, len, content, is_complete } => {
                append_by_draft(app, upload, beside, &noise(len, content), is_complete).await;
            }
            Act::Ask => {
                let asked = send(tus::request(app, "HEAD", &format!("/tus/{}", upload.id))).await;
                if upload.status == Status::Open && upload.size == Some(upload.offset()) {
                    upload.status = Status::Completed;
                }
                assert_eq!(
                    asked.status,
                    if upload.refusal().is_some_and(|(status, _)| status == 410) { 410 } else { 200 }
                );
                if asked.status == 200 {
                    assert_eq!(asked.header("upload-offset"), upload.offset().to_string());
                }
            }
            Act::Complete => {
                let reply = send(app.request("POST", &format!("/v1/uploads/{}/complete", upload.id))).await;
                match upload.status {
                    Status::Open if upload.is_whole() => upload.status = Status::Completed,
                    Status::Open => return drop(reply.refused(409, "parts_missing")),
                    Status::Completed => {}
                    Status::Aborted | Status::Expired => return drop(reply.refused(410, "upload_gone")),
                }
                assert_eq!(reply.expect(201)["size"], upload.end());
            }
            Act::Abort => {
                let reply = send(app.request("DELETE", &format!("/v1/uploads/{}", upload.id))).await;
                match upload.status {
                    Status::Open => upload.status = Status::Aborted,
                    Status::Completed => return drop(reply.refused(409, "upload_completed")),
                    Status::Aborted | Status::Expired => {}
                }
                assert_eq!(reply.status, 204);
            }
            Act::Hash => digests::run(&app.app.files).await.unwrap(),
            Act::Sweep => drop(sweep(&app.app.files).await.unwrap()),
            Act::Expire => {
                self.gateways.iter().for_each(|app| app.clock.advance(DAY));
                if upload.status == Status::Open {
                    upload.status = Status::Expired;
                }
            }
        }
    }

    /// What another gateway says of the upload.
    async fn check(&self, app: &TestApp, upload: &Upload) {
        let told = send(app.get(&format!("/v1/uploads/{}", upload.id))).await.expect(200);
        assert_eq!(told["status"], upload.status.name(), "{told}");
        if ![Status::Open, Status::Completed].contains(&upload.status) {
            return;
        }
        let there: usize = upload.parts.values().map(Vec::len).sum();
        assert_eq!(told["uploadedBytes"], there, "{told}");
        assert_eq!(
            told["missingParts"] == json!([]),
            upload.is_whole() || upload.status == Status::Completed,
            "{told}"
        );
        let (offset, is_complete) = ruft::state(app, &format!("/ruft/{}", upload.id)).await;
        assert_eq!((offset, is_complete), (upload.offset(), upload.status == Status::Completed));
    }

    /// What is whole is exact, and nothing is left of the rest.
    async fn end(&self, upload: &Upload) {
        let app = &self.gateways[0];
        if upload.status == Status::Completed {
            digests::run(&app.app.files).await.unwrap();
            let told = send(app.get(&format!("/v1/uploads/{}", upload.id))).await.expect(200);
            let path = format!("/v1/files/{}", told["fileId"].as_str().unwrap());
            let file = send(app.get(&path)).await.expect(200);
            assert!(app.content(&file).await == upload.content(), "not exact");
            let sha256 = gridgate::format::digest::Sha256Digest::of(&upload.content()).to_string();
            assert_eq!(file["sha256"], sha256);
            send(app.request("DELETE", &path)).await.expect(204);
        }
        send(app.request("DELETE", &format!("/v1/uploads/{}", upload.id))).await;
        self.gateways.iter().for_each(|app| app.clock.advance(DAY));
        for _ in 0..2 {
            sweep(&app.app.files).await.unwrap();
        }
        app.app.files.fold_usage().await.unwrap();
        let report = fsck(&app.app.files).await.unwrap();
        assert!(report.ok && report.usage.is_empty(), "{report:?}");
        let checked = (report.checked.segments, report.checked.grid_files);
        assert_eq!(checked, (0, 0), "something is left");
    }
}

/// Sends a part; what it must be is said by the length of the upload.
async fn put(app: &TestApp, upload: &mut Upload, n: usize, content: u64, is_short: bool) {
    let start = n * PART;
    let whole = upload.size.map_or(PART, |size| size.saturating_sub(start).min(PART));
    let bytes = noise(if is_short { whole / 2 } else { whole }, content);
    let reply = send(part_request(app, &json!({ "id": upload.id }), n, &bytes)).await;
    let is_beyond = upload.size.is_some_and(|size| start >= size && (size, n) != (0, 0));
    match upload.refusal() {
        Some((status, code)) => drop(reply.refused(status, code)),
        None if is_beyond => drop(reply.refused(413, "too_large")),
        None if bytes.len() < whole && upload.size.is_some() => drop(reply.refused(422, "invalid")),
        None => {
            reply.expect(200);
            upload.parts.insert(n, bytes);
        }
    }
}

async fn append_by_tus(app: &TestApp, upload: &mut Upload, beside: usize, bytes: &[u8], size: Option<usize>) {
    let at = upload.offset() + beside;
    let request = tus::patch_request(app, &format!("/tus/{}", upload.id), at, bytes.to_vec());
    let reply = send(size.into_iter().fold(request, |request, size| request.header("upload-length", size))).await;
    if let Some((status, code)) = upload.refusal() {
        return drop(reply.refused(status, code));
    }
    if beside > 0 {
        return drop(reply.refused(409, "offset_mismatch"));
    }
    if size.is_some_and(|size| size < upload.end()) {
        return drop(reply.refused(400, "inconsistent_length"));
    }
    upload.size = upload.size.or(size);
    if upload.size.is_some_and(|size| at + bytes.len() > size) {
        return drop(reply.refused(413, "too_large"));
    }
    upload.append(at, bytes);
    // Parts may lie right behind it.
    assert_eq!((reply.status, reply.header("upload-offset")), (204, upload.offset().to_string().as_str()));
    if upload.size == Some(upload.offset()) {
        upload.status = Status::Completed;
    }
}

async fn append_by_draft(app: &TestApp, upload: &mut Upload, beside: usize, bytes: &[u8], is_complete: bool) {
    let at = upload.offset() + beside;
    let path = format!("/ruft/{}", upload.id);
    let reply = send(ruft::append_request(app, &path, at, is_complete, bytes.to_vec())).await;
    match upload.refusal() {
        Some((409, _)) if !bytes.is_empty() => return drop(reply.refused_by_draft(400, "inconsistent_length")),
        Some((409, code)) => return drop(reply.refused_by_draft(409, code)),
        Some((status, code)) => return drop(reply.refused(status, code)),
        None if beside > 0 => return drop(reply.refused_by_draft(409, "offset_mismatch")),
        None => {}
    }
    let end = at + bytes.len();
    let is_inconsistent = match upload.size {
        Some(size) => end > size || (is_complete && end != size),
        None => is_complete && end < upload.end(),
    };
    if is_inconsistent {
        return drop(reply.refused_by_draft(400, "inconsistent_length"));
    }
    upload.append(at, bytes);
    if is_complete {
        upload.size = Some(end);
        upload.status = Status::Completed;
    }
    assert_eq!(reply.status, if is_complete { 201 } else { 204 });
    assert_eq!(reply.header("upload-offset"), upload.offset().to_string());
}

#[test]
fn random_sequences_of_three_protocols_agree_with_the_model() {
    let sizes = prop_oneof![Just(None), (0..PARTS * PART).prop_map(Some), (0..=PARTS).prop_map(|n| Some(n * PART))];
    let steps = (sizes, vec((0..2_usize, act()), 5..25));
    agree(CASES, &steps, World::begin, async |world: &mut World, (size, steps)| world.live(*size, steps).await);
}
