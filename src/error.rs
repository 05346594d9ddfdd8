//! The product's one error: a code from a fixed table, a public sentence and a private cause.
//!
//! Low layers have their own small enums (`FormatError`, `StoreError`, `BodyError`); they become
//! an [`Error`] once, where the use case knows what it was doing. Rendering as problem+json is
//! `http/problem.rs`; nothing here knows HTTP beyond the status number.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;

use serde_json::Value;

/// What went wrong, as a client may branch on it.
///
/// The list is the `code` enum of `openapi.yaml`; a test compares the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the table in `ErrorCode::row` says each one's meaning")]
pub enum ErrorCode {
    BadRequest,
    BadHeader,
    InvalidId,
    InconsistentLength,
    KeyRequired,
    InsecureTransport,
    Unauthenticated,
    Forbidden,
    PasswordRequired,
    KeyMismatch,
    PasswordMismatch,
    ShareForbidden,
    FinalUpload,
    LinkInvalid,
    FileNotFound,
    UploadNotFound,
    ApiKeyNotFound,
    ShareNotFound,
    RouteNotFound,
    MethodNotAllowed,
    BodyTimeout,
    Held,
    PartsMissing,
    OffsetMismatch,
    UploadCompleted,
    UploadGone,
    LinkExpired,
    LinkRevoked,
    ShareExpired,
    ShareRevoked,
    ShareSpent,
    PreconditionFailed,
    TusVersion,
    TooLarge,
    QuotaExceeded,
    UnsupportedMediaType,
    KindNotAccepted,
    RangeNotSatisfiable,
    ChecksumMismatch,
    IdempotencyConflict,
    Invalid,
    TooManyUploads,
    TooManyRequests,
    UploadChecksumMismatch,
    ClientHangup,
    Internal,
    Damaged,
    Unavailable,
    KeyUnavailable,
    Timeout,
    InsufficientStorage,
}

/// One row of the error table.
pub struct ErrorRow {
    /// The stable name, as in `urn:gridgate:error:<code>`.
    pub code: &'static str,
    /// HTTP status.
    pub status: u16,
    /// The same request may succeed later without a change.
    pub retryable: bool,
    /// The failed request certainly changed nothing.
    pub has_no_side_effects: bool,
    /// RFC 9457 `title`.
    pub title: &'static str,
}

impl ErrorCode {
    /// Every code, in the table's order.
    pub const ALL: [Self; 51] = [
        Self::BadRequest,
        Self::BadHeader,
        Self::InvalidId,
        Self::InconsistentLength,
        Self::KeyRequired,
        Self::InsecureTransport,
        Self::Unauthenticated,
        Self::Forbidden,
        Self::PasswordRequired,
        Self::KeyMismatch,
        Self::PasswordMismatch,
        Self::ShareForbidden,
        Self::FinalUpload,
        Self::LinkInvalid,
        Self::FileNotFound,
        Self::UploadNotFound,
        Self::ApiKeyNotFound,
        Self::ShareNotFound,
        Self::RouteNotFound,
        Self::MethodNotAllowed,
        Self::BodyTimeout,
        Self::Held,
        Self::PartsMissing,
        Self::OffsetMismatch,
        Self::UploadCompleted,
        Self::UploadGone,
        Self::LinkExpired,
        Self::LinkRevoked,
        Self::ShareExpired,
        Self::ShareRevoked,
        Self::ShareSpent,
        Self::PreconditionFailed,
        Self::TusVersion,
        Self::TooLarge,
        Self::QuotaExceeded,
        Self::UnsupportedMediaType,
        Self::KindNotAccepted,
        Self::RangeNotSatisfiable,
        Self::ChecksumMismatch,
        Self::IdempotencyConflict,
        Self::Invalid,
        Self::TooManyUploads,
        Self::TooManyRequests,
        Self::UploadChecksumMismatch,
        Self::ClientHangup,
        Self::Internal,
        Self::Damaged,
        Self::Unavailable,
        Self::KeyUnavailable,
        Self::Timeout,
        Self::InsufficientStorage,
    ];

    /// The table: code, status, retryable, free of side effects, title.
    #[rustfmt::skip]
    pub const fn row(self) -> ErrorRow {
        const fn row(code: &'static str, status: u16, retryable: bool, has_no_side_effects: bool, title: &'static str) -> ErrorRow {
            ErrorRow { code, status, retryable, has_no_side_effects, title }
        }
        match self {
            Self::BadRequest           => row("bad_request",            400, false, true,  "The request is malformed"),
            Self::BadHeader            => row("bad_header",             400, false, true,  "A header is malformed"),
            Self::InvalidId            => row("invalid_id",             400, false, true,  "The identifier is malformed"),
            Self::InconsistentLength   => row("inconsistent_length",    400, false, true,  "The upload has another length"),
            Self::KeyRequired          => row("key_required",           400, false, true,  "The client's encryption key is needed"),
            Self::InsecureTransport    => row("insecure_transport",     400, false, true,  "A key must not be sent over this connection"),
            Self::Unauthenticated      => row("unauthenticated",        401, false, true,  "A valid credential is needed"),
            Self::Forbidden            => row("forbidden",              403, false, true,  "The credential does not allow this"),
            Self::PasswordRequired     => row("password_required",      403, false, true,  "The share needs a password"),
            Self::KeyMismatch          => row("key_mismatch",           403, false, true,  "The encryption key is another one"),
            Self::PasswordMismatch     => row("password_mismatch",      403, false, true,  "The password is another one"),
            Self::ShareForbidden       => row("share_forbidden",        403, false, true,  "The share's terms do not allow this"),
            Self::FinalUpload          => row("final_upload",           403, false, true,  "The upload is made of others"),
            Self::LinkInvalid          => row("link_invalid",           403, false, true,  "The link is not one that was handed out"),
            Self::FileNotFound         => row("file_not_found",         404, false, true,  "There is no such file"),
            Self::UploadNotFound       => row("upload_not_found",       404, false, true,  "There is no such upload"),
            Self::ApiKeyNotFound       => row("api_key_not_found",      404, false, true,  "There is no such API key"),
            Self::ShareNotFound        => row("share_not_found",        404, false, true,  "There is no such share"),
            Self::RouteNotFound        => row("route_not_found",        404, false, true,  "There is no such path"),
            Self::MethodNotAllowed     => row("method_not_allowed",     405, false, true,  "The path does not offer this method"),
            Self::BodyTimeout          => row("body_timeout",           408, true,  true,  "The request body stopped arriving"),
            Self::Held                 => row("held",                   409, false, true,  "The file is under legal hold"),
            Self::PartsMissing         => row("parts_missing",          409, false, true,  "Parts of the upload are missing"),
            Self::OffsetMismatch       => row("offset_mismatch",        409, false, true,  "The upload ends elsewhere"),
            Self::UploadCompleted      => row("upload_completed",       409, false, true,  "The upload is a file already"),
            Self::UploadGone           => row("upload_gone",            410, false, true,  "The upload was ended"),
            Self::LinkExpired          => row("link_expired",           410, false, true,  "The link has expired"),
            Self::LinkRevoked          => row("link_revoked",           410, false, true,  "The link was revoked"),
            Self::ShareExpired         => row("share_expired",          410, false, true,  "The share has expired"),
            Self::ShareRevoked         => row("share_revoked",          410, false, true,  "The share was revoked"),
            Self::ShareSpent           => row("share_spent",            410, false, true,  "The share has no download left"),
            Self::PreconditionFailed   => row("precondition_failed",    412, false, true,  "A precondition does not hold"),
            Self::TusVersion           => row("tus_version",            412, false, true,  "The version of tus is another"),
            Self::TooLarge             => row("too_large",              413, false, true,  "The content is too large"),
            Self::QuotaExceeded        => row("quota_exceeded",         413, false, true,  "The tenant's quota is used up"),
            Self::UnsupportedMediaType => row("unsupported_media_type", 415, false, true,  "The request's media type or coding is not supported"),
            Self::KindNotAccepted      => row("kind_not_accepted",      415, false, true,  "The bucket does not accept this type"),
            Self::RangeNotSatisfiable  => row("range_not_satisfiable",  416, false, true,  "The range lies outside the content"),
            Self::ChecksumMismatch     => row("checksum_mismatch",      422, false, true,  "The content does not match its digest"),
            Self::IdempotencyConflict  => row("idempotency_conflict",   422, false, true,  "The idempotency key was used with other content"),
            Self::Invalid              => row("invalid",                422, false, true,  "A value is not allowed"),
            Self::TooManyUploads       => row("too_many_uploads",       429, true,  true,  "Too many uploads are open"),
            Self::TooManyRequests      => row("too_many_requests",      429, true,  true,  "Too many requests"),
            Self::UploadChecksumMismatch => row("upload_checksum_mismatch", 460, false, true, "The bytes do not match their checksum"),
            Self::ClientHangup         => row("client_hangup",          499, true,  true,  "The client went away"),
            Self::Internal             => row("internal",               500, false, false, "Something went wrong here"),
            Self::Damaged              => row("damaged",                500, false, true,  "Stored bytes failed verification"),
            Self::Unavailable          => row("unavailable",            503, true,  false, "The database cannot be reached"),
            Self::KeyUnavailable       => row("key_unavailable",        503, true,  true,  "The encryption key is not available"),
            Self::Timeout              => row("timeout",                503, true,  false, "The database did not answer in time"),
            Self::InsufficientStorage  => row("insufficient_storage",   507, true,  true,  "There is no space left"),
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.row().code)
    }
}

type Cause = Box<dyn StdError + Send + Sync>;

/// A failure of a use case.
///
/// `detail` and `members` are shown to the client; `cause` goes to the log only.
#[derive(Debug)]
pub struct Error {
    /// The row of the error table.
    pub code: ErrorCode,
    /// One public sentence about this occurrence.
    pub detail: Cow<'static, str>,
    /// Extra members of the problem document, such as `field` or `limitBytes`.
    pub members: Vec<(&'static str, Value)>,
    /// What lay beneath; never shown to a client.
    pub cause: Option<Cause>,
}

/// The result of a use case.
pub type Result<T> = std::result::Result<T, Error>;

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.detail)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.cause.as_deref().map(|cause| cause as _)
    }
}

impl Error {
    /// An error with its public sentence.
    pub fn new(code: ErrorCode, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { code, detail: detail.into(), members: Vec::new(), cause: None }
    }

    /// Adds a member to the problem document.
    #[must_use]
    pub fn with(mut self, member: &'static str, value: impl Into<Value>) -> Self {
        self.members.push((member, value.into()));
        self
    }

    /// A member that is a number.
    pub fn number(&self, member: &str) -> Option<u64> {
        self.members.iter().find(|(name, _)| *name == member).and_then(|(_, value)| value.as_u64())
    }

    /// Adds what lay beneath, for the log.
    #[must_use]
    pub fn because(mut self, cause: impl Into<Cause>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    /// The request is malformed; `field` names the parameter or member.
    pub fn bad_request(field: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorCode::BadRequest, detail).with("field", field)
    }

    /// A value is well-formed but not allowed.
    pub fn invalid(field: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorCode::Invalid, detail).with("field", field)
    }

    /// A header is malformed.
    pub fn bad_header(name: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorCode::BadHeader, detail).with("field", name)
    }

    /// No such file, or one the principal may not know of.
    pub fn file_not_found() -> Self {
        Self::new(ErrorCode::FileNotFound, "No file with this id is visible to this credential.")
    }

    /// The content is larger than its limit.
    pub fn too_large(limit_bytes: u64) -> Self {
        Self::new(ErrorCode::TooLarge, format!("The limit here is {limit_bytes} bytes."))
            .with("limitBytes", limit_bytes)
    }

    /// Stored bytes failed verification.
    pub fn damaged(doing: &'static str, cause: impl Into<Cause>) -> Self {
        Self::new(ErrorCode::Damaged, format!("Could not {doing}: stored bytes failed verification.")).because(cause)
    }

    /// A fault of ours.
    pub fn internal(doing: &'static str, cause: impl Into<Cause>) -> Self {
        Self::new(ErrorCode::Internal, format!("Could not {doing}.")).because(cause)
    }
}

#[cfg(test)]
mod tests {
    use super::ErrorCode;
    use std::collections::HashSet;

    #[test]
    fn every_code_has_its_own_name_and_an_error_status() {
        let names: HashSet<_> = ErrorCode::ALL.iter().map(|code| code.row().code).collect();
        assert_eq!(names.len(), ErrorCode::ALL.len());
        assert!(ErrorCode::ALL.iter().all(|code| (400..600).contains(&code.row().status)));
    }
}
