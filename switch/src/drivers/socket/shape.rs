//! How the next messages are expected to be: their buffers have to be ready before they come.

use weft_ffi::kernel::udp::Received;

use crate::drivers::pool::SMALL;
use crate::port::BURST;

/// Bytes of the longest message.
pub(super) const LONGEST: usize = 65535;
/// Packets in one message at most: the kernel puts no more together.
pub(super) const PACKETS: usize = 64;
/// Messages longer than this are worth a guess; shorter ones cost little to copy.
const LONG: usize = 4096;
/// Calls without a long message after which none is expected any more.
const PATIENCE: u32 = 16;
/// Messages in a row that were not as expected, before others are expected.
const MISSES: u32 = 2;
/// Jumbo frames that are received at a time: each takes a large buffer.
const JUMBO_AT_ONCE: usize = 16;
/// Large packets that are received at a time: as much as fits in the second-level cache beside the rest.
const LARGE_AT_ONCE: usize = 4;

/// What buffers are made ready for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Bytes of a packet at most.
    pub(super) size: usize,
    /// Packets of a message at most.
    pub(super) packets: usize,
    /// Messages at a time.
    pub(super) messages: usize,
}

impl Shape {
    /// Ordinary packets one by one.
    pub const SINGLE: Self = Self { size: SMALL, packets: 1, messages: BURST };
    /// Packets that stand for many, as a kernel's VTEP on this machine hands them over.
    pub const LARGE: Self = Self { size: LONGEST, packets: 1, messages: LARGE_AT_ONCE };
    /// Single packets of an underlay with a large MTU. Their buffers hold whatever comes.
    pub const JUMBO: Self = Self { size: LONGEST, packets: 1, messages: JUMBO_AT_ONCE };

    /// Packets of this size, put together: one message fills the burst, or nearly.
    pub fn together(size: usize) -> Self {
        Self { size, packets: LONGEST.div_ceil(size.max(1)).min(PACKETS), messages: 1 }
    }

    /// As this message was, which is one packet or many, on a way that takes packets of `most` bytes.
    pub(super) fn of(received: &Received, one: bool, most: usize) -> Self {
        match received.segment.filter(|_| !one) {
            _ if received.len <= LONG => Self::SINGLE,
            Some(size) => Self::together(size.into()),
            None if received.len <= most => Self::JUMBO,
            None => Self::LARGE,
        }
    }

    /// Whether its packets go into large buffers.
    fn is_large(self) -> bool {
        self.size > SMALL
    }

    /// Which of the two sizes of buffers its packets go into.
    pub(super) fn buffers(self) -> usize {
        usize::from(self.is_large())
    }

    /// Bytes of each buffer.
    pub fn room(self) -> usize {
        if self.is_large() { LONGEST } else { SMALL }
    }

    /// Bytes of a packet, and how many of them a message has at most: a buffer for each.
    pub fn message(self) -> (usize, usize) {
        (self.size, self.packets)
    }
}

/// What is expected of the next messages: changed only when it has been wrong for some time, since traffic is mixed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Expected {
    pub(super) shape: Shape,
    /// Calls for which long messages are still expected.
    patience: u32,
    /// Calls in a row that were not as expected.
    misses: u32,
}

impl Expected {
    pub(super) const NEW: Self = Self { shape: Shape::SINGLE, patience: 0, misses: 0 };

    /// The longest of what came with one call was like this.
    pub(super) fn learn(&mut self, seen: Shape) {
        if seen == Shape::SINGLE {
            self.patience = self.patience.saturating_sub(1);
            if self.patience > 0 {
                return;
            }
        } else {
            self.patience = PATIENCE;
        }
        if seen == self.shape {
            self.misses = 0;
            return;
        }
        self.misses += 1;
        if self.misses >= MISSES {
            (self.shape, self.misses) = (seen, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_is_of_what_came() {
        let received = |len, segment| Received {
            from: "192.0.2.1:40000".parse().unwrap(),
            to: "192.0.2.2".parse().unwrap(),
            tos: 0,
            len,
            segment,
            truncated: false,
        };
        let shape = |len, segment, one| Shape::of(&received(len, segment), one, 1472);
        assert_eq!(shape(1400, None, true), Shape::SINGLE);
        assert_eq!(shape(2800, Some(1400), false), Shape::SINGLE, "short enough to be copied");
        assert_eq!(shape(14_000, Some(1400), false), Shape::together(1400));
        assert_eq!(shape(14_000, Some(1400), true), Shape::LARGE);
        assert_eq!(shape(14_000, None, true), Shape::LARGE);
        assert_eq!(Shape::of(&received(8972, None), true, 8972), Shape::JUMBO);
    }

    #[test]
    fn the_shape_changes_after_two_misses_and_lasts_for_a_while() {
        let mut expected = Expected::NEW;
        let (large, together) = (Shape::LARGE, Shape::together(1398));
        expected.learn(large);
        assert_eq!(expected.shape, Shape::SINGLE);
        expected.learn(large);
        assert_eq!(expected.shape, large);
        for _ in 0..10 {
            expected.learn(together);
            expected.learn(large);
            assert_eq!(expected.shape, large, "mixed traffic changes nothing");
        }
        for _ in 0..PATIENCE {
            expected.learn(Shape::SINGLE);
            assert_eq!(expected.shape, large, "a moment without");
        }
        expected.learn(Shape::SINGLE);
        assert_eq!(expected.shape, Shape::SINGLE);
    }
}
