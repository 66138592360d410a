//! A node under load: one way through the switch, with the tables of a node in a cluster of 100.

use std::net::Ipv4Addr;

use weft_switch::memory::{NoSleep, NoWake};
use weft_switch::tables::{
    Encap, Gateway, LocalVtep, NextHop, Outer, Place, PodGuard, Port, Role, Snapshot, Vtep,
};
use weft_switch::types::{MacAddr, Mtu, PortId, TypeError, Vni};
use weft_switch::wire::WireError;
use weft_switch::wire::ethernet::{EtherType, EthernetHeader};
use weft_switch::wire::ip::IpProtocol;
use weft_switch::wire::ipv4::Ipv4Header;
use weft_switch::wire::udp::UdpHeader;
use weft_switch::wire::vxlan::{VXLAN_PORT_LINUX, VxlanHeader};
use weft_switch::worker::{Command, Handle, Parts, Worker, make};
use weft_sync::snapshot::{Publisher, cell};

use crate::fixed::{Fixed, FixedPool, circle};

/// The way that all frames take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From a pod to others of the node, by MAC address.
    Bridge,
    /// From a pod to others of the node, through the gateway.
    Route,
    /// From a pod into the tunnels.
    Encap,
    /// From the tunnels to the pods of the node. The outer UDP checksum is 0, as flannel has it.
    Decap,
}

impl Way {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Bridge, Self::Route, Self::Encap, Self::Decap];

    /// A word for reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bridge => "bridge",
            Self::Route => "route",
            Self::Encap => "encap",
            Self::Decap => "decap",
        }
    }
}

const NODES: u16 = 100;
/// Pods on the node; a thousand flows go to all of them.
const PODS: u16 = 250;
const UPLINK: usize = 0;
/// The port whose pod sends.
const POD: usize = 1;
/// The port that all the other pods are behind: what is measured is looking them up, not a ring for each.
const OTHERS: usize = 2;

fn gateway_mac() -> MacAddr {
    MacAddr([0x0a, 0x58, 10, 244, 0, 1])
}

fn pod_mac(pod: u16) -> MacAddr {
    let [high, low] = pod.to_be_bytes();
    MacAddr([2, 0, 0, 0, high, low])
}

fn pod_ip(node: u16, pod: u16) -> Ipv4Addr {
    Ipv4Addr::new(10, 244, node as u8, (pod + 2) as u8)
}

fn vtep_mac(node: u16) -> MacAddr {
    MacAddr([2, 0xf, 0, 0, 0, node as u8])
}

fn uplink_mac(node: u16) -> MacAddr {
    MacAddr([2, 0xa, 0, 0, 0, node as u8])
}

fn node_ip(node: u16) -> Ipv4Addr {
    Ipv4Addr::new(172, 16, 0, node as u8 + 1)
}

/// What could not be made. Nothing of it happens with the constants above.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LaneError {
    /// A number out of its range.
    Type(TypeError),
    /// A header that could not be written.
    Wire(WireError),
}

impl From<TypeError> for LaneError {
    fn from(error: TypeError) -> Self {
        Self::Type(error)
    }
}

impl From<WireError> for LaneError {
    fn from(error: WireError) -> Self {
        Self::Wire(error)
    }
}

/// The tables of node 0.
pub fn tables() -> Result<Snapshot, LaneError> {
    let (uplink, pod, others) = (PortId::new(UPLINK)?, PortId::new(POD)?, PortId::new(OTHERS)?);
    let (vni, mtu) = (Vni::new(1)?, Mtu::new(1450)?);
    let mut tables = Snapshot { vxlan_port: VXLAN_PORT_LINUX, ..Snapshot::default() };
    let place = Place::Worker(0);
    tables.ports.insert(uplink, Port { role: Role::Uplink, mtu: Mtu::new(1500)?, place, tunnel_gso: false });
    let guard = PodGuard::new(pod_mac(0), &[pod_ip(0, 0).into()]);
    tables.ports.insert(pod, Port { role: Role::Pod(guard), mtu, place, tunnel_gso: false });
    let guard = PodGuard::new(pod_mac(1), &[pod_ip(0, 1).into()]);
    tables.ports.insert(others, Port { role: Role::Pod(guard), mtu, place, tunnel_gso: false });
    tables.gateway = Gateway {
        mac: gateway_mac(),
        v4: vec![Ipv4Addr::new(10, 244, 0, 1)],
        v6: Vec::new(),
        ..Gateway::default()
    };
    for number in 0..PODS {
        let port = if number == 0 { pod } else { others };
        tables.add_pod(port, pod_mac(number), &[pod_ip(0, number).into()]);
    }
    tables.routes4.insert(Ipv4Addr::new(10, 244, 0, 0), 16, NextHop::Unreachable);
    tables.routes4.insert(Ipv4Addr::new(10, 244, 0, 0), 24, NextHop::Local);
    tables.routes4.insert(Ipv4Addr::new(10, 244, 0, 0), 32, NextHop::Host);
    tables.routes4.insert(Ipv4Addr::new(10, 244, 0, 1), 32, NextHop::Host);
    for node in 1..NODES {
        tables.routes4.insert(pod_ip(node, 0), 24, NextHop::Vtep(u32::from(node) - 1));
        let outer = Outer {
            src_mac: uplink_mac(0),
            dst_mac: uplink_mac(node),
            src: node_ip(0).into(),
            dst: node_ip(node).into(),
            port: VXLAN_PORT_LINUX,
        };
        let encap = Encap::new(&outer, vni, vtep_mac(0), vtep_mac(node));
        tables.vteps.push(Vtep { encap, uplink, mtu, checksum: false });
        tables.peers.insert(outer.dst, vni);
    }
    tables.local_vteps.push(LocalVtep { vni, mac: vtep_mac(0), address: node_ip(0).into() });
    Ok(tables)
}

/// Frames of `len` bytes (inner ones, without the tunnel's headers; at least 42), one for each flow.
pub fn frames(way: Way, flows: u16, len: usize) -> Result<Vec<Vec<u8>>, LaneError> {
    (0..flows).map(|flow| frame(way, flow, len)).collect()
}

fn frame(way: Way, flow: u16, len: usize) -> Result<Vec<u8>, LaneError> {
    let (own, far) = (1 + flow % (PODS - 1), 1 + flow % (NODES - 1));
    let ((src, dst), (from, to)) = match way {
        Way::Bridge => ((pod_mac(0), pod_mac(own)), (pod_ip(0, 0), pod_ip(0, own))),
        Way::Route => ((pod_mac(0), gateway_mac()), (pod_ip(0, 0), pod_ip(0, own))),
        Way::Encap => ((pod_mac(0), gateway_mac()), (pod_ip(0, 0), pod_ip(far, own))),
        Way::Decap => ((vtep_mac(far), vtep_mac(0)), (pod_ip(far, own), pod_ip(0, own))),
    };
    let inner = udp_frame(src, dst, from, to, 1024 + flow, 5000, &vec![0x5a; len.saturating_sub(42)])?;
    if way != Way::Decap {
        return Ok(inner);
    }
    let mut payload = vec![0; VxlanHeader::LEN];
    VxlanHeader { vni: Vni::new(1)? }.emit(&mut payload)?;
    payload.extend(inner);
    udp_frame(
        uplink_mac(far),
        uplink_mac(0),
        node_ip(far),
        node_ip(0),
        32768 + flow,
        VXLAN_PORT_LINUX,
        &payload,
    )
}

fn udp_frame(
    src_mac: MacAddr,
    dst_mac: MacAddr,
    src: Ipv4Addr,
    dst: Ipv4Addr,
    src_port: u16,
    dst_port: u16,
    payload: &[u8],
) -> Result<Vec<u8>, LaneError> {
    let mut frame = vec![0; 42];
    let len = (payload.len() + UdpHeader::LEN) as u16;
    EthernetHeader { dst: dst_mac, src: src_mac, ethertype: EtherType::IPV4 }.emit(&mut frame)?;
    let ip = Ipv4Header {
        dscp: 0,
        ecn: 0,
        payload_len: len,
        ident: 0,
        dont_fragment: true,
        more_fragments: false,
        fragment_offset: 0,
        ttl: 64,
        protocol: IpProtocol::UDP,
        src,
        dst,
        options: Default::default(),
    };
    ip.emit(&mut frame[14..])?;
    UdpHeader { src_port, dst_port, len, checksum: 0 }.emit(&mut frame[34..])?;
    frame.extend_from_slice(payload);
    Ok(frame)
}

/// A switch of one worker with endless frames on one way.
pub struct Lane {
    worker: Worker<Fixed>,
    handle: Handle<Fixed>,
    /// Keeps the tables.
    _publisher: Publisher<Snapshot>,
}

impl Lane {
    /// A lane of so many flows with frames of `len` bytes, as [`frames`] makes them.
    pub fn new(way: Way, flows: u16, len: usize) -> Result<Self, LaneError> {
        let (publisher, readers) = cell(Box::new(tables()?), 1);
        let parts =
            readers.into_iter().map(|snapshot| Parts { snapshot, pool: FixedPool::new(8), waker: NoWake });
        let mut workers = make(parts.collect());
        let (mut worker, handle) = workers.remove(0);
        let (from, to) = match way {
            Way::Bridge | Way::Route => (POD, OTHERS),
            Way::Encap => (POD, UPLINK),
            Way::Decap => (UPLINK, OTHERS),
        };
        let (source, sink) = circle(frames(way, flows, len)?);
        handle.send(Command::AddTx(PortId::new(to)?, sink));
        handle.send(Command::AddRx(PortId::new(from)?, source));
        worker.obey(&mut NoSleep);
        Ok(Self { worker, handle, _publisher: publisher })
    }

    /// Takes one burst all the way; how many frames it had.
    #[inline]
    pub fn burst(&mut self) -> usize {
        self.worker.round()
    }

    /// Frames that have come in, were sent, and were dropped.
    pub fn counts(&self) -> (u64, u64, u64) {
        let counters = self.handle.counters();
        (counters.rx.get(), counters.tx.get(), counters.all_drops())
    }
}
