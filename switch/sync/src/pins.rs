//! A table of connections that all workers look into and write to: a key of a few words, a kind, and when it was seen.
//! What keys and kinds mean is the user's; how long an entry of each kind lives is said when the table is made.
//!
//! All of an entry that changes is one word, so that no reader sees half of a change: a check of the key (32 bits of its
//! hash), the kind, and the second in which it was seen. Every change is a compare and swap of that word. The key itself stands
//! beside it, in words that are written while the entry's word says so, and compared in full: nothing is found by its hash alone.
//! An entry has two buckets that it may be in, of a cache line each, and no other place: a look-up that finds nothing reads two lines
//! whatever the table holds, and one that finds something one line or two more.
//!
//! # A full table
//!
//! takes the place of another entry: of 16 places, so adding has a bound too. An expired one goes first, then those whose kind is not sure
//! ([`Life`]), the longest unseen before the others, then those with the least left of their lives. So a flood of beginnings ends other
//! beginnings, as the kernel's connection tracking does it, and of those the ones that have waited longest, not the ones that live
//! shortest. Of equals a flow's own hash says which goes, so no place of a bucket is everybody's victim.
//!
//! # Who writes a key
//!
//! Whoever has swapped the place's word for [`CLAIMED`]: nobody finds, removes or claims the place until it is published with its
//! new word. A reader compares the key and then looks at the word again, as with a sequence lock: a key that was overwritten while it was
//! compared is no match. Nobody waits for a claimed place: it is passed over.
//!
//! # Two workers that add a key at once
//!
//! They may take two places. As in [`crate::learned`], each looks through all of them *after* it has published its own, behind a fence,
//! and whichever sees two entries removes the earlier one in the order in which look-ups go: one that has passed the later place
//! before it was filled meets the earlier entry, and one that finds that gone, the later. What the removed one had learned meanwhile the next
//! packets teach again.
//!
//! In a full table a third key may take the place of the entry that is left, and even where it saw both and needed neither's: an entry
//! with less to live than 15 others may go at any time, is counted, and is pinned again by the next packet.
//!
//! # Time
//!
//! 24 bits of seconds: 194 days. The longest life has to be less than half of that, and the table to be swept more often, or an entry
//! would become young again. A clock that is behind makes nothing old.

use std::fmt;
use std::ops::Range;

use crate::atomics::{AcqRel, Acquire, AtomicU32, AtomicU64, Relaxed, Release, SeqCst, fence};
use crate::prefetch::prefetch_read;

/// Entries in a bucket: a cache line. The models get by with fewer.
const WAYS: usize = if cfg!(loom) { 2 } else { 8 };
/// Words of a key.
pub const WORDS: usize = if cfg!(loom) { 2 } else { 5 };
/// What an entry takes, in bytes: its word and its key.
pub const ENTRY_BYTES: usize = 8 + 8 * WORDS;
/// How often a change is tried anew that another thread came between; then the next packet is left to do it.
const TRIES: usize = 8;

const SECONDS: u32 = 0xff_ffff;
const KIND_AT: u32 = 24;
const CHECK_AT: u32 = 32;
/// The word of a place whose key is being written. No kind is so large.
const CLAIMED: u64 = 0xff << KIND_AT;
const ODD: u64 = 0x9e37_79b9_7f4a_7c15;

/// What an entry is found by.
pub type Key = [u64; WORDS];

/// An entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// What it is found by.
    pub key: Key,
    /// Its kind.
    pub kind: u8,
    /// Seconds since it was seen.
    pub age: u32,
}

/// How long entries of a kind live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life {
    /// Seconds after such an entry was seen.
    pub seconds: u32,
    /// Whether it stays in a full table as long as others may go that are not sure.
    pub sure: bool,
}

impl Life {
    /// Of what goes last.
    pub const fn sure(seconds: u32) -> Self {
        Self { seconds, sure: true }
    }

    /// Of what goes first.
    pub const fn unsure(seconds: u32) -> Self {
        Self { seconds, sure: false }
    }
}

/// What became of a key that was to be pinned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pin {
    /// It was there, as it is now.
    Known,
    /// It was there; its kind or its time has changed.
    Refreshed,
    /// It is new.
    Pinned,
    /// It is new, in the place of another that was still alive.
    Displaced,
    /// It is not there, since the user did not want it.
    Refused,
    /// Other threads changed the same entry again and again.
    Busy,
}

/// What a look-up has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hit {
    /// Nothing, or what has expired.
    Miss,
    /// An entry, as it was.
    Known,
    /// An entry; its kind or its time has changed.
    Refreshed,
    /// An entry that the user wanted no more: it is gone.
    Ended,
}

#[repr(align(64))]
struct Bucket([AtomicU64; WAYS]);

/// The table. Everything in it is used through a shared reference.
pub struct PinTable {
    words: Box<[Bucket]>,
    keys: Box<[[[AtomicU64; WORDS]; WAYS]]>,
    /// Places that are not free.
    len: AtomicU32,
    /// How long an entry of each kind lives.
    lives: &'static [Life],
    /// So that nobody outside knows which keys share a bucket.
    seed: u64,
}

/// A place in the table.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Place {
    bucket: usize,
    way: usize,
}

impl Place {
    /// The same bucket's place that this one is for who fills it.
    fn turned(self, hash: u64) -> Self {
        // Bits that neither choose the buckets nor say much in the check.
        Self { way: (self.way + (hash >> 57) as usize) % WAYS, ..self }
    }
}

/// A key with its hash, which is made once for all that is done with it.
#[derive(Debug, Clone, Copy)]
pub struct Hashed {
    key: Key,
    hash: u64,
}

impl Hashed {
    /// The key.
    pub fn key(&self) -> &Key {
        &self.key
    }
}

impl PinTable {
    /// An empty table with room for `capacity` entries or a little more: a power of two of buckets, two at least. An entry of kind
    /// `n` lives as `lives[n]` says, one of a kind that is not among them no time at all. `seed` should be random.
    pub fn new(capacity: usize, lives: &'static [Life], seed: u64) -> Self {
        let buckets = capacity.div_ceil(WAYS).next_power_of_two().max(2);
        let word = |_| AtomicU64::new(0);
        Self {
            words: (0..buckets).map(|_| Bucket(std::array::from_fn(word))).collect(),
            keys: (0..buckets).map(|_| std::array::from_fn(|_| std::array::from_fn(word))).collect(),
            len: AtomicU32::new(0),
            lives,
            seed,
        }
    }

    /// How many entries there is room for.
    pub fn capacity(&self) -> usize {
        self.words.len() * WAYS
    }

    /// How many entries there are, those that have expired and were not swept yet included.
    #[inline]
    pub fn len(&self) -> usize {
        self.len.load(Relaxed) as usize
    }

    /// True when there is none: one load of a line that is written when entries come and go.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The key with its hash.
    #[inline]
    pub fn hashed(&self, key: Key) -> Hashed {
        if cfg!(loom) {
            return Hashed { key, hash: key[0] };
        }
        let fold = |a: u64, b: u64| {
            let product = u128::from(a) * u128::from(b);
            (product >> 64) as u64 ^ product as u64
        };
        let hash = key.iter().fold(self.seed, |hash, word| fold(hash ^ word ^ ODD, ODD.rotate_left(23) | 1));
        Hashed { key, hash: fold(hash ^ self.seed.rotate_left(32), ODD) }
    }

    /// Fetches the lines that a look-up will read first.
    #[inline]
    pub fn prefetch(&self, key: &Hashed) {
        for bucket in self.buckets_of(key.hash) {
            prefetch_read(&self.words[bucket]);
        }
    }

    /// Whether there is such an entry that lives. Writes nothing.
    #[inline]
    pub fn has(&self, key: &Hashed, now: u32) -> bool {
        self.find(key).is_some_and(|(_, word)| !self.is_over(word, now))
    }

    /// Looks a key up that was seen in second `now`. `next` says what kind an entry of this kind becomes by that; `None`: it is to
    /// go. The entry is written to only if its kind changes, or is of an earlier second.
    #[inline]
    pub fn hit(&self, key: &Hashed, now: u32, next: impl Fn(u8) -> Option<u8>) -> Hit {
        for _ in 0..TRIES {
            let Some((place, word)) = self.find(key).filter(|(_, word)| !self.is_over(*word, now)) else {
                return Hit::Miss;
            };
            let Some(kind) = next(kind_of(word)) else {
                if self.remove(place, word) {
                    return Hit::Ended;
                }
                continue;
            };
            match self.refresh(place, word, kind, now) {
                Some(false) => return Hit::Known,
                Some(true) => return Hit::Refreshed,
                None => {}
            }
        }
        Hit::Known
    }

    /// A key was seen in second `now`, and is to be there. `next` says of what kind: given the kind that it has, or `None` where there
    /// is no such entry, or an expired one. `None` of `next`: it is not to be there.
    #[inline]
    pub fn pin(&self, key: &Hashed, now: u32, next: impl Fn(Option<u8>) -> Option<u8>) -> Pin {
        for _ in 0..TRIES {
            let Some((place, word)) = self.find(key) else {
                let Some(kind) = next(None) else { return Pin::Refused };
                match self.add(key, kind, now) {
                    Some(added) => return added,
                    None => continue,
                }
            };
            let lives = !self.is_over(word, now);
            let Some(kind) = next(lives.then(|| kind_of(word))) else {
                if self.remove(place, word) {
                    return Pin::Refused;
                }
                continue;
            };
            match self.refresh(place, word, kind, now) {
                Some(_) if !lives => return Pin::Pinned,
                Some(false) => return Pin::Known,
                Some(true) => return Pin::Refreshed,
                None => {}
            }
        }
        Pin::Busy
    }

    /// In a free place, or the one whose entry has the least to live; `None` where another thread came between.
    #[cold]
    fn add(&self, key: &Hashed, kind: u8, now: u32) -> Option<Pin> {
        let (place, before) = self.place_for(key, now)?;
        if !self.swap(place, before, CLAIMED) {
            return None;
        }
        if before == 0 {
            self.len.fetch_add(1, Relaxed);
        }
        // Who sees a part of the new key sees that the place was claimed.
        fence(Release);
        for (there, word) in self.key_at(place).iter().zip(key.key) {
            there.store(word, Relaxed);
        }
        self.at(place).store(word_of(check_of(key.hash), kind, now), Release);
        fence(SeqCst);
        self.keep_last(key);
        let displaced = before != 0 && !self.is_over(before, now);
        Some(if displaced { Pin::Displaced } else { Pin::Pinned })
    }

    fn place_for(&self, key: &Hashed, now: u32) -> Option<(Place, u64)> {
        let mut best: Option<(Place, u64, (u8, u32))> = None;
        for place in self.places(key.hash).map(|place| place.turned(key.hash)) {
            let word = self.at(place).load(Acquire);
            if word == 0 {
                return Some((place, 0));
            }
            let worth = self.worth(word, now);
            if word != CLAIMED && best.is_none_or(|(_, _, least)| worth < least) {
                best = Some((place, word, worth));
            }
        }
        best.map(|(place, word, _)| (place, word))
    }

    /// What has the least of it goes first.
    fn worth(&self, word: u64, now: u32) -> (u8, u32) {
        let (life, age) = (self.life(word), age(word, now));
        match life.seconds.saturating_sub(age) {
            0 => (0, 0),
            _ if !life.sure => (1, u32::MAX - age),
            left => (2, left),
        }
    }

    /// Removes all entries of the key but the last in the order of [`Self::find`].
    fn keep_last(&self, key: &Hashed) {
        let mut is_last = true;
        for place in self.places(key.hash).rev() {
            loop {
                let word = self.at(place).load(Acquire);
                if !self.holds(place, word, key) {
                    break;
                }
                if std::mem::take(&mut is_last) || self.remove(place, word) {
                    break;
                }
            }
        }
    }

    /// Removes, of the `part`th of so many equal parts of the table, what has expired, and of what was not seen for `idle` seconds what `keep`
    /// does not want; how many entries that were. Keys are read of those alone.
    pub fn sweep(
        &self,
        (part, parts): (usize, usize),
        now: u32,
        idle: u32,
        keep: impl Fn(&Key) -> bool,
    ) -> usize {
        let at = |part: usize| self.words.len() * part.min(parts) / parts.max(1);
        let goes = |place, word| {
            self.is_over(word, now)
                || age(word, now) >= idle && self.read(place, word).is_some_and(|key| !keep(&key))
        };
        let entries = self.entries(at(part)..at(part.saturating_add(1)));
        entries.filter(|(place, word)| goes(*place, *word) && self.remove(*place, *word)).count()
    }

    /// The entries that live, in no order. Those that come or go meanwhile may be among them or not.
    pub fn iter(&self, now: u32) -> impl Iterator<Item = Entry> + '_ {
        let all = self.entries(0..self.words.len());
        all.filter(move |(_, word)| !self.is_over(*word, now)).filter_map(move |(place, word)| {
            let key = self.read(place, word)?;
            Some(Entry { key, kind: kind_of(word), age: age(word, now) })
        })
    }

    fn entries(&self, buckets: Range<usize>) -> impl Iterator<Item = (Place, u64)> + '_ {
        let places = buckets.flat_map(|bucket| (0..WAYS).map(move |way| Place { bucket, way }));
        let words = places.map(|place| (place, self.at(place).load(Acquire)));
        words.filter(|(_, word)| *word != 0 && *word != CLAIMED)
    }

    #[inline]
    fn buckets_of(&self, hash: u64) -> [usize; 2] {
        let mask = self.words.len() - 1;
        let first = hash as usize & mask;
        let second = (hash >> 32) as usize & mask;
        [first, if first == second { (first + 1) & mask } else { second }]
    }

    /// The places that a key may be in, in their order.
    #[inline]
    fn places(&self, hash: u64) -> impl DoubleEndedIterator<Item = Place> + use<> {
        let [first, second] = self.buckets_of(hash);
        (0..2 * WAYS).map(move |at| Place { bucket: if at < WAYS { first } else { second }, way: at % WAYS })
    }

    #[inline]
    fn find(&self, key: &Hashed) -> Option<(Place, u64)> {
        self.places(key.hash).find_map(|place| {
            let word = self.at(place).load(Acquire);
            self.holds(place, word, key).then_some((place, word))
        })
    }

    /// Whether the place with this word is the key's.
    #[inline]
    fn holds(&self, place: Place, word: u64, key: &Hashed) -> bool {
        if word >> CHECK_AT != u64::from(check_of(key.hash)) || word == 0 || word == CLAIMED {
            return false;
        }
        let same = self.key_at(place).iter().zip(key.key).all(|(there, word)| there.load(Relaxed) == word);
        same && self.is_still(place, word)
    }

    /// The key of the place with this word, unless it is another's by now.
    fn read(&self, place: Place, word: u64) -> Option<Key> {
        let there = self.key_at(place);
        let key = std::array::from_fn(|at| there[at].load(Relaxed));
        let right =
            self.is_still(place, word) && check_of(self.hashed(key).hash) == (word >> CHECK_AT) as u32;
        right.then_some(key)
    }

    /// Whether the key that was just read is the one that the word, read before it, is about: nobody has claimed the place since. (One who
    /// has, and published a key with the same check, is not noticed: one in four thousand million of such races.)
    #[inline]
    fn is_still(&self, place: Place, word: u64) -> bool {
        fence(Acquire);
        // Who finds that it went for another entry of the key sees that one.
        let now = self.at(place).load(Acquire);
        now >> CHECK_AT == word >> CHECK_AT && now != CLAIMED && now != 0
    }

    /// Makes the entry one of this kind, seen in second `now`: whether that had to be written; `None` where another thread came between.
    #[inline]
    fn refresh(&self, place: Place, word: u64, kind: u8, now: u32) -> Option<bool> {
        let younger = age(word, now) > 0;
        if !younger && kind == kind_of(word) {
            return Some(false);
        }
        // Workers' clocks differ by a little: time does not go back for that.
        let seen = if younger { now } else { word as u32 };
        self.swap(place, word, word_of((word >> CHECK_AT) as u32, kind, seen)).then_some(true)
    }

    #[inline]
    fn at(&self, place: Place) -> &AtomicU64 {
        &self.words[place.bucket].0[place.way]
    }

    #[inline]
    fn key_at(&self, place: Place) -> &[AtomicU64; WORDS] {
        &self.keys[place.bucket][place.way]
    }

    #[inline]
    fn life(&self, word: u64) -> Life {
        self.lives.get(usize::from(kind_of(word))).copied().unwrap_or(Life::unsure(0))
    }

    #[inline]
    fn is_over(&self, word: u64, now: u32) -> bool {
        age(word, now) >= self.life(word).seconds
    }

    fn swap(&self, place: Place, before: u64, after: u64) -> bool {
        self.at(place).compare_exchange(before, after, AcqRel, Relaxed).is_ok()
    }

    fn remove(&self, place: Place, word: u64) -> bool {
        let removed = self.swap(place, word, 0);
        if removed {
            self.len.fetch_sub(1, Relaxed);
        }
        removed
    }
}

impl fmt::Debug for PinTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PinTable({} of {})", self.len(), self.capacity())
    }
}

/// Not the bits that choose the buckets. In the models one bit of the key, so that they have keys that only differ beside it.
#[inline]
fn check_of(hash: u64) -> u32 {
    if cfg!(loom) {
        return hash as u32 & 1;
    }
    (hash.wrapping_mul(ODD) >> 32) as u32
}

/// Kinds count from 1 in the word, so that none is free.
#[inline]
fn word_of(check: u32, kind: u8, seen: u32) -> u64 {
    let kind = kind.min(0xfd) + 1;
    u64::from(check) << CHECK_AT | u64::from(kind) << KIND_AT | u64::from(seen & SECONDS)
}

#[inline]
fn kind_of(word: u64) -> u8 {
    ((word >> KIND_AT) as u8).wrapping_sub(1)
}

/// Seconds since it was seen.
#[inline]
fn age(word: u64, now: u32) -> u32 {
    let age = now.wrapping_sub(word as u32) & SECONDS;
    if age > SECONDS / 2 { 0 } else { age }
}

#[cfg(all(test, not(loom)))]
mod tests;
