//! `Upload-Metadata` of tus: pairs of a key and a value in base64. What is an option of files is taken as one, the
//! rest is kept as it was sent and told again.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;

use crate::error::Error;
use crate::files::uploads::UploadRequest;

const HEADER: &str = "Upload-Metadata";
/// Bytes of the field.
const MAX_LEN: usize = 16 << 10;
/// The options of files that may be said.
pub const OPTIONS: [&str; 11] = [
    "name",
    "description",
    "tags",
    "category",
    "folder",
    "access",
    "retentionDays",
    "expiresAt",
    "compress",
    "encrypt",
    "custom",
];

/// What a request says of the file.
///
/// # Errors
/// `bad_header`.
pub fn read(headers: &HeaderMap) -> Result<UploadRequest, Error> {
    let refused = |what: &str| Error::bad_header(HEADER, format!("{HEADER} {what}."));
    let mut values = headers.get_all("upload-metadata").iter();
    let Some(value) = values.next() else { return Ok(UploadRequest::default()) };
    let text = value.to_str().map_err(|_| refused("is not ASCII"))?;
    if values.next().is_some() || text.len() > MAX_LEN {
        return Err(refused("is sent twice, or longer than 16 KiB"));
    }
    let mut request = UploadRequest { metadata: Some(text.to_owned()), ..UploadRequest::default() };
    let mut seen = Vec::new();
    for pair in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
        let (key, encoded) = pair.split_once(' ').unwrap_or((pair, ""));
        if seen.contains(&key) {
            return Err(refused("names a key twice"));
        }
        seen.push(key);
        let bytes = STANDARD.decode(encoded.trim()).map_err(|_| refused("has a value that is not base64"))?;
        take(&mut request, key, bytes).map_err(|()| refused("has a value that is not UTF-8"))?;
    }
    request.said.sort();
    Ok(request)
}

fn take(request: &mut UploadRequest, key: &str, bytes: Vec<u8>) -> Result<(), ()> {
    let is_option = OPTIONS.contains(&key);
    if !is_option && !["filename", "filetype", "contentType"].contains(&key) {
        return Ok(());
    }
    let text = String::from_utf8(bytes).map_err(|_| ())?;
    match key {
        _ if text.is_empty() => {}
        "filetype" | "contentType" => request.declared_type = Some(text),
        "filename" if request.said.iter().any(|(name, _)| name == "name") => {}
        "filename" => request.said.push(("name".to_owned(), text)),
        "name" => {
            request.said.retain(|(name, _)| name != "name");
            request.said.push(("name".to_owned(), text));
        }
        _ => request.said.push((key.to_owned(), text)),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn metadata(text: &str) -> Result<UploadRequest, Error> {
        let mut headers = HeaderMap::new();
        headers.insert("upload-metadata", HeaderValue::from_str(text).expect("a header"));
        read(&headers)
    }

    #[test]
    fn names_types_and_options_are_taken_and_the_rest_is_kept() {
        let said =
            metadata("filename YS50eHQ=,filetype dGV4dC9wbGFpbg==,relativePath bnVsbA==,is_x,tags YSxi").expect("fine");
        assert_eq!(said.said, [("name".into(), "a.txt".into()), ("tags".into(), "a,b".into())]);
        assert_eq!(said.declared_type.as_deref(), Some("text/plain"));
        assert!(said.metadata.expect("kept").contains("relativePath bnVsbA=="));
        assert_eq!(metadata("").expect("empty").said, []);
        assert_eq!(metadata("name Yg==,filename YQ==").expect("both").said, [("name".into(), "b".into())]);
        assert_eq!(metadata("filename YQ==,name Yg==").expect("both").said, [("name".into(), "b".into())]);
        for bad in ["filename %%", "filename YQ==,filename Yg==", "filename /w=="] {
            assert!(metadata(bad).is_err(), "{bad}");
        }
    }
}
