//! Two nodes with a pod each, weft's and the kernel's, and a raw wire at every place: both pods and both ends of the underlay.
//! The pods' own kernels are mute, and all neighbours are known beforehand, so that nothing is sent but by the test.

use std::net::IpAddr;

use crate::lab::frames::{Checksum, Ip, Mac, Tunnel, UDP, ethernet, mac, udp, vxlan};
use crate::lab::{Frame, Lab, Namespace, VTEP_MACS, Weftd, Wire, nodes, tap_pod};

/// Which way: to a's pod, which is weft's, or to b's, which is the kernel's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum To {
    Weft,
    Kernel,
}

pub(crate) const BOTH_WAYS: [To; 2] = [To::Weft, To::Kernel];

/// The family of the pods' packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Inside {
    V4,
    V6,
}

pub(crate) const BOTH_FAMILIES: [Inside; 2] = [Inside::V4, Inside::V6];

/// The MAC address that weft has as gateway of a's pods.
pub(crate) const GATEWAY: Mac = [0x0a, 0x58, 0x0a, 0xf4, 0x00, 0x01];

/// What differs from flannel's defaults.
pub(crate) struct Setup {
    pub(crate) vni: u32,
    pub(crate) port: u16,
    /// Further settings of weftd's uplink.
    pub(crate) uplink: &'static str,
    /// Further words for the kernel's VXLAN device.
    pub(crate) device: &'static str,
    /// The tunnel runs over IPv6.
    pub(crate) over_v6: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self { vni: 1, port: 8472, uplink: "", device: "", over_v6: false }
    }
}

impl Setup {
    /// The nodes in the cluster file.
    pub(crate) fn nodes(&self) -> String {
        let network = format!("[network]\nvni = {}\nport = {}\n", self.vni, self.port);
        let text = nodes(&[0, 1]).replace("[network]\n", &network);
        if !self.over_v6 {
            return text;
        }
        // IPv6 pods take the IPv6 underlay, IPv4 pods stay on the other.
        (1..=2).fold(text, |text, host| {
            let v4 = format!("public_ip = \"172.16.0.{host}\"\n");
            text.replace(&v4, &format!("{v4}public_ipv6 = \"fd00:172:16::{host}\"\n"))
        })
    }

    /// The kernel's device with routes to a, as flannel makes it.
    fn kernel_vtep(&self, b: &Namespace) {
        let (device, local, remote) = match self.over_v6 {
            false => ("flannel.1", "172.16.0.2", "172.16.0.1"),
            true => ("flannel-v6.1", "fd00:172:16::2", "fd00:172:16::1"),
        };
        let ([near, own], Self { vni, port, device: words, .. }) = (VTEP_MACS, self);
        b.ip_batch(&[
            &format!(
                "link add {device} address {own} mtu 1430 type vxlan id {vni} local {local} dev up0 dstport {port} nolearning {words}"
            ),
            &format!("link set {device} up"),
            &format!("neigh add 10.244.0.0 lladdr {near} dev {device} nud permanent"),
            &format!("neigh add fd00:10:244:: lladdr {near} dev {device} nud permanent"),
            &format!("route add 10.244.0.0/24 via 10.244.0.0 dev {device} onlink"),
            &format!("route add fd00:10:244::/64 via fd00:10:244:: dev {device} onlink"),
        ]);
        b.must(&format!("bridge fdb append {near} dev {device} dst {remote} self permanent"));
    }
}

pub(crate) struct Pair {
    /// The pods.
    pub(crate) web: Wire,
    pub(crate) far: Wire,
    /// The ends of the underlay: a's gets what b has sent, and sends as if it were a.
    pub(crate) a: Wire,
    pub(crate) b: Wire,
    /// The gateway of b's pod.
    bridge: Mac,
    setup: Setup,
    // The daemon goes before its lab.
    pub(crate) weftd: Weftd,
    pub(crate) lab: Lab,
    pub(crate) pods: [Namespace; 2],
}

impl Pair {
    pub(crate) fn new() -> Self {
        Self::with(Setup::default())
    }

    pub(crate) fn with(setup: Setup) -> Self {
        let lab = Lab::quiet();
        lab.configure("", setup.uplink, "");
        Self::on(lab, setup)
    }

    /// On a lab of which the test has made something of its own.
    pub(crate) fn on(lab: Lab, setup: Setup) -> Self {
        let (near, far, b) = (Namespace::mute("web"), Namespace::mute("far"), &lab.peer);
        b.must("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
        setup.kernel_vtep(b);
        b.ip_batch(&[
            "link add cni0 type bridge forward_delay 0",
            "addr add 10.244.1.1/24 dev cni0",
            "addr add fd00:10:244:1::1/64 dev cni0 nodad",
            "link set cni0 up",
            &format!("link add pod type veth peer name eth0 netns {}", far.name()),
            "link set pod master cni0 up",
        ]);
        far.ip("link set eth0 up");

        lab.replace_cluster(&(setup.nodes() + &tap_pod("web", 2, &near)));
        let weftd = lab.start();
        lab.peer_resolved();
        let (web, far_wire) = (Wire::open(&near, "eth0"), Wire::open(&far, "eth0"));
        let far_mac = far_wire.mac.map(|byte| format!("{byte:02x}")).join(":");
        b.ip_batch(&[
            &format!("neigh add 10.244.1.2 lladdr {far_mac} dev cni0 nud permanent"),
            &format!("neigh add fd00:10:244:1::2 lladdr {far_mac} dev cni0 nud permanent"),
        ]);
        let bridge = Wire::open(b, "cni0").mac;
        let (a, b) = (Wire::open(&lab.node, "up0"), Wire::open(b, "up0"));
        Self { web, far: far_wire, a, b, bridge, setup, weftd, lab, pods: [near, far] }
    }

    /// A packet as the pod makes it.
    pub(crate) fn packet(&self, to: To, inside: Inside) -> Ip {
        let [near, far] = match inside {
            Inside::V4 => ["10.244.0.2", "10.244.1.2"],
            Inside::V6 => ["fd00:10:244::2", "fd00:10:244:1::2"],
        };
        match to {
            To::Weft => Ip::new(far, near),
            To::Kernel => Ip::new(near, far),
        }
    }

    /// The outer headers from one VTEP to the other, without UDP checksum over IPv4.
    pub(crate) fn tunnel(&self, to: To) -> Tunnel {
        let (checksum, [a, b]) = match self.setup.over_v6 {
            false => (Checksum::Absent, ["172.16.0.1", "172.16.0.2"]),
            true => (Checksum::Valid, ["fd00:172:16::1", "fd00:172:16::2"]),
        };
        let (dst, src, ip) = match to {
            To::Weft => (self.a.mac, self.b.mac, Ip::new(b, a)),
            To::Kernel => (self.b.mac, self.a.mac, Ip::new(a, b)),
        };
        Tunnel { dst, src, ip, ports: (40_000, self.setup.port), checksum, vxlan: vxlan(self.setup.vni) }
    }

    /// The inner frame of a packet.
    pub(crate) fn inner(&self, to: To, ip: &Ip, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let [a, b] = VTEP_MACS.map(mac);
        match to {
            To::Weft => ip.frame(a, b, protocol, payload),
            To::Kernel => ip.frame(b, a, protocol, payload),
        }
    }

    /// The pod at this end sends a packet by way of its gateway.
    pub(crate) fn pod_sends(&mut self, to: To, ip: &Ip, protocol: u8, payload: &[u8]) {
        match to {
            To::Weft => self.far.send(&ip.frame(self.bridge, self.far.mac, protocol, payload)),
            To::Kernel => self.web.send(&ip.frame(GATEWAY, self.web.mac, protocol, payload)),
        }
    }

    /// A tunnel packet, or whatever it is, is sent to this node over the underlay.
    pub(crate) fn underlay_sends(&mut self, to: To, frame: &[u8]) {
        match to {
            To::Weft => self.b.send(frame),
            To::Kernel => self.a.send(frame),
        }
    }

    /// Waits for the next tunnel packet to this node.
    pub(crate) fn captured(&mut self, to: To) -> Frame {
        let port = self.setup.port.to_be_bytes();
        let udp_at = if self.setup.over_v6 { 54 } else { 34 };
        let wire = if to == To::Weft { &mut self.a } else { &mut self.b };
        wire.receive("tunnel packet", |frame| {
            (frame.bytes.get(udp_at + 2..udp_at + 4) == Some(&port)).then(|| frame.clone())
        })
    }

    /// The pod's wire at this end.
    pub(crate) fn pod(&mut self, to: To) -> &mut Wire {
        if to == To::Weft { &mut self.web } else { &mut self.far }
    }

    /// What the pod is to get for an inner packet: the router's frame, one hop further.
    pub(crate) fn delivered(&self, to: To, ip: &Ip, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let ip = Ip { ttl: ip.ttl - 1, ..ip.clone() };
        match to {
            To::Weft => ip.frame(self.web.mac, GATEWAY, protocol, payload),
            To::Kernel => ip.frame(self.far.mac, self.bridge, protocol, payload),
        }
    }

    /// The pod at one end sends a packet to that of the other. Every byte of it on the wire is looked at, and every byte
    /// where it arrives, a hop further at each of the two VTEPs. Returns the outer headers that it had.
    pub(crate) fn travels(
        &mut self,
        to: To,
        ip: &Ip,
        protocol: u8,
        payload: &[u8],
        checksum: Checksum,
    ) -> Tunnel {
        self.pod_sends(to, ip, protocol, payload);
        let frame = self.captured(to).finished();
        let one_hop = Ip { ttl: ip.ttl - 1, ..ip.clone() };
        let inner = self.inner(to, &one_hop, protocol, payload);
        let mut tunnel = as_chosen(&Tunnel { checksum, ..self.tunnel(to) }, &frame);
        // RFC 3168, section 9.1.1: what the sender of the outer packet says of congestion begins anew.
        tunnel.ip.tos = if ip.tos & 3 == 3 { 2 } else { ip.tos & 3 };
        assert_bytes("on the wire", &frame, &tunnel.with(&inner));
        let arrived = self.delivered(to, &one_hop, protocol, payload);
        self.pod(to).receive_bytes("packet out of the tunnel", &arrived);
        tunnel
    }

    /// A tunnel packet with this inner packet is sent to the node, and its pod gets that packet byte by byte.
    pub(crate) fn assert_taken(&mut self, to: To, tunnel: &Tunnel, ip: &Ip, payload: &[u8]) {
        let segment = udp(ip, (1000, 2000), Checksum::Valid, payload);
        let frame = tunnel.with(&self.inner(to, ip, UDP, &segment));
        self.underlay_sends(to, &frame);
        let expected = self.delivered(to, ip, UDP, &segment);
        self.pod(to).receive_bytes("decapsulated packet", &expected);
    }

    /// A frame is sent to the node over the underlay, and its pod gets nothing of it.
    pub(crate) fn assert_not_taken(&mut self, to: To, frame: &[u8]) {
        self.underlay_sends(to, frame);
        let inside = if self.setup.over_v6 { Inside::V6 } else { Inside::V4 };
        let (tunnel, ip) = (self.tunnel(to), self.packet(to, inside));
        let marker = udp(&ip, (1, 1), Checksum::Valid, b"marker");
        let inner = self.inner(to, &ip, UDP, &marker);
        self.underlay_sends(to, &tunnel.with(&inner));
        let marker = self.delivered(to, &ip, UDP, &marker);
        self.pod(to).none_before(|frame| frame.bytes == marker, |_| true);
    }
}

/// The outer headers of `expected` with what a sender is free to choose: the identification and the source port of `frame`.
pub(crate) fn as_chosen(expected: &Tunnel, frame: &[u8]) -> Tunnel {
    let mut tunnel = expected.clone();
    let word = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
    let udp_at = match tunnel.ip.src {
        IpAddr::V4(_) => {
            tunnel.ip.ident = word(18);
            34
        }
        IpAddr::V6(_) => 54,
    };
    tunnel.ports.0 = word(udp_at);
    tunnel
}

/// Fails with both frames in hexadecimal.
pub(crate) fn assert_bytes(what: &str, frame: &[u8], expected: &[u8]) {
    assert!(frame == expected, "{what}:\n got {frame:02x?}\nwant {expected:02x?}");
}

/// A frame of another ethertype between the VTEPs.
pub(crate) fn between_vteps(to: To, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let [a, b] = VTEP_MACS.map(mac);
    match to {
        To::Weft => ethernet(a, b, ethertype, payload),
        To::Kernel => ethernet(b, a, ethertype, payload),
    }
}
