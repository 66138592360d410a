//! What a test frame says of itself, behind the UDP header: which packet of which flow it is, when it was sent, and a
//! check over that. A pattern that only depends on the place fills the rest of the frame.

use crate::frame::LONGEST;

/// One frame's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// Below [`MOST_FLOWS`].
    pub(crate) flow: u32,
    /// Tells what is late from the trial before.
    pub(crate) trial: u8,
    /// The packet's number in its flow.
    pub(crate) seq: u32,
    /// When it was sent: the low 48 bits of the time stamp counter.
    pub(crate) ticks: u64,
}

/// Flows have numbers of 24 bits.
pub(crate) const MOST_FLOWS: u32 = 1 << 24;

/// Ticks are counted in so many bits: more than a day.
const TICK_BITS: u32 = 48;

/// Ticks from `from` to `to`, of which both are cut off.
#[inline]
pub(crate) fn ticks_between(from: u64, to: u64) -> u64 {
    to.wrapping_sub(from) & ((1 << TICK_BITS) - 1)
}

impl Stamp {
    /// Bytes: check (4), trial and flow (4), number (4), ticks (6). With the headers they fill the smallest frame.
    pub(crate) const LEN: usize = 18;

    /// Writes it; `key` is common to sender and receiver.
    #[inline]
    pub(crate) fn write(&self, key: u64, to: &mut [u8; Self::LEN]) {
        let who = u32::from(self.trial) << 24 | self.flow;
        let ticks = self.ticks & ((1 << TICK_BITS) - 1);
        to[0..4].copy_from_slice(&check(key, who, self.seq, ticks).to_be_bytes());
        to[4..8].copy_from_slice(&who.to_be_bytes());
        to[8..12].copy_from_slice(&self.seq.to_be_bytes());
        to[12..18].copy_from_slice(&ticks.to_be_bytes()[2..]);
    }

    /// Reads it; `None` if the check is wrong.
    #[inline]
    pub(crate) fn read(key: u64, from: &[u8; Self::LEN]) -> Option<Self> {
        let [a, b, c, d, e, f, g, h, i, j, k, l, ticks @ ..] = *from;
        let who = u32::from_be_bytes([e, f, g, h]);
        let seq = u32::from_be_bytes([i, j, k, l]);
        let ticks = ticks.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
        (check(key, who, seq, ticks) == u32::from_be_bytes([a, b, c, d])).then_some(Self {
            flow: who & (MOST_FLOWS - 1),
            trial: (who >> 24) as u8,
            seq,
            ticks,
        })
    }
}

/// Two rounds of multiplying and folding: any changed bit changes about half of the result's.
#[inline]
fn check(key: u64, who: u32, seq: u32, ticks: u64) -> u32 {
    let mut hash = key ^ (u64::from(who) << 32 | u64::from(seq));
    hash = (hash ^ hash >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    hash = (hash ^ hash >> 29 ^ ticks).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    ((hash ^ hash >> 31).wrapping_mul(0x94d0_49bb_1331_11eb) >> 32) as u32
}

/// What follows the stamp, up to the longest frame.
pub(crate) static PATTERN: [u8; LONGEST] = pattern();

const fn pattern() -> [u8; LONGEST] {
    let mut bytes = [0; LONGEST];
    let mut at = 0;
    while at < LONGEST {
        bytes[at] = (at as u32).wrapping_mul(2_654_435_761).to_be_bytes()[0];
        at += 1;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_read_as_written_and_no_changed_bit_passes() {
        let stamp = Stamp { flow: 0x00ab_cdef, trial: 7, seq: 0xffff_fffe, ticks: 0x0000_1234_5678_9abc };
        let mut bytes = [0; Stamp::LEN];
        stamp.write(42, &mut bytes);
        assert_eq!(Stamp::read(42, &bytes), Some(stamp));
        assert_eq!(Stamp::read(43, &bytes), None, "another run's");
        for bit in 0..8 * Stamp::LEN {
            let mut changed = bytes;
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Stamp::read(42, &changed), None, "bit {bit}");
        }
    }

    #[test]
    fn ticks_go_round() {
        assert_eq!(ticks_between((1 << 48) - 5, (3 << 48) + 7), 12);
    }
}
