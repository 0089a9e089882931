//! Addresses that others are told.

/// Whether this is a host and a port, fit for an address of the web.
pub(crate) fn is_address(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    let is_host = match inner {
        Some(six) => six.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.chars().all(plain),
    };
    is_host && port.parse::<u16>().is_ok_and(|port| port > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Red when what has no port, or more than host and port, passes for an address.
    #[test]
    fn an_address_is_a_host_and_a_port() {
        for right in ["10.0.0.7:8080", "shop:1", "[::1]:80", "a-b.example.org:65535"] {
            assert!(is_address(right), "{right}");
        }
        for wrong in
            ["", "host", ":80", "host:", "host:0", "host:65536", "http://host:80", "::1:80", "[x]:80", "a b:80"]
        {
            assert!(!is_address(wrong), "{wrong}");
        }
    }
}
