//! A stable hash: jitter without a random number generator.

/// FNV-1a over `bytes`, 64 bits.
///
/// Equal on every host and in every release, so that decisions based on it can be replayed.
pub fn fnv1a(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

/// FNV-1a over `bytes`, 32 bits: the Go program names sets of nf_tables by it.
pub fn fnv1a_32(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x100_0193))
}

/// A fraction in `0.0..1.0` taken from a seed and a counter.
pub fn spread(seed: u64, counter: u64) -> f64 {
    let mixed = fnv1a(&[seed.to_le_bytes(), counter.to_le_bytes()].concat());
    (mixed >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_vectors_of_fnv1a() {
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
        assert_eq!(
            [fnv1a_32(b""), fnv1a_32(b"a"), fnv1a_32(b"foobar")],
            [0x811c_9dc5, 0xe40c_292c, 0xbf9c_f968]
        );
    }

    #[test]
    fn the_spread_is_below_one_and_differs_between_counters() {
        let values: Vec<f64> = (0..100).map(|counter| spread(7, counter)).collect();
        assert!(values.iter().all(|value| (0.0..1.0).contains(value)));
        assert!(values.windows(2).all(|pair| pair[0] != pair[1]));
    }
}
