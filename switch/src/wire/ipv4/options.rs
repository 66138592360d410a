//! The options of an IPv4 header (RFC 791, section 3.1), one by one.

use crate::wire::bytes::{check, need};
use crate::wire::{Format, WireError};

/// Kind: the list ends here, whatever follows.
pub const OPTION_END: u8 = 0;
/// Kind: nothing, for alignment.
pub const OPTION_NOP: u8 = 1;
/// Kind: loose source and record route.
pub const OPTION_LSRR: u8 = 131;
/// Kind: strict source and record route.
pub const OPTION_SSRR: u8 = 137;

/// The bit of the kind that says that every fragment has the option and not only the first.
const COPIED: u8 = 0x80;

/// One option, from its kind to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ipv4Option<'a>(&'a [u8]);

impl<'a> Ipv4Option<'a> {
    /// What it is.
    #[inline]
    pub fn kind(&self) -> u8 {
        self.0[0]
    }

    /// All its bytes, kind and length included.
    #[inline]
    pub fn bytes(&self) -> &'a [u8] {
        self.0
    }

    /// Belongs into every fragment of the packet.
    #[inline]
    pub fn is_copied(&self) -> bool {
        self.kind() & COPIED != 0
    }

    /// Says which way the packet is to take.
    #[inline]
    pub fn is_source_route(&self) -> bool {
        matches!(self.kind(), OPTION_LSRR | OPTION_SSRR)
    }
}

/// The options in `bytes`, which are all of a header's behind its first 20: up to the end of the list, or to an error,
/// after which nothing comes. The end itself is not shown.
#[derive(Debug, Clone)]
pub struct Ipv4Options<'a>(&'a [u8]);

impl<'a> Ipv4Options<'a> {
    /// From a header's option bytes.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }
}

impl<'a> Iterator for Ipv4Options<'a> {
    type Item = Result<Ipv4Option<'a>, WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = std::mem::take(&mut self.0);
        let len = match *rest.first()? {
            OPTION_END => return None,
            OPTION_NOP => 1,
            _ => match need(Format::Ipv4, rest, 2) {
                Ok(()) => usize::from(rest[1]),
                Err(error) => return Some(Err(error)),
            },
        };
        let wrong = len == 0 || (rest[0] != OPTION_NOP && len < 2);
        let checked = check(!wrong, Format::Ipv4, "option_len", len as u64)
            .and_then(|()| need(Format::Ipv4, rest, len));
        Some(checked.map(|()| {
            let (option, after) = rest.split_at(len);
            self.0 = after;
            Ipv4Option(option)
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_by_one_up_to_the_end() {
        let bytes = [OPTION_NOP, 148, 4, 0, 0, 7, 3, 4, OPTION_END, 131, 0, 0];
        let options: Vec<_> = Ipv4Options::new(&bytes).map(Result::unwrap).collect();
        let kinds: Vec<_> = options.iter().map(|o| (o.kind(), o.is_copied(), o.bytes().len())).collect();
        assert_eq!(kinds, [(1, false, 1), (148, true, 4), (7, false, 3)]);
        assert!(options.iter().all(|option| !option.is_source_route()));
        assert!(Ipv4Options::new(&[137, 3, 4]).next().unwrap().unwrap().is_source_route());
        assert_eq!(Ipv4Options::new(&[]).count(), 0);
    }

    #[test]
    fn wrong_lengths_are_named_and_end_the_list() {
        let bad = |value| Err(WireError::BadField { format: Format::Ipv4, field: "option_len", value });
        let cut = |need, have| Err(WireError::Truncated { format: Format::Ipv4, need, have });
        for (bytes, error) in [
            (&[131, 0, 1, 1][..], bad(0)),
            (&[131, 1, 1, 1], bad(1)),
            (&[131, 5, 1, 1], cut(5, 4)),
            (&[1, 1, 1, 131], cut(2, 1)),
        ] {
            let mut options = Ipv4Options::new(bytes);
            let last = options.by_ref().last();
            assert_eq!(last.unwrap().map(|_| ()), error);
            assert!(options.next().is_none());
        }
    }

    proptest! {
        #[test]
        fn whatever_they_are_they_end(bytes in prop::collection::vec(any::<u8>(), 0..41)) {
            let shown: usize = Ipv4Options::new(&bytes).flatten().map(|option| option.bytes().len()).sum();
            prop_assert!(shown <= bytes.len());
        }
    }
}
