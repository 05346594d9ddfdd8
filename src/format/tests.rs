//! Tests of the format as a whole: hostile input, frozen vectors, the document, the reference.

mod document;
mod hostile;
mod made;
mod make_vectors;
mod reference;
mod tamper;
mod vectors;

/// Lower-case hexadecimal digits.
fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes of hexadecimal digits; white space does not count.
fn from_hex(digits: &str) -> Vec<u8> {
    let digits: Vec<u8> =
        digits.chars().filter(|c| !c.is_whitespace()).map(|c| c.to_digit(16).expect("a digit") as u8).collect();
    assert_eq!(digits.len() % 2, 0, "half a byte");
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

/// As [`from_hex`], for a field of fixed length.
fn fixed<const N: usize>(digits: &str) -> [u8; N] {
    from_hex(digits).try_into().expect("the field has its length")
}
