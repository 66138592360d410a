//! A table that all workers learn MAC addresses into: which station was heard behind which port, and when.
//!
//! An entry is one word, address and port together, so that no reader sees half of a change: learning is a compare and swap
//! of a free place, a move is one of the whole entry, forgetting is one to zero. An address has two buckets that it may be in, of a
//! cache line each, and no other place: a look-up reads two lines whatever the table holds. An address whose buckets are
//! both full is not learned.
//!
//! # Two workers that learn an address at once
//!
//! They may take two different places. Each of them therefore looks through both buckets *after* it has taken a place,
//! and whichever sees two entries removes the earlier of them, in the order in which look-ups go: one that has passed the later
//! place before it was taken meets the earlier entry, and one that finds that gone, the later. A fence between taking and looking
//! makes sure that at least one of the two sees both. Until then a reader may find either; both are what a frame just said.
//!
//! # When an address was heard
//!
//! Beside the entries, in a line that is written once a second at most for each address. It is written before the entry is, so
//! that a fresh entry does not look old. Whoever forgets by age may, in a race of a few instructions, forget an
//! address that was heard this moment; the next frame teaches it again.

use std::fmt;

use crate::atomics::{AcqRel, Acquire, AtomicU32, AtomicU64, Relaxed, SeqCst, fence};

/// Entries in a bucket: a cache line. The models get by with fewer.
const WAYS: usize = if cfg!(loom) { 2 } else { 8 };
/// How often a change is tried anew that another thread came between; then the next frame is left to do it.
const TRIES: usize = 8;

const PORT_BITS: u32 = 16;

/// What became of an address that was to be learned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Learn {
    /// It was known, behind this port.
    Known,
    /// It is new.
    Learned,
    /// It was behind another port until now.
    Moved,
    /// It stays behind another port, since too many have moved.
    MoveRefused,
    /// The port has as many as it may have.
    PortFull,
    /// The table has no room for it.
    Full,
    /// Other threads changed the same entry again and again.
    Busy,
}

/// An address that was learned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The MAC address.
    pub mac: [u8; 6],
    /// The number of the port that it was heard behind.
    pub port: u16,
    /// When it was heard last, in the seconds that the table was told.
    pub heard: u32,
}

/// What limits learning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Seconds after which an address that was not heard counts as forgotten.
    pub ageing: u32,
    /// Addresses behind one port at most.
    pub limit: u32,
}

#[repr(align(64))]
struct Bucket([AtomicU64; WAYS]);

struct Heard([AtomicU32; WAYS]);

/// The table. Everything in it is used through a shared reference.
pub struct LearnTable {
    /// Address in the upper 48 bits, port in the lower 16; 0 is free, as no station has address 0.
    buckets: Box<[Bucket]>,
    heard: Box<[Heard]>,
    /// Entries of each port.
    counts: Box<[AtomicU32]>,
    /// So that nobody outside knows which addresses share a bucket.
    seed: u64,
}

/// A place in the table.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Place {
    bucket: usize,
    way: usize,
}

impl LearnTable {
    /// An empty table for `ports` ports with room for `capacity` addresses or a little more: a power of two of buckets,
    /// two at least.
    /// `seed` should be random.
    pub fn new(capacity: usize, ports: usize, seed: u64) -> Self {
        let buckets = capacity.div_ceil(WAYS).next_power_of_two().max(2);
        Self {
            buckets: (0..buckets).map(|_| Bucket(std::array::from_fn(|_| AtomicU64::new(0)))).collect(),
            heard: (0..buckets).map(|_| Heard(std::array::from_fn(|_| AtomicU32::new(0)))).collect(),
            counts: (0..ports).map(|_| AtomicU32::new(0)).collect(),
            seed,
        }
    }

    /// The port that `mac` was heard behind within the last `ageing` seconds. Writes nothing.
    #[inline]
    pub fn lookup(&self, mac: [u8; 6], now: u32, ageing: u32) -> Option<u16> {
        let (place, entry) = self.find(number(mac))?;
        (!self.is_old(place, now, ageing)).then_some(entry as u16)
    }

    /// `mac` was heard behind `port`. `may_move` is asked where it was heard behind another before, and is not asked twice.
    ///
    /// Address 0 and a port that the table is not made for are never learned ([`Learn::Full`], [`Learn::PortFull`]).
    #[inline]
    pub fn learn(
        &self,
        mac: [u8; 6],
        port: u16,
        now: u32,
        rules: Rules,
        may_move: impl FnOnce() -> bool,
    ) -> Learn {
        let number = number(mac);
        match self.find(number) {
            Some((place, entry)) if entry as u16 == port => {
                self.refresh(place, now);
                Learn::Known
            }
            _ if number == 0 => Learn::Full,
            // A port's flood of addresses ends here: nothing more is looked at, and nothing written.
            None if self.has_its_fill(port, rules.limit) => Learn::PortFull,
            _ => self.change(number, port, now, rules, may_move),
        }
    }

    #[cold]
    fn change(
        &self,
        number: u64,
        port: u16,
        now: u32,
        rules: Rules,
        may_move: impl FnOnce() -> bool,
    ) -> Learn {
        let entry = number << PORT_BITS | u64::from(port);
        let (mut may_move, mut allowed) = (Some(may_move), false);
        for _ in 0..TRIES {
            let (place, before) = match self.find(number) {
                Some((place, found)) if found == entry => {
                    self.refresh(place, now);
                    return Learn::Known;
                }
                Some(found) => found,
                None => match self.free_place(number) {
                    Some(place) => (place, 0),
                    None => return Learn::Full,
                },
            };
            let moves = before != 0 && !self.is_old(place, now, rules.ageing);
            if moves {
                allowed = may_move.take().map_or(allowed, |ask| ask());
                if !allowed {
                    return Learn::MoveRefused;
                }
            }
            if !self.count(port, rules.limit) {
                return Learn::PortFull;
            }
            self.refresh(place, now);
            if !self.swap(place, before, entry) {
                self.uncount(port);
                continue;
            }
            if before != 0 {
                self.uncount(before as u16);
                return if moves { Learn::Moved } else { Learn::Learned };
            }
            fence(SeqCst);
            self.keep_last(number);
            return Learn::Learned;
        }
        Learn::Busy
    }

    /// Removes all entries of the address but the last in the order of [`Self::find`].
    fn keep_last(&self, number: u64) {
        for place in self.places(number).rev().filter(|place| self.holds(*place, number)).skip(1) {
            loop {
                let entry = self.at(place).load(Acquire);
                if entry >> PORT_BITS != number || self.remove(place, entry) {
                    break;
                }
            }
        }
    }

    /// Forgets everything that was heard behind `port`. Whoever removes the port calls it after no worker receives from it any
    /// more.
    pub fn forget_port(&self, port: u16) {
        // Most ports have taught nothing, and the table is large.
        if self.count_of(port) > 0 {
            self.forget_if(|_, entry| entry as u16 == port);
        }
    }

    /// Forgets what was not heard for `ageing` seconds; how many addresses that was.
    pub fn sweep(&self, now: u32, ageing: u32) -> usize {
        self.forget_if(|place, _| self.is_old(place, now, ageing))
    }

    fn forget_if(&self, goes: impl Fn(Place, u64) -> bool) -> usize {
        let entries = self.all().filter(|(place, entry)| goes(*place, *entry));
        entries.filter(|(place, entry)| self.remove(*place, *entry)).count()
    }

    /// What was learned, in no order. Entries that come or go meanwhile may be among it or not.
    pub fn iter(&self) -> impl Iterator<Item = Entry> + '_ {
        self.all().map(|(place, entry)| {
            let [_, _, mac @ ..] = (entry >> PORT_BITS).to_be_bytes();
            Entry { mac, port: entry as u16, heard: self.stamp(place).load(Relaxed) }
        })
    }

    /// How many addresses were learned behind `port`.
    pub fn count_of(&self, port: u16) -> u32 {
        self.counts.get(usize::from(port)).map_or(0, |count| count.load(Relaxed))
    }

    fn all(&self) -> impl Iterator<Item = (Place, u64)> + '_ {
        let places =
            (0..self.buckets.len()).flat_map(|bucket| (0..WAYS).map(move |way| Place { bucket, way }));
        places.map(|place| (place, self.at(place).load(Acquire))).filter(|(_, entry)| *entry != 0)
    }

    #[inline]
    fn buckets_of(&self, number: u64) -> [usize; 2] {
        const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
        let product = u128::from(number ^ self.seed) * u128::from(ODD);
        let hash = (product >> 64) as u64 ^ product as u64;
        let mask = self.buckets.len() - 1;
        let first = hash as usize & mask;
        let second = (hash >> 32) as usize & mask;
        [first, if first == second { (first + 1) & mask } else { second }]
    }

    /// The places that an address may be in, in their order.
    #[inline]
    fn places(&self, number: u64) -> impl DoubleEndedIterator<Item = Place> + use<> {
        let [first, second] = self.buckets_of(number);
        (0..2 * WAYS).map(move |at| Place { bucket: if at < WAYS { first } else { second }, way: at % WAYS })
    }

    #[inline]
    fn find(&self, number: u64) -> Option<(Place, u64)> {
        self.places(number).find_map(|place| {
            let entry = self.at(place).load(Acquire);
            (entry >> PORT_BITS == number && entry != 0).then_some((place, entry))
        })
    }

    fn holds(&self, place: Place, number: u64) -> bool {
        self.at(place).load(Acquire) >> PORT_BITS == number
    }

    fn free_place(&self, number: u64) -> Option<Place> {
        self.places(number).find(|place| self.at(*place).load(Acquire) == 0)
    }

    #[inline]
    fn at(&self, place: Place) -> &AtomicU64 {
        &self.buckets[place.bucket].0[place.way]
    }

    #[inline]
    fn stamp(&self, place: Place) -> &AtomicU32 {
        &self.heard[place.bucket].0[place.way]
    }

    #[inline]
    fn is_old(&self, place: Place, now: u32, ageing: u32) -> bool {
        now.saturating_sub(self.stamp(place).load(Relaxed)) >= ageing
    }

    /// Workers' clocks differ by a little: the line is not to be written for that.
    #[inline]
    fn refresh(&self, place: Place, now: u32) {
        if self.stamp(place).load(Relaxed) < now {
            self.stamp(place).store(now, Relaxed);
        }
    }

    fn swap(&self, place: Place, before: u64, after: u64) -> bool {
        self.at(place).compare_exchange(before, after, AcqRel, Relaxed).is_ok()
    }

    fn remove(&self, place: Place, entry: u64) -> bool {
        let removed = self.swap(place, entry, 0);
        if removed {
            self.uncount(entry as u16);
        }
        removed
    }

    /// Counts one more behind `port`, if it may have more. First reads: a port that has its fill writes nothing.
    fn count(&self, port: u16, limit: u32) -> bool {
        if self.has_its_fill(port, limit) {
            return false;
        }
        let Some(count) = self.counts.get(usize::from(port)) else { return false };
        let fits = count.fetch_add(1, Relaxed) < limit;
        if !fits {
            count.fetch_sub(1, Relaxed);
        }
        fits
    }

    #[inline]
    fn has_its_fill(&self, port: u16, limit: u32) -> bool {
        self.counts.get(usize::from(port)).is_none_or(|count| count.load(Relaxed) >= limit)
    }

    fn uncount(&self, port: u16) {
        if let Some(count) = self.counts.get(usize::from(port)) {
            count.fetch_sub(1, Relaxed);
        }
    }
}

impl fmt::Debug for LearnTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

#[inline]
fn number([a, b, c, d, e, f]: [u8; 6]) -> u64 {
    u64::from_be_bytes([0, 0, a, b, c, d, e, f])
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::cell::Cell;

    const RULES: Rules = Rules { ageing: 300, limit: 4 };

    fn mac(last: u16) -> [u8; 6] {
        let [a, b] = last.to_be_bytes();
        [2, 0, 0, 0, a, b]
    }

    fn table() -> LearnTable {
        LearnTable::new(64, 8, 7)
    }

    fn never() -> bool {
        panic!("no move is to be asked for")
    }

    #[test]
    fn learned_found_refreshed_and_aged() {
        let table = table();
        assert_eq!(table.lookup(mac(1), 10, 300), None);
        assert_eq!(table.learn(mac(1), 3, 10, RULES, never), Learn::Learned);
        assert_eq!(table.lookup(mac(1), 309, 300), Some(3));
        assert_eq!(table.lookup(mac(1), 310, 300), None, "300 seconds are over");
        assert_eq!(table.learn(mac(1), 3, 200, RULES, never), Learn::Known);
        assert_eq!(table.lookup(mac(1), 310, 300), Some(3));
        assert_eq!((table.sweep(499, 300), table.sweep(500, 300)), (0, 1));
        assert_eq!((table.lookup(mac(1), 500, 300), table.count_of(3)), (None, 0));
    }

    #[test]
    fn a_clock_that_is_behind_makes_nothing_old() {
        let table = table();
        table.learn(mac(1), 3, 100, RULES, never);
        assert_eq!(table.learn(mac(1), 3, 99, RULES, never), Learn::Known);
        assert_eq!(table.iter().next(), Some(Entry { mac: mac(1), port: 3, heard: 100 }));
        assert_eq!((table.lookup(mac(1), 1, 10), table.sweep(1, 10)), (Some(3), 0));
    }

    #[test]
    fn a_move_is_asked_for_unless_the_entry_is_old() {
        let table = table();
        table.learn(mac(1), 3, 10, RULES, never);
        assert_eq!(table.learn(mac(1), 4, 11, RULES, || false), Learn::MoveRefused);
        assert_eq!(table.lookup(mac(1), 11, 300), Some(3));
        let asked = Cell::new(0);
        let ask = || {
            asked.set(asked.get() + 1);
            true
        };
        assert_eq!(table.learn(mac(1), 4, 12, RULES, ask), Learn::Moved);
        assert_eq!((table.lookup(mac(1), 12, 300), asked.get()), (Some(4), 1));
        assert_eq!((table.count_of(3), table.count_of(4)), (0, 1));
        assert_eq!(table.learn(mac(1), 3, 312, RULES, never), Learn::Learned, "it was forgotten");
        assert_eq!((table.count_of(3), table.count_of(4), table.iter().count()), (1, 0, 1));
    }

    #[test]
    fn a_port_has_its_limit_also_for_what_moves_to_it() {
        let table = table();
        for last in 0..4 {
            assert_eq!(table.learn(mac(last), 1, 5, RULES, never), Learn::Learned);
        }
        assert_eq!(table.learn(mac(9), 1, 5, RULES, never), Learn::PortFull);
        assert_eq!(table.learn(mac(9), 2, 5, RULES, never), Learn::Learned);
        assert_eq!(table.learn(mac(9), 1, 5, RULES, || true), Learn::PortFull);
        assert_eq!(table.lookup(mac(9), 5, 300), Some(2), "it stays where it was");
        table.forget_port(1);
        assert_eq!((table.count_of(1), table.count_of(2), table.iter().count()), (0, 1, 1));
        assert_eq!(table.learn(mac(9), 1, 5, RULES, || true), Learn::Moved);
    }

    #[test]
    fn nobody_has_address_zero_and_no_port_is_beyond_the_last() {
        let table = table();
        assert_eq!(table.learn([0; 6], 1, 5, RULES, never), Learn::Full);
        assert_eq!(table.learn(mac(1), 8, 5, RULES, never), Learn::PortFull);
        assert_eq!(table.learn(mac(1), 0, 5, Rules { limit: 0, ..RULES }, never), Learn::PortFull);
        assert_eq!(table.iter().count(), 0);
        assert_eq!(table.learn(mac(1), 0, 5, RULES, never), Learn::Learned, "port 0 is one like others");
    }

    #[test]
    fn full_buckets_take_no_more_and_lose_nothing() {
        let rules = Rules { ageing: 300, limit: u32::MAX };
        for capacity in [1, 16, 1024] {
            let table = LearnTable::new(capacity, 1, 99);
            let mut known = Vec::new();
            for last in 0..4 * capacity.max(8) as u16 {
                match table.learn(mac(last), 0, 1, rules, never) {
                    Learn::Learned => known.push(last),
                    other => assert_eq!(other, Learn::Full),
                }
            }
            assert!(known.len() >= capacity * 3 / 4, "{} of {capacity}", known.len());
            assert!(known.iter().all(|last| table.lookup(mac(*last), 1, 300) == Some(0)));
            assert_eq!(table.count_of(0) as usize, known.len());
            assert_eq!(table.sweep(301, 300), known.len());
        }
    }

    #[test]
    fn a_bucket_is_one_line() {
        assert_eq!((size_of::<Bucket>(), align_of::<Bucket>(), size_of::<Heard>()), (64, 64, 32));
    }
}
