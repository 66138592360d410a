//! The hash of the tables' keys.
//!
//! Keys are addresses and small numbers of a fixed size, and the operator chooses them, never a sender of packets: a
//! multiplication for each 8 bytes does. A general hasher would also mix in each key's length, which costs as
//! much as the key.

use std::hash::{BuildHasherDefault, Hasher};

/// A map whose keys are all of one size.
pub type Map<K, V> = hashbrown::HashMap<K, V, BuildHasherDefault<KeyHasher>>;

/// Hashes one key.
#[derive(Debug, Default, Clone, Copy)]
pub struct KeyHasher(u64);

impl KeyHasher {
    #[inline(always)]
    fn word(&mut self, word: u64) {
        // The upper half of a product depends on all bits of the word, the lower does not: both into one.
        const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
        let product = u128::from(self.0 ^ word ^ ODD.rotate_left(32)) * u128::from(ODD);
        self.0 = (product >> 64) as u64 ^ product as u64;
    }
}

impl Hasher for KeyHasher {
    #[inline(always)]
    fn write(&mut self, bytes: &[u8]) {
        let words = bytes.chunks_exact(8);
        let rest = words.remainder();
        for word in words {
            self.word(u64::from_le_bytes([
                word[0], word[1], word[2], word[3], word[4], word[5], word[6], word[7],
            ]));
        }
        match *rest {
            [] => {}
            [a, b, c, d] => self.write_u32(u32::from_le_bytes([a, b, c, d])),
            [a, b, c, d, e, f] => self.word(u64::from_le_bytes([a, b, c, d, e, f, 0, 0])),
            _ => rest.iter().for_each(|byte| self.word(u64::from(*byte))),
        }
    }
    #[inline(always)]
    fn write_u32(&mut self, value: u32) {
        self.word(u64::from(value));
    }
    #[inline(always)]
    fn write_u64(&mut self, value: u64) {
        self.word(value);
    }
    /// A length, which is the same for all keys of a table.
    #[inline(always)]
    fn write_usize(&mut self, _: usize) {}
    #[inline(always)]
    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::MacAddr;
    use std::collections::HashSet;
    use std::hash::{BuildHasher, Hash};
    use std::net::{Ipv4Addr, Ipv6Addr};

    /// The bits that hashbrown looks at: the low ones for the place, the seven highest for the tag.
    fn spread<K: Hash>(keys: impl Iterator<Item = K>) -> (usize, usize) {
        let hashes: Vec<_> =
            keys.map(|key| BuildHasherDefault::<KeyHasher>::default().hash_one(key)).collect();
        let places: HashSet<_> = hashes.iter().map(|hash| hash & 0xfff).collect();
        let tags: HashSet<_> = hashes.iter().map(|hash| hash >> 57).collect();
        (places.len(), tags.len())
    }

    /// 1,024 keys into 4,096 places: by chance they would have some 906 to themselves.
    #[test]
    fn the_keys_of_a_cluster_are_spread() {
        let v4 = |n: u32| Ipv4Addr::from_bits(0x0af4_0000 + n);
        let net = |n: u32| Ipv4Addr::from_bits(0x0a00_0000 + (n << 8));
        let v6 = |n: u32| Ipv6Addr::from_bits(0xfd00_0010_0244 << 80 | u128::from(n));
        let net6 = |n: u32| Ipv6Addr::from_bits((0xfd00_0010_0244 << 16 | u128::from(n)) << 64);
        let mac = |n: u32| MacAddr([0x0a, 0x58, 10, 244, (n >> 8) as u8, n as u8]);
        let found = [
            spread((0..1024).map(v4)),
            spread((0..1024).map(net)),
            spread((0..1024).map(v6)),
            spread((0..1024).map(net6)),
            spread((0..1024).map(mac)),
            spread((0..1024).map(|n| (v4(n).to_ipv6_mapped(), 1u32))),
            spread((0..1024).map(|n| (v4(7).to_ipv6_mapped(), n))),
        ];
        for (places, tags) in found {
            assert!(places > 800 && tags > 100, "{found:?}");
        }
    }
}
