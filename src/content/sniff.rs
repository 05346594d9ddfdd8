//! The type of content from its leading bytes, its declared type and its name, with one rule for
//! their disagreement. Never looks past [`SNIFF_LEN`] bytes.

use super::media_type::MediaType;

/// Leading bytes that are looked at.
pub const SNIFF_LEN: usize = 8 << 10;

/// What a file is taken for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sniffed {
    /// The type it is stored and served as.
    pub media_type: MediaType,
    /// The declared type where it was another.
    pub declared: Option<MediaType>,
}

/// Decides the type.
///
/// The rule: bytes that are recognised win over the declared type. A recognised *container*
/// (ZIP, OLE, XML, gzip) gives way to a type that is kept in such a container: the declared one, or
/// without one the name's. Bytes
/// that are not recognised keep the declared type; without one the name's extension decides, and
/// else `text/plain` for UTF-8 text and `application/octet-stream` for anything else.
///
/// `declared` is the client's header; one that is no type, `application/octet-stream` and the
/// form type that curl sends by default count as not declared.
pub fn sniff(head: &[u8], declared: Option<&str>, name: &str) -> Sniffed {
    let head = &head[..head.len().min(SNIFF_LEN)];
    let declared_type = declared.and_then(MediaType::parse).filter(|t| !UNDECLARED.contains(&t.essence()));
    let is_invalid = declared.is_some_and(|text| MediaType::parse(text).is_none());
    let media_type = match (recognise(head), &declared_type) {
        (Some(found), Some(declared)) if is_kept_in(declared.essence(), found) => declared.clone(),
        (Some(found), None) => {
            let named = by_name(name).filter(|named| is_kept_in(named.essence(), found));
            named.unwrap_or_else(|| MediaType::known(found))
        }
        (Some(found), Some(_)) => MediaType::known(found),
        (None, Some(declared)) => declared.clone(),
        (None, None) if is_invalid => MediaType::octet_stream(),
        (None, None) => by_name(name).unwrap_or_else(|| by_text(head)),
    };
    let declared = declared_type.filter(|declared| declared.essence() != media_type.essence());
    Sniffed { media_type, declared }
}

const UNDECLARED: [&str; 3] = ["application/octet-stream", "application/x-www-form-urlencoded", "binary/octet-stream"];

fn recognise(head: &[u8]) -> Option<&'static str> {
    if is_svg(head) {
        return Some("image/svg+xml");
    }
    let found = infer::get(head)?.mime_type();
    match found {
        "application/octet-stream" => None,
        "application/zip" => office_type(head).or(Some(found)),
        _ => Some(registered_name(found)),
    }
}

/// The type of an Office Open XML package by the folders in it, wherever they stand in the ZIP.
///
/// # Source
/// ECMA-376 part 2 §10.2 (`[Content_Types].xml`); APPNOTE.TXT §4.3.7 (local file header)
fn office_type(head: &[u8]) -> Option<&'static str> {
    const PACKAGE: [&[u8]; 3] = [b"[Content_Types].xml", b"_rels/.rels", b"docProps/"];
    const FOLDERS: [(&[u8], &str); 3] = [
        (b"word/", "application/vnd.openxmlformats-officedocument.wordprocessingml.document"),
        (b"xl/", "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"),
        (b"ppt/", "application/vnd.openxmlformats-officedocument.presentationml.presentation"),
    ];
    let headers = head.windows(4).enumerate().filter(|(_, window)| window == b"PK\x03\x04");
    let names: Vec<&[u8]> = headers.filter_map(|(at, _)| head.get(at + 30..)).collect();
    let is_marked = |name: &&[u8]| PACKAGE.iter().any(|mark| name.starts_with(mark));
    let is_package = names.iter().any(is_marked);
    let (_, found) = FOLDERS.iter().find(|(folder, _)| names.iter().any(|name| name.starts_with(folder)))?;
    is_package.then_some(*found)
}

/// The type's registered name where `infer` has an older one.
fn registered_name(found: &'static str) -> &'static str {
    match found {
        "audio/x-flac" => "audio/flac",
        "audio/x-wav" => "audio/wav",
        "audio/m4a" => "audio/mp4",
        "video/x-m4v" => "video/mp4",
        _ => found,
    }
}

/// Whether the first element is `svg`, after whatever XML allows before it: an image type that can
/// hold scripts is never taken for another one.
fn is_svg(head: &[u8]) -> bool {
    let mut rest = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head);
    loop {
        rest = rest.trim_ascii_start();
        let (opening, closing): (&[u8], &[u8]) = match rest {
            [b'<', b'!', b'-', b'-', ..] => (b"<!--", b"-->"),
            [b'<', b'?', ..] => (b"<?", b"?>"),
            // A document type may hold declarations of its own.
            [b'<', b'!', ..] if rest.iter().find(|byte| b"[>".contains(byte)) == Some(&b'[') => (b"<!", b"]>"),
            [b'<', b'!', ..] => (b"<!", b">"),
            _ => break,
        };
        let inner = &rest[opening.len()..];
        let Some(end) = inner.windows(closing.len()).position(|window| window == closing) else { return false };
        rest = &inner[end + closing.len()..];
    }
    let Some(element) = rest.strip_prefix(b"<") else { return false };
    let name_len = element.iter().position(|byte| b" \t\r\n/>".contains(byte)).unwrap_or(element.len());
    let name = &element[..name_len];
    let local = name.iter().position(|byte| *byte == b':').map_or(name, |colon| &name[colon + 1..]);
    local.eq_ignore_ascii_case(b"svg")
}

/// Whether files of the declared type are containers of the found type.
fn is_kept_in(declared: &str, found: &str) -> bool {
    let starts = |prefixes: &[&str]| prefixes.iter().any(|prefix| declared.starts_with(prefix));
    match found {
        "application/zip" => {
            declared.ends_with("+zip")
                || starts(&[
                    "application/vnd.openxmlformats-officedocument.",
                    "application/vnd.oasis.opendocument.",
                    "application/vnd.android.package-archive",
                    "application/java-archive",
                    "application/vnd.ms-",
                ])
        }
        "application/x-ole-storage" => starts(&["application/msword", "application/vnd.ms-", "application/vnd.visio"]),
        "text/xml" => declared.ends_with("+xml") || declared == "application/xml",
        "application/gzip" => starts(&["application/x-gzip", "application/x-tgz", "application/x-gtar"]),
        "video/webm" | "video/x-matroska" => ["audio/webm", "video/webm", "video/x-matroska"].contains(&declared),
        "video/mp4" => ["audio/mp4", "video/quicktime"].contains(&declared),
        "audio/ogg" => declared == "video/ogg" || declared == "audio/opus",
        "text/x-shellscript" => starts(&["application/x-sh", "text/"]) && declared != "text/html",
        _ => false,
    }
}

fn by_name(name: &str) -> Option<MediaType> {
    mime_guess::from_path(name).first_raw().and_then(MediaType::parse)
}

fn by_text(head: &[u8]) -> MediaType {
    let is_text = match std::str::from_utf8(head) {
        Ok(_) => true,
        // A character may be cut at the end of the head.
        Err(error) => error.error_len().is_none() && head.len() == SNIFF_LEN,
    };
    let has_controls = head.iter().any(|byte| *byte < 0x20 && !b"\t\n\r\x0c\x1b".contains(byte));
    if is_text && !has_controls && !head.is_empty() {
        MediaType::known("text/plain")
    } else {
        MediaType::octet_stream()
    }
}

#[cfg(test)]
mod tests {
    use super::sniff;

    const PNG: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR";
    const ZIP: &[u8] = b"PK\x03\x04\x14\0\0\0\x08\0";

    fn stored(head: &[u8], declared: Option<&str>, name: &str) -> String {
        sniff(head, declared, name).media_type.to_string()
    }

    #[test]
    fn recognised_bytes_win_and_keep_the_declared_type() {
        let sniffed = sniff(PNG, Some("text/html"), "a.html");
        assert_eq!(sniffed.media_type.to_string(), "image/png");
        assert_eq!(sniffed.declared.map(|t| t.to_string()), Some("text/html".into()));
    }

    #[test]
    fn a_container_gives_way_to_a_type_kept_in_it() {
        assert_eq!(stored(ZIP, Some("application/epub+zip"), "b"), "application/epub+zip");
        assert_eq!(stored(ZIP, Some("image/png"), "b.epub"), "application/zip");
        assert_eq!(stored(ZIP, None, "b.epub"), "application/epub+zip");
        assert_eq!(stored(ZIP, None, "b.html"), "application/zip");
        assert_eq!(stored(b"<?xml version=\"1.0\"?><svg/>", Some("image/svg+xml"), "b"), "image/svg+xml");
    }

    #[test]
    fn svg_is_known_by_its_first_element() {
        for text in [
            "<svg/>",
            "\u{feff} <svg xmlns=\"x\">",
            "<?xml version=\"1.0\"?><!-- a > b --><!DOCTYPE svg>\n<svg:svg>",
            "<SVG onload=x>",
            "<!DOCTYPE svg [<!ENTITY a \"b\">]><svg>",
        ] {
            assert_eq!(stored(text.as_bytes(), Some("image/png"), "a.png"), "image/svg+xml", "{text}");
        }
        for text in ["<svgx/>", "x<svg/>", "<!-- <svg/> "] {
            assert_ne!(stored(text.as_bytes(), Some("text/csv"), "a"), "image/svg+xml", "{text}");
        }
    }

    #[test]
    fn unrecognised_bytes_keep_the_declared_type() {
        assert_eq!(stored(b"\x01\x02\x03", Some("video/mp4"), "v"), "video/mp4");
        assert_eq!(stored(b"\x01\x02\x03", Some("image/svg+xml,image/png"), "v.txt"), "application/octet-stream");
    }

    #[test]
    fn undeclared_content_is_named_by_its_extension_and_else_by_its_text() {
        assert_eq!(stored(b"a,b\n", Some("application/x-www-form-urlencoded"), "t.csv"), "text/csv");
        assert_eq!(stored("grüße\n".as_bytes(), None, "syslog"), "text/plain");
        assert_eq!(stored(b"\0\0", None, "x"), "application/octet-stream");
        assert_eq!(stored(b"", None, "x"), "application/octet-stream");
    }
}
