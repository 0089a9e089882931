//! Asking another instance, once: what it is asked it does not pass on.

use std::fmt::Write as _;

use headwater_connectors::kafka::GroupMember;
use serde::{Deserialize, de::DeserializeOwned};

use super::{
    address,
    answer::{Entry, InstanceStats, KeyAnswer, ListAnswer, RefusalKind, StateError},
    query::ListQuery,
    stores::Store,
};
use crate::clients::peer_client::{PeerClient, PeerError};

/// The header of a question that is not passed on.
pub(super) const FORWARDED: &str = "headwater-forwarded";
/// Bytes of its answer at most: more than the longest list takes as JSON.
pub(super) const BYTES: usize = 64 << 20;

/// Asks other instances.
pub(super) struct InstanceClient(pub(super) PeerClient);

/// How an instance says why there is no answer.
#[derive(Deserialize)]
struct ErrorBody {
    error: String,
}

impl InstanceClient {
    pub(super) async fn get(&self, owner: &GroupMember, store: &Store, key: &str) -> Result<Entry, StateError> {
        // A path cannot have every key: `..` would be taken for the folder above.
        let found: KeyAnswer = self.ask(owner, &format!("{}?key={}", path(store), encoded(key))).await?;
        Ok(found.entry)
    }

    pub(super) async fn list(
        &self,
        owner: &GroupMember,
        store: &Store,
        partitions: &[i32],
        asked: &ListQuery,
    ) -> Result<Vec<Entry>, StateError> {
        let numbers: Vec<String> = partitions.iter().map(ToString::to_string).collect();
        let (prefix, limit) = (encoded(&asked.prefix), asked.limit);
        let query = format!("prefix={prefix}&limit={limit}&partitions={}", numbers.join(","));
        let listed: ListAnswer = self.ask(owner, &format!("{}?{query}", path(store))).await?;
        Ok(listed.entries)
    }

    pub(super) async fn stats(&self, member: &GroupMember) -> Result<InstanceStats, StateError> {
        self.ask(member, "/v1/state").await
    }

    async fn ask<T: DeserializeOwned>(&self, owner: &GroupMember, path: &str) -> Result<T, StateError> {
        let name = address::name(owner);
        let Some(address) = address::of(owner) else {
            let text = format!("where instance {name} answers is unknown: its client id is `{}`", owner.client);
            return Err(RefusalKind::Silent.because(text));
        };
        let silent = |why: String| {
            RefusalKind::Silent.because(format!("instance {name}, which has it, does not answer at {address}: {why}"))
        };
        let answer =
            self.0.get(&address, path, vec![(FORWARDED, "1".to_owned())]).await.map_err(|error| match error {
                PeerError::NoAnswer(why) => silent(why),
                PeerError::NotAllowed(_) => {
                    RefusalKind::Silent.because(format!("instance {name}, which has it, is not asked: {error}"))
                }
            })?;
        if answer.status == 200 {
            return serde_json::from_slice(&answer.body).map_err(|error| silent(format!("no answer of ours: {error}")));
        }
        match serde_json::from_slice::<ErrorBody>(&answer.body) {
            Ok(told) if answer.status == 401 => {
                let text =
                    format!("instance {name}, which has it, does not take what {address} is shown: {}", told.error);
                Err(RefusalKind::Silent.because(text))
            }
            Ok(told) => Err(RefusalKind::told(answer.status).because(told.error)),
            Err(_) => Err(silent(format!("it says {} without a reason", answer.status))),
        }
    }
}

fn path(store: &Store) -> String {
    format!("/v1/state/{}/{}", encoded(&store.group), encoded(store.name))
}

/// Text as a part of an address: everything but letters, digits, `-`, `_`, `.` and `~` is written `%41`.
fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            out.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Red when a character that means something in an address is sent as it is.
    #[test]
    fn what_is_sent_has_no_character_of_an_address() {
        assert_eq!(encoded("a-b_c.d~9"), "a-b_c.d~9");
        assert_eq!(encoded("a/b?c&d=e#f%g+h i"), "a%2Fb%3Fc%26d%3De%23f%25g%2Bh%20i");
        assert_eq!(encoded("é"), "%C3%A9");
    }
}
