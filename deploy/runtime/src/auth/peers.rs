//! Hosts that a token may be sent to. Where an instance answers stands in Kafka, where anybody who may join a group can write
//! an address: a token goes to this host and to those that are allowed, and to no other.

use std::net::{IpAddr, SocketAddr, UdpSocket};

/// The hosts that are allowed.
#[derive(Clone, Debug)]
pub(crate) struct Peers {
    patterns: Vec<String>,
    /// What this instance is told to be reached at; empty where that is not said.
    advertised: String,
}

impl Peers {
    /// These patterns, and this host's own addresses.
    pub(crate) fn new(patterns: &[String], advertise: &str) -> Self {
        Self { patterns: patterns.to_vec(), advertised: host(advertise).to_owned() }
    }

    /// Whether a token may be sent to this `host:port`.
    pub(crate) fn allow(&self, address: &str) -> bool {
        let host = host(address);
        self.patterns.iter().any(|pattern| fits(pattern, host)) || self.is_own(host)
    }

    fn is_own(&self, host: &str) -> bool {
        let is_advertised = !self.advertised.is_empty() && host.eq_ignore_ascii_case(&self.advertised);
        is_advertised || host.eq_ignore_ascii_case("localhost") || host.parse().is_ok_and(is_own_address)
    }
}

/// What is wrong with patterns, a sentence each.
pub(crate) fn pattern_problems(patterns: &[String]) -> Vec<String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '*');
    let is_pattern = |text: &str| !text.is_empty() && text.chars().all(plain) || text.parse::<IpAddr>().is_ok();
    let wrong = patterns.iter().filter(|text| !is_pattern(text));
    wrong
        .map(|text| {
            format!(
                "http.peers: `{text}` is no pattern of hosts: write one such as *.shop.svc.cluster.local or 10.0.*.*, \
                 without a scheme and a port"
            )
        })
        .collect()
}

/// The host of `host:port`, an IPv6 address without its brackets.
fn host(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']')
}

/// Whether a pattern is this host's: `*` stands for any characters but a dot, and alone for every host.
fn fits(pattern: &str, host: &str) -> bool {
    if let (Ok(a), Ok(b)) = (pattern.parse::<IpAddr>(), host.parse::<IpAddr>()) {
        return a == b;
    }
    let (pattern, host) = (pattern.to_ascii_lowercase(), host.to_ascii_lowercase());
    let (patterns, labels) = (pattern.split('.'), host.split('.'));
    pattern == "*"
        || patterns.clone().count() == labels.clone().count()
            && patterns.zip(labels).all(|(pattern, label)| label_fits(pattern, label))
}

fn label_fits(pattern: &str, label: &str) -> bool {
    let Some((begin, rest)) = pattern.split_once('*') else { return pattern == label };
    let Some(left) = label.strip_prefix(begin) else { return false };
    (0..=left.len()).any(|at| left.get(at..).is_some_and(|left| label_fits(rest, left)))
}

/// Whether an address is of this host: the system sends from the address itself what goes to one of its own. Nothing is sent.
fn is_own_address(ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    let any: SocketAddr = if ip.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0; 8], 0).into() };
    let sends_from = || {
        let socket = UdpSocket::bind(any)?;
        // The discard port.
        socket.connect((ip, 9))?;
        socket.local_addr()
    };
    ip.is_loopback() || sends_from().is_ok_and(|from| from.ip() == ip)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(patterns: &[&str], address: &str) -> bool {
        let patterns: Vec<String> = patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
        assert_eq!(pattern_problems(&patterns), Vec::<String>::new());
        Peers::new(&patterns, "shop-0.shop:8080").allow(address)
    }

    /// Red when a star passes over a dot, a pattern fits a part of a name, the case of a name counts, or a host is allowed that
    /// nobody has named.
    #[test]
    fn a_token_goes_to_hosts_that_are_named() {
        let patterns = ["*.shop.svc", "10.0.*.*", "till-*.example", "fd00::7"];
        for right in [
            "a.shop.svc:80",
            "A.Shop.SVC:80",
            "10.0.7.8:80",
            "till-7.example:1",
            "till-.example:1",
            "[fd00::7]:80",
            "[fd00:0::7]:80",
        ] {
            assert!(allowed(&patterns, right), "{right}");
        }
        for wrong in [
            "shop.svc:80",
            "a.b.shop.svc:80",
            "a.shop.svc.evil.example:80",
            "a.shop.svcx:80",
            "10.1.7.8:80",
            "10.0.7.8.example:80",
            "till.example:1",
            "[fd00::8]:80",
            "192.0.2.7:80",
            "example:80",
        ] {
            assert!(!allowed(&patterns, wrong), "{wrong}");
        }
        assert!(allowed(&["*"], "anything.example:80"));
    }

    /// Red when another host is taken for this one where no pattern is given, or an address of this one is not.
    #[test]
    fn without_patterns_a_token_stays_on_this_host() {
        for right in ["127.0.0.1:80", "127.0.0.2:80", "localhost:80", "[::1]:80", "shop-0.shop:80", "SHOP-0.shop:1"] {
            assert!(allowed(&[], right), "{right}");
        }
        for wrong in ["192.0.2.7:80", "[2001:db8::7]:80", "shop-1.shop:8080", "localhost.example:80", "2130706433:80"] {
            assert!(!allowed(&[], wrong), "{wrong}");
        }
        // Where this host has another address than loopback, that is its own, too.
        let outward = UdpSocket::bind("0.0.0.0:0").and_then(|socket| {
            socket.connect("192.0.2.7:9")?;
            socket.local_addr()
        });
        if let Ok(outward) = outward {
            assert!(allowed(&[], &outward.to_string()), "{outward}");
        }
    }

    /// Red when what is no pattern of hosts is taken for one that fits nothing.
    #[test]
    fn what_is_no_pattern_is_refused() {
        for wrong in ["", "https://shop", "shop:8080", "10.0.0.0/8", "[::1]", "a b"] {
            assert_eq!(pattern_problems(&[wrong.to_owned()]).len(), 1, "{wrong}");
        }
    }
}
