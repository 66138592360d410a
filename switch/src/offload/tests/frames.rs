//! Frames to cut, and the oracle that looks at what came out.

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use smoltcp::wire::{IpAddress, Ipv4Packet, TcpPacket, UdpPacket};

use crate::offload::{Checksum, Gso, GsoKind, Offload};
use crate::packet::{HeapBuf, PacketBuf};

pub(crate) const MACS: [u8; 12] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
pub(crate) const SOURCE4: [u8; 4] = [10, 244, 1, 2];
pub(crate) const TARGET4: [u8; 4] = [10, 244, 2, 3];

/// Every kind of frame to be cut, and whether it is IPv6.
pub(crate) const KINDS: [(GsoKind, bool); 4] =
    [(GsoKind::Tcp4, false), (GsoKind::Tcp6, true), (GsoKind::Udp, false), (GsoKind::Udp, true)];

/// What a frame is made of.
#[derive(Debug, Clone)]
pub(crate) struct Recipe {
    pub(crate) kind: GsoKind,
    pub(crate) v6: bool,
    pub(crate) vlan: bool,
    /// IPv4 options or IPv6 destination options: units of 4 (at most 10) or 8 bytes.
    pub(crate) extra: usize,
    /// TCP options in units of 4 bytes, at most 10.
    pub(crate) tcp_options: usize,
    pub(crate) payload: usize,
    pub(crate) flags: u8,
    pub(crate) size: u16,
    /// Lengths of the chain's first segments.
    pub(crate) split: Vec<usize>,
}

pub(crate) const IDENT: u16 = 0xfffe;
pub(crate) const SEQ: u32 = 0xffff_ff00;

impl Recipe {
    pub(crate) fn new(kind: GsoKind, v6: bool, payload: usize, size: u16) -> Self {
        Self {
            kind,
            v6,
            vlan: false,
            extra: 0,
            tcp_options: 3,
            payload,
            flags: 0x18,
            size,
            split: Vec::new(),
        }
    }

    pub(crate) fn payload(&self) -> Vec<u8> {
        (0..self.payload).map(|index| (index * 31 + index / 251) as u8).collect()
    }

    fn transport(&self) -> Vec<u8> {
        let mut bytes = vec![0x9c, 0x40, 0x14, 0x51];
        if self.kind == GsoKind::Udp {
            bytes.extend(((8 + self.payload) as u16).to_be_bytes());
            bytes.extend([0, 0]);
        } else {
            bytes.extend(SEQ.to_be_bytes());
            bytes.extend(7u32.to_be_bytes());
            bytes.extend([(5 + self.tcp_options as u8) << 4, self.flags, 0x10, 0, 0, 0, 0, 0]);
            bytes.extend([1].repeat(self.tcp_options * 4));
        }
        bytes.extend(self.payload());
        bytes
    }

    /// The frame without its state, and where the transport header is.
    pub(crate) fn bytes(&self) -> (Vec<u8>, usize) {
        let mut bytes = MACS.to_vec();
        if self.vlan {
            bytes.extend([0x81, 0, 0, 5]);
        }
        bytes.extend(if self.v6 { [0x86, 0xdd] } else { [8, 0] });
        let transport = self.transport();
        let protocol = if self.kind == GsoKind::Udp { 17 } else { 6 };
        let pseudo = if self.v6 {
            let length = (self.extra * 8 + transport.len()) as u16;
            bytes.extend([0x60, 0, 0, 0]);
            bytes.extend(length.to_be_bytes());
            bytes.extend([if self.extra > 0 { 60 } else { protocol }, 64]);
            let at = bytes.len();
            bytes.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2]);
            bytes.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 3]);
            let pseudo = bytes[at..].to_vec();
            if self.extra > 0 {
                let padding = self.extra * 8 - 4;
                bytes.extend([protocol, self.extra as u8 - 1, 1, padding as u8]);
                bytes.extend([0].repeat(padding));
            }
            pseudo
        } else {
            let header = 20 + self.extra * 4;
            bytes.extend([0x40 | (header / 4) as u8, 0]);
            bytes.extend(((header + transport.len()) as u16).to_be_bytes());
            bytes.extend(IDENT.to_be_bytes());
            bytes.extend([0x40, 0, 64, protocol, 0, 0]);
            bytes.extend(SOURCE4);
            bytes.extend(TARGET4);
            bytes.extend([1].repeat(self.extra * 4));
            let at = bytes.len() - header;
            let checksum = !folded(&bytes[at..], 0);
            bytes[at + 10..at + 12].copy_from_slice(&checksum.to_be_bytes());
            [SOURCE4, TARGET4].concat()
        };
        let l4 = bytes.len();
        bytes.extend(&transport);
        // The pseudo-header's sum, as the sender's stack leaves it in the field.
        let sum = folded(&pseudo, u32::from(protocol) + transport.len() as u32);
        let field = l4 + usize::from(self.field());
        bytes[field..field + 2].copy_from_slice(&sum.to_be_bytes());
        (bytes, l4)
    }

    pub(crate) fn field(&self) -> u16 {
        if self.kind == GsoKind::Udp { 6 } else { 16 }
    }

    pub(crate) fn state(&self) -> Offload {
        let start = self.bytes().1 as u16;
        Offload {
            checksum: Checksum::Partial { start, offset: self.field() },
            gso: Some(Gso { kind: self.kind, size: self.size, ecn: false }),
        }
    }

    pub(crate) fn frame(&self) -> HeapBuf {
        let (bytes, _) = self.bytes();
        let mut rest = bytes.as_slice();
        let mut segments = Vec::new();
        for cut in &self.split {
            let (segment, after) = rest.split_at((*cut).min(rest.len()));
            segments.push(segment);
            rest = after;
        }
        segments.push(rest);
        let mut frame = HeapBuf::from_segments(&segments);
        frame.set_offload(self.state());
        frame
    }
}

/// The sum of these words, of which there is no half, and of `sum`.
fn folded(words: &[u8], mut sum: u32) -> u16 {
    for word in words.chunks(2) {
        sum += u32::from(word[0]) << 8 | u32::from(word[1]);
    }
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// What the oracle sees in a finished frame.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) ident: Option<u16>,
    pub(crate) seq: Option<u32>,
    pub(crate) flags: u8,
    pub(crate) payload: Vec<u8>,
    /// Bytes before the payload.
    pub(crate) headers: usize,
}

/// Reads a finished frame. Fails when a length or a checksum in it is wrong.
pub(crate) fn look_at(frame: &impl PacketBuf) -> Seen {
    assert_eq!(frame.offload(), Offload::default());
    let mut bytes = vec![0; frame.len()];
    assert_eq!(frame.read_at(0, &mut bytes), bytes.len());
    let packet = SlicedPacket::from_ethernet(&bytes).expect("etherparse reads it");
    let (source, target, ident, ip_length, l3): (IpAddress, IpAddress, _, _, _) = match packet
        .net
        .expect("IP")
    {
        NetSlice::Ipv4(ip) => {
            let header = ip.header();
            assert_eq!(header.header_checksum(), header.to_header().calc_header_checksum());
            let view = Ipv4Packet::new_checked(header.slice()).ok();
            assert!(view.is_none_or(|view| view.verify_checksum()));
            let ident = Some(header.identification());
            let (source, target) = (header.source_addr(), header.destination_addr());
            (source.into(), target.into(), ident, usize::from(header.total_len()), header.slice().as_ptr())
        }
        NetSlice::Ipv6(ip) => {
            let header = ip.header();
            let (source, target) = (header.source_addr(), header.destination_addr());
            let length = usize::from(header.payload_length()) + 40;
            (source.into(), target.into(), None, length, header.slice().as_ptr())
        }
        NetSlice::Arp(_) => panic!("ARP"),
    };
    let l3 = l3 as usize - bytes.as_ptr() as usize;
    assert_eq!(l3 + ip_length, bytes.len(), "the IP length says how long the frame is");
    match packet.transport.expect("TCP or UDP") {
        TransportSlice::Tcp(tcp) => {
            let view = TcpPacket::new_checked(tcp.slice()).expect("smoltcp reads it");
            assert!(view.verify_checksum(&source, &target), "TCP checksum");
            let payload = tcp.payload().to_vec();
            let headers = bytes.len() - payload.len();
            Seen { ident, seq: Some(tcp.sequence_number()), flags: tcp.slice()[13], payload, headers }
        }
        TransportSlice::Udp(udp) => {
            assert_eq!(usize::from(udp.length()), udp.slice().len());
            let view = UdpPacket::new_checked(udp.slice()).expect("smoltcp reads it");
            assert!(view.verify_checksum(&source, &target), "UDP checksum");
            assert!(ident.is_some() || udp.checksum() != 0);
            let payload = udp.payload().to_vec();
            let headers = bytes.len() - payload.len();
            Seen { ident, seq: None, flags: 0, payload, headers }
        }
        other => panic!("{other:?}"),
    }
}
