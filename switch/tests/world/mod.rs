//! Two nodes, A (number 0) and B (number 1), with a pod each, joined by a link.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]

pub mod state;
pub mod told;

use std::net::IpAddr;

use etherparse::PacketBuilder;
use weft_switch::drop_reason::DropReason;
use weft_switch::memory::MemSwitch;
use weft_switch::packet::HeapBuf;
use weft_switch::port::{MemPort, TxCaps};
use weft_switch::tables::{
    Encap, Gateway, LocalVtep, Neighbour, NextHop, Outer, Place, PodGuard, Port, Role, Snapshot, SourcePorts,
    Vtep,
};
use weft_switch::types::{MacAddr, Mtu, PortId, Vni};

pub const POD_MAC: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 5], [2, 0, 0, 0, 1, 7]];
pub const GATEWAY: [[u8; 6]; 2] = [[0xa, 0x58, 10, 244, 0, 1], [0xa, 0x58, 10, 244, 1, 1]];
pub const HOST_MAC: [[u8; 6]; 2] = [[0xa, 0x59, 10, 244, 0, 1], [0xa, 0x59, 10, 244, 1, 1]];
pub const VTEP_MAC: [[u8; 6]; 2] = [[2, 0xf, 0, 0, 0, 0], [2, 0xf, 0, 0, 0, 1]];
pub const UPLINK_MAC: [[u8; 6]; 2] = [[2, 0, 0, 0, 0xa, 0], [2, 0, 0, 0, 0xb, 0]];
const POD: [[u8; 4]; 2] = [[10, 244, 0, 5], [10, 244, 1, 7]];

/// Port numbers on each node.
pub const UPLINK: usize = 0;
pub const HOST: usize = 1;
pub const FIRST_POD: usize = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Underlay {
    V4,
    V6,
}

impl Underlay {
    fn address(self, node: usize) -> IpAddr {
        match self {
            Self::V4 => IpAddr::from([172, 16, 0, node as u8 + 1]),
            Self::V6 => format!("fd00:172:16::{}", node + 1).parse().unwrap(),
        }
    }
    fn overhead(self) -> u32 {
        if self == Self::V4 { 50 } else { 70 }
    }
}

pub struct Node {
    pub number: usize,
    pub switch: MemSwitch,
    pub uplink: MemPort,
    pub host: MemPort,
    pub pod: MemPort,
    underlay: Underlay,
    pods: Vec<([u8; 4], [u8; 6], usize)>,
}

impl Node {
    pub fn new(number: usize, underlay: Underlay, workers: usize, pod_caps: TxCaps) -> Self {
        let mut node = Self {
            number,
            switch: MemSwitch::new(workers),
            uplink: MemPort::default(),
            host: MemPort::default(),
            pod: MemPort::with_caps(pod_caps),
            underlay,
            pods: Vec::new(),
        };
        for (port, queue) in [(UPLINK, &node.uplink), (HOST, &node.host)] {
            node.switch.attach(0, PortId::new(port).unwrap(), queue);
        }
        let pod = node.pod.clone();
        node.add_pod(0, POD[number], POD_MAC[number], &pod);
        node
    }

    pub fn add_pod(&mut self, worker: usize, address: [u8; 4], mac: [u8; 6], port: &MemPort) {
        let id = PortId::new(FIRST_POD + self.pods.len()).unwrap();
        self.pods.push((address, mac, worker));
        self.switch.publish(self.tables());
        self.switch.attach(worker, id, port);
    }

    pub fn tables(&self) -> Snapshot {
        let (own, far) = (self.number, 1 - self.number);
        let vni = Vni::new(1).unwrap();
        let mtu = Mtu::new(1500 - self.underlay.overhead()).unwrap();
        let place = Place::Worker(0);
        let mut tables =
            Snapshot { vxlan_port: 8472, source_ports: SourcePorts::default(), ..Snapshot::default() };
        let uplink = PortId::new(UPLINK).unwrap();
        let host = PortId::new(HOST).unwrap();
        tables.ports.insert(
            uplink,
            Port { role: Role::Uplink, mtu: Mtu::new(1500).unwrap(), place, tunnel_gso: false },
        );
        tables.ports.insert(host, Port { role: Role::Host, mtu, place, tunnel_gso: false });
        tables.segment.push(host);
        tables.gateway = Gateway {
            mac: MacAddr(GATEWAY[own]),
            v4: vec![[10, 244, own as u8, 1].into()],
            v6: vec![format!("fd00:10:244:{own}::1").parse().unwrap()],
            subnets4: vec![([10, 244, own as u8, 0].into(), 24, [10, 244, own as u8, 1].into())],
            subnets6: vec![(
                format!("fd00:10:244:{own}::").parse().unwrap(),
                64,
                format!("fd00:10:244:{own}::1").parse().unwrap(),
            )],
            host: Some(Neighbour { mac: MacAddr(HOST_MAC[own]), port: host }),
        };
        for (index, (address, mac, worker)) in self.pods.iter().enumerate() {
            let id = PortId::new(FIRST_POD + index).unwrap();
            let v6 = format!("fd00:10:244:{own}::{}", index + 5).parse().unwrap();
            let addresses = [IpAddr::from(*address), v6];
            let guard = PodGuard::new(MacAddr(*mac), &addresses);
            let place = Place::Worker(*worker as u16);
            tables.ports.insert(id, Port { role: Role::Pod(guard), mtu, place, tunnel_gso: false });
            tables.add_pod(id, MacAddr(*mac), &addresses);
            tables.segment.push(id);
        }
        tables.routes4.insert([10, 244, 0, 0].into(), 16, NextHop::Unreachable);
        tables.routes4.insert([10, 244, own as u8, 0].into(), 24, NextHop::Local);
        tables.routes4.insert([10, 244, own as u8, 0].into(), 32, NextHop::Host);
        tables.routes4.insert([10, 244, own as u8, 1].into(), 32, NextHop::Host);
        tables.routes4.insert([10, 244, far as u8, 0].into(), 24, NextHop::Vtep(0));
        let v6 = |text: String| text.parse().unwrap();
        tables.routes6.insert(v6(format!("fd00:10:244:{own}::")), 64, NextHop::Local);
        tables.routes6.insert(v6(format!("fd00:10:244:{own}::1")), 128, NextHop::Host);
        tables.routes6.insert(v6(format!("fd00:10:244:{far}::")), 64, NextHop::Vtep(0));
        let outer = Outer {
            src_mac: MacAddr(UPLINK_MAC[own]),
            dst_mac: MacAddr(UPLINK_MAC[far]),
            src: self.underlay.address(own),
            dst: self.underlay.address(far),
            port: 8472,
        };
        let encap = Encap::new(&outer, vni, MacAddr(VTEP_MAC[own]), MacAddr(VTEP_MAC[far]));
        tables.vteps.push(Vtep { encap, uplink, mtu, checksum: false });
        tables.local_vteps.push(LocalVtep { vni, mac: MacAddr(VTEP_MAC[own]), address: outer.src });
        tables.peers.insert(outer.dst, vni);
        tables
    }

    pub fn drops(&self, reason: DropReason) -> u64 {
        self.switch.handles().map(|handle| handle.counters().drops(reason).get()).sum()
    }

    pub fn all_drops(&self) -> u64 {
        self.switch.handles().map(|handle| handle.counters().all_drops()).sum()
    }

    pub fn consumed(&self) -> u64 {
        self.switch.handles().map(|handle| handle.counters().consumed.get()).sum()
    }

    pub fn handed_over(&self) -> u64 {
        self.switch.handles().map(|handle| handle.counters().handed_over.get()).sum()
    }

    /// rx + originated = tx + consumed + Σ drops.
    pub fn assert_balanced(&self) {
        let (mut came, mut went) = (0, 0);
        for counters in self.switch.handles().map(|handle| handle.counters()) {
            came += counters.rx.get() + counters.originated.get();
            went += counters.tx.get() + counters.consumed.get() + counters.all_drops();
        }
        assert_eq!(came, went, "node {}", self.number);
    }
}

pub struct World {
    pub a: Node,
    pub b: Node,
}

impl World {
    /// `caps` is what the pods' far sides take unfinished.
    pub fn new(underlay: Underlay, caps: TxCaps) -> Self {
        Self { a: Node::new(0, underlay, 1, caps), b: Node::new(1, underlay, 1, caps) }
    }

    /// Steps both nodes and carries what they send over the link until nothing moves; what was on the wire.
    pub fn carry(&mut self) -> Vec<Vec<u8>> {
        let mut wire = Vec::new();
        loop {
            let moved = self.a.switch.step() + self.b.switch.step();
            let mut crossing = 0;
            for (from, to) in [(&self.a, &self.b), (&self.b, &self.a)] {
                for frame in from.uplink.take() {
                    wire.push(frame.to_vec());
                    to.uplink.inject(HeapBuf::from_bytes(&frame.to_vec()));
                    crossing += 1;
                }
            }
            if moved + crossing == 0 {
                return wire;
            }
        }
    }

    /// The frame in which a kernel VTEP on A sends `inner` to B, with its outer checksum filled in.
    pub fn encapsulated_by_kernel(&self, inner: &[u8]) -> Vec<u8> {
        let mut payload = vec![8, 0, 0, 0, 0, 0, 1, 0];
        payload.extend_from_slice(inner);
        let mut frame = Vec::new();
        PacketBuilder::ethernet2(UPLINK_MAC[0], UPLINK_MAC[1])
            .ipv4([172, 16, 0, 1], [172, 16, 0, 2], 64)
            .udp(40000, 8472)
            .write(&mut frame, &payload)
            .unwrap();
        frame
    }

    pub fn assert_balanced(&self) {
        self.a.assert_balanced();
        self.b.assert_balanced();
    }
}

/// An IPv4 packet of an unassigned protocol, so that nothing but IP is looked at.
pub fn ipv4_frame(
    src: [u8; 6],
    dst: [u8; 6],
    from: [u8; 4],
    to: [u8; 4],
    ttl: u8,
    payload: &[u8],
) -> Vec<u8> {
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2(src, dst).ipv4(from, to, ttl);
    builder.write(&mut frame, etherparse::IpNumber(253), payload).unwrap();
    frame
}

/// As [`ipv4_frame`], between the first pods of two nodes.
pub fn ipv6_frame(src: [u8; 6], dst: [u8; 6], from: usize, to: usize, hops: u8, payload: &[u8]) -> Vec<u8> {
    let address = |node: usize| -> [u8; 16] {
        format!("fd00:10:244:{node}::5").parse::<std::net::Ipv6Addr>().unwrap().octets()
    };
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2(src, dst).ipv6(address(from), address(to), hops);
    builder.write(&mut frame, etherparse::IpNumber(253), payload).unwrap();
    frame
}

pub fn fill_ipv4_checksum(header: &mut [u8]) {
    header[10..12].copy_from_slice(&[0, 0]);
    let words = header.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    header[10..12].copy_from_slice(&(!(folded as u16)).to_be_bytes());
}

/// Makes a spoilt outer IPv4 header's checksum right again, so that the spoilt field itself is what is wrong.
pub fn fill_outer_checksum(frame: &mut [u8]) {
    fill_ipv4_checksum(&mut frame[14..34]);
}
