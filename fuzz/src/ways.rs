//! What the tables say, found the slow way: whose an address is, and where a destination leads.

use std::net::IpAddr;

use weft_switch::tables::{NextHop, Prefix};
use weft_switch::types::MacAddr;

use crate::frames::Wrap;
use crate::tables::{GATEWAY, HOST, Node, SECOND, Station, v6};

impl Node {
    /// This node's underlay address of the same family.
    pub fn own_address(&self, far: IpAddr) -> IpAddr {
        self.own[usize::from(far.is_ipv6())]
    }

    /// The route to a destination.
    pub fn route(&self, dst: IpAddr) -> Option<NextHop> {
        /// The last of the longest: a route that is there already is replaced.
        fn longest<A: Prefix>(routes: &[(A, u8, NextHop)], dst: A) -> Option<NextHop> {
            let matching = routes.iter().filter(|(net, len, _)| net.masked(*len) == dst.masked(*len));
            matching.max_by_key(|(_, len, _)| *len).map(|(_, _, next_hop)| *next_hop)
        }
        match dst {
            IpAddr::V4(v4) => longest(&self.routes4, v4),
            IpAddr::V6(v6) => longest(&self.routes6, v6),
        }
    }

    /// Every next hop that a destination may be sent to: one, or those of a group. What no route knows is the host's.
    pub fn ways(&self, dst: IpAddr) -> Vec<NextHop> {
        match self.route(dst) {
            None => vec![NextHop::Host],
            Some(NextHop::Group(group)) => self.groups.get(group as usize).cloned().unwrap_or_default(),
            Some(next_hop) => vec![next_hop],
        }
    }

    /// Whether what is routed to `dst` may be sent to this MAC address behind the port of index `to`.
    pub fn leads_to(&self, dst: IpAddr, mac: MacAddr, to: usize) -> bool {
        self.ways(dst).iter().any(|way| match way {
            NextHop::Local => self.neighbour(dst) == Some((mac, to)),
            NextHop::Hop(hop) => self.hops.get(*hop as usize) == Some(&(mac, to)),
            NextHop::Host => self.doors[to].station == Station::Host && mac == HOST,
            _ => false,
        })
    }

    /// Who has an address of the segment: configured pods, then whoever was learned first.
    pub fn neighbour(&self, address: IpAddr) -> Option<(MacAddr, usize)> {
        let has = |at: &usize| self.doors[*at].station.pod().is_some_and(|(_, all)| all.contains(&address));
        let pod = (0..self.doors.len()).rev().find(has);
        let pod = pod.and_then(|at| self.doors[at].station.pod().map(|(mac, _)| (mac, at)));
        let learned = || self.learned.iter().find(|(known, ..)| *known == address);
        pod.or_else(|| learned().map(|(_, mac, at)| (*mac, *at)))
    }

    /// In one of the node's subnets.
    pub fn in_subnet(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(v4) => [0, SECOND].iter().any(|third| v4.octets()[..3] == [10, 244, *third]),
            IpAddr::V6(six) => [0, SECOND].iter().any(|third| six.masked(64) == v6(0, (*third).into())),
        }
    }

    /// The port that a MAC address is configured to be behind.
    pub fn configured(&self, mac: MacAddr) -> Option<usize> {
        self.doors.iter().position(|door| match &door.station {
            Station::Host => mac == HOST,
            station => station.pod().is_some_and(|(own, _)| own == mac),
        })
    }

    /// The MAC address is somebody's who is not behind this port.
    pub fn is_anothers(&self, mac: MacAddr, at: usize) -> bool {
        mac == GATEWAY || self.configured(mac).is_some_and(|own| own != at)
    }

    /// Whether the tables let a tunnel packet in that is wrapped like this.
    pub fn takes(&self, wrap: &Wrap) -> bool {
        let ours = |(network, address): &(usize, IpAddr)| {
            self.vnis[*network].get() == wrap.vni && *address == wrap.dst
        };
        let known = self
            .vteps
            .iter()
            .any(|far| far.known && far.address == wrap.src && self.vnis[far.network].get() == wrap.vni);
        wrap.port == self.port && self.locals.iter().any(ours) && (known || self.accept_unknown)
    }
}
