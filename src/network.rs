//! Networks of addresses as text. Resolves no names.

use std::net::IpAddr;

use ipnet::IpNet;

/// An address, or a network of them such as `10.0.0.0/8`.
///
/// # Errors
/// The text, where it is neither.
pub fn parse_network(text: &str) -> Result<IpNet, String> {
    let network = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
    network.ok_or_else(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_and_addresses_are_parsed() {
        assert_eq!(parse_network("10.0.0.0/8").expect("a network"), "10.0.0.0/8".parse::<IpNet>().expect("a network"));
        assert_eq!(parse_network("::1").expect("an address"), "::1/128".parse::<IpNet>().expect("a network"));
        for bad in ["", "10.0.0.0/33", "localhost", "10.0.0"] {
            assert!(parse_network(bad).is_err(), "{bad}");
        }
    }
}
