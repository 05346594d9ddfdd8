//! A media type that is one: parsed, lower-cased, safe to send back in a header. Guesses nothing.

use std::fmt;

/// A media type with its parameters.
///
/// # Source
/// RFC 9110 §8.3.1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MediaType {
    whole: String,
    essence_len: usize,
}

/// Longer ones are not types anybody uses.
const MAX_LEN: usize = 255;

impl MediaType {
    /// The type of unknown bytes.
    pub fn octet_stream() -> Self {
        Self::known("application/octet-stream")
    }

    /// A type written in the source.
    pub fn known(essence: &'static str) -> Self {
        Self { whole: essence.to_owned(), essence_len: essence.len() }
    }

    /// Parses a client's type; none where it is not exactly one concrete media type.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > MAX_LEN || text.contains(',') || !text.bytes().all(|byte| (0x20..0x7f).contains(&byte)) {
            return None;
        }
        let parsed: mime::Mime = text.trim().parse().ok()?;
        if parsed.type_() == mime::STAR || parsed.subtype() == mime::STAR {
            return None;
        }
        let essence = parsed.essence_str().to_ascii_lowercase();
        let parameters = &parsed.as_ref()[essence.len()..];
        Some(Self { essence_len: essence.len(), whole: essence + parameters })
    }

    /// `type/subtype` in lower case.
    pub fn essence(&self) -> &str {
        &self.whole[..self.essence_len]
    }
}

impl fmt::Display for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.whole)
    }
}

#[cfg(test)]
mod tests {
    use super::MediaType;

    #[test]
    fn only_one_concrete_type_is_a_type() {
        let whole = |text| MediaType::parse(text).map(|parsed| parsed.to_string());
        assert_eq!(whole("IMAGE/SVG+XML"), Some("image/svg+xml".into()));
        assert_eq!(whole("text/plain; charset=utf-8"), Some("text/plain; charset=utf-8".into()));
        for bad in [
            "",
            "text",
            "*/*",
            "image/*",
            "image/svg+xml,image/png",
            "text/html\t",
            "te xt/plain",
            "text/plain\r\nX: 1",
        ] {
            assert_eq!(whole(bad), None, "{bad:?}");
        }
    }
}
