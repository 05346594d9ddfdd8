//! Preconditions of a request: `If-Match`, `If-Unmodified-Since`, `If-None-Match`,
//! `If-Modified-Since` and `If-Range`.
//!
//! It compares what a request says with the validators of the current content, and nothing more: it
//! does not look the content up, does not render `ETag` or `Last-Modified`, does not parse `Range`
//! and does not build a response.

use std::time::{SystemTime, UNIX_EPOCH};

use http::header::{
    HeaderMap, HeaderName, HeaderValue, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE,
};

/// The validators of the content as it is now.
///
/// # Source
/// RFC 9110 §8.8
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validators<'a> {
    /// The opaque tag of a strong `ETag`, without its quotes.
    pub etag: &'a str,
    /// The moment of the last change of the content; compared in whole seconds, as HTTP dates are,
    /// and a time before 1970 counts as the start of 1970.
    pub modified: SystemTime,
}

/// What the request method does to the content, as far as preconditions care.
///
/// # Source
/// RFC 9110 §13.1.2 and §13.1.3: GET and HEAD on one side, every other method on the other
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// GET and HEAD: a matching `If-None-Match` is answered 304, and `If-Modified-Since` counts.
    Safe,
    /// Every other method: a matching `If-None-Match` is answered 412, and `If-Modified-Since` is
    /// ignored.
    Unsafe,
}

/// The outcome of the preconditions of one request.
///
/// # Source
/// RFC 9110 §13.2.2
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precondition {
    /// The method is performed.
    Proceed,
    /// The answer is 304, without content and with the `ETag`.
    NotModified,
    /// The answer is 412, and nothing is changed.
    Failed,
}

/// Evaluates the preconditions of a request in the order of the standard.
///
/// Malformed headers take the side that does no harm: a malformed `If-Match` holds for nothing
/// (412, so no lost update), a malformed `If-None-Match` is ignored (the whole answer rather than a
/// wrong 304) but still hides `If-Modified-Since`, and a date that is invalid or given more than
/// once is ignored.
///
/// # Source
/// RFC 9110 §13.2.2 (the order), §13.1.1 to §13.1.4 (each condition)
pub fn evaluate(reading: Reading, headers: &HeaderMap, v: &Validators) -> Precondition {
    // RFC 9110 §13.2.2 step 1: If-Match, by strong comparison
    if let Some(wanted) = TagList::read(headers, &IF_MATCH) {
        if !wanted.has(v.etag, Comparison::Strong) {
            return Precondition::Failed;
        }
    // RFC 9110 §13.2.2 step 2: If-Unmodified-Since, only without If-Match
    } else if let Some(since) = date_secs(headers, &IF_UNMODIFIED_SINCE)
        && epoch_secs(v.modified) > since
    {
        return Precondition::Failed;
    }
    // RFC 9110 §13.2.2 step 3: If-None-Match, by weak comparison
    if let Some(known) = TagList::read(headers, &IF_NONE_MATCH) {
        if known.has(v.etag, Comparison::Weak) {
            return match reading {
                Reading::Safe => Precondition::NotModified,
                Reading::Unsafe => Precondition::Failed,
            };
        }
    // RFC 9110 §13.2.2 step 4: If-Modified-Since, only for GET and HEAD and without If-None-Match
    } else if reading == Reading::Safe
        && let Some(since) = date_secs(headers, &IF_MODIFIED_SINCE)
        && epoch_secs(v.modified) <= since
    {
        return Precondition::NotModified;
    }
    // RFC 9110 §13.2.2 step 5 is `if_range_holds`, asked by whoever plans the ranges; step 6:
    // perform the method
    Precondition::Proceed
}

/// Answers whether `Range` may be honoured as far as `If-Range` is concerned; true when there is no
/// `If-Range`.
///
/// A tag holds only if it is strong and equal, a date only if it is exactly `Last-Modified`;
/// anything else (weak, malformed, a list, several lines) does not hold, and the whole content is
/// sent. A date cannot tell two changes within one second apart: whoever stores versions keeps
/// their times in different seconds, or clients use the tag.
///
/// # Source
/// RFC 9110 §13.1.5 and §13.2.2 step 5
pub fn if_range_holds(headers: &HeaderMap, v: &Validators) -> bool {
    if !headers.contains_key(IF_RANGE) {
        return true;
    }
    let Some(line) = only_line(headers, &IF_RANGE) else {
        return false;
    };
    // RFC 9110 §13.1.5: a DQUOTE among the first three characters tells a tag from a date
    let bytes = line.as_bytes().trim_ascii();
    if bytes.iter().take(3).any(|&byte| byte == b'"') {
        return match take_tag(bytes) {
            Some((tag, [])) => tag.equals(v.etag, Comparison::Strong),
            _ => false,
        };
    }
    parse_date(line).is_some_and(|date| date == epoch_secs(v.modified))
}

/// How two tags are compared.
///
/// # Source
/// RFC 9110 §8.8.3.2
#[derive(Clone, Copy, PartialEq, Eq)]
enum Comparison {
    /// Equal only if neither is weak.
    Strong,
    /// Equal whether weak or not.
    Weak,
}

/// One tag of a request.
struct EntityTag<'a> {
    strength: Comparison,
    opaque: &'a [u8],
}

impl EntityTag<'_> {
    /// The current tag is always strong, so only the tag of the request can spoil a strong
    /// comparison.
    fn equals(&self, etag: &str, comparison: Comparison) -> bool {
        (comparison == Comparison::Weak || self.strength == Comparison::Strong) && self.opaque == etag.as_bytes()
    }
}

/// The value of `If-Match` or `If-None-Match` over all its lines.
enum TagList<'a> {
    /// `*`: any current content.
    Any,
    /// The tags, possibly none.
    Tags(Vec<EntityTag<'a>>),
    /// Not a list of tags, as a whole.
    Malformed,
}

impl<'a> TagList<'a> {
    /// None when the header is absent; several lines are one list (RFC 9110 §5.3).
    fn read(headers: &'a HeaderMap, name: &HeaderName) -> Option<Self> {
        if !headers.contains_key(name) {
            return None;
        }
        if only_line(headers, name).is_some_and(|line| line.as_bytes().trim_ascii() == b"*") {
            return Some(Self::Any);
        }
        let mut tags = Vec::new();
        for line in headers.get_all(name) {
            if read_tags(line.as_bytes(), &mut tags).is_none() {
                return Some(Self::Malformed);
            }
        }
        Some(Self::Tags(tags))
    }

    fn has(&self, etag: &str, comparison: Comparison) -> bool {
        match self {
            Self::Any => true,
            Self::Tags(tags) => tags.iter().any(|tag| tag.equals(etag, comparison)),
            Self::Malformed => false,
        }
    }
}

/// Appends the tags of one line; None when the line is not a list of tags.
///
/// # Source
/// RFC 9110 §5.6.1.2: a recipient accepts empty list members
fn read_tags<'a>(line: &'a [u8], tags: &mut Vec<EntityTag<'a>>) -> Option<()> {
    let mut rest = line;
    loop {
        rest = rest.trim_ascii_start();
        match rest {
            [] => return Some(()),
            [b',', after @ ..] => rest = after,
            _ => {
                let (tag, after) = take_tag(rest)?;
                tags.push(tag);
                rest = after.trim_ascii_start();
                if !matches!(rest, [] | [b',', ..]) {
                    return None;
                }
            }
        }
    }
}

/// Takes one tag off the front: commas and, for weak tags, only a capital `W/` are part of it.
///
/// # Source
/// RFC 9110 §8.8.3: `entity-tag = [ "W/" ] DQUOTE *etagc DQUOTE`
fn take_tag(bytes: &[u8]) -> Option<(EntityTag<'_>, &[u8])> {
    let (strength, quoted) = match bytes.strip_prefix(b"W/") {
        Some(quoted) => (Comparison::Weak, quoted),
        None => (Comparison::Strong, bytes),
    };
    let inner = quoted.strip_prefix(b"\"")?;
    let end = inner.iter().position(|&byte| byte == b'"')?;
    let (opaque, after) = inner.split_at_checked(end)?;
    let is_etagc = |&byte: &u8| byte == 0x21 || (0x23..=0x7e).contains(&byte) || byte >= 0x80;
    opaque.iter().all(is_etagc).then_some(())?;
    Some((EntityTag { strength, opaque }, after.strip_prefix(b"\"")?))
}

/// The line of a header that has exactly one.
fn only_line<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut lines = headers.get_all(name).iter();
    match (lines.next(), lines.next()) {
        (Some(line), None) => Some(line),
        _ => None,
    }
}

/// The date of a header in seconds since 1970; None when absent, invalid or given more than once
/// (RFC 9110 §13.1.3).
fn date_secs(headers: &HeaderMap, name: &HeaderName) -> Option<u64> {
    parse_date(only_line(headers, name)?)
}

/// One HTTP date in any of its three forms (RFC 9110 §5.6.7), in seconds since 1970.
fn parse_date(line: &HeaderValue) -> Option<u64> {
    let date = httpdate::parse_http_date(line.to_str().ok()?.trim()).ok()?;
    Some(epoch_secs(date))
}

/// Whole seconds since 1970, since HTTP dates have no fractions.
fn epoch_secs(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests;
