//! Murmur2 as Java's producer hashes keys, so that both choose the same partition.

/// The partition of a key among `partitions`, as Java's default partitioner chooses it.
/// Source: `org.apache.kafka.clients.producer.internals.BuiltInPartitioner.partitionForKey`.
pub fn partition_for(key: &[u8], partitions: i32) -> i32 {
    (murmur2(key) & 0x7fff_ffff) % partitions.max(1)
}

/// Source: `org.apache.kafka.common.utils.Utils.murmur2`.
fn murmur2(data: &[u8]) -> i32 {
    const SEED: u32 = 0x9747_b28c;
    const M: u32 = 0x5bd1_e995;
    // Java's length is an int, and the multiplication wraps.
    #[allow(clippy::cast_possible_truncation)]
    let mut h = SEED ^ data.len() as u32;
    let (words, rest) = data.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> 24;
        h = h.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !rest.is_empty() {
        for (i, byte) in rest.iter().enumerate() {
            h ^= u32::from(*byte) << (8 * i);
        }
        h = h.wrapping_mul(M);
    }
    h ^= h >> 13;
    h = h.wrapping_mul(M);
    h ^= h >> 15;
    h.cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Red when the tail is not mixed in, or the sign is dropped by `abs`.
    #[test]
    fn hashes_equal_javas() {
        for (key, hash, of_6, of_12) in [
            ("", 275_646_681, 3, 9),
            ("o1", -1_005_388_381, 1, 7),
            ("o2", -1_414_428_570, 2, 2),
            ("o42", 482_837_896, 4, 4),
            ("cus-000123", -781_555_398, 2, 2),
            ("4bf92f35-77b3-5da6-a3ce-929d0e0e4736", 1_664_109_994, 4, 10),
            ("Zürich", -1_551_140_815, 1, 1),
            ("🦀", 1_309_741_855, 1, 7),
        ] {
            assert_eq!(murmur2(key.as_bytes()), hash, "{key}");
            assert_eq!(partition_for(key.as_bytes(), 6), of_6, "{key}");
            assert_eq!(partition_for(key.as_bytes(), 12), of_12, "{key}");
        }
    }
}
