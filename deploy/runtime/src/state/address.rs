//! Where an instance answers: its consumers carry it in their client id, so that whoever describes the group knows it.

use std::net::SocketAddr;

use headwater_connectors::kafka::GroupMember;

use crate::config::is_address;

const CLIENT: &str = "headwater@";
/// Characters of the mark behind the instance's name in a member's: `-` and eight digits.
const MARK: usize = 9;

/// The client id of an instance whose server is bound here. Where that is every address of the host, the host is left out:
/// the broker knows where the member connects from.
pub(super) fn client_id(advertise: &str, bound: SocketAddr) -> String {
    match advertise {
        "" if bound.ip().is_unspecified() => format!("{CLIENT}:{}", bound.port()),
        "" => format!("{CLIENT}{bound}"),
        advertise => format!("{CLIENT}{advertise}"),
    }
}

/// `host:port` of a member's server; `None` where its client id does not say.
pub(crate) fn of(member: &GroupMember) -> Option<String> {
    let told = member.client.strip_prefix(CLIENT)?;
    let Some(port) = told.strip_prefix(':') else { return is_address(told).then(|| told.to_owned()) };
    let host = member.host.trim_start_matches('/');
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    Some(format!("{host}:{port}")).filter(|address| is_address(address))
}

/// The name of a member's instance.
pub(super) fn name(member: &GroupMember) -> &str {
    let name = member.instance.as_deref().unwrap_or(&member.id);
    let at = name.len().saturating_sub(MARK);
    match (name.get(..at), name.get(at..)) {
        (Some(instance), Some(mark)) if !instance.is_empty() && is_mark(mark) => instance,
        _ => name,
    }
}

fn is_mark(text: &str) -> bool {
    text.strip_prefix('-').is_some_and(|digits| digits.chars().all(|c| c.is_ascii_hexdigit()))
}

#[cfg(test)]
pub(super) mod tests {
    use headwater::TopicPartition;

    use super::*;

    /// A member of this instance and client id, with these partitions of topic `t`.
    pub(in crate::state) fn member(instance: &str, client: &str, partitions: &[i32]) -> GroupMember {
        GroupMember {
            id: format!("{client}-1"),
            client: client.to_owned(),
            instance: Some(instance.to_owned()),
            host: "/10.0.0.7".to_owned(),
            partitions: partitions.iter().map(|n| TopicPartition::new("t", *n)).collect(),
        }
    }

    /// Red when the setting does not win, an unspecified address is handed out, or the broker's slash stays before a host.
    #[test]
    fn an_instance_is_found_by_its_client_id() {
        let found = |advertise: &str, bound: &str| {
            of(&member("one", &client_id(advertise, bound.parse().unwrap()), &[])).unwrap_or_default()
        };
        assert_eq!(found("shop.example:80", "0.0.0.0:8080"), "shop.example:80");
        assert_eq!(found("", "127.0.0.1:8080"), "127.0.0.1:8080");
        assert_eq!(found("", "0.0.0.0:8080"), "10.0.0.7:8080");
        assert_eq!(found("", "[::]:8080"), "10.0.0.7:8080");
        assert_eq!(found("", "[::1]:8080"), "[::1]:8080");
        let six = GroupMember { host: "/fe80:0:0:0:0:0:0:1".to_owned(), ..member("one", "headwater@:80", &[]) };
        assert_eq!(of(&six).as_deref(), Some("[fe80:0:0:0:0:0:0:1]:80"));
        for other in ["rdkafka", "headwater@", "headwater@host", "headwater@host/x:80", "headwater@u:p@host:80"] {
            assert_eq!(of(&member("one", other, &[])), None, "{other}");
        }
    }

    /// Red when the mark stays behind an instance's name, or a name that only looks alike is cut.
    #[test]
    fn an_instance_has_its_name_without_the_mark() {
        let named = |instance: &str| name(&member(instance, "x", &[])).to_owned();
        assert_eq!(named("till-7-0a1b2c3d"), "till-7");
        assert_eq!((named("till-7").as_str(), named("-0a1b2c3d").as_str()), ("till-7", "-0a1b2c3d"));
        assert_eq!(named("einkäufe"), "einkäufe");
    }
}
