//! Kafka's protocol: messages have their length before them, and answers the number of their request.

use super::Protocol;

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
}

impl Kafka {
    /// To the broker at this host; clients are to stay on the proxy's port.
    pub(super) fn new(host: &str, broker: u16, proxy: u16) -> Self {
        let address = |port| [host.as_bytes(), &u32::from(port).to_be_bytes()[..]].concat();
        Self { addresses: (address(broker), address(proxy)), asked: [0; 4], withheld: None }
    }
}

impl Protocol for Kafka {
    /// A request is told by its name and all that it carries: the ids of transactions and the names of topics are text.
    fn ask(&mut self, unread: &mut Vec<u8>) -> Option<(Vec<u8>, Option<String>)> {
        let frame = message(unread)?;
        let (key, asked) = (u16::from_be_bytes(*frame[4..].first_chunk()?), *frame[8..].first_chunk()?);
        self.asked = asked;
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
        let withheld = self.withheld.take_if(|number| frame[4..].starts_with(number)).is_some();
        Some((frame, withheld))
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
        let mut kafka = Kafka::new("127.0.0.1", 9092, 77);
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
}
