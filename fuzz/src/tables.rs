//! A switch's tables, drawn by lot: a node of a cluster as the control side would make it, with some of it missing,
//! moved or pointing at nothing. What a new kind of table entry is to be part of the fuzzing goes in here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use arbitrary::{Result, Unstructured};
use weft_switch::memory::MemSwitch;
use weft_switch::port::{MemPort, TxCaps};
use weft_switch::tables::{
    Encap, Gateway, LocalVtep, Neighbour, NextHop, Outer, Peers, Place, PodGuard, Port, Prefix, Role,
    Snapshot, SourcePorts, Vtep,
};
use weft_switch::types::{MacAddr, Mtu, PortId, Vni};

use crate::frames::{Cast, Wrap};

/// The gateway's MAC address.
pub const GATEWAY: MacAddr = MacAddr([0x0a, 0x58, 10, 244, 0, 1]);
/// The host's side of the host port.
pub const HOST: MacAddr = MacAddr([2, 0, 0, 0, 0xc, 0]);
const UPLINK: MacAddr = MacAddr([2, 0, 0, 0, 0xa, 0]);
const ROUTER: MacAddr = MacAddr([2, 0, 0, 0, 0xb, 0]);
const OWN_VTEP: MacAddr = MacAddr([2, 0xf, 0, 0, 0, 0]);
const UNKNOWN: MacAddr = MacAddr([2, 0, 0, 0, 0xee, 1]);

/// Who is behind a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Station {
    /// A pod, held to these addresses.
    Pod {
        /// Its MAC address.
        mac: MacAddr,
        /// Its IP addresses.
        addresses: Vec<IpAddr>,
    },
    /// The node's own stack.
    Host,
    /// The underlay.
    Uplink,
}

/// A port, in the tables or not.
#[derive(Debug, Clone)]
pub struct Door {
    /// Who is behind it.
    pub station: Station,
    /// The largest IP packet that may be sent to it.
    pub mtu: Mtu,
    /// Where the tables say that its transmit queue is.
    pub place: Place,
    /// Whether the tables name it.
    pub published: bool,
    /// Which workers have queues of it.
    pub workers: Vec<usize>,
    /// Its other end.
    pub wire: MemPort,
    /// What that takes unfinished.
    pub caps: TxCaps,
}

/// The far end of a tunnel.
#[derive(Debug, Clone)]
pub struct Far {
    /// Its underlay address.
    pub address: IpAddr,
    /// Its VTEP's MAC address.
    pub mac: MacAddr,
    /// The way to it is known.
    pub resolved: bool,
    /// The outer checksum over IPv4 is filled in.
    pub checksum: bool,
    /// This node takes its packets.
    pub known: bool,
    /// The largest inner packet.
    pub mtu: Mtu,
}

/// A node: everything that its tables are made of, and that its packets are judged by.
#[derive(Debug, Clone)]
pub struct Node {
    /// Its workers.
    pub workers: usize,
    /// By port number.
    pub doors: Vec<Door>,
    /// IPv4 routes.
    pub routes4: Vec<(Ipv4Addr, u8, NextHop)>,
    /// IPv6 routes.
    pub routes6: Vec<(Ipv6Addr, u8, NextHop)>,
    /// By index, as the routes name them.
    pub vteps: Vec<Far>,
    /// The underlay's families, IPv4 first.
    pub own: [IpAddr; 2],
    /// Everybody's tunnel packets are taken.
    pub accept_unknown: bool,
    /// The network.
    pub vni: Vni,
    /// The UDP port of the tunnel.
    pub port: u16,
}

fn v6(last: u16, third: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0x10, 0x244, third, 0, 0, 0, last)
}

/// The gateway's addresses.
pub fn gateways() -> [IpAddr; 6] {
    [
        Ipv4Addr::new(10, 244, 0, 1).into(),
        Ipv4Addr::new(10, 244, 0, 0).into(),
        Ipv4Addr::new(169, 254, 1, 1).into(),
        v6(1, 0).into(),
        v6(0, 0).into(),
        Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1).into(),
    ]
}

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
        },
    })
}

impl Node {
    /// A node by lot.
    pub fn arbitrary(u: &mut Unstructured<'_>) -> Result<Self> {
        let workers = u.int_in_range(1..=2)?;
        let underlay = mtu(u, &[1500, 1350, 9000, 65535])?;
        let own =
            [Ipv4Addr::new(172, 16, 0, 1).into(), Ipv6Addr::new(0xfd00, 0x172, 0x16, 0, 0, 0, 0, 1).into()];
        let mut node = Self {
            workers,
            doors: Vec::new(),
            routes4: vec![
                (Ipv4Addr::new(10, 244, 0, 0), 16, NextHop::Unreachable),
                (Ipv4Addr::new(10, 244, 0, 0), 24, NextHop::Local),
                (Ipv4Addr::new(10, 244, 0, 0), 32, NextHop::Host),
                (Ipv4Addr::new(10, 244, 0, 1), 32, NextHop::Host),
            ],
            routes6: vec![
                (v6(0, 0), 48, NextHop::Unreachable),
                (v6(0, 0), 64, NextHop::Local),
                (v6(0, 0), 128, NextHop::Host),
                (v6(1, 0), 128, NextHop::Host),
            ],
            vteps: Vec::new(),
            own,
            accept_unknown: u.ratio(1, 8)?,
            vni: Vni::from_be_bytes(if u.arbitrary()? { [0, 0, 1] } else { u.arbitrary()? }),
            port: *u.choose(&[8472, 8472, 4789, 53])?,
        };
        node.door(u, Station::Uplink, underlay)?;
        node.door(u, Station::Host, Mtu::new(1450).unwrap_or(Mtu::SMALLEST))?;
        for index in 0..u.int_in_range(0..=4u8)? {
            let mut addresses: Vec<IpAddr> = Vec::new();
            for _ in 0..u.int_in_range(0..=3)? {
                let last = 5 + 4 * index + u.int_in_range(0..=3)?;
                let v4 = Ipv4Addr::new(10, 244, 0, last).into();
                addresses.push(if u.arbitrary()? { v4 } else { v6(last.into(), 0).into() });
            }
            let largest = mtu(u, &[1450, 1450, 1500, 576, 1280, 9000, 65535])?;
            node.door(u, Station::Pod { mac: MacAddr([2, 0, 0, 0, 5, index]), addresses }, largest)?;
        }
        for index in 0..u.int_in_range(0..=3u8)? {
            let (over, host) = (u.arbitrary::<bool>()?, u16::from(index) + 2);
            let address = if over {
                Ipv4Addr::new(172, 16, 0, index + 2).into()
            } else {
                Ipv6Addr::new(0xfd00, 0x172, 0x16, 0, 0, 0, 0, host).into()
            };
            let overhead = if over { 50 } else { 70 };
            let largest = Mtu::new((underlay.get() - overhead) as u32).unwrap_or(Mtu::SMALLEST);
            node.vteps.push(Far {
                address,
                mac: MacAddr([2, 0xf, 0, 0, 0, index + 1]),
                resolved: u.ratio(7, 8)?,
                checksum: u.arbitrary()?,
                known: u.ratio(7, 8)?,
                mtu: if u.ratio(1, 8)? { Mtu::SMALLEST } else { largest },
            });
            node.routes4.push((Ipv4Addr::new(10, 244, index + 1, 0), 24, NextHop::Vtep(index.into())));
            node.routes6.push((v6(0, u16::from(index) + 1), 64, NextHop::Vtep(index.into())));
        }
        for _ in 0..u.int_in_range(0..=2)? {
            node.extra_route(u)?;
        }
        Ok(node)
    }

    /// A route that no control side would make, to somewhere or to nothing.
    fn extra_route(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let vtep = NextHop::Vtep(u.int_in_range(0..=4)?);
        let next_hop = *u.choose(&[NextHop::Local, NextHop::Host, NextHop::Unreachable, vtep])?;
        let near: u8 = u.arbitrary()?;
        if u.arbitrary()? {
            let address = if u.arbitrary()? { Ipv4Addr::new(10, 244, 0, near) } else { u.arbitrary()? };
            self.routes4.push((address, u.int_in_range(0..=32)?, next_hop));
        } else {
            let address = if u.arbitrary()? { v6(near.into(), 0) } else { u.arbitrary()? };
            self.routes6.push((address, u.int_in_range(0..=128)?, next_hop));
        }
        Ok(())
    }

    fn door(&mut self, u: &mut Unstructured<'_>, station: Station, mtu: Mtu) -> Result<()> {
        let each = station == Station::Uplink && u.arbitrary()?;
        let worker = u.int_in_range(0..=self.workers - 1)?;
        let caps = caps(u)?;
        let missing = u.int_in_range(0..=31u8)?;
        let workers = match missing {
            0 => Vec::new(),
            _ if each => (0..self.workers).collect(),
            _ => vec![worker],
        };
        let place = if each { Place::Each } else { Place::Worker(worker as u16) };
        let wire = MemPort::with_caps(caps);
        self.doors.push(Door { station, mtu, place, published: missing != 1, workers, wire, caps });
        Ok(())
    }

    /// Changes something, as the control side does while packets are on their way.
    pub fn change(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        match u.int_in_range(0..=3)? {
            0 => {
                let at = u.choose_index(self.doors.len())?;
                self.doors[at].published ^= true;
            }
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

    /// The number of the port of this index.
    pub fn id(index: usize) -> PortId {
        PortId::new(index).expect("some ten ports")
    }

    /// A switch with this node's ports and tables.
    pub fn switch(&self) -> MemSwitch {
        let mut switch = MemSwitch::new(self.workers);
        switch.publish(self.tables());
        for (index, door) in self.doors.iter().enumerate() {
            door.workers.iter().for_each(|worker| switch.attach(*worker, Self::id(index), &door.wire));
        }
        switch
    }

    /// The tables.
    pub fn tables(&self) -> Snapshot {
        let mut tables = Snapshot {
            vxlan_port: self.port,
            source_ports: SourcePorts::default(),
            peers: Peers::new(self.accept_unknown),
            ..Snapshot::default()
        };
        tables.gateway = Gateway { mac: GATEWAY, ..Gateway::default() };
        for gateway in gateways() {
            match gateway {
                IpAddr::V4(v4) => tables.gateway.v4.push(v4),
                IpAddr::V6(v6) => tables.gateway.v6.push(v6),
            }
        }
        for (index, door) in self.doors.iter().enumerate() {
            let id = Self::id(index);
            let role = match &door.station {
                Station::Pod { mac, addresses } => {
                    tables.add_pod(id, *mac, addresses);
                    Role::Pod(PodGuard::new(*mac, addresses))
                }
                Station::Host => {
                    tables.gateway.host = Some(Neighbour { mac: HOST, port: id });
                    Role::Host
                }
                Station::Uplink => Role::Uplink,
            };
            // The tables may speak of a pod, or of the host, whose port is gone.
            if door.published {
                tables.ports.insert(id, Port { role, mtu: door.mtu, place: door.place });
            }
        }
        self.routes4.iter().for_each(|(net, len, next_hop)| tables.routes4.insert(*net, *len, *next_hop));
        self.routes6.iter().for_each(|(net, len, next_hop)| tables.routes6.insert(*net, *len, *next_hop));
        for far in &self.vteps {
            let outer = Outer {
                src_mac: UPLINK,
                dst_mac: ROUTER,
                src: self.own_address(far.address),
                dst: far.address,
                port: self.port,
            };
            let encap = Encap::new(&outer, self.vni, OWN_VTEP, far.mac).filter(|_| far.resolved);
            tables.vteps.push(Vtep { encap, uplink: Self::id(0), mtu: far.mtu, checksum: far.checksum });
            if far.known {
                tables.peers.insert(far.address, self.vni);
            }
        }
        tables.local_vteps = self
            .own
            .iter()
            .map(|address| LocalVtep { vni: self.vni, mac: OWN_VTEP, address: *address })
            .collect();
        tables
    }

    /// This node's underlay address of the same family.
    pub fn own_address(&self, far: IpAddr) -> IpAddr {
        self.own[usize::from(far.is_ipv6())]
    }

    /// Where a destination leads, found the slow way.
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

    /// MAC addresses of the segment: whoever has one is known.
    pub fn macs(&self) -> Vec<MacAddr> {
        let pods = self.doors.iter().filter_map(|door| match &door.station {
            Station::Pod { mac, .. } => Some(*mac),
            Station::Host | Station::Uplink => None,
        });
        pods.chain([GATEWAY, HOST]).collect()
    }

    /// Who may stand in a frame that comes in here. For the uplink: in the inner one.
    pub fn cast(&self, from: usize) -> Cast {
        let mut all: Vec<IpAddr> = gateways().to_vec();
        for door in &self.doors {
            if let Station::Pod { addresses, .. } = &door.station {
                all.extend(addresses);
            }
        }
        let far = (1..=3u8)
            .flat_map(|net| [IpAddr::from(Ipv4Addr::new(10, 244, net, 7)), v6(7, net.into()).into()]);
        let world: [IpAddr; 6] = [
            Ipv4Addr::new(192, 0, 2, 1).into(),
            Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
            Ipv4Addr::new(10, 244, 9, 9).into(),
            Ipv4Addr::new(10, 244, 0, 200).into(),
            Ipv4Addr::BROADCAST.into(),
            Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1).into(),
        ];
        let mut dst = all.clone();
        dst.extend(far.clone().chain(world));
        let mut dst_macs = self.macs();
        dst_macs.extend([GATEWAY, GATEWAY, MacAddr::BROADCAST, MacAddr([0x33, 0x33, 0, 0, 0, 1]), UNKNOWN]);
        match &self.doors[from].station {
            Station::Pod { mac, addresses } => {
                let mut src = addresses.clone();
                src.push(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x55).into());
                Cast { src_macs: vec![*mac], dst_macs, src, dst }
            }
            Station::Host => {
                let src = gateways().into_iter().chain(world).collect();
                Cast { src_macs: vec![HOST], dst_macs, src, dst }
            }
            Station::Uplink => {
                let macs = self.vteps.iter().map(|far| far.mac).collect();
                Cast { src_macs: macs, dst_macs: vec![OWN_VTEP], src: far.chain(world).collect(), dst }
            }
        }
    }

    /// How a peer wraps what it sends to this node.
    pub fn wrap(&self, u: &mut Unstructured<'_>) -> Result<Wrap> {
        let mut peers: Vec<IpAddr> = self.vteps.iter().map(|far| far.address).collect();
        peers.push(Ipv4Addr::new(172, 16, 0, 99).into());
        let src = *u.choose(&peers)?;
        let vni = if u.ratio(1, 16)? { u.arbitrary::<u32>()? >> 8 } else { self.vni.get() };
        let port = if u.ratio(1, 16)? { 4789 } else { self.port };
        Ok(Wrap { macs: [UPLINK, ROUTER], src, dst: self.own_address(src), port, vni })
    }

    /// The outer MAC addresses of what goes into the tunnel: source and destination.
    pub fn outer_macs(&self) -> (MacAddr, MacAddr) {
        (UPLINK, ROUTER)
    }

    /// The inner source MAC address of what goes into the tunnel.
    pub fn own_vtep(&self) -> MacAddr {
        OWN_VTEP
    }
}
