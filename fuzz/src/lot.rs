//! A node by lot, and what changes about it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use arbitrary::{Result, Unstructured};
use weft_switch::limits::{Limit, Limits};
use weft_switch::port::{MemPort, TxCaps};
use weft_switch::tables::{NextHop, Place};
use weft_switch::types::{MacAddr, Mtu, Vni};

use crate::tables::{Door, Far, Node, SECOND, STRANGERS, Station, v6};

fn mtu(u: &mut Unstructured<'_>, of: &[u32]) -> Result<Mtu> {
    Ok(Mtu::new(*u.choose(of)?).unwrap_or(Mtu::SMALLEST))
}

fn caps(u: &mut Unstructured<'_>) -> Result<TxCaps> {
    Ok(match u.int_in_range(0..=3)? {
        0 | 1 => TxCaps::NONE,
        2 => TxCaps::ALL,
        _ => TxCaps {
            partial_checksum: u.arbitrary()?,
            gso_tcp4: u.arbitrary()?,
            gso_tcp6: u.arbitrary()?,
            gso_udp: u.arbitrary()?,
            ..TxCaps::NONE
        },
    })
}

fn limit(u: &mut Unstructured<'_>) -> Result<Limit> {
    Ok(Limit { per_second: *u.choose(&[1000, 1000, 100, 1, 0])?, burst: *u.choose(&[1000, 1000, 50, 1, 0])? })
}

fn limits(u: &mut Unstructured<'_>) -> Result<Limits> {
    Ok(Limits {
        flood: limit(u)?,
        icmp: limit(u)?,
        moves: limit(u)?,
        solicit: limit(u)?,
        path_mtu: limit(u)?,
    })
}

impl Node {
    /// A node by lot.
    pub fn arbitrary(u: &mut Unstructured<'_>) -> Result<Self> {
        let workers = u.int_in_range(1..=2)?;
        let underlay = mtu(u, &[1500, 1350, 9000, 65535])?;
        let own =
            [Ipv4Addr::new(172, 16, 0, 1).into(), Ipv6Addr::new(0xfd00, 0x172, 0x16, 0, 0, 0, 0, 1).into()];
        let vni = Vni::from_be_bytes(if u.arbitrary()? { [0, 0, 1] } else { u.arbitrary()? });
        let mut node = Self {
            workers,
            doors: Vec::new(),
            routes4: vec![
                (Ipv4Addr::new(10, 244, 0, 0), 16, NextHop::Unreachable),
                (Ipv4Addr::new(10, 244, 0, 0), 24, NextHop::Local),
                (Ipv4Addr::new(10, 244, 0, 0), 32, NextHop::Host),
                (Ipv4Addr::new(10, 244, 0, 1), 32, NextHop::Host),
                (Ipv4Addr::new(10, 244, SECOND, 0), 24, NextHop::Local),
                (Ipv4Addr::new(10, 244, SECOND, 1), 32, NextHop::Host),
            ],
            routes6: vec![
                (v6(0, 0), 48, NextHop::Unreachable),
                (v6(0, 0), 64, NextHop::Local),
                (v6(0, 0), 128, NextHop::Host),
                (v6(1, 0), 128, NextHop::Host),
                (v6(0, SECOND.into()), 64, NextHop::Local),
                (v6(1, SECOND.into()), 128, NextHop::Host),
            ],
            vteps: Vec::new(),
            own,
            accept_unknown: u.ratio(1, 8)?,
            vnis: [vni, Vni::new(vni.get() ^ 1).unwrap_or(vni)],
            locals: Vec::new(),
            port: *u.choose(&[8472, 8472, 4789, 53])?,
            kernel_resolves: u.ratio(1, 4)?,
            hops: Vec::new(),
            groups: Vec::new(),
            learned: Vec::new(),
            learn_limit: *u.choose(&[1024, 1024, 2, 1, 0])?,
            ageing: *u.choose(&[300, 300, 10, 1_000_000])?,
            limits: limits(u)?,
            now: 5_000,
        };
        for network in 0..2 {
            for address in own {
                if !u.ratio(1, 16)? {
                    node.locals.push((network, address));
                }
            }
        }
        node.door(u, Station::Uplink, underlay)?;
        node.door(u, Station::Host, Mtu::new(1450).unwrap_or(Mtu::SMALLEST))?;
        for index in 0..u.int_in_range(0..=4u8)? {
            let mut addresses: Vec<IpAddr> = Vec::new();
            for _ in 0..u.int_in_range(0..=3)? {
                let last = 5 + 4 * index + u.int_in_range(0..=3)?;
                let subnet = *u.choose(&[0, 0, SECOND])?;
                let v4 = Ipv4Addr::new(10, 244, subnet, last).into();
                addresses.push(if u.arbitrary()? { v4 } else { v6(last.into(), subnet.into()).into() });
            }
            let largest = mtu(u, &[1450, 1450, 1500, 576, 1280, 9000, 65535])?;
            let mac = MacAddr([2, 0, 0, 0, 5, index]);
            let station = if u.ratio(1, 3)? {
                Station::Trusted { mac, addresses }
            } else {
                Station::Pod { mac, addresses }
            };
            node.door(u, station, largest)?;
        }
        for index in 0..u.int_in_range(0..=3u8)? {
            // Two may be one node's, in two networks.
            let (over, host) = (u.arbitrary::<bool>()?, u.int_in_range(2..=index + 2)?);
            let address = if over {
                Ipv4Addr::new(172, 16, 0, host).into()
            } else {
                Ipv6Addr::new(0xfd00, 0x172, 0x16, 0, 0, 0, 0, host.into()).into()
            };
            let overhead = if over { 50 } else { 70 };
            let largest = Mtu::new((underlay.get() - overhead) as u32).unwrap_or(Mtu::SMALLEST);
            node.vteps.push(Far {
                address,
                mac: MacAddr([2, 0xf, 0, 0, 0, index + 1]),
                network: usize::from(u.ratio(1, 3)?),
                resolved: u.ratio(7, 8)?,
                checksum: u.arbitrary()?,
                known: u.ratio(7, 8)?,
                mtu: if u.ratio(1, 8)? { Mtu::SMALLEST } else { largest },
            });
            node.routes4.push((Ipv4Addr::new(10, 244, index + 1, 0), 24, NextHop::Vtep(index.into())));
            node.routes6.push((v6(0, u16::from(index) + 1), 64, NextHop::Vtep(index.into())));
        }
        for _ in 0..u.int_in_range(0..=2)? {
            let hop = node.place(u)?;
            node.hops.extend(hop);
        }
        for _ in 0..u.int_in_range(0..=2)? {
            let mut members = Vec::new();
            for _ in 0..u.int_in_range(0..=3)? {
                members.push(node.next_hop(u)?);
            }
            node.groups.push(members);
        }
        // Where everybody sends to, the next hop is drawn.
        for net in [Ipv4Addr::new(192, 0, 2, 0), Ipv4Addr::new(10, 244, 9, 0)] {
            let next_hop = node.next_hop(u)?;
            node.routes4.push((net, 24, next_hop));
        }
        let next_hop = node.next_hop(u)?;
        node.routes6.push((Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 64, next_hop));
        for _ in 0..u.int_in_range(0..=2)? {
            node.extra_route(u)?;
        }
        for _ in 0..u.int_in_range(0..=2)? {
            node.learn(u)?;
        }
        Ok(node)
    }

    /// A station behind a pod's port: the pod or a stranger.
    fn place(&self, u: &mut Unstructured<'_>) -> Result<Option<(MacAddr, usize)>> {
        let pods: Vec<_> = (0..self.doors.len())
            .filter_map(|at| self.doors[at].station.pod().map(|(mac, _)| (mac, at)))
            .collect();
        if pods.is_empty() {
            return Ok(None);
        }
        let (mac, at) = *u.choose(&pods)?;
        Ok(Some((if u.arbitrary()? { mac } else { *u.choose(&STRANGERS)? }, at)))
    }

    /// A neighbour that the control side has heard of.
    fn learn(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let (last, subnet) = (u.int_in_range(5..=24u8)?, *u.choose(&[0, SECOND])?);
        let last = if u.arbitrary()? { 200 } else { last };
        let address = if u.arbitrary()? {
            Ipv4Addr::new(10, 244, subnet, last).into()
        } else {
            v6(last.into(), subnet.into()).into()
        };
        if let Some((mac, at)) = self.place(u)? {
            self.learned.push((address, mac, at));
        }
        Ok(())
    }

    fn next_hop(&self, u: &mut Unstructured<'_>) -> Result<NextHop> {
        Ok(match u.int_in_range(0..=9)? {
            0 => NextHop::Local,
            1 => NextHop::Host,
            2 => NextHop::Unreachable,
            3 => NextHop::Prohibit,
            4 => NextHop::Blackhole,
            5 | 6 => NextHop::Hop(u.int_in_range(0..=2)?),
            7 => NextHop::Group(u.int_in_range(0..=2)?),
            _ => NextHop::Vtep(u.int_in_range(0..=4)?),
        })
    }

    /// A route that no control side would make, to somewhere or to nothing.
    fn extra_route(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let next_hop = self.next_hop(u)?;
        let near: u8 = u.arbitrary()?;
        if u.arbitrary()? {
            let address = match u.int_in_range(0..=3)? {
                0 => Ipv4Addr::new(10, 244, 0, near),
                1 => Ipv4Addr::new(192, 0, 2, 0),
                2 => Ipv4Addr::new(10, 244, 9, 0),
                _ => u.arbitrary()?,
            };
            let len = *u.choose(&[Some(24), Some(32), Some(0), None])?;
            self.routes4.push((address, len.map_or_else(|| u.int_in_range(0..=32), Ok)?, next_hop));
        } else {
            let address = match u.int_in_range(0..=2)? {
                0 => v6(near.into(), 0),
                1 => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0),
                _ => u.arbitrary()?,
            };
            let len = *u.choose(&[Some(64), Some(128), Some(0), None])?;
            self.routes6.push((address, len.map_or_else(|| u.int_in_range(0..=128), Ok)?, next_hop));
        }
        Ok(())
    }

    fn door(&mut self, u: &mut Unstructured<'_>, station: Station, mtu: Mtu) -> Result<()> {
        let each = station == Station::Uplink && u.arbitrary()?;
        let worker = u.int_in_range(0..=self.workers - 1)?;
        let mut caps = caps(u)?;
        let tunnel_gso = station == Station::Uplink && u.arbitrary()?;
        if tunnel_gso {
            // What the tables say is so; the queue of another kind may take it as well.
            caps = TxCaps { gso_tunnel: true, partial_checksum: u.ratio(7, 8)?, ..caps };
        } else if station == Station::Uplink {
            caps.gso_tunnel = u.ratio(1, 8)?;
        }
        let missing = u.int_in_range(0..=31u8)?;
        let workers = match missing {
            0 => Vec::new(),
            _ if each => (0..self.workers).collect(),
            _ => vec![worker],
        };
        let place = if each { Place::Each } else { Place::Worker(worker as u16) };
        let wire = MemPort::with_caps(caps);
        // Lists may be behind what the ports have become.
        let on_segment = station != Station::Uplink && !u.ratio(1, 16)?;
        let for_unknown = station.is_trusted() && !u.ratio(1, 16)?;
        let published = missing != 1;
        self.doors.push(Door {
            station,
            mtu,
            place,
            published,
            on_segment,
            for_unknown,
            workers,
            wire,
            caps,
            tunnel_gso,
        });
        Ok(())
    }

    /// Changes something, as the control side does while packets are on their way.
    pub fn change(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        match u.int_in_range(0..=9)? {
            0 => {
                let at = u.choose_index(self.doors.len())?;
                self.doors[at].published ^= true;
            }
            4 => {
                let at = u.choose_index(self.doors.len())?;
                let door = &mut self.doors[at];
                door.station = match door.station.clone() {
                    Station::Pod { mac, addresses } => Station::Trusted { mac, addresses },
                    Station::Trusted { mac, addresses } => Station::Pod { mac, addresses },
                    other => other,
                };
                door.for_unknown = door.station.is_trusted();
            }
            5 => self.learn(u)?,
            6 => drop(self.learned.pop()),
            7 => self.limits = limits(u)?,
            8 => {
                self.learn_limit = *u.choose(&[1024, 2, 1, 0])?;
                self.ageing = *u.choose(&[300, 10, 1_000_000])?;
            }
            3 => self.kernel_resolves ^= true,
            1 if !self.vteps.is_empty() => {
                let at = u.choose_index(self.vteps.len())?;
                self.vteps[at].resolved ^= true;
            }
            2 => self.extra_route(u)?,
            _ => {
                let at = u.choose_index(self.doors.len())?;
                self.doors[at].mtu = mtu(u, &[1450, 576, 1500])?;
                if self.doors[at].station == Station::Uplink {
                    self.doors[at].mtu = Mtu::new(65535).unwrap_or(Mtu::SMALLEST);
                }
            }
        }
        Ok(())
    }
}
