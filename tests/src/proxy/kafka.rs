//! Kafka's protocol: messages have their length before them, and answers the number of their request.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use super::Protocol;

/// The request for brokers and topics, and the first version of it whose arrays and strings are compact.
const METADATA: u16 = 3;
const COMPACT: u16 = 9;

/// The requests that can be watched.
const REQUESTS: [(u16, &str); 7] = [
    (0, "Produce"),
    (2, "ListOffsets"),
    (8, "OffsetCommit"),
    (24, "AddPartitionsToTxn"),
    (25, "AddOffsetsToTxn"),
    (26, "EndTxn"),
    (28, "TxnOffsetCommit"),
];

/// One connection to a broker.
pub(super) struct Kafka {
    /// The broker's address as it stands in answers, and the one to give instead.
    addresses: (Vec<u8>, Vec<u8>),
    /// The number of the request that was asked last.
    asked: [u8; 4],
    /// The number of the request whose answer is withheld.
    withheld: Option<[u8; 4]>,
    /// The numbers of the requests for brokers and topics that have no answer yet.
    listings: Vec<[u8; 4]>,
    /// Whether answers to those name no broker.
    brokerless: Arc<AtomicBool>,
}

impl Kafka {
    /// To the broker at this host; clients are to stay on the proxy's port.
    pub(super) fn new(host: &str, broker: u16, proxy: u16, brokerless: Arc<AtomicBool>) -> Self {
        let address = |port| [host.as_bytes(), &u32::from(port).to_be_bytes()[..]].concat();
        let (addresses, listings) = ((address(broker), address(proxy)), Vec::new());
        Self { addresses, asked: [0; 4], withheld: None, listings, brokerless }
    }
}

impl Protocol for Kafka {
    /// A request is told by its name and all that it carries: the ids of transactions and the names of topics are text.
    fn ask(&mut self, unread: &mut Vec<u8>) -> Option<(Vec<u8>, Option<String>)> {
        let frame = message(unread)?;
        let short = |at: usize| frame[at..].first_chunk().copied().map(u16::from_be_bytes);
        let (key, version, asked) = (short(4)?, short(6)?, *frame[8..].first_chunk()?);
        self.asked = asked;
        if key == METADATA && version >= COMPACT {
            self.listings.push(asked);
        }
        let name = REQUESTS.iter().find(|(request, _)| *request == key).map(|(_, name)| name);
        let request = name.map(|name| format!("{name} {}", String::from_utf8_lossy(&frame[12..])));
        Some((frame, request))
    }

    fn withhold(&mut self) {
        self.withheld = Some(self.asked);
    }

    fn answer(&mut self, unread: &mut Vec<u8>) -> Option<(Vec<u8>, bool)> {
        let mut frame = message(unread)?;
        let (broker, proxy) = &self.addresses;
        while let Some(at) = frame.windows(broker.len()).position(|bytes| bytes == broker) {
            frame[at..at + broker.len()].copy_from_slice(proxy);
        }
        if let Some(at) = self.listings.iter().position(|number| frame[4..].starts_with(number)) {
            self.listings.swap_remove(at);
            if self.brokerless.load(Ordering::Relaxed) {
                frame = without_brokers(&frame)?;
            }
        }
        let withheld = self.withheld.take_if(|number| frame[4..].starts_with(number)).is_some();
        Some((frame, withheld))
    }
}

/// The same list of brokers and topics without its brokers.
fn without_brokers(frame: &[u8]) -> Option<Vec<u8>> {
    // The length, the number, no tags, and how long the client was throttled.
    let (head, mut rest) = frame[4..].split_at_checked(4 + 1 + 4)?;
    for _ in 0..length(&mut rest)? {
        skip(&mut rest, 4)?;
        text(&mut rest)?;
        skip(&mut rest, 4)?;
        text(&mut rest)?;
        // No tags.
        skip(&mut rest, 1)?;
    }
    let body = [head, &[1], rest].concat();
    Some([&u32::try_from(body.len()).ok()?.to_be_bytes()[..], &body].concat())
}

fn skip(rest: &mut &[u8], count: usize) -> Option<()> {
    *rest = rest.get(count..)?;
    Some(())
}

fn text(rest: &mut &[u8]) -> Option<()> {
    let count = length(rest)?;
    skip(rest, count)
}

/// A compact length, which is told as one more, seven bits a byte; that of what is null is 0.
fn length(rest: &mut &[u8]) -> Option<usize> {
    let (mut told, mut shift) = (0, 0);
    loop {
        let (byte, left) = rest.split_first()?;
        *rest = left;
        told |= usize::from(byte & 0x7f).checked_shl(shift)?;
        shift += 7;
        if byte & 0x80 == 0 {
            return Some(told.saturating_sub(1));
        }
    }
}

/// The next whole message with its length.
fn message(unread: &mut Vec<u8>) -> Option<Vec<u8>> {
    let end = 4 + usize::try_from(u32::from_be_bytes(*unread.first_chunk()?)).ok()?;
    (unread.len() >= end).then(|| unread.drain(..end).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message_of(parts: &[&[u8]]) -> Vec<u8> {
        let body = parts.concat();
        [&u32::try_from(body.len()).expect("short").to_be_bytes()[..], &body].concat()
    }

    /// Red when requests are confused with each other, another answer than the one asked for is withheld, or a client is
    /// told where the broker itself listens.
    #[test]
    fn the_answer_to_one_request_is_withheld_and_names_the_proxy() {
        let mut kafka = Kafka::new("127.0.0.1", 9092, 77, Arc::default());
        let (produce, end) = ([0, 0, 0, 7, 0, 0, 0, 1], [0, 26, 0, 1, 0, 0, 0, 2]);
        let mut said = [message_of(&[&produce, b"id"]), message_of(&[&end, b"id.0"])].concat();
        let all = said.clone();
        let (first, request) = kafka.ask(&mut said).expect("whole");
        assert_eq!(request.as_deref(), Some("Produce id"));
        let (second, request) = kafka.ask(&mut said).expect("whole");
        assert_eq!(request.as_deref(), Some("EndTxn id.0"));
        assert!([first, second].concat() == all, "every byte is passed on");
        kafka.withhold();

        let answers =
            [message_of(&[&[0, 0, 0, 1], b"127.0.0.1", &9092_u32.to_be_bytes()]), message_of(&[&[0, 0, 0, 2]])];
        let (mut unread, mut seen) = (Vec::new(), Vec::new());
        for piece in answers.concat().chunks(3) {
            unread.extend_from_slice(piece);
            seen.extend(std::iter::from_fn(|| kafka.answer(&mut unread)));
        }
        let named = message_of(&[&[0, 0, 0, 1], b"127.0.0.1", &77_u32.to_be_bytes()]);
        assert_eq!(seen, [(named, false), (answers[1].clone(), true)]);
    }

    /// Red when a broker is left in the list, or a topic is lost with them.
    #[test]
    fn a_list_may_name_no_broker() {
        let brokerless = Arc::new(AtomicBool::new(true));
        let mut kafka = Kafka::new("127.0.0.1", 9092, 77, brokerless);
        let request = [0, 3, 0, 12, 0, 0, 0, 5];
        kafka.ask(&mut message_of(&[&request])).expect("whole");
        let head = [0, 0, 0, 5, 0, 0, 0, 0, 0];
        let broker = [&[0, 0, 0, 1, 3][..], b"ab", &9092_u32.to_be_bytes(), &[2, b'r', 0]].concat();
        let other = [&[0, 0, 0, 2, 2][..], b"c", &9093_u32.to_be_bytes(), &[0, 0]].concat();
        let mut answer = message_of(&[&head, &[3], &broker, &other, b"topics"]);
        assert_eq!(kafka.answer(&mut answer), Some((message_of(&[&head, &[1], b"topics"]), false)));
    }
}
