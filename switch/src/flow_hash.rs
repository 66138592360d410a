//! A number for each flow: what chooses the tunnel's source port, and the next hop among those that cost the same.
//!
//! Made of source, destination, protocol and ports. Fragments are hashed without ports, the first one too although it
//! has them: so all pieces of a datagram take one way and arrive in order. Against the unfragmented packets
//! of the same flow they may be reordered; who fragments has given up on that.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::parse::Ip;

const ODD: u64 = 0x9e37_79b9_7f4a_7c15;

/// The same for all packets of a flow, spread over 32 bits.
#[inline]
pub(crate) fn v4(ip: &Ip<Ipv4Addr>) -> u32 {
    hash(ip.src.to_bits(), ip.dst.to_bits(), ip.ports, ip.protocol.0)
}

/// As [`v4`].
#[inline]
pub(crate) fn v6(ip: &Ip<Ipv6Addr>) -> u32 {
    hash(fold(ip.src.to_bits()), fold(ip.dst.to_bits()), ip.ports, ip.protocol.0)
}

/// Another number for the same flow, so that a choice by the one says nothing about a choice by the other: the flows that
/// one next hop gets are to be spread over all source ports.
#[inline]
pub(crate) fn again(hash: u32) -> u32 {
    let mixed = (u64::from(hash) ^ ODD).wrapping_mul(ODD.rotate_left(17) | 1);
    ((mixed ^ (mixed >> 31)).wrapping_mul(ODD) >> 32) as u32
}

/// One of `count` by a hash; 0 where there is none.
#[inline]
pub(crate) fn choose(hash: u32, count: usize) -> usize {
    ((u64::from(hash) * count as u64) >> 32) as usize
}

fn fold(address: u128) -> u32 {
    let half = (address >> 64) as u64 ^ address as u64;
    (half >> 32) as u32 ^ half as u32
}

/// Two rounds of multiply and fold.
#[inline]
pub(crate) fn hash(src: u32, dst: u32, ports: u32, protocol: u8) -> u32 {
    let addresses = (u64::from(src) << 32 | u64::from(dst)).wrapping_mul(ODD);
    let all =
        (addresses ^ (addresses >> 29) ^ (u64::from(ports) << 8 | u64::from(protocol))).wrapping_mul(ODD);
    (all >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_are_spread_evenly_and_independently() {
        let flows = 0..4000u32;
        let first: Vec<u32> = flows.map(|port| hash(0x0af4_0005, 0x0af4_0107, port << 16 | 80, 6)).collect();
        for count in [2, 3, 5] {
            let mut places = vec![0; count];
            first.iter().for_each(|hash| places[choose(again(*hash), count)] += 1);
            let fair = first.len() / count;
            assert!(places.iter().all(|n| (fair * 9 / 10..fair * 11 / 10).contains(n)), "{places:?}");
        }
        // Those that one of two next hops gets have source ports from the whole range.
        let chosen: Vec<_> = first.iter().filter(|hash| choose(again(**hash), 2) == 0).collect();
        let high = chosen.iter().filter(|hash| ***hash >> 31 == 1).count();
        assert!(
            (chosen.len() * 9 / 20..chosen.len() * 11 / 20).contains(&high),
            "{high} of {}",
            chosen.len()
        );
        assert_eq!((choose(u32::MAX, 3), choose(0, 3), choose(7, 0)), (2, 0, 0));
    }
}
