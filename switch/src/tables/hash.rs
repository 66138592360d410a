//! The tables' hash map and the hash of its keys.
//!
//! Open addressing with linear probing, at most a quarter full: a key is nearly always in the first slot that is looked at, so that the
//! processor guesses right; in tables half full it did not for every fourth key. And what is looked at is known from the key alone, so that a burst can have all its lines fetched before it looks into the first
//! ([`Map::prefetch`]). That is what a map of the standard library's kind cannot offer: with 100,000 MAC addresses every packet would
//! wait for memory.
//!
//! Keys are addresses and small numbers of a fixed size, and the operator chooses them, never a sender of packets: a
//! multiplication for each 8 bytes does. A general hasher would also mix in each key's length, which costs as
//! much as the key.

use std::hash::{BuildHasher, BuildHasherDefault, Hash, Hasher};

use weft_sync::prefetch::prefetch_read;

/// A table of up to so many bytes stays in the caches next to the core: fetching its lines early costs more than it saves.
pub(crate) const NEAR: usize = 64 << 10;

/// Slots of a table that has few keys: what is not there is asked for as often as what is.
const LEAST: usize = 64;

/// A place for a key and its value. With a MAC or IPv4 address for a key it has 16 bytes, so that none lies across two cache lines, of which
/// the second would not be fetched early. With an IPv6 address it has 32, and the allocator may put every second one so. Measured: to
/// group slots by cache lines gains those nothing, whatever the size of the table, and makes the others' look-ups a quarter dearer.
#[derive(Debug, Clone)]
#[repr(align(16))]
struct Slot<K, V>(Option<(K, V)>);

/// A map whose keys are all of one size. Built once, then only read.
#[derive(Debug, Clone)]
pub struct Map<K, V> {
    /// None at all, or a power of two of which at most a quarter are used.
    slots: Box<[Slot<K, V>]>,
    /// How far a hash is shifted to be a slot's number.
    shift: u32,
    len: usize,
}

impl<K, V> Default for Map<K, V> {
    fn default() -> Self {
        Self { slots: Box::default(), shift: 63, len: 0 }
    }
}

impl<K: Hash + Eq, V> Map<K, V> {
    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True without a key.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where the search for a key begins. Past the end where there are no slots.
    #[inline(always)]
    fn home(&self, key: &K) -> usize {
        (BuildHasherDefault::<KeyHasher>::default().hash_one(key) >> self.shift) as usize
    }

    /// The value of the key.
    #[inline(always)]
    pub fn get(&self, key: &K) -> Option<&V> {
        let mut at = self.home(key);
        loop {
            match self.slots.get(at) {
                Some(Slot(Some((other, value)))) if other == key => return Some(value),
                Some(Slot(Some(_))) => at = (at + 1) & (self.slots.len() - 1),
                Some(Slot(None)) | None => return None,
            }
        }
    }

    /// Whether the key is there.
    #[inline]
    pub fn contains_key(&self, key: &K) -> bool {
        self.get(key).is_some()
    }

    /// True for a table that may not be in the caches next to the core.
    #[inline]
    pub fn is_far(&self) -> bool {
        size_of_val(&*self.slots) > NEAR
    }

    /// Fetches what [`Self::get`] will look at.
    #[inline]
    pub fn prefetch(&self, key: &K) {
        if let Some(slot) = self.slots.get(self.home(key)) {
            prefetch_read(slot);
        }
    }

    /// Sets the value of the key; the one that it had.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        if (self.len + 1) * 4 > self.slots.len() {
            self.grow();
        }
        let mut at = self.home(&key);
        while self.slots[at].0.as_ref().is_some_and(|(other, _)| *other != key) {
            at = (at + 1) & (self.slots.len() - 1);
        }
        let old = self.slots[at].0.replace((key, value));
        self.len += usize::from(old.is_none());
        old.map(|(_, value)| value)
    }

    fn grow(&mut self) {
        let count = (self.slots.len() * 2).max(LEAST);
        let slots = (0..count).map(|_| Slot(None)).collect();
        let shift = u64::BITS - count.trailing_zeros();
        let old = std::mem::replace(self, Self { slots, shift, len: 0 });
        for (key, value) in old.slots.into_iter().filter_map(|slot| slot.0) {
            self.insert(key, value);
        }
    }

    /// Every key with its value, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.slots.iter().filter_map(|slot| slot.0.as_ref()).map(|(key, value)| (key, value))
    }
}

impl<K: Hash + Eq, V> FromIterator<(K, V)> for Map<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(all: I) -> Self {
        let mut map = Self::default();
        for (key, value) in all {
            map.insert(key, value);
        }
        map
    }
}

/// Hashes one key: by Fibonacci's multiplier, whose upper bits spread what counts up, as addresses in a cluster do, evenly and nearly
/// without collisions.
#[derive(Debug, Default, Clone, Copy)]
pub struct KeyHasher(u64);

impl KeyHasher {
    #[inline(always)]
    fn word(&mut self, word: u64) {
        // 2^64 by the golden ratio. The upper half of a word before goes where it counts.
        self.0 = (self.0.rotate_left(32) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

impl Hasher for KeyHasher {
    /// As numbers in network order: the next address is the next number.
    #[inline(always)]
    fn write(&mut self, bytes: &[u8]) {
        let words = bytes.chunks_exact(8);
        let rest = words.remainder();
        for word in words {
            self.word(u64::from_be_bytes([
                word[0], word[1], word[2], word[3], word[4], word[5], word[6], word[7],
            ]));
        }
        match *rest {
            [] => {}
            [a, b, c, d] => self.write_u32(u32::from_be_bytes([a, b, c, d])),
            [a, b, c, d, e, f] => self.word(u64::from_be_bytes([0, 0, a, b, c, d, e, f])),
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
    use proptest::prelude::*;
    use std::collections::{HashMap, HashSet};
    use std::net::{Ipv4Addr, Ipv6Addr};

    /// In how many places of 4,096 the keys begin.
    fn spread<K: Hash>(keys: impl Iterator<Item = K>) -> usize {
        let hash = |key| BuildHasherDefault::<KeyHasher>::default().hash_one(key);
        keys.map(|key| hash(key) >> 52).collect::<HashSet<_>>().len()
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
            spread((0..1024).map(|n| (v6(n), 1u32))),
            spread((0..1024).map(|n| (v6(7), n))),
            spread((0..1024u64).map(|n| 1 << 32 | n)),
        ];
        assert!(found.iter().all(|places| *places > 800), "{found:?}");
    }

    proptest! {
        #[test]
        fn the_same_as_the_standard_map(entries in prop::collection::vec((0u32..300, any::<u16>()), 0..400)) {
            let (mut map, mut oracle) = (Map::default(), HashMap::new());
            for (key, value) in entries {
                prop_assert_eq!(map.insert(key, value), oracle.insert(key, value));
                prop_assert_eq!(map.len(), oracle.len());
            }
            for key in 0..300 {
                prop_assert_eq!(map.get(&key), oracle.get(&key));
                map.prefetch(&key);
            }
            prop_assert_eq!(map.iter().collect::<HashMap<_, _>>(), oracle.iter().collect());
        }
    }
}
