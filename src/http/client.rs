//! Where a request came from: its peer, or, behind proxies that the settings trust, whom those name. What any other
//! peer says in `X-Forwarded-For` and `X-Forwarded-Proto` is not looked at.

use std::net::{IpAddr, SocketAddr};

use http::{Extensions, HeaderMap};
use ipnet::IpNet;

use super::serve::Peer;

const FORWARDED_FOR: &str = "x-forwarded-for";
const FORWARDED_PROTO: &str = "x-forwarded-proto";

/// Where a request came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client {
    /// Its address; none where a proxy names nobody, or names them wrongly.
    ip: Option<IpAddr>,
    /// Whether it came over TLS, as a trusted proxy says or, without one, as this gateway knows.
    is_secure: Option<bool>,
}

impl Client {
    /// Where a request came from, as these proxies say.
    pub fn of(headers: &HeaderMap, extensions: &Extensions, trusted: &[IpNet]) -> Self {
        let Some(peer) = extensions.get::<Peer>() else { return Self { ip: None, is_secure: None } };
        let ip = peer.address.ip().to_canonical();
        if is_trusted(ip, trusted) {
            let is_secure = last(headers, FORWARDED_PROTO).map(|proto| proto.eq_ignore_ascii_case("https"));
            return Self { ip: forwarded_for(headers, ip, trusted), is_secure };
        }
        Self { ip: Some(ip), is_secure: peer.is_tls.then_some(true) }
    }

    #[cfg(test)]
    pub(super) fn at(ip: IpAddr) -> Self {
        Self { ip: Some(ip), is_secure: None }
    }

    /// Its address, where it is known.
    pub fn ip(self) -> Option<IpAddr> {
        self.ip
    }

    /// Whether nobody on a network can read what it sends.
    pub fn is_private(self) -> bool {
        self.is_secure.unwrap_or_else(|| self.ip.is_some_and(|ip| ip.is_loopback()))
    }
}

/// The last address that no trusted proxy has; the peer where none is named.
fn forwarded_for(headers: &HeaderMap, peer: IpAddr, trusted: &[IpNet]) -> Option<IpAddr> {
    let mut nearest = Some(peer);
    for value in headers.get_all(FORWARDED_FOR).iter().rev() {
        let Ok(text) = value.to_str() else { return None };
        for name in text.rsplit(',') {
            nearest = address(name.trim());
            if nearest.is_none_or(|ip| !is_trusted(ip, trusted)) {
                return nearest;
            }
        }
    }
    nearest
}

/// An address, with a port or without.
fn address(text: &str) -> Option<IpAddr> {
    let ip = text.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|at| at.ip()));
    ip.map(|ip: IpAddr| ip.to_canonical())
}

fn is_trusted(ip: IpAddr, trusted: &[IpNet]) -> bool {
    trusted.iter().any(|network| network.contains(&ip))
}

/// What the nearest proxy says in a field.
fn last<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let value = headers.get_all(name).iter().next_back()?.to_str().ok()?;
    value.rsplit(',').next().map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::parse_network;

    fn client(peer: &str, fields: &[(&str, &str)]) -> Client {
        client_over(false, peer, fields)
    }

    fn client_over(is_tls: bool, peer: &str, fields: &[(&str, &str)]) -> Client {
        let mut request = http::Request::builder();
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let (mut parts, ()) = request.body(()).expect("a request").into_parts();
        let address = SocketAddr::new(peer.parse().expect("an address"), 5);
        parts.extensions.insert(Peer { address, is_tls });
        let trusted = ["10.0.0.0/8", "127.0.0.1", "fd00::/8"].map(|text| parse_network(text).expect("a network"));
        Client::of(&parts.headers, &parts.extensions, &trusted)
    }

    fn at(ip: &str, is_secure: impl Into<Option<bool>>) -> Client {
        Client { ip: Some(ip.parse().expect("an address")), is_secure: is_secure.into() }
    }

    #[test]
    fn only_trusted_proxies_are_believed() {
        let said = [(FORWARDED_FOR, "127.0.0.1"), (FORWARDED_PROTO, "https")];
        assert_eq!(client("192.0.2.1", &said), at("192.0.2.1", None));
        assert_eq!(client("127.0.0.2", &said), at("127.0.0.2", None), "another address of this machine");
        let far = [(FORWARDED_FOR, "192.0.2.7"), (FORWARDED_PROTO, "https")];
        for proxy in ["10.1.2.3", "127.0.0.1", "::ffff:10.1.2.3", "fd00::1"] {
            assert_eq!(client(proxy, &far), at("192.0.2.7", true), "{proxy}");
            assert_eq!(client(proxy, &far[..1]), at("192.0.2.7", None), "{proxy}");
        }
        assert!(!client("10.1.2.3", &[(FORWARDED_FOR, "192.0.2.7"), (FORWARDED_PROTO, "http")]).is_private());
        assert!(client("127.0.0.1", &[]).is_private());
        assert!(!client("127.0.0.1", &[(FORWARDED_PROTO, "http")]).is_private(), "it asks for somebody else");
    }

    #[test]
    fn what_comes_over_our_own_tls_is_private_but_for_what_a_proxy_passes_on() {
        assert!(client_over(true, "192.0.2.1", &[]).is_private());
        assert!(client_over(true, "192.0.2.1", &[(FORWARDED_PROTO, "http")]).is_private(), "it is nobody's proxy");
        let from_afar = [(FORWARDED_FOR, "192.0.2.7"), (FORWARDED_PROTO, "http")];
        for said in [&from_afar[..], &from_afar[..1]] {
            assert!(!client_over(true, "10.1.2.3", said).is_private(), "how its client came the proxy alone knows");
        }
    }

    #[test]
    fn what_a_client_writes_itself_stands_before_what_the_proxies_add() {
        let of = |value: &str| client("10.0.0.1", &[(FORWARDED_FOR, value)]);
        assert_eq!(of("127.0.0.1, 192.0.2.7"), at("192.0.2.7", None));
        assert_eq!(of("1.1.1.1, 192.0.2.7, 10.0.0.9"), at("192.0.2.7", None));
        assert_eq!(of("10.0.0.8, 10.0.0.9"), at("10.0.0.8", None));
        assert_eq!(of("[2001:db8::1]:443"), at("2001:db8::1", None));
        let lines = [(FORWARDED_FOR, "127.0.0.1"), (FORWARDED_FOR, "192.0.2.7:80")];
        assert_eq!(client("10.0.0.1", &lines), at("192.0.2.7", None));
        for bad in ["127.0.0.1, unknown", "127.0.0.1, ", "127.0.0.1, 192.0.2.7x"] {
            assert_eq!(of(bad).ip, None, "{bad}");
            assert!(!of(bad).is_private(), "{bad}");
        }
        let proto = [(FORWARDED_PROTO, "https, http"), (FORWARDED_FOR, "192.0.2.7")];
        assert!(!client("10.0.0.1", &proto).is_private(), "the nearest proxy was asked without TLS");
    }
}
