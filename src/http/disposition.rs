//! File names in `Content-Disposition`, both ways, and the media types a browser may show inline.
//!
//! It does not judge whether a name may be stored: what a request calls a file is handed on as it
//! was sent, and the rules for names are elsewhere. It does not sniff content: the type it is asked
//! about has been decided before.

use http::HeaderValue;
use http::header::{CONTENT_DISPOSITION, HeaderMap};
use mime::Mime;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode, utf8_percent_encode};

/// The longest name that is sent, in bytes before encoding; the rest of a longer one is cut off.
pub const MAX_NAME_BYTES: usize = 1_024;

/// The name of a file whose own name leaves nothing to send.
const NAMELESS: &str = "download";

/// Everything but `attr-char` (RFC 8187 §3.2.1) is percent-encoded in `filename*`.
const NOT_ATTR_CHAR: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'!')
    .remove(b'#')
    .remove(b'$')
    .remove(b'&')
    .remove(b'+')
    .remove(b'-')
    .remove(b'.')
    .remove(b'^')
    .remove(b'_')
    .remove(b'`')
    .remove(b'|')
    .remove(b'~');

/// The types a browser is allowed to show; neither HTML nor SVG nor any other XML, no script and no
/// PDF.
const SAFE_INLINE: [&str; 15] = [
    "image/png",
    "image/jpeg",
    "image/gif",
    "image/webp",
    "image/avif",
    "video/mp4",
    "video/webm",
    "video/ogg",
    "audio/mpeg",
    "audio/mp4",
    "audio/ogg",
    "audio/wav",
    "audio/webm",
    "audio/flac",
    "text/plain",
];

/// What a browser is to do with the content.
///
/// # Source
/// RFC 6266 §4.2
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// Show it, if it can.
    Inline,
    /// Save it.
    Attachment,
}

/// Formats the `Content-Disposition` of a file, for any name.
///
/// Control and bidirectional formatting characters are removed, path separators become `_`, and a
/// name with nothing left is `download`. `filename` is printable ASCII without anything a client
/// might decode or end the string at; `filename*` follows when it says more.
///
/// # Shape
/// Printable ASCII with exactly one `filename=` and at most one `filename*=`, and at most 4.2 kB
/// long.
///
/// # Source
/// RFC 6266 §4.3 and Appendix D, RFC 8187 §3.2
pub fn content_disposition(kind: Disposition, name: &str) -> HeaderValue {
    let name = clean(name);
    let fallback = fallback(&name);
    let kind = match kind {
        Disposition::Inline => "inline",
        Disposition::Attachment => "attachment",
    };
    let mut value = format!("{kind}; filename=\"{fallback}\"");
    if fallback != name {
        value.push_str("; filename*=UTF-8''");
        value.extend(utf8_percent_encode(&name, NOT_ATTR_CHAR));
    }
    HeaderValue::try_from(value).unwrap_or(HeaderValue::from_static("attachment; filename=\"download\""))
}

/// The name as it may be shown: without characters that hide or reorder it, without path, bounded,
/// never empty.
pub fn clean(name: &str) -> String {
    let mut cleaned = String::new();
    for character in name.chars().filter(|&character| !is_hidden(character)) {
        if cleaned.len() + character.len_utf8() > MAX_NAME_BYTES {
            break;
        }
        cleaned.push(if matches!(character, '/' | '\\') { '_' } else { character });
    }
    let trimmed = cleaned.trim();
    // Dots alone name a folder, not a file.
    if trimmed.chars().all(|character| character == '.') { NAMELESS.to_owned() } else { trimmed.to_owned() }
}

/// C0 and C1 controls, line separators, bidirectional formatting and the byte order mark.
///
/// # Source
/// Unicode Standard Annex 9 §2 (directional formatting characters)
fn is_hidden(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{206f}' | '\u{feff}'
        )
}

/// The name in ASCII, safe in a quoted string whichever way a client reads it.
///
/// `%` goes since clients decode it, `=` since some decode RFC 2047 words and so that `filename=`
/// is there once, the rest since it ends strings, escapes, or is not allowed in file names.
///
/// # Source
/// RFC 6266 Appendix D
fn fallback(name: &str) -> String {
    let kept = |character: char| {
        let is_plain = character == ' ' || character.is_ascii_graphic();
        is_plain && !matches!(character, '"' | '\\' | ';' | '%' | '=' | '/' | ':' | '*' | '?' | '<' | '>' | '|')
    };
    name.chars().map(|character| if kept(character) { character } else { '_' }).collect()
}

/// Reads the file name out of the `Content-Disposition` of a request or a part.
///
/// `filename*` in UTF-8 wins over `filename`; one in another charset or badly encoded is passed
/// over, and so are names that are not UTF-8. Never trust the answer: line breaks, separators and
/// anything else arrive as sent.
///
/// # Shape
/// Never empty, never longer than the header.
///
/// # Source
/// RFC 6266 §4.1 and §4.3, RFC 8187 §3.2, RFC 9110 §5.6.6 (parameters, quoted strings)
pub fn filename_from(headers: &HeaderMap) -> Option<String> {
    let line = headers.get(CONTENT_DISPOSITION)?.as_bytes();
    let mut plain = None;
    let mut extended = None;
    let mut rest = line;
    while !rest.is_empty() {
        let (parameter, after) = take_parameter(rest);
        rest = after;
        let Some(parameter) = parameter else {
            continue;
        };
        // Of a name given twice the first counts.
        if parameter.name.eq_ignore_ascii_case(b"filename*") {
            extended = extended.or_else(|| decode_extended(&parameter.value));
        } else if parameter.name.eq_ignore_ascii_case(b"filename") {
            plain = plain.or_else(|| String::from_utf8(parameter.value).ok().filter(|name| !name.is_empty()));
        }
    }
    extended.or(plain)
}

/// One parameter of a header, its value without quotes and escapes.
struct Parameter<'a> {
    name: &'a [u8],
    value: Vec<u8>,
}

/// Takes the text up to the next `;` outside quotes off the front; no parameter when there is no
/// `=` in it.
fn take_parameter(bytes: &[u8]) -> (Option<Parameter<'_>>, &[u8]) {
    let stop = bytes.iter().position(|byte| matches!(byte, b'=' | b';')).unwrap_or(bytes.len());
    let (name, rest) = bytes.split_at(stop);
    let Some(value) = rest.strip_prefix(b"=") else {
        return (None, rest.strip_prefix(b";").unwrap_or_default());
    };
    let (value, after) = match value.trim_ascii_start().strip_prefix(b"\"") {
        Some(quoted) => take_quoted(quoted),
        None => {
            let (token, after) = split_at_semicolon(value);
            (token.trim_ascii().to_vec(), after)
        }
    };
    (Some(Parameter { name: name.trim_ascii(), value }), after)
}

/// Takes a quoted string off the front, past its opening quote, and what stands before the next `;`
/// with it.
///
/// # Source
/// RFC 9110 §5.6.4: a backslash stands for the byte after it; a missing closing quote is forgiven
fn take_quoted(bytes: &[u8]) -> (Vec<u8>, &[u8]) {
    let mut value = Vec::new();
    let mut rest = bytes;
    loop {
        match rest {
            [] => return (value, rest),
            [b'"', after @ ..] => return (value, split_at_semicolon(after).1),
            [b'\\', byte, after @ ..] | [byte, after @ ..] => {
                value.push(*byte);
                rest = after;
            }
        }
    }
}

/// What stands before the next `;`, and what after.
fn split_at_semicolon(bytes: &[u8]) -> (&[u8], &[u8]) {
    let mut halves = bytes.splitn(2, |&byte| byte == b';');
    (halves.next().unwrap_or_default(), halves.next().unwrap_or_default())
}

/// Decodes `UTF-8'language'percent-encoded`.
///
/// # Source
/// RFC 8187 §3.2.1
fn decode_extended(value: &[u8]) -> Option<String> {
    let mut pieces = value.splitn(3, |&byte| byte == b'\'');
    let (charset, _language, encoded) = (pieces.next()?, pieces.next()?, pieces.next()?);
    let is_encoded =
        |piece: &[u8]| matches!(piece, [high, low, ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit());
    if !charset.eq_ignore_ascii_case(b"utf-8") || !encoded.split(|&byte| byte == b'%').skip(1).all(is_encoded) {
        return None;
    }
    let name = percent_decode(encoded).decode_utf8().ok()?;
    (!name.is_empty()).then(|| name.into_owned())
}

/// Answers whether content of this type may be shown by a browser rather than saved.
///
/// The type has to be one of a short list, whatever its case and parameters; `text/plain` has to be
/// UTF-8 or ASCII if it names a charset. What is not plainly one media type is not safe: lists,
/// blanks around the type, escapes in quoted strings, anything outside printable ASCII.
///
/// # Source
/// RFC 9110 §8.3.1 (media types), RFC 6838 §4.2
pub fn is_safe_inline(content_type: &str) -> bool {
    // Commas and backslashes are where parsers disagree; none of these types needs them.
    if !content_type.bytes().all(|byte| (0x20..=0x7e).contains(&byte) && byte != b',' && byte != b'\\') {
        return false;
    }
    let Ok(media_type) = content_type.parse::<Mime>() else {
        return false;
    };
    let is_known = SAFE_INLINE.contains(&media_type.essence_str());
    is_known && (media_type.type_() != mime::TEXT || has_safe_charset(&media_type))
}

/// True when every `charset` parameter, if there is one at all, says UTF-8 or ASCII.
fn has_safe_charset(media_type: &Mime) -> bool {
    media_type
        .params()
        .filter(|(name, _)| *name == mime::CHARSET)
        .all(|(_, charset)| ["utf-8", "us-ascii"].iter().any(|safe| charset.as_str().eq_ignore_ascii_case(safe)))
}

#[cfg(test)]
mod tests;
