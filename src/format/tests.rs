//! Tests of the format as a whole: hostile input, frozen vectors, the document, the reference.

mod document;
mod hostile;
mod made;
mod make_vectors;
mod reference;
mod tamper;
mod vectors;

/// The bytes of hexadecimal digits; white space does not count.
fn from_hex(digits: &str) -> Vec<u8> {
    let digits: String = digits.chars().filter(|c| !c.is_whitespace()).collect();
    hex::decode(digits).expect("pairs of digits")
}

/// As [`from_hex`], for a field of fixed length.
fn fixed<const N: usize>(digits: &str) -> [u8; N] {
    from_hex(digits).try_into().expect("the field has its length")
}
