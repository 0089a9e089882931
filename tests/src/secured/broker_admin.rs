//! What an administrator does at a living broker that the client library has no call for: passwords and ACLs.
//!
//! It speaks Kafka's protocol itself, on the listener that asks nobody who they are.

use sha2::{Digest, Sha256, Sha512};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// Kafka's smallest number of rounds.
const ITERATIONS: u32 = 4096;
const SALT: &[u8] = b"salt of the tests";
/// The last place of each list of names below is what a filter calls any.
const ANY: u8 = 1;
const ALLOW: u8 = 3;
const RESOURCES: [&str; 4] = ["topic", "group", "cluster", "transactional-id"];
const OPERATIONS: [&str; 11] = [
    "all",
    "read",
    "write",
    "create",
    "delete",
    "alter",
    "describe",
    "cluster-action",
    "describe-configs",
    "alter-configs",
    "idempotent-write",
];
/// Kafka's numbers begin here in both lists: 0 is unknown, 1 is any.
const FIRST: u8 = 2;

/// Something that a user may do, in the words of Kafka's own tools.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acl {
    /// The user, without `User:` before it.
    pub user: String,
    /// `topic`, `group`, `cluster` or `transactional-id`.
    pub resource: String,
    /// The resource's name, or what it begins with; that of a cluster is `kafka-cluster`.
    pub name: String,
    /// Whether that is what the name begins with.
    pub prefixed: bool,
    /// `read`, `write`, `describe`, `idempotent-write` …
    pub operation: String,
}

/// An administrator's way to a broker.
#[derive(Clone, Debug)]
pub struct BrokerAdmin {
    bootstrap: String,
}

impl BrokerAdmin {
    /// At the broker whose open listener is at this `host:port`.
    pub fn new(bootstrap: &str) -> Self {
        Self { bootstrap: bootstrap.to_owned() }
    }

    /// Gives a user this password for both forms of SCRAM; a user that is not there is made. Connections that are there
    /// stay. PLAIN's passwords never change.
    ///
    /// # Panics
    /// When the broker refuses.
    pub async fn set_password(&self, user: &str, password: &str) {
        let salted = [
            (1, salted_password::<Sha256>(password.as_bytes(), 64)),
            (2, salted_password::<Sha512>(password.as_bytes(), 128)),
        ];
        // No deletions; then as many as there are, each with its end of tags, and the request's.
        let mut body = vec![1, compact(salted.len())];
        for (mechanism, salted) in salted {
            compact_bytes(&mut body, user.as_bytes());
            body.push(mechanism);
            body.extend(ITERATIONS.to_be_bytes());
            compact_bytes(&mut body, SALT);
            compact_bytes(&mut body, &salted);
            body.push(0);
        }
        body.push(0);
        let mut answer = Answer(self.request(51, 0, &body).await);
        // The header's tags, and how long the broker made us wait.
        answer.take(1 + 4);
        let results = answer.u8().saturating_sub(1);
        assert!(results > 0, "no result for {user}");
        for _ in 0..results {
            let length = usize::from(answer.u8()).saturating_sub(1);
            answer.take(length);
            let code = answer.i16();
            assert_eq!(code, 0, "the broker does not set the password of {user}: error {code}");
            let message = usize::from(answer.u8()).saturating_sub(1);
            answer.take(message + 1);
        }
    }

    /// Allows this.
    ///
    /// # Panics
    /// When the broker refuses one of them, or a word in it is none of Kafka's.
    pub async fn allow(&self, acls: &[Acl]) {
        let mut body = length(acls.len());
        for acl in acls {
            body.push(number(&RESOURCES, &acl.resource));
            string(&mut body, &acl.name);
            body.push(if acl.prefixed { 4 } else { 3 });
            string(&mut body, &format!("User:{}", acl.user));
            string(&mut body, "*");
            body.extend([number(&OPERATIONS, &acl.operation), ALLOW]);
        }
        let mut answer = Answer(self.request(30, 1, &body).await);
        answer.take(4);
        for acl in &acls[..answer.count()] {
            let code = answer.i16();
            let message = answer.string();
            assert_eq!(code, 0, "the broker does not take {acl:?}: {message}");
        }
    }

    /// Takes back whatever was allowed to a user.
    ///
    /// # Panics
    /// When the broker refuses.
    pub async fn forbid_all(&self, user: &str) {
        const NULL: [u8; 2] = [0xff, 0xff];
        let mut body = length(1);
        body.push(ANY);
        body.extend(NULL);
        body.push(ANY);
        string(&mut body, &format!("User:{user}"));
        body.extend(NULL);
        body.extend([ANY, ANY]);
        let mut answer = Answer(self.request(31, 1, &body).await);
        answer.take(4);
        assert_eq!(answer.count(), 1, "one filter, one result");
        let code = answer.i16();
        assert_eq!(code, 0, "the broker takes nothing back from {user}: {}", answer.string());
    }

    /// Asks and gives what is answered behind the correlation id.
    async fn request(&self, key: u16, version: u16, body: &[u8]) -> Vec<u8> {
        const CORRELATION: [u8; 4] = [0, 0, 0, 7];
        let mut request = [key.to_be_bytes(), version.to_be_bytes()].concat();
        request.extend(CORRELATION);
        string(&mut request, "headwater-tests");
        // Flexible versions have tags there; this is the only one.
        request.extend((key == 51).then_some(0));
        request.extend(body);
        let mut stream = TcpStream::connect(&self.bootstrap).await.expect("the broker listens");
        stream.write_all(&[length(request.len()), request].concat()).await.expect("sent");
        let size = stream.read_u32().await.expect("an answer");
        let mut answer = vec![0; size as usize];
        stream.read_exact(&mut answer).await.expect("an answer");
        assert_eq!(answer[..4], CORRELATION);
        answer.split_off(4)
    }
}

/// What is left to read of an answer.
struct Answer(Vec<u8>);

impl Answer {
    fn take(&mut self, bytes: usize) -> Vec<u8> {
        assert!(bytes <= self.0.len(), "the answer ends early");
        let rest = self.0.split_off(bytes);
        std::mem::replace(&mut self.0, rest)
    }

    fn u8(&mut self) -> u8 {
        self.take(1)[0]
    }

    fn i16(&mut self) -> i16 {
        let bytes = self.take(2);
        i16::from_be_bytes([bytes[0], bytes[1]])
    }

    fn count(&mut self) -> usize {
        let bytes = self.take(4);
        usize::try_from(i32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])).expect("a count")
    }

    /// A text, or nothing.
    fn string(&mut self) -> String {
        let length = usize::try_from(self.i16()).unwrap_or_default();
        String::from_utf8_lossy(&self.take(length)).into_owned()
    }
}

fn number(words: &[&str], word: &str) -> u8 {
    let at = words.iter().position(|one| *one == word);
    let at = at.unwrap_or_else(|| panic!("{word} is none of {words:?}"));
    u8::try_from(at).expect("a few words") + FIRST
}

fn length(length: usize) -> Vec<u8> {
    u32::try_from(length).expect("short").to_be_bytes().to_vec()
}

fn string(to: &mut Vec<u8>, text: &str) {
    to.extend(u16::try_from(text.len()).expect("short").to_be_bytes());
    to.extend(text.as_bytes());
}

/// A length as flexible versions have it; all of ours take one byte.
fn compact(length: usize) -> u8 {
    u8::try_from(length + 1).ok().filter(|length| *length < 0x80).expect("short")
}

fn compact_bytes(to: &mut Vec<u8>, bytes: &[u8]) {
    to.push(compact(bytes.len()));
    to.extend(bytes);
}

/// `Hi` of RFC 5802: PBKDF2 with HMAC for one block of output. `block` is the hash function's.
fn salted_password<D: Digest + Clone>(password: &[u8], block: usize) -> Vec<u8> {
    let mut key = if password.len() > block { D::digest(password).to_vec() } else { password.to_vec() };
    key.resize(block, 0);
    let keyed = |pad: u8| D::new_with_prefix(key.iter().map(|byte| byte ^ pad).collect::<Vec<u8>>());
    let (inner, outer) = (keyed(0x36), keyed(0x5c));
    let hmac = |text: &[u8]| outer.clone().chain_update(inner.clone().chain_update(text).finalize()).finalize();
    let mut round = hmac(&[SALT, &[0, 0, 0, 1]].concat()).to_vec();
    let mut salted = round.clone();
    for _ in 1..ITERATIONS {
        round = hmac(&round).to_vec();
        salted.iter_mut().zip(&round).for_each(|(sum, byte)| *sum ^= byte);
    }
    salted
}
