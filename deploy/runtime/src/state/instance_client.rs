//! Asking another instance, once: what it is asked it does not pass on.

use std::{fmt::Write as _, time::Duration};

use anyhow::Result;
use headwater::http::{Http as _, Request};
use headwater_connectors::{
    http::{HttpClient, HttpConfig},
    kafka::GroupMember,
    tls::TlsConfig,
};
use serde::{Deserialize, de::DeserializeOwned};

use super::{
    address,
    answer::{Entry, InstanceStats, KeyAnswer, ListAnswer, RefusalKind, StateError},
    query::ListQuery,
    stores::Store,
};

/// The header of a question that is not passed on.
pub(super) const FORWARDED: &str = "headwater-forwarded";
/// How long an instance may take to answer.
const ANSWER: Duration = Duration::from_secs(3);
/// Bytes of its answer at most: more than the longest list takes as JSON.
const BYTES: usize = 64 << 20;

/// Asks other instances.
pub(super) struct InstanceClient(HttpClient);

/// How an instance says why there is no answer.
#[derive(Deserialize)]
struct ErrorBody {
    error: String,
}

impl InstanceClient {
    pub(super) fn new() -> Result<Self> {
        let config =
            HttpConfig { timeout: ANSWER, connect_timeout: ANSWER, max_body_bytes: BYTES, tls: TlsConfig::default() };
        Ok(Self(HttpClient::new(&config)?))
    }

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
        let request = Request {
            method: "GET",
            url: format!("http://{address}{path}"),
            headers: vec![(FORWARDED, "1".to_owned())],
            body: Vec::new(),
        };
        let answer = self.0.send(request).await.map_err(|error| silent(error.0))?;
        if answer.status == 200 {
            return serde_json::from_slice(&answer.body).map_err(|error| silent(format!("no answer of ours: {error}")));
        }
        match serde_json::from_slice::<ErrorBody>(&answer.body) {
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
