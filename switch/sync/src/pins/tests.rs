use super::*;
use std::collections::HashMap;

const LIVES: &[Life] = &[Life::unsure(10), Life::sure(100), Life::sure(1000), Life::unsure(5000)];

/// The whole table is swept.
const ALL: (usize, usize) = (0, 1);

fn key(number: u64) -> Key {
    [number, number >> 3, 7, 8, 9]
}

fn table(capacity: usize) -> PinTable {
    PinTable::new(capacity, LIVES, 77)
}

fn pin(table: &PinTable, number: u64, kind: u8, now: u32) -> Pin {
    table.pin(&table.hashed(key(number)), now, |_| Some(kind))
}

fn hit(table: &PinTable, number: u64, now: u32) -> Hit {
    table.hit(&table.hashed(key(number)), now, Some)
}

#[test]
fn pinned_found_refreshed_and_aged() {
    let table = table(64);
    assert!(table.is_empty() && table.capacity() == 64);
    assert_eq!(hit(&table, 1, 5), Hit::Miss);
    assert_eq!(pin(&table, 1, 0, 5), Pin::Pinned);
    assert_eq!(pin(&table, 1, 0, 5), Pin::Known);
    assert_eq!((hit(&table, 1, 5), hit(&table, 2, 5)), (Hit::Known, Hit::Miss));
    assert_eq!((hit(&table, 1, 9), hit(&table, 1, 9)), (Hit::Refreshed, Hit::Known), "once a second");
    assert_eq!((hit(&table, 1, 18), table.len()), (Hit::Refreshed, 1));
    assert!(table.has(&table.hashed(key(1)), 27) && !table.has(&table.hashed(key(1)), 28));
    assert_eq!(hit(&table, 1, 28), Hit::Miss, "its ten seconds are over");
    assert_eq!(table.len(), 1, "but it is still there");
    assert_eq!((table.sweep(ALL, 28, 0, |_| true), table.len()), (1, 0));
}

#[test]
fn the_kind_decides_on_the_life_and_changes_at_once() {
    let table = table(64);
    assert_eq!(pin(&table, 1, 0, 5), Pin::Pinned);
    let hashed = table.hashed(key(1));
    assert_eq!(table.hit(&hashed, 5, |kind| Some(kind + 1)), Hit::Refreshed);
    assert_eq!(table.iter(5).next(), Some(Entry { key: key(1), kind: 1, age: 0 }));
    assert!(table.has(&hashed, 104) && !table.has(&hashed, 105));
    assert_eq!(table.hit(&hashed, 50, |_| None), Hit::Ended);
    assert_eq!((table.hit(&hashed, 50, Some), table.len()), (Hit::Miss, 0));
    assert_eq!(table.pin(&hashed, 50, |_| None), Pin::Refused);
    assert!(table.is_empty());
    assert_eq!(pin(&table, 1, 77, 5), Pin::Pinned, "a kind without a life");
    assert_eq!(hit(&table, 1, 5), Hit::Miss);
}

#[test]
fn an_expired_entry_is_begun_anew() {
    let table = table(64);
    pin(&table, 1, 0, 5);
    let begun = |kind: Option<u8>| Some(kind.map_or(0, |kind| kind + 1));
    assert_eq!(table.pin(&table.hashed(key(1)), 6, begun), Pin::Refreshed);
    assert_eq!(table.iter(6).next().map(|entry| entry.kind), Some(1));
    assert_eq!(table.pin(&table.hashed(key(1)), 200, begun), Pin::Pinned);
    assert_eq!(table.iter(200).next(), Some(Entry { key: key(1), kind: 0, age: 0 }));
    assert_eq!(table.len(), 1);
}

#[test]
fn a_clock_that_is_behind_makes_nothing_old_and_the_word_may_wrap() {
    let table = table(64);
    pin(&table, 1, 0, 100);
    assert_eq!((hit(&table, 1, 99), table.sweep(ALL, 1, 0, |_| true)), (Hit::Known, 0));
    assert_eq!(table.iter(101).next().map(|entry| entry.age), Some(1), "it was seen in second 100");
    let wraps = SECONDS - 2;
    assert_eq!(pin(&table, 2, 0, wraps), Pin::Pinned);
    assert_eq!(hit(&table, 2, wraps + 9), Hit::Refreshed);
    assert_eq!(hit(&table, 2, wraps + 19), Hit::Miss);
}

#[test]
fn a_full_table_takes_what_has_the_least_to_live() {
    // Two buckets, so every key may be in every place.
    let table = table(16);
    for number in 0..16 {
        let kind = if number == 5 { 0 } else { 2 };
        assert_eq!(pin(&table, number, kind, 100 + number as u32), Pin::Pinned);
    }
    assert_eq!((table.len(), pin(&table, 99, 1, 120)), (16, Pin::Pinned), "the one that has expired");
    assert_eq!(hit(&table, 5, 120), Hit::Miss);
    assert_eq!(pin(&table, 98, 2, 120), Pin::Displaced);
    assert_eq!(hit(&table, 99, 120), Hit::Miss, "it was the only one of a shorter life");
    assert_eq!(pin(&table, 97, 2, 120), Pin::Displaced);
    assert_eq!((hit(&table, 0, 120), table.len()), (Hit::Miss, 16), "the oldest");
    assert!((1..16).filter(|number| *number != 5).all(|number| hit(&table, number, 120) != Hit::Miss));
}

#[test]
fn what_is_not_sure_goes_first_the_longest_unseen_before_the_others() {
    let table = table(16);
    for number in 0..16 {
        let (kind, seen) = match number {
            3 => (3, 100),
            8 => (3, 101),
            9 => (0, 103),
            _ => (1, 30),
        };
        assert_eq!(pin(&table, number, kind, seen), Pin::Pinned);
    }
    // However long it may live, and however little the others have left.
    for (new, gone) in [(90, 3), (91, 8), (92, 9)] {
        assert_eq!(pin(&table, new, 2, 104), Pin::Displaced);
        assert!(!table.has(&table.hashed(key(gone)), 104), "{gone}");
    }
    assert_eq!((0..16).filter(|number| table.has(&table.hashed(key(*number)), 104)).count(), 13);
    assert_eq!(pin(&table, 93, 0, 104), Pin::Displaced, "none is left that is not sure");
    assert_eq!(pin(&table, 94, 0, 105), Pin::Displaced);
    assert_eq!(hit(&table, 93, 105), Hit::Miss, "it was the only one");
    assert_eq!((0..16).filter(|number| table.has(&table.hashed(key(*number)), 105)).count(), 12);
}

/// Those who come in the same second do not all take the same place.
#[test]
fn of_equals_any_goes() {
    let table = table(16);
    for number in (0..16).chain(100..140) {
        pin(&table, number, 0, 5);
    }
    let left = (0..16).filter(|number| table.has(&table.hashed(key(*number)), 5)).count();
    assert!(left < 12, "{left}");
}

#[test]
fn what_is_not_wanted_is_swept() {
    let table = table(64);
    for number in 0..20 {
        pin(&table, number, 2, 5);
    }
    let full = table.len();
    assert_eq!((full, table.sweep(ALL, 5, 0, |key| key[0] % 2 == 0)), (20, 10));
    assert_eq!((table.len(), table.iter(5).filter(|entry| entry.key[0] % 2 == 0).count()), (10, 10));
}

#[test]
fn it_is_swept_part_by_part_and_only_what_is_idle_is_asked_about() {
    let table = table(64);
    for number in 0..40 {
        pin(&table, number, 2, 5 + number as u32 % 2 * 60);
    }
    let before = table.len();
    assert_eq!(table.sweep(ALL, 65, 61, |_| panic!("none is so old")), 0);
    let old = table.iter(65).filter(|entry| entry.age == 60).count();
    let swept: Vec<_> = (0..8).map(|part| table.sweep((part, 8), 65, 60, |_| false)).collect();
    assert_eq!((swept.iter().sum(), table.len()), (old, before - old));
    assert!(swept.iter().filter(|part| **part > 0).count() > 4, "{swept:?}");
    // More parts than buckets, and a part that there is not.
    assert_eq!((table.sweep((9, 8), 65, 0, |_| false), table.sweep((0, 0), 65, 0, |_| false)), (0, 0));
    assert_eq!((0..11).map(|part| table.sweep((part, 11), 65, 0, |_| false)).sum::<usize>(), before - old);
}

/// Against a map that forgets nothing by itself: what is found was pinned and lives, as it was left.
#[test]
fn nothing_is_found_that_was_not_pinned() {
    let (table, mut model) = (table(256), HashMap::new());
    let (mut random, mut now) = (1_u64, 1);
    for step in 0..20_000_u32 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let (number, kind) = ((random >> 33) % 400, (random >> 60) as u8 % 3);
        now += u32::from(step % 37 == 0);
        match random >> 58 & 3 {
            0 => {
                assert!(!matches!(pin(&table, number, kind, now), Pin::Refused | Pin::Busy));
                model.insert(number, (kind, now));
            }
            1 => {
                table.sweep(ALL, now, 0, |key| key[0] != u64::from(step) % 400);
            }
            _ => {
                let expected =
                    model.get(&number).filter(|(kind, seen)| now - seen < LIVES[usize::from(*kind)].seconds);
                let found = hit(&table, number, now);
                assert!(found == Hit::Miss || expected.is_some(), "{number} at {now}");
                if found != Hit::Miss {
                    let kind = expected.map_or(0, |(kind, _)| *kind);
                    model.insert(number, (kind, now));
                }
            }
        }
    }
    let entries: Vec<_> = table.iter(now).collect();
    assert!(entries.len() > 20);
    for entry in entries {
        let (kind, seen) = model[&entry.key[0]];
        assert_eq!((entry.kind, entry.age), (kind, now - seen));
    }
}

#[test]
fn a_bucket_is_one_line_and_an_entry_48_bytes() {
    assert_eq!((size_of::<Bucket>(), align_of::<Bucket>()), (64, 64));
    assert_eq!(size_of::<Bucket>() / WAYS + size_of::<[AtomicU64; WORDS]>(), ENTRY_BYTES);
    assert_eq!(ENTRY_BYTES, 48);
}
