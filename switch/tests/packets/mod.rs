//! Packets made byte by byte, and a reader that shares nothing with the switch: sums by the book, lengths and checksums once more by
//! smoltcp and etherparse.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]

use etherparse::SlicedPacket;
use smoltcp::wire::{Icmpv4Packet, Icmpv6Packet, IpAddress, Ipv4Packet, Ipv6Packet, TcpPacket, UdpPacket};
use weft_switch::offload::{Checksum, Gso, GsoKind, Offload};
use weft_switch::packet::{HeapBuf, PacketBuf};

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
/// Of no protocol that anybody looks into.
pub const OTHER: u8 = 253;

/// An IP packet in an Ethernet frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    pub dst_mac: [u8; 6],
    pub src_mac: [u8; 6],
    /// 4 or 16 bytes.
    pub src: Vec<u8>,
    pub dst: Vec<u8>,
    pub protocol: u8,
    pub ttl: u8,
    pub tos: u8,
    pub ident: u16,
    /// IPv4's flags and offset.
    pub fragment: u16,
    pub ports: (u16, u16),
    pub seq: u32,
    pub ack: u32,
    pub flags: u8,
    pub window: u16,
    /// Of TCP; whole words.
    pub options: Vec<u8>,
    pub payload: Vec<u8>,
}

/// Bytes that tell by themselves where they belong.
pub fn pattern(from: usize, len: usize) -> Vec<u8> {
    (from..from + len).map(|at| (at * 31 + at / 251) as u8).collect()
}

/// RFC 1071, word by word.
pub fn book(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u32;
    for word in parts.concat().chunks(2) {
        sum += u32::from(word[0]) << 8 | u32::from(word.get(1).copied().unwrap_or(0));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

pub fn pseudo(src: &[u8], dst: &[u8], protocol: u8, len: usize) -> u16 {
    book(&[src, dst, &[0, protocol], &(len as u16).to_be_bytes()])
}

impl Packet {
    pub fn new(protocol: u8, src: &str, dst: &str, payload: usize) -> Self {
        let bytes = |text: &str| match text.parse().expect("an address") {
            std::net::IpAddr::V4(v4) => v4.octets().to_vec(),
            std::net::IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        Self {
            dst_mac: [2, 0, 0, 0, 0, 2],
            src_mac: [2, 0, 0, 0, 0, 1],
            src: bytes(src),
            dst: bytes(dst),
            protocol,
            ttl: 64,
            tos: 0,
            ident: 0xfff0,
            fragment: 0x4000,
            ports: (40_000, 5201),
            seq: 0xffff_f000,
            ack: 77,
            flags: 0x10,
            window: 500,
            options: vec![1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2],
            payload: pattern(0, payload),
        }
    }

    pub fn v6(&self) -> bool {
        self.src.len() == 16
    }

    /// The packet that follows in the stream, with `payload` bytes.
    pub fn next(&self, payload: usize) -> Self {
        let done = self.payload.len();
        let from = self.seq.wrapping_sub(0xffff_f000) as usize + done;
        Self {
            seq: self.seq.wrapping_add(done as u32),
            ident: self.ident.wrapping_add(1),
            payload: pattern(from, payload),
            ..self.clone()
        }
    }

    /// Where the transport header begins.
    pub fn l4(&self) -> usize {
        if self.v6() { 54 } else { 34 }
    }

    /// Where the checksum is behind that.
    pub fn field(&self) -> Option<usize> {
        match self.protocol {
            TCP => Some(16),
            UDP => Some(6),
            1 | 58 => Some(2),
            _ => None,
        }
    }

    fn transport(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let (from, to) = self.ports;
        match self.protocol {
            TCP => {
                bytes.extend([from.to_be_bytes(), to.to_be_bytes()].concat());
                bytes.extend([self.seq.to_be_bytes(), self.ack.to_be_bytes()].concat());
                bytes.extend([(20 + self.options.len() as u8) << 2, self.flags]);
                bytes.extend([self.window.to_be_bytes(), [0, 0], [0, 0]].concat());
                bytes.extend(&self.options);
            }
            UDP => {
                bytes.extend([from.to_be_bytes(), to.to_be_bytes()].concat());
                bytes.extend([(8 + self.payload.len() as u16).to_be_bytes(), [0, 0]].concat());
            }
            1 => bytes.extend([8, 0, 0, 0, 0, 1, 0, 1]),
            58 => bytes.extend([128, 0, 0, 0, 0, 1, 0, 1]),
            _ => {}
        }
        bytes.extend(&self.payload);
        bytes
    }

    fn is_fragment(&self) -> bool {
        self.fragment & 0x3fff != 0
    }

    /// The frame, its checksums filled in; of a fragment the transport header is only bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let (mut bytes, sum) = self.unsummed();
        let Some(field) = self.field().filter(|_| !self.is_fragment()) else { return bytes };
        let l4 = self.l4();
        let initial = if self.protocol == 1 { 0 } else { sum };
        let total = book(&[&initial.to_be_bytes(), &bytes[l4..]]);
        let checksum = if self.protocol == UDP && total == 0xffff { 0xffff } else { !total };
        bytes[l4 + field..l4 + field + 2].copy_from_slice(&checksum.to_be_bytes());
        bytes
    }

    /// The frame with 0 for its transport checksum, and the pseudo-header's sum.
    fn unsummed(&self) -> (Vec<u8>, u16) {
        let transport = self.transport();
        let mut bytes = [self.dst_mac, self.src_mac].concat();
        if self.v6() {
            let fragment = self.is_fragment();
            let len = transport.len() + if fragment { 8 } else { 0 };
            bytes.extend([0x86, 0xdd, 0x60 | self.tos >> 4, self.tos << 4, 0, 0]);
            bytes.extend((len as u16).to_be_bytes());
            bytes.extend([if fragment { 44 } else { self.protocol }, self.ttl]);
            bytes.extend([&self.src[..], &self.dst].concat());
            if fragment {
                let place = (self.fragment & 0x1fff) << 3 | self.fragment >> 13 & 1;
                bytes.extend([self.protocol, 0]);
                bytes.extend([&place.to_be_bytes()[..], &[0, 0, 0, 9]].concat());
            }
        } else {
            bytes.extend([8, 0, 0x45, self.tos]);
            bytes.extend(((20 + transport.len()) as u16).to_be_bytes());
            bytes.extend([self.ident.to_be_bytes(), self.fragment.to_be_bytes()].concat());
            bytes.extend([self.ttl, self.protocol, 0, 0]);
            bytes.extend([&self.src[..], &self.dst].concat());
            let checksum = !book(&[&bytes[14..34]]);
            bytes[24..26].copy_from_slice(&checksum.to_be_bytes());
        }
        let sum = pseudo(&self.src, &self.dst, self.protocol, transport.len());
        bytes.extend(transport);
        (bytes, sum)
    }

    pub fn complete(&self) -> HeapBuf {
        HeapBuf::from_bytes(&self.bytes())
    }

    pub fn verified(&self) -> HeapBuf {
        let mut frame = self.complete();
        frame.set_offload(Offload { checksum: Checksum::Verified, gso: None });
        frame
    }

    /// As a sender's stack leaves it whose interface fills the checksum in.
    pub fn partial(&self) -> HeapBuf {
        let (mut bytes, sum) = self.unsummed();
        let (l4, Some(field)) = (self.l4(), self.field()) else { return self.complete() };
        let sum = if self.protocol == 1 { 0 } else { sum };
        bytes[l4 + field..l4 + field + 2].copy_from_slice(&sum.to_be_bytes());
        let mut frame = HeapBuf::from_bytes(&bytes);
        let checksum = Checksum::Partial { start: l4 as u16, offset: field as u16 };
        frame.set_offload(Offload { checksum, gso: None });
        frame
    }

    pub fn kind(&self) -> GsoKind {
        match (self.protocol, self.v6()) {
            (UDP, _) => GsoKind::Udp,
            (_, false) => GsoKind::Tcp4,
            (_, true) => GsoKind::Tcp6,
        }
    }

    /// To be cut into packets with `size` bytes of payload.
    pub fn gso(&self, size: u16) -> HeapBuf {
        let mut frame = self.partial();
        let Offload { checksum, .. } = frame.offload();
        frame.set_offload(Offload { checksum, gso: Some(Gso { kind: self.kind(), size, ecn: false }) });
        frame
    }
}

/// A frame as the reader sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub packet: Packet,
    /// Payload bytes of the packets that it is to be cut into.
    pub size: Option<u16>,
    /// The transport checksum is left to the receiver.
    pub partial: bool,
}

/// Reads a frame of which `state` is said. Fails when a length or a checksum in it is wrong, or the state is not one that a
/// receiver could finish it by.
pub fn read(bytes: &[u8], state: Offload) -> Seen {
    let word = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    let long = |at: usize| u32::from(word(at)) << 16 | u32::from(word(at + 2));
    let v6 = match word(12) {
        0x0800 => false,
        0x86dd => true,
        other => panic!("EtherType {other:04x}"),
    };
    let (l3, mut l4) = (14, if v6 { 54 } else { 34 });
    let (mut protocol, mut fragment, tos, ttl, ident) = if v6 {
        let ip = Ipv6Packet::new_checked(&bytes[l3..]).expect("smoltcp reads the header");
        assert_eq!(usize::from(ip.payload_len()) + 40, bytes.len() - l3, "the IPv6 length");
        (bytes[20], 0, bytes[14] << 4 | bytes[15] >> 4, bytes[21], 0)
    } else {
        let ip = Ipv4Packet::new_checked(&bytes[l3..]).expect("smoltcp reads the header");
        assert!(ip.verify_checksum(), "the IPv4 header's checksum");
        assert_eq!(usize::from(ip.total_len()), bytes.len() - l3, "the IPv4 length");
        (bytes[23], word(20), bytes[15], bytes[22], word(18))
    };
    let (src, dst) = if v6 { (&bytes[22..38], &bytes[38..54]) } else { (&bytes[26..30], &bytes[30..34]) };
    if v6 && protocol == 44 {
        fragment = word(56) >> 3 | (word(56) & 1) << 13;
        (protocol, l4) = (bytes[54], 62);
    }
    let address = |bytes: &[u8]| -> IpAddress {
        match <[u8; 4]>::try_from(bytes) {
            Ok(v4) => std::net::Ipv4Addr::from(v4).into(),
            Err(_) => std::net::Ipv6Addr::from(<[u8; 16]>::try_from(bytes).expect("16 bytes")).into(),
        }
    };
    let (from, to) = (address(src), address(dst));
    let mut packet = Packet {
        dst_mac: bytes[..6].try_into().expect("6"),
        src_mac: bytes[6..12].try_into().expect("6"),
        src: src.to_vec(),
        dst: dst.to_vec(),
        protocol,
        ttl,
        tos,
        ident,
        fragment,
        ports: (0, 0),
        seq: 0,
        ack: 0,
        flags: 0,
        window: 0,
        options: Vec::new(),
        payload: bytes[l4..].to_vec(),
    };
    if packet.is_fragment() {
        assert_eq!(state.gso, None);
        return Seen { packet, size: None, partial: false };
    }
    let l4_bytes = &bytes[l4..];
    if matches!(protocol, 1 | 58) {
        // Without the checksum, which may be left to the receiver.
        packet.payload = [&l4_bytes[..2], &l4_bytes[4..]].concat();
    }
    let mut right = true;
    match protocol {
        TCP => {
            let tcp = TcpPacket::new_checked(l4_bytes).expect("smoltcp reads it");
            packet.ports = (tcp.src_port(), tcp.dst_port());
            (packet.seq, packet.ack) = (long(l4 + 4), long(l4 + 8));
            (packet.flags, packet.window) = (bytes[l4 + 13], tcp.window_len());
            packet.options = tcp.options().to_vec();
            packet.payload = l4_bytes[usize::from(tcp.header_len())..].to_vec();
            right = tcp.verify_checksum(&from, &to);
        }
        UDP => {
            let udp = UdpPacket::new_checked(l4_bytes).expect("smoltcp reads it");
            packet.ports = (udp.src_port(), udp.dst_port());
            assert_eq!(usize::from(udp.len()), l4_bytes.len(), "the UDP length");
            packet.payload = l4_bytes[8..].to_vec();
            right = udp.verify_checksum(&from, &to) && udp.checksum() != 0;
        }
        1 => right = Icmpv4Packet::new_checked(l4_bytes).expect("ICMP").verify_checksum(),
        58 => {
            let addresses = (src, dst).map_v6();
            right = Icmpv6Packet::new_checked(l4_bytes)
                .expect("ICMPv6")
                .verify_checksum(&addresses.0, &addresses.1);
        }
        _ => {}
    }
    let partial = match state.checksum {
        Checksum::Partial { start, offset } => {
            let field = packet.field().expect("a checksum");
            assert_eq!((usize::from(start), usize::from(offset)), (l4, field), "the place of the checksum");
            let expected = if protocol == 1 { 0 } else { pseudo(src, dst, protocol, l4_bytes.len()) };
            assert_eq!(word(l4 + field), expected, "the pseudo-header's sum");
            true
        }
        Checksum::Verified | Checksum::Unverified => {
            assert!(right, "the transport checksum");
            SlicedPacket::from_ethernet(bytes).expect("etherparse reads it");
            false
        }
    };
    if let Some(gso) = state.gso {
        assert!(partial, "a frame to be cut leaves its checksum to who cuts it");
        assert_eq!(gso.kind, packet.kind());
        assert!(packet.payload.len() > gso.size.into(), "nothing to be cut");
    }
    Seen { packet, size: state.gso.map(|gso| gso.size), partial }
}

trait MapV6 {
    fn map_v6(self) -> (std::net::Ipv6Addr, std::net::Ipv6Addr);
}

impl MapV6 for (&[u8], &[u8]) {
    fn map_v6(self) -> (std::net::Ipv6Addr, std::net::Ipv6Addr) {
        let address = |bytes: &[u8]| <[u8; 16]>::try_from(bytes).expect("16 bytes").into();
        (address(self.0), address(self.1))
    }
}

impl Seen {
    /// The packets that it stands for, cut as a NIC does it.
    pub fn cut(&self) -> Vec<Packet> {
        let packet = &self.packet;
        let size = self.size.map_or(packet.payload.len().max(1), usize::from);
        let count = packet.payload.len().div_ceil(size).max(1);
        let piece = |index: usize| {
            let (from, to) = (index * size, packet.payload.len().min((index + 1) * size));
            let last = index + 1 == count;
            Packet {
                seq: if packet.protocol == TCP { packet.seq.wrapping_add(from as u32) } else { packet.seq },
                ident: if packet.v6() { 0 } else { packet.ident.wrapping_add(index as u16) },
                flags: if last { packet.flags } else { packet.flags & !0x09 },
                payload: packet.payload[from..to].to_vec(),
                ..packet.clone()
            }
        };
        (0..count).map(piece).collect()
    }
}
