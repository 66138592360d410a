//! A switch's tables: a node of a cluster as the control side would make it, with some of it missing, moved or pointing
//! at nothing. A new kind of table entry goes in here, and how it is drawn into `lot`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use arbitrary::{Result, Unstructured};
use weft_switch::limits::Limits;
use weft_switch::memory::MemSwitch;
use weft_switch::packet::HeapPool;
use weft_switch::port::{MemPort, TxCaps};
use weft_switch::tables::{
    Encap, Gateway, LocalVtep, Neighbour, NextHop, Outer, Peers, Place, PodGuard, Port, Role, Shared,
    Snapshot, SourcePorts, Vtep,
};
use weft_switch::types::{MacAddr, Mtu, PortId, Vni};

/// The gateway's MAC address.
pub const GATEWAY: MacAddr = MacAddr([0x0a, 0x58, 10, 244, 0, 1]);
/// The host's side of the host port.
pub const HOST: MacAddr = MacAddr([2, 0, 0, 0, 0xc, 0]);
/// The uplink's MAC address.
pub const UPLINK: MacAddr = MacAddr([2, 0, 0, 0, 0xa, 0]);
/// The underlay's router.
pub const ROUTER: MacAddr = MacAddr([2, 0, 0, 0, 0xb, 0]);
/// This node's VTEP in each network.
pub const OWN_VTEPS: [MacAddr; 2] = [MacAddr([2, 0xf, 0, 0, 0, 0]), MacAddr([2, 0xf, 0, 0, 1, 0])];
/// Stations that no table knows before they are heard.
pub const STRANGERS: [MacAddr; 3] =
    [MacAddr([2, 0, 0, 0, 0xee, 1]), MacAddr([2, 0, 0, 0, 0xee, 2]), MacAddr([2, 0, 0, 0, 0xee, 3])];

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
    /// A pod that may send from any address, with the addresses that it is configured to have.
    Trusted {
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

impl Station {
    /// The MAC and IP addresses that a pod is configured to have.
    pub fn pod(&self) -> Option<(MacAddr, &[IpAddr])> {
        match self {
            Self::Pod { mac, addresses } | Self::Trusted { mac, addresses } => Some((*mac, addresses)),
            Self::Host | Self::Uplink => None,
        }
    }

    /// What it sends from is learned.
    pub fn is_trusted(&self) -> bool {
        matches!(self, Self::Trusted { .. })
    }
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
    /// It is in the list of the segment's ports.
    pub on_segment: bool,
    /// It is in the list of those that unknown stations may be behind.
    pub for_unknown: bool,
    /// Which workers have queues of it.
    pub workers: Vec<usize>,
    /// Its other end.
    pub wire: MemPort,
    /// What that takes unfinished.
    pub caps: TxCaps,
    /// Of an uplink: the tables say that it takes tunnel packets whose inner frame is unfinished.
    pub tunnel_gso: bool,
}

/// The far end of a tunnel.
#[derive(Debug, Clone)]
pub struct Far {
    /// Its underlay address.
    pub address: IpAddr,
    /// Its VTEP's MAC address.
    pub mac: MacAddr,
    /// Its network: 0 or 1.
    pub network: usize,
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
    /// The networks.
    pub vnis: [Vni; 2],
    /// In which networks this node has an end of the tunnel, and over which family's underlay address.
    pub locals: Vec<(usize, IpAddr)>,
    /// The UDP port of the tunnel.
    pub port: u16,
    /// Next hops are the kernel's business: packets to a far end leave without a MAC address where none is known.
    pub kernel_resolves: bool,
    /// Pods that routes lead through, with the index of their port.
    pub hops: Vec<(MacAddr, usize)>,
    /// Next hops that cost the same.
    pub groups: Vec<Vec<NextHop>>,
    /// Neighbours that were learned: where the tables say that they are.
    pub learned: Vec<(IpAddr, MacAddr, usize)>,
    /// Stations behind one port at most.
    pub learn_limit: u32,
    /// Seconds after which a station is forgotten.
    pub ageing: u32,
    /// What is limited.
    pub limits: Limits,
    /// The time in milliseconds.
    pub now: u64,
}

/// An IPv6 address of the pod network.
pub fn v6(last: u16, third: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0x10, 0x244, third, 0, 0, 0, last)
}

/// The third number of the node's second subnet.
pub const SECOND: u8 = 128;

/// The gateway's addresses.
pub fn gateways() -> [IpAddr; 8] {
    [
        Ipv4Addr::new(10, 244, SECOND, 1).into(),
        v6(1, SECOND.into()).into(),
        Ipv4Addr::new(10, 244, 0, 1).into(),
        Ipv4Addr::new(10, 244, 0, 0).into(),
        Ipv4Addr::new(169, 254, 1, 1).into(),
        v6(1, 0).into(),
        v6(0, 0).into(),
        Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1).into(),
    ]
}

impl Node {
    /// The number of the port of this index.
    pub fn id(index: usize) -> PortId {
        PortId::new(index).expect("some ten ports")
    }

    /// A switch with this node's ports and tables.
    pub fn switch(&self) -> MemSwitch {
        let mut switch = MemSwitch::new(self.workers);
        switch.publish(self.tables());
        switch.set_time(self.now);
        for (index, door) in self.doors.iter().enumerate() {
            door.workers.iter().for_each(|worker| switch.attach(*worker, Self::id(index), &door.wire));
        }
        switch
    }

    /// What stands in the outer Ethernet header of packets to a far end; nothing if they cannot be sent.
    pub fn next_hop_mac(&self, far: &Far) -> Option<MacAddr> {
        if far.resolved { Some(ROUTER) } else { self.kernel_resolves.then_some(MacAddr::ZERO) }
    }

    /// Lets time pass: up to what a station is remembered for.
    pub fn pass(&mut self, u: &mut Unstructured<'_>, switch: &mut MemSwitch) -> Result<()> {
        self.now += *u.choose(&[1, 50, 999, 1000, 10_000, 300_000, 299_999_999])?;
        switch.set_time(self.now);
        Ok(())
    }

    /// Gives a worker a pool with a few buffers left, or none, or enough again.
    pub fn drain(&self, u: &mut Unstructured<'_>, switch: &mut MemSwitch) -> Result<()> {
        let left = *u.choose(&[0, 1, 2, 5, usize::MAX])?;
        let segment = *u.choose(&[2048, 2048, 512])?;
        switch.set_pool(u.int_in_range(0..=self.workers - 1)?, HeapPool { segment, left });
        Ok(())
    }

    /// The tables.
    pub fn tables(&self) -> Snapshot {
        let mut tables = Snapshot {
            vxlan_port: self.port,
            source_ports: SourcePorts::default(),
            peers: Shared::new(Peers::new(self.accept_unknown)),
            learn_limit: self.learn_limit,
            ageing: self.ageing,
            limits: self.limits,
            groups: Shared::new(
                self.groups.iter().map(|members| members.clone().into_boxed_slice()).collect(),
            ),
            ..Snapshot::default()
        };
        tables.gateway = Gateway { mac: GATEWAY, ..Gateway::default() };
        for gateway in gateways() {
            match gateway {
                IpAddr::V4(v4) => tables.gateway.v4.push(v4),
                IpAddr::V6(v6) => tables.gateway.v6.push(v6),
            }
        }
        for third in [0, SECOND] {
            let (four, six) = (Ipv4Addr::new(10, 244, third, 0), v6(0, third.into()));
            tables.gateway.subnets4.push((four, 24, Ipv4Addr::new(10, 244, third, 1)));
            tables.gateway.subnets6.push((six, 64, v6(1, third.into())));
        }
        for (index, door) in self.doors.iter().enumerate() {
            let id = Self::id(index);
            if door.on_segment {
                tables.segment.push(id);
            }
            if door.for_unknown {
                tables.trusted.push(id);
            }
            let role = match &door.station {
                Station::Pod { mac, addresses } => {
                    tables.add_pod(id, *mac, addresses);
                    Role::Pod(PodGuard::new(*mac, addresses))
                }
                Station::Trusted { mac, addresses } => {
                    tables.add_pod(id, *mac, addresses);
                    Role::Trusted
                }
                Station::Host => {
                    tables.gateway.host = Some(Neighbour { mac: HOST, port: id });
                    Role::Host
                }
                Station::Uplink => Role::Uplink,
            };
            // The tables may speak of a pod, or of the host, whose port is gone.
            if door.published {
                let &Door { mtu, place, tunnel_gso, .. } = door;
                tables.ports.insert(id, Port { role, mtu, place, tunnel_gso });
            }
        }
        let neighbour = |mac, at| Neighbour { mac, port: Self::id(at) };
        tables.hops = self.hops.iter().map(|(mac, at)| neighbour(*mac, *at)).collect();
        for (address, mac, at) in &self.learned {
            tables.add_learned(*address, neighbour(*mac, *at));
        }
        self.routes4.iter().for_each(|(net, len, next_hop)| tables.routes4.insert(*net, *len, *next_hop));
        self.routes6.iter().for_each(|(net, len, next_hop)| tables.routes6.insert(*net, *len, *next_hop));
        for far in &self.vteps {
            let outer = Outer {
                src_mac: UPLINK,
                dst_mac: self.next_hop_mac(far).unwrap_or(MacAddr::ZERO),
                src: self.own_address(far.address),
                dst: far.address,
                port: self.port,
            };
            let encap = Encap::new(&outer, self.vnis[far.network], OWN_VTEPS[far.network], far.mac);
            let encap = encap.filter(|_| self.next_hop_mac(far).is_some());
            tables.vteps.push(Vtep { encap, uplink: Self::id(0), mtu: far.mtu, checksum: far.checksum });
            if far.known {
                tables.peers.insert(far.address, self.vnis[far.network]);
            }
        }
        let local = |(network, address): &(usize, IpAddr)| LocalVtep {
            vni: self.vnis[*network],
            mac: OWN_VTEPS[*network],
            address: *address,
        };
        tables.local_vteps = self.locals.iter().map(local).collect();
        tables
    }
}
