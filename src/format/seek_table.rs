//! The seek table of the zstd seekable format: the skippable frame at the end of an unsealed
//! zstd segment. Stock `zstd -d` steps over it; readers of ours use `index.rs` instead.

use super::FormatError;

/// Magic of the skippable frame that holds the table.
pub const SKIPPABLE_MAGIC: u32 = 0x184D_2A5E;
/// Magic at the very end of the stored bytes.
pub const SEEKABLE_MAGIC: u32 = 0x8F92_EAB1;
pub(super) const SKIPPABLE_HEAD_LEN: usize = 8;
pub(super) const ENTRY_LEN: usize = 8;
pub(super) const FOOTER_LEN: usize = 9;

/// One frame's lengths.
///
/// # Units
/// Bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeekEntry {
    /// Stored (compressed) bytes.
    pub stored_len: u32,
    /// Plaintext bytes.
    pub plain_len: u32,
}

/// The length of the skippable frame for so many frames.
pub fn encoded_len(frames: usize) -> usize {
    SKIPPABLE_HEAD_LEN + frames * ENTRY_LEN + FOOTER_LEN
}

/// Encodes the skippable frame.
///
/// # Source
/// zstd seekable format 0.1.0: entries without checksums, all numbers little-endian.
pub fn encode(entries: &[SeekEntry]) -> Vec<u8> {
    let table_len = encoded_len(entries.len());
    let mut table = Vec::with_capacity(table_len);
    let le = |n: usize| u32::try_from(n).expect("a segment has fewer than 2^29 frames").to_le_bytes();
    table.extend_from_slice(&SKIPPABLE_MAGIC.to_le_bytes());
    table.extend_from_slice(&le(table_len - SKIPPABLE_HEAD_LEN));
    for entry in entries {
        table.extend_from_slice(&entry.stored_len.to_le_bytes());
        table.extend_from_slice(&entry.plain_len.to_le_bytes());
    }
    table.extend_from_slice(&le(entries.len()));
    table.push(0);
    table.extend_from_slice(&SEEKABLE_MAGIC.to_le_bytes());
    table
}

/// Decodes a skippable frame made by [`encode`].
///
/// # Errors
/// [`FormatError::Index`] for anything else.
pub fn decode(table: &[u8]) -> Result<Vec<SeekEntry>, FormatError> {
    let (head, rest) = table.split_at_checked(SKIPPABLE_HEAD_LEN).ok_or(FormatError::Index)?;
    let entries_len = rest.len().checked_sub(FOOTER_LEN).ok_or(FormatError::Index)?;
    let (entries, footer) = rest.split_at(entries_len);
    let le = |bytes: &[u8]| bytes.try_into().map(u32::from_le_bytes).map_err(|_| FormatError::Index);
    let well_formed = le(&head[..4])? == SKIPPABLE_MAGIC
        && le(&head[4..])? as usize == rest.len()
        && le(&footer[..4])? as usize * ENTRY_LEN == entries_len
        && footer[4] == 0
        && le(&footer[5..])? == SEEKABLE_MAGIC;
    if !well_formed {
        return Err(FormatError::Index);
    }
    entries
        .chunks_exact(ENTRY_LEN)
        .map(|entry| Ok(SeekEntry { stored_len: le(&entry[..4])?, plain_len: le(&entry[4..])? }))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_table_comes_back(lens in proptest::collection::vec((any::<u32>(), any::<u32>()), 0..50)) {
            let entries: Vec<_> = lens.into_iter().map(|(stored_len, plain_len)| SeekEntry { stored_len, plain_len }).collect();
            prop_assert_eq!(decode(&encode(&entries)), Ok(entries));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = decode(&bytes);
        }
    }

    #[test]
    fn a_table_with_a_wrong_count_is_refused() {
        let mut table = encode(&[SeekEntry { stored_len: 5, plain_len: 9 }]);
        let count_at = table.len() - FOOTER_LEN;
        table[count_at] = 2;
        assert_eq!(decode(&table), Err(FormatError::Index));
    }
}
