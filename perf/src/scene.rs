//! The node under load: who is who in the benchmarks, for every subject alike.
//!
//! A [`Scene`] is node 0 of a cluster. Its pod 0 sends; all other pods, and further stations of the segment, are behind the
//! ports that frames leave by. From it come the switch's tables, the frames of every [`Way`], and the [plan](Scene::plan) that
//! another switch is configured by.
//!
//! Frame *n* belongs to flow *n* modulo the flows, so packets of one flow never follow each other. A flow's destination is
//! picked by multiplication, not in turn: the processor cannot guess which entry of a table is next.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde_json::{Value, json};
use thiserror::Error;
use weft_switch::tables::{
    Encap, Gateway, LocalVtep, NextHop, Outer, Place, PodGuard, Port, Role, Snapshot, Vtep,
};
use weft_switch::types::{MacAddr, Mtu, PortId, TypeError, Vni};
use weft_switch::wire::checksum::{Sum, udp_never_zero};
use weft_switch::wire::ip::IpProtocol;
use weft_switch::wire::vxlan::VXLAN_PORT_LINUX;

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
    /// As `Decap`, with an outer UDP checksum that must be right.
    DecapValid,
    /// As `Decap`, to pods that take large frames: what follows in a flow is merged.
    Merge,
    /// As `Bridge`, over IPv6.
    Bridge6,
    /// As `Route`, over IPv6.
    Route6,
    /// As `Encap`, of IPv6 packets; the tunnels are over IPv4.
    Encap6,
    /// As `Decap`, of IPv6 packets.
    Decap6,
}

impl Way {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Bridge,
        Self::Route,
        Self::Encap,
        Self::Decap,
        Self::DecapValid,
        Self::Merge,
        Self::Bridge6,
        Self::Route6,
        Self::Encap6,
        Self::Decap6,
    ];

    /// A word for reports and arguments.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bridge => "bridge",
            Self::Route => "route",
            Self::Encap => "encap",
            Self::Decap => "decap",
            Self::DecapValid => "decap-valid",
            Self::Merge => "merge",
            Self::Bridge6 => "bridge6",
            Self::Route6 => "route6",
            Self::Encap6 => "encap6",
            Self::Decap6 => "decap6",
        }
    }

    /// Whether the frames come in through the tunnel.
    pub fn is_tunnelled(self) -> bool {
        matches!(self, Self::Decap | Self::DecapValid | Self::Merge | Self::Decap6)
    }

    /// Whether the (inner) packets are IPv6.
    pub fn is_v6(self) -> bool {
        matches!(self, Self::Bridge6 | Self::Route6 | Self::Encap6 | Self::Decap6)
    }
}

impl FromStr for Way {
    type Err = SceneError;
    fn from_str(text: &str) -> Result<Self, SceneError> {
        let named = Self::ALL.into_iter().find(|way| way.name() == text);
        named.ok_or_else(|| SceneError::Way(text.to_owned()))
    }
}

/// How long frames are: in memory, without the frame check sequence, and without the tunnel's headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameSize {
    /// All alike: [`FrameSize::SHORTEST`] to [`FrameSize::LONGEST`] bytes.
    Bytes(u16),
    /// Of 12 frames 7 of 64 bytes, 4 of 594 and one of 1464, the frame check sequence counted.
    Imix,
}

impl FrameSize {
    /// The shortest Ethernet frame.
    pub const MIN: Self = Self::Bytes(60);
    /// Ethernet, IPv4 and UDP headers.
    pub const SHORTEST: u16 = HEADERS as u16;
    /// As long as pods may send.
    pub const LONGEST: u16 = POD_MTU as u16 + 14;

    /// The shares of IMIX, mixed.
    const MIX: [u16; 12] = [60, 590, 60, 60, 590, 60, 1460, 60, 590, 60, 590, 60];
    const FCS: u16 = 4;

    /// Of the frame of this number.
    pub fn of(self, number: u32) -> usize {
        usize::from(match self {
            Self::Bytes(len) => len,
            Self::Imix => Self::MIX[number as usize % Self::MIX.len()],
        })
    }

    /// How many frames have each flow at least once, and the lengths in their shares.
    pub fn frames(self, flows: u32) -> u32 {
        match self {
            Self::Bytes(_) => flows,
            Self::Imix => flows.next_multiple_of(Self::MIX.len() as u32),
        }
    }
}

impl FromStr for FrameSize {
    type Err = SceneError;
    /// A number of bytes as on the wire, the frame check sequence counted, or `imix`.
    fn from_str(text: &str) -> Result<Self, SceneError> {
        if text == "imix" {
            return Ok(Self::Imix);
        }
        let wrong = || SceneError::FrameSize(text.to_owned());
        let len = text.parse::<u16>().map_err(|_| wrong())?.checked_sub(Self::FCS).ok_or_else(wrong)?;
        (60..=Self::LONGEST).contains(&len).then_some(Self::Bytes(len)).ok_or_else(wrong)
    }
}

impl fmt::Display for FrameSize {
    /// As it is parsed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(len) => (len + Self::FCS).fmt(f),
            Self::Imix => f.write_str("imix"),
        }
    }
}

/// What cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SceneError {
    /// A number out of its range.
    #[error(transparent)]
    Type(#[from] TypeError),
    /// No way's name.
    #[error("{0:?} is no way: there are {all}", all = Way::ALL.map(Way::name).join(", "))]
    Way(String),
    /// No length.
    #[error("{0:?} is no frame size: take 64 to {most} bytes, or imix", most = FrameSize::LONGEST + FrameSize::FCS)]
    FrameSize(String),
    /// Sizes that no node has.
    #[error("there is no node with {0:?}")]
    Sizes(Sizes),
}

/// How large the node and its cluster are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Pods on the node, the sending one included: 2 to 252.
    pub pods: u32,
    /// The other nodes' VTEPs: 1 to 50,000.
    pub vteps: u32,
    /// Routes into the tunnels, each a /24; the VTEPs have them in turn. As many as VTEPs at least, 60,000 at most.
    pub routes: u32,
    /// MAC addresses of the segment, the pods' included. As many as pods at least, 16,000,000 at most.
    pub macs: u32,
    /// The ports that the other pods and stations are behind, in turn: fewer than pods. One, where what is measured is looking
    /// them up.
    pub ports: u32,
    /// Whether all pods are trusted. Then the stations that are no pods are in no table: they are to be learned.
    pub trusted: bool,
}

impl Default for Sizes {
    /// A full node in a cluster of 100.
    fn default() -> Self {
        Self { pods: 250, vteps: 99, routes: 99, macs: 250, ports: 1, trusted: false }
    }
}

const UPLINK: usize = 0;
/// The port whose pod sends.
const POD: usize = 1;
/// The first of the ports that all the others are behind.
const OTHERS: usize = 2;

const POD_MTU: u32 = 1450;
/// Addresses that are learned behind a port, if there are no more: the default of `bridge.learn_limit`.
const LEARN_LIMIT: u32 = 256;
/// Seconds that they are kept.
const AGEING: u32 = 300;
/// Ethernet, IPv4 and UDP.
const HEADERS: usize = 14 + 20 + 8;
/// Ethernet, IPv6 and UDP: two bytes more than the shortest frame has.
const HEADERS6: usize = 14 + 40 + 8;
/// A pod subnet's hosts, from its third address on.
const HOSTS: u32 = 250;

/// One of so many, for a flow: each of them once before any comes again, in an order that does not look like one.
fn nth(flow: u32, of: u32) -> u32 {
    const PRIME: u64 = 2_654_435_761;
    (u64::from(flow) * PRIME % u64::from(of)) as u32
}

fn mac(kind: u8, number: u32) -> MacAddr {
    let [a, b, c, d] = number.to_be_bytes();
    MacAddr([2, kind, a, b, c, d])
}

/// A station of the node's segment; the first ones are pods.
fn station_mac(number: u32) -> MacAddr {
    mac(0, number)
}

fn vtep_mac(node: u32) -> MacAddr {
    mac(0xf, node)
}

fn uplink_mac(node: u32) -> MacAddr {
    mac(0xa, node)
}

fn gateway_mac() -> MacAddr {
    MacAddr([0x0a, 0x58, 10, 244, 0, 1])
}

/// The pod subnet of this number: 0 is the node's own, 10.244.0.0/24.
fn subnet(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0a00_0000 | (((0xf400 + number) & 0xffff) << 8))
}

fn pod_ip(subnet_number: u32, pod: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(subnet(subnet_number).to_bits() + 2 + pod)
}

/// As [`subnet`], a /64.
fn subnet6(number: u32) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0x10, 0x244, number as u16, 0, 0, 0, 0)
}

fn pod_ip6(subnet_number: u32, pod: u32) -> Ipv6Addr {
    Ipv6Addr::from_bits(subnet6(subnet_number).to_bits() + 2 + u128::from(pod))
}

fn gateway_ip6() -> Ipv6Addr {
    Ipv6Addr::from_bits(subnet6(0).to_bits() + 1)
}

fn gateway_ip() -> Ipv4Addr {
    Ipv4Addr::from_bits(subnet(0).to_bits() + 1)
}

fn node_ip(node: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(u32::from_be_bytes([172, 16, 0, 1]) + node)
}

/// The node under load.
#[derive(Debug, Clone, Copy)]
pub struct Scene {
    sizes: Sizes,
    vni: Vni,
}

impl Scene {
    /// A node of these sizes.
    pub fn new(sizes: Sizes) -> Result<Self, SceneError> {
        let Sizes { pods, vteps, routes, macs, ports, .. } = sizes;
        let fits = (2..=HOSTS + 2).contains(&pods)
            && (1..=50_000).contains(&vteps)
            && (vteps..=60_000).contains(&routes)
            && (pods..=16_000_000).contains(&macs)
            && (1..pods).contains(&ports);
        if !fits {
            return Err(SceneError::Sizes(sizes));
        }
        PortId::new(OTHERS + ports as usize)?;
        Ok(Self { sizes, vni: Vni::new(1)? })
    }

    /// The port that the frames of a way come in by.
    pub fn source(way: Way) -> Result<PortId, SceneError> {
        Ok(PortId::new(if way.is_tunnelled() { UPLINK } else { POD })?)
    }

    /// The ports that they leave by.
    pub fn sinks(&self, way: Way) -> Result<Vec<PortId>, SceneError> {
        let ports = match way {
            Way::Encap | Way::Encap6 => UPLINK..UPLINK + 1,
            _ => OTHERS..OTHERS + self.sizes.ports as usize,
        };
        Ok(ports.map(PortId::new).collect::<Result<_, _>>()?)
    }

    /// The node whose VTEP the pod subnet of this number is behind.
    fn node(&self, subnet_number: u32) -> u32 {
        1 + (subnet_number - 1) % self.sizes.vteps
    }

    fn port_of(&self, station: u32) -> Result<PortId, SceneError> {
        let port = if station == 0 { POD } else { OTHERS + ((station - 1) % self.sizes.ports) as usize };
        Ok(PortId::new(port)?)
    }

    /// The node's tables. Every port has a queue for each worker, as the ports of a node have.
    pub fn tables(&self) -> Result<Snapshot, SceneError> {
        let Sizes { pods, vteps, routes, macs, ports, trusted } = self.sizes;
        let (mtu, place) = (Mtu::new(POD_MTU)?, Place::Each);
        let mut tables = Snapshot {
            vxlan_port: VXLAN_PORT_LINUX,
            learn_limit: if trusted { macs.max(LEARN_LIMIT) } else { LEARN_LIMIT },
            ageing: AGEING,
            ..Snapshot::default()
        };
        let uplink = PortId::new(UPLINK)?;
        let addresses = |pod| [pod_ip(0, pod).into(), pod_ip6(0, pod).into()];
        let port = Port { role: Role::Uplink, mtu: Mtu::new(1500)?, place, tunnel_gso: false };
        tables.ports.insert(uplink, port);
        for pod in 0..=ports {
            let guard = PodGuard::new(station_mac(pod), &addresses(pod));
            let role = if trusted { Role::Trusted } else { Role::Pod(guard) };
            let (id, port) = (self.port_of(pod)?, Port { role, mtu, place, tunnel_gso: false });
            tables.ports.insert(id, port);
            tables.segment.push(id);
            if trusted {
                tables.trusted.push(id);
            }
        }
        tables.gateway = Gateway {
            mac: gateway_mac(),
            v4: vec![gateway_ip()],
            subnets4: vec![(subnet(0), 24, gateway_ip())],
            v6: vec![gateway_ip6()],
            subnets6: vec![(subnet6(0), 64, gateway_ip6())],
            ..Gateway::default()
        };
        for number in 0..macs {
            let (mac, port) = (station_mac(number), self.port_of(number)?);
            if number < pods {
                tables.add_pod(port, mac, &addresses(number));
            } else if !trusted {
                tables.fdb.insert(mac, port);
            }
        }
        tables.routes4.insert(Ipv4Addr::new(10, 0, 0, 0), 8, NextHop::Unreachable);
        tables.routes4.insert(subnet(0), 24, NextHop::Local);
        tables.routes4.insert(subnet(0), 32, NextHop::Host);
        tables.routes4.insert(gateway_ip(), 32, NextHop::Host);
        for number in 1..=routes {
            let far = NextHop::Vtep(self.node(number) - 1);
            tables.routes4.insert(subnet(number), 24, far);
            tables.routes6.insert(subnet6(number), 64, far);
        }
        tables.routes6.insert(subnet6(0), 48, NextHop::Unreachable);
        tables.routes6.insert(subnet6(0), 64, NextHop::Local);
        tables.routes6.insert(gateway_ip6(), 128, NextHop::Host);
        for node in 1..=vteps {
            let outer = Outer {
                src_mac: uplink_mac(0),
                dst_mac: uplink_mac(node),
                src: node_ip(0).into(),
                dst: node_ip(node).into(),
                port: VXLAN_PORT_LINUX,
            };
            let encap = Encap::new(&outer, self.vni, vtep_mac(0), vtep_mac(node));
            tables.vteps.push(Vtep { encap, uplink, mtu, checksum: false });
            tables.peers.insert(outer.dst, self.vni);
        }
        let (vni, mac, address) = (self.vni, vtep_mac(0), node_ip(0).into());
        tables.local_vteps.push(LocalVtep { vni, mac, address });
        Ok(tables)
    }

    /// Stations that are in no table, and where they are: to be learned.
    pub fn stations(&self) -> Result<Vec<(MacAddr, PortId)>, SceneError> {
        let Sizes { pods, macs, trusted, .. } = self.sizes;
        let first = if trusted { pods } else { macs };
        (first..macs).map(|number| Ok((station_mac(number), self.port_of(number)?))).collect()
    }

    /// Frames on one way, flow by flow in turn: each flow at least once. At most 64,000 flows times 60,000 are distinct.
    pub fn frames(&self, way: Way, flows: u32, size: FrameSize) -> impl Iterator<Item = Vec<u8>> + use<> {
        let (scene, flows) = (*self, flows.max(1));
        (0..size.frames(flows)).map(move |number| scene.frame(way, number % flows, size.of(number)))
    }

    fn frame(&self, way: Way, flow: u32, len: usize) -> Vec<u8> {
        let Sizes { pods, routes, macs, .. } = self.sizes;
        let bridged = matches!(way, Way::Bridge | Way::Bridge6);
        let station = 1 + nth(flow, if bridged { macs - 1 } else { pods - 1 });
        let far = 1 + nth(flow, routes);
        let ip = |subnet, pod| match way.is_v6() {
            false => IpAddr::V4(pod_ip(subnet, pod)),
            true => IpAddr::V6(pod_ip6(subnet, pod)),
        };
        // A station without an address of its own has a pod's: a bridge does not look.
        let own_ip = ip(0, 1 + (station - 1) % (pods - 1));
        let far_ip = ip(far, flow % HOSTS);
        let ((src_mac, dst_mac), (src, dst)) = match way {
            Way::Bridge | Way::Bridge6 => ((station_mac(0), station_mac(station)), (ip(0, 0), own_ip)),
            Way::Route | Way::Route6 => ((station_mac(0), gateway_mac()), (ip(0, 0), own_ip)),
            Way::Encap | Way::Encap6 => ((station_mac(0), gateway_mac()), (ip(0, 0), far_ip)),
            Way::Decap | Way::DecapValid | Way::Merge | Way::Decap6 => {
                ((vtep_mac(self.node(far)), vtep_mac(0)), (far_ip, own_ip))
            }
        };
        let ports = (1024 + (flow % 64_000) as u16, 5000 + (flow / 64_000) as u16);
        let headers = if way.is_v6() { HEADERS6 } else { HEADERS };
        let payload = vec![0x5a; len.saturating_sub(headers)];
        let inner = Datagram { macs: (src_mac, dst_mac), ips: (src, dst), ports, dont_fragment: true };
        let inner = inner.frame(&payload, true);
        if !way.is_tunnelled() {
            return inner;
        }
        let mut payload = vec![8, 0, 0, 0, 0, 0, 0, 0];
        payload[4..7].copy_from_slice(&self.vni.get().to_be_bytes()[1..]);
        payload.extend(inner);
        let node = self.node(far);
        let outer = Datagram {
            macs: (uplink_mac(node), uplink_mac(0)),
            ips: (node_ip(node).into(), node_ip(0).into()),
            ports: (32_768 + (flow % 28_000) as u16, VXLAN_PORT_LINUX),
            dont_fragment: false,
        };
        outer.frame(&payload, way == Way::DecapValid)
    }

    /// What another switch must be told to do this node's work: addresses, and who is behind whom. `pod` and `uplink` are the
    /// two sides: a way goes from one of them to whatever is behind `others`, or out to `uplink`.
    pub fn plan(&self) -> Value {
        let Sizes { pods, vteps, routes, macs, .. } = self.sizes;
        let pod = |number| json!({ "mac": station_mac(number).to_string(), "ip": pod_ip(0, number) });
        let vtep = |node| {
            let subnets =
                (node..=routes).step_by(vteps as usize).map(|number| format!("{}/24", subnet(number)));
            json!({
                "mac": vtep_mac(node).to_string(),
                "ip": node_ip(node),
                "uplink_mac": uplink_mac(node).to_string(),
                "subnets": subnets.collect::<Vec<_>>(),
            })
        };
        json!({
            "vni": self.vni.get(),
            "vxlan_port": VXLAN_PORT_LINUX,
            "pod_mtu": POD_MTU,
            "subnet": format!("{}/24", subnet(0)),
            "gateway": { "mac": gateway_mac().to_string(), "ip": gateway_ip() },
            "local_vtep": {
                "mac": vtep_mac(0).to_string(),
                "ip": node_ip(0),
                "uplink_mac": uplink_mac(0).to_string(),
            },
            "sender": pod(0),
            "others": (1..pods).map(pod).collect::<Vec<_>>(),
            "stations": (pods..macs).map(|number| station_mac(number).to_string()).collect::<Vec<_>>(),
            "vteps": (1..=vteps).map(vtep).collect::<Vec<_>>(),
        })
    }
}

/// Source and destination of a UDP datagram; both addresses are of one family.
struct Datagram {
    macs: (MacAddr, MacAddr),
    ips: (IpAddr, IpAddr),
    ports: (u16, u16),
    /// Over IPv4.
    dont_fragment: bool,
}

impl Datagram {
    fn frame(&self, payload: &[u8], checksum: bool) -> Vec<u8> {
        let udp_len = payload.len() + 8;
        let mut frame = Vec::with_capacity(HEADERS6 + payload.len());
        frame.extend(self.macs.1.0);
        frame.extend(self.macs.0.0);
        let pseudo = match self.ips {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                frame.extend(self.ipv4(src, dst, udp_len));
                Sum::pseudo_v4(src, dst, IpProtocol::UDP, udp_len)
            }
            (src, dst) => {
                let v6 = |ip| match ip {
                    IpAddr::V4(v4) => v4.to_ipv6_mapped(),
                    IpAddr::V6(v6) => v6,
                };
                frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
                frame.extend((udp_len as u16).to_be_bytes());
                frame.extend([IpProtocol::UDP.0, 64]);
                frame.extend(v6(src).octets());
                frame.extend(v6(dst).octets());
                Sum::pseudo_v6(v6(src), v6(dst), IpProtocol::UDP, udp_len)
            }
        };
        let udp = frame.len();
        frame.extend(self.ports.0.to_be_bytes());
        frame.extend(self.ports.1.to_be_bytes());
        frame.extend((udp_len as u16).to_be_bytes());
        frame.extend([0, 0]);
        frame.extend(payload);
        if checksum {
            let sum = udp_never_zero(pseudo.add(&frame[udp..]).checksum());
            frame[udp + 6..udp + 8].copy_from_slice(&sum.to_be_bytes());
        }
        frame
    }

    /// What the frame carries, and the header.
    fn ipv4(&self, src: Ipv4Addr, dst: Ipv4Addr, udp_len: usize) -> [u8; 22] {
        let mut header = [0; 22];
        header[..4].copy_from_slice(&[0x08, 0x00, 0x45, 0]);
        header[4..6].copy_from_slice(&(20 + udp_len as u16).to_be_bytes());
        header[8] = if self.dont_fragment { 0x40 } else { 0 };
        header[10..12].copy_from_slice(&[64, IpProtocol::UDP.0]);
        header[14..18].copy_from_slice(&src.octets());
        header[18..22].copy_from_slice(&dst.octets());
        let sum = Sum::new().add(&header[2..]).checksum();
        header[12..14].copy_from_slice(&sum.to_be_bytes());
        header
    }
}
