//! Random bytes from the operating system: the only source of salts, keys and ids. The embedded
//! mongod draws its own, because it can report that there are none.

/// `N` fresh random bytes.
///
/// # Panics
/// When the operating system has no random numbers to give; nothing safe can be done then.
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
    bytes
}
