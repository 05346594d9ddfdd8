//! The `Range` header as a plan over the content, and the framing of `206` answers.
//!
//! It does not look at `If-Range` or the method (both are settled before a plan is made), reads no
//! content and builds no response. Inclusive bounds exist only in the header texts here; every
//! value is a half-open range of plain bytes.

use std::ops::Range;

use bytes::Bytes;
use http::header::{HeaderMap, RANGE};

/// The most ranges answered one by one, counted after coalescing; more are answered with the whole
/// content.
///
/// # Source
/// RFC 9110 §14.2 and §17.15 (many small ranges as an attack)
pub const MAX_RANGES: usize = 16;

/// What one part of a multipart answer is taken to cost beside its content, in bytes.
///
/// # Source
/// RFC 9110 §15.3.7.2 speaks of about 80; a random boundary and both header fields make about 128
pub const PART_OVERHEAD_BYTES: u64 = 128;

/// What a request asks of the content.
///
/// # Shape
/// Each range is non-empty and ends at or before the length of the content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RangePlan {
    /// The answer is 200 with everything: nothing was asked for, or nothing worth honouring.
    Whole,
    /// The answer is 206 with one range and its [`content_range`].
    Single(Range<u64>),
    /// The answer is 206 as [`multipart`]: 2 to [`MAX_RANGES`] ranges that neither overlap nor
    /// touch, in the order in which the request first named them.
    Multi(Vec<Range<u64>>),
    /// The answer is 416 with its [`unsatisfied_range`].
    Unsatisfiable,
}

/// Plans the answer to the `Range` header of a GET over `len` bytes.
///
/// A header that is malformed anywhere, is given more than once or has a unit other than `bytes` is
/// ignored; so is one whose first position does not fit a `u64`. A last position or a suffix of any
/// number of digits is cut to the content, members beyond the content are dropped, and ranges that
/// overlap or touch become one. When the parts with [`PART_OVERHEAD_BYTES`] each come to no less
/// than the content, the whole content is the answer.
///
/// # Source
/// RFC 9110 §14.1.1, §14.1.2 (syntax), §14.2 (ignoring), §15.3.7.2 (coalescing, order), §15.5.17
/// (unsatisfiable)
pub fn plan(headers: &HeaderMap, len: u64) -> RangePlan {
    let mut lines = headers.get_all(RANGE).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else {
        return RangePlan::Whole;
    };
    let Some(asked) = satisfiable(line.as_bytes(), len) else {
        return RangePlan::Whole;
    };
    let mut ranges = coalesce(asked);
    match ranges.len() {
        0 => RangePlan::Unsatisfiable,
        1 => ranges.pop().map_or(RangePlan::Unsatisfiable, RangePlan::Single),
        2..=MAX_RANGES if parts_cost(&ranges) < len => RangePlan::Multi(ranges),
        _ => RangePlan::Whole,
    }
}

/// The satisfiable members of a `Range` value as they were asked for; None when the value is to be
/// ignored.
fn satisfiable(value: &[u8], len: u64) -> Option<Vec<Range<u64>>> {
    let (unit, set) = value.trim_ascii().split_at_checked(b"bytes=".len())?;
    if !unit.eq_ignore_ascii_case(b"bytes=") {
        return None;
    }
    let mut ranges = Vec::new();
    let mut members = 0_usize;
    for member in set.split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
        // RFC 9110 §5.6.1.2: a recipient accepts empty list members
        if !member.is_empty() {
            members += 1;
            ranges.extend(Some(read_range(member, len)?).filter(|range| !range.is_empty()));
        }
    }
    // RFC 9110 §14.1.1: range-set = 1#range-spec
    (members > 0).then_some(ranges)
}

/// One member as the part of the content it covers, which is empty when unsatisfiable; None when it
/// is malformed.
///
/// # Source
/// RFC 9110 §14.1.1: `int-range = first-pos "-" [ last-pos ]`, `suffix-range = "-" suffix-length`
fn read_range(member: &[u8], len: u64) -> Option<Range<u64>> {
    let dash = member.iter().position(|&byte| byte == b'-')?;
    let (first, last) = member.split_at_checked(dash)?;
    let last = last.strip_prefix(b"-")?;
    if first.is_empty() {
        return Some(len.saturating_sub(clamped(last)?)..len);
    }
    let first = exact(first)?;
    let last = if last.is_empty() { u64::MAX } else { clamped(last)? };
    // RFC 9110 §14.1.1: a last position before the first makes the range invalid
    (first <= last).then(|| first..last.saturating_add(1).min(len))
}

/// A decimal number; None when it is not one or does not fit.
fn exact(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, digit| match digit {
        b'0'..=b'9' => number.checked_mul(10)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}

/// A decimal number, the largest `u64` when it does not fit; None when it is not one.
fn clamped(digits: &[u8]) -> Option<u64> {
    let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    is_number.then(|| exact(digits).unwrap_or(u64::MAX))
}

/// Joins ranges that overlap or touch; each joined range takes the place of its first member in the
/// request.
fn coalesce(asked: Vec<Range<u64>>) -> Vec<Range<u64>> {
    let mut sorted: Vec<(usize, Range<u64>)> = asked.into_iter().enumerate().collect();
    sorted.sort_unstable_by_key(|(place, range)| (range.start, *place));
    let mut joined: Vec<(usize, Range<u64>)> = Vec::new();
    for (place, range) in sorted {
        match joined.last_mut() {
            Some((first, open)) if range.start <= open.end => {
                open.end = open.end.max(range.end);
                *first = place.min(*first);
            }
            _ => joined.push((place, range)),
        }
    }
    joined.sort_unstable_by_key(|(place, _)| *place);
    joined.into_iter().map(|(_, range)| range).collect()
}

/// What the ranges come to as parts, content and overhead, in bytes.
fn parts_cost(ranges: &[Range<u64>]) -> u64 {
    ranges.iter().fold(0, |sum: u64, range| sum.saturating_add(length(range)).saturating_add(PART_OVERHEAD_BYTES))
}

/// The framing of a `multipart/byteranges` answer.
///
/// # Shape
/// The body is, for each part, its head and then the content of its range, and the tail at the end.
///
/// # Source
/// RFC 9110 §14.6, RFC 2046 §5.1.1
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MultipartPlan {
    /// The boundary, for `Content-Type: multipart/byteranges; boundary=…`.
    pub boundary: String,
    /// The parts in the order they are sent.
    pub parts: Vec<PartHead>,
    /// What follows the content of the last part.
    pub tail: Bytes,
    /// The length of the body in bytes, framing included.
    pub content_length: u64,
}

/// One part of a multipart answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartHead {
    /// What precedes the content: the delimiter, the header fields and the empty line.
    pub head: Bytes,
    /// The content of the part, in plain bytes.
    pub range: Range<u64>,
}

/// Frames ranges of a content of `len` bytes as `multipart/byteranges`.
///
/// The caller hands a boundary that is random and so never occurs in the content: 1 to 70 letters
/// and digits. A content type that is not printable ASCII is framed as `application/octet-stream`,
/// so it never ends a header line.
///
/// # Source
/// RFC 9110 §14.6 (the media type), RFC 2046 §5.1.1 (delimiters)
pub fn multipart(ranges: &[Range<u64>], len: u64, content_type: &str, boundary: &str) -> MultipartPlan {
    let is_printable = !content_type.is_empty() && content_type.bytes().all(|byte| (0x20..=0x7e).contains(&byte));
    let content_type = if is_printable { content_type } else { "application/octet-stream" };
    let tail = Bytes::from(format!("\r\n--{boundary}--\r\n"));
    let mut content_length = framing_length(&tail);
    let mut parts = Vec::with_capacity(ranges.len());
    for range in ranges {
        // RFC 2046 §5.1.1: the line break before a delimiter belongs to it; before the first one
        // there is none
        let line_break = if parts.is_empty() { "" } else { "\r\n" };
        let content_range = content_range(range, len);
        let head = Bytes::from(format!(
            "{line_break}--{boundary}\r\nContent-Type: {content_type}\r\nContent-Range: {content_range}\r\n\r\n"
        ));
        content_length = content_length.saturating_add(framing_length(&head)).saturating_add(length(range));
        parts.push(PartHead { head, range: range.clone() });
    }
    MultipartPlan { boundary: boundary.to_owned(), parts, tail, content_length }
}

/// Formats the `Content-Range` of a non-empty range: `bytes 0-9/100`.
///
/// # Source
/// RFC 9110 §14.4
pub fn content_range(range: &Range<u64>, len: u64) -> String {
    format!("bytes {}-{}/{len}", range.start, range.end.saturating_sub(1))
}

/// Formats the `Content-Range` of a 416 answer: `bytes */100`.
///
/// # Source
/// RFC 9110 §14.4 and §15.5.17
pub fn unsatisfied_range(len: u64) -> String {
    format!("bytes */{len}")
}

/// The length of a range in bytes.
fn length(range: &Range<u64>) -> u64 {
    range.end.saturating_sub(range.start)
}

/// The length of a piece of framing in bytes.
fn framing_length(framing: &Bytes) -> u64 {
    u64::try_from(framing.len()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
