//! The router from all its sides: two pods, the host and a far node's tunnel, each a raw wire, and nobody else who speaks.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::counters::Deltas;
use super::frames::{
    Checksum, ETHERNET_LEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ICMP, ICMPV6, Ip, Mac, Tunnel, UDP, ethernet,
    mac, sum, vxlan,
};
use super::{Frame, Lab, Namespace, VTEP_MACS, Weftd, Wire, nodes, tap_pod};

/// The addresses of one family.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Net {
    /// Pods of a.
    pub(crate) web: &'static str,
    pub(crate) db: &'static str,
    /// a's gateway, and the address that a's host has towards other nodes.
    pub(crate) gateway: &'static str,
    pub(crate) zero: &'static str,
    /// A pod of b, and b's own two.
    pub(crate) far: &'static str,
    /// In a's subnet, but no pod's.
    pub(crate) nobody: &'static str,
    /// In the pod network, but no node's.
    pub(crate) no_node: &'static str,
    /// Outside of the pod network.
    pub(crate) outside: &'static str,
}

pub(crate) const V4: Net = Net {
    web: "10.244.0.2",
    db: "10.244.0.3",
    gateway: "10.244.0.1",
    zero: "10.244.0.0",
    far: "10.244.1.2",
    nobody: "10.244.0.99",
    no_node: "10.244.77.1",
    outside: "192.0.2.9",
};

pub(crate) const V6: Net = Net {
    web: "fd00:10:244::2",
    db: "fd00:10:244::3",
    gateway: "fd00:10:244::1",
    zero: "fd00:10:244::",
    far: "fd00:10:244:1::2",
    nobody: "fd00:10:244::99",
    no_node: "fd00:10:244:77::1",
    outside: "2001:db8::9",
};

pub(crate) const BOTH: [Net; 2] = [V4, V6];

/// The MAC addresses of the gateway and of the host behind it.
pub(crate) const GATEWAY_MAC: &str = "0a:58:0a:f4:00:01";
pub(crate) const HOST_MAC: &str = "0a:59:0a:f4:00:01";

impl Net {
    pub(crate) fn is_v4(&self) -> bool {
        self.web == V4.web
    }

    /// One of two by the family.
    pub(crate) fn pick<T>(&self, v4: T, v6: T) -> T {
        if self.is_v4() { v4 } else { v6 }
    }

    /// ICMP's number.
    pub(crate) fn icmp(&self) -> u8 {
        self.pick(ICMP, ICMPV6)
    }

    /// Time Exceeded on the way.
    pub(crate) fn time_exceeded(&self) -> (u8, u8) {
        self.pick((11, 0), (3, 0))
    }

    /// There is a way, but nobody at its end.
    pub(crate) fn host_unreachable(&self) -> (u8, u8) {
        self.pick((3, 1), (1, 3))
    }

    pub(crate) fn prohibited(&self) -> (u8, u8) {
        self.pick((3, 13), (1, 1))
    }

    /// Fragmentation Needed or Packet Too Big, with what stands behind the checksum.
    pub(crate) fn too_big(&self, mtu: u16) -> Said {
        let [high, low] = mtu.to_be_bytes();
        Said { kind: self.pick((3, 4), (2, 0)), rest: [0, 0, high, low] }
    }

    /// What an error quotes of a packet at most: 576 bytes in all (RFC 1812, section 4.3.2.3), or 1280 (RFC 4443).
    pub(crate) fn quoted(&self, packet: &[u8]) -> Vec<u8> {
        packet[..packet.len().min(self.pick(576 - 28, 1280 - 48))].to_vec()
    }
}

/// What an ICMP error says: type and code, and the four bytes behind the checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) kind: (u8, u8),
    pub(crate) rest: [u8; 4],
}

impl From<(u8, u8)> for Said {
    fn from(kind: (u8, u8)) -> Self {
        Self { kind, rest: [0; 4] }
    }
}

/// A side of the router.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Web,
    Db,
    Host,
    /// b, by the tunnel.
    Far,
}

impl Side {
    /// The name of its port.
    pub(crate) fn port(self) -> &'static str {
        match self {
            Self::Web => "web",
            Self::Db => "db",
            Self::Host => "weft0",
            Self::Far => "up0",
        }
    }

    /// An address that is there.
    pub(crate) fn address(self, net: Net) -> &'static str {
        match self {
            Self::Web => net.web,
            Self::Db => net.db,
            Self::Host => net.zero,
            Self::Far => net.far,
        }
    }
}

/// weftd with its four sides.
pub(crate) struct Routed {
    pub(crate) web: Wire,
    pub(crate) db: Wire,
    pub(crate) host: Wire,
    pub(crate) far: Wire,
    /// The MAC address of a's uplink.
    uplink_mac: Mac,
    pub(crate) pods: [Namespace; 2],
    _weftd: Weftd,
    // The last to go: see `Lab`.
    pub(crate) lab: Lab,
}

impl Routed {
    pub(crate) fn new() -> Self {
        Self::with("", "", |_| ())
    }

    /// With further sections of `weftd.toml` and of `cluster.toml`, after `prepare` has been at the two nodes.
    pub(crate) fn with(settings: &str, cluster: &str, prepare: impl FnOnce(&Lab)) -> Self {
        let file = |[web, db]: [&Namespace; 2]| {
            nodes(&[0, 1]) + &tap_pod("web", 2, web) + &tap_pod("db", 3, db) + cluster
        };
        Self::with_cluster(settings, file, prepare)
    }

    /// With a cluster file of one's own, made of the namespaces of `web` and `db`.
    pub(crate) fn with_cluster(
        settings: &str,
        cluster: impl FnOnce([&Namespace; 2]) -> String,
        prepare: impl FnOnce(&Lab),
    ) -> Self {
        let lab = Lab::quiet();
        // The tunnel and the host's side are for the wires alone: the kernels neither answer nor forward.
        for (node, whom) in [(&lab.peer, "udp dport 8472"), (&lab.node, "iifname weft0")] {
            node.nft(&format!(
                "table inet still {{
                    chain still {{ type filter hook prerouting priority -300; {whom} drop; }}
                }}"
            ));
        }
        prepare(&lab);
        lab.configure("", "", settings);
        let pods = [Namespace::mute("web"), Namespace::mute("db")];
        lab.replace_cluster(&cluster([&pods[0], &pods[1]]));
        let weftd = lab.start();
        lab.peer_resolved();
        let uplink = lab.node.json("link show dev up0").remove(0);
        Self {
            web: Wire::open(&pods[0], "eth0"),
            db: Wire::open(&pods[1], "eth0"),
            host: Wire::open(&lab.node, "weft0"),
            far: Wire::open(&lab.peer, "up0"),
            uplink_mac: mac(uplink["address"].as_str().expect("a MAC address")),
            pods,
            _weftd: weftd,
            lab,
        }
    }

    fn wire(&mut self, side: Side) -> &mut Wire {
        match side {
            Side::Web => &mut self.web,
            Side::Db => &mut self.db,
            Side::Host => &mut self.host,
            Side::Far => &mut self.far,
        }
    }

    /// The frame that brings a packet from a side to the router.
    pub(crate) fn frame(&self, from: Side, packet: &[u8]) -> Vec<u8> {
        let ethertype = if packet[0] >> 4 == 4 { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 };
        let to_gateway = |src: Mac| ethernet(mac(GATEWAY_MAC), src, ethertype, packet);
        match from {
            Side::Web => to_gateway(self.web.mac),
            Side::Db => to_gateway(self.db.mac),
            Side::Host => to_gateway(self.host.mac),
            Side::Far => {
                let [near, far] = VTEP_MACS.map(mac);
                self.tunnel().with(&ethernet(near, far, ethertype, packet))
            }
        }
    }

    /// The outer headers of what b sends.
    pub(crate) fn tunnel(&self) -> Tunnel {
        Tunnel {
            dst: self.uplink_mac,
            src: self.far.mac,
            ip: Ip::new("172.16.0.2", "172.16.0.1"),
            ports: (40_000, 8472),
            checksum: Checksum::Absent,
            vxlan: vxlan(1),
        }
    }

    /// Sends a packet to the router; what that changes.
    pub(crate) fn send(&mut self, from: Side, packet: &[u8]) -> Deltas {
        let frame = self.frame(from, packet);
        self.send_frame(from, &frame)
    }

    /// The same with a whole frame.
    pub(crate) fn send_frame(&mut self, from: Side, frame: &[u8]) -> Deltas {
        let Self { web, db, host, far, lab, .. } = self;
        let wire = match from {
            Side::Web => web,
            Side::Db => db,
            Side::Host => host,
            Side::Far => far,
        };
        lab.deltas(1, || wire.send(frame))
    }

    /// The IP packet that the router sends to a side in `frame`: the addresses of the frame, and all that is around the tunnel's
    /// packets, are as they must be.
    fn opened(&self, at: Side, frame: &Frame) -> Option<Vec<u8>> {
        let bytes = &frame.bytes;
        let [near, far] = VTEP_MACS.map(mac);
        let (inner, dst, src) = match at {
            Side::Far => (unwrapped(bytes, self.far.mac, self.uplink_mac)?, far, near),
            Side::Web => (bytes.clone(), self.web.mac, mac(GATEWAY_MAC)),
            Side::Db => (bytes.clone(), self.db.mac, mac(GATEWAY_MAC)),
            Side::Host => (bytes.clone(), self.host.mac, mac(GATEWAY_MAC)),
        };
        if inner[..6] != dst || inner[6..12] != src {
            return None;
        }
        let packet = inner[ETHERNET_LEN..].to_vec();
        match u16::from_be_bytes([inner[12], inner[13]]) {
            ETHERTYPE_IPV4 if packet[0] >> 4 == 4 => Some(packet),
            ETHERTYPE_IPV6 if packet[0] >> 4 == 6 => Some(packet),
            _ => None,
        }
    }

    /// Waits for a packet from the router of which `wanted` makes something.
    pub(crate) fn receive<T>(
        &mut self,
        at: Side,
        what: &str,
        mut wanted: impl FnMut(&[u8]) -> Option<T>,
    ) -> T {
        loop {
            let frame = self.wire(at).receive(what, |frame| Some(frame.clone()));
            if let Some(found) = self.opened(at, &frame).and_then(|packet| wanted(&packet)) {
                return found;
            }
        }
    }

    /// Waits for exactly this packet.
    pub(crate) fn receive_packet(&mut self, at: Side, packet: &[u8]) {
        let mut others = Vec::new();
        loop {
            let frame = self.wire(at).receive("packet", |frame| Some(frame.clone()));
            match self.opened(at, &frame) {
                Some(there) if there == packet => return,
                _ => others.push(frame),
            }
            // One packet was sent: a second answer means that the first was the wrong one.
            assert!(others.len() < 4, "{at:?} waits for {packet:02x?}, but {others:02x?}");
        }
    }

    /// The packet is forwarded and comes out as `expected`; nothing else happens.
    pub(crate) fn forwards(&mut self, from: Side, to: Side, packet: &[u8], expected: &[u8]) {
        let deltas = self.send(from, packet);
        deltas.assert_only(&[("tx", 1)]);
        deltas.assert_ports(&[(&format!("{}.rx", from.port()), 1), (&format!("{}.tx", to.port()), 1)]);
        self.receive_packet(to, expected);
    }

    /// The packet is dropped for `reason`, and nobody is told.
    pub(crate) fn drops(&mut self, from: Side, packet: &[u8], reason: &str) {
        self.send(from, packet).assert_dropped(from.port(), reason, 1);
    }

    /// The packet is dropped for `reason`, and its sender is told `said` by `gateway`, with the packet quoted; nothing else
    /// happens.
    pub(crate) fn tells(
        &mut self,
        from: Side,
        packet: &[u8],
        reason: &str,
        said: impl Into<Said>,
    ) -> Vec<u8> {
        let gateway = if packet[0] >> 4 == 4 { V4.gateway } else { V6.gateway };
        self.tells_from(gateway, from, packet, reason, said)
    }

    /// The same with the address that says it.
    pub(crate) fn tells_from(
        &mut self,
        gateway: &str,
        from: Side,
        packet: &[u8],
        reason: &str,
        said: impl Into<Said>,
    ) -> Vec<u8> {
        let deltas = self.send(from, packet);
        deltas.assert_only(&[(reason, 1), ("originated", 1), ("tx", 1)]);
        let port = from.port();
        let counters = ["rx", "rx_drops", "tx"].map(|name| format!("{port}.{name}"));
        deltas.assert_ports(&[(&counters[0], 1), (&counters[1], 1), (&counters[2], 1)]);
        let error = self.receive(from, "ICMP error", |packet| Some(packet.to_vec()));
        assert_error(&error, gateway, packet, said.into());
        error
    }
}

/// `answer` is an ICMP error about `packet`, and right in every bit that is not the sender's choice.
pub(crate) fn assert_error(answer: &[u8], from: &str, packet: &[u8], said: Said) {
    let net = if packet[0] >> 4 == 4 { V4 } else { V6 };
    let (error, about) = (Packet::read(answer), Packet::read(packet));
    assert_eq!(error.protocol, net.icmp(), "no ICMP: {answer:02x?}");
    assert_eq!(
        (error.src.to_string().as_str(), error.dst),
        (from, about.src),
        "from the gateway to the sender: {answer:02x?}"
    );
    let message = &answer[error.payload..];
    assert_eq!((message[0], message[1]), said.kind, "type and code: {answer:02x?}");
    assert_eq!(message[4..8], said.rest, "what stands behind the checksum: {answer:02x?}");
    assert_eq!(message[8..], net.quoted(packet), "the quote is the packet as it came: {answer:02x?}");
    let pseudo =
        Ip { src: error.src, dst: error.dst, ..Ip::new(net.web, net.db) }.pseudo(ICMPV6, message.len());
    let pseudo = if net.is_v4() { 0 } else { pseudo };
    assert_eq!(sum(&[&pseudo.to_be_bytes(), message]), 0xffff, "checksum: {answer:02x?}");
    assert_eq!((error.ttl, error.fragment), (64, 0), "a fresh packet: {answer:02x?}");
}

/// What there is to know of an IP packet that was received.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Packet {
    pub(crate) src: IpAddr,
    pub(crate) dst: IpAddr,
    pub(crate) tos: u8,
    pub(crate) ttl: u8,
    /// IPv4: flags and offset as they stand in the header.
    pub(crate) fragment: u16,
    /// As the header says; in IPv6 the next header.
    pub(crate) protocol: u8,
    /// Where the header ends: behind the options of IPv4, before the extension headers of IPv6.
    pub(crate) payload: usize,
}

impl Packet {
    /// Of a packet that must be whole, with right lengths and header checksum.
    pub(crate) fn read(bytes: &[u8]) -> Self {
        let word = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        if bytes[0] >> 4 == 4 {
            let payload = usize::from(bytes[0] & 15) * 4;
            assert_eq!(usize::from(word(2)), bytes.len(), "the length: {bytes:02x?}");
            assert_eq!(sum(&[&bytes[..payload]]), 0xffff, "the header's checksum: {bytes:02x?}");
            let address =
                |at: usize| -> Ipv4Addr { <[u8; 4]>::try_from(&bytes[at..at + 4]).expect("4").into() };
            let (src, dst) = (address(12).into(), address(16).into());
            let fragment = word(6);
            Self { src, dst, tos: bytes[1], ttl: bytes[8], fragment, protocol: bytes[9], payload }
        } else {
            assert_eq!(usize::from(word(4)) + 40, bytes.len(), "the length: {bytes:02x?}");
            let address =
                |at: usize| -> Ipv6Addr { <[u8; 16]>::try_from(&bytes[at..at + 16]).expect("16").into() };
            let (src, dst) = (address(8).into(), address(24).into());
            let tos = (word(0) >> 4) as u8;
            Self { src, dst, tos, ttl: bytes[7], fragment: 0, protocol: bytes[6], payload: 40 }
        }
    }
}

/// The inner frame of a tunnel packet from a to b in network 1.
fn unwrapped(bytes: &[u8], dst: Mac, src: Mac) -> Option<Vec<u8>> {
    if bytes[..6] != dst || bytes[6..12] != src || bytes[12..14] != ETHERTYPE_IPV4.to_be_bytes() {
        return None;
    }
    let (ip, outer) = (&bytes[ETHERNET_LEN..], Packet::read(&bytes[ETHERNET_LEN..]));
    let nodes = ("172.16.0.1".parse().ok()?, "172.16.0.2".parse().ok()?);
    let udp = &ip[outer.payload..];
    if (outer.src, outer.dst) != nodes || outer.protocol != UDP || udp[2..4] != 8472u16.to_be_bytes() {
        return None;
    }
    assert_eq!(usize::from(u16::from_be_bytes([udp[4], udp[5]])), udp.len(), "UDP's length: {bytes:02x?}");
    assert_eq!(udp[8..16], vxlan(1), "the VXLAN header: {bytes:02x?}");
    Some(udp[16..].to_vec())
}
