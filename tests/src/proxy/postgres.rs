//! Postgres's protocol: which statement is run, also where that was prepared before and is run by its name.

use std::collections::HashMap;

use super::Protocol;

/// What a server says last in every answer, but for the state of the transaction that follows.
const READY: [u8; 5] = [b'Z', 0, 0, 0, 5];

/// What a connection has said so far.
#[derive(Default)]
pub(super) struct Postgres {
    /// The first message has no type.
    begun: bool,
    prepared: HashMap<String, String>,
    withholds: bool,
}

impl Protocol for Postgres {
    fn ask(&mut self, unread: &mut Vec<u8>) -> Option<(Vec<u8>, Option<String>)> {
        let head = usize::from(self.begun);
        let length: [u8; 4] = unread.get(head..head + 4)?.try_into().ok()?;
        let end = head + usize::try_from(u32::from_be_bytes(length)).ok()?;
        if unread.len() < end {
            return None;
        }
        let frame: Vec<u8> = unread.drain(..end).collect();
        if !std::mem::replace(&mut self.begun, true) {
            return Some((frame, None));
        }
        let mut texts = frame[5..].split(|byte| *byte == 0).map(|text| String::from_utf8_lossy(text).into_owned());
        let mut text = || texts.next().unwrap_or_default();
        let statement = match frame[0] {
            b'Q' => Some(text()),
            b'P' => {
                let (name, statement) = (text(), text());
                self.prepared.insert(name, statement);
                None
            }
            b'B' => {
                let (_portal, name) = (text(), text());
                self.prepared.get(&name).cloned()
            }
            _ => None,
        };
        Some((frame, statement))
    }
    fn withhold(&mut self) {
        self.withholds = true;
    }

    fn answer(&mut self, unread: &mut Vec<u8>) -> Option<(Vec<u8>, bool)> {
        let whole = || unread.len() >= 6 && unread[..unread.len() - 1].ends_with(&READY);
        if unread.is_empty() || (self.withholds && !whole()) {
            return None;
        }
        Some((std::mem::take(unread), std::mem::take(&mut self.withholds)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).expect("short").to_be_bytes();
        [&[kind][..], &length, body].concat()
    }

    /// Red when a statement that was prepared is not known by its name, or a message in two pieces is read as two.
    #[test]
    fn a_statement_is_known_when_it_is_run_not_when_it_is_prepared() {
        let mut said = frame(b'x', b"startup")[1..].to_vec();
        said.extend(frame(b'P', b"s1\0insert into t\0\0\0"));
        said.extend(frame(b'B', b"\0s1\0\0\0\0\0\0\0"));
        said.extend(frame(b'Q', b"COMMIT\0"));
        let (mut postgres, mut unread) = (Postgres::default(), Vec::new());
        let (mut passed, mut run) = (Vec::new(), Vec::new());
        for piece in said.chunks(3) {
            unread.extend_from_slice(piece);
            while let Some((frame, statement)) = postgres.ask(&mut unread) {
                passed.extend(frame);
                run.extend(statement);
            }
        }
        assert_eq!(run, ["insert into t", "COMMIT"]);
        assert!(passed == said, "every byte is passed on, in order");
    }
}
