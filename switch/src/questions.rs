//! Addresses of the node's subnets that the router has asked for. Each worker has a table of its own, of a fixed size: what it
//! forgets is only asked for again.

use std::hash::{BuildHasher, BuildHasherDefault};
use std::net::IpAddr;

use crate::tables::KeyHasher;

/// Addresses that a worker remembers at most.
const ENTRIES: usize = 256;
/// Milliseconds from one question for an address to the next (RFC 4861, section 10: RETRANS_TIMER).
const INTERVAL: u64 = 1000;
/// Nobody has an address that was asked for so often in vain (RFC 4861, section 10: MAX_MULTICAST_SOLICIT).
const ENOUGH: u8 = 3;
/// Milliseconds after the last question after which it begins anew.
const FORGET: u64 = 60_000;

#[derive(Debug, Clone, Copy)]
struct Entry {
    address: IpAddr,
    /// When it was last asked for, in milliseconds.
    last: u64,
    asked: u8,
}

/// What is due for an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    /// To ask for it.
    pub question: bool,
    /// To tell senders that nobody has it. It is asked for all the same, so that a station that comes late is found.
    pub refusal: bool,
}

/// A worker's open questions. An address has one place; one that comes to the same place takes it.
#[derive(Debug)]
pub struct Questions(Box<[Option<Entry>; ENTRIES]>);

impl Default for Questions {
    fn default() -> Self {
        Self(Box::new([None; ENTRIES]))
    }
}

impl Questions {
    /// What is due when a packet for `address` comes, `now` in the worker's milliseconds.
    pub fn due(&self, address: IpAddr, now: u64) -> Due {
        let known = self.0[place(address)].filter(|entry| entry.address == address);
        match known.map(|entry| (entry.asked, now.saturating_sub(entry.last))) {
            Some((asked, since)) if since < FORGET => {
                let question = since >= INTERVAL;
                Due { question, refusal: asked > ENOUGH || (asked == ENOUGH && question) }
            }
            _ => Due { question: true, refusal: false },
        }
    }

    /// `address` has been asked for.
    pub fn asked(&mut self, address: IpAddr, now: u64) {
        let entry = &mut self.0[place(address)];
        let before =
            entry.filter(|entry| entry.address == address && now.saturating_sub(entry.last) < FORGET);
        let asked = before.map_or(0, |entry| entry.asked).saturating_add(1);
        *entry = Some(Entry { address, last: now, asked });
    }
}

fn place(address: IpAddr) -> usize {
    BuildHasherDefault::<KeyHasher>::default().hash_one(address) as usize % ENTRIES
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASK: Due = Due { question: true, refusal: false };
    const WAIT: Due = Due { question: false, refusal: false };

    #[test]
    fn three_questions_a_second_apart_then_refusals_and_further_questions() {
        for address in ["10.244.0.50", "fd00::50"].map(|text| text.parse::<IpAddr>().unwrap()) {
            let mut questions = Questions::default();
            for second in [0, 1000, 2000] {
                assert_eq!(questions.due(address, second), ASK);
                questions.asked(address, second);
                assert_eq!(questions.due(address, second + 999), WAIT);
            }
            assert_eq!(questions.due(address, 3000), Due { question: true, refusal: true });
            questions.asked(address, 3000);
            assert_eq!(questions.due(address, 3001), Due { question: false, refusal: true });
            assert_eq!(questions.due(address, 3000 + FORGET), ASK);
            questions.asked(address, 3000 + FORGET);
            assert_eq!(questions.due(address, 3000 + FORGET + 999), WAIT, "it counts anew");
        }
    }

    #[test]
    fn however_many_addresses_are_asked_for_each_can_be() {
        let mut questions = Questions::default();
        for number in 0..100_000u32 {
            let address = IpAddr::from(number.to_be_bytes());
            assert_eq!(questions.due(address, 7), ASK);
            questions.asked(address, 7);
            assert_eq!(questions.due(address, 7), WAIT);
        }
    }
}
