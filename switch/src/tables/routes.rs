//! Longest prefix match: a hash table for each prefix length in use, longest first.
//!
//! A cluster's routes are many and of few lengths (a /24 for each node, the network's /16), so a lookup is one or
//! two probes whatever the number of routes.

use std::hash::Hash;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use super::Map;

/// Where a route leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextHop {
    /// To a pod of this node, whichever has the address.
    Local,
    /// To the node's own stack.
    Host,
    /// Through the tunnel, to the VTEP of this index.
    Vtep(u32),
    /// To another node without the tunnel: by this node's own stack, which has a route there. What comes out of the tunnel
    /// all the same is answered to the VTEP of this index ([`NO_VTEP`]: it has none).
    Direct(u32),
    /// To another node on the uplink's link without the tunnel, by weft itself: the one of this index in
    /// [`crate::tables::Snapshot::links`].
    OnLink(u32),
    /// To the neighbour of this index in [`crate::tables::Snapshot::hops`]: a pod of this node that routes on.
    Hop(u32),
    /// To one of the next hops of the group of this index in [`crate::tables::Snapshot::groups`], chosen by flow: they
    /// cost the same.
    Group(u32),
    /// Nowhere, and the sender is told that the host is unreachable: part of the pod network, but of no node.
    Unreachable,
    /// Nowhere, and the sender is told that it is forbidden.
    Prohibit,
    /// Nowhere, and nobody is told.
    Blackhole,
}

/// No VTEP has this index.
pub const NO_VTEP: u32 = u32::MAX;

/// An address that has prefixes.
pub trait Prefix: Copy + Eq + Hash {
    /// Bits in an address.
    const BITS: u8;
    /// The address with all but the first `len` bits zero.
    fn masked(self, len: u8) -> Self;
}

impl Prefix for Ipv4Addr {
    const BITS: u8 = 32;
    #[inline]
    fn masked(self, len: u8) -> Self {
        Self::from_bits(self.to_bits() & u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0))
    }
}

impl Prefix for Ipv6Addr {
    const BITS: u8 = 128;
    #[inline]
    fn masked(self, len: u8) -> Self {
        Self::from_bits(self.to_bits() & u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0))
    }
}

/// The routes of one address family. Several snapshots may have the same, as with [`super::Shared`], but without a pointer more on the way
/// of each lookup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Routes<A: Prefix>(Arc<[(u8, Map<A, NextHop>)]>);

impl<A: Prefix> Default for Routes<A> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<A: Prefix> Routes<A> {
    /// Adds the route to `address/len`, or replaces it. A length over the family's counts as the family's.
    pub fn insert(&mut self, address: A, len: u8, next_hop: NextHop) {
        let len = len.min(A::BITS);
        self.of_len(len).insert(address.masked(len), next_hop);
    }

    /// Makes room for so many routes more of this length.
    pub fn reserve(&mut self, len: u8, more: usize) {
        if more > 0 {
            self.of_len(len.min(A::BITS)).reserve(more);
        }
    }

    fn of_len(&mut self, len: u8) -> &mut Map<A, NextHop> {
        let at = self.0.partition_point(|(other, _)| *other > len);
        if self.0.get(at).is_none_or(|(other, _)| *other != len) {
            let mut all: Vec<_> = match Arc::get_mut(&mut self.0) {
                Some(own) => own.iter_mut().map(std::mem::take).collect(),
                None => self.0.to_vec(),
            };
            all.insert(at, (len, Map::default()));
            self.0 = all.into();
        }
        &mut Arc::make_mut(&mut self.0)[at].1
    }

    /// True for the same memory.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Takes the other's memory where that says the same.
    pub(super) fn keep(&mut self, before: &Self) {
        if self == before {
            *self = before.clone();
        }
    }

    /// The longest route to `address`.
    #[inline]
    pub fn lookup(&self, address: A) -> Option<NextHop> {
        self.0.iter().find_map(|(len, table)| table.get(&address.masked(*len)).copied())
    }

    /// True where one of the tables may not be in the caches next to the core.
    pub fn is_far(&self) -> bool {
        self.0.iter().any(|(_, table)| table.is_far())
    }

    /// Fetches what [`Self::lookup`] will look at.
    #[inline]
    pub fn prefetch(&self, address: A) {
        for (len, table) in self.0.iter().filter(|(_, table)| table.is_far()) {
            table.prefetch(&address.masked(*len));
        }
    }

    /// As [`Self::lookup`], with the length of the route's prefix.
    pub fn longest(&self, address: A) -> Option<(u8, NextHop)> {
        self.0.iter().find_map(|(len, table)| Some((*len, *table.get(&address.masked(*len))?)))
    }

    /// The route to exactly `address/len`.
    pub fn get(&self, address: A, len: u8) -> Option<NextHop> {
        let (_, table) = self.0.iter().find(|(other, _)| *other == len)?;
        table.get(&address.masked(len)).copied()
    }

    /// Every route: network, prefix length, next hop. Longest first, in no order beside that.
    pub fn iter(&self) -> impl Iterator<Item = (A, u8, NextHop)> + '_ {
        self.0.iter().flat_map(|(len, table)| table.iter().map(|(to, next_hop)| (*to, *len, *next_hop)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn v4(text: &str) -> Ipv4Addr {
        text.parse().unwrap()
    }

    #[test]
    fn the_longest_prefix_wins_and_zero_matches_all() {
        let mut routes = Routes::default();
        routes.insert(v4("10.244.0.0"), 16, NextHop::Host);
        routes.insert(v4("10.244.1.77"), 24, NextHop::Vtep(1));
        routes.insert(v4("10.244.1.9"), 32, NextHop::Local);
        assert_eq!(routes.lookup(v4("10.244.1.9")), Some(NextHop::Local));
        assert_eq!(routes.lookup(v4("10.244.1.8")), Some(NextHop::Vtep(1)));
        assert_eq!(routes.lookup(v4("10.244.2.8")), Some(NextHop::Host));
        assert_eq!(routes.lookup(v4("10.245.0.1")), None);
        routes.insert(v4("1.2.3.4"), 0, NextHop::Vtep(7));
        assert_eq!(routes.lookup(v4("10.245.0.1")), Some(NextHop::Vtep(7)));
        assert_eq!(routes.longest(v4("10.244.1.8")), Some((24, NextHop::Vtep(1))));
        assert_eq!(routes.get(v4("10.244.1.0"), 24), Some(NextHop::Vtep(1)));
        assert_eq!((routes.get(v4("10.244.1.0"), 25), routes.get(v4("10.244.2.0"), 24)), (None, None));
        let lengths: Vec<_> = routes.iter().map(|(_, len, _)| len).collect();
        assert_eq!(lengths, [32, 24, 16, 0]);
    }

    proptest! {
        #[test]
        fn same_answer_as_a_linear_search(
            routes in prop::collection::vec((any::<u128>(), 0u8..=128), 0..40),
            addresses in prop::collection::vec(any::<u128>(), 1..20),
            near in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
        ) {
            let mut table = Routes::default();
            for (index, (address, len)) in routes.iter().enumerate() {
                table.insert(Ipv6Addr::from_bits(*address), *len, NextHop::Vtep(index as u32));
            }
            let near = near.iter().filter(|_| !routes.is_empty()).map(|(i, flip)| i.get(&routes).0 ^ u128::from(*flip));
            for address in addresses.iter().copied().chain(near) {
                let address = Ipv6Addr::from_bits(address);
                let expected = routes.iter().enumerate()
                    .filter(|(_, (net, len))| Ipv6Addr::from_bits(*net).masked(*len) == address.masked(*len))
                    .max_by_key(|(index, (_, len))| (*len, *index))
                    .map(|(index, _)| NextHop::Vtep(index as u32));
                prop_assert_eq!(table.lookup(address), expected);
            }
        }
    }
}
