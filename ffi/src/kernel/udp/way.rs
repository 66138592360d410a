//! What goes with a message beside its bytes. The kernel only reads it, so it is made once for all messages that go one way.

use std::net::{IpAddr, SocketAddr};

use super::Name;
use super::control::Control;

/// Where a message goes, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Way {
    pub(super) to: SocketAddr,
    pub(super) from: IpAddr,
    pub(super) tos: u8,
    /// The size of the datagrams that it is cut into.
    pub(super) segment: Option<u16>,
}

/// A way as the kernel reads it.
pub(super) struct Prepared {
    pub(super) way: Way,
    pub(super) name: Name,
    pub(super) name_len: u32,
    pub(super) control: Control,
    /// Bytes of it without the last entry, the size of segments.
    pub(super) sender: usize,
    pub(super) all: usize,
}

impl Prepared {
    fn new(way: Way) -> Self {
        let (name, name_len) = Name::of(way.to);
        let mut control = Control::EMPTY;
        let sender = control.sender(way.from, way.tos);
        let all = way.segment.map_or(sender, |size| control.segments(sender, size));
        Self { way, name, name_len, control, sender, all }
    }
}

/// Ways that were asked for, the latest at the end.
pub(super) struct Ways(Vec<Prepared>);

/// So many are kept from one batch to the next.
const KEPT: usize = 64;
/// And so many are compared with what is asked for: to make one anew costs little more than to look through all.
const RECENT: usize = 4;

impl Ways {
    /// With room for those of a batch of so many messages.
    pub(super) fn new(batch: usize) -> Self {
        Self(Vec::with_capacity(KEPT + batch))
    }

    /// The numbers given so far count no longer.
    pub(super) fn begin(&mut self) {
        if self.0.len() > KEPT {
            self.0.clear();
        }
    }

    /// The number of this way, until the next [`Self::begin`].
    pub(super) fn number(&mut self, way: Way) -> usize {
        let from = self.0.len().saturating_sub(RECENT);
        match self.0[from..].iter().rposition(|known| known.way == way) {
            Some(place) => from + place,
            None => {
                self.0.push(Prepared::new(way));
                self.0.len() - 1
            }
        }
    }

    /// The way of this number.
    pub(super) fn get(&self, number: usize) -> &Prepared {
        &self.0[number]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way(last: u8, segment: Option<u16>) -> Way {
        Way { to: ([192, 0, 2, last], 8472).into(), from: [192, 0, 2, 1].into(), tos: 2, segment }
    }

    #[test]
    fn a_way_is_made_once_while_it_is_in_use() {
        let mut ways = Ways::new(64);
        let first = ways.number(way(2, Some(1398)));
        for _ in 0..10 {
            assert_eq!(ways.number(way(2, Some(1398))), first);
        }
        assert_ne!(ways.number(way(2, Some(1000))), first);
        assert_ne!(ways.number(way(2, None)), first);
        assert_eq!(ways.number(way(2, Some(1398))), first);
        let prepared = ways.get(first);
        assert_eq!(prepared.name.read(), Some(prepared.way.to));
        assert_eq!(prepared.control.read(prepared.sender).tos, 2);
        assert!(prepared.all > prepared.sender && ways.get(first + 2).all == ways.get(first + 2).sender);
    }

    #[test]
    fn many_ways_are_forgotten_between_batches_and_not_within_one() {
        let mut ways = Ways::new(64);
        for batch in 0..20 {
            ways.begin();
            let ask = |index: u8| way(index, Some(batch));
            let numbers: Vec<usize> = (0..64).map(|index| ways.number(ask(index))).collect();
            for (index, number) in (0..).zip(numbers) {
                assert_eq!(ways.get(number).way, ask(index));
            }
        }
        assert!(ways.0.len() <= KEPT + 64);
    }
}
